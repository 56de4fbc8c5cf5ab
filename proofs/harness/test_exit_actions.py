"""What the controller does about an exit (contract K4)."""

from __future__ import annotations

import pytest

from harness.base.unit import UnitState
from harness.soak import exit_actions
from harness.soak.exit_actions import Answer, Endings, Exit, ExitAction, ExitPolicy


def ended(status: int, *, code: str = "exited", result: str | None = None) -> Exit:
    verdict = result or ("success" if status == 0 else "exit-code")
    return Exit("a" * 32, code, status, verdict, 100.0)


def state(active: str, sub: str, result: str = "success", code: int = 0, status: int = 0) -> UnitState:
    values = dict.fromkeys(UnitState.__dataclass_fields__)
    values |= {
        "active": active, "sub": sub, "result": result, "exec_main_code": code, "exec_main_status": status,
        "invocation_id": "b" * 32,
    }  # fmt: skip
    return UnitState(**values)  # type: ignore[arg-type]


@pytest.mark.claim("K4")
@pytest.mark.parametrize(
    ("one", "action"),
    [
        (ended(0), ExitAction.STOP),
        (ended(1), ExitAction.ABORT),
        (ended(2), ExitAction.ABORT),
        (ended(10), ExitAction.RESTART),
        (ended(11), ExitAction.RESTART),
        (ended(12), ExitAction.ABORT),
        (ended(13), ExitAction.STEP_UP),
        (ended(203), ExitAction.ABORT),
        (ended(9, code="killed", result="signal"), ExitAction.ABORT),
        # Signal numbers are no exit statuses, and neither is the status of a run that systemd gave up on.
        (ended(13, code="killed", result="signal"), ExitAction.ABORT),
        (ended(10, code="killed", result="signal"), ExitAction.ABORT),
        (ended(0, result="protocol"), ExitAction.ABORT),
        (ended(0, result="timeout"), ExitAction.ABORT),
        (ended(9, code="killed", result="oom-kill"), ExitAction.ABORT),
        (ended(6, code="killed", result="watchdog"), ExitAction.RESTART),
        (ended(6, code="dumped", result="watchdog"), ExitAction.RESTART),
        (Exit("a", "", None, "resources", None), ExitAction.ABORT),
    ],
)
def test_what_follows_from_an_exit(one: Exit, action: ExitAction) -> None:
    assert ExitPolicy().answer(one, 0.0).action is action


@pytest.mark.claim("K4")
def test_K4_lost_network_backs_off_up_to_a_cap() -> None:
    policy = ExitPolicy()
    delays = [policy.answer(ended(10), 0.0).delay_secs for _ in range(10)]
    assert delays == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    policy.progressed()
    assert policy.answer(ended(10), 0.0).delay_secs == 2


@pytest.mark.claim("K4")
def test_K4_three_retries_then_the_mock_feed_then_abort() -> None:
    policy = ExitPolicy()
    actions = [policy.answer(ended(11), 10.0 * number).action for number in range(8)]
    assert actions == [*[ExitAction.RESTART] * 3, ExitAction.FALL_BACK, *[ExitAction.RESTART] * 3, ExitAction.ABORT]


@pytest.mark.claim("K4")
def test_K4_parse_ends_far_apart_are_not_in_a_row() -> None:
    policy = ExitPolicy()
    assert [policy.answer(ended(11), 601.0 * number).action for number in range(20)] == [ExitAction.RESTART] * 20


@pytest.mark.claim("K4")
@pytest.mark.parametrize(("apart", "in_row"), [(600.0, True), (600.001, False)])
def test_K4_parse_ends_up_to_ten_minutes_apart_are_in_a_row_before_and_after_the_mock_feed(
    apart: float, in_row: bool
) -> None:
    policy = ExitPolicy()
    first = [policy.answer(ended(11), second) for second in (0.0, 1.0, 2.0)]
    assert [one.reason for one in first] == [f"retry {number} of 3" for number in (1, 2, 3)]
    fourth = policy.answer(ended(11), 2.0 + apart)
    assert (fourth.action, fourth.reason) == (
        (ExitAction.FALL_BACK, "not understood after 3 retries") if in_row else (ExitAction.RESTART, "retry 1 of 3")
    )
    if in_row:
        # On the mock feed they are counted anew.
        later = [policy.answer(ended(11), 2.0 + apart * number) for number in (2, 3, 4, 5)]
        assert [one.reason for one in later] == [
            "retry 1 of 3", "retry 2 of 3", "retry 3 of 3", "the mock feed cannot be understood either",
        ]  # fmt: skip


@pytest.mark.claim("K4")
def test_K4_what_is_lost_of_the_network_says_nothing_of_the_protocol() -> None:
    policy = ExitPolicy()
    told = [policy.answer(ended(status), float(second)).reason for second, status in enumerate((11, 10, 11, 10, 11))]
    assert told == [
        "retry 1 of 3", "network lost 1 time(s) in a row", "retry 2 of 3", "network lost 2 time(s) in a row",
        "retry 3 of 3",
    ]  # fmt: skip


@pytest.mark.claim("K4")
def test_K4_progress_does_not_forgive_a_protocol() -> None:
    policy = ExitPolicy()
    for number in range(3):
        policy.answer(ended(11), number)
        policy.progressed()
    assert policy.answer(ended(11), 4.0).action is ExitAction.FALL_BACK


@pytest.mark.claim("K4")
@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (state("active", "running"), None),
        (state("activating", "start"), None),
        (state("deactivating", "stop-sigterm"), None),
        (state("inactive", "dead"), None),
        (state("inactive", "dead", code=1), Exit("b" * 32, "exited", 0, "success", None)),
        (state("failed", "failed", "exit-code", 1, 12), Exit("b" * 32, "exited", 12, "exit-code", None)),
        (state("activating", "auto-restart", "signal", 2, 9), Exit("b" * 32, "killed", 9, "signal", None)),
        (state("activating", "auto-restart", "watchdog", 3, 6), Exit("b" * 32, "dumped", 6, "watchdog", None)),
        (state("failed", "failed", "resources"), Exit("b" * 32, "", None, "resources", None)),
    ],
)
def test_K4_what_systemctl_show_tells_of_an_end(shown: UnitState, expected: Exit | None) -> None:
    assert exit_actions.from_unit(shown) == expected


@pytest.mark.claim("R7", "K4")
def test_a_live_engine_that_is_put_on_the_mock_feed_ends_the_soak() -> None:
    """LIVE refuses made-up prices with 12, and nobody restarts it on them."""
    policy = ExitPolicy()
    answers = [policy.answer(ended(11), float(second)).action for second in range(4)]
    assert answers[-1] is ExitAction.FALL_BACK
    assert policy.answer(ended(12), 5.0).action is ExitAction.ABORT


def process_exit(invocation: str, status: int, code: str = "exited", command: str = "ExecStart") -> dict[str, str]:
    """As systemd 252 logs it."""
    return {
        "MESSAGE_ID": "98e322203f7a4ed290d09fe03c09fe15", "COMMAND": command, "EXIT_CODE": code,
        "EXIT_STATUS": str(status), "INVOCATION_ID": invocation, "__MONOTONIC_TIMESTAMP": "4481510243",
        "UNIT": "hybrid-engine.service",
        "MESSAGE": f"hybrid-engine.service: Main process exited, code={code}, status={status}",
    }  # fmt: skip


def failure(invocation: str, result: str) -> dict[str, str]:
    return {
        "MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c", "UNIT_RESULT": result, "INVOCATION_ID": invocation,
        "__MONOTONIC_TIMESTAMP": "4481510361", "MESSAGE": f"hybrid-engine.service: Failed with result '{result}'.",
    }  # fmt: skip


def success(invocation: str) -> dict[str, str]:
    return {
        "MESSAGE_ID": "7ad2d189f7e94e70a38c781354912448", "INVOCATION_ID": invocation,
        "__MONOTONIC_TIMESTAMP": "4477170136", "MESSAGE": "hybrid-engine.service: Deactivated successfully.",
    }  # fmt: skip


def starting(invocation: str) -> dict[str, str]:
    return {
        "MESSAGE_ID": "7d4958e842da4a758f6c1cdc7b36dcc5", "INVOCATION_ID": invocation, "JOB_TYPE": "start",
        "MESSAGE": "Starting hybrid-engine.service - Hybrid trading engine...", "_PID": "1",
    }  # fmt: skip


def stopping(invocation: str) -> dict[str, str]:
    return {
        "MESSAGE_ID": "de5b426a63be47a7b6ac3eaac82e2f6f", "INVOCATION_ID": invocation, "JOB_TYPE": "stop",
        "MESSAGE": "Stopping hybrid-engine.service - Hybrid trading engine...", "_PID": "1",
    }  # fmt: skip


@pytest.mark.claim("K11")
@pytest.mark.parametrize(
    ("entries", "acted", "by_others"),
    [
        ([], False, False),
        ([stopping("a" * 32)], False, True),
        ([stopping("a" * 32)], True, False),
        ([stopping("a" * 32), starting("b" * 32)], True, False),
        ([stopping("a" * 32), starting("b" * 32), stopping("b" * 32)], True, True),
        ([starting("b" * 32), stopping("b" * 32), starting("c" * 32)], True, False),
        ([starting("b" * 32), failure("b" * 32, "exit-code")], True, False),
    ],
)
def test_who_stopped_the_last_run_is_read_from_what_came_since(
    entries: list[dict[str, str]], acted: bool, by_others: bool
) -> None:
    assert exit_actions.stopped_since(entries, acted=acted) is by_others


@pytest.mark.claim("K11")
def test_a_run_that_somebody_stopped_did_not_end_by_itself() -> None:
    endings = Endings()
    assert len(endings.take([success("one"), stopping("two"), success("two")])) == 2
    assert endings.stopped == {"two"}


@pytest.mark.claim("K8")
def test_what_a_service_logs_in_the_name_of_systemd_is_not_believed() -> None:
    endings = Endings()
    assert endings.take([entry | {"_PID": "42"} for entry in (stopping("one"), success("one"))]) == []
    assert endings.stopped == set()


@pytest.mark.claim("K4")
def test_the_journal_tells_of_ends_that_were_restarted_since() -> None:
    endings = Endings()
    found = endings.take(
        [
            process_exit("one", 13), failure("one", "exit-code"), success("two"),
            process_exit("three", 6, "killed"), failure("three", "watchdog"),
            {"MESSAGE": "of the engine itself", "_SYSTEMD_INVOCATION_ID": "four"},
        ]
    )  # fmt: skip
    assert [(one.invocation_id, one.code, one.status, one.result) for one in found] == [
        ("one", "exited", 13, "exit-code"),
        ("two", "exited", 0, "success"),
        ("three", "killed", 6, "watchdog"),
    ]
    assert found[0].at == 4481.510361
    assert [one.exit_code for one in found] == [13, 0, None]


@pytest.mark.claim("K4")
def test_K4_an_end_is_told_of_when_systemd_has_said_its_last_word() -> None:
    endings = Endings()
    assert endings.take([process_exit("one", 11)]) == []
    (one,) = endings.take([failure("one", "exit-code")])
    assert one.exit_code == 11


@pytest.mark.claim("K4")
def test_K4_another_command_of_the_unit_is_not_the_engine() -> None:
    (one,) = Endings().take([process_exit("one", 7, command="ExecStopPost"), failure("one", "exit-code")])
    assert one.status is None
    assert ExitPolicy().answer(one, 0.0).action is ExitAction.ABORT


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (ended(13), "exit 13 (OVERLOAD)"),
        (ended(77), "exit 77 (unknown to the contract)"),
        (ended(9, code="killed", result="signal"), "signal: killed 9"),
        (ended(6, code="killed", result="watchdog"), "watchdog"),
        (Exit("a", "", None, "resources", None), "resources"),
    ],
)
def test_an_exit_in_words(one: Exit, text: str) -> None:
    assert str(one) == text


def test_an_answer_has_no_delay_unless_it_says_so() -> None:
    assert Answer(ExitAction.RESTART, "why").delay_secs == 0.0


@pytest.mark.claim("K11")
@pytest.mark.parametrize(
    ("active", "sub", "down", "runs"),
    [
        ("active", "running", False, True),
        ("activating", "start", False, True),
        ("deactivating", "stop-sigterm", False, True),
        ("reloading", "reload", False, True),
        ("activating", "auto-restart", True, True),
        ("inactive", "auto-restart-queued", True, True),
        ("inactive", "dead", True, False),
        ("failed", "failed", True, False),
    ],
)
def test_a_soak_knows_whether_it_found_the_engine_running(active: str, sub: str, down: bool, runs: bool) -> None:
    seen = state(active, sub)
    assert (exit_actions.is_down(seen), exit_actions.runs(seen)) == (down, runs)


@pytest.mark.claim("K4")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ("one", "exited", 11, 4481.510361)),
        # A user's manager names a run by another field.
        ({"INVOCATION_ID": "", "USER_INVOCATION_ID": "mine"}, ("mine", "", None, 4481.510361)),
        ({"USER_INVOCATION_ID": "mine"}, ("one", "exited", 11, 4481.510361)),
        ({"INVOCATION_ID": ""}, None),
        ({"MESSAGE_ID": ""}, None),
        ({"_PID": "1"}, ("one", "exited", 11, 4481.510361)),
        ({"_PID": "2"}, None),
    ],
)
def test_K4_the_last_word_on_a_run_is_systemds_and_names_it(
    changes: dict[str, str], told: tuple[str, str, int | None, float] | None
) -> None:
    found = Endings().take([process_exit("one", 11), failure("one", "exit-code") | changes])
    assert [(one.invocation_id, one.code, one.status, one.at) for one in found] == ([] if told is None else [told])


@pytest.mark.claim("K4")
@pytest.mark.parametrize(
    ("text", "status"), [("0", 0), ("255", 255), ("", None), ("-1", None), ("x", None), ("\u0663", None)]
)
def test_K4_a_status_that_is_no_number_is_none(text: str, status: int | None) -> None:
    [one] = Endings().take([process_exit("one", 7) | {"EXIT_STATUS": text}, failure("one", "exit-code")])
    assert one.status == status


@pytest.mark.claim("K4")
def test_K4_what_the_journal_does_not_tell_of_an_end_is_not_made_up() -> None:
    bare = {
        name: value
        for name, value in failure("one", "x").items()
        if name not in ("UNIT_RESULT", "__MONOTONIC_TIMESTAMP")
    }
    assert Endings().take([bare]) == [Exit("one", "", None, "success", None)]
    assert Endings().take([success("two") | {"UNIT_RESULT": "success"}])[0] == Exit(
        "two", "exited", 0, "success", 4477.170136
    )
    # How a process ended is told of once.
    endings = Endings()
    first, second = endings.take([process_exit("one", 13), failure("one", "exit-code"), failure("one", "exit-code")])
    assert (first.status, second.status) == (13, None)


@pytest.mark.claim("K4")
def test_K4_each_answer_has_its_reason() -> None:
    wanted = {
        0: "the engine ended by itself", 1: "an end that the contract has no restart for", 13: "overload",
        12: "the configuration is wrong, which no restart can heal",
    }  # fmt: skip
    for status, reason in wanted.items():
        answer = ExitPolicy().answer(ended(status), 0.0)
        assert (answer.reason, answer.delay_secs) == (reason, 0.0)
    bitten = ExitPolicy().answer(ended(6, code="dumped", result="watchdog"), 0.0)
    assert (bitten.reason, bitten.delay_secs) == ("systemd's watchdog found it stuck", 0.0)
