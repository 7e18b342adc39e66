"""One time for all processes: the source's, carried on by the monotonic clock, whatever the wall clock does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.kit.clock import LONGEST_STOP, SteadyClock, elapsed

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOURS = timedelta(hours=2)


class Machine:
    """A monotonic clock, and a source that is asked over a road of some length."""

    def __init__(self) -> None:
        self.passed = 0.0  # seconds, monotonic
        self.wrong = timedelta(0)  # of the source
        self.there = self.back = 0.0  # seconds to the source and back

    def monotonic(self) -> float:
        return self.passed

    def source(self) -> datetime:
        self.passed += self.there
        told = self.right() + self.wrong
        self.passed += self.back
        return told

    def right(self) -> datetime:
        return NOON + timedelta(seconds=self.passed)

    def off(self, clock: SteadyClock) -> float:
        return (clock.now() - self.right()).total_seconds()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("steps", [True, False])
def test_between_two_looks_time_passes_by_the_monotonic_clock_alone(machine: Machine, steps: bool) -> None:
    clock = SteadyClock(machine.source, machine.monotonic, steps=steps)
    machine.wrong = HOURS
    machine.passed += 30
    assert clock.now() == NOON + timedelta(seconds=30)
    assert clock.monotonic() == 30


def test_half_of_the_way_is_taken_off(machine: Machine) -> None:
    machine.there, machine.back = 0.1, 0.1
    clock = SteadyClock(machine.source, machine.monotonic)
    assert machine.off(clock) == pytest.approx(0.0)
    machine.there, machine.back = 0.2, 0.0
    assert machine.off(SteadyClock(machine.source, machine.monotonic)) == pytest.approx(0.1), "wrong by half at the most"


def test_a_shared_source_that_jumps_is_followed(machine: Machine) -> None:
    clock = SteadyClock(machine.source, machine.monotonic)
    machine.wrong = HOURS
    assert clock.sync() == HOURS.total_seconds()
    assert machine.off(clock) == HOURS.total_seconds()
    machine.wrong = timedelta(0)
    clock.sync()
    assert machine.off(clock) == 0, "so far back that standing still would be worse"


def test_a_little_too_fast_means_that_time_stands_still_and_never_goes_back(machine: Machine) -> None:
    clock = SteadyClock(machine.source, machine.monotonic)
    machine.passed += 60
    before = clock.now()
    machine.wrong = -timedelta(seconds=LONGEST_STOP / 2)
    clock.sync()
    clock.sync()
    assert clock.now() == before
    machine.passed += LONGEST_STOP / 4
    assert clock.now() == before
    machine.passed += LONGEST_STOP
    assert machine.off(clock) == -LONGEST_STOP / 2


def test_the_own_clock_s_jump_is_not_followed_but_its_drift_is(machine: Machine) -> None:
    clock = SteadyClock(machine.source, machine.monotonic, steps=False)
    for hours in (HOURS, -HOURS):
        machine.wrong = hours
        machine.passed += 60
        clock.sync()
        clock.sync()
        assert machine.off(clock) == 0
    for _ in range(600):
        machine.passed += 60
        machine.wrong += timedelta(seconds=0.006)  # 100 ppm
        clock.sync()
    assert machine.off(clock) == pytest.approx(3.6, abs=0.01), "as far as the other clock drifted since"


def test_an_answer_that_took_long_is_believed_only_if_it_contradicts_us(machine: Machine) -> None:
    clock = SteadyClock(machine.source, machine.monotonic)
    machine.there = 8.0
    machine.passed += 60
    assert clock.sync() == 0
    assert machine.off(clock) == 0
    machine.wrong = HOURS
    clock.sync()
    assert machine.off(clock) == pytest.approx(HOURS.total_seconds(), abs=8)


def test_the_machine_s_sleep_counts() -> None:
    before = elapsed()
    assert elapsed() >= before
