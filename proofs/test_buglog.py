"""The buglog is a pure function of the record (contract V2)."""

from __future__ import annotations

from typing import Any

import pytest

from harness import buglog

RUN = "1795423471-79f75afc"
PROOF = "proofs/test_exit12.py::test_stays_down[case]"


def line(seq: int, kind: str, proof: str = PROOF, **facts: Any) -> dict[str, Any]:
    return {"run": RUN, "worker": "gw0", "seq": seq, "at": 1795423471.5 + seq, "proof": proof, "type": kind, **facts}


SUMMARY: dict[str, Any] = {
    "run_id": RUN,
    "systemd": "private",
    "verdicts": [
        {"proof": "proofs/test_a.py::test_fine", "claims": ["V3"], "verdict": "proven", "reason": "", "seconds": 0.1},
        {"proof": PROOF, "claims": ["E2"], "verdict": "refuted", "reason": "it | restarted", "seconds": 1.25},
    ],
    "counts": {"proven": 1, "refuted": 1, "unproven": 0},
}
RECORD = [
    line(1, "run", proof="", facts={"kernel": "Linux 6.18"}),
    line(2, "machine", proof="", variant="private", name="proof-1-gw0", event="booted"),
    line(3, "write", path="/etc/hybrid-engine/config.toml", text="invalid = [toml\n"),
    line(4, "intent", argv=["systemctl", "start", "a b.service"], cwd=""),
    line(
        5,
        "journal",
        by="engine",
        message='{"level":"ERROR","fields":{"message":"bad <config>","key":"x"},"target":"t"}',
    ),
    line(6, "result", intent=4, status=1, stdout="", stderr="<script>alert(1)</script> ```\n", seconds=0.25),
    line(7, "intent", argv=["systemctl", "show"], cwd=""),
    {**line(8, "journal", by="x", message="of another run"), "run": "other"},
]


def rendered() -> dict[str, str]:
    return buglog.render(buglog.document(SUMMARY, RECORD))


@pytest.mark.claim("V2")
def test_same_record_same_bytes() -> None:
    assert rendered() == rendered()


@pytest.mark.claim("V2")
def test_named_after_date_and_run() -> None:
    assert set(rendered()) == {f"BUG_2026-11-23_proofs-{RUN}.md", f"BUG_2026-11-23_proofs-{RUN}.html"}


@pytest.mark.claim("V2")
def test_refuted_comes_first_and_makes_the_whole_refuted() -> None:
    doc = buglog.document(SUMMARY, RECORD)
    assert doc.verdict == "refuted"
    assert [proof.verdict for proof in doc.proofs] == ["refuted", "proven"]


@pytest.mark.claim("V2")
def test_commands_show_status_output_and_interruption() -> None:
    steps = buglog.document(SUMMARY, RECORD).proofs[0].steps
    assert [step.kind for step in steps] == ["write", "command", "journal", "command"]
    assert steps[1].title == "systemctl start 'a b.service'"
    assert steps[1].note == "exit 1, 250 ms"
    assert steps[2].title == "engine: ERROR bad <config> key=x"
    assert "interrupted" in steps[3].note


@pytest.mark.claim("V2")
def test_output_cannot_become_markup() -> None:
    for name, text in rendered().items():
        if name.endswith(".html"):
            assert "<script>" not in text
            assert "&lt;script&gt;" in text
        else:
            assert "````\nsystemctl start" in text
            assert "it \\| restarted" in text
