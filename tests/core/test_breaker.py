"""When a provider is left alone as a whole, and when it is tried again."""

from datetime import timedelta

import pytest

from app.core.breaker import Standing, failed, worked
from providers.contract import NoCapacity, ProviderError, Refused, Throttled, Unclear, Why
from tests.core.values import NOON

WELL = Standing("cloud")


def test_three_calls_without_an_answer_open_it_for_longer_each_time() -> None:
    away = Unclear("no answer")
    twice = failed(failed(WELL, away, NOON), away, NOON)
    assert twice.no(NOON) is None
    thrice = failed(twice, away, NOON)
    assert thrice.no(NOON) == ("provider-away", "no answer; asked again at 12:00:30 UTC")
    assert thrice.no(NOON + timedelta(seconds=30)) is None, "then one may try"
    again = failed(thrice, away, NOON + timedelta(seconds=30))
    assert again.open_until == NOON + timedelta(seconds=90), "and one failure is enough to close it for twice as long"
    assert worked(again) == WELL


@pytest.mark.parametrize("why", [Why.CREDENTIALS, Why.FUNDS])
def test_a_key_or_a_balance_that_is_refused_closes_it_at_once(why: Why) -> None:
    standing = failed(WELL, Refused("the key has expired", why=why), NOON)
    assert standing.no(NOON) == ("provider-away", "the key has expired; asked again at 12:05:00 UTC")


@pytest.mark.parametrize("error", [Refused("too many", why=Why.QUOTA), Refused("odd")])
def test_a_refusal_of_one_thing_says_nothing_of_the_provider(error: ProviderError) -> None:
    assert failed(WELL, error, NOON) == WELL


def test_no_capacity_is_an_answer() -> None:
    assert failed(failed(WELL, Unclear("x"), NOON), NoCapacity("sold out"), NOON) == WELL


def test_a_provider_that_asks_to_wait_is_waited_for() -> None:
    standing = failed(WELL, Throttled("slow down", wait=timedelta(seconds=40)), NOON)
    assert standing.open_until == NOON + timedelta(seconds=40) and standing.failures == 0


def test_a_pause_says_who_and_why() -> None:
    paused = Standing("cloud", paused_at=NOON, paused_by="ann", paused_why="their rack is moved")
    no = paused.no(NOON)
    assert no is not None and no[0] == "paused" and "by ann" in no[1] and "their rack is moved" in no[1]
