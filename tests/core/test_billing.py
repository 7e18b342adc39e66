"""What a lease costs, by the provider's own granularity and minimum."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from app.core.billing import ChargeKind, accrued, billed, close
from app.core.model import Span
from app.core.states import State
from tests.core.values import NOON, lease

MINUTE = timedelta(minutes=1)


def test_use_is_rounded_up_to_granules_and_to_the_minimum() -> None:
    assert billed(timedelta(seconds=61), MINUTE, timedelta(0)) == 2 * MINUTE
    assert billed(timedelta(seconds=60), MINUTE, timedelta(0)) == MINUTE
    assert billed(timedelta(seconds=1), MINUTE, 10 * MINUTE) == 10 * MINUTE
    assert billed(timedelta(seconds=-5), MINUTE, timedelta(0)) == timedelta(0)


def test_nothing_is_owed_before_create_was_asked() -> None:
    assert accrued(lease(1, price_per_hour=Decimal(9)), NOON) == 0


def test_an_open_lease_is_metered_by_the_clock_until_absence_is_proven() -> None:
    open_lease = lease(1, asked_at=NOON, price_per_hour=Decimal("3.6"), instance_id="i")
    assert accrued(open_lease, NOON + timedelta(seconds=10)) == Decimal("0.01")
    closed = lease(1, asked_at=NOON, price_per_hour=Decimal("3.6"), instance_id="i", gone_at=NOON + timedelta(seconds=20))
    assert accrued(closed, NOON + timedelta(hours=9)) == Decimal("0.02")


def test_a_create_that_surely_never_happened_costs_nothing() -> None:
    never = lease(1, asked_at=NOON, price_per_hour=Decimal(9), gone_at=NOON + MINUTE)
    assert accrued(never, NOON + MINUTE) == 0
    assert close(never, ()) == ()


@given(
    st.integers(0, 500),
    st.integers(0, 5000),
    st.integers(0, 500),
    st.sampled_from(["0", "0.0001", "2.19", "9.5"]),
    st.integers(1, 3600),
)
def test_the_charges_of_a_closed_lease_sum_up_to_the_last_digit(
    before: int, job: int, after: int, price: str, granule: int
) -> None:
    started, ended = NOON + timedelta(seconds=before), NOON + timedelta(seconds=before + job)
    gone = ended + timedelta(seconds=after)
    closed = lease(
        1,
        State.RELEASED,
        asked_at=NOON,
        gone_at=gone,
        instance_id="i",
        price_per_hour=Decimal(price),
        granularity=timedelta(seconds=granule),
    )
    spans = [Span(State.LAUNCHING, NOON, started), Span(State.BUSY, started, ended), Span(State.DRAINING, ended, gone)]
    charges = close(closed, spans)
    assert sum((charge.amount for charge in charges), Decimal(0)) == accrued(closed, gone)
    assert all(charge.amount >= 0 for charge in charges)


def test_a_lease_that_never_had_a_job_spent_everything_before_it() -> None:
    gone = NOON + 10 * MINUTE
    closed = lease(1, State.RELEASED, asked_at=NOON, gone_at=gone, instance_id="i", price_per_hour=Decimal(6))
    spans = [Span(State.BOOTING, NOON, NOON + 9 * MINUTE), Span(State.DESTROYING, NOON + 9 * MINUTE, gone)]
    assert {charge.kind: charge.amount for charge in close(closed, spans)} == {
        ChargeKind.BEFORE_JOB: Decimal("0.9"),
        ChargeKind.AFTER_JOB: Decimal("0.1"),
    }
