"""The evidence document: a pure function of a run's flight record (contract V2).

The same record renders to the same bytes: nothing here looks at the clock, the host or the file system beside its own
templates. That is also how a document is checked: render its record again and compare.

A document stays readable and below SIZE_MAX whatever the record holds. So each proof has a budget, larger where
something was not proven; what does not fit is left out from the middle, with a note, and is in the record.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.base.escape import shown
from harness.base.plots import Series, figure
from harness.evidence import timeline
from harness.evidence.lines import (
    EndLine,
    IntentLine,
    JournalLine,
    Kept,
    LongBytes,
    MachineLine,
    RecordLine,
    ResultLine,
    RunLine,
    SabotageLine,
    ShortBytes,
    SinceLine,
    UnitLine,
    VerdictLine,
    WriteLine,
)
from harness.evidence.rejudge import heartbeat, log_fields
from harness.evidence.timeline import Span
from harness.evidence.verdict import ClauseId, Verdict, anchor, claims_in_name, merge

Lines = Iterable[RecordLine]

SIZE_MAX = 5_000_000
"""Bytes of a document."""

STEPS_SIZE = 2_400_000
"""What all steps of all proofs may take, about."""

ROWS_SIZE, SECTIONS_SIZE, GROUPS_SIZE = 1_250_000, 500_000, 150_000
"""What the rows of proofs may take, what stands above the steps of each, and the lines of their files; proofs without
room are counted."""

SHARE_MAX = 150_000
"""What the steps of one proof may take."""

NOT_PROVEN_WEIGHT = 20
"""How much larger the share of a proof is that was refuted or is unproven."""

STEP_SIZE = 420
"""What a step takes beside its texts: its markup, and its bar in the drawing."""

ROW_SIZE, SECTION_SIZE = 300, 900
"""What a proof's row takes beside its texts, and its section."""

GROUP_SIZE = 600
"""What a file of proofs takes beside its texts."""

SHOWN_OUTPUT_CHARS = 6000
"""Longer outputs are cut in the document, with a note; the record holds them whole."""

SHOWN_TITLE_CHARS = 1200

SHOWN_CELL_CHARS = 300
"""Of a text in a table."""

HEADLINES_MAX = 6
"""Proofs that are not proven, or newly broken, of which the summary tells."""

PRINTED_STEPS = 20
"""Of a proof on paper: its last ones."""

CHARTS_MAX, HEARTBEATS_MAX = 60, 120

CLAIMS_MAX = 12
"""Clauses that a file's line names."""

LANES_MAX, UNITS_MAX, SABOTAGES_MAX, WAITING_MAX = 16, 8, 400, 10_000

NUMBER_MAX = 1e15
"""What is larger is no count of ticks, and is not drawn."""

FIELDS_MAX = 8
"""A log line with more fields is shown without those that are 0."""

NEWS = {"broken": "newly not proven", "mended": "newly proven", "added": "never run before", "flaky": "not steady"}
"""In what a proof can differ from earlier runs, as a reader is told."""

_SYMBOLS = {"proven": "✔", "refuted": "✘", "unproven": "?", "planned": "…", "not run": "–"}
_GUARDRAILS = ("G0", "G1", "G2", "G3", "G4", "G5", "exit12", "stall", "sampling", "psi", "concurrency")


@dataclass
class ProofStep:
    """One thing that happened during a proof, ready to be shown."""

    kind: str
    """command, write, journal, machine, or omitted."""
    at: float
    """Seconds since the epoch."""
    title: str
    body: str = ""
    note: str = ""
    ok: bool = True
    level: str = ""
    """Of a log line: INFO, WARN, ERROR...; systemd for what systemd says; else empty."""
    seconds: float = 0.0
    """How long a command took."""

    @property
    def time(self) -> str:
        """Time of day, UTC."""
        return f"{datetime.fromtimestamp(self.at, UTC):%H:%M:%S.%f}"[:-3]

    @property
    def size(self) -> int:
        """What it takes in a document, about."""
        return STEP_SIZE + len(escape(self.title)) + len(escape(self.body)) + len(escape(self.note))


class Steps:
    """The steps that fit into a budget: the first ones and the last ones, and how many were between them."""

    def __init__(self, budget: int) -> None:
        self._budget = budget // 2
        self._first: list[ProofStep] = []
        self._last: deque[ProofStep] = deque()
        self._first_size = self._last_size = 0
        self._full = False
        self.omitted = 0

    def add(self, step: ProofStep) -> None:
        """Keep a step, at the cost of one from the middle where there is no room."""
        size = step.size
        if not self._full and self._first_size + size <= self._budget:
            self._first.append(step)
            self._first_size += size
            return
        self._full = True
        self._last.append(step)
        self._last_size += size
        while self._last_size > self._budget and self._last:
            self._last_size -= self._last.popleft().size
            self.omitted += 1

    def __iter__(self) -> Iterator[ProofStep]:
        # A command is added when it has ended, and stands where it began.
        yield from sorted(self._first, key=lambda step: step.at)
        if self.omitted:
            at = self._last[0].at if self._last else self._first[-1].at if self._first else 0.0
            yield ProofStep("omitted", at, f"{self.omitted} more steps are in the record")
        yield from sorted(self._last, key=lambda step: step.at)

    def __len__(self) -> int:
        return len(self._first) + len(self._last) + self.omitted


@dataclass
class ProofLog:
    """One proof: its verdict, and what was done and seen on the way to it."""

    proof: str
    claims: list[str]
    verdict: str
    reason: str
    seconds: float
    about: str
    """What the proof says of itself."""
    ended: float
    worker: str
    run_with: str = "pytest"
    """The command that runs proofs of this run, as far as it is the same for all."""
    told: str = ""
    """All that pytest said of it when it ended, of one that is not proven."""
    news: list[str] = field(default_factory=list)
    """In what it differs from earlier runs: members of NEWS."""
    steps: Steps = field(default_factory=lambda: Steps(0))
    heartbeats: list[tuple[float, Mapping[str, object]]] = field(default_factory=list)
    shown: bool = False
    """Whether the document has room for what was done."""
    chart: Markup = Markup("")  # noqa: RUF009
    """Ticks as the heartbeats tell them, as SVG; empty when there are too few."""

    @property
    def cell_reason(self) -> str:
        """The reason's beginning, for the table."""
        return _cut(self.reason.partition("\n")[0], SHOWN_CELL_CHARS)

    @property
    def file(self) -> str:
        """Where the test is."""
        return self.proof.partition("::")[0]

    @property
    def module(self) -> str:
        """The test module's name, without `test_`."""
        return self.file.rpartition("/")[2].removesuffix(".py").removeprefix("test_")

    @property
    def again(self) -> str:
        """The command that runs it again."""
        return f"{self.run_with} {shlex.quote(self.proof)}"

    @property
    def title(self) -> str:
        """The test's name as words, with its parameters, cut to a line or two."""
        name, bracket, params = (self.proof.partition("::")[2] or self.proof).partition("[")
        words = name.removeprefix("test_").split("_")[len(claims_in_name(name)) :]
        return _cut((" ".join(words) or name) + (f" [{params}" if bracket else ""), SHOWN_CELL_CHARS)

    @property
    def anchor(self) -> str:
        """An id for links within the document."""
        return anchor(self.proof)

    @property
    def began(self) -> float:
        return self.ended - self.seconds

    @property
    def timeline(self) -> Markup:
        """What happened when, as SVG; empty when too little did."""
        steps = [step for step in self.steps if step.kind != "omitted"]
        if len(steps) < 4:
            return Markup("")
        begun = min(self.began, steps[0].at)
        lanes: dict[str, list[Span]] = {"commands": [], "systemd": [], "log": []}
        for step in steps:
            if step.kind == "command":
                bar = Span(step.at - begun, step.seconds, "command" if step.ok else "failed", step.title[:160])
                lanes["commands"].append(bar)
            elif step.kind == "journal":
                lane = "systemd" if step.level == "systemd" else "log"
                lanes[lane].append(Span(step.at - begun, 0.0, step.level or "none", step.title[:160]))
        end = max(self.ended, *(step.at + step.seconds for step in steps))
        kinds = ("none", "DEBUG", "INFO", "systemd", "command", "WARN", "ERROR", "failed")
        return Markup(timeline.lanes("What happened when", lanes, seconds=end - begun, priority=kinds))

    def take(self, at: float, beat: Mapping[str, object]) -> None:
        """Keep a heartbeat; of too many, every second."""
        if len(self.heartbeats) == HEARTBEATS_MAX:
            del self.heartbeats[1::2]
        self.heartbeats.append((at, beat))

    def draw(self) -> None:
        """Make the chart."""
        if len(self.heartbeats) < 3 or not self.heartbeats[-1][1].get("ingest_received"):
            return
        begun = self.heartbeats[0][0]
        names = {"received": "ingest_received", "processed": "ingest_processed", "rows on disk": "tick_rows_written"}
        series = [
            Series(name, [(at - begun, _number(fields.get(key))) for at, fields in self.heartbeats])
            for name, key in names.items()
        ]
        seconds = self.heartbeats[-1][0] - begun
        self.chart = Markup(figure("Ticks since the start", series, unit="by heartbeat", seconds=seconds))


@dataclass(frozen=True)
class Group:
    """The proofs of one file, worst first."""

    file: str
    proofs: list[ProofLog]

    @property
    def anchor(self) -> str:
        """An id for links within the document."""
        return f"g{anchor(self.file)[1:]}"

    @property
    def name(self) -> str:
        return _cut(self.proofs[0].module, SHOWN_CELL_CHARS)

    @property
    def verdict(self) -> str:
        return merge(Verdict(proof.verdict) for proof in self.proofs).value

    @property
    def proven(self) -> int:
        return sum(proof.verdict == Verdict.PROVEN for proof in self.proofs)

    @property
    def seconds(self) -> float:
        return sum(proof.seconds for proof in self.proofs)

    @property
    def claims(self) -> list[str]:
        """The clauses that they claim, each once."""
        return list(dict.fromkeys(claim for proof in self.proofs for claim in proof.claims))[:CLAIMS_MAX]


@dataclass(frozen=True)
class Since:
    """What is new since earlier runs (harness/evidence/history.py)."""

    before: str
    """The run before; empty when there was none."""
    counts: Mapping[str, int]
    """By the words of NEWS."""
    gone: int


@dataclass(frozen=True)
class ClauseOutcome:
    """What became of one clause of the contract."""

    id: str
    text: str
    verdict: str
    """proven, refuted, unproven, planned, or "not run"."""
    proofs: int

    @property
    def symbol(self) -> str:
        return _SYMBOLS[self.verdict]


@dataclass(frozen=True)
class SabotageOutcome:
    """How one sabotage was taken by its proof, ready to be shown."""

    id: str
    proof: str
    guardrail: str
    breaks: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class SabotageRun:
    """How the sabotages went; of a run of its own, most times."""

    run_id: str
    started: str
    sha256: str
    lines: int
    facts: Mapping[str, str]
    entries: list[SabotageOutcome]

    @property
    def caught(self) -> int:
        return sum(entry.verdict == Verdict.REFUTED for entry in self.entries)


@dataclass(frozen=True)
class Document:
    """Everything the templates show."""

    name: str
    """File name without its ending: BUG_<date>_<slug>."""
    run_id: str
    sha256: str
    """Digest of the record's last line, which stands for all of it."""
    lines: int
    systemd: str
    verdict: str
    cut_off: bool
    """Whether the record has no end."""
    state: str
    """How much of the project's proofs the run judged: complete, partial or interrupted; empty when it has no end."""
    collected: int
    selected: int
    never_ran: int
    """How many proofs there were, were chosen, and have no verdict."""
    counts: Mapping[str, int]
    planned: list[str]
    accepted: list[str]
    started: str
    seconds: float
    facts: Mapping[str, str]
    units: list[tuple[str, str]]
    """(name, text) of each effective unit that proofs ran against."""
    guardrails: list[ClauseOutcome]
    clauses: dict[str, list[ClauseOutcome]]
    """The others, by their letter."""
    texts: Mapping[str, str]
    """Clause -> its words."""
    proofs: list[ProofLog]
    """All of them, worst first."""
    groups: list[Group]
    """Those that there is room for, by their file; files with something that is not proven come first."""
    left_out: int
    """How many there is no room for."""
    since: Since | None
    """None where nobody kept a history."""
    setting_up: Steps
    """What happened between proofs: booting, installing."""
    overview: Markup
    sabotage: SabotageRun | None

    @property
    def python(self) -> str:
        """What runs the harness, where the run's own commands ran."""
        binaries, _, name = self.facts.get("pytest", "").partition(" ")[0].rpartition("/")
        return f"{binaries}/python" if name == "pytest" and binaries else "python"

    @property
    def headlines(self) -> list[ProofLog]:
        """What the summary names: the worst proofs, those first that an earlier run had proven."""
        worst = [proof for proof in self.proofs if proof.verdict != Verdict.PROVEN]
        return sorted(worst, key=lambda proof: (proof.verdict != Verdict.REFUTED, "broken" not in proof.news))[
            :HEADLINES_MAX
        ]

    @property
    def clauses_judged(self) -> dict[str, int]:
        """How many clauses, guardrails among them, are proven, refuted and so on."""
        everything = [*self.guardrails, *(clause for members in self.clauses.values() for clause in members)]
        found = {word: sum(clause.verdict == word for clause in everything) for word in _SYMBOLS}
        return {word: count for word, count in found.items() if count}


def document(read: Callable[[], Lines], sabotage: Callable[[], Lines] | None = None) -> Document:
    """Return the document of one run.

    read: gives the lines of its flight record, in file order, each time it is called (twice: what is shown of a proof
    depends on its verdict, which comes last). sabotage: likewise of the run that has the sabotages.
    """
    pass_ = _FirstPass(read())
    proofs = pass_.proofs
    weights = {name: 1 if proof.verdict == Verdict.PROVEN else NOT_PROVEN_WEIGHT for name, proof in proofs.items()}
    share = _share([(size, weights[name]) for name, size in pass_.sizes.items() if name in weights])
    for name, proof in proofs.items():
        proof.steps = Steps(int(min(SHARE_MAX, share * weights[name])))
        proof.run_with = pass_.facts.get("pytest", proof.run_with)
    between = Steps(SHARE_MAX)
    _second_pass(read(), pass_.run_id, proofs, between)
    ordered = sorted(proofs.values(), key=_worst_first)
    rows = _within(
        ROWS_SIZE,
        ROW_SIZE,
        ordered,
        lambda proof: (proof.title, *2 * [" ".join(proof.claims)], *proof.news, proof.cell_reason),
    )
    groups = _groups(rows)
    rows = [proof for group in groups for proof in group.proofs]
    listed = set(map(id, rows))
    busy = [proof for proof in ordered if id(proof) in listed and (len(proof.steps) or proof.reason)]
    for proof in _within(
        SECTIONS_SIZE,
        SECTION_SIZE,
        busy,
        lambda proof: (proof.proof, proof.title, proof.reason, proof.about, proof.told),
    ):
        proof.shown = True
    for proof in busy[:CHARTS_MAX]:
        proof.draw()
    end = pass_.end
    state = (end.state or ("interrupted" if end.interrupted else "complete")) if end is not None else ""
    # A cut-off record may have lost its worst line, and what never ran is proven to nobody.
    verdicts = [Verdict(one.verdict) for one in proofs.values()] + [Verdict.UNPROVEN] * (state != "complete")
    planned = [shown(clause) for clause in end.planned] if end is not None else []
    broken = _FirstPass(sabotage()) if sabotage is not None else None
    # That proofs can fail is shown by the sabotages alone.
    judges = [
        *proofs.values(),
        *(broken.proofs.values() if broken is not None and broken.run_id != pass_.run_id else ()),
    ]
    clauses = _judged(pass_.clauses, judges, planned)
    by_letter: dict[str, list[ClauseOutcome]] = {}
    for clause in clauses:
        if clause.id not in _GUARDRAILS:
            by_letter.setdefault(clause.id[:1], []).append(clause)
    day = datetime.fromtimestamp(pass_.started, UTC)
    return Document(
        name=name_of(pass_.run_id, pass_.started),
        run_id=pass_.run_id,
        sha256=pass_.sha256,
        lines=pass_.lines,
        systemd=shown(end.systemd if end is not None and end.systemd else pass_.systemd),
        verdict=merge(verdicts).value,
        cut_off=end is None,
        state=state,
        collected=end.collected if end is not None else 0,
        selected=end.selected if end is not None else 0,
        never_ran=end.never_ran if end is not None else 0,
        counts={verdict.value: sum(one.verdict == verdict for one in proofs.values()) for verdict in Verdict},
        planned=planned,
        accepted=[shown(clause) for clause in end.accepted_unproven] if end is not None else [],
        started=f"{day:%Y-%m-%d %H:%M:%S} UTC",
        seconds=pass_.ended - pass_.started,
        facts=pass_.facts,
        units=pass_.units,
        guardrails=[clause for clause in clauses if clause.id in _GUARDRAILS],
        clauses=by_letter,
        texts=pass_.clauses,
        proofs=ordered,
        groups=groups,
        left_out=len(ordered) - len(rows),
        since=pass_.since,
        setting_up=between,
        overview=_overview(proofs.values(), pass_.started, pass_.ended),
        sabotage=_sabotage_run(broken) if broken is not None else None,
    )


def name_of(run_id: str, started: float) -> str:
    """Return what a run's document is called, without the ending. started: seconds since the epoch."""
    return f"BUG_{datetime.fromtimestamp(started, UTC):%Y-%m-%d}_proofs-{run_id}"


def _groups(proofs: Iterable[ProofLog]) -> list[Group]:
    by_file: dict[str, list[ProofLog]] = {}
    for proof in proofs:
        by_file.setdefault(proof.file, []).append(proof)
    groups = [Group(file, members) for file, members in by_file.items()]
    groups.sort(key=lambda group: (list(Verdict).index(Verdict(group.verdict)), group.file))
    room, found = GROUPS_SIZE, []
    for group in groups:
        room -= (
            GROUP_SIZE + len(escape(group.file)) + len(escape(group.name)) + sum(map(len, map(escape, group.claims)))
        )
        if room < 0:
            break
        found.append(group)
    return found


def _within(
    size: int, each: int, proofs: Iterable[ProofLog], texts: Callable[[ProofLog], Iterable[str]]
) -> list[ProofLog]:
    """Return the first proofs of which so many fit into `size`: each takes what its texts take, and `each` beside
    them."""
    found = []
    for proof in proofs:
        size -= each + sum(len(escape(text)) for text in texts(proof))
        if size < 0:
            break
        found.append(proof)
    return found


def _share(wanted: Sequence[tuple[int, int]]) -> float:
    """Return what a proof of weight 1 may take, so that all together take STEPS_SIZE: what one does not need, others
    have.

    wanted: (size of all its steps, weight) of each proof.
    """
    left, weights = float(STEPS_SIZE), sum(weight for _, weight in wanted)
    for size, weight in sorted(wanted, key=lambda one: one[0] / one[1]):
        if size > left / weights * weight:
            return left / weights
        left -= size
        weights -= weight
    return float(SHARE_MAX)


class _FirstPass:
    """What a run was, and how its proofs ended."""

    def __init__(self, lines: Lines) -> None:
        self.run_id, self.sha256, self.systemd = "", "", ""
        self.lines = 0
        self.started = self.ended = 0.0
        self.facts: Mapping[str, str] = {}
        self.clauses: Mapping[str, str] = {}
        self.proofs: dict[str, ProofLog] = {}
        self.units: list[tuple[str, str]] = []
        self.sabotages: list[SabotageOutcome] = []
        self.sizes: dict[str, int] = {}
        """Proof -> what all its steps would take, about; only of proofs that have some."""
        self.end: EndLine | None = None
        self.since: Since | None = None
        news: SinceLine | None = None
        unfinished: dict[str, RecordLine] = {}
        for line in lines:
            self.lines += 1
            self.sha256 = line.sha256
            self.run_id = self.run_id or shown(line.run)
            self.started = self.started or line.at
            self.ended = max(self.ended, line.at)
            self.end = None
            proof = line.proof
            match line:
                case RunLine():
                    self.facts, self.clauses = _all_shown(line.facts), _all_shown(line.clauses)
                    self.systemd = shown(line.systemd)
                case VerdictLine():
                    self.proofs[proof] = _proof(line)
                    unfinished.pop(proof, None)
                case UnitLine():
                    unit = (shown(line.name), _text(line.text))
                    self.units += [unit] if unit not in self.units and len(self.units) < UNITS_MAX else []
                case SabotageLine() if len(self.sabotages) < SABOTAGES_MAX:
                    self.sabotages.append(_sabotage(line))
                case SinceLine():
                    counts = {word: line.counts.get(word, 0) for word in NEWS}
                    self.since, news = Since(shown(line.before), counts, line.gone), line
                case EndLine():
                    self.end = line
                case _ if proof and proof not in self.proofs:
                    unfinished[proof] = line
            if proof and not isinstance(line, VerdictLine):
                size = STEP_SIZE + 2 * sum(min(len(text), SHOWN_OUTPUT_CHARS) for text in _texts(line))
                self.sizes[proof] = self.sizes.get(proof, 0) + size
        for proof, line in unfinished.items():
            self.proofs[proof] = _unfinished(line)
        for word in NEWS if news is not None else ():
            for proof in getattr(news, word):
                if proof in self.proofs and word not in self.proofs[proof].news:
                    self.proofs[proof].news.append(word)


def _all_shown(texts: Mapping[ClauseId, str] | Mapping[str, str]) -> dict[str, str]:
    return {shown(name): shown(text) for name, text in texts.items()}


def _texts(line: RecordLine) -> Iterator[str]:
    """Yield what of a line a step shows, about."""
    match line:
        case IntentLine():
            yield str(line.argv)
        case ResultLine():
            yield from (_kept(line.stdout), _kept(line.stderr))
        case WriteLine() | UnitLine() if line.text is not None:
            yield _kept(line.text)
        case JournalLine():
            yield _kept(line.message)


def _proof(line: VerdictLine) -> ProofLog:
    return ProofLog(
        proof=shown(line.proof),
        claims=[shown(claim) for claim in line.claims],
        verdict=line.verdict.value,
        reason=_cut(_text(line.reason)),
        seconds=line.seconds,
        about=_text(line.about)[:SHOWN_TITLE_CHARS],
        ended=line.at,
        worker=shown(line.worker),
        told=_cut(_text(line.told)),
    )


def _unfinished(line: RecordLine) -> ProofLog:
    """Return a proof whose last line this is, and that has no verdict."""
    return ProofLog(
        proof=shown(line.proof),
        claims=[],
        verdict=Verdict.UNPROVEN.value,
        reason="no verdict was recorded: the run was cut off in the middle of it",
        seconds=0.0,
        about="",
        ended=line.at,
        worker=shown(line.worker),
    )


def _sabotage(line: SabotageLine) -> SabotageOutcome:
    return SabotageOutcome(
        id=shown(line.id),
        proof=shown(line.proof),
        guardrail=shown(line.guardrail),
        breaks=shown(line.breaks),
        verdict=shown(line.verdict),
        reason=_cut(_text(line.reason), SHOWN_CELL_CHARS),
    )


def _second_pass(lines: Lines, run_id: str, proofs: Mapping[str, ProofLog], between: Steps) -> None:
    waiting: dict[tuple[str, int], tuple[ProofStep, Steps]] = {}
    for line in lines:
        if line.run != run_id:
            continue
        proof = proofs.get(line.proof)
        steps = between if proof is None else proof.steps
        match line:
            case IntentLine():
                waiting[line.worker, line.seq] = (_command(line), steps)
                if len(waiting) > WAITING_MAX:
                    oldest, its_steps = waiting.pop(next(iter(waiting)))
                    its_steps.add(oldest)
            case ResultLine():
                started, its_steps = waiting.pop((line.worker, line.intent), (None, steps))
                if started is not None:
                    _finish(started, line)
                    its_steps.add(started)
            case WriteLine():
                steps.add(_write(line))
            case JournalLine():
                steps.add(_journal(line))
                if proof is not None and (beat := heartbeat(line)) is not None:
                    proof.take(line.at, beat)
            case MachineLine():
                steps.add(ProofStep("machine", line.at, shown(f"{line.variant} machine {line.name} {line.event}")))
    for started, its_steps in waiting.values():
        its_steps.add(started)


def _judged(texts: Mapping[str, str], proofs: Iterable[ProofLog], planned: Iterable[str]) -> list[ClauseOutcome]:
    found: dict[str, list[Verdict]] = {}
    for proof in proofs:
        for claim in proof.claims:
            found.setdefault(claim, []).append(Verdict(proof.verdict))
    later = set(planned)
    judged = []
    for clause in (*texts, *(claim for claim in sorted(found) if claim not in texts)):
        verdicts = found.get(clause, [])
        verdict = "planned" if clause in later else merge(verdicts).value if verdicts else "not run"
        judged.append(ClauseOutcome(clause, texts.get(clause, ""), verdict, len(verdicts)))
    return judged


def _sabotage_run(found: _FirstPass) -> SabotageRun:
    return SabotageRun(
        run_id=found.run_id,
        started=f"{datetime.fromtimestamp(found.started, UTC):%Y-%m-%d %H:%M:%S} UTC",
        sha256=found.sha256,
        lines=found.lines,
        facts=found.facts,
        entries=found.sabotages,
    )


def _overview(proofs: Iterable[ProofLog], started: float, ended: float) -> Markup:
    rows: dict[str, list[Span]] = {}
    for proof in sorted(proofs, key=lambda proof: (proof.worker, proof.ended)):
        bar = Span(proof.began - started, proof.seconds, proof.verdict, f"{proof.module}: {proof.title}"[:160])
        if proof.worker in rows or len(rows) < LANES_MAX:
            rows.setdefault(proof.worker, []).append(bar)
    if not rows:
        return Markup("")
    kinds = ("proven", "unproven", "refuted")
    drawing = timeline.lanes("When each proof ran, by worker", rows, seconds=ended - started, priority=kinds)
    return Markup(drawing)


@cache
def environment() -> Environment:
    """Return what renders the templates beside this module; what is put into HTML is escaped."""
    made = Environment(
        loader=PackageLoader("harness.evidence"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"fence": _fence, "cell": _cell, "clause": _clause_cells}
    made.globals |= {"NEWS": NEWS, "PRINTED_STEPS": PRINTED_STEPS}
    return made


def render(doc: Document) -> dict[str, str]:
    """Return the document as {file name: text}, Markdown and HTML."""
    return {
        f"{doc.name}.md": environment().get_template("buglog.md.j2").render(doc=doc),
        f"{doc.name}.html": environment().get_template("buglog.html.j2").render(doc=doc),
    }


def _worst_first(proof: ProofLog) -> tuple[int, str]:
    return (list(Verdict).index(Verdict(proof.verdict)), proof.proof)


def _command(line: IntentLine) -> ProofStep:
    argv, where = line.argv, " on the host"
    if argv[:2] == ["nsenter", "-t"] and argv[3:4] == ["-a"]:
        argv, where = argv[4:], ""
    title = _cut(shown(shlex.join(argv)), SHOWN_TITLE_CHARS)
    return ProofStep("command", line.at, title, note=f"interrupted{where}: no result was recorded", ok=False)


def _write(line: WriteLine) -> ProofStep:
    # A file of a machine is written through the root of its PID 1.
    path = _text(line.path)
    inside = path.partition("/root/")[2] if path.startswith("/proc/") else ""
    body = "(removed)" if line.text is None else _cut(_text(line.text))
    return ProofStep("write", line.at, _cut(f"/{inside}" if inside else path, SHOWN_TITLE_CHARS), body)


def _journal(line: JournalLine) -> ProofStep:
    level, message = _one_line(_kept(line.message))
    by_systemd = line.by == "systemd"
    title = _cut(shown(message if by_systemd else f"{line.by}: {message}"), SHOWN_TITLE_CHARS)
    return ProofStep("journal", line.at, title, level="systemd" if by_systemd else level, ok=level != "ERROR")


def _finish(step: ProofStep, line: ResultLine) -> None:
    where = " on the host" if "on the host" in step.note else ""
    step.body = _cut((_text(line.stdout) + _text(line.stderr)).rstrip("\n"))
    step.seconds = line.seconds
    step.note = f"{_status(line.status)}{where}, {step.seconds * 1000:.0f} ms"
    step.ok = line.status == 0


def _text(value: Kept) -> str:
    """Return what the record keeps of a text, as far as a document shows it (harness/evidence/recorder.py)."""
    return shown(_kept(value))


def _kept(value: Kept) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, ShortBytes):
        return f"[no text; base64: {value.base64}]"
    where = f"{value.bytes} bytes in blobs/{value.blob}"
    if isinstance(value, LongBytes):
        return f"[no text; {where}]"
    return f"{value.head}\n[... {where} ...]\n{value.tail}"


def _status(status: int) -> str:
    return f"exit {status}" if status >= 0 else f"signal {-status}"


def _cut(text: str, chars: int = SHOWN_OUTPUT_CHARS) -> str:
    if len(text) <= chars:
        return text
    return f"{text[:chars]}\n[{len(text) - chars} more characters in the record]"


def _number(value: object) -> float | None:
    # A journal line is anybody's text, and JSON numbers have no largest one.
    return float(value) if isinstance(value, int | float) and abs(value) < NUMBER_MAX else None


def _one_line(message: str) -> tuple[str, str]:
    # The engine logs JSON; its event and fields read better than the envelope.
    found = log_fields(message)
    if found is None:
        return "", message
    level, fields = found
    event = str(fields.pop("message"))
    shown = fields if len(fields) <= FIELDS_MAX else {key: value for key, value in fields.items() if value != 0}
    zeros = f" (0: {len(fields) - len(shown)} others)" if len(shown) < len(fields) else ""
    return level, f"{level} {event} {' '.join(f'{key}={value}' for key, value in shown.items())}".strip() + zeros


def _clause_cells(text: str) -> tuple[str, str]:
    """Return what a clause is and what its proof is, from its row or bullet in the contract."""
    if text.startswith("|"):
        cells = [cell.strip() for cell in text.strip("| ").split(" | ")]
        return cells[1] if len(cells) > 1 else "", cells[2] if len(cells) > 2 else ""
    return text.partition(" ")[2].partition(" ")[2] if text.startswith("* ") else text, ""


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table, where neither markup nor the table's own signs may come from it."""
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "\\`", "[": "\\[", "\n": " ", "\r": " "}
    return "".join(entities.get(char, char) for char in text)


def _fence(text: str) -> str:
    # A fence must be longer than any run of backticks inside it (CommonMark 4.5).
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{text}\n{ticks}"


def story(read: Callable[[], Lines], wanted: str) -> tuple[bool, list[str]]:
    """Return whether one proof is named, and all that the record holds of it, as lines for a terminal; else those there
    are.

    wanted: the proof's id, a part of it, or the beginning of its anchor().
    """
    pass_ = _FirstPass(read())
    everybody = pass_.proofs.values()
    found = [proof for proof in everybody if wanted in proof.proof or anchor(proof.proof).startswith(wanted)]
    exact = [proof for proof in found if proof.proof == wanted]
    if len(exact or found) != 1:
        listed = sorted(f"{anchor(proof.proof)}  {proof.verdict:<8}  {proof.proof}" for proof in found or everybody)
        return False, [f"{len(found)} proofs of run {pass_.run_id} are named by {shown(wanted)}; there are:", *listed]
    (proof,) = exact or found
    proof.steps = Steps(STEPS_SIZE)
    _second_pass(read(), pass_.run_id, {proof.proof: proof}, Steps(0))
    lines = [
        f"{proof.verdict}  {proof.proof}",
        f"run {pass_.run_id}, {proof.worker}, {proof.seconds:.3f} s, claims {', '.join(proof.claims)}",
        *(f"  {clause}: {pass_.clauses[clause]}" for clause in proof.claims if clause in pass_.clauses),
    ]
    if proof.about:
        lines += ["", proof.about]
    if proof.verdict != Verdict.PROVEN:
        lines += ["", "--- what pytest said ---", *(proof.told or proof.reason).splitlines()]
    lines += ["", "--- what was done and seen (UTC) ---"]
    for step in proof.steps:
        note = f"  ({step.note})" if step.note else ""
        sign = {"command": "$ ", "write": "> "}.get(step.kind, "")
        lines += [
            f"{step.time}  {sign}{step.title}{note}",
            *(f"              {line}" for line in step.body.splitlines()),
        ]
    for name, text in pass_.units:
        lines += ["", f"--- the effective unit {name} ---", *text.splitlines()]
    return True, lines
