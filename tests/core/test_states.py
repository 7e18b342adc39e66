"""The life of a lease: what follows from the table."""

import pytest

from app.core.states import LIVE, ORDER, RULES, IllegalMove, State, judge, mermaid, way_out


def test_nothing_goes_back() -> None:
    assert all(ORDER[to] > ORDER[origin] for origin in State for to in RULES[origin].next)


def test_whatever_may_be_owed_passes_through_destroying() -> None:
    for origin in State:
        if State.RELEASED in RULES[origin].next:
            assert origin is State.DESTROYING or not RULES[origin].owed


def test_whatever_met_the_forge_passes_through_draining() -> None:
    for origin in (State.REGISTERING, State.IDLE, State.BUSY):
        assert State.DESTROYING not in RULES[origin].next
        assert way_out(origin) is State.DRAINING


def test_every_live_state_but_destroying_has_a_deadline_and_a_legal_way_when_late() -> None:
    for state in LIVE - {State.DESTROYING}:
        rule = RULES[state]
        assert rule.within is not None
        assert rule.late in rule.next
    assert RULES[State.DESTROYING].late is None, "destroying never gives up"


def test_every_state_reaches_released_by_the_short_way_down() -> None:
    for state in LIVE:
        steps = 0
        while state is not State.RELEASED:
            state, steps = way_out(state), steps + 1
        assert steps <= 3


def test_a_late_or_repeated_message_is_stale_and_an_impossible_one_is_an_error() -> None:
    assert judge(State.IDLE, State.BUSY)
    assert not judge(State.BUSY, State.IDLE)
    assert not judge(State.BUSY, State.BUSY)
    with pytest.raises(IllegalMove, match="planned to busy"):
        judge(State.PLANNED, State.BUSY)


def test_the_diagram_shows_every_arrow() -> None:
    assert mermaid().count("-->") == sum(len(rule.next) for rule in RULES.values())
