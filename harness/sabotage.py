"""The catalogue of sabotages: what each breaks, which proof must turn red, and for which reason (contract V4).

A sabotage breaks exactly one guarded behaviour of what is installed: by directives in a drop-in of the unit, or by
one text replaced in one module, mounted over the installed one. A proof that still passes under its sabotage cannot
fail, and is a defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Patch:
    """One replacement in one module of the installed engine."""

    module: str
    """Path below the installation's packages, such as `engine/ledger.py`."""
    old: str
    """Text that occurs exactly once in the module."""
    new: str

    def apply(self, source: str) -> str:
        """The module's text with the replacement. ValueError when `old` does not occur exactly once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.module}: {self.old!r} occurs {source.count(self.old)} times, expected once")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Sabotage:
    """One entry of the catalogue."""

    id: str
    guardrail: str
    breaks: str
    """In words: the promise that no longer holds."""
    proof: str
    """Test module and function, `test_exit12::test_mended_unit_runs`."""
    reason: str
    """Regular expression that the refutation must match."""
    directives: str = ""
    """Lines for the [Service] section."""
    confirm: Mapping[str, str] = field(default_factory=dict)
    """Property -> value that `systemctl show` must tell while the sabotage is in effect, beside its drop-in."""
    patch: Patch | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    """Arguments of a parametrized proof."""
    installed: bool = True
    """Whether what is patched is what the machine has installed; if not, what the proof starts imports it."""


CATALOGUE: tuple[Sabotage, ...] = (
    Sabotage(
        id="restart-on-12",
        guardrail="exit12",
        breaks="a misconfigured engine is restarted for ever",
        proof="test_exit12::test_misconfigured_unit_stays_down_and_says_why",
        params={"case": "unknown-key"},
        directives="RestartPreventExitStatus=",
        confirm={"RestartPreventExitStatus": ""},
        reason=r"restarted \d+ times on exit status 12",
    ),
    Sabotage(
        id="never-restart",
        guardrail="exit12",
        breaks="a killed engine stays dead",
        proof="test_exit12::test_killed_engine_is_restarted",
        directives="Restart=no",
        confirm={"Restart": "no"},
        reason=r"was restarted 0 times",
    ),
    Sabotage(
        id="network-loss-is-final",
        guardrail="exit12",
        breaks="an engine that lost its network stays down",
        proof="test_exit12::test_lost_network_is_restarted",
        directives="RestartPreventExitStatus=10",
        confirm={"RestartPreventExitStatus": "10 12"},
        reason=r"was restarted 0 times",
    ),
    Sabotage(
        id="wrong-code-for-parse",
        guardrail="exit12",
        breaks="a changed protocol is reported as a lost network",
        proof="test_exit12::test_changed_protocol_is_restarted",
        patch=Patch("engine/exits.py", "    PARSE = 11", "    PARSE = 10"),
        reason=r"expected exit status 11",
    ),
    Sabotage(
        id="crash-is-final",
        guardrail="exit12",
        breaks="an engine that crashed stays down",
        proof="test_exit12::test_crash_is_restarted",
        directives="RestartPreventExitStatus=1",
        confirm={"RestartPreventExitStatus": "1 12"},
        reason=r"was restarted 0 times",
    ),
    Sabotage(
        id="failure-latches",
        guardrail="exit12",
        breaks="a unit that failed on its configuration does not come up with a mended one",
        proof="test_exit12::test_mended_unit_runs",
        directives="ExecStopPost=+/bin/sh -c 'test \"$EXIT_STATUS\" != 12 || mkdir -p /var/lib/hybrid-engine/latched'\n"
        "ExecCondition=+/bin/sh -c '! test -e /var/lib/hybrid-engine/latched'",
        reason=r"of 1 after",
    ),
    Sabotage(
        id="config-error-is-a-crash",
        guardrail="exit12",
        breaks="a broken configuration ends in exit 1, which systemd restarts",
        proof="test_exit12::test_misconfigured_unit_stays_down_and_says_why",
        params={"case": "wrong-type"},
        patch=Patch("engine/exits.py", "    CONFIG = 12", "    CONFIG = 1"),
        reason=r"expected exit status 12",
    ),
    Sabotage(
        id="restarts-after-a-clean-end",
        guardrail="E1",
        breaks="a unit that ended cleanly is started again",
        proof="test_unit_file::test_property",
        params={"name": "Restart", "value": "on-failure"},
        directives="Restart=always",
        confirm={"Restart": "always"},
        reason=r"Restart is 'always'",
    ),
    Sabotage(
        id="watchdog-of-zero",
        guardrail="E1",
        breaks="the unit has a watchdog in name only",
        proof="test_unit_file::test_has_a_watchdog",
        directives="WatchdogSec=0",
        reason=r"has no WatchdogSec=",
    ),
    Sabotage(
        id="foreign-drop-in",
        guardrail="E1",
        breaks="another unit is proven than the installed one",
        proof="test_unit_file::test_only_our_drop_in_is_on_top",
        directives="Nice=5",
        confirm={"Nice": "5"},
        reason=r"drop-ins: ",
    ),
    Sabotage(
        id="no-sandbox",
        guardrail="E1",
        breaks="the unit runs as root with every capability",
        proof="test_unit_file::test_is_hardened",
        directives="DynamicUser=no\nUser=root\nNoNewPrivileges=no\nProtectSystem=no\nPrivateDevices=no\n"
        "RestrictNamespaces=no\nSystemCallFilter=\nCapabilityBoundingSet=~",
        confirm={"DynamicUser": "no"},
        reason=r"exposure [\d.]+, at most",
    ),
    Sabotage(
        id="no-watchdog",
        guardrail="stall",
        breaks="nothing ends an engine that hangs",
        proof="test_watchdog::test_paused_engine_is_restarted_by_the_watchdog",
        directives="WatchdogSec=0",
        reason=r"watchdog report of systemd has not come",
    ),
    Sabotage(
        id="watchdog-fed-by-a-timer",
        guardrail="E5",
        breaks="the watchdog is fed whether the tasks answer or not",
        proof="test_watchdog::test_stuck_part_is_restarted_by_the_watchdog",
        params={"what": "strategy"},
        patch=Patch(
            "engine/notify.py",
            "        return [name for name, epoch in self._answered.items()",
            "        return [name for name, epoch in ()",
        ),
        reason=r"watchdog report of systemd has not come",
    ),
    Sabotage(
        id="sigint-is-no-stop",
        guardrail="E4",
        breaks="Ctrl-C ends the engine in the middle of what it does",
        proof="test_stop::test_sigint_in_full_flow",
        patch=Patch(
            "engine/pipeline.py",
            "for signum in (signal.SIGTERM, signal.SIGINT):",
            "signal.signal(signal.SIGINT, signal.SIG_DFL)\n        for signum in (signal.SIGTERM,):",
        ),
        reason=r"'FINAL METRICS' has not come",
    ),
    Sabotage(
        id="half-batches",
        guardrail="D3",
        breaks="a batch is committed in two halves, a moment apart",
        proof="test_stop::test_sigkill_in_full_flow",
        patch=Patch(
            "engine/ledger.py",
            "            theirs = self._orders_of_others(batch)\n",
            '            self._connection.execute("COMMIT")\n'
            '            __import__("time").sleep(1.0)\n'
            '            self._connection.execute("BEGIN IMMEDIATE")\n'
            "            theirs = self._orders_of_others(batch)\n",
        ),
        reason=r"a batch is there by half",
    ),
    Sabotage(
        id="kill-forgets",
        guardrail="N9",
        breaks="after a kill, what the exchange sends again is taken for new",
        proof="test_stop::test_sigkill_in_full_flow",
        patch=Patch(
            "engine/pipeline.py", "            () if self._replay else restored.numberings,\n", "            (),\n"
        ),
        reason=r"'HEARTBEAT \(G4\)' has not come",
    ),
    Sabotage(
        id="stop-drops-what-is-pending",
        guardrail="S13",
        breaks="a stop loses the last batch",
        proof="test_stop::test_systemctl_stop_in_full_flow",
        directives="KillSignal=SIGKILL",
        confirm={"KillSignal": "9"},
        reason=r"'FINAL METRICS' has not come",
    ),
    Sabotage(
        id="typo-becomes-live",
        guardrail="G0",
        breaks="a mode that nobody knows becomes LIVE",
        proof="test_g0::test_mode_typo_on_the_command_line_is_shadow",
        patch=Patch("engine/settings.py", '            value = "SHADOW"', '            value = "LIVE"'),
        reason=r"did not start",
    ),
    Sabotage(
        id="gate-stands-open",
        guardrail="G0",
        breaks="LIVE starts without bundle and adapter",
        proof="test_g0::test_live_without_the_gate_records_nothing",
        params={"armed": True, "bundle": None},
        patch=Patch("engine/gate.py", '    if config.mode != "LIVE":', '    if config.mode != "NEVER":'),
        reason=r"LIVE started|the refusal",
    ),
    Sabotage(
        id="gate-is-always-armed",
        guardrail="G1",
        breaks="LIVE needs no second switch",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "operator"},
        patch=Patch(
            "engine/gate.py",
            "    if not config.live_armed:",
            "    if False:",
        ),
        reason=r"not armed: refused for",
    ),
    Sabotage(
        id="gate-believes-any-signature",
        guardrail="G1",
        breaks="whoever signs a bundle opens the gate",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "bundle"},
        patch=Patch(
            "engine/attestation.py",
            "            Ed25519PublicKey.from_public_bytes(raw).verify(signature, signed)\n"
            "        except InvalidSignature:\n            continue\n"
            "        if keyid != hashlib.sha256(raw).hexdigest():",
            "            pass\n        except InvalidSignature:\n            continue\n        if False:",
        ),
        reason=r"another's: LIVE started",
    ),
    Sabotage(
        id="gate-opens-for-touch",
        guardrail="G1",
        breaks="a file that somebody touched is taken for a bundle",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "bundle"},
        patch=Patch(
            "engine/gate.py",
            "        statement = _statement(Path(config.gate.proof_bundle), config.gate.trusted_keys)",
            '        statement = _read(Path(config.gate.proof_bundle), "proof bundle", attestation.BYTES_MAX)',
        ),
        reason=r"touched: refused for",
    ),
    Sabotage(
        id="gate-forgets-age",
        guardrail="G1",
        breaks="a bundle is good for ever",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "bundle"},
        patch=Patch(
            "engine/attestation.py",
            "    elif here.now - made > here.max_age_hours * 3600:",
            "    elif False:",
        ),
        reason=r"stale: LIVE started",
    ),
    Sabotage(
        id="gate-ignores-the-unit",
        guardrail="G1",
        breaks="a bundle about another unit opens the gate",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "unit"},
        patch=Patch(
            "engine/attestation.py",
            '    if said.get("unit") != digest(here.unit):',
            "    if False:",
        ),
        reason=r"a drop-in more: LIVE started",
    ),
    Sabotage(
        id="gate-believes-the-disk",
        guardrail="G1",
        breaks="a unit file that systemd has not read counts as the one that runs",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "unit"},
        patch=Patch(
            "engine/gate.py",
            '    if shown.get("NeedDaemonReload") != "no":',
            "    if False:",
        ),
        reason=r"has not read: (LIVE started|refused for)",
    ),
    Sabotage(
        id="gate-ignores-the-config",
        guardrail="G1",
        breaks="a risk cap may change after the bundle was signed",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "operator"},
        patch=Patch(
            "engine/attestation.py",
            '    if said.get("config") != digest(here.config):',
            "    if False:",
        ),
        reason=r"another cap: LIVE started",
    ),
    Sabotage(
        id="gate-ignores-guardrails",
        guardrail="G1",
        breaks="a guardrail that is not proven does not matter",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "bundle"},
        patch=Patch(
            "engine/attestation.py",
            '    return verdicts == {"proven"} and predicate.clauses.get(clause) == "proven"',
            "    return bool(verdicts)",
        ),
        reason=r"one unproven: LIVE started",
    ),
    Sabotage(
        id="gate-needs-no-adapter",
        guardrail="G1",
        breaks="the gate does not ask for an execution adapter",
        proof="test_gate_unit::test_nothing_less_opens_live",
        params={"group": "operator"},
        patch=Patch(
            "engine/gate.py",
            "    if len(adapters) != 1:",
            "    if len(adapters) > 1:",
        ),
        reason=r"no adapter: refused for",
    ),
    Sabotage(
        id="paper-goes-to-the-venue",
        guardrail="G1",
        breaks="an order on paper reaches an adapter that happens to be installed",
        proof="test_gate_unit::test_another_mode_never_calls_the_adapter",
        params={"mode": "PAPER"},
        patch=Patch(
            "engine/__main__.py",
            '        if loaded.settings.mode == "LIVE":\n            from engine import gate\n\n'
            "            adapter = gate.check(loaded)\n",
            "        from importlib.metadata import entry_points\n\n"
            '        adapter = next(iter(entry_points(group="hybrid_engine.execution"))).load()()\n',
        ),
        reason=r"PAPER called the adapter",
    ),
    Sabotage(
        id="gate-ignores-the-engine",
        guardrail="G1",
        breaks="another engine than the one that was proven opens the gate",
        proof="test_gate_unit::test_another_engine_tree_does_not_open_live",
        patch=Patch(
            "engine/attestation.py",
            '    if said.get("engine") != digest(here.engine):',
            "    if False:",
        ),
        reason=r"another engine tree: LIVE started",
    ),
    Sabotage(
        id="gate-forgets-what-it-accepted",
        guardrail="G1",
        breaks="an older bundle opens the gate after a newer one",
        proof="test_gate_unit::test_an_older_bundle_than_the_newest_accepted_is_refused",
        patch=Patch(
            "engine/attestation.py",
            "    if here.newest_bundle is not None and made < here.newest_bundle:",
            "    if False:",
        ),
        reason=r"LIVE started on an older bundle",
    ),
    Sabotage(
        id="live-orders-look-like-shadow",
        guardrail="G1",
        breaks="what went to a venue is recorded as shadow",
        proof="test_gate_unit::test_the_true_bundle_opens_live_and_the_adapter_sees_the_orders",
        patch=Patch(
            "engine/execution.py",
            "            is_shadow=self.mode is not Mode.LIVE,\n            detail=detail,",
            "            is_shadow=True,\n            detail=detail,",
        ),
        reason=r"orders that are not LIVE",
    ),
    Sabotage(
        id="venue-is-not-heard-at-the-stop",
        guardrail="G1",
        breaks="a stop does not wait for the answer to a cancellation",
        proof="test_gate_unit::test_the_true_bundle_opens_live_and_the_adapter_sees_the_orders",
        patch=Patch(
            "engine/pipeline.py",
            "        deadline = self._loop.time() + _SETTLE_SHARE * self._options.engine.shutdown_timeout_secs",
            "        deadline = 0.0",
        ),
        reason=r"the first three orders ended as",
    ),
    Sabotage(
        id="orders-are-not-shadow",
        guardrail="G0",
        breaks="what SHADOW records is not marked as shadow",
        proof="test_g0::test_shadow_unless_told_otherwise",
        params={"tables": {"engine": {"tick_interval_ms": 2, "signal_every_n_ticks": 2}}},
        patch=Patch(
            "engine/execution.py",
            "            is_shadow=self.mode is not Mode.LIVE,\n            detail=detail,",
            "            is_shadow=False,\n            detail=detail,",
        ),
        reason=r"not shadow",
    ),
    Sabotage(
        id="healthcheck-believes-systemd",
        guardrail="G1",
        breaks="an engine that stands still is called healthy because systemd calls it active",
        proof="test_g1::test_paused_engine_fails_although_systemd_says_active",
        patch=Patch(
            "harness/health.py",
            "lambda: check_database(placed(target.database, shell, target.unit), clock)",
            "lambda: check_unit(shell, target.unit)",
        ),
        reason=r"to fail",
    ),
    Sabotage(
        id="healthcheck-tolerates-pressure",
        guardrail="G1",
        breaks="pressure above the limits is called healthy",
        proof="test_g1::test_healthy_unit_passes_and_pressure_fails_it",
        patch=Patch("harness/health.py", "    return not reading.exceeded(), shown", "    return True, shown"),
        reason=r"\('pressure',\) to fail",
    ),
    Sabotage(
        id="healthcheck-needs-no-unit",
        guardrail="G1",
        breaks="a unit that does not run is called healthy",
        proof="test_g1::test_stopped_unit_and_missing_database_fail",
        patch=Patch(
            "harness/health.py",
            'return state.active == "active" and state.main_pid > 0, str(state)',
            "return True, str(state)",
        ),
        reason=r"to fail",
    ),
    Sabotage(
        id="kernel-pressure-is-ignored",
        guardrail="G2",
        breaks="the engine is not throttled, however much the kernel says that tasks wait",
        proof="test_g2::test_real_pressure_throttles_the_engine",
        patch=Patch("harness/pressure.py", '"cpu": 20.0', '"cpu": 100.0'),
        reason=r"no ENGINE_RESTART decision",
    ),
    Sabotage(
        id="cpu-limit-too-high",
        guardrail="G2",
        breaks="the engine is throttled at 90 % CPU pressure only",
        proof="test_psi::test_one_rung_up_above_the_limit_and_not_at_it",
        params={"at_limit": {"cpu": 20.0}, "above": {"cpu": 20.01}},
        patch=Patch("harness/pressure.py", '"cpu": 20.0', '"cpu": 90.0'),
        reason=r"no ENGINE_RESTART decision",
    ),
    Sabotage(
        id="limit-itself-counts",
        guardrail="psi",
        breaks="a reading at the limit already throttles",
        proof="test_psi::test_one_rung_up_above_the_limit_and_not_at_it",
        params={"at_limit": {"io": 15.0}, "above": {"io": 15.01}},
        patch=Patch("harness/pressure.py", "if self.some(resource) > limit", "if self.some(resource) >= limit"),
        reason=r"at the limit, not above it",
    ),
    Sabotage(
        id="ladder-skips-a-rung",
        guardrail="psi",
        breaks="one pressured reading climbs two rungs",
        proof="test_psi::test_latch_then_up_to_the_top_then_abort",
        patch=Patch(
            "harness/ladder.py",
            "                return Ladder(self.index + 1), Step.UP\n            count",
            "                return Ladder(min(self.index + 2, len(RUNGS) - 1)), Step.UP\n            count",
        ),
        reason=r"the ladder was climbed as",
    ),
    Sabotage(
        id="never-aborts",
        guardrail="psi",
        breaks="pressure at the top is endured for ever",
        proof="test_psi::test_latch_then_up_to_the_top_then_abort",
        patch=Patch("harness/ladder.py", "TOP_READINGS_MAX = 5", "TOP_READINGS_MAX = 5000"),
        reason=r"no ABORT decision",
    ),
    Sabotage(
        id="never-recovers",
        guardrail="psi",
        breaks="calm never steps down again, although asked to",
        proof="test_psi::test_recovery_steps_down_and_latch_does_not",
        patch=Patch(
            "harness/ladder.py", "        if recover_after_secs > 0 and self.index", "        if False and self.index"
        ),
        reason=r"no ENGINE_RESTART decision",
    ),
    Sabotage(
        id="logonly-acts",
        guardrail="psi",
        breaks="pressure that was only to be recorded is acted upon",
        proof="test_psi::test_logonly_and_off_do_nothing",
        params={"actions": "logonly"},
        patch=Patch("harness/soak.py", 'psi_actions == "logonly":', 'psi_actions == "never":'),
        reason=r"no PSI_LOGONLY decision",
    ),
    Sabotage(
        id="off-reads-pressure",
        guardrail="psi",
        breaks="pressure is read although it is off",
        proof="test_psi::test_logonly_and_off_do_nothing",
        params={"actions": "off"},
        patch=Patch("harness/soak.py", 'psi_actions != "off":', 'psi_actions != "never":'),
        reason=r"PSI was read|acted",
    ),
    Sabotage(
        id="config-is-not-put-back",
        guardrail="K5",
        breaks="the config stays what the controller made of it",
        proof="test_stall::test_slow_but_living_engine_is_left_alone",
        patch=Patch(
            "harness/rewrite.py", "        if restored != current:", "        if restored != current and False:"
        ),
        reason=r"config is not as it was",
    ),
    Sabotage(
        id="decisions-lose-their-run",
        guardrail="K6",
        breaks="a decision does not say which run it is of",
        proof="test_psi::test_latch_then_up_to_the_top_then_abort",
        patch=Patch("harness/decisions.py", '        "run_id": run_id,\n', ""),
        reason=r"keys of a decision",
    ),
    Sabotage(
        id="unknown-is-calm",
        guardrail="psi",
        breaks="pressure that cannot be read is taken for no pressure",
        proof="test_psi::test_unreadable_pressure_is_unknown_and_never_zero",
        patch=Patch("harness/ladder.py", "        if pressured is None:", "        if pressured == 2:"),
        reason=r"taken for no pressure",
    ),
    Sabotage(
        id="diagnosis-blames-the-idle",
        guardrail="psi",
        breaks="the diagnosis names a unit that takes nothing",
        proof="test_diagnose::test_the_unit_that_presses_is_named",
        patch=Patch("harness/diagnosis.py", '"cpu": lambda unit: unit.cores,', '"cpu": lambda unit: -unit.cores,'),
        reason=r"the hog is not named",
    ),
    Sabotage(
        id="synchronous-off",
        guardrail="G3",
        breaks="the database runs with synchronous OFF, and the verification agrees",
        proof="test_g3::test_pragmas_are_verified_before_ready",
        patch=Patch("engine/ledger.py", '"synchronous": ("NORMAL", 1)', '"synchronous": ("OFF", 0)'),
        reason=r"read back",
    ),
    Sabotage(
        id="no-wal",
        guardrail="G3",
        breaks="the database has no write-ahead log, and the verification agrees",
        proof="test_g3::test_another_process_sees_the_wal",
        patch=Patch("engine/ledger.py", '"journal_mode": ("WAL", "wal")', '"journal_mode": ("DELETE", "delete")'),
        reason=r"does not see WAL mode",
    ),
    Sabotage(
        id="nobody-reads-pragmas-back",
        guardrail="G3",
        breaks="a PRAGMA that does not read back as it was set goes unnoticed",
        proof="test_g3::test_a_pragma_that_is_not_as_it_must_be_refuses_to_start",
        params={"right": '"synchronous": ("NORMAL", 1)', "wrong": '"synchronous": ("OFF", 1)'},
        patch=Patch("engine/ledger.py", "    if differing:", "    if differing and False:"),
        reason=r"runs on a PRAGMA",
    ),
    Sabotage(
        id="slow-heartbeat",
        guardrail="G4",
        breaks="the heartbeat comes four times too seldom",
        proof="test_g4::test_heartbeats_come_in_time_and_balance",
        patch=Patch(
            "engine/pipeline.py",
            "        interval = self._options.engine.heartbeat_interval_secs\n",
            "        interval = 4 * self._options.engine.heartbeat_interval_secs\n",
        ),
        reason=r"heartbeats has not come|between two heartbeats",
    ),
    Sabotage(
        id="books-lose-duplicates",
        guardrail="G4",
        breaks="the books do not balance: parsed ticks are counted twice",
        proof="test_g4::test_heartbeats_come_in_time_and_balance",
        patch=Patch(
            "engine/pipeline.py",
            "        self.ticks_parsed += len(ticks)",
            "        self.ticks_parsed += 2 * len(ticks)",
        ),
        reason=r"parsed ticks do not balance",
    ),
    Sabotage(
        id="heartbeat-default-of-a-minute",
        guardrail="G4",
        breaks="without a setting, the heartbeat comes once a minute",
        proof="test_g4::test_first_heartbeat_comes_at_start_and_default_is_ten_seconds",
        patch=Patch(
            "engine/schema.py",
            '"Time between two HEARTBEAT (G4) lines."] = 10.0',
            '"Time between two HEARTBEAT (G4) lines."] = 60.0',
        ),
        reason=r"default heartbeat interval is not 10 s",
    ),
    Sabotage(
        id="log-has-no-target",
        guardrail="M1",
        breaks="log lines do not say which part of the engine they are of",
        proof="test_g4::test_heartbeats_come_in_time_and_balance",
        patch=Patch("engine/logs.py", '"target": record.name', '"target": ""'),
        reason=r"not an M1 line|has not come",
    ),
    Sabotage(
        id="wrong-code-for-overload",
        guardrail="G5",
        breaks="the exit code of an overload is not the one of the contract's table",
        proof="test_exit12::test_overload_is_restarted",
        patch=Patch("engine/exits.py", "    OVERLOAD = 13", "    OVERLOAD = 14"),
        reason=r"expected exit status 13",
    ),
    Sabotage(
        id="stall-goes-unseen",
        guardrail="stall",
        breaks="the controller never calls a stall",
        proof="test_stall::test_controller_restarts_a_paused_engine",
        patch=Patch(
            "harness/stall.py",
            "        if first or now < self.due_at:",
            "        if first or now < self.due_at + 3600:",
        ),
        reason=r"no STALL decision",
    ),
    Sabotage(
        id="slow-is-stalled",
        guardrail="stall",
        breaks="a slow engine is restarted although it lives",
        proof="test_stall::test_slow_but_living_engine_is_left_alone",
        patch=Patch(
            "harness/stall.py",
            "        if first or now < self.due_at:",
            "        if first or now < self._progress_at + 0.4:",
        ),
        reason=r"no COMPLETE decision|taken for a stalled one",
    ),
    Sabotage(
        id="quiet-is-stuck",
        guardrail="stall",
        breaks="the watchdog is not fed while the market is quiet",
        proof="test_watchdog::test_quiet_market_is_not_stuck",
        patch=Patch(
            "engine/notify.py",
            "        self._answered[name] = self._epoch",
            "        self._answered[name] = 0",
        ),
        reason=r"taken for a hang|has not come",
    ),
    Sabotage(
        id="sampling-starts-anew",
        guardrail="sampling",
        breaks="the sampling counter starts anew with each read, as it did in the earlier engine with each reconnect",
        proof="test_sampling::test_processed_is_received_over_n_across_reconnects",
        params={"every": 20},
        patch=Patch(
            "engine/intake.py", "fresh[every - 1 - self.received % every :: every]", "fresh[every - 1 :: every]"
        ),
        reason=r"processed \d+, expected|of \d+ after",
    ),
    Sabotage(
        id="resent-ticks-count-again",
        guardrail="sampling",
        breaks="what an exchange sends again after a reconnect is taken for new",
        proof="test_sampling::test_processed_is_received_over_n_across_reconnects",
        params={"every": 1},
        patch=Patch(
            "engine/intake.py",
            "        return self.since[segment] <= ts <= self.until[segment] and self._hole(trade_id) is None",
            "        return False",
        ),
        reason=r"of 600 received|has not come",
    ),
    Sabotage(
        id="ids-alone-are-a-trade",
        guardrail="N11",
        breaks="a trade is known by its id alone, as it was: a venue that starts its ids over is mute",
        proof="test_markets_unit::test_a_venue_that_starts_its_ids_over_is_not_mute",
        patch=Patch(
            "engine/intake.py",
            "        return self.since[segment] <= ts <= self.until[segment] and self._hole(trade_id) is None",
            "        return self._hole(trade_id) is None",
        ),
        reason=r"SELECT COUNT\(\*\) FROM ticks: \d+ of 81",
    ),
    Sabotage(
        id="an-outlier-moves-the-watermark",
        guardrail="N11",
        breaks="one absurd id becomes the highest",
        proof="test_markets_unit::test_a_venue_that_starts_its_ids_over_is_not_mute",
        patch=Patch("engine/intake.py", "JUMP_MAX: Final = 1_000_000\n", "JUMP_MAX: Final = 2**64\n"),
        reason=r"an outlier made \d+ gaps",
    ),
    Sabotage(
        id="markets-share-a-name",
        guardrail="N12",
        breaks="every trade of a connection is taken for one of its first market",
        proof="test_markets_unit::test_each_market_of_one_connection_has_its_name_and_its_ids",
        patch=Patch(
            "engine/markets.py",
            "        symbol = self._symbol if self.asked is None else self.asked.get(market)\n",
            "        market = next(iter(self.asked or {market: 0}))\n"
            "        symbol = self._symbol if self.asked is None else self.asked.get(market)\n",
        ),
        reason=r"'trade of a market that nobody asked for' has not come",
    ),
    Sabotage(
        id="insurance-fund-is-the-market",
        guardrail="N12",
        breaks="prints of the insurance fund are taken for market trades",
        proof="test_markets_unit::test_each_market_of_one_connection_has_its_name_and_its_ids",
        patch=Patch(
            "engine/wire.py", '_Execution: TypeAlias = Literal["MARKET"] | None', "_Execution: TypeAlias = str | None"
        ),
        reason=r"foreign 10, ignored 0",
    ),
    Sabotage(
        id="hopeless-source-is-tried",
        guardrail="N13",
        breaks="a URL that can never deliver a trade is connected to",
        proof="test_exit12::test_misconfigured_unit_stays_down_and_says_why",
        params={"case": "source-without-trades"},
        patch=Patch("engine/settings.py", "    if found.problem is not None:\n", "    if False:\n"),
        reason=r"succeeded on a configuration that must be refused",
    ),
    Sabotage(
        id="readers-are-locked-out",
        guardrail="concurrency",
        breaks="nobody else can read the database while the engine runs",
        proof="test_concurrency::test_five_readers_beside_the_writer",
        patch=Patch(
            "engine/ledger.py",
            '    "temp_store": ("MEMORY", 2),\n',
            '    "temp_store": ("MEMORY", 2),\n    "locking_mode": ("EXCLUSIVE", "exclusive"),\n',
        ),
        reason=r"readers failed|of 100 after",
    ),
    Sabotage(
        id="lock-is-fatal",
        guardrail="S12",
        breaks="a database that somebody else has locked ends the engine",
        proof="test_scenarios::test_locked_database_is_waited_for",
        patch=Patch("engine/ledger.py", "            raise Busy(", "            raise Crash("),
        reason=r"could not be written has not come|took the engine down|Connection|after 3 s",
    ),
    Sabotage(
        id="stale-data-trades",
        guardrail="S7",
        breaks="a signal on old data becomes an order",
        proof="test_scenarios::test_stale_data_is_vetoed_and_the_veto_persisted",
        patch=Patch(
            "engine/risk.py",
            "        if abs(age_ms) > self._caps.max_staleness_ms:",
            "        if abs(age_ms) > 10**9 + self._caps.max_staleness_ms:",
        ),
        reason=r"vetoes:",
    ),
    Sabotage(
        id="caps-do-not-bind",
        guardrail="I2",
        breaks="signals over a risk cap become orders",
        proof="test_invariants::test_caps_are_never_exceeded",
        patch=Patch(
            "engine/risk.py",
            "        return signal if excess is None else _veto(signal, Reason.RISK_CAP, excess)",
            "        return signal",
        ),
        reason=r"veto = 'RISK_CAP'.* 0 of 5",
    ),
    Sabotage(
        id="fees-are-forgotten",
        guardrail="I4",
        breaks="the cash of a fill leaves out its fees",
        proof="test_invariants::test_cash_position_and_fees_balance",
        patch=Patch("engine/execution.py", "cash_delta=EXACT.subtract(cash, fees)", "cash_delta=cash"),
        reason=r"off by",
    ),
    Sabotage(
        id="orders-call-out",
        guardrail="I1",
        breaks="recording an order opens a socket of its own",
        proof="test_invariants::test_orders_make_no_network_call",
        patch=Patch(
            "engine/execution.py",
            "            cash_delta=EXACT.subtract(cash, fees),",
            "            cash_delta=(\n"
            "                globals().setdefault('_out', __import__('socket').socket(2, 2))\n"
            "                .connect(('127.0.0.1', 9)),\n"
            "                EXACT.subtract(cash, fees),\n"
            "            )[1],",
        ),
        reason=r"connections of the engine",
    ),
    Sabotage(
        id="slippage-in-our-favour",
        guardrail="S9",
        breaks="a shadow sale is recorded at a better price than the tick's",
        proof="test_scenarios::test_shadow_orders_are_recorded_with_their_assumptions",
        patch=Patch(
            "engine/execution.py",
            "            Side.SELL: _ROUND.subtract(Decimal(1), slippage),",
            "            Side.SELL: _ROUND.add(Decimal(1), slippage),",
        ),
        reason=r"the fill:",
    ),
    Sabotage(
        id="pongs-are-not-missed",
        guardrail="S4",
        breaks="a half-open connection is kept for ever",
        proof="test_scenarios::test_missed_pong_means_reconnect",
        patch=Patch("engine/session.py", "        elif link.ping_at > link.heard_at:", "        elif False:"),
        reason=r"'connection dropped' has not come",
    ),
    Sabotage(
        id="malformed-is-not-counted",
        guardrail="S5",
        breaks="malformed messages vanish without a trace",
        proof="test_scenarios::test_malformed_messages_are_counted_and_survived",
        patch=Patch("engine/wire.py", "        self.errors += 1\n", "        self.errors += 0\n"),
        reason=r"parse errors, \d+ were sent",
    ),
    Sabotage(
        id="burst-is-overload",
        guardrail="S6",
        breaks="a channel that is full for a moment ends the engine",
        proof="test_scenarios::test_burst_is_no_overload_and_loses_nothing",
        patch=Patch(
            "engine/channels.py",
            "        return self.full_since is not None and self._clock() - self.full_since > secs",
            "        return self.full_since is not None",
        ),
        reason=r"taken for an overload|of 10000 after",
    ),
    Sabotage(
        id="reconnect-storm",
        guardrail="S3",
        breaks="a source that refuses is tried again at once, for ever",
        proof="test_scenarios::test_refused_reconnects_back_off",
        patch=Patch(
            "engine/session.py",
            "        station.delay = ceiling * self._uniform(0.5, 1.0)",
            "        station.delay = 0.0",
        ),
        reason=r"a reconnect storm",
    ),
    Sabotage(
        id="price-for-volume",
        guardrail="S2",
        breaks="a tick's price and volume are mixed up",
        proof="test_scenarios::test_normalised_ticks",
        patch=Patch(
            "engine/wire.py",
            "Tick(source, tick.symbol, tick.price, tick.volume, tick.ts, event_id)",
            "Tick(source, tick.symbol, tick.volume, tick.price, tick.ts, event_id)",
        ),
        reason=r"what was stored",
    ),
    Sabotage(
        id="signals-depend-on-the-disk",
        guardrail="S8",
        breaks="the same ticks give other signals when another database lies about",
        proof="test_scenarios::test_same_ticks_same_signals_in_a_fresh_process",
        patch=Patch(
            "engine/strategy.py",
            "        if before <= 0 < now:",
            '        if before <= 0 < now and not __import__("os").path.exists("data/second.db"):',
        ),
        reason=r"other signals for the same ticks",
    ),
    Sabotage(
        id="only-the-last-transition",
        guardrail="S10",
        breaks="of an order's transitions in one batch only the last is persisted",
        proof="test_scenarios::test_paper_orders_live_through_partial_fills",
        patch=Patch(
            "engine/ledger.py",
            "        return self._insert(_ORDER_EVENTS, transitions)",
            "        return self._insert(_ORDER_EVENTS, transitions[-_ORDER_EVENTS.width :])",
        ),
        reason=r"transitions: ",
    ),
    Sabotage(
        id="partial-is-whole",
        guardrail="S11",
        breaks="a trade of less than the order fills all of it",
        proof="test_scenarios::test_paper_orders_live_through_partial_fills",
        patch=Patch(
            "engine/execution.py",
            "            qty = min(available, order.remaining_qty)",
            "            qty = order.remaining_qty",
        ),
        reason=r"transitions: ",
    ),
    Sabotage(
        id="rejection-is-swallowed",
        guardrail="L4",
        breaks="an order that cannot be booked vanishes from the log",
        proof="test_scenarios::test_what_cannot_be_booked_is_rejected_logged_and_persisted",
        patch=Patch(
            "engine/pipeline.py",
            "            if event.status is OrderStatus.REJECTED:",
            "            if event.status is None:",
        ),
        reason=r"'order rejected' has not come",
    ),
    Sabotage(
        id="restart-forgets",
        guardrail="I3",
        breaks="after a restart, what the exchange sends again is taken for new",
        proof="test_invariants::test_the_same_events_again_change_nothing",
        patch=Patch(
            "engine/pipeline.py", "            () if self._replay else restored.numberings,\n", "            (),\n"
        ),
        reason=r"'HEARTBEAT \(G4\)' has not come",
    ),
    Sabotage(
        id="loop-writes",
        guardrail="I6",
        breaks="the event loop itself writes to the database",
        proof="test_invariants::test_loop_does_not_wait_for_the_disk",
        patch=Patch(
            "engine/pipeline.py",
            "        self._batches.put(batch)\n",
            "        try:\n"
            "            outcome = self._store.write(batch)\n"
            "        except Exception as error:\n"
            "            outcome = error\n"
            "        self._loop.call_soon(self._done, outcome)\n",
        ),
        reason=r"the loop was late|has not come",
    ),
    Sabotage(
        id="changed-lines-pass",
        guardrail="V1",
        breaks="a line of a flight record can be changed afterwards",
        proof="test_evidence::test_every_change_of_a_record_is_found",
        patch=Patch("harness/recorder.py", "    if hashlib.sha256(body).hexdigest() != digest:", "    if not body:"),
        reason=r"missed '3 was changed'",
    ),
    Sabotage(
        id="lines-can-be-moved",
        guardrail="V1",
        breaks="lines of a flight record can be removed, or change places",
        proof="test_evidence::test_every_change_of_a_record_is_found",
        patch=Patch("harness/recorder.py", '    if entry.get("prev") != previous:', "    if not previous:"),
        reason=r"missed '4 does not follow'",
    ),
    Sabotage(
        id="records-can-be-cut-off",
        guardrail="V1",
        breaks="the end of a flight record can be cut off",
        proof="test_evidence::test_every_change_of_a_record_is_found",
        patch=Patch("harness/recorder.py", '    if last["type"] != "end":', '    if last["type"] == "":'),
        reason=r"missed 'has no end'",
    ),
    Sabotage(
        id="long-outputs-can-be-changed",
        guardrail="V1",
        breaks="what a flight record keeps in files of their own can be changed",
        proof="test_evidence::test_every_change_of_a_record_is_found",
        patch=Patch("harness/recorder.py", "    if found != digest:", "    if not found:"),
        reason=r"missed 'stdout: /run'",
    ),
    Sabotage(
        id="secrets-are-recorded",
        guardrail="V1",
        breaks="what stands at a telling name is recorded as it is",
        proof="test_evidence::test_secrets_reach_no_file",
        patch=Patch(
            "harness/redaction.py",
            "        for rule in (*(_compiled(_NAMED_RULES) if named else ()), *_compiled(_RULES)):",
            "        for rule in ():",
        ),
        reason=r"give away the secrets of \['output', 'url'\]",
    ),
    Sabotage(
        id="echoed-secrets-are-recorded",
        guardrail="V1",
        breaks="a secret of the command line or the environment is recorded when a command prints it",
        proof="test_evidence::test_secrets_reach_no_file",
        patch=Patch("harness/redaction.py", "LEARNED_CHARS_MIN = 6\n", "LEARNED_CHARS_MIN = 600\n"),
        reason=r"give away the secrets of \['argument'\]",
    ),
    Sabotage(
        id="output-becomes-markup",
        guardrail="V2",
        breaks="what a command printed becomes part of the buglog's markup",
        proof="test_evidence::test_a_buglog_is_what_its_record_renders_to",
        patch=Patch("harness/buglog.py", 'autoescape=lambda name: bool(name and ".html" in name)', "autoescape=False"),
        reason=r"a command's output became markup",
    ),
    Sabotage(
        id="buglog-looks-at-the-process",
        guardrail="V2",
        breaks="a buglog depends on more than its record",
        proof="test_evidence::test_a_buglog_is_what_its_record_renders_to",
        patch=Patch(
            "harness/buglog.py", "        lines=pass_.lines,", "        lines=id(object()) + __import__('os').getpid(),"
        ),
        reason=r"rendered twice, it differs|as it was made is refused",
    ),
    Sabotage(
        id="buglogs-are-believed",
        guardrail="V2",
        breaks="a buglog can say what its record does not",
        proof="test_evidence::test_a_buglog_is_what_its_record_renders_to",
        patch=Patch("harness/verify.py", "        if their != our:", "        if number < 0:"),
        reason=r"a changed document passes",
    ),
    Sabotage(
        id="skips-are-proofs",
        guardrail="V3",
        breaks="a proof that was skipped counts as proven",
        proof="test_plugin::test_report",
        params={"workers": "0"},
        patch=Patch("harness/verdict.py", '    if outcome == "passed":', '    if outcome != "failed":'),
        installed=False,
        reason=r"test_skipped",
    ),
    Sabotage(
        id="unproven-is-green",
        guardrail="V3",
        breaks="a run in which something is unproven ends with status 0",
        proof="test_plugin::test_no_systemd_is_unproven_and_says_what_to_install",
        patch=Patch("harness/verdict.py", "EXIT_UNPROVEN = 3", "EXIT_UNPROVEN = 0"),
        installed=False,
        reason=r"0 == 3",
    ),
    Sabotage(
        id="what-never-ran-is-no-matter",
        guardrail="V7",
        breaks="a run that ended before its proofs did exits as if all were proven",
        proof="test_plugin::test_an_end_is_what_it_is",
        params={"case": "exit-0"},
        patch=Patch(
            "harness/plugin.py",
            "        return self.never_ran > 0 or self.uncollected > 0 or self.known is None",
            "        return False",
        ),
        reason=r"assert 0 == 3",
        installed=False,
    ),
    Sabotage(
        id="an-older-run-stays-green",
        guardrail="V7",
        breaks="a run that is killed leaves the verdicts of the one before",
        proof="test_plugin::test_an_end_is_what_it_is",
        params={"case": "killed"},
        patch=Patch(
            "harness/plugin.py",
            '        _write_report(run.options.reports / VERDICTS, _summary(run, "running"))',
            "        pass",
        ),
        reason=r"assert 'green' != 'green'",
        installed=False,
    ),
    Sabotage(
        id="only-assertions-refute",
        guardrail="V3",
        breaks="a promise whose breach shows as a timeout or as text that is no number counts as unproven",
        proof="test_plugin::test_a_broken_promise_is_refuted_however_it_is_noticed",
        patch=Patch("harness/verdict.py", "            return file in proof_files", "            return None"),
        reason=r"'unproven'} != .*'refuted'}",
        installed=False,
    ),
    Sabotage(
        id="proven-without-evidence",
        guardrail="V1",
        breaks="a run proves something although its flight record does not stand up",
        proof="test_plugin::test_nothing_is_proven_when_the_record_is_no_evidence",
        params={"end": "changed"},
        patch=Patch(
            "harness/plugin.py",
            "    if run.fault is not None:\n        run.verdicts",
            "    if False:\n        run.verdicts",
        ),
        installed=False,
        reason=r"\(0, .*== \(3, ",
    ),
    Sabotage(
        id="every-tenth-tick-in-time",
        guardrail="I7",
        breaks="ticks lose their cadence",
        proof="test_i7::test_a_neighbour_that_wants_all_processors",
        params={"caged": False},
        patch=Patch("engine/feeds.py", "next_at += self._interval_secs", "next_at += 10 * self._interval_secs"),
        reason=r"of the time without a tick",
    ),
    Sabotage(
        id="dashboard-looks-once",
        guardrail="S15",
        breaks="the dashboard shows for ever what it saw first",
        proof="test_i7::test_a_neighbour_that_wants_all_processors",
        params={"caged": True},
        patch=Patch("harness/web.py", "due = loop.time() + refresh_secs", "due = loop.time() + 3600"),
        reason=r"it has not looked for a while|the page shows what was at|healthz answers 503",
    ),
    Sabotage(
        id="healthcheck-ignores-the-dashboard",
        guardrail="G1",
        breaks="the healthcheck passes although no dashboard answers",
        proof="test_g1::test_the_dashboard_of_the_configuration_must_answer",
        patch=Patch(
            "harness/health.py",
            "        return False, f\"{healthz}: {getattr(error, 'reason', error)}\"",
            "        return True, f\"{healthz}: {getattr(error, 'reason', error)}\"",
        ),
        reason=r"expected \('dashboard',\) to fail",
    ),
    Sabotage(
        id="stopped-looks-running",
        guardrail="M5",
        breaks="the page calls an engine that is down running",
        proof="test_dashboard::test_the_page_changes_live_and_says_when_the_engine_stops",
        patch=Patch("harness/panel.py", 'return "stopped"', 'return "running"'),
        reason=r"does not show a stopped engine",
    ),
    Sabotage(
        id="pale-on-pale",
        guardrail="M5",
        breaks="what the page says cannot be read by everybody",
        proof="test_dashboard::test_the_page_fits_and_is_accessible",
        patch=Patch("harness/static/dashboard.css", "--soft: #55626f;", "--soft: #b9c2cb;"),
        reason=r"color-contrast",
    ),
    Sabotage(
        id="buglog-under-the-pages-policy",
        guardrail="V2",
        breaks="the evidence document is served without its styles",
        proof="test_dashboard::test_the_buglog_is_served_with_its_own_styles_and_nothing_else_is",
        patch=Patch("harness/web.py", '{"Content-Security-Policy": _own_csp(body)}', "{}"),
        reason=r"without its own styles",
    ),
    Sabotage(
        id="any-schema-will-do",
        guardrail="D2",
        breaks="the dashboard takes another engine's tables for the ones it knows",
        proof="test_dashboard::test_a_database_that_cannot_be_read_is_told_in_words",
        patch=Patch("harness/ledger_view.py", "if version not in SCHEMA_VERSIONS:", "if False:"),
        reason=r"does not show schema version 0",
    ),
    Sabotage(
        id="watchdog-goes-unnamed",
        guardrail="stall",
        breaks="the page does not tell the watchdog's restart from another",
        proof="test_dashboard::test_who_started_the_engine_is_told",
        patch=Patch("harness/panel.py", 'before.result == "watchdog"', 'before.result == "dog"'),
        reason=r"does not show a start by watchdog",
    ),
    Sabotage(
        id="crowd-is-turned-away",
        guardrail="M5",
        breaks="the dashboard does not answer several clients at once",
        proof="test_dashboard::test_a_thousand_requests_do_not_change_the_cadence_of_ticks",
        patch=Patch("harness/web.py", "CONNECTIONS_MAX = 256", "CONNECTIONS_MAX = 3"),
        reason=r"a crowd is answered",
    ),
    Sabotage(
        id="engine-needs-the-dashboard",
        guardrail="I7",
        breaks="the engine goes down with the dashboard",
        proof="test_dashboard::test_the_engine_does_not_notice_when_the_dashboard_is_killed",
        directives="[Unit]\nBindsTo=hybrid-dashboard.service",
        confirm={"BindsTo": "hybrid-dashboard.service"},
        reason=r"of \d+ after|the engine noticed",
    ),
    Sabotage(
        id="pages-without-end",
        guardrail="M5",
        breaks="whoever opens pages without end takes all of the dashboard's memory",
        proof="test_dashboard::test_many_pages_are_served_and_one_too_many_is_refused",
        patch=Patch("harness/web.py", "if board.watchers >= WATCHERS_MAX:", "if False:"),
        reason=r"one more page than \d+ is answered 200",
    ),
    Sabotage(
        id="types-are-guessed",
        guardrail="M5",
        breaks="a browser may take an answer for what it is not",
        proof="test_dashboard::test_every_answer_has_the_security_headers",
        patch=Patch("harness/web.py", '    "X-Content-Type-Options": "nosniff",\n', ""),
        reason=r"X-Content-Type-Options is None",
    ),
    Sabotage(
        id="up-is-down",
        guardrail="M5",
        breaks="/metrics reports a running engine as down",
        proof="test_dashboard::test_metrics_are_clean_in_both_formats",
        patch=Patch(
            "harness/panel.py",
            'put("hybrid_engine_up", seen.unit.state.active == "active")',
            'put("hybrid_engine_up", seen.unit.state.active == "up")',
        ),
        reason=r"hybrid_engine_up is 0",
    ),
    Sabotage(
        id="any-host-will-do",
        guardrail="M5",
        breaks="a foreign page that rebinds its name reads the dashboard",
        proof="test_dashboard::test_a_foreign_host_is_refused",
        patch=Patch("harness/web.py", "        if len(given) == 1 and ", "        if given or "),
        reason=r"answers 200 to the Host evil\.example",
    ),
    Sabotage(
        id="full-disk-is-fatal",
        guardrail="D4",
        breaks="a disk that is full ends the engine",
        proof="test_scenarios::test_full_disk_is_waited_for",
        patch=Patch(
            "engine/ledger.py",
            '            raise DiskTrouble(f"{self.path}: {error}", error.sqlite_errorname) from error',
            "            raise Crash(str(error)) from error",
        ),
        reason=r"could not be written has not come|took the engine down|'HEARTBEAT \(G4\)' has not come",
    ),
    Sabotage(
        id="better-source-is-forgotten",
        guardrail="N4",
        breaks="a source that refused is never come back to",
        proof="test_scenarios::test_a_venue_that_refuses_is_left_and_come_back_to",
        patch=Patch(
            "engine/session.py",
            "        station.delay = ceiling * self._uniform(0.5, 1.0)",
            "        station.delay = 86400.0 if station.failures > 1 else ceiling",
        ),
        reason=r"'HEARTBEAT \(G4\)' has not come",
    ),
    Sabotage(
        id="pongs-hide-a-mute-feed",
        guardrail="N6",
        breaks="a feed that only answers pings is kept for ever",
        proof="test_scenarios::test_a_mute_venue_is_left_although_it_answers_pings",
        patch=Patch(
            "engine/session.py",
            "        if new_ticks:\n            link.progress_at = now\n",
            "        link.progress_at = now\n        if new_ticks:\n",
        ),
        reason=r"'connection dropped' has not come",
    ),
    Sabotage(
        id="slow-is-given-up",
        guardrail="N5",
        breaks="a server that takes a second for its handshake is never reached",
        proof="test_watchdog::test_slow_server_is_no_hang",
        patch=Patch("engine/session.py", "CONNECT_TIMEOUT_SECS: Final = 10.0", "CONNECT_TIMEOUT_SECS: Final = 0.5"),
        reason=r"'connected' has not come",
    ),
)


def find(sabotage_id: str) -> Sabotage:
    """The entry with this id. KeyError, with all ids, when there is none."""
    for entry in CATALOGUE:
        if entry.id == sabotage_id:
            return entry
    raise KeyError(f"no sabotage {sabotage_id!r}; one of {', '.join(entry.id for entry in CATALOGUE)}")
