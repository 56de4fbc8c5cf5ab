"""Keys, signing and verifying: `python -m harness bundle` (V5), and what the gate makes of what it signs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.live import attestation
from harness.base.errors import BundleError, RecorderError
from harness.bundle import bundle, statement
from harness.evidence import recorder
from harness.evidence.verdict import ClauseId
from proofs.engine.test_ed25519 import SMALL_ORDER
from proofs.fixtures import true_bundle
from proofs.fixtures.bytecode import QUICK, environ
from proofs.fixtures.engine_process import ROOT
from proofs.fixtures.proven_run import ProvenRun
from proofs.fixtures.true_bundle import Signer, flipped

SIGNER, STRANGER = Signer(), Signer()
CONFIG = {"mode": "LIVE", "live_armed": True, "gate": {"trusted_keys": [SIGNER.public]}, "engine": {}}
MADE = true_bundle.made({"gate.py": "1" * 64}, [("hybrid-engine.service", "2" * 64)], CONFIG, 1_800_000_000)
TRUE = SIGNER.seal(MADE)


def command(*argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", "bundle", *map(str, argv)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("V5")
def test_keygen_makes_a_private_file_and_prints_the_public_key(tmp_path: Path) -> None:
    done = command("keygen", "proof.key", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    key = tmp_path / "proof.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(attestation.public_key(done.stdout.strip())) == 32
    assert (tmp_path / "proof.key.pub").read_text() == done.stdout
    pem = key.read_text()
    assert pem.splitlines()[1] not in done.stdout + done.stderr
    again = command("keygen", "proof.key", cwd=tmp_path)
    assert (again.returncode, key.read_text()) == (1, pem)
    assert "never overwritten" in again.stderr
    # Whoever keeps the private key elsewhere has its public one still.
    key.unlink()
    again = command("keygen", "proof.key", cwd=tmp_path)
    assert (again.returncode, key.exists(), (tmp_path / "proof.key.pub").read_text()) == (1, False, done.stdout)
    assert "proof.key.pub exists, and a key is never overwritten" in again.stderr


@pytest.mark.claim("V5")
def test_keys_stay_out_of_checkouts(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "deep").mkdir()
    (tmp_path / "shortcut").symlink_to(checkout / "deep")
    for place in (checkout, checkout / "deep", tmp_path / "shortcut"):
        with pytest.raises(BundleError, match="git checkout"):
            bundle.keygen(place / "proof.key")
    bundle.keygen(tmp_path / "proof.key")
    (tmp_path / "proof.key").rename(checkout / "proof.key")
    with pytest.raises(BundleError, match="git checkout"):
        bundle.check_key(checkout / "proof.key")
    # A worktree has a file of that name.
    worktree = tmp_path / "worktree"
    worktree.mkdir()
    (worktree / ".git").write_text("gitdir: elsewhere\n")
    with pytest.raises(BundleError, match="git checkout"):
        bundle.keygen(worktree / "proof.key")


def make_link(key: Path) -> None:
    key.rename(key.with_name("other.key"))
    key.symlink_to("other.key")


@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda key: key.chmod(0o640), "mode 0640"),
        (lambda key: key.chmod(0o604), "chmod 600"),
        (lambda key: key.unlink(), "keygen"),
        (make_link, "symbolic links"),
        (lambda key: key.write_text("hunter2"), "not an unencrypted private key"),
        (lambda key: (key.unlink(), os.mkfifo(key, 0o600)), "not a regular file"),
        (lambda key: key.write_bytes(RSA_KEY()), "not an Ed25519 key"),
    ],
    ids=["group", "others", "missing", "link", "garbage", "pipe", "rsa"],
)
def test_a_key_that_must_not_be_used(tmp_path: Path, spoil: Callable[[Path], object], says: str) -> None:
    key = tmp_path / "proof.key"
    bundle.keygen(key)
    bundle.check_key(key)
    spoil(key)
    with pytest.raises(BundleError, match=says) as error:
        bundle.check_key(key)
    assert "hunter2" not in str(error.value)


def RSA_KEY() -> bytes:
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner.generate_rsa(size=2048).private_bytes


# --- verify ------------------------------------------------------------------------------------------------


def verdict_of(raw: bytes, path: Path, *keys: str) -> str:
    """`verified`, or the check that failed first."""
    path.write_bytes(raw)
    try:
        bundle.verify(path, keys or (SIGNER.public,))
    except BundleError as error:
        return str(error).removeprefix(f"{path}: ").partition(":")[0]
    return "verified"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle") / "bundle.json"


@pytest.mark.claim("V5")
def test_verify(path: Path) -> None:
    assert verdict_of(TRUE, path) == "verified"
    assert verdict_of(TRUE, path, STRANGER.public, SIGNER.public) == "verified"
    assert verdict_of(TRUE, path, STRANGER.public) == "signature"
    assert verdict_of(STRANGER.seal(MADE), path) == "signature"
    assert verdict_of(SIGNER.seal(MADE, lambda made: made["predicate"]["engine"].clear()), path) == "statement"
    for raw in (b"", b"{}", b"[" * 100_000, TRUE.rstrip(), json.dumps(json.loads(TRUE), indent=1).encode()):
        assert verdict_of(raw, path) == "envelope"


@pytest.mark.claim("V5")
@given(position=st.integers(0, len(TRUE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_detected(path: Path, position: int, bit: int) -> None:
    assert verdict_of(flipped(TRUE, position, bit), path) != "verified"


@pytest.mark.claim("V5", "R8")
def test_verify_trusts_no_key_for_which_anybody_can_sign(path: Path) -> None:
    path.write_bytes(TRUE)
    for encoded, _ in SMALL_ORDER:
        with pytest.raises(BundleError, match="anybody can sign"):
            bundle.verify(path, [f"ed25519:{base64.b64encode(bytes.fromhex(encoded)).decode()}", SIGNER.public])


@pytest.mark.claim("V5")
def test_V5_verify_names_what_is_no_key(path: Path) -> None:
    path.write_bytes(TRUE)
    private = path.with_name("a.key")
    bundle.keygen(private)
    for key in (str(private), "ed25519:", "ed25519:****", f"ed25519:{base64.b64encode(b'x' * 31).decode()}"):
        with pytest.raises(BundleError, match="is not a public key") as error:
            bundle.verify(path, [key])
        assert private.read_text().splitlines()[1] not in str(error.value)
    with pytest.raises(BundleError, match="nor a file"):
        bundle.verify(path, ["no-such.pub"])


# --- sign --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> ProvenRun:
    return ProvenRun(tmp_path)


@pytest.mark.claim("V5")
def test_what_is_signed_is_what_the_run_left(run: ProvenRun) -> None:
    made = run.sign()
    path = run.reports / bundle.BUNDLE_NAME
    assert bundle.verify(path, [run.public], run.record).as_json() == made
    seen = attestation.verified(path.read_bytes(), [run.public]).predicate
    assert seen.record["lines"] == 4 + len(run.summary["verdicts"])
    predicate = made["predicate"]
    assert predicate["proved_on"]["drop_ins"] == {"10-proof.conf": "[Service]\nRestartSec=20ms\n"}
    assert predicate["platform"]["systemd"] == "systemd 252"
    assert predicate["config"]["risk_caps"]["max_exposure_usd"] == 10000.0
    assert bundle.verdict_on(bundle.read(path), ROOT, run.key).startswith("has all")
    *_, end = recorder.read(run.record)
    assert predicate["time"] == statement.show_time(end.at) <= predicate["signed"]
    with run.record.open("a") as record:
        record.write('{"type":"journal"}\n')
    with pytest.raises(RecorderError, match="does not end in its digest"):
        bundle.verify(path, [run.public], run.record)
    # A record that is whole, and another one.
    run.leave()
    with pytest.raises(BundleError, match=r"record: it is about one of \d+ lines"):
        bundle.verify(path, [run.public], run.record)


@pytest.mark.slow
@pytest.mark.claim("V5")
def test_a_bundle_whose_config_does_not_trust_its_key_is_told(run: ProvenRun) -> None:
    run.config.write_text('mode = "LIVE"\nlive_armed = true\n[engine]\ningest_mode = "REAL_WS"\n')
    run.sign()
    assert "does not trust the key" in bundle.verdict_on(bundle.read(run.reports / bundle.BUNDLE_NAME), ROOT, run.key)


@pytest.mark.slow
@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: run.summary["proved"].update(engine="0" * 64), "is not the one that was proven"),
        (lambda run: run.summary["proved"].update(engine_cmd="/usr/bin/other"), "another engine: /usr/bin/other"),
        (lambda run: run.summary.pop("proved"), "run `make proofs` again"),
        (lambda run: run.summary["proved"].pop("runtime"), "run `make proofs` again"),
        (lambda run: run.summary["proved"]["runtime"]["python"].update(version="3"), r"than were proven \(python\)"),
        (
            lambda run: run.summary["proved"]["runtime"]["packages"].update(gone={"version": "1", "sha256": "0" * 64}),
            r"than were proven \(gone\)",
        ),
        (
            lambda run: run.summary["proved"]["runtime"]["packages"]["msgspec"].update(sha256="0" * 64),
            r"than were proven \(msgspec\)",
        ),
    ],
    ids=["another-tree", "another-engine", "older-report", "report-without-packages", "python", "gone", "patched"],
)
def test_a_run_that_says_less_is_not_signed(run: ProvenRun, change: Callable[[ProvenRun], object], says: str) -> None:
    change(run)
    run.leave()
    with pytest.raises(BundleError, match=says):
        run.sign()


def refuted(run: ProvenRun) -> None:
    run.summary["verdicts"][0]["verdict"] = "refuted"


def partial(run: ProvenRun) -> None:
    run.summary |= {"complete": False, "left_out": {"G1": 3}}


@pytest.mark.claim("V5", "V18")
@pytest.mark.parametrize(
    ("was", "edit", "says"),
    [
        (
            refuted,
            lambda found: found["verdicts"][0].update(verdict="proven"),
            r"says proven \(G0\) of .*test_G0, its record r",
        ),
        (refuted, lambda found: found["verdicts"].pop(0), r"says nothing of .*test_G0, its record refuted \(G0\)"),
        (refuted, lambda found: found["verdicts"].append(found["verdicts"][1]), "names a proof twice"),
        (
            None,
            lambda found: found["verdicts"][0]["claims"].append("G1"),
            r"says proven \(G0 G1\) of .*, its record proven",
        ),
        (None, lambda found: found.update(planned=[]), "differ in planned"),
        (
            partial,
            lambda found: found.update(complete=True, left_out={}),
            "all was judged, its record that the run is partial",
        ),
        (
            partial,
            lambda found: found.update(complete=True, left_out={}, state="complete"),
            "differ in state: complete, partial",
        ),
    ],
)
def test_what_the_record_does_not_say_is_not_signed(
    run: ProvenRun, was: Callable[[ProvenRun], None] | None, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    """verdicts.json is easily edited; the record has every verdict as it was given, and how the run ended."""
    if was is not None:
        was(run)
    run.leave()
    edit(run.summary)
    (run.reports / "verdicts.json").write_text(json.dumps(run.summary))
    with pytest.raises(BundleError, match=says):
        run.sign()


@pytest.mark.claim("V5")
def test_V5_a_config_that_the_engine_refuses_is_not_signed(run: ProvenRun) -> None:
    run.config.write_text("[gate]\ntrusted_key = []\n")
    with pytest.raises(BundleError, match=r"the engine refuses .*trusted_keys"):
        run.sign()


@pytest.mark.slow
@pytest.mark.claim("V5", "R9")
def test_a_package_that_was_added_since_the_proofs_is_told(run: ProvenRun) -> None:
    """The adapter's, which no proof has seen."""
    run.install("recording", "2")
    made = run.sign()
    assert made["predicate"]["runtime"]["packages"]["recording"]["version"] == "2"
    assert made["predicate"]["proved_on"]["added_packages"] == ["recording 2"]
    shown = command("show", run.reports / bundle.BUNDLE_NAME, cwd=ROOT)
    assert "added since    recording 2" in shown.stdout
    assert "packages       msgspec-1 recording-2" in shown.stdout


def test_the_command_line(run: ProvenRun) -> None:
    for name in ("config", "engine"):
        (run.directory / name).symlink_to(ROOT / name)
    drop_in = run.directory / "override.conf"
    drop_in.write_text("[Service]\nNice=1\nEnvironmentFile=/etc/a.env\nEnvironmentFile=-/etc/b.env\n")
    (run.directory / "a.env").write_text("HYBRID_LOG=INFO\n")
    of_unit = ("--drop-in", drop_in, "--environment-file", "a.env", "--environment-file", "b.env")
    signed = command("sign", "--key", run.key, "--config", run.config, *of_unit, cwd=run.directory)
    assert (signed.returncode, "has all that a gate asks" in signed.stdout) == (0, True), signed.stdout + signed.stderr
    path = "reports/proof_bundle.json"
    verified = command("verify", path, "--trust", "proof.key.pub", "--record", run.record, cwd=run.directory)
    assert (verified.returncode, "by a trusted key" in verified.stdout) == (0, True), verified.stderr
    general = [sys.executable, "-m", "harness", "verify", path, "--trust", "proof.key.pub"]
    checked = subprocess.run(general, cwd=run.directory, capture_output=True, text=True, check=False)
    assert (checked.returncode, "is the record it is about" in checked.stdout) == (0, True), checked.stderr
    assert subprocess.run(general[:-2], cwd=run.directory, capture_output=True, check=False).returncode == 1
    refused = command("verify", path, "--trust", STRANGER.public, cwd=run.directory)
    assert (refused.returncode, "signature: by none" in refused.stderr) == (1, True)
    shown = command("show", path, cwd=run.directory)
    assert shown.returncode == 0, shown.stderr
    assert "hybrid-engine.service override.conf" in shown.stdout
    assert "signature not checked" in shown.stdout
    printed = json.loads(command("show", path, "--json", cwd=run.directory).stdout)
    assert [name for name, _ in printed["predicate"]["unit"][1:]] == [
        "override.conf", "EnvironmentFile=a.env", "EnvironmentFile=b.env",
    ]  # fmt: skip
    assert printed["predicate"]["unit"][3][1] == "absent"


# --- at the end of a run -----------------------------------------------------------------------------------

PROOFS = """
import pytest

@pytest.mark.claim("G0", "G1")
def test_one():
    pass

@pytest.mark.claim("G1")
def test_two():
    pass
"""


def prove(run: ProvenRun, *args: str) -> tuple[subprocess.CompletedProcess[str], Mapping[ClauseId, str]]:
    """A pytest run that signs, in a project of two proofs; and the clauses of its bundle, if there is one."""
    (run.directory / "test_sample.py").write_text(PROOFS)
    (run.directory / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\ntestpaths = .\n")
    (run.directory / "config").mkdir(exist_ok=True)
    (run.directory / "config" / "contract.toml").write_text(
        'G0 = { digest = "x" }\nG1 = { digest = "x" }\nS1 = { digest = "x", planned = true }\n'
    )
    key = ("--sign-key", str(run.key), "--sign-config", str(run.config))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK, *key, *args],
        cwd=run.directory, capture_output=True, text=True, timeout=60, check=False, env=environ(),
    )  # fmt: skip
    path = run.reports / bundle.BUNDLE_NAME
    clauses = bundle.verify(path, [run.public]).predicate.clauses if path.exists() else {}
    path.unlink(missing_ok=True)
    return done, clauses


@pytest.mark.parametrize(
    ("args", "clauses"),
    [
        ((), {"G0": "proven", "G1": "proven", "S1": "unproven"}),
        (("-n", "2"), {"G0": "proven", "G1": "proven", "S1": "unproven"}),
        (("-k", "one"), {"G0": "proven", "G1": "unproven", "S1": "unproven"}),
        (("-n", "1", "-k", "two"), {"G0": "unproven", "G1": "unproven", "S1": "unproven"}),
        (("test_sample.py",), {"G0": "unproven", "G1": "unproven", "S1": "unproven"}),
    ],
    ids=["all", "workers", "selected", "selected-workers", "one-file"],
)
def test_a_run_signs_what_it_has_shown_whole(run: ProvenRun, args: tuple[str, ...], clauses: dict[str, str]) -> None:
    done, signed = prove(run, *args)
    assert (done.returncode, signed) == (0, clauses), done.stdout
    lacking = [clause for clause, verdict in clauses.items() if verdict != "proven"]
    assert f"opens nothing: required and not proven: {' '.join(lacking)}" in done.stdout
    assert run.key.read_text().splitlines()[1] not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.claim("V5")
def test_a_key_that_must_not_be_used_stops_the_run_before_it_begins(run: ProvenRun) -> None:
    run.key.chmod(0o644)
    done, signed = prove(run)
    assert (done.returncode, signed) == (4, {})
    assert "mode 0644" in done.stderr
