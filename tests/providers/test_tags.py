"""One create of a tag at a time, and what a look before it may find."""

from dataclasses import replace

import pytest

from providers.contract import Instance, Order, Phase, Unclear
from providers.tags import Turns, there
from tests.providers.benches import ManualClock, Orders, plain_offer

NOW = ManualClock().now()


@pytest.fixture
def order() -> Order:
    return Orders(plain_offer("vendor", NOW), now=NOW)()


def seen(order: Order, phase: Phase, *, key: str = "", name: str = "") -> Instance:
    return Instance(name or phase, order.tag, phase, key=key or order.key)


def test_nothing_is_there_but_other_tags(order: Order) -> None:
    assert there([], order) is None
    assert there([replace(seen(order, Phase.RUNNING), tag=f"{order.tag}-2")], order) is None


@pytest.mark.parametrize("phase", Phase)
def test_what_this_attempt_made_is_found_in_every_phase(order: Order, phase: Phase) -> None:
    made = seen(order, phase)
    assert there([made], order) is made, "also its record: the attempt is not made twice"


def test_the_one_that_lives_goes_before_the_record_of_one_that_ended(order: Order) -> None:
    ended, lives = seen(order, Phase.ENDED), seen(order, Phase.RUNNING)
    assert there([ended, lives], order) is lives


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.ENDED, Phase.DESTROYING)])
def test_a_machine_of_another_attempt_is_in_the_way_as_long_as_it_lives(order: Order, phase: Phase) -> None:
    with pytest.raises(Unclear, match="another attempt") as caught:
        there([seen(order, Phase.ENDED), seen(order, phase, key="another")], order)
    assert caught.value.maybe_created


@pytest.mark.parametrize("phase", [Phase.ENDED, Phase.DESTROYING])
def test_what_is_going_of_another_attempt_is_not_in_the_way(order: Order, phase: Phase) -> None:
    assert there([seen(order, phase, key="another")], order) is None


def test_two_that_live_under_one_key_are_one_too_many(order: Order) -> None:
    with pytest.raises(Unclear, match="2 machines"):
        there([seen(order, Phase.RUNNING, name="one"), seen(order, Phase.STARTING, name="two")], order)


def test_a_turn_is_of_the_account_and_the_tag(order: Order) -> None:
    lock = Turns("vendor|key").of(order)
    assert Turns("vendor|key").of(replace(order, key="another")) is lock, "whichever provider object asks"
    assert Turns("vendor|key").of(replace(order, tag="another")) is not lock
    assert Turns("vendor|other key").of(order) is not lock
    assert "vendor|key" not in repr(vars(Turns("vendor|key")))
