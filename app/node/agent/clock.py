"""Time on the node: a clock that never jumps, and the service's time carried on from it.

The machine's own wall clock is never asked. A rented machine may boot hours off and be set right in the middle of a job;
so every answer of the service that holds its `now` sets the pair (service time, monotonic time), and the rest is addition.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone


def monotonic() -> float:
    """Seconds that never jump, and that go on while a virtual machine is suspended (Linux, clock_gettime(2))."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def read(text: str) -> datetime:
    """An RFC 3339 time. Raises ValueError for anything else, a time without a zone included."""
    found = datetime.fromisoformat(text.strip().replace("Z", "+00:00").replace("z", "+00:00"))
    if found.tzinfo is None:
        raise ValueError("a time without a zone")
    return found.astimezone(timezone.utc)


def write(when: datetime) -> str:
    return when.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ServiceTime:
    """What the service's clock shows; unknown before its first answer."""

    def __init__(self) -> None:
        self._service: datetime | None = None
        self._here = 0.0

    def set(self, text: object) -> None:
        """Takes the `now` of an answer; nonsense is ignored, for the last good one still holds."""
        here = monotonic()
        try:
            service = read(str(text))
        except (ValueError, OverflowError):
            return
        if service.year < 9000:  # later, the next sum could have no year
            self._service, self._here = service, here

    def at(self, here: float) -> str:
        """The service's time at a monotonic moment, as RFC 3339."""
        service = self._service or datetime(1970, 1, 1, tzinfo=timezone.utc)
        return write(service + timedelta(seconds=here - self._here))

    def until(self, text: object) -> float | None:
        """The monotonic moment at which the service's clock will show this time; None if unreadable or not known yet."""
        if self._service is None:
            return None
        try:
            return self._here + (read(str(text)) - self._service).total_seconds()
        except (ValueError, OverflowError):
            return None
