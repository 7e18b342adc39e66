"""What may still be asked of a forge: the end of the quota is kept, and a wait is kept to."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.forges.answers import Answer
from app.forges.budget import KEPT, Budget, MinuteLimits, Rank, Sliding
from app.forges.contract import HeldBack, Pace

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def told(left: int, *, limit: int = 1000, reset: datetime = NOON + HOUR, status: int = 200, **more: str) -> Answer:
    headers = {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(left),
        "x-ratelimit-reset": str(int(reset.timestamp())),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return Answer(status, headers)


def heard(left: int, **more: object) -> Budget:
    """A budget whose forge told once what is left."""
    budget = Budget("github")
    budget.take(Rank.LOOK, NOON)
    budget.settle(told(left, **more), NOON)  # pyright: ignore[reportArgumentType]  a test's shorthand
    return budget


def may(budget: Budget, rank: Rank, now: datetime = NOON) -> bool:
    """Whether a call of this rank is allowed; it comes back with no word of the quota."""
    try:
        budget.take(rank, now)
    except HeldBack:
        return False
    budget.settle(Answer(200, {}), now)
    return True


def test_everything_is_allowed_before_the_forge_has_said_anything() -> None:
    budget = Budget("github")
    assert budget.pace(NOON) is Pace.FREE
    assert budget.left(NOON) is None
    assert all(may(budget, rank) for rank in Rank)


@pytest.mark.parametrize(
    ("left", "pace", "allowed"),
    [
        (500, Pace.FREE, set(Rank)),
        (499, Pace.SLOW, set(Rank)),
        (100, Pace.SLOW, set(Rank)),
        (99, Pace.STOP, {Rank.CREDENTIAL, Rank.REMOVAL, Rank.LOOK}),
        (49, Pace.STOP, {Rank.CREDENTIAL, Rank.REMOVAL}),
        (19, Pace.STOP, {Rank.CREDENTIAL}),
        (1, Pace.STOP, {Rank.CREDENTIAL}),
        (0, Pace.STOP, set[Rank]()),
    ],
)
def test_as_the_quota_ends_polls_stop_first_and_credentials_last(left: int, pace: Pace, allowed: set[Rank]) -> None:
    budget = heard(left)
    assert budget.pace(NOON) is pace
    assert {rank for rank in Rank if may(budget, rank)} == allowed


def test_what_is_held_back_says_when_the_forge_counts_anew() -> None:
    budget = heard(50, reset=NOON + timedelta(minutes=7))
    with pytest.raises(HeldBack, match="kept for calls that matter more") as caught:
        budget.take(Rank.POLL, NOON)
    assert caught.value.wait == timedelta(minutes=7)
    assert may(budget, Rank.POLL, NOON + timedelta(minutes=7))


def test_nothing_is_sent_before_a_retry_after_is_over() -> None:
    budget = Budget("github")
    budget.take(Rank.CREDENTIAL, NOON)
    budget.settle(Answer(403, {"retry-after": "90"}), NOON)
    with pytest.raises(HeldBack) as caught:
        budget.take(Rank.CREDENTIAL, NOON + 30 * SECOND)
    assert caught.value.wait == 60 * SECOND
    assert not any(may(budget, rank, NOON + 89 * SECOND) for rank in Rank)
    assert (budget.pace(NOON + 89 * SECOND), budget.left(NOON + 89 * SECOND)) == (Pace.STOP, 0)
    assert all(may(budget, rank, NOON + 90 * SECOND) for rank in Rank)


def test_a_refusal_that_does_not_say_for_how_long_is_met_with_ever_longer_waits() -> None:
    budget, now, waits = Budget("github"), NOON, list[timedelta]()
    secondary = Answer(403, {}, said="You have exceeded a secondary rate limit.")
    for _ in range(8):
        budget.take(Rank.CREDENTIAL, now)
        budget.settle(secondary, now)
        with pytest.raises(HeldBack) as caught:
            budget.take(Rank.CREDENTIAL, now)
        waits.append(caught.value.wait)
        now += caught.value.wait
    assert waits == [timedelta(minutes=many) for many in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert may(budget, Rank.CREDENTIAL, now)  # a success, and the next wait is short again
    budget.take(Rank.CREDENTIAL, now)
    budget.settle(secondary, now)
    assert may(budget, Rank.CREDENTIAL, now + timedelta(minutes=1))


def test_a_plain_refusal_holds_nothing_back() -> None:
    budget = heard(900)
    budget.take(Rank.LOOK, NOON)
    budget.settle(told(899, status=403), NOON)
    assert all(may(budget, rank) for rank in Rank)


def test_calls_under_way_count_and_lost_ones_too() -> None:
    budget = heard(3, limit=10)
    budget.take(Rank.CREDENTIAL, NOON)
    budget.take(Rank.CREDENTIAL, NOON)
    assert budget.left(NOON) == 1
    budget.settle(None, NOON)
    budget.settle(None, NOON)
    assert budget.left(NOON) == 1


def test_answers_that_come_in_another_order_do_not_bring_quota_back() -> None:
    budget = heard(700)
    for left in (650, 690, 660):
        budget.take(Rank.LOOK, NOON)
        budget.settle(told(left), NOON)
    assert budget.left(NOON) == 650


def test_a_new_window_brings_it_back_even_on_a_clock_that_is_behind() -> None:
    """GitLab counts by the minute: the next window is told before ours would be over."""
    budget = heard(3, limit=2000, reset=NOON + 40 * SECOND)
    assert not may(budget, Rank.POLL)
    budget.take(Rank.CREDENTIAL, NOON + 10 * SECOND)
    budget.settle(told(1999, limit=2000, reset=NOON + 100 * SECOND), NOON + 10 * SECOND)
    assert may(budget, Rank.POLL, NOON + 10 * SECOND)


def test_the_tightest_of_several_quotas_counts() -> None:
    budget = heard(4000, limit=5000)
    budget.take(Rank.CREDENTIAL, NOON)
    budget.settle(told(9, limit=1000, x_ratelimit_resource="actions_runner_registration"), NOON)
    assert budget.left(NOON) == 9
    assert not may(budget, Rank.POLL)


def test_points_by_the_minute_are_kept_to_and_polls_fill_half_of_them_at_most() -> None:
    budget = Budget("github", MinuteLimits(points=900))
    polls = sum(may(budget, Rank.POLL) for _ in range(1000))
    looks = sum(may(budget, Rank.LOOK) for _ in range(1000))
    mints = 0
    for _ in range(100):
        try:
            budget.take(Rank.CREDENTIAL, NOON, points=5)
        except HeldBack as held:
            assert timedelta(0) < held.wait <= timedelta(minutes=1)
            break
        mints += 1
    assert (polls, looks, mints) == (450, 360, 18)
    assert may(budget, Rank.POLL, NOON + timedelta(minutes=1))


def test_no_more_than_eighty_things_are_made_in_a_minute() -> None:
    budget = Budget("github", MinuteLimits(points=900, creations=80))
    for place in range(80):
        budget.take(Rank.CREDENTIAL, NOON + place * SECOND / 2, points=5, creates=True)
    with pytest.raises(HeldBack) as caught:
        budget.take(Rank.CREDENTIAL, NOON + 45 * SECOND, points=5, creates=True)
    assert caught.value.wait == 15 * SECOND
    assert may(budget, Rank.CREDENTIAL, NOON + 45 * SECOND)


def test_a_clock_that_is_set_back_holds_nobody_for_long() -> None:
    budget = Budget("github", MinuteLimits(points=10))
    later = NOON + 5 * HOUR
    assert [may(budget, Rank.CREDENTIAL, later) for _ in range(11)] == [True] * 10 + [False]
    budget.take(Rank.CREDENTIAL, later + timedelta(minutes=1))
    budget.settle(told(0, reset=later + HOUR, retry_after="3600", status=429), later + timedelta(minutes=1))
    assert may(budget, Rank.CREDENTIAL, NOON)


def test_many_threads_never_take_more_than_there_is() -> None:
    budget = heard(50, limit=100)

    def take(_: int) -> bool:
        try:
            budget.take(Rank.CREDENTIAL, NOON)
        except HeldBack:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(200))) == 50


class _Forge:
    """A forge that counts as GitHub does, and gives a wait now and then."""

    def __init__(self, limit: int) -> None:
        self.limit, self.left, self.reset = limit, limit, NOON + HOUR
        self.until = NOON

    def window(self, now: datetime) -> None:
        while now >= self.reset:
            self.left, self.reset = self.limit, self.reset + HOUR

    def answer(self, now: datetime, wait: int, unchanged: bool) -> Answer:
        self.window(now)
        if wait:
            self.until = max(self.until, now + wait * SECOND)
            return Answer(429, {"retry-after": str(wait)})
        self.left -= 0 if unchanged else 1
        return told(self.left, limit=self.limit, reset=self.reset, status=304 if unchanged else 200)


STEPS = st.tuples(
    st.sampled_from(list(Rank)),
    st.integers(0, 400),  # seconds until then
    st.integers(0, 3),  # answers that are awaited first
    st.sampled_from([0, 0, 0, 0, 0, 0, 5, 60, 700]),  # Retry-After
    st.booleans(),  # unchanged
    st.sampled_from([True, True, True, False]),  # the answer arrives
)


@given(limit=st.integers(1, 60), steps=st.lists(STEPS, max_size=120))
def test_whatever_happens_the_rules_hold(limit: int, steps: list[tuple[Rank, int, int, int, bool, bool]]) -> None:
    """No poll below a tenth, no call before a wait is over, no credential refused while there is quota and no wait."""
    forge, budget, now = _Forge(limit), Budget("github"), NOON
    under_way: deque[Answer | None] = deque()
    for rank, seconds, awaited, wait, unchanged, arrives in steps:
        now += seconds * SECOND
        for _ in range(min(awaited, len(under_way))):
            budget.settle(under_way.popleft(), now)
        quiet = not under_way
        forge.window(now)
        known = budget.left(now)
        try:
            budget.take(rank, now)
        except HeldBack as held:
            assert held.wait > timedelta(0)
            owed = known if known is not None else 1
            assert rank is not Rank.CREDENTIAL or owed == 0
            continue
        if known is not None:
            assert known >= limit * KEPT[rank] and known > 0
        if quiet:
            assert now >= forge.until
            assert rank is not Rank.POLL or known is None or forge.left >= limit * 0.1
        under_way.append(forge.answer(now, wait, unchanged) if arrives else None)
        if not arrives:
            forge.left = max(0, forge.left - 1)


def test_a_sliding_window_lets_go_bit_by_bit() -> None:
    window = Sliding(timedelta(seconds=10))
    for place in range(5):
        assert window.wait(2, 10, NOON + place * SECOND) is None
        window.add(2, NOON + place * SECOND)
    assert window.wait(1, 10, NOON + 5 * SECOND) == 5 * SECOND
    assert window.wait(3, 10, NOON + 5 * SECOND) == 6 * SECOND
    assert window.wait(99, 10, NOON + 5 * SECOND) == 10 * SECOND
    assert window.wait(2, 10, NOON + 10 * SECOND) is None
