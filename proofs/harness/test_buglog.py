"""The buglog is a pure function of the record (contract V2)."""

from __future__ import annotations

import itertools
import json
import re
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import escape
from harness.evidence import buglog, lines
from harness.evidence import verdict as verdicts
from harness.evidence.buglog import Document, Group, ProofLog, ProofStep, Since, Steps
from harness.evidence.lines import EndLine, RecordLine, ResultLine, VerdictLine
from proofs.fixtures import large_run

pytestmark = pytest.mark.claim("V2")

RUN = "1795423471-79f75afc"
PROOF = "proofs/guardrails/test_exit12.py::test_stays_down[case]"
CLAUSES = {
    "G0": "| G0 | SHADOW is the default | no config: SHADOW |",
    "exit12": "| exit12 | E2, E3 | the matrix |",
    "E2": "* E2 Exit 12 under the real unit: state `failed`.",
    "V5": "* V5 **Proof bundle.** An in-toto statement.",
}


def line(seq: int, kind: str, proof: str = PROOF, *, run: str = RUN, **facts: object) -> RecordLine:
    at = 1795423471.5 + seq
    envelope = {"run": run, "worker": "gw0", "seq": seq, "at": at, "proof": proof, "type": kind}
    more = {"unit": "hybrid-engine.service"} if kind == "journal" else {}
    return lines.of({**envelope, **more, **facts}, f"{seq:064x}")


def verdict(
    seq: int, proof: str, claims: list[str], verdict: str, reason: str = "", seconds: float = 0.5, **more: str
) -> RecordLine:
    facts: dict[str, Any] = {"claims": claims, "verdict": verdict, "reason": reason, "seconds": seconds}
    return line(seq, "verdict", proof, **{**facts, "about": "What it is about.", **more})


END: dict[str, Any] = {
    "lines": 15, "counts": {}, "interrupted": False, "systemd": "private", "planned": [], "accepted_unproven": [],
}  # fmt: skip
BEATS = [
    line(
        20 + number, "journal", by="hybrid-engine",
        message=json.dumps({"level": "INFO", "fields": {
            "message": "HEARTBEAT (G4)", "ingest_received": 10 * number, "ingest_processed": 5 * number,
            "tick_rows_written": number, **{f"zero_{zero}": 0 for zero in range(9)},
        }}),
    )
    for number in range(1, 4)
]  # fmt: skip
RECORD = [
    line(1, "run", proof="", systemd="private", facts={"kernel": "Linux 6.18"}, clauses=CLAUSES),
    line(2, "machine", proof="", variant="private", name="proof-1-gw0", event="booted"),
    line(3, "write", path="/proc/77/root/etc/hybrid-engine/config.toml", text="invalid = [toml\n"),
    line(4, "intent", argv=["nsenter", "-t", "77", "-a", "systemctl", "start", "a b.service"], cwd="/", environment=""),
    line(
        5,
        "journal",
        by="engine",
        message='{"level":"ERROR","fields":{"message":"bad <config>","key":"x"},"target":"t"}',
    ),
    line(6, "result", intent=4, status=1, stdout="", stderr="<script>alert(1)</script> ```\n", seconds=0.25),
    line(7, "journal", by="systemd", message="Started."),
    line(8, "intent", argv=["systemctl", "show"], cwd="/", environment=""),
    *BEATS,
    line(30, "unit", proof="", name="hybrid-engine.service", text="[Service]\nRestart=on-failure\n"),
    verdict(31, PROOF, ["E2", "exit12"], "refuted", "it | restarted\n  state: <failed>", 1.25),
    verdict(32, "proofs/test_a.py::test_fine", ["G0"], "proven"),
    line(33, "end", proof="", **{**END, "planned": ["V5"]}),
]  # fmt: skip
SABOTAGE = [
    line(1, "run", proof="", systemd="private", facts={"commit": "c" * 40, "tree": "clean"}, clauses={}, run="2"),
    line(2, "sabotage", proof="", id="restart-on-12", guardrail="exit12", breaks="it is restarted <for ever>",
         confirmed="x", verdict="refuted", reason="restarted 3 times"),
    verdict(4, "proofs/guardrails/test_sabotage.py::test_sabotage_is_caught[x]", ["V4"], "proven", run="2"),
    line(3, "sabotage", proof="", id="blind", guardrail="G0", breaks="nothing is seen",
         confirmed="x", verdict="proven", reason=""),
]  # fmt: skip


def document(record: list[RecordLine] = RECORD, sabotage: list[RecordLine] | None = None) -> Document:
    return buglog.document(lambda: record, None if sabotage is None else lambda: sabotage)


def rendered(doc: Document | None = None) -> tuple[str, str]:
    """Markdown and HTML."""
    texts = buglog.render(doc or document())
    return next(text for name, text in texts.items() if name.endswith(".md")), next(
        text for name, text in texts.items() if name.endswith(".html")
    )


class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and all text that is no script or style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "line", "rect", "polyline", "circle"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.text += data


def test_a_document_ends_with_a_line() -> None:
    assert [text[-1] for text in rendered()] == ["\n", "\n"]


def test_same_record_same_bytes() -> None:
    assert rendered() == rendered()
    assert buglog.render(document(sabotage=SABOTAGE)) == buglog.render(document(sabotage=SABOTAGE))


def test_named_after_date_and_run() -> None:
    assert set(buglog.render(document())) == {f"BUG_2026-11-23_proofs-{RUN}.md", f"BUG_2026-11-23_proofs-{RUN}.html"}


def test_refuted_comes_first_and_makes_the_whole_refuted() -> None:
    doc = document()
    assert (doc.verdict, doc.counts) == ("refuted", {"refuted": 1, "unproven": 0, "proven": 1})
    assert [proof.verdict for proof in doc.proofs] == ["refuted", "proven"]


def test_guardrails_and_clauses_with_their_verdicts() -> None:
    doc = document()
    assert [(clause.id, clause.verdict, clause.proofs) for clause in doc.guardrails] == [
        ("G0", "proven", 1),
        ("exit12", "refuted", 1),
    ]
    assert {clause.id: clause.verdict for members in doc.clauses.values() for clause in members} == {
        "E2": "refuted",
        "V5": "planned",
    }
    for text in rendered(doc):
        assert "SHADOW is the default" in text


def test_commands_show_status_output_and_interruption() -> None:
    steps = list(document().proofs[0].steps)
    assert [step.kind for step in steps][:5] == ["write", "command", "journal", "journal", "command"]
    assert steps[0].title == "/etc/hybrid-engine/config.toml"
    assert steps[1].title == "systemctl start 'a b.service'"
    assert steps[1].note == "exit 1, 250 ms"
    assert steps[2].title == "engine: ERROR bad <config> key=x"
    assert steps[3].level == "systemd"
    assert steps[4].note == "interrupted on the host: no result was recorded"
    assert steps[5].title.endswith("ingest_received=10 ingest_processed=5 tick_rows_written=1 (0: 9 others)")


@pytest.mark.claim("O12")
def test_a_line_of_a_named_engine_says_which() -> None:
    said = json.dumps({"level": "INFO", "fields": {"message": "HEARTBEAT (G4)", "instance": "alpha"}, "target": "x"})
    (step,) = document([RECORD[0], line(2, "journal", by="x", message=said), *RECORD[-3:]]).proofs[0].steps
    assert step.title.endswith("HEARTBEAT (G4) instance=alpha")


def test_pictures() -> None:
    """When each proof ran, what happened in one, and its ticks."""
    proof = document().proofs[0]
    assert "<svg" in proof.timeline
    assert "<svg" in proof.chart
    assert sum(tag == "svg" for tag, _ in Page(rendered()[1]).elements) == 3


def test_each_proof_has_a_timeline_of_its_own_length() -> None:
    """A proof of a quarter of a second is as wide as one of a minute: the axis ends where the proof does."""

    def steps(proof: str, first: int, apart: float) -> list[RecordLine]:
        return [
            replace(
                line(first + n, "journal", proof, by="systemd", message=f"{n}"), at=1795423000.0 + first + apart * n
            )
            for n in range(5)
        ]

    def ended(proof: str, at: float, seconds: float) -> RecordLine:
        return replace(verdict(90, proof, ["G0"], "proven", seconds=seconds), at=at)

    quick, slow = "proofs/test_a.py::test_quick", "proofs/test_a.py::test_slow"
    record = [
        RECORD[0], *steps(quick, 100, 0.05), ended(quick, 1795423100.25, 0.25),
        *steps(slow, 200, 15.0), ended(slow, 1795423260.0, 60.0), RECORD[-1],
    ]  # fmt: skip
    ends = {}
    for proof in document(record).proofs:
        labels = re.findall(r'<text class="tick"[^>]*text-anchor="end">([^<]+ m?s)</text>', proof.timeline)
        bars = [float(x) for x in re.findall(r'<rect class="bar-systemd" x="([\d.]+)"', proof.timeline)]
        ends[proof.proof] = (labels, max(bars) > 700)
    assert ends == {quick: (["250 ms"], True), slow: (["60 s"], True)}


def test_unit_and_sabotages() -> None:
    for text in rendered(document(sabotage=SABOTAGE)):
        assert "Restart=on-failure" in text
        assert "MISSED" in text
        assert "restarted 3 times" in text
        assert "<for ever>" not in text
    by_letter = document(sabotage=SABOTAGE).clauses
    assert [(clause.id, clause.verdict) for clause in by_letter["V"]] == [("V5", "planned"), ("V4", "proven")]
    assert "None were run" in rendered()[1]


def test_a_record_without_an_end_proves_nothing() -> None:
    """Neither the whole, nor the proof in the middle of which it was cut off."""
    all_proven = [one for one in RECORD if one.proof != PROOF]
    assert document(all_proven).verdict == "proven"
    assert document(all_proven[:-1]).verdict == "unproven"
    doc = document([one for one in RECORD if not isinstance(one, EndLine | VerdictLine)])
    assert [(one.verdict, "cut off" in one.reason) for one in doc.proofs] == [("unproven", True)]
    assert (doc.cut_off, doc.state, doc.collected, doc.selected, doc.never_ran) == (True, "", 0, 0, 0)
    assert (doc.accepted, doc.planned, doc.systemd) == ([], [], "private")
    for text in rendered(doc):
        assert "The record has no end" in text


@pytest.mark.claim("V7")
@pytest.mark.parametrize(
    ("end", "says"),
    [
        ({"state": "interrupted", "interrupted": True, "selected": 22, "never_ran": 16, "collected": 30},
         "16 of the 22 proofs"),
        ({"state": "partial", "selected": 1, "never_ran": 0, "collected": 30}, "1 of 30 were chosen"),
        ({"interrupted": True}, "was interrupted"),
    ],
    ids=["interrupted", "partial", "older-record"],
)  # fmt: skip
def test_less_than_all_is_not_green(end: dict[str, Any], says: str) -> None:
    all_proven = [one for one in RECORD if one.proof != PROOF and not isinstance(one, EndLine)]
    doc = document([*all_proven, line(33, "end", proof="", **{**END, **end})])
    assert (doc.verdict, doc.counts["proven"]) == ("unproven", 1)
    for text in rendered(doc):
        assert says in " ".join(text.split())
    assert document([*all_proven, line(33, "end", proof="", **END, state="complete")]).verdict == "proven"


@pytest.mark.claim("V8")
@given(st.lists(st.text("ab\x00\x07\x1b\x7f\x9b\u200b\u202e\u2066\ufeff\ud800", min_size=1), min_size=11, max_size=11))
def test_nothing_is_obeyed_or_hidden(texts: list[str]) -> None:
    """Whatever stands in a record, a document shows it, and a terminal that prints one does nothing else."""
    record = [
        line(1, "run", proof="", systemd=texts[0], facts={texts[1]: texts[2]},
             clauses={"G0": f"| G0 | {texts[3]} | x |"}),
        line(2, "intent", texts[4], argv=["echo", texts[5]], cwd="", environment=""),
        line(3, "result", texts[4], intent=2, status=0, stdout=texts[6], stderr=texts[7], seconds=0.1),
        line(4, "journal", texts[4], by=texts[8], message=json.dumps({"fields": {"message": texts[9]}})),
        line(5, "write", texts[4], path=texts[10], text=texts[0]),
        line(6, "unit", proof="", name=texts[1], text=texts[2]),
        line(6, "sabotage", proof=texts[4], id=texts[0], guardrail=texts[1], breaks=texts[2], confirmed="",
             verdict="refuted", reason=texts[3]),
        verdict(7, texts[4], ["G0", texts[5]], "refuted", texts[6], told=texts[7], about=texts[8]),
        line(8, "end", proof="", **END),
    ]  # fmt: skip
    documents = rendered(document(record, record))
    for text in (*documents, "\n".join(buglog.story(lambda: record, texts[4])[1])):
        assert escape.shown(text) == text


STORY = f"""\
refuted  {PROOF}
run {RUN}, gw0, 1.250 s, claims E2, exit12
  E2: * E2 Exit 12 under the real unit: state `failed`.
  exit12: | exit12 | E2, E3 | the matrix |

What it is about.

--- what pytest said ---
E  all that pytest said

--- what was done and seen (UTC) ---
08:44:34.500  > /etc/hybrid-engine/config.toml
              invalid = [toml
08:44:35.500  $ systemctl start 'a b.service'  (exit 1, 250 ms)
              <script>alert(1)</script> ```
08:44:36.500  engine: ERROR bad <config> key=x
08:44:38.500  Started.
08:44:39.500  $ systemctl show  (interrupted on the host: no result was recorded)
08:44:52.500  hybrid-engine: INFO HEARTBEAT (G4) ...
08:44:53.500  hybrid-engine: INFO HEARTBEAT (G4) ...
08:44:54.500  hybrid-engine: INFO HEARTBEAT (G4) ...

--- the effective unit hybrid-engine.service ---
[Service]
Restart=on-failure"""


def test_the_story_of_one_proof() -> None:
    refuted = RECORD[-3]
    assert isinstance(refuted, VerdictLine)
    told = [*RECORD[:-3], replace(refuted, told="E  all that pytest said"), *RECORD[-2:]]
    found, lines = buglog.story(lambda: told, PROOF)
    assert (found, [re.sub("ingest_received.*", "...", line) for line in lines]) == (True, STORY.splitlines())
    for name in (PROOF, "stays_down", verdicts.anchor(PROOF)[:10]):
        found, lines = buglog.story(lambda: told, name)
        text = "\n".join(lines)
        assert found
        assert lines[0] == f"refuted  {PROOF}"
        for part in ("$ systemctl start 'a b.service'  (exit 1, 250 ms)", "<script>", "E  all that pytest said",
                     "E2: * E2 Exit 12", "Restart=on-failure", "> /etc/hybrid-engine/config.toml"):  # fmt: skip
            assert part in text, part
        assert "test_fine" not in text
    for name in ("nobody", "test_"):
        found, lines = buglog.story(lambda: told, name)
        assert not found
        assert any(PROOF in one for one in lines)


def test_output_cannot_become_markup() -> None:
    markdown, html = rendered()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "````\nsystemctl start" in markdown
    assert "it \\| restarted" in markdown


@given(st.text("`a\n~", max_size=40))
def test_a_fence_is_closed_by_itself_alone(text: str) -> None:
    """In CommonMark three backticks or more open one, and as many or more in a line end it."""
    opened, *body, closed = buglog.environment().filters["fence"](text).split("\n")
    assert "\n".join(body) == text
    longest = max(map(len, re.findall("`+", text)), default=0)
    assert opened == closed == "`" * max(3, longest + 1)


INJECTIONS = st.sampled_from(
    ["<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>", "\" onmouseover=\"alert(1)",
     "' onload='alert(1)", "</svg><script>", "</title><script>", "]]>", "<!--", "-->", "{{ 7 * 7 }}", "{% x %}",
     "&lt;b&gt;", "\x00\x1b[31m", "javascript:alert(1)", "| a | b |", "```\n# heading\n```", "\u2028\u202e", "\ud800"]
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.one_of(INJECTIONS, st.text(max_size=30)), min_size=12, max_size=12))
def test_nothing_in_a_record_can_become_markup(texts: list[str]) -> None:
    """Whatever a command printed, a proof is called, or a reason says: the page has the same elements as ever."""
    proof = f"proofs/test_x.py::test_x[{texts[0]}]"

    def record(texts: list[str], proof: str) -> list[RecordLine]:
        return [
            line(1, "run", proof="", systemd=texts[1], facts={"kernel": texts[2]},
                 clauses={"G0": f"| G0 | {texts[3]} | x |"}),
            line(2, "intent", proof, argv=["echo", texts[4]], cwd="", environment=""),
            line(3, "result", proof, intent=2, status=0, stdout=f"!{texts[5]}", stderr=texts[6], seconds=0.1),
            line(4, "journal", proof, by=texts[7], message=texts[8]),
            line(5, "write", proof, path=texts[9], text=f"!{texts[10]}"),
            line(6, "unit", proof="", name="u", text=texts[11]),
            verdict(7, proof, ["G0"], "refuted", f"!{texts[5]}"),
            line(8, "end", proof="", **END),
        ]  # fmt: skip

    def shape(html: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in Page(html).elements]

    _, html = rendered(document(record(texts, proof)))
    _, harmless = rendered(document(record(["x"] * 12, "proofs/test_x.py::test_x[x]")))
    assert shape(html) == shape(harmless)


def test_self_contained() -> None:
    """Nothing is fetched from anywhere."""
    for tag, attributes in Page(rendered(document(sabotage=SABOTAGE))[1]).elements:
        assert tag not in ("link", "iframe", "object", "img")
        assert "src" not in attributes
        assert str(attributes.get("href", "#")).startswith("#")


def test_links_lead_somewhere() -> None:
    elements = Page(rendered(document(sabotage=SABOTAGE))[1]).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in elements:
        if tag == "a" and "href" in attributes:
            assert str(attributes["href"])[1:] in ids


def test_steps_within_a_budget() -> None:
    """The first and the last are kept."""
    steps = Steps(40 * (buglog.STEP_SIZE + 1))
    for number in range(1000):
        steps.add(buglog.ProofStep("journal", float(number), "x"))
    shown = list(steps)
    assert len(steps) == 1000
    assert [step.at for step in shown[:20]] == list(range(20))
    assert [step.at for step in shown[-20:]] == list(range(980, 1000))
    assert [step.title for step in shown if step.kind == "omitted"] == ["960 more steps are in the record"]
    assert list(Steps(0)) == []


@pytest.mark.parametrize(("size", "fit"), [(0, 0), (13, 0), (14, 1), (99, 7), (280, 20), (1000, 20)])
def test_a_page_has_as_many_proofs_as_it_has_room_for(size: int, fit: int) -> None:
    """Each takes what its texts take once they are HTML, and something beside them."""
    proofs = [ProofLog(str(number), [], "proven", "", 0.1, "", 0.0, "gw0") for number in range(20)]
    assert buglog._within(size, 10, proofs, lambda _: ("<",)) == proofs[:fit]


def flood(megabytes: int, piece: str) -> Iterator[RecordLine]:
    """A record of this size, of many and of talkative proofs."""
    yield RECORD[0]
    intent = line(1, "intent", argv=["echo", piece], cwd="", environment="")
    result = line(1, "result", intent=1, status=0, stdout=piece * 100, stderr="", seconds=0.1)
    assert isinstance(result, ResultLine)
    size, seq = 0, 1
    for number in itertools.count():
        proof = f"proofs/test_flood.py::test_x[{number}{piece}]"
        for _ in range(5 if number % 50 else 2000):
            seq += 2
            yield replace(intent, seq=seq, at=float(seq), proof=proof)
            yield replace(result, seq=seq + 1, at=float(seq + 1), proof=proof, intent=seq)
            size += 800 + 101 * len(piece)
        yield replace(BEATS[0], proof=proof, seq=seq)
        yield verdict(seq, proof, ["G0", "E2"], "refuted" if number % 7 == 0 else "proven", piece * 50)
        if size > megabytes * 1e6:
            break
    yield RECORD[-1]


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["x", '"<&>', "word \n", "`|`"], ids=["plain", "markup", "lines", "markdown"])
def test_a_large_record_makes_a_document_of_bounded_size(piece: str) -> None:
    for text in rendered(buglog.document(lambda: flood(8, piece))):
        assert len(text.encode()) < buglog.SIZE_MAX


@pytest.mark.slow
def test_a_large_record_takes_bounded_memory() -> None:
    """Ten times the record, the same memory."""
    peaks = []
    for megabytes in (1, 10):
        tracemalloc.start()
        buglog.document(lambda size=megabytes: flood(size, "word " * 200))  # type: ignore[misc]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 5e6


@pytest.mark.slow
def test_thousands_of_proofs_are_rendered_fast() -> None:
    """In CPU, which does not depend on who else is at work: 0.5 s on the computer of the author."""
    record = list(large_run.record())
    began = time.process_time()
    texts = rendered(document(record))
    assert time.process_time() - began < 3.0
    assert sum("test_" in text for text in texts) == 2


@pytest.mark.slow
def test_files_with_something_not_proven_come_first_and_are_open() -> None:
    doc = document(list(large_run.record()))
    assert [group.verdict for group in doc.groups[:4]] == ["refuted", "refuted", "unproven", "proven"]
    assert sum(len(group.proofs) for group in doc.groups) == 3000
    assert doc.groups[0].proven == 20
    opened = {attributes["id"] for tag, attributes in Page(rendered(doc)[1]).elements
              if tag == "details" and attributes.get("class") == "group" and "open" in attributes}  # fmt: skip
    assert opened == {group.anchor for group in doc.groups[:3]}


def proof_log(proof: str = PROOF, verdict: str = "proven", **more: Any) -> ProofLog:
    told: dict[str, Any] = {"claims": [], "reason": "", "seconds": 1.0, "about": "", "ended": 9.0, "worker": "gw0"}
    return ProofLog(proof=proof, verdict=verdict, **{**told, **more})


@pytest.mark.parametrize(
    ("proof", "module", "title"),
    [
        ("proofs/engine/test_x.py::test_stays_down", "x", "stays down"),
        ("proofs/engine/test_x.py::test_E2_exit12_stays_down[a-b]", "x", "stays down [a-b]"),
        ("proofs/engine/test_x.py::test_x[a::b[0]]", "x", "x [a::b[0]]"),
        ("proofs/engine/test_x.py::test_E2", "x", "test_E2"),
        ("long_soak.py::soak", "long_soak", "soak"),
        ("gw3 died", "gw3 died", "gw3 died"),
        (f"test_x.py::test_{'y' * 301}", "x", f"{'y' * 300}\n[1 more characters in the record]"),
    ],
)
def test_a_proof_is_called_by_its_name_in_words(proof: str, module: str, title: str) -> None:
    one = proof_log(proof)
    assert (one.module, one.title) == (module, title)


def ran(status: int | None, *argv: str) -> ProofStep:
    """The step of a command that ended so, or not at all."""
    record = [RECORD[0], line(2, "intent", argv=list(argv), cwd="/", environment="")]
    if status is not None:
        record += [line(3, "result", intent=2, status=status, stdout="out\n\n", stderr="err\n\n", seconds=0.0016)]
    (step,) = document([*record, *RECORD[-3:]]).proofs[0].steps
    return step


@pytest.mark.parametrize(
    ("status", "note", "ok"),
    [(0, "exit 0, 2 ms", True), (1, "exit 1, 2 ms", False), (-1, "signal 1, 2 ms", False),
     (-9, "signal 9, 2 ms", False), (None, "interrupted: no result was recorded", False)],
)  # fmt: skip
def test_a_command_says_how_and_where_it_ended(status: int | None, note: str, ok: bool) -> None:
    """On the host, which is told, or within a machine, whose entry is left out."""
    inside = ran(status, "nsenter", "-t", "77", "-a", "ls", "a b")
    assert (inside.title, inside.note, inside.ok) == ("ls 'a b'", note, ok)
    assert inside.body == ("" if status is None else "out\n\nerr")
    assert inside.seconds == (0.0 if status is None else 0.0016)
    for argv in (("ls",), ("nsenter", "-t", "77"), ("nsenter", "-t", "77", "-m", "ls"), ("nsenter", "-m", "77", "-a")):
        outside = ran(status, *argv)
        where = (
            note.replace("interrupted", "interrupted on the host")
            if status is None
            else note.replace(",", " on the host,")
        )
        assert (outside.title, outside.note, outside.ok) == (" ".join(argv), where, ok)


def test_what_is_not_told_of_a_step_is_nothing() -> None:
    step = ProofStep("machine", 1.0, "x")
    assert (step.body, step.note, step.ok, step.level, step.seconds) == ("", "", True, "", 0.0)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ("text", "text"),
        ({"base64": "AAE="}, "[no text; base64: AAE=]"),
        ({"blob": "a" * 64, "bytes": 9, "binary": True}, f"[no text; 9 bytes in blobs/{'a' * 64}]"),
        ({"blob": "a" * 64, "bytes": 9, "head": "h", "tail": "t"}, f"h\n[... 9 bytes in blobs/{'a' * 64} ...]\nt"),
        ("x" * 6000, "x" * 6000),
        ("x" * 6001, f"{'x' * 6000}\n[1 more characters in the record]"),
        (None, "(removed)"),
    ],
    ids=["text", "bytes", "long-bytes", "long-text", "room", "no-room", "removed"],
)
def test_what_is_kept_of_a_file_is_shown(kept: object, told: str) -> None:
    record = [RECORD[0], line(2, "write", path="/proc/1/fd/x", text=kept), *RECORD[-3:]]
    (step,) = document(record).proofs[0].steps
    assert (step.title, step.body) == ("/proc/1/fd/x", told)


def test_a_log_line_of_many_fields_is_shown_without_those_that_are_0() -> None:
    for count, shown in ((8, " ".join(f"z{n}=0" for n in range(7)) + " a=1"), (9, "a=1 (0: 8 others)")):
        fields = {"message": "event", **{f"z{n}": 0 for n in range(count - 1)}, "a": 1}
        said = json.dumps({"level": "WARN", "fields": fields})
        (step,) = document([RECORD[0], line(2, "journal", by="e", message=said), *RECORD[-3:]]).proofs[0].steps
        assert (step.title, step.level, step.ok) == (f"e: WARN event {shown}", "WARN", True)


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("| G0 | what it is | its proof |", ("what it is", "its proof")), ("| G0 | what it is |", ("what it is", "")),
        ("| G0 |", ("", "")), ("* E2 Exit 12 under it.", ("Exit 12 under it.", "")),
        ("words", ("words", "")), ("", ("", "")),
    ],
)  # fmt: skip
def test_a_clause_is_what_stands_behind_its_name(text: str, cells: tuple[str, str]) -> None:
    assert buglog.environment().filters["clause"](text) == cells


@pytest.mark.parametrize(
    ("told", "python"),
    [("/a/.venv/bin/pytest -n 4", "/a/.venv/bin/python"), (".venv/bin/pytest", ".venv/bin/python"),
     ("pytest -q", "python"), ("/usr/bin/python -m pytest", "python"), ("", "python")],
)  # fmt: skip
def test_what_runs_the_harness_again_is_what_ran_it(told: str, python: str) -> None:
    run = line(1, "run", proof="", systemd="private", facts={"pytest": told} if told else {}, clauses={})
    doc = document([run, *RECORD[-3:]])
    assert doc.python == python
    assert doc.proofs[0].again == f"{told or 'pytest'} '{PROOF}'"


def test_the_summary_names_the_worst_and_of_those_what_an_earlier_run_had_proven_first() -> None:
    order = [("refuted", "broken"), ("refuted", ""), ("unproven", "broken"), ("unproven", "")]
    names = {f"test_x.py::test_{letter}": kind for letter, kind in zip("dcba" * 2, order * 2, strict=True)}
    names |= {"test_x.py::test_z": ("proven", "broken")}
    record = [
        RECORD[0], *(verdict(2, name, ["G0"], of) for name, (of, _) in names.items()),
        line(3, "since", proof="", before="run-1", gone=0, broken=[n for n, (_, new) in names.items() if new],
             mended=[], added=[], flaky=[], counts={}),
        RECORD[-1],
    ]  # fmt: skip
    more = [verdict(2, f"test_y.py::test_{n}", ["G0"], "unproven") for n in range(9)]
    told = [(one.verdict, "broken" in one.news) for one in document([*record[:1], *more, *record[1:]]).headlines]
    assert told == [("refuted", True), ("refuted", False), ("unproven", True), *[("unproven", False)] * 3]
    doc = document(record)
    assert doc.since == Since("run-1", dict.fromkeys(("broken", "mended", "added", "flaky"), 0), 0)
    assert [one.proof for one in doc.headlines] == [f"test_x.py::test_{letter}" for letter in "dcba"]


def test_of_very_many_units_sabotages_and_workers_some_are_shown() -> None:
    units = [line(3, "unit", proof="", name=f"u{n}.service", text="x") for n in (*range(9), 0)]
    broken = [
        line(
            4, "sabotage", proof="", id=f"s{n}", guardrail="G0", breaks="x", confirmed="", verdict="refuted", reason=""
        )
        for n in range(401)
    ]
    busy = [replace(verdict(5, f"test_x.py::test_{n}", ["G0"], "proven"), worker=f"gw{n:02}") for n in range(17)]
    doc = document([RECORD[0], *units, *busy, RECORD[-1]], [SABOTAGE[0], *broken])
    assert [name for name, _ in doc.units] == [f"u{n}.service" for n in range(8)]
    assert doc.sabotage is not None
    assert [entry.id for entry in doc.sabotage.entries] == [f"s{n}" for n in range(400)]
    assert re.findall(r">(gw\d\d)<", doc.overview) == [f"gw{n:02}" for n in range(16)]


def test_of_proofs_that_are_drawn_at_one_place_the_worst_is_seen() -> None:
    order = ["proven", "refuted", "unproven", "proven"]
    for names in (order, order[::-1]):
        judged = [replace(verdict(5, f"test_x.py::test_{n}", ["G0"], of, seconds=0.0), at=1795423490.0)
                  for n, of in enumerate(names)]  # fmt: skip
        doc = document([RECORD[0], *judged, RECORD[-1]])
        assert re.findall(r'class="bar-(\w+)"', doc.overview) == ["refuted"]


def test_a_record_that_goes_on_behind_its_end_has_none() -> None:
    """As one to which somebody has appended."""
    assert document([*RECORD, line(34, "journal", proof="", by="x", message="more")]).cut_off
    assert not document(RECORD).cut_off


def test_a_run_takes_from_its_first_line_to_its_latest() -> None:
    late = replace(RECORD[1], at=1795423571.5)
    doc = document([RECORD[0], late, *RECORD[2:]])
    assert (doc.started, doc.seconds) == ("2026-11-23 08:44:32 UTC", 99.0)


def test_a_group_counts_what_is_proven_and_names_each_clause_once() -> None:
    proofs = [proof_log(f"test_x.py::test_{n}", of, claims=["G0", "E2"], seconds=1.5)
              for n, of in enumerate(("refuted", "proven", "proven", "proven", "unproven"))]  # fmt: skip
    group = Group("test_x.py", proofs)
    assert (group.proven, group.verdict, group.seconds, group.claims) == (3, "refuted", 7.5, ["G0", "E2"])
    many = Group("test_x.py", [proof_log(claims=[f"E{n}" for n in range(20)])])
    assert many.claims == [f"E{n}" for n in range(12)]


def test_of_too_many_heartbeats_every_second_is_kept() -> None:
    one = proof_log()
    for count in range(1, 500):
        one.take(float(count), {})
        times = [at for at, _ in one.heartbeats]
        assert (times[0], times[-1]) == (1.0, count)
        assert len(times) == count if count <= 120 else 60 < len(times) <= 120
        apart = [after - before for before, after in itertools.pairwise(times)]
        assert apart == sorted(apart, reverse=True), "the later the closer"
        assert count > 180 or set(apart) <= {1.0, 2.0}, "every second one went"


def test_a_document_counts_its_lines() -> None:
    doc = document(sabotage=SABOTAGE)
    assert doc.sabotage is not None
    assert (doc.lines, doc.sabotage.lines) == (len(RECORD), len(SABOTAGE))


@pytest.mark.parametrize(("first", "axis"), [(-5.0, "6 s"), (0.25, "1 s")])
def test_a_timeline_begins_with_its_proof_or_with_what_was_before(first: float, axis: str) -> None:
    began = 1795423440.0
    steps = [replace(line(2, "journal", by="systemd", message="x"), at=began + first + n / 10) for n in range(4)]
    ended = replace(verdict(9, PROOF, ["E2"], "refuted", seconds=1.0), at=began + 1.0)
    (proof,) = document([RECORD[0], *steps, ended, RECORD[-1]]).proofs
    assert re.findall(r'text-anchor="end">([\d.]+ s)<', proof.timeline) == [axis]
    (bar, *_) = (float(x) for x in re.findall(r'<rect class="bar-systemd" x="([\d.]+)"', proof.timeline))
    assert bar == pytest.approx(98.0 if first < 0 else 98.0 + 790 * first, abs=0.1)


def test_of_very_many_commands_without_an_end_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buglog, "WAITING_MAX", 2)
    record = [line(n, "intent", argv=[f"c{n}"], cwd="/", environment="") for n in range(2, 7)]
    late = line(9, "result", intent=6, status=0, stdout="", stderr="", seconds=0.1)
    (proof, _) = document([RECORD[0], *record, late, *RECORD[-3:]]).proofs
    assert [(step.title, step.ok) for step in proof.steps] == [(f"c{n}", n == 6) for n in range(2, 7)]


STEP_TEXTS = st.lists(st.integers(0, 400), max_size=60)


@given(STEP_TEXTS, st.integers(0, 30_000))
def test_steps_that_are_kept_are_the_first_and_the_last_and_have_room(lengths: list[int], budget: int) -> None:
    steps = Steps(budget)
    every = [ProofStep("journal", float(number), "x" * length) for number, length in enumerate(lengths)]
    for step in every:
        steps.add(step)
    shown = list(steps)
    kept = [step for step in shown if step.kind != "omitted"]
    omitted = [step for step in shown if step.kind == "omitted"]
    first = next((n for n, step in enumerate(kept) if step != every[n]), len(kept))
    assert kept == [*every[:first], *every[len(every) - len(kept) + first :]]
    assert len(steps) == len(every)
    assert [step.title for step in omitted] == [f"{len(every) - len(kept)} more steps are in the record"] * (
        len(kept) < len(every)
    )
    sizes = [step.size for step in every]
    assert sum(step.size for step in kept) <= budget
    if sum(sizes) <= budget // 2:
        assert kept == every
    for step in omitted:
        at = shown.index(step)
        assert sum(one.size for one in shown[:at]) <= budget // 2
        assert sum(one.size for one in shown[at + 1 :]) <= budget // 2
        # One more on either side would have had no room.
        assert sum(sizes[: at + 1]) > budget // 2
        rest = len(shown) - at - 1
        assert sum(sizes[len(sizes) - rest - 1 :]) > budget // 2
        neighbour = shown[at + 1] if rest else shown[at - 1] if at else None
        assert step.at == (neighbour.at if neighbour else 0.0)


DRAWINGS = Path(__file__).resolve().parents[1] / "fixtures/drawings"


def test_what_happened_when_is_drawn_the_same_to_the_last_byte() -> None:
    """A proof that ran from 08:44:00 to 08:45:00, with a bit of all that can happen."""
    began = 1795423440.0
    said = json.dumps({"level": "ERROR", "fields": {"message": "x" * 200}})
    beats = [replace(BEATS[n], at=began + 5 + 20 * n) for n in range(3)]
    odd = json.dumps({"fields": {"message": "HEARTBEAT", "ingest_received": 1e16, "ingest_processed": "many"}})
    steps = [
        line(2, "intent", argv=["sleep", "y" * 200], cwd="/", environment=""), line(3, "result", intent=2, status=0,
             stdout="", stderr="", seconds=7.5), line(4, "intent", argv=["false"], cwd="/", environment=""),
        line(5, "result", intent=4, status=1, stdout="", stderr="", seconds=2.5),
        line(6, "journal", by="systemd", message="Started."), line(7, "journal", by="engine", message=said),
        line(8, "journal", by="engine", message="plain"), line(9, "journal", by="engine", message=odd),
    ]  # fmt: skip
    seen = [
        *(replace(one, at=began + 4 * n) for n, one in enumerate(steps)), *beats,
        replace(line(9, "journal", by="engine", message=odd), at=began + 30),
    ]  # fmt: skip
    record = [
        RECORD[0], *sorted(seen, key=lambda one: one.at), replace(verdict(40, PROOF, ["E2"], "refuted", seconds=60.0),
        at=began + 60), RECORD[-1],
    ]  # fmt: skip
    doc = document(record)
    for name, drawing in (
        ("timeline", doc.proofs[0].timeline), ("chart", doc.proofs[0].chart), ("overview", doc.overview),
    ):  # fmt: skip
        assert drawing + "\n" == (DRAWINGS / f"proof-{name}.svg").read_text(), name


def test_log_lines_of_any_form() -> None:
    for message in ("", "plain", "{}", "[1]", '{"fields": 5}', '{"fields": {}}', '{"fields": {"message": 1}}', "null"):
        steps = list(document([RECORD[0], line(2, "journal", by="x", message=message), *RECORD[-3:]]).proofs[0].steps)
        assert re.match(r"x: ", steps[0].title)


@given(st.lists(st.tuples(st.integers(0, 3 * buglog.STEPS_SIZE), st.sampled_from([1, buglog.NOT_PROVEN_WEIGHT]))))
def test_shares_use_all_there_is_and_no_more(wanted: list[tuple[int, int]]) -> None:
    share = buglog._share(wanted)
    taken = sum(min(size, share * weight) for size, weight in wanted)
    assert taken <= buglog.STEPS_SIZE * (1 + 1e-9)
    if any(size > share * weight for size, weight in wanted):
        assert taken >= min(buglog.STEPS_SIZE * (1 - 1e-9), buglog.SHARE_MAX)
