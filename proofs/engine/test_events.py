"""Contract R5, M1 and section 6: the vocabulary that is persisted, and the arithmetic that money is done in."""

from __future__ import annotations

from decimal import Decimal, Inexact
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import EXACT, Fill, Mode, OrderEvent, OrderStatus, Reason, Side, Signal, Tick

AMOUNT = st.decimals("0.000000000001", "999999999999999", places=12)


@pytest.mark.claim("R5")
@given(qty=AMOUNT, price=AMOUNT, fees=AMOUNT, others=st.lists(AMOUNT, max_size=20))
def test_R5_sums_and_products_of_money_never_round(
    qty: Decimal, price: Decimal, fees: Decimal, others: list[Decimal]
) -> None:
    product = EXACT.multiply(qty, price)
    assert Fraction(product) == Fraction(qty) * Fraction(price)
    total = EXACT.subtract(EXACT.minus(product), fees)
    for other in others:
        total = EXACT.add(total, other)
    assert Fraction(total) == sum(map(Fraction, others)) - Fraction(product) - Fraction(fees)


@pytest.mark.claim("R5")
def test_R5_what_cannot_be_exact_is_an_error_not_a_rounding() -> None:
    with pytest.raises(Inexact):
        EXACT.add(Decimal("1e50"), Decimal("1e-12"))
    with pytest.raises(Inexact):
        EXACT.divide(Decimal(1), Decimal(3))


@pytest.mark.claim("R4", "S10")
def test_R4_S10_an_order_has_the_states_of_the_contract() -> None:
    assert [status.value for status in OrderStatus] == [
        "SUBMITTED",
        "ACKNOWLEDGED",
        "PARTIAL_FILL",
        "FILLED",
        "CANCELED",
        "REJECTED",
    ]


@pytest.mark.claim("R1", "R2", "R3", "R4")
def test_R1_R2_R3_R4_the_reasons_that_the_contract_names_are_persisted_as_they_stand() -> None:
    named = {"PERIODIC_TRIGGER", "SMA_CROSSOVER", "STALE_DATA", "RISK_CAP", "SHADOW_RECORDED"}
    assert named <= {reason.value for reason in Reason}
    assert all(reason.name == reason.value for reason in Reason)


@pytest.mark.claim("G0")
def test_G0_an_event_that_does_not_say_its_mode_is_shadow() -> None:
    for event in (OrderEvent, Fill):
        defaults = dict(zip(reversed(event.__struct_fields__), reversed(event.__struct_defaults__), strict=False))
        assert defaults["mode"] is Mode.SHADOW
    assert [mode.value for mode in Mode] == ["SHADOW", "PAPER", "LIVE"]


@pytest.mark.claim("I3")
def test_I3_what_was_recorded_cannot_be_changed_afterwards() -> None:
    made = Signal("s:1", 1, "A/B", Side.BUY, Reason.PERIODIC_TRIGGER, 0.75, Decimal(1), Decimal(2), 3)
    with pytest.raises(AttributeError):
        made.side = Side.SELL  # type: ignore[misc]
    assert msgspec.structs.replace(made, veto=Reason.RISK_CAP).veto is Reason.RISK_CAP
    assert made.veto is None


@pytest.mark.claim("N9")
def test_N9_a_tick_is_unnumbered_until_intake_takes_it() -> None:
    tick = Tick("binance", "A/B", 1.0, 2.0, 3)
    assert (tick.id, tick.trade_id, tick.event_id) == (0, None, None)
