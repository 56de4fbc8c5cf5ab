"""C3 and C4 of the judged engine, as it is installed: what must not stand in a configuration is refused, and told.

Its own `--check-config` is asked, which starts nothing; that a start agrees is for test_exit12.py and test_g0.py.
proofs/guardrails/long_configuration.py asks for every key and every value.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.misconfigured import (
    ASKING_FOR_LIVE,
    PASSWORD,
    TOO_LONG,
    Mistake,
    check,
    defaults,
    every_key,
    expect_refused,
    expect_shadow,
    expect_untouched,
    logged,
    printed,
    start,
    unknown,
    wrong_value,
)

GROUPS: dict[str, list[Mistake]] = {
    "numbers": [
        wrong_value("execution.fee_rate", "true"),
        wrong_value("risk_caps.max_exposure_usd", "nan"),
        wrong_value("risk_caps.max_symbol_exposure_usd", "inf"),
        wrong_value("risk_caps.max_open_orders", "-1"),
        wrong_value("channels.persist_channel_size", "0"),
        wrong_value("engine.keepalive_secs", "-inf"),
        wrong_value("engine.heartbeat_interval_secs", "0.0"),
        wrong_value("engine.subscribe_timeout_secs", "0"),
        wrong_value("engine.max_staleness_ms", TOO_LONG),
        wrong_value("persist.busy_timeout_ms", "999"),
        wrong_value("dashboard.refresh_seconds", "0"),
    ],
    "types": [
        wrong_value("persist.batch_size", '""'),
        wrong_value("dashboard.port", "[1]"),
        wrong_value("app.symbol", "1979-05-27"),
        wrong_value("app.db_path", '""'),
        wrong_value("engine.ws_url", '"ws://localhost:99999"'),
        wrong_value("engine.ws_url", '"ws://"'),
        wrong_value("gate.trusted_keys", "[1]"),
        wrong_value("live_armed", "1"),
        wrong_value("engine.ingest_mode", '"MOCK"'),
        wrong_value("mode", '" LIVE"'),
    ],
    "unknown": [
        unknown("live_arm", "live_armed"),
        unknown("engine.Sample_every", "sample_every"),
        unknown("risk_cap", "risk_caps", "[risk_cap]\n"),
        unknown("exchange", "", f'[exchange]\napi_kee = "{PASSWORD}"\n'),
        unknown("engine", "", "engine = 3\n"),
        unknown("strategy", "", "[[strategy]]\n"),
        unknown("channels.more", "", "[channels.more]\nsize = 1\n"),
        unknown("engine.fee_rate", "", "[engine]\nfee_rate = 0.001\n"),
    ],
}
"""Of each kind a few, of each table one: each asks the engine anew, which takes a third of a second."""

NO_TOML: dict[str, bytes | None] = {
    "UTF-16": 'mode = "SHADOW"\n'.encode("utf-16"),
    "no UTF-8": b'[app]\nsymbol = "\xff\xfe"\n',
    "half a character": b"# \xc3",
    "NULs": bytes(64),
    "a database": b"SQLite format 3\0" + bytes(range(256)),
    "a directory": None,
}
"""What may stand where a configuration should."""

NEARLY_LIVE = (" LIVE", "l\u0131ve")
"""A space, and an i without its dot."""


@pytest.mark.slow
@pytest.mark.claim("C4")
@pytest.mark.parametrize("group", GROUPS)
def test_what_must_not_stand_in_a_configuration_is_refused_and_told(engine: EngineUnit, group: str) -> None:
    with expect_untouched(engine):
        expect_refused(engine, GROUPS[group])


@pytest.mark.slow
@pytest.mark.claim("C4")
@pytest.mark.parametrize("what", NO_TOML)
def test_what_is_no_configuration_is_refused_by_name(engine: EngineUnit, what: str) -> None:
    path = engine.machine.path(engine.config_path)
    engine.configure({})
    engine.remove_config()
    if (content := NO_TOML[what]) is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    try:
        result = check(engine)
    finally:
        if path.is_dir():
            path.rmdir()
    said = [entry.event for entry in logged(result) if entry.fields.get("exit_code") == 12]
    engine.expect(result.status == 12, f"a configuration that is {what}: exit {result.status}, expected 12")
    engine.expect(
        any(engine.config_path in event for event in said), f"a configuration that is {what}, and it says {said}"
    )


@pytest.mark.slow
@pytest.mark.claim("C4")
def test_an_empty_configuration_is_one(engine: EngineUnit) -> None:
    """As is one of comments, blank lines and the ends of lines that other systems write."""
    for text in ("", "\n", "# nothing yet", "\r\n# nothing yet\r\n[app]\r\n"):
        engine.configure_text(text)
        result = check(engine)
        engine.expect(result.status == 0, f"a configuration of {text!r}: exit {result.status}")


@pytest.mark.slow
@pytest.mark.claim("C4")
@pytest.mark.parametrize("group", GROUPS)
def test_a_start_refuses_what_a_check_refuses(engine: EngineUnit, group: str) -> None:
    """And makes no file before: its own command, in its own directory, is as strict as `--check-config`."""
    with expect_untouched(engine):
        for mistake in GROUPS[group]:
            engine.configure_text(mistake.text)
            result = start(engine)
            engine.expect(result.status == 12, f"a start with {mistake.id}: exit {result.status}, expected 12")


@pytest.mark.claim("C4")
def test_every_key_of_the_contract_is_known(engine: EngineUnit) -> None:
    """The positive control: what refuses everything refuses no mistake."""
    engine.configure_text(every_key())
    result = check(engine)
    said = [entry.event for entry in logged(result) if entry.level == "ERROR"]
    engine.expect(result.status == 0, f"--check-config of every key that section 2 names: exit {result.status}: {said}")


FILE: dict[str, dict[str, object]] = {
    "app": {"db_path": "data/file.db", "symbol": "A/B"},
    "engine": {"ws_url": "ws://127.0.0.1:2/", "sample_every": 5, "run_seconds": 3.5, "parse_error_limit": 7},
}

FLAGS = {
    "--ingest": ("mockws", "engine.ingest_mode", "MOCK_WS"),
    "--db": ("elsewhere/of.db", "app.db_path", "elsewhere/of.db"),
    "--ws-url": ("ws://127.0.0.1:1/", "engine.ws_url", "ws://127.0.0.1:1/"),
    "--sample-every": ("150", "engine.sample_every", 150),
    "--seconds": ("2.5", "engine.run_seconds", 2.5),
}
"""What stands on the command line, and what the configuration is then."""


@pytest.mark.claim("C3")
def test_what_is_not_configured_is_as_the_contract_says(engine: EngineUnit) -> None:
    """Of an empty file every key has the default of section 2; of another what that says, and over it what the command
    line says."""
    engine.configure_text("")
    due = defaults()
    expect_effective(engine, due)
    engine.configure(FILE)
    due |= {f"{table}.{key}": value for table, keys in FILE.items() for key, value in keys.items()}
    flags = [word for flag, (said, _, _) in FLAGS.items() for word in (flag, said)]
    expect_effective(engine, due | {key: value for _, key, value in FLAGS.values()}, *flags)


def expect_effective(engine: EngineUnit, due: Mapping[str, object], *flags: str) -> None:
    result = check(engine, *flags)
    found = printed(result)
    engine.expect(bool(found), f"--check-config {' '.join(flags)}: exit {result.status}, no configuration as JSON")
    # Nothing may be told as null, as an empty text, as 0 or not at all.
    differ = {key: (found.get(key), value) for key, value in due.items() if (found.get(key) or None) != (value or None)}
    engine.expect(not differ, f"--check-config {' '.join(flags)}: other than due (told, due): {differ}")


@pytest.mark.claim("C1", "G0")
def test_what_is_nearly_live_is_shadow(engine: EngineUnit) -> None:
    """On the command line, over a configuration of LIVE: what only an eye or Unicode takes for it."""
    engine.configure({"mode": "LIVE", "live_armed": True})
    for mode in (*NEARLY_LIVE, "papre"):
        expect_shadow(engine, mode)


@pytest.mark.slow
@pytest.mark.claim("C1", "C4")
def test_a_flag_hides_no_mistake_of_the_file(engine: EngineUnit) -> None:
    engine.configure({"mode": "lvie"})
    result = check(engine, "--mode", "shadow")
    engine.expect(result.status == 12, f"--mode shadow over a file with mode = lvie: exit {result.status}, expected 12")


@pytest.mark.slow
@pytest.mark.claim("C4", "C2")
@pytest.mark.parametrize(
    "flags",
    [
        ("--sample-every", "0"), ("--sample-every", "-3"), ("--sample-every", "two"), ("--seconds", "nan"),
        ("--seconds", "-1"), ("--seconds", "inf"), ("--ingest", "realwss"), ("--ws-url", "http://localhost"),
        ("--sede",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_must_not_stand_on_a_command_line_is_refused(engine: EngineUnit, flags: tuple[str, ...]) -> None:
    """By a start as well, of which nothing is left."""
    engine.configure({})
    with expect_untouched(engine):
        for what, result in (("--check-config", check(engine, *flags)), ("a start", start(engine, *flags))):
            engine.expect(result.status == 12, f"{what} with {' '.join(flags)}: exit {result.status}, expected 12")
            ends = [entry.event for entry in logged(result) if entry.level == "ERROR"]
            engine.expect(bool(ends), f"{what} with {' '.join(flags)}: no ERROR line says why")


@pytest.mark.claim("C2")
def test_an_unknown_ingest_is_refused(engine: EngineUnit) -> None:
    """On the command line, where a typo of real data must not become made-up data."""
    engine.configure({"engine": {"ingest_mode": "SYNTHETIC"}})
    for asked in ("realwss", ""):
        result = check(engine, "--ingest", asked)
        said = [entry.event for entry in logged(result) if entry.level == "ERROR"]
        engine.expect(result.status == 12, f"--ingest {asked!r}: exit {result.status}, expected 12: {said}")
        engine.expect(any(asked in event.lower() for event in said), f"no ERROR line names {asked!r}: {said}")


@pytest.mark.claim("C3", "G0")
def test_only_the_default_configuration_may_be_absent(engine: EngineUnit) -> None:
    """One that was named must be there, wherever it is named; without a name the defaults are warned of, and hold,
    whatever the environment says."""
    for absent in (f"{engine.config_path}/../nowhere/config.toml", "config/config.toml"):
        result = check(engine, config=absent)
        engine.expect(result.status == 12, f"--config {absent}, which is absent: exit {result.status}")
        ends = [entry.event for entry in logged(result) if entry.level == "ERROR"]
        engine.expect(any(absent in event for event in ends), f"no ERROR line names {absent}: {ends}")
    command = engine.command_without_config()
    with engine.drop_in("30-flag", f"[Service]\n{ASKING_FOR_LIVE}\nExecStart=\nExecStart={command}\n"):
        engine.start()
        said = engine.wait_log("configuration loaded").fields["mode"]
        engine.expect(said == "SHADOW", f"without a configuration it runs {said}")
        engine.wait("a warning of the defaults", lambda entry: entry.level == "WARN" and "default" in entry.event)
        engine.stop()
        # And where it is there, it counts.
        engine.write_state("config/config.toml", '[app]\nsymbol = "OF/FILE"\ndb_path = "data/of-file.db"\n')
        engine.start()
        symbols = "SELECT DISTINCT symbol FROM ticks"
        database = engine.database.with_name("of-file.db")
        engine.wait_rows(symbols.replace("DISTINCT symbol", "count(*)"), at_least=1, database=database)
        found = engine.query(symbols, database)
        engine.expect(found == [("OF/FILE",)], f"config/config.toml names a symbol, and it trades {found}")
        engine.stop()
        # What cannot be read is not absent.
        file = engine.machine.path(f"{engine.machine.layout.state}/config/config.toml")
        file.unlink()
        file.symlink_to(file.name)
        engine.try_start()
        engine.wait_exit(12)
