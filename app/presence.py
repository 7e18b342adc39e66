"""This process among the others on the same database: its row in the table, the time they share, hints between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from app import __version__
from app.kit.bell import Bell
from app.kit.clock import Clock, SteadyClock, SystemClock
from app.kit.threads import Lane
from app.kit.words import duration
from app.store import replicas, vault
from app.store.db import Database
from app.store.herald import Herald
from app.store.replicas import Replica
from app.store.vault import Vault, VaultError

log = structlog.get_logger()

EVERY = 3.0
"""Seconds between two words of itself."""
FIRST = 0.2
"""The same, until its engine has looked for the first time."""
SYNC = 60.0
"""Seconds between two looks at the source of time and at the keys."""
ASTRAY = timedelta(seconds=30)
"""A machine's clock that is further off is reported: certificates and the forges' own times are checked by it."""


class Presence:
    """`run` for as long as the process serves, then `leave`."""

    def __init__(
        self,
        database: Database,
        lane: Lane,
        clock: Clock,
        bell: Bell,
        keys: Vault,
        *,
        name: str,
        role: str,
        beat: Callable[[], datetime | None],
        wall: Clock | None = None,
    ) -> None:
        """`beat` tells when this process's engine finished its last look. `wall` is the machine's own clock."""
        self._database, self._lane, self._clock, self._bell, self._keys = database, lane, clock, bell, keys
        self._beat, self._wall = beat, wall or SystemClock()
        self._herald = Herald(database) if database.postgresql else None
        self._locked = ""  # why the keys open nothing
        now = clock.now()
        self.me = Replica(name, role, __version__, now, now)

    def pass_on(self) -> None:
        """A hint for the engines of the other processes."""
        if self._herald is not None:
            self._herald.ring()

    async def run(self) -> None:
        """Say every few seconds that this process lives; keep the time; hear hints. Until cancelled."""
        loop, due = asyncio.get_running_loop(), 0.0
        if self._herald is not None:
            self._herald.start(lambda: _from_thread(loop, self._bell.ring))
        try:
            while True:
                try:
                    if self._clock.monotonic() >= due:
                        await self._look_about()
                        due = self._clock.monotonic() + SYNC
                    await self._tell()
                except Exception as error:  # noqa: BLE001  the database is away: the time goes on, and so does this
                    log.warning("replica.not_told", error=f"{type(error).__name__}: {error}"[:300])
                begins = self.me.moves_leases and self.me.beat_at is None
                await self._clock.sleep(FIRST if begins else EVERY)
        finally:
            if self._herald is not None:
                await asyncio.shield(asyncio.to_thread(self._herald.close))

    async def leave(self) -> None:
        """Ends in order: nobody waits for this process's return."""
        with contextlib.suppress(Exception):  # then the row is forgotten by and by
            await self._lane(replicas.leave, self._database, self.me.name)

    async def _look_about(self) -> None:
        if isinstance(self._clock, SteadyClock):
            moved = await self._lane(self._clock.sync)
            if abs(moved) > 1:
                log.warning("clock.moved", seconds=round(moved, 3))
        try:
            await self._lane(vault.check_keys, self._database, self._keys)
        except VaultError as error:
            self._locked = f"Its key file opens none of the database's secrets: {error}."
        else:
            self._locked = ""

    async def _tell(self) -> None:
        self.me = replace(self.me, seen_at=self._clock.now(), beat_at=self._beat(), note=self._note())
        await self._lane(replicas.tell, self._database, self.me)

    def _note(self) -> str:
        """What is wrong with this process."""
        notes = [self._locked] if self._locked else []
        off = self._wall.now() - self._clock.now()
        if abs(off) > ASTRAY:
            way = "ahead of" if off > timedelta(0) else "behind"
            by = duration(abs(off).total_seconds())
            if self._database.postgresql:
                notes.append(f"Its machine's clock is {by} {way} the database's, which counts.")
            else:
                notes.append(f"The machine's clock was set: it is {by} {way} the service's time. A restart takes it over.")
        if self._herald is not None and not self._herald.connected:
            notes.append("It hears no hints of the others; that costs seconds, no more.")
        return " ".join(notes)


def _from_thread(loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
        loop.call_soon_threadsafe(ring)
