"""The pace of an account: a token bucket, shared by all who use the account, that also keeps still when it is told to wait."""

import hashlib
import weakref
from datetime import datetime, timedelta

from providers.clock import SYSTEM, Clock
from providers.contract import Throttled

PATIENCE = timedelta(seconds=2)
"""A turn that comes within so long is waited for; a later one is `Throttled`, so that the caller may do something else."""


class Pace:
    """At most `burst` calls at once, and one more each `every`. Belongs to one event loop."""

    def __init__(self, every: timedelta, burst: int = 1, *, clock: Clock = SYSTEM) -> None:
        self._every, self._burst, self._clock = every, burst, clock
        self._next: datetime = clock.now()  # when the bucket is full again
        self._closed_until = self._next

    async def turn(self, what: str) -> None:
        """Returns when the call may be made. Raises `Throttled`, with the wait, if that is too far off; nothing was sent."""
        now = self._clock.now()
        free = max(self._next - self._every * (self._burst - 1), self._closed_until, now)
        if free - now > PATIENCE:
            raise Throttled(f"{what}: this account is to wait", wait=free - now)
        self._next = max(self._next, free) + self._every
        if free > now:
            await self._clock.sleep((free - now).total_seconds())

    def hold(self, wait: timedelta) -> None:
        """The vendor said so: nobody asks before."""
        self._closed_until = max(self._closed_until, self._clock.now() + wait)


_paces: "weakref.WeakValueDictionary[str, Pace]" = weakref.WeakValueDictionary()


def shared(account: str, every: timedelta, burst: int = 1, *, clock: Clock = SYSTEM) -> Pace:
    """The one pace of an account; `account` is its vendor, address and key, and only a hash of it is kept."""
    name = hashlib.sha256(f"{account}|{every}|{burst}|{id(clock)}".encode()).hexdigest()
    pace = _paces.get(name)
    if pace is None:
        pace = _paces[name] = Pace(every, burst, clock=clock)
    return pace
