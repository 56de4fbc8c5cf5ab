"""The proof bundle: keys, signing, verifying, showing (contract V5). `python -m harness bundle --help`.

A bundle is signed at the end of a run of the proofs (`make proofs SIGN_KEY=...`) or afterwards from what the run left
under reports/. Signing refuses to say more than the run has shown: the engine tree must be the one that was proven, and
each proven verdict must stand in the flight record too.

Keys are Ed25519. The private key is a PEM file of mode 0600 outside of any git checkout; it is read, used and
forgotten, and no command line, record or log ever has it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import stat
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from harness.base.clock import OsClock
from harness.base.errors import BundleError, HarnessError
from harness.bundle import installed, statement
from harness.bundle.statement import BundleStatement, LiveConfig, SignedRecord
from harness.evidence import recorder, results
from harness.evidence.lines import EndLine, RunLine, VerdictLine, WriteLine
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.evidence.verdict import ClauseId, Verdict
from harness.evidence.verify import record_of
from harness.machines.stage import Stage

ENGINE_UNIT = "hybrid-engine.service"

BUNDLE_NAME = "proof_bundle.json"
"""Below reports/."""

KEY_PREFIX = "ed25519:"
"""What a public key begins with in `[gate] trusted_keys`; the base64 of its 32 bytes follows."""

BYTES_MAX = 4 * 1024 * 1024
"""The gate reads no larger bundle."""


_Y_OF_SMALL_ORDER = {
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
}
"""Of the points that are public keys of nobody: for these, R and S of small order sign everything."""


@dataclass(frozen=True)
class LiveTarget:
    """What is to run LIVE: an installation, the files of its unit, and its configuration."""

    prefix: Path
    """Installation prefix of the engine, the virtual environment."""
    unit: Path
    config: Path
    drop_ins: Sequence[Path] = field(default_factory=tuple)
    """In the order in which systemd applies them: `systemctl show -p DropInPaths`."""
    environment_files: Sequence[Path] = field(default_factory=tuple)
    """In the order in which systemd reads them: `systemctl show -p EnvironmentFiles`."""

    @classmethod
    def staged(cls, checkout: Path, config: Path | None = None) -> LiveTarget:
        """Return what the proofs have staged: the unit file without any drop-in, and the example configuration."""
        stage = Stage(checkout)
        return cls(stage.prefix, stage.unit(ENGINE_UNIT), config or stage.etc / "config.toml")


# --- keys --------------------------------------------------------------------------------------------------


def keygen(path: Path) -> str:
    """Write a new private key, mode 0600, and beside it, with `.pub` at the end of its name, the public one as
    `[gate] trusted_keys` takes it, which is returned.

    Raises BundleError when one of them exists, one cannot be written, or it would lie in a git checkout.
    """
    _outside_checkouts(path)
    beside = path.with_name(f"{path.name}.pub")
    if os.path.lexists(beside):
        raise BundleError(f"{beside} exists, and a key is never overwritten: choose another name")
    signer = CryptoSigner.generate_ed25519()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise BundleError(f"{path} exists, and a key is never overwritten: choose another name") from error
    except OSError as error:
        raise BundleError(f"cannot write the key {path}: {error.strerror}") from error
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(signer.private_bytes)
    public = _shown(signer)
    write(beside, f"{public}\n".encode())
    return public


def _outside_checkouts(path: Path) -> None:
    place = path.parent.resolve()
    for parent in (place, *place.parents):
        if (parent / ".git").exists():
            raise BundleError(f"{path} lies in the git checkout {parent}, where keys get committed: keep it elsewhere")


def _signer(path: Path) -> CryptoSigner:
    """Return the signer of a private key file. Raises BundleError, and never shows what is in the file."""
    _outside_checkouts(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "; `python -m harness bundle keygen` makes one" if isinstance(error, FileNotFoundError) else ""
        raise BundleError(f"cannot read the key {path}: {error.strerror}{hint}") from error
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise BundleError(f"the key {path} is not a regular file")
        if mode & 0o077:
            raise BundleError(f"the key {path} has mode {mode & 0o777:04o}, others may read it: `chmod 600 {path}`")
        pem = file.read(65536)
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise BundleError(f"{path} is not an unencrypted private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path} is not an Ed25519 key")
    return CryptoSigner(key, _public(key.public_key()))


def check_key(path: Path) -> str:
    """Return the public key of a private key file. Raises BundleError unless it is one that may be used."""
    return _shown(_signer(path))


def _shown(signer: CryptoSigner) -> str:
    """Return the public key as `[gate] trusted_keys` takes it."""
    return KEY_PREFIX + base64.b64encode(bytes.fromhex(str(signer.public_key.keyval["public"]))).decode()


def _public(key: Ed25519PublicKey) -> SSlibKey:
    """With the key id that the gate demands: SHA-256 of the key's 32 bytes."""
    return SSlibKey.from_crypto(key, hashlib.sha256(key.public_bytes_raw()).hexdigest(), "ed25519")


def _trusted(text: str) -> SSlibKey:
    """Return a public key, or that in the file of this name."""
    if not text.startswith(KEY_PREFIX):
        try:
            with open(text, encoding="ascii", errors="replace") as file:
                text = file.readline(256).strip()
        except OSError as error:
            raise BundleError(f"{text} is neither {KEY_PREFIX} and base64 nor a file: {error.strerror}") from None
    try:
        raw = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
        if not text.startswith(KEY_PREFIX):
            raise ValueError
        public = _public(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError:
        wanted = f"{KEY_PREFIX} and the base64 of 32 bytes"
        raise BundleError(f"{text[:8]}... is not a public key: expected {wanted}") from None
    y = int.from_bytes(raw, "little") % 2**255
    if y >= 2**255 - 19 or y in _Y_OF_SMALL_ORDER:
        raise BundleError(f"{text} is a key for which anybody can sign: a point of small order, or a second encoding")
    return public


# --- what is signed ----------------------------------------------------------------------------------------


@dataclass
class _Record:
    """What a flight record has of a run."""

    identity: SignedRecord
    facts: dict[str, str]
    verdicts: dict[str, tuple[Verdict, list[ClauseId]]]
    """Proof -> verdict and claims."""
    drop_ins: dict[str, str]
    """Name -> text of what the proofs put on top of the unit; of several texts the last."""
    end: EndLine | None = None
    """None in a record that has not come to its end."""


def _read_record(path: Path) -> _Record:
    count, head = recorder.verify(path)
    identity = SignedRecord(run_id="", sha256=installed.sha256(path), lines=count, head=head)
    found = _Record(identity, {}, {}, {})
    for line in recorder.read(path):
        match line:
            case RunLine():
                found.facts = line.facts
                found.identity = identity.model_copy(update={"run_id": line.run})
            case VerdictLine():
                found.verdicts[line.proof] = (line.verdict, line.claims)
            case WriteLine(path=str(target), text=str(text)) if Path(target).parent.name == f"{ENGINE_UNIT}.d":
                found.drop_ins[Path(target).name] = text
            case EndLine():
                found.end = line
    return found


# --- sign and verify ---------------------------------------------------------------------------------------


def sign(shell: Shell, reports: Path, target: LiveTarget, key: Path) -> tuple[bytes, BundleStatement]:
    """Sign the bundle of the run whose verdicts and record are in `reports`, and the statement in it.

    Raises BundleError for a key that must not be used, for evidence that contradicts itself, and for a target whose
    engine, Python or packages are not those that were proven. It may have more packages: the adapter's.
    """
    signer = _signer(key)
    summary = results.read(reports)
    proved = summary.proved
    if proved is None or proved.runtime is None:
        raise BundleError(f"{reports / results.FILE} does not say which engine was proven; run `make proofs` again")
    if proved.engine_cmd:
        raise BundleError(f"the proofs judged another engine: {proved.engine_cmd}")
    engine = installed.engine_files(target.prefix)
    if statement.digest(engine) != proved.engine:
        raise BundleError(f"the engine in {target.prefix} is not the one that was proven: run `make proofs` again")
    runtime = installed.runtime(shell, target.prefix)
    if changed := statement.changed_since(runtime, proved.runtime):
        raise BundleError(
            f"{target.prefix} runs on other packages than were proven ({', '.join(changed)}): install what is staged, "
            "or run `make proofs` again"
        )
    config = installed.effective_config(shell, target.prefix, target.config)
    record = _read_record(record_of(reports, summary.run_id))
    if record.end is None:
        raise BundleError(f"the flight record of run {summary.run_id} has no end: run `make proofs` again")
    if (reason := results.contradiction(summary, record.verdicts, record.end)) is not None:
        raise BundleError(f"{reports / results.FILE}: {reason}")
    made = statement.build(
        ended=record.end.at,
        signed=OsClock().wall(),
        engine=engine,
        runtime=runtime,
        unit=installed.unit_files(target.unit, target.drop_ins, target.environment_files),
        config=config,
        summary=summary,
        record=record.identity.model_copy(update={"run_id": summary.run_id}),
        facts=record.facts,
        drop_ins=record.drop_ins,
    )
    return seal(statement.canonical(made.as_json()), signer), made


def seal(payload: bytes, signer: CryptoSigner) -> bytes:
    """Make a signed bundle, one line of canonical JSON, of a statement's canonical JSON."""
    envelope = Envelope(payload, statement.PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return statement.canonical(envelope.to_dict()) + b"\n"


def check(path: Path, reports: Path, trusted_keys: Sequence[str]) -> str:
    """Check a bundle, and the flight record that it is about where that lies below `reports`. Returns what was found to
    be right.

    Raises HarnessError when no key is given, and whatever verify() raises.
    """
    if not trusted_keys:
        raise HarnessError(f"{path}: whose signature to trust must be said: --trust ed25519:...")
    made = verify(path, trusted_keys)
    record = record_of(reports, made.predicate.record.run_id)
    if not record.exists():
        return f"{path}: signed by a trusted key, and consistent; its record {record} is not here"
    verify(path, trusted_keys, record)
    return f"{path}: signed by a trusted key, and consistent; {record} is the record it is about"


def verify(path: Path, trusted_keys: Sequence[str], record: Path | None = None) -> BundleStatement:
    """Read the statement of the bundle at `path`, which one of the keys has signed.

    trusted_keys: each `ed25519:` and base64, or a file that holds that. record: the flight record that it must be
    about. Raises BundleError for the first check that fails (file, envelope, signature, statement, record), and
    RecorderError for a record that is none. Age and this computer are for the gate to check.
    """
    envelope = _envelope(path)
    try:
        envelope.verify([_trusted(key) for key in trusted_keys], 1)
    except (VerificationError, ValueError) as error:
        raise BundleError(f"{path}: signature: by none of the {len(trusted_keys)} trusted keys, or changed") from error
    made = _statement(path, envelope)
    if record is not None:
        said = made.predicate.record
        if _read_record(record).identity.model_copy(update={"run_id": said.run_id}) != said:
            raise BundleError(f"{path}: record: it is about one of {said.lines} lines, {record} is another")
    return made


def read(path: Path) -> BundleStatement:
    """Read the statement of anybody's bundle; the signature is not checked. Raises BundleError as `verify` does."""
    return _statement(path, _envelope(path))


def _envelope(path: Path) -> Envelope:
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > BYTES_MAX:
        raise BundleError(f"{path}: envelope: larger than {BYTES_MAX} bytes")
    try:
        envelope = Envelope.from_dict(json.loads(raw))
        if envelope.payload_type != statement.PAYLOAD_TYPE:
            raise BundleError(f"{path}: envelope: the payload type must be {statement.PAYLOAD_TYPE}")
        # One form to the byte: what no signature covers cannot be changed either.
        written = statement.canonical(envelope.to_dict()) + b"\n"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: envelope: not a DSSE envelope: {str(error)[:120]}") from error
    if written != raw:
        raise BundleError(f"{path}: envelope: not in the form in which it was written")
    return envelope


def _statement(path: Path, envelope: Envelope) -> BundleStatement:
    try:
        made = BundleStatement.model_validate_json(envelope.payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: statement: not one of ours: {where}: {first['msg']}") from error
    wrong = statement.problem(made)
    if wrong or statement.canonical(made.as_json()) != envelope.payload:
        raise BundleError(f"{path}: statement: {wrong or 'not canonical JSON'}")
    return made


# --- command line ------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`keygen`, `sign`, `verify` and `show`."""
    parser.epilog = (
        "examples:\n"
        "  python -m harness bundle keygen ~/proof.key\n"
        "  python -m harness bundle sign --key ~/proof.key --config /etc/hybrid-engine/config.toml\n"
        "  python -m harness bundle verify reports/proof_bundle.json --trust ~/proof.key.pub\n"
        "  python -m harness bundle show reports/proof_bundle.json"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "keygen", help="make a signing key",
        description="Write a new private key, mode 0600, and print the public one for [gate] trusted_keys.",
        epilog="Example: python -m harness bundle keygen ~/proof.key",
    )  # fmt: skip
    command.add_argument("path", type=Path, metavar="FILE", help="where the private key goes; outside of any checkout")
    command.set_defaults(act=_keygen)

    command = commands.add_parser(
        "sign", help="sign what the last run of the proofs has shown",
        description="Sign the verdicts in reports/ together with the digests of engine, unit and configuration.",
        epilog="Example: python -m harness bundle sign --key ~/proof.key --config /etc/hybrid-engine/config.toml "
        "--drop-in /etc/systemd/system/hybrid-engine.service.d/override.conf",
    )  # fmt: skip
    command.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key")
    command.add_argument("--config", type=Path, metavar="FILE", help="the unit's configuration (default: the example)")
    command.add_argument("--unit", type=Path, metavar="FILE", help="the unit file (default: the staged one)")
    command.add_argument(
        "--drop-in", type=Path, action="append", default=[], metavar="FILE",
        help="a drop-in of the unit; repeatable, in the order of `systemctl show -p DropInPaths` (default: none)",
    )  # fmt: skip
    command.add_argument(
        "--environment-file", type=Path, action="append", default=[], metavar="FILE",
        help="an environment file of the unit; repeatable, in the order of `systemctl show -p EnvironmentFiles` "
        "(default: none)",
    )  # fmt: skip
    command.add_argument("--prefix", type=Path, metavar="DIR", help="installation of the engine (default: the stage)")
    command.add_argument("--reports", type=Path, default=Path("reports"), help="directory of the run")
    command.add_argument("--out", type=Path, metavar="FILE", help=f"default: {BUNDLE_NAME} in --reports")
    command.set_defaults(act=_sign)

    command = commands.add_parser(
        "verify", help="check a bundle's signature and form; exit status 0 or 1",
        description="Check signature, form and consistency. The engine's gate checks age, digests and guardrails too.",
        epilog="Example: python -m harness bundle verify reports/proof_bundle.json --trust ~/proof.key.pub",
    )  # fmt: skip
    command.add_argument("path", type=Path, metavar="BUNDLE")
    command.add_argument(
        "--trust", action="append", default=[], required=True, metavar="KEY", help="a public key, or its file"
    )
    command.add_argument("--record", type=Path, metavar="FILE", help="the flight record it must be about")
    command.set_defaults(act=_verify)

    command = commands.add_parser(
        "show", help="print what a bundle says, without checking its signature",
        description="Print what a bundle says. The signature is not checked: `bundle verify` does that.",
        epilog="Example: python -m harness bundle show reports/proof_bundle.json",
    )  # fmt: skip
    command.add_argument("path", type=Path, metavar="BUNDLE")
    command.add_argument("--json", action="store_true", help="the statement as it is")
    command.set_defaults(act=_show)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit status."""
    return int(options.act(options))


def write(path: Path, raw: bytes) -> None:
    """Put a file in place, whole or not at all. Raises BundleError when it cannot be written."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(raw)
        partial.replace(path)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}") from error


def verdict_on(made: BundleStatement, checkout: Path, key: Path | None = None) -> str:
    """Return one line: that the bundle has all, or why it opens nothing. key: the private key that signed it, if
    known."""
    try:
        objections = statement.objections(made, _clauses(checkout))
        trusted = LiveConfig.model_validate(made.predicate.config).gate.trusted_keys
    except ValidationError as error:
        raise BundleError(f"its configuration is none of the engine's: {error.errors()[0]['msg']}") from error
    if key is not None and check_key(key) not in trusted:
        objections.append(f"its configuration does not trust the key {key} ([gate] trusted_keys)")
    return f"opens nothing: {'; '.join(objections)}" if objections else "has all that a gate asks of the proofs"


def _clauses(checkout: Path) -> list[ClauseId]:
    path = checkout / "config" / "contract.toml"
    try:
        return list(map(ClauseId, tomllib.loads(path.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        raise HarnessError(f"cannot read the list of clauses {path}: {error}; run this in the checkout") from error


def _keygen(options: argparse.Namespace) -> int:
    public = keygen(options.path)
    print(public)
    print(
        f"private key: {options.path}; the line above, also in {options.path}.pub, belongs into [gate] trusted_keys",
        file=sys.stderr,
    )
    return 0


def _sign(options: argparse.Namespace) -> int:
    staged = LiveTarget.staged(Path.cwd(), options.config)
    target = LiveTarget(
        options.prefix or staged.prefix, options.unit or staged.unit, staged.config, options.drop_in,
        options.environment_file,
    )  # fmt: skip
    raw, made = sign(Shell(Unrecorded()), options.reports, target, options.key)
    out = options.out or options.reports / BUNDLE_NAME
    write(out, raw)
    print(f"{out}: {verdict_on(made, Path.cwd(), options.key)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    made = verify(options.path, options.trust, options.record)
    print(f"{options.path}: signed {made.predicate.signed} by a trusted key, and consistent")
    return 0


def _show(options: argparse.Namespace) -> int:
    made = read(options.path)
    if options.json:
        print(json.dumps(made.as_json(), indent=1, sort_keys=True, ensure_ascii=False))
        return 0
    predicate = made.predicate
    packages = predicate.runtime.packages
    lines = [
        ("proven", predicate.time),
        ("signed", f"{predicate.signed} (signature not checked; `bundle verify` does)"),
        *((subject.name, subject.digest.sha256) for subject in made.subject),
        ("python", predicate.runtime.python.version),
        ("packages", " ".join(f"{name}-{it.version}" for name, it in sorted(packages.items()))),
        ("added since", " ".join(predicate.proved_on.added_packages)),
        ("unit files", " ".join(name for name, _ in predicate.unit)),
        ("proven on", f"{predicate.proved_on.systemd}, {', '.join(predicate.platform.values())}"),
        ("drop-ins then", " ".join(sorted(predicate.proved_on.drop_ins)) or "none"),
        ("commit", " ".join(predicate.git.values()) or "unknown"),
        ("record", f"{predicate.record.sha256}, {predicate.record.lines} lines"),
        *(
            (word, " ".join(sorted(clause for clause, verdict in predicate.clauses.items() if verdict == word)))
            for word in ("proven", "unproven", "refuted")
        ),
        ("planned", " ".join(predicate.planned)),
        ("accepted", " ".join(predicate.accepted_unproven)),
    ]
    for name, text in lines:
        if text:
            print(f"{name:<14} {text}")
    print(verdict_on(made, Path.cwd()))
    return 0
