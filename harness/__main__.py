"""`python -m harness`: parse and delegate."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from harness import scripts
from harness.base import arguments, terminal
from harness.base.errors import HarnessError
from harness.base.progress import shortened

# Name -> where its arguments and its work are, and what it is for. Only what is asked for is imported: it takes longer
# than the work of most commands.
_ELSEWHERE = {
    "soak": (
        "harness.soak.controller", "add_arguments", "run",
        "watch the running unit, throttle and restart it, keep a decision log",
    ),
    "soak-report": (
        "harness.soak.controller", "add_report_arguments", "run_report", "render the report of a soak again",
    ),
    "healthcheck": (
        "harness.observing.health", "add_arguments", "run",
        "check unit, database, heartbeat, books and pressure; exit status 0 or 1",
    ),
    "backup": ("harness.upkeep.backup", "add_arguments", "run", "copy the engine's database while the engine runs"),
    "publish": (
        "harness.upkeep.publish", "add_arguments", "run",
        "copy verdicts and buglog to where the installed dashboard reads them",
    ),
    "ctl": (
        "harness.upkeep.ctl", "add_arguments", "run",
        "list, check, start and stop every engine of this computer, or the named ones",
    ),
    "bundle": ("harness.bundle.bundle", "add_arguments", "run", "make keys, sign proof bundles, verify and show them"),
    "merge": (
        "harness.proving.merge", "add_arguments", "run", "make one run of those of several computers, to be signed",
    ),
    "debian": (
        "harness.machines.debian", "add_arguments", "run",
        "run a command on another Debian, in a directory, on a fresh clone of this checkout",
    ),
    "stress": (
        "harness.proving.stress", "add_arguments", "run",
        "run the whole suite repeatedly, shuffled, on a quiet and on a busy computer",
    ),
    "dashboard": (
        "harness.dashboard.command", "add_arguments", "run",
        "serve one live page about the engine, /healthz and /metrics",
    ),
    "diagnose": (
        "harness.diagnosis.diagnose", "add_arguments", "run",
        "find which resource is under pressure, and which unit causes it",
    ),
}  # fmt: skip


@terminal.command
def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return the exit status: 0 fine, 1 not, 2 wrong usage."""
    words = sys.argv[1:] if argv is None else argv
    try:
        options = _parser(words).parse_args(words)
        return int(options.run(options))
    except ModuleNotFoundError as error:
        print(f"harness: {scripts.missing(error)}", file=sys.stderr)
        return 2
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return 130


CLAUSE_CHARS = 90
"""Of a clause's words in the list of clauses."""

EPILOG = """\
The proofs themselves run under pytest: `make proofs`, or `.venv/bin/pytest proofs -k exit12`.

examples:
  python -m harness doctor
  python -m harness diagnose --window 3
  python -m harness soak --seconds 180 --mode synthetic
  python -m harness COMMAND --help                     the command's options, and examples
"""


def _parser(argv: Sequence[str]) -> arguments.CommandParser:
    parser = arguments.CommandParser(
        prog="python -m harness",
        description="Run, break, watch and judge a trading engine under a real systemd.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "doctor", help="show what this computer can prove, and what to install for the rest",
        description="Print a line for each thing that a proof may need. Exit status 1 when a needed one is missing.",
        epilog="examples:\n  python -m harness doctor --json\n  NO_COLOR=1 python -m harness doctor",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="the same as one JSON array")
    command.set_defaults(run=_doctor)

    command = commands.add_parser(
        "buglog", help="render the last run's flight record, and the history of the runs",
        description="Render the flight record of the last proof run, and the table of the last sabotages, to Markdown "
        "and one self-contained HTML file under reports/buglog; and the history of the runs to reports/history.html.",
        epilog="examples:\n  python -m harness buglog && xdg-open reports/buglog/*.html\n"
        "  python -m harness buglog --junit reports/junit.xml --allure reports/allure",
    )  # fmt: skip
    command.add_argument("--reports", type=Path, default=Path("reports"), help="where runs report (default: reports)")
    command.add_argument(
        "--run", dest="run_id", metavar="ID", help="a run below reports/runs (default: the last that came to its end)"
    )
    command.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML, for a CI server")
    command.add_argument("--allure", type=Path, metavar="DIR", help="also write Allure results, for `allure generate`")
    command.set_defaults(run=_buglog)

    command = commands.add_parser(
        "show", help="print all that a record holds of one proof",
        description="Print what was done and seen during one proof: commands with what came back, journal lines, the "
        "effective unit, and what pytest said. Works when the run is over. Exit status 1 when not one proof is named.",
        epilog="examples:\n  python -m harness show test_crash_is_restarted\n"
        "  python -m harness show p-3fa2b81c --run 1795534996-fb890a86      as a refutation prints it",
    )  # fmt: skip
    command.add_argument(
        "proof", metavar="PROOF", help="its id, a part of it, or the short name that a refutation prints"
    )
    command.add_argument("--reports", type=Path, default=Path("reports"), help="where runs report (default: reports)")
    command.add_argument("--run", dest="run_id", metavar="ID", help="a run below reports/runs (default: the last)")
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "verify", help="check a flight record, a buglog or a proof bundle",
        description="Check a flight record (.jsonl): every line, every long output beside it, that it has its end, and "
        "that what it tells of the engine keeps the contract. Check a buglog (.html, .md): its records likewise, and "
        "that the file is to the byte what they render to. Check a proof bundle (.json): that one of the trusted keys "
        "signed it, and that its record is the one that it names. Exit status 0 "
        "when all is right, 1 with the first bad line when not.",
        epilog="Without a PATH: the record of the last run, and the buglogs that were made of it.\n\nexamples:\n"
        "  python -m harness verify\n"
        "  python -m harness verify evidence/buglog/*.html\n"
        "  python -m harness verify reports/proof_bundle.json --trust ~/proof.key.pub",
    )  # fmt: skip
    command.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a record, a buglog or a bundle")
    command.add_argument(
        "--reports", type=Path, help="where a buglog's records are (default: above the buglog; without one, reports)"
    )
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="a public key that may have signed a bundle, or its file",
    )
    command.set_defaults(run=_verify)

    command = commands.add_parser(
        "contract", help="list the clauses of docs/contract.md, and which are planned",
        description="Compare docs/contract.md with config/contract.toml. Exit status 1 when they disagree.",
        epilog="examples:\n  python -m harness contract | grep planned\n"
        "  python -m harness contract --update          after a change of docs/contract.md, or of a proof's claims",
    )  # fmt: skip
    command.add_argument(
        "--update",
        action="store_true",
        help="take over clauses and digests from docs/contract.md, and list the proofs in it",
    )
    command.add_argument("--interface", action="store_true", help="print what the author of another engine has to know")
    command.add_argument("--json", action="store_true", help="print the clauses as one JSON array, words included")
    command.set_defaults(run=_contract)

    for name, (module, options, run, about) in _ELSEWHERE.items():
        command = commands.add_parser(name, help=about)
        if name in argv[:1]:
            home = importlib.import_module(module)
            getattr(home, options)(command)
            command.set_defaults(run=getattr(home, run))
    return parser


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


# Everything below imports what it needs where it needs it, so that `--help` takes 40 ms. What proves comes with
# pytest-hybrid-proofs, of which an installation that only operates the engine has none.


def _doctor(options: argparse.Namespace) -> int:
    import dataclasses

    from harness.machines import doctor

    findings = doctor.examine()
    if options.json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print(doctor.report(findings, colour=terminal.coloured(sys.stdout), columns=terminal.columns()))
    return int(any(finding.needed and not finding.ok for finding in findings))


def _buglog(options: argparse.Namespace) -> int:
    from harness.evidence import buglog, exports, history, trend, verify

    record = verify.record_of(options.reports, options.run_id or _last_run(options.reports))
    doc = verify.document(record, _sabotage_record(options.reports))
    documents = options.reports / "buglog"
    files = {documents / name: text for name, text in buglog.render(doc).items()}
    if options.junit is not None:
        files[options.junit] = exports.junit(doc)
    if options.allure is not None:
        files |= {options.allure / name: text for name, text in exports.allure(doc).items()}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(verify.encoded(text))
            if path.parent != options.allure:
                print(path)
        if options.allure is not None:
            print(options.allure)
        told = options.reports / history.FILE_NAME
        if told.exists():
            rendered = {path.name for path in documents.glob("BUG_*.html")}
            page = trend.page(history.parse(told.read_text("utf-8", "replace")), rendered)
            (options.reports / "history.html").write_bytes(verify.encoded(page))
            print(options.reports / "history.html")
    except OSError as error:
        raise HarnessError(f"cannot write {error.filename}: {error.strerror}") from error
    return 0


def _show(options: argparse.Namespace) -> int:
    from harness.evidence import verify

    record = verify.record_of(options.reports, options.run_id or _last_run(options.reports))
    found, lines = verify.story(record, options.proof)
    print("\n".join(lines))
    return int(not found)


def _last_evidence(reports: Path) -> list[Path]:
    from harness.evidence import verify

    run = _last_run(reports)
    return [verify.record_of(reports, run), *sorted((reports / "buglog").glob(f"*{run}.*"))]


def _last_run(reports: Path) -> str:
    from harness.evidence import results

    return results.read(reports).run_id


def _sabotage_record(reports: Path) -> Path | None:
    """Return the record of the last sabotages, unless there were none or they were forgotten."""
    from harness.evidence import verify

    try:
        record = verify.record_of(reports, str(json.loads((reports / "sabotage.json").read_text())["run_id"]))
    except OSError:
        return None
    return record if record.exists() else None


def _verify(options: argparse.Namespace) -> int:
    from harness.evidence import verify

    refused = 0
    for path in options.paths or _last_evidence(options.reports or Path("reports")):
        try:
            if path.suffix == ".json":
                # Signatures need more libraries than all else here, and a distribution that an installation has not.
                from harness.bundle import bundle

                print(bundle.check(path, options.reports or path.parent, options.trust))
            else:
                print(verify.check(path, options.reports))
        except HarnessError as error:
            refused += 1
            print(f"harness: {error}", file=sys.stderr)
    return int(refused > 0)


def _proof_sources() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in Path("proofs").rglob("test_*.py")}


def _contract(options: argparse.Namespace) -> int:
    import dataclasses

    from harness.proving import contract

    text, table = Path("docs/contract.md"), Path("config/contract.toml")
    try:
        texts = contract.clauses(text.read_text("utf-8"))
        listed = contract.listed(tomllib.loads(table.read_text("utf-8")) if table.exists() else {})
    except OSError as error:
        raise HarnessError(f"cannot read {error.filename}: {error.strerror}; run this in the checkout") from error
    except ValueError as error:
        raise HarnessError(f"{table}: {error}") from error
    if options.interface:
        print(contract.interface(text.read_text("utf-8"), listed, _proof_sources()), end="")
        return 0
    if options.update:
        planned = [clause for clause in texts if clause not in listed or listed[clause].planned]
        of_harness = [clause.id for clause in listed.values() if not clause.engines]
        table.write_text(contract.as_toml(texts, planned, of_harness), "utf-8")
        listed = contract.listed(tomllib.loads(table.read_text("utf-8")))
        text.write_text(contract.with_table(text.read_text("utf-8"), listed, _proof_sources()), "utf-8")
        return 0
    if options.json:
        _print_json([{**dataclasses.asdict(entry), "text": texts.get(clause, "")} for clause, entry in listed.items()])
    else:
        for clause, entry in listed.items():
            words = " ".join(texts.get(clause, "").split())
            print(f"{'planned' if entry.planned else 'built':<8} {clause:<12} {shortened(words, CLAUSE_CHARS)}")
    for line in (wrong := contract.disagreements(texts, listed)):
        print(f"harness: {line}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
