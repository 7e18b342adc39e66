"""now(), monotonic() and sleep(): the one thing that tests replace."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

ASLEEP_TOO: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux stops CLOCK_MONOTONIC while the machine is suspended; a rented one is paid for meanwhile (clock_gettime(2))."""
DRIFT = 0.0005
"""Of a second, that a clock may be wrong by: 500 ppm, as much as a kernel lets NTP correct (adjtimex(2))."""
JUMP = 1.0
"""Seconds, beyond what drift can explain, from which on a difference is no drift: somebody has set the clock."""
LONGEST_STOP = 10.0
"""Seconds for which time may stand still rather than go back; beyond that it goes back at once."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds; never jumps."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251  here, and nowhere else

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def elapsed() -> float:
    """Seconds since some moment, those in which the machine slept included; never jumps."""
    return time.clock_gettime(ASLEEP_TOO)


@dataclass(frozen=True, slots=True)
class _Anchor:
    """What the time was at one moment of the monotonic clock."""

    at: float  # seconds, monotonic
    time: datetime
    error: float  # seconds by which it may be wrong: half of the way to the source and back
    least: datetime  # nothing earlier is shown


class SteadyClock:
    """A source's time, carried on by this process's own monotonic clock: the machine's wall clock may jump as it likes.

    Processes that share a source show one time, the database's, however wrong the clocks of their machines are.
    Safe to share between threads."""

    def __init__(self, source: Callable[[], datetime], monotonic: Callable[[], float] = elapsed, *, steps: bool = True) -> None:
        """Asks the source, and raises what it raises. `steps`: whether `sync` follows a source that jumps.

        Where others share the source it must, or there would be two times. Where the source is this machine's own clock
        it must not: nobody else counts on it, every deadline is a length of time, and that we can measure by ourselves.
        Drift is followed either way, so that a service which runs for months is right to the second."""
        self._source, self._monotonic, self._steps = source, monotonic, steps
        self._left_out = timedelta(0)  # jumps of the source that were not followed
        self._anchor = self._ask()

    def now(self) -> datetime:
        anchor = self._anchor
        return max(_carried(anchor, self._monotonic()), anchor.least)

    def monotonic(self) -> float:
        return self._monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def sync(self) -> float:
        """Ask the source again; blocking. Seconds by which the time shown was moved. Raises what the source raises."""
        told, known = self._ask(), self._anchor
        age = max(told.at - known.at, 0.0)
        carried = _carried(known, told.at)
        ahead = (told.time - self._left_out - carried).total_seconds()
        if told.error > known.error + DRIFT * age and abs(ahead) <= told.error:
            return 0.0  # an answer that took long, and does not contradict us, knows less than we do
        if not self._steps and abs(ahead) > JUMP + DRIFT * age:
            self._left_out += timedelta(seconds=ahead)
            ahead = 0.0
        moved = ahead if self._steps else max(-DRIFT * age, min(DRIFT * age, ahead))
        time = carried + timedelta(seconds=moved)
        least = max(carried, known.least) if moved >= -LONGEST_STOP else time
        self._anchor = _Anchor(told.at, time, told.error, least)
        return moved

    def _ask(self) -> _Anchor:
        before = self._monotonic()
        time = self._source()
        after = self._monotonic()
        half = max(after - before, 0.0) / 2
        return _Anchor(before + half, time, half, time)


def _carried(anchor: _Anchor, at: float) -> datetime:
    return anchor.time + timedelta(seconds=at - anchor.at)
