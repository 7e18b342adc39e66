"""What failed lately is left alone: for how long, how far, and what ends it."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from app.core.cooling import Setback, cooldowns
from app.core.model import Lease, Reason
from app.core.states import State
from providers.contract import Reach
from tests.core.values import NOON, lease, offer

MINUTE = timedelta(minutes=1)


def failed(number: int, **values: Any) -> Lease:
    return lease(number, State.RELEASED, provider="cloud", region="sg", offer=asdict(offer("x")), gone_at=NOON, **values)


def no(reach: Reach, at: timedelta = timedelta(0)) -> Setback:
    return Setback(NOON + at, "cloud", "sg", "big", "big/spot", reach, Reason.NO_CAPACITY, "sold out")


def test_a_machine_that_failed_is_left_alone_longer_each_time_until_one_serves() -> None:
    once = [failed(1, reason=Reason.BOOT_TIMEOUT)]
    assert cooldowns((), once, NOON, MINUTE)[0].until == NOON + MINUTE
    twice = [*once, failed(2, reason=Reason.BAD_NODE)]
    assert cooldowns((), twice, NOON, MINUTE)[0].until == NOON + 2 * MINUTE
    served = [*twice, failed(3, reason=Reason.JOB_DONE, job_started_at=NOON)]
    assert cooldowns((), served, NOON, MINUTE) == ()


def test_a_job_that_was_cancelled_says_nothing_against_the_machine() -> None:
    assert cooldowns((), [failed(1, reason=Reason.JOB_GONE)], NOON, MINUTE) == ()


def test_a_lease_that_ended_at_a_no_is_counted_by_its_setback_alone() -> None:
    assert cooldowns((), [failed(1, reason=Reason.NO_CAPACITY)], NOON, MINUTE) == ()


@pytest.mark.parametrize(
    ("reach", "same_type", "elsewhere", "other_type"),
    [(Reach.OFFER, False, False, False), (Reach.REGION, True, False, False), (Reach.PROVIDER, True, True, True)],
)
def test_how_far_a_no_goes(reach: Reach, same_type: bool, elsewhere: bool, other_type: bool) -> None:
    (cold,) = cooldowns([no(reach)], (), NOON, MINUTE)
    assert cold.covers(offer("big/spot", type="big"))
    assert cold.covers(offer("big/on-demand", type="big")) is same_type
    assert cold.covers(offer("big/there", type="big", region="my")) is elsewhere
    assert cold.covers(offer("small", type="small")) is other_type
    assert not cold.covers(offer("big/spot", type="big", provider="rack"))
    assert "no capacity (sold out)" in cold.why


def test_three_in_a_row_last_four_times_as_long_and_it_ends() -> None:
    told = [no(Reach.OFFER, timedelta(seconds=second)) for second in (0, 10, 20)]
    (cold,) = cooldowns(told, (), NOON + timedelta(seconds=20), MINUTE)
    assert (cold.failures, cold.since, cold.until) == (3, NOON, NOON + timedelta(seconds=20) + 4 * MINUTE)
    assert cooldowns(told, (), cold.until, MINUTE) == ()
