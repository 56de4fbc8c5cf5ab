"""Keys, signing and verifying: `python -m harness bundle` (V5), and what the gate makes of what it signs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import attestation
from harness import bundle, statement
from harness.errors import BundleError, RecorderError
from harness.recorder import Recorder, Unrecorded
from harness.shell import Shell
from proofs.fixtures import true_bundle
from proofs.fixtures.engine_process import ROOT
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


@pytest.mark.claim("V5")
def test_keygen_makes_a_private_file_and_prints_the_public_key(tmp_path: Path) -> None:
    done = command("keygen", "proof.key", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    key = tmp_path / "proof.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(attestation.public_key(done.stdout.strip())) == 32
    pem = key.read_text()
    assert pem.splitlines()[1] not in done.stdout + done.stderr
    again = command("keygen", "proof.key", cwd=tmp_path)
    assert (again.returncode, key.read_text()) == (1, pem)
    assert "never overwritten" in again.stderr


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
        (lambda key: key.write_text("hunter2"), "no unencrypted private key"),
        (lambda key: (key.unlink(), os.mkfifo(key, 0o600)), "not a regular file"),
        (lambda key: key.write_bytes(RSA_KEY()), "no Ed25519 key"),
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


def test_V5_verify_names_what_is_no_key(path: Path) -> None:
    path.write_bytes(TRUE)
    for key in ("hunter2-secret", "ed25519:", "ed25519:****", f"ed25519:{base64.b64encode(b'x' * 31).decode()}"):
        with pytest.raises(BundleError, match="is no public key") as error:
            bundle.verify(path, [key])
        assert "secret" not in str(error.value)


# --- sign --------------------------------------------------------------------------------------------------


class Run:
    """What a run of the proofs leaves, and an installed engine that it was about."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reports = directory / "reports"
        self.record = self.reports / "runs" / "1" / "record.jsonl"
        self.key = directory / "proof.key"
        self.public = bundle.keygen(self.key)
        self.prefix = directory / "prefix"
        package = self.prefix / "lib/python3.11/site-packages/engine"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        # The real engine answers --check-config.
        (self.prefix / "bin").mkdir()
        (self.prefix / "bin/python").write_text(f'#!/bin/sh\nshift\nexec {sys.executable} "$@"\n')
        (self.prefix / "bin/python").chmod(0o755)
        self.unit = directory / "hybrid-engine.service"
        self.unit.write_text("[Service]\nExecStart=/bin/true\n")
        self.config = directory / "live.toml"
        self.config.write_text(f'mode = "LIVE"\nlive_armed = true\n[gate]\ntrusted_keys = ["{self.public}"]\n')
        self.summary = true_bundle.summary()
        self.summary["proved"]["engine"] = statement.digest(bundle.engine_files(self.prefix))
        self.leave()

    def leave(self) -> None:
        """Write verdicts.json and the record of it."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        (self.reports / "verdicts.json").write_text(json.dumps(self.summary))
        facts = {"kernel": "Linux 6.1", "systemd": "systemd 252", "commit": "0" * 40, "tree": "clean"}
        drop_in = "/run/systemd/system/hybrid-engine.service.d/10-proof.conf"
        self.record.unlink(missing_ok=True)
        with closing(Recorder(self.record, "1", "main")) as record:
            record.write("run", facts=facts)
            record.write("write", path=drop_in, text="[Service]\nRestartSec=20ms\n")
            record.write("write", path="/etc/hybrid-engine/config.toml", text=None)
            for one in self.summary["verdicts"]:
                record.write("verdict", **one)
            record.end(counts={})

    def sign(self) -> dict[str, Any]:
        target = bundle.Target(self.prefix, self.unit, self.config)
        raw, made = bundle.sign(Shell(Unrecorded()), self.reports, target, self.key)
        bundle.write(self.reports / bundle.BUNDLE_NAME, raw)
        return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.claim("V5")
def test_what_is_signed_is_what_the_run_left(run: Run) -> None:
    made = run.sign()
    path = run.reports / bundle.BUNDLE_NAME
    assert bundle.verify(path, [run.public], run.record) == made
    seen = attestation.verified(path.read_bytes(), [run.public]).predicate
    assert seen.record["lines"] == 4 + len(run.summary["verdicts"])
    predicate = made["predicate"]
    assert predicate["proved_on"]["drop_ins"] == {"10-proof.conf": "[Service]\nRestartSec=20ms\n"}
    assert predicate["platform"]["systemd"] == "systemd 252"
    assert predicate["config"]["risk_caps"]["max_exposure_usd"] == 10000.0
    assert bundle.verdict_on(made, ROOT).startswith("has all")
    with run.record.open("a") as record:
        record.write('{"type":"journal"}\n')
    with pytest.raises(RecorderError, match="does not end in its digest"):
        bundle.verify(path, [run.public], run.record)
    # A record that is whole, and another one.
    run.leave()
    with pytest.raises(BundleError, match=r"record: it is about one of \d+ lines"):
        bundle.verify(path, [run.public], run.record)


@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: run.summary["proved"].update(engine="0" * 64), "is not the one that was proven"),
        (lambda run: run.summary["proved"].update(engine_cmd="/usr/bin/other"), "another engine: /usr/bin/other"),
        (lambda run: run.summary.pop("proved"), "run `make proofs` again"),
    ],
    ids=["another-tree", "another-engine", "older-report"],
)
def test_a_run_that_says_less_is_not_signed(run: Run, change: Callable[[Run], object], says: str) -> None:
    change(run)
    run.leave()
    with pytest.raises(BundleError, match=says):
        run.sign()


@pytest.mark.claim("V5")
def test_a_verdict_that_the_record_does_not_have_is_not_signed(run: Run) -> None:
    """verdicts.json is easily edited; the record has every verdict as it was given."""
    run.summary["verdicts"][0]["verdict"] = "unproven"
    run.leave()
    run.summary["verdicts"][0]["verdict"] = "proven"
    (run.reports / "verdicts.json").write_text(json.dumps(run.summary))
    with pytest.raises(BundleError, match="test_G0 proven, the flight record does not"):
        run.sign()


def test_V5_a_config_that_the_engine_refuses_is_not_signed(run: Run) -> None:
    run.config.write_text("[gate]\ntrusted_key = []\n")
    with pytest.raises(BundleError, match=r"the engine refuses .*trusted_keys"):
        run.sign()


@pytest.mark.claim("V5")
def test_the_command_line(run: Run) -> None:
    for name in ("config", "engine"):
        (run.directory / name).symlink_to(ROOT / name)
    drop_in = run.directory / "override.conf"
    drop_in.write_text("[Service]\nNice=1\n")
    target = ("--config", run.config, "--unit", run.unit, "--drop-in", drop_in, "--prefix", run.prefix)
    signed = command("sign", "--key", run.key, *target, cwd=run.directory)
    assert (signed.returncode, "has all that a gate asks" in signed.stdout) == (0, True), signed.stdout + signed.stderr
    path = "reports/proof_bundle.json"
    verified = command("verify", path, "--trust", run.public, "--record", run.record, cwd=run.directory)
    assert (verified.returncode, "by a trusted key" in verified.stdout) == (0, True), verified.stderr
    refused = command("verify", path, "--trust", STRANGER.public, cwd=run.directory)
    assert (refused.returncode, "signature: by none" in refused.stderr) == (1, True)
    shown = command("show", path, cwd=run.directory)
    assert shown.returncode == 0, shown.stderr
    assert "hybrid-engine.service override.conf" in shown.stdout
    assert "signature not checked" in shown.stdout
    printed = json.loads(command("show", path, "--json", cwd=run.directory).stdout)
    assert printed["predicate"]["unit"][1][0] == "override.conf"
