"""The dead-man switch as a table of moments; and the service's time carried on without a clock of our own."""

from typing import Any

from app.node.agent import clock
from app.node.agent.watch import AFTER_EXIT, JOIN_LIMIT, Watch


def joined(**known: Any) -> Watch:
    return Watch(born=0.0, joined=True, silent=120.0, hard_end=3600.0, **known)


def test_a_node_that_cannot_join_ends_itself() -> None:
    """Its token is of no use any more, and it costs money."""
    assert Watch(born=0.0).verdict(JOIN_LIMIT - 1, heard=0.0) == ""
    assert Watch(born=0.0).verdict(JOIN_LIMIT, heard=0.0) == "the service could not be joined in 15 minutes"


def test_silence_ends_an_idle_node_and_not_a_busy_one() -> None:
    """A job's result is worth more than a missed heartbeat; the hard end holds for both."""
    assert joined().verdict(100.0, heard=0.0) == ""
    assert joined().verdict(120.0, heard=0.0) == "the service has been silent for 120 s"
    assert joined().verdict(300.0, heard=250.0) == ""
    assert joined(busy=True).verdict(3599.0, heard=0.0) == ""
    assert joined(busy=True).verdict(3600.0, heard=3600.0) == "the hard end time has come"


def test_a_runner_that_ended_waits_for_the_service_only_so_long() -> None:
    assert joined(exited=100.0).verdict(101.0, heard=101.0) == ""
    assert joined(exited=100.0).verdict(100.0 + AFTER_EXIT, heard=100.0 + AFTER_EXIT).startswith("the runner ended")


def test_the_services_word_comes_first() -> None:
    assert joined(over="the service asks this node to stop").verdict(9999.0, heard=0.0) == "the service asks this node to stop"


def test_the_services_time_is_carried_on_and_nonsense_changes_nothing() -> None:
    """A machine whose own clock is hours off still ends at the right moment."""
    time = clock.ServiceTime()
    assert time.until("2026-11-21T13:00:00Z") is None
    time.set("2026-11-21T12:00:00.000Z")
    for nonsense in ("", "yesterday", "2026-11-21T12:00:00", None, 12, "9999-99-99T00:00:00Z"):
        time.set(nonsense)
    moment = time.until("2026-11-21T13:00:00+00:00")
    assert moment is not None and 3590 < moment - clock.monotonic() <= 3600
    assert time.until("soon") is None
    assert time.at(moment) == "2026-11-21T13:00:00.000Z"


def test_a_service_whose_clock_is_at_the_end_of_time_is_not_believed() -> None:
    """Else the next heartbeat would have no year to be written in."""
    time = clock.ServiceTime()
    time.set("9999-12-31T23:59:59.999Z")
    assert time.at(clock.monotonic() + 5) < "9999"
