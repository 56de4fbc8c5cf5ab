"""exit12: what no restart can heal is not restarted, and everything else is (contract E2, E3, C3, C4).

The claim "it was not restarted" is worth as much as the proof that it would have been noticed: the metronome
restarts all the while, the positive controls restart under the same drop-ins, and test_sabotage.py shows that a
sabotaged unit is caught.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from harness.base.clock import OsClock, poll
from harness.base.errors import Unavailable
from harness.base.journal import Entry
from harness.base.unit import exec_start
from harness.base.waiting import awaiting
from harness.faults import nemesis
from harness.faults.exchange import Exchange
from harness.machines.systemd import METRONOME
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.misconfigured import PASSWORD, Mistake, faults_of_line, unknown, wrong_value

OBSERVED_RESTART_DELAYS = 3

GOES_ON_TICKS = 10
"""As many more than are stored, when an engine goes on."""

NAMES = {1: "CRASH", 10: "NETWORK", 11: "PARSE", 13: "OVERLOAD"}
"""What the contract's table calls the exits that are restarted."""

LIMIT_SECS = 1
"""What an engine is told to bear something for."""

REASON_CHARS = 500
"""So much of it STATUS= has, of a message that is longer."""

PATIENCE_SECS = 1.5
"""By how much longer it may have borne it, on a busy computer."""

MISCONFIGURED = {
    # case: (configuration or None for no file at all, what the one log line must name)
    "toml-syntax-error": ("invalid = [toml\n", []),
    "unknown-key": (
        f'[engine]\ntick_intervall_ms = "{PASSWORD}"\n',
        ["engine.tick_intervall_ms", "tick_interval_ms"],
    ),
    "wrong-type": ('[engine]\nsample_every = "five"\n', ["engine.sample_every", "five"]),
    "risk-cap-zero": ("[risk_caps]\nmax_exposure_usd = 0\n", ["risk_caps.max_exposure_usd", "0"]),
    "long-key": (f"[engine]\n{'tick-' * 120} = 1\n", ["engine.tick-tick"]),
    "long-key-of-another-script": ('[engine]\n"' + "\u5728" * 600 + '" = 1\n', ["engine."]),
    "missing-file": (None, []),
    "source-without-trades": (
        '[engine]\ningest_mode = "REAL_WS"\n',
        ["BTCUSDT@trade"],
    ),
    "live-without-gate": ('mode = "LIVE"\n', ["LIVE", "live_armed", "proof bundle"]),
}

MISTAKES = {
    "unknown-key": unknown("engine.tick_intervall_ms", "tick_interval_ms"),
    "wrong-type": Mistake("wrong-type", "", "engine.sample_every", "five"),
    "risk-cap-zero": wrong_value("risk_caps.max_exposure_usd", "0"),
}
"""What the line of a start must name beside that, as `--check-config` has to (test_configuration.py)."""

HOPELESS = '[[source]]\nname = "a"\nurl = "wss://stream.binance.com:9443/ws/BTCUSDT@trade"\npriority = 1\n'


def misconfigure(engine: EngineUnit, case: str) -> None:
    text, _ = MISCONFIGURED[case]
    engine.configure_sources(HOPELESS)
    if text is None:
        engine.remove_config()
    else:
        engine.configure_text(text)


def prove_not_restarted(engine: EngineUnit) -> None:
    """The claim of E2. Expects a configuration that the engine must refuse."""
    started = engine.try_start(METRONOME)
    engine.expect(started.status != 0, "systemctl start succeeded on a configuration that must be refused")
    engine.wait_exit(12)
    first, *later = engine.metronome.beats(OBSERVED_RESTART_DELAYS, watched=engine)
    last = later[-1]
    engine.expect(
        last.n_restarts == 0,
        f"the unit restarted {last.n_restarts} times on exit status 12, which no restart can heal",
        "RestartPreventExitStatus",
    )
    engine.expect(last.active == "failed", f"expected the unit to be failed, it is {last.active}")
    engine.expect(last.exec_main_status == 12, f"expected exit status 12, got {last.exec_main_status}")
    engine.expect(
        all(state == first for state in later), "the unit changed after it had failed: something started it again"
    )


@pytest.mark.claim("exit12", "E2", "M4", "M1")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("toml-syntax-error", marks=pytest.mark.claim("C4")),
        pytest.param("unknown-key", marks=pytest.mark.claim("C4")),
        pytest.param("wrong-type", marks=pytest.mark.claim("C4")),
        pytest.param("risk-cap-zero", marks=pytest.mark.claim("C4")),
        pytest.param("long-key", marks=[pytest.mark.claim("C4"), pytest.mark.slow]),
        pytest.param("long-key-of-another-script", marks=[pytest.mark.claim("C4"), pytest.mark.slow]),
        pytest.param("missing-file", marks=pytest.mark.claim("C3")),
        pytest.param("source-without-trades", marks=pytest.mark.claim("N13")),
        pytest.param("live-without-gate", marks=pytest.mark.claim("G0", "S14")),
    ],
)
def test_misconfigured_unit_stays_down_and_says_why(engine: EngineUnit, case: str) -> None:
    misconfigure(engine, case)
    prove_not_restarted(engine)
    line = engine.wait(
        "an ERROR line that names the file",
        lambda e: e.level == "ERROR" and any(path in e.event for path in (engine.config_path, engine.sources_path)),
    )
    said = " ".join(map(str, line.fields.values()))
    for word in MISCONFIGURED[case][1]:
        engine.expect(word in said, f"the log line does not name {word!r}")
    told = [entry.message for entry in engine.whole_journal() if PASSWORD in entry.message]
    engine.expect(not told, f"the log shows the value of a key that is not known: {told}")
    if case in MISTAKES:
        faults = faults_of_line(MISTAKES[case], line, engine.config_path)
        engine.expect(not faults, f"C4: {'; '.join(faults)}")
    # What `systemctl status` shows of it, and what `journalctl -p err` finds.
    status = engine.property("StatusText")
    engine.expect(tells(status, line.event, " (exit 12 CONFIG)"), f"systemctl status says {status!r}")
    engine.expect(line.priority == 3, f"the line has priority {line.priority}, an error has 3")


@pytest.mark.claim("exit12", "E2")
def test_mended_unit_runs(engine: EngineUnit, exchange: Exchange) -> None:
    """The operator mends the file and restarts the unit, and ticks reach the database."""
    misconfigure(engine, "unknown-key")
    engine.try_start()
    state = engine.show()
    engine.expect(
        (state.active, state.exec_main_status) == ("failed", 12),
        f"the unit is {state.active}, exit status {state.exec_main_status}, where it must be failed with 12",
    )
    exchange.feed(interval_secs=0.005)
    engine.configure(
        {"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}, "persist": {"flush_interval_ms": 10}}
    )
    engine.start()
    engine.wait_ticks(1)


@pytest.mark.claim("exit12", "E3", "M4")
def test_crash_is_restarted(engine: EngineUnit) -> None:
    """Exit 1: the disk is full when the database is opened."""
    # systemd makes the state directory, in which the disk may be, at the first start.
    engine.try_start()
    disk = engine.machine.layout.disk
    engine.configure({"app": {"db_path": f"{disk}/bot.db"}})
    with reasons_told(engine), nemesis.small_disk(engine.machine, disk, "4k"), nemesis.full_disk(engine.machine, disk):
        engine.try_start()
        expect_restarts_with(engine, 1)
        engine.stop()


@pytest.mark.slow
@pytest.mark.claim("exit12", "E3", "M4")
def test_start_that_fails_for_now_is_restarted(engine: EngineUnit) -> None:
    """Exit 1: somebody else has the database, and it runs as soon as that is over; and then no thread can be had, or no
    descriptor, for which no engine has a rule, unless it needs none."""
    engine.configure({"engine": {"tick_interval_ms": 5}, "persist": {"flush_interval_ms": 10, "busy_timeout_ms": 1000}})
    engine.start()
    engine.wait_ticks(1)
    engine.stop()
    with reasons_told(engine):
        with nemesis.held(engine.database):
            engine.try_start()
            expect_restarts_with(engine, 1)
        engine.wait_log("HEARTBEAT (G4)")
    if engine.machine.kind == "user":
        raise Unavailable("a user's other processes count among the threads", "use PROOFS_SYSTEMD=private, as root")
    # systemd itself needs more descriptors than that to start it.
    few = exec_start(["/bin/sh", "-c", 'ulimit -n 5 && exec "$@"', "sh", *engine.argv()])
    for what, limit in (("thread", "LimitNPROC=1"), ("descriptor", f"ExecStart=\nExecStart={few}")):
        with engine.drop_in("40-limit", f"[Service]\n{limit}\n"):
            engine.try_start()
            goes_on = engine.goes_on(GOES_ON_TICKS)
            engine.expect(goes_on is not None, f"without a {what} to be had it stores nothing, and does not end")
            if not goes_on:
                ended = engine.wait("the end of it", lambda e: "Main process exited" in e.message)
                engine.expect("status=1/" in ended.message, f"without a {what} to be had: {ended.message}, not 1")
                engine.wait_restarts(1)


@pytest.mark.slow
@pytest.mark.claim("exit12", "E3", "M4")
def test_lost_network_is_restarted(engine: EngineUnit, exchange: Exchange) -> None:
    """Exit 10, that long after the last connection: a shorter time without one ends nothing. And so in the next run,
    which never has one, but reaches somebody who says nothing."""
    with reasons_told(engine):
        engine.connect(exchange, engine={"network_give_up_secs": LIMIT_SECS})
        exchange.send_ticks(5)
        engine.wait_ticks(5)
        with nemesis.refusing(exchange, 401):
            exchange.wait_refusals(3)
        exchange.wait_client(connections=2)
        exchange.send_ticks(5)
        engine.wait_ticks(10)
        began = OsClock().wall()
        with nemesis.unreachable(exchange):
            ended, final = expect_restarts_with(engine, 10)
            expect_in_time(engine, ended.realtime_us / 1e6 - began, "network_give_up_secs")
            engine.expect_stored(final)
            engine.expect(final["ingest_received"] == 10, f"{final['ingest_received']} of 10 received")
            with nemesis.unanswered(exchange):
                expect_ends_again(engine, 10, ended)
            engine.wait_restarts(2)


@pytest.mark.claim("exit12", "E3", "M4", "N8")
def test_changed_protocol_is_restarted(engine: EngineUnit, exchange: Exchange) -> None:
    """Exit 11: the exchange talks, and nothing it says can be understood."""
    # One fewer than the limit, and what can be understood, new or not, begins the count anew; and then as many as it
    # is, no more, over what is no tick and over a reconnect.
    moved, ignored = "<html>we have moved</html>", '{"type": "heartbeat"}'
    before = [*[moved] * 4, exchange.tick(1)]
    exchange.on_connect_send([*before, *before, *[moved] * 3, ignored])
    with reasons_told(engine):
        engine.connect(exchange, engine={"parse_error_limit": 5})
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ignored"] == 1)
        exchange.on_connect_send([moved, ignored, moved])
        exchange.drop_clients()
        ended, final = expect_restarts_with(engine, 11)
        # And so for as long as it lasts: the next run is no other.
        exchange.on_connect_send([moved] * 5)
        exchange.drop_clients()
        expect_ends_again(engine, 11, ended)
        engine.stop()
    told = f"{final['parse_errors']} unusable messages and {final['ingest_received']} ticks"
    engine.expect(final["parse_errors"] == 13 and final["ingest_received"] == 1, f"it ended after {told}, not 13 and 1")
    late = ended.realtime_us / 1e6 - exchange.opened[1]
    engine.expect(late <= PATIENCE_SECS, f"it ended {late:.1f} s after the messages were sent")
    engine.expect_stored(final)


@pytest.mark.slow
@pytest.mark.claim("exit12", "E3", "M4", "B2")
def test_overload_is_restarted(engine: EngineUnit, exchange: Exchange) -> None:
    """Exit 13: somebody holds the database while the exchange sends more than there is room for, for longer than the
    grace; a shorter time ends nothing, and one in which the process is stopped does not count. What is queued then is
    written."""
    with reasons_told(engine):
        engine.connect(
            exchange,
            engine={"overload_grace_ms": 1000 * LIMIT_SECS, "signal_every_n_ticks": 2},
            channels={"persist_channel_size": 16},
            # So that what is on its way to the disk is not all that there is.
            persist={"batch_size": 1},
        )
        exchange.send_ticks(1)
        engine.wait_ticks(1)
        with ExitStack() as stopped:
            with nemesis.locked(engine.database):
                crowd(engine, exchange)
                stopped.enter_context(nemesis.paused(engine))
            with awaiting("the end of a pause that is longer than the grace"):
                poll(lambda: None, OsClock(), 1.5 * LIMIT_SECS)
        engine.wait_ticks(exchange.sent)
        engine.expect(
            engine.show().n_restarts == 0, "a lock that was shorter than the grace, but for a pause, took it down"
        )
        with nemesis.locked(engine.database):
            began = crowd(engine, exchange)
            told = engine.wait("the OVERLOAD log line", lambda e: e.fields.get("reason") == "OVERLOAD")
        ended, final = expect_restarts_with(engine, 13)
        channel = told.fields.get("channel")
        engine.expect(channel == "persist", f"{channel!r} is told as full, and nothing but the persist channel can be")
        expect_in_time(engine, told.realtime_us / 1e6 - began, "overload_grace_ms")
        engine.expect(
            final["tick_count"] == final["ingest_processed"] == final["tick_rows_written"],
            f"of {final['ingest_processed']} ticks that were processed, {final['tick_rows_written']} are written",
        )
        engine.expect_stored(final)
        exchange.wait_client(connections=2)
        with nemesis.locked(engine.database):
            engine.mark()
            exchange.send_ticks(101)
            engine.wait("the OVERLOAD log line of the next run", lambda e: e.fields.get("reason") == "OVERLOAD")
        expect_ends_again(engine, 13, ended)


@pytest.mark.slow
@pytest.mark.claim("exit12", "E3", "B2")
def test_an_overload_of_made_up_ticks_is_one(engine: EngineUnit) -> None:
    engine.configure(
        {
            "engine": {"tick_interval_ms": 2, "overload_grace_ms": 200},
            "channels": {"persist_channel_size": 16},
            "persist": {"flush_interval_ms": 10, "batch_size": 1},
        }
    )
    engine.start()
    engine.wait_ticks(1)
    with nemesis.locked(engine.database):
        engine.wait("the OVERLOAD log line", lambda e: e.fields.get("reason") == "OVERLOAD")
    engine.wait_exit(13)


def crowd(engine: EngineUnit, exchange: Exchange) -> float:
    """While nothing can be written: a tick that is on its way to the disk, and then more than there is room for.
    Returns when these were sent, in seconds of the wall clock."""
    exchange.send_ticks(1)
    engine.mark()
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] == exchange.sent)
    began = OsClock().wall()
    exchange.send_ticks(100)
    return began


@pytest.mark.claim("exit12", "E3")
def test_killed_engine_is_restarted(engine: EngineUnit) -> None:
    """SIGKILL, as the kernel's out-of-memory killer sends it."""
    prove_restarted_after(engine, "KILL")


@pytest.mark.claim("D7", "E3")
def test_engine_whose_mapped_file_was_cut_off_is_restarted(engine: EngineUnit) -> None:
    """SIGBUS, as the kernel sends it."""
    prove_restarted_after(engine, "BUS")


@pytest.mark.slow
@pytest.mark.claim("exit12", "E3", "E6")
@pytest.mark.parametrize("signal", ["ABRT", "SEGV", "FPE", "ILL"])
def test_broken_engine_is_restarted(engine: EngineUnit, signal: str) -> None:
    """As a library aborts, or the kernel ends what goes wrong: that is no clean end, and no line of the log."""
    prove_restarted_after(engine, signal)


def prove_restarted_after(engine: EngineUnit, signal: str) -> None:
    """Killed by a signal, the unit runs anew."""
    engine.configure({"engine": {"tick_interval_ms": 5}})
    engine.start()
    before = engine.show()
    engine.kill(signal)
    engine.wait_restarts(1)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.pid != before.main_pid)
    state = engine.show()
    engine.expect(state.invocation_id != before.invocation_id, "a restart must be a new invocation")


def tells(status: str, event: str, ending: str) -> bool:
    """Whether a STATUS= is this message of the line that ended the run, or of a long one how it begins, and its
    ending."""
    reason, whole = " ".join(status.removesuffix(ending).split()), " ".join(event.split())
    if len(whole) > REASON_CHARS:
        # What is cut off may be told.
        least = REASON_CHARS - len(" [...]")
        same = reason[:least] == whole[:least] and len(reason) <= REASON_CHARS
    else:
        same = reason == whole
    return status.endswith(ending) and same


@contextmanager
def reasons_told(engine: EngineUnit) -> Iterator[None]:
    """Have the unit say in the journal, each time that it has ended, what it has left as STATUS=: the next start
    forgets it, and comes at once."""
    systemctl = "systemctl --user" if engine.machine.kind == "user" else "systemctl"
    after = f"ExecStopPost=+/bin/sh -c '{systemctl} show --property=StatusText %n'"
    # And it runs in a time zone that is not UTC.
    with engine.drop_in("40-reason", f"[Service]\n{after}\nEnvironment=TZ=PROOF-05:45\n"):
        yield


def expect_restarts_with(engine: EngineUnit, status: int) -> tuple[Entry, Mapping[str, Any]]:
    """The unit ends with `status`, leaves its reason, and systemd starts it again; but for a crash, it counts what it
    did before. Returns systemd's word of the end, and the last metrics."""
    final: Mapping[str, Any] = {} if status == 1 else engine.wait_log("FINAL METRICS").fields
    ended = engine.wait_exit(status)
    left = engine.wait("what it left as STATUS=", lambda e: e.message.startswith("StatusText=")).message
    ending = f" (exit {status} {NAMES[status]})"
    told = left.removeprefix("StatusText=")
    errors = [entry for entry in engine.journal() if entry.level == "ERROR"]
    engine.expect(
        any(tells(told, entry.event, ending) for entry in errors),
        f"systemctl status says {told!r}; the ERROR lines: {[entry.event for entry in errors]}",
    )
    for entry in errors:
        engine.expect_own_time(entry)
    engine.wait_restarts(1)
    return ended, final


def expect_ends_again(engine: EngineUnit, status: int, before: Entry) -> None:
    """Refute unless the run after the one that ended so ends with this status."""
    again = engine.wait(
        "the end of the next run", lambda e: "Main process exited" in e.message and e.sent_us > before.sent_us
    )
    engine.expect(
        f"status={status}/" in again.message, f"expected exit status {status} again, systemd says: {again.message}"
    )


def expect_in_time(engine: EngineUnit, took: float, limit: str) -> None:
    """What must come LIMIT_SECS after something came neither before that nor much later."""
    engine.expect(
        0.9 * LIMIT_SECS <= took <= LIMIT_SECS + PATIENCE_SECS,
        f"it came after {took:.2f} s, where {limit} is {LIMIT_SECS} s",
    )
