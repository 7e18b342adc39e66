"""What one credential may still ask of its forge: calls have ranks, and the end of the quota is kept for the higher ones.

A forge tells what is left in the headers of each answer (GitHub `x-ratelimit-*` by the hour, GitLab
`ratelimit-*` by the minute). GitHub has limits beside that which no header tells: 900 points a
minute (a read is 1, a write 5) and 80 calls a minute that make something (rate-limits-for-the-rest-api).
They are counted here. Several processes with one credential share the first kind through the
headers; each counts the second kind for itself, and the forge's `Retry-After` settles the rest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from app.forges.answers import LONGEST_WAIT, UNTOLD_WAIT, Answer, count_of, reset_in, stay_away, unreadable
from app.forges.contract import HeldBack, Pace

MINUTE = timedelta(minutes=1)
SLOW_BELOW = 0.5  # of the quota: polls come less often
_SAME_WINDOW = timedelta(seconds=5)  # two answers tell the reset of one window to within this
_RESOURCES = 8  # quotas of one credential that are told apart


class Rank(IntEnum):
    """What a call is for; what matters most comes first."""

    CREDENTIAL = 0  # a machine waits for it, and costs money meanwhile
    REMOVAL = 1  # a runner that could take a job of others
    LOOK = 2  # one job, run or runner that something depends on
    POLL = 3  # might find something


KEPT: Mapping[Rank, float] = {Rank.CREDENTIAL: 0.0, Rank.REMOVAL: 0.02, Rank.LOOK: 0.05, Rank.POLL: 0.1}
"""The share of the quota below which a rank asks no more."""
PER_MINUTE: Mapping[Rank, float] = {Rank.CREDENTIAL: 1.0, Rank.REMOVAL: 0.95, Rank.LOOK: 0.9, Rank.POLL: 0.5}
"""The share of the limits by the minute that a rank may fill, with whatever the others have used."""


@dataclass(frozen=True, slots=True)
class MinuteLimits:
    """What a forge bears in a minute without telling in headers. 0: no such limit."""

    points: int = 0
    creations: int = 0


class Sliding:
    """Units used within the last period. Not safe for threads by itself."""

    def __init__(self, period: timedelta = MINUTE) -> None:
        self._period = period
        self._used: deque[tuple[datetime, int]] = deque()
        self._sum = 0

    def wait(self, units: int, most: float, now: datetime) -> timedelta | None:
        """How long until so many units fit under `most`; None: they fit now. A clock set back forgets what it had."""
        while self._used and not now - self._period < self._used[0][0] <= now:
            self._sum -= self._used.popleft()[1]
        over = self._sum + units - most
        if over <= 0:
            return None
        for when, used in self._used:
            over -= used
            if over <= 0:
                return max(when + self._period - now, timedelta(seconds=1))
        return self._period

    def add(self, units: int, now: datetime) -> None:
        self._used.append((now, units))
        self._sum += units


@dataclass(slots=True)
class _Quota:
    """What the forge's headers told last about one of its windows."""

    limit: int
    left: int
    until: datetime

    def share(self, flying: int) -> float:
        return max(0, self.left - flying) / self.limit if self.limit else 0.0


class Budget:
    """What one credential may ask. Safe to share between threads; the clock is passed in."""

    def __init__(self, forge: str, minute: MinuteLimits = MinuteLimits()) -> None:
        self._forge, self._minute = forge, minute
        self._lock = threading.Lock()
        self._quotas: dict[str, _Quota] = {}
        self._flying = 0  # asked, and not answered yet
        self._hold: tuple[datetime, datetime] | None = None  # from, until
        self._untold = 0  # refusals in a row that did not say for how long
        self._points, self._creations = Sliding(), Sliding()

    def spend(
        self,
        ask: Callable[[], Answer],
        rank: Rank,
        deed: str,
        now: Callable[[], datetime],
        *,
        points: int = 1,
        creates: bool = False,
    ) -> Answer:
        """One call within the budget; whatever becomes of it is counted.

        Raises HeldBack where there is no room, ForgeDown for a success that is not JSON, and what `ask` raises."""
        self.take(rank, now(), points=points, creates=creates)
        try:
            answer = ask()
        except BaseException:
            self.settle(None, now())
            raise
        self.settle(answer, now())
        if answer.status < 300 and answer.broken:
            raise unreadable(self._forge, deed, "not JSON")
        return answer

    def take(self, rank: Rank, now: datetime, *, points: int = 1, creates: bool = False) -> None:
        """Room for one call, which `settle` ends. Raises HeldBack, with the wait, where its rank has none left."""
        with self._lock:
            wait, why = self._room(rank, now, points, creates)
            if wait is not None:
                raise HeldBack(f"{self._forge} is not asked now: {why}", wait=wait)
            self._flying += 1
            self._points.add(points, now)
            if creates:
                self._creations.add(1, now)

    def settle(self, answer: Answer | None, now: datetime) -> None:
        """The call has ended: with an answer, or without one (it may have counted)."""
        with self._lock:
            self._flying -= 1
            if answer is None:
                for quota in self._quotas.values():
                    quota.left = max(0, quota.left - 1)
                return
            self._note(answer, now)
            asked = stay_away(answer, now)
            if asked is None:
                if answer.status < 400:
                    self._untold = 0
                return
            told, wait = asked
            if not told:  # wait a minute, then back off (rate-limits-for-the-rest-api)
                wait = min(UNTOLD_WAIT * 2 ** min(self._untold, 6), LONGEST_WAIT)
                self._untold += 1
            held = self._held(now)
            if held is None or wait > held:
                self._hold = (now, now + wait)

    def pace(self, now: datetime) -> Pace:
        """How freely polls may be made on this credential."""
        with self._lock:
            share = self._share(now)
            if self._held(now) is not None or (share is not None and share < KEPT[Rank.POLL]):
                return Pace.STOP
            return Pace.SLOW if share is not None and share < SLOW_BELOW else Pace.FREE

    def left(self, now: datetime) -> int | None:
        """Calls that are left in the tightest window; 0 while the forge wants to be left alone; None: not told yet."""
        with self._lock:
            if self._held(now) is not None:
                return 0
            return min((max(0, one.left - self._flying) for one in self._current(now)), default=None)

    def _room(self, rank: Rank, now: datetime, points: int, creates: bool) -> tuple[timedelta | None, str]:
        held = self._held(now)
        if held is not None:
            return held, "it asked us to slow down"
        for quota in self._current(now):
            if quota.left <= self._flying or quota.share(self._flying) < KEPT[rank]:
                reason = "the rest of its quota is kept for calls that matter more" if quota.left else "its quota is used up"
                return min(max(quota.until - now, timedelta(seconds=1)), LONGEST_WAIT), reason
        limits = ((self._points, points, self._minute.points), (self._creations, int(creates), self._minute.creations))
        for used, units, most in limits:
            if most and units:
                wait = used.wait(units, most * PER_MINUTE[rank], now)
                if wait is not None:
                    return wait, "it bears only so many calls a minute"
        return None, ""

    def _held(self, now: datetime) -> timedelta | None:
        """What is left of a wait that the forge asked for."""
        if self._hold is None:
            return None
        begun, until = self._hold
        left = until - now
        if left <= timedelta(0) or now < begun - LONGEST_WAIT:  # a clock set back by hours must not hold us for hours
            self._hold = None
            return None
        return min(left, LONGEST_WAIT)

    def _current(self, now: datetime) -> Iterable[_Quota]:
        """The quotas whose window is not over."""
        for name in [name for name, quota in self._quotas.items() if not now < quota.until <= now + 2 * LONGEST_WAIT]:
            del self._quotas[name]
        return self._quotas.values()

    def _share(self, now: datetime) -> float | None:
        return min((quota.share(self._flying) for quota in self._current(now)), default=None)

    def _note(self, answer: Answer, now: datetime) -> None:
        left = count_of(answer.headers, "remaining")
        if left is None:
            return
        told = answer.headers.get("x-ratelimit-resource") or answer.headers.get("ratelimit-name") or ""
        name = told[:60]
        until = now + (reset_in(answer.headers, now) or MINUTE)
        known = self._quotas.get(name)
        if known is None and len(self._quotas) >= _RESOURCES:
            return
        most = count_of(answer.headers, "limit") or max(left, known.limit if known else 0)
        if known is not None and now < known.until and abs(until - known.until) < _SAME_WINDOW:
            left = min(left, known.left)  # answers may come in another order than they were counted
            until = max(until, known.until)
        self._quotas[name] = _Quota(most, left, until)
