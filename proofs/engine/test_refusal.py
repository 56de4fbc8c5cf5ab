"""Contract N5: what a server that refuses to upgrade says, and what is made of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ingest.refusal import FOR_EVER_SECS, may_upgrade, read_head, wait_secs

NOW = datetime(2024, 3, 1, tzinfo=UTC)
NOW_SECS = int(NOW.timestamp())


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("headers", "secs"),
    [
        ([], None),
        (["120"], 120.0),
        ([" 0 "], None),
        (["2.5"], 2.5),
        ([".5"], 0.5),
        (["9" * 400], FOR_EVER_SECS),
        (["9" * 5000], FOR_EVER_SECS),
        (["999999999"], 999999999.0),
        # The three forms of RFC 9110 section 5.6.7, and what else there is.
        (["Fri, 01 Mar 2024 00:01:00 GMT"], 60.0),
        (["Friday, 01-Mar-24 00:01:00 GMT"], 60.0),
        (["Fri Mar  1 00:01:00 2024"], 60.0),
        (["Fri, 01 Mar 2024 00:01:00"], 60.0),
        (["Fri, 01 Mar 2024 01:01:00 +0100"], 60.0),
        (["Thu, 29 Feb 2024 00:00:00 GMT"], None),
        (["Mon, 01 Jan 0001 00:00:00 +2359"], None),
        (["Fri, 31 Dec 9999 23:59:59 GMT"], FOR_EVER_SECS),
        (["Fri, 31 Dec 9999 23:59:59 -2359"], FOR_EVER_SECS),
        (["Mon, 01 Jan 2024 00:00:00 +9999"], None),
        (["Mon, 01 Jan 2024 00:00:00 +99999999999999999999"], None),
        (["Fri, 99 Foo 99999 25:61:61 GMT"], None),
        # A time since 1970, in seconds and in milliseconds, to come and gone by.
        ([str(NOW_SECS + 60)], 60.0),
        ([f"{NOW_SECS + 60}.5"], 60.5),
        ([str((NOW_SECS + 60) * 1000)], 60.0),
        ([str(NOW_SECS - 60)], None),
        ([str((NOW_SECS - 60) * 1000)], None),
        (["1000000000"], None),
        (["1000000000000"], None),
        # Twice.
        (["30, 30"], 30.0),
        (["30", "90", "60"], 90.0),
        (["30,soon,-7"], 30.0),
        (["0", "Thu, 29 Feb 2024 00:00:00 GMT", "30"], 30.0),
        (["Fri, 01 Mar 2024 00:01:00 GMT, Fri, 01 Mar 2024 00:02:00 GMT, 7"], 120.0),
        # Nothing that anybody could understand.
        (["soon"], None),
        (["-5"], None),
        (["+5"], None),
        (["1e3"], None),
        ([""], None),
        ([",,,"], None),
        (["\u00b2"], None),
        (["\uff13\uff10"], None),
        (["30\u2028"], 30.0),
        (["\ud800"], None),
        (["nan"], None),
        (["inf"], None),
    ],
)  # fmt: skip
def test_N5_retry_after_is_read_as_it_is_found(headers: list[str], secs: float | None) -> None:
    assert wait_secs(headers, NOW) == (secs if secs is None else pytest.approx(secs))


def said_at(secs: int) -> dict[str, str]:
    """`secs` from NOW on, in each form."""
    return {
        "secs": str(secs),
        "date": format_datetime(NOW + timedelta(seconds=secs), usegmt=True),
        "epoch": str(NOW_SECS + secs),
        "epoch_ms": str((NOW_SECS + secs) * 1000),
    }


DATE_LIKE = st.text(alphabet="0123456789 ,:+-.eEGMTJanFribMoSu\u00b2\u2028", max_size=60)
ODD_ZONE = st.builds(
    "{} {:+05d}".format, st.sampled_from(["Mon, 01 Jan 0001 00:00:00", "Fri, 31 Dec 9999 23:59:59"]), st.integers()
)


@pytest.mark.claim("N5")
@given(headers=st.lists(st.one_of(st.text(), DATE_LIKE, ODD_ZONE, st.integers().map(str)), max_size=4))
def test_N5_any_retry_after_is_survived(headers: list[str]) -> None:
    secs = wait_secs(headers, NOW)
    assert secs is None or 0.0 < secs <= FOR_EVER_SECS


@pytest.mark.claim("N5")
@given(secs=st.integers(1, 10**8), form=st.sampled_from(["secs", "date", "epoch", "epoch_ms"]))
def test_N5_all_forms_of_retry_after_mean_the_same(secs: int, form: str) -> None:
    assert wait_secs([said_at(secs)[form]], NOW) == secs


@pytest.mark.claim("N5")
@given(
    secs=st.integers(0, 3600), ahead_secs=st.integers(0, 86_400), form=st.sampled_from(["date", "epoch", "epoch_ms"])
)
def test_N5_a_time_that_has_passed_by_our_clock_counts_as_none(secs: int, ahead_secs: int, form: str) -> None:
    """Ours is ahead of the venue's: it is left alone as if it had said nothing, and not asked again at once."""
    left_secs = secs - ahead_secs
    assert wait_secs([said_at(secs)[form]], NOW + timedelta(seconds=ahead_secs)) == (
        left_secs if left_secs > 0 else None
    )


@pytest.mark.claim("N5")
@pytest.mark.parametrize("zone", ["UTC", "XXX-9", "XXX+9:30"])
def test_N5_a_date_without_a_zone_is_utc_wherever_the_engine_runs(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        forms = ["Fri, 01 Mar 2024 00:01:00 GMT", "Fri, 01 Mar 2024 00:01:00", "Fri Mar  1 00:01:00 2024"]
        assert [wait_secs([form], NOW) for form in forms] == [60.0] * 3
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("head", "read"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nX: y\r\n\r\nRetry-After: 8\r\n", (429, ["7"])),
        (b"HTTP/1.0 418 \r\nretry-after:1\r\nRETRY-AFTER :\t 2 \r\n", (418, ["1", "2"])),
        (b"HTTP/1.1 429\r\nRetry-After: \xb2\x01\r\n\r\n", (429, ["\u00b2\x01"])),
        (b"HTTP/1.1 503 No\r\nX-Retry-After: 7\r\nNot-Retry-After: 8\r\n\r\n", (503, [])),
        (b"HTTP/1.1 4290 \r\n\r\n", (None, [])),
        (b"SSH-2.0-OpenSSH_9.2\r\n", (None, [])),
        (b"", (None, [])),
    ],
)
def test_N5_the_head_of_a_refusal_is_read_as_it_came(head: bytes, read: tuple[int | None, list[str]]) -> None:
    assert read_head(head) == read


@pytest.mark.claim("N5")
@given(st.binary())
def test_N5_any_head_is_survived(head: bytes) -> None:
    read_head(head)
    read_head(b"HTTP/1.1 429 x\r\nRetry-After:" + head)


@pytest.mark.claim("N17")
@pytest.mark.parametrize(
    ("head", "may"),
    [
        (b"HTTP/1.1 101 x\r\nConnection: keep-alive, Upgrade\r\n\r\n", True),
        (b"HTTP/1.1 101 x\r\nconnection:UPGRADE,x\r\n\r\n", True),
        (b"HTTP/1.1 101 x\r\nConnection: a\r\nConnection: upgrade\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", True),
        # One that is as every library has it was refused for something else.
        (b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n", False),
        (b"HTTP/1.1 101 x\r\nConnection: keep-alive, close\r\n\r\n", False),
        (b"HTTP/1.1 101 x\r\nX-Connection: a, upgrade\r\n\r\nConnection: a, upgrade", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Upgrade\r\n\r\n", False),
        (b"HTTP/1.1 429 x\r\n\r\n", False),
        (b"220 smtp\r\n", False),
        (b"", False),
    ],
)
def test_N17_an_answer_that_may_be_an_upgrade_is_told_from_a_refusal(head: bytes, may: bool) -> None:
    assert may_upgrade(head) == may
