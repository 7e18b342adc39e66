"""claim -> station under a deadline -> apply; sleep, or be hinted awake. Chores run beside it, each on its own beat."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.core.model import LATE_REASON, Lease, Reason
from app.core.pilot import is_pilot
from app.core.states import LIVE, RULES, State, way_out
from app.engine import beacon, bill, boot, enlist, launch, listen, market, pilot, reaper, reconcile, runner, teardown
from app.engine.step import Answer, Deps, Move, Station, Timing, Wait, deadline, pause
from app.store import duties, leases, standings, sweep
from app.store import market as market_rows

log = structlog.get_logger()

STATIONS: Mapping[State, Station] = {
    State.PLANNED: launch.choose,
    State.LAUNCHING: launch.create,
    State.BOOTING: boot.wait_for_node,
    State.PROVING: boot.check_node,
    State.REGISTERING: runner.register,
    State.IDLE: runner.wait_for_job,
    State.BUSY: runner.watch_job,
    State.DRAINING: teardown.drain,
    State.DESTROYING: teardown.destroy,
}
GENTLE = frozenset({State.REGISTERING, State.IDLE, State.BUSY})
"""Where a drain (not a destroy) is left to the station, or means "after the job"."""
NEWS = frozenset({State.BUSY, State.DRAINING, State.DESTROYING, State.RELEASED})
"""A lease that comes here covers other demand than before: plan anew."""


@dataclass(frozen=True, slots=True)
class Chore:
    """Work beside the leases. A shared one is done by one engine for all: by whichever finds it due."""

    name: str
    period: Callable[[Timing], timedelta]
    work: Callable[[Deps], Awaitable[object]]
    shared: bool = True
    first: bool = False  # nothing is rented after a start before this was done once


async def _tidy(deps: Deps) -> None:
    for tidy in (sweep.tidy, market_rows.tidy, standings.tidy):
        await deps.store(tidy, deps.db, deps.clock.now())


CHORES = (
    Chore("poll", lambda _: timedelta(seconds=5), listen.poll, shared=False, first=True),  # shared by the forge
    Chore("redeliver", lambda _: timedelta(seconds=15), listen.redeliver, shared=False),
    Chore("survey", lambda timing: timing.watch, reaper.survey),
    Chore("forge sweep", lambda timing: timing.forge_sweep, reaper.reap_runners),
    Chore("market", lambda timing: timing.market / 5, market.look, shared=False),
    Chore("beacon", lambda _: timedelta(minutes=1), beacon.tend),
    Chore("tidy", lambda _: timedelta(days=1), _tidy),
)


class Engine:
    """Moves leases. `run` works until cancelled; `beat` does all that is due now, for tests on a manual clock."""

    def __init__(self, deps: Deps, chores: tuple[Chore, ...] = CHORES) -> None:
        self.deps = deps
        self.name = deps.token(8)  # of this engine, among others on the same database
        self.last_beat: datetime | None = None  # readiness looks at its age
        self.planning = True  # False: no new lease; those that live go on to their end
        self._chores = chores
        self._awaited = set[str]()  # chores without which `run` rents nothing yet
        self._due: dict[str, datetime] = {}  # of the chores, where `beat` drives them
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def settling(self) -> bool:
        """Whether a forge has yet to tell what happened to the waiting jobs while nobody listened."""
        return bool(self._awaited)

    async def run(self) -> None:
        """Work for ever. Every chore runs on its own beat, so that a slow forge or provider holds up no lease."""
        self._awaited = {chore.name for chore in self._chores if chore.first}
        async with asyncio.TaskGroup() as group:
            for chore in self._chores:
                group.create_task(self._every(chore))
            for forge in self.deps.forges:
                group.create_task(self._learn(forge))
            group.create_task(self._lead())

    async def _lead(self) -> None:
        failures, heard, sown, rested = 0, -1, float("-inf"), float("-inf")
        beat, settle = self.deps.timing.beat.total_seconds(), self.deps.timing.settle.total_seconds()
        began = self.deps.clock.monotonic()
        while True:
            nap = beat
            try:
                now = self.deps.clock.monotonic()
                if self._awaited and now - began >= settle:
                    self._awaited.clear()  # a forge that hangs keeps nobody else waiting
                if (heard != self.deps.bell.rings and now >= rested) or now - sown >= beat:
                    heard, sown = self.deps.bell.rings, now
                    await self.sow()
                    rested = 2 * self.deps.clock.monotonic() - sown  # in a burst half of the time is for leases
                room = self.deps.timing.width - len(self._looks)
                claimed = await self._claim(room) if room > 0 else []
                for lease in claimed:
                    task = asyncio.create_task(self.look(lease))
                    self._looks.add(task)
                    task.add_done_callback(self._done)
                self.last_beat = self.deps.clock.now()
                if len(claimed) < room:  # with its hands full it sleeps until a look ends
                    nap = await self._until_next_due(nap)
                    if not claimed and not nap:
                        nap = 0.05  # due, but held by a transaction that stands still: nothing is won by asking on and on
                if heard != self.deps.bell.rings:
                    nap = min(nap, max(rested - self.deps.clock.monotonic(), 0.0))
                failures = 0
            except Exception as error:  # noqa: BLE001  the loop outlives whatever happens in a beat
                log.error("engine.beat_failed", error=f"{type(error).__name__}: {error}"[:500])
                nap = pause(failures, first=0.5, longest=15.0)
                failures += 1
            await self.deps.bell.wait(nap)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._looks.discard(task)
        if not task.cancelled():
            task.exception()
        self.deps.bell.nudge()  # there is room, and the lease has a new time at which it is due

    async def _every(self, chore: Chore) -> None:
        failures = 0
        while True:
            done = await self.tend(chore)
            failures = 0 if done else failures + 1
            pace = chore.period(self.deps.timing).total_seconds()
            await self.deps.clock.sleep(max(pace, pause(failures) if failures else 0.0))

    async def _learn(self, forge: str) -> None:
        """Ask one forge what its events do not tell, as soon as there is something to ask: a job waits for the answer."""
        failures = 0
        while True:
            try:
                if await enlist.learn(self.deps, forge):
                    self.deps.bell.ring()
                failures = 0
            except Exception as error:  # noqa: BLE001  it is asked again
                log.error("engine.chore_failed", chore=f"learn {forge}", error=f"{type(error).__name__}: {error}"[:500])
                await self.deps.clock.sleep(pause(failures))
                failures += 1
            await self.deps.asking[forge].wait(1.0)

    async def tend(self, chore: Chore) -> bool:
        """Do a chore once, unless another engine does it in this period. False: it failed; nothing else stops for that."""
        deps = self.deps
        try:
            # A little less than the period, so that an engine which wakes a moment early does not leave it out.
            period = chore.period(deps.timing) * 0.9
            if chore.shared and not await deps.store(duties.take, deps.db, chore.name, self.name, deps.clock.now(), period):
                return True
            if await chore.work(deps):
                deps.bell.ring()
            if chore.shared:
                await deps.store(duties.done, deps.db, chore.name, deps.clock.now())
        except Exception as error:  # noqa: BLE001  one chore that fails stops no other
            log.error("engine.chore_failed", chore=chore.name, error=f"{type(error).__name__}: {error}"[:500])
            return False
        finally:
            self._begun(chore)
        return True

    def _begun(self, chore: Chore) -> None:
        """It was tried once since the start: it keeps no job waiting any longer, however it went."""
        if chore.name in self._awaited:
            self._awaited.discard(chore.name)
            self.deps.bell.ring()

    async def sow(self) -> None:
        """Place new jobs, plan leases, book released ones, close pilots. What fails here keeps no lease from its end."""
        plan = self.planning and not self.settling
        chores = (enlist.enlist, reconcile.plan, bill.book, pilot.close) if plan else (enlist.enlist, bill.book, pilot.close)
        for chore in chores:
            try:
                await chore(self.deps)
            except Exception as error:  # noqa: BLE001  it is tried again at the next beat
                log.error("engine.chore_failed", chore=chore.__name__, error=f"{type(error).__name__}: {error}"[:500])

    async def beat(self) -> int:
        """Everything that is due at this moment, chores and looks, one after another; how many leases were looked at."""
        looked = 0
        for chore in self._chores:
            now = self.deps.clock.now()
            if now >= self._due.get(chore.name, now):
                self._due[chore.name] = now + chore.period(self.deps.timing)
                await self.tend(chore)
        while True:
            await self.sow()
            if await enlist.learn(self.deps):
                await self.sow()
            claimed = await self._claim(self.deps.timing.width)
            for lease in claimed:
                await self.look(lease)
            looked += len(claimed)
            if not claimed or looked > 1000:
                await bill.book(self.deps)
                return looked

    async def stop(self) -> None:
        """Let the looks in flight end: none is cut in the middle. What is still held is let go of, for others to go on."""
        if self._looks:
            await asyncio.wait(self._looks, timeout=self.deps.timing.hold.total_seconds())
        try:
            await self.deps.store(leases.free_claims, self.deps.db, self.name)
        except Exception as error:  # noqa: BLE001  the database is away: they run out by themselves
            log.warning("engine.claims_not_freed", error=type(error).__name__)

    async def _claim(self, limit: int) -> list[Lease]:
        deps = self.deps
        return await deps.store(leases.claim, deps.db, self.name, deps.clock.now(), limit, deps.timing.hold)

    async def _until_next_due(self, longest: float) -> float:
        due = await self.deps.store(leases.next_due, self.deps.db)
        if due is None:
            return longest
        return min(max((due - self.deps.clock.now()).total_seconds(), 0.0), longest)

    async def look(self, lease: Lease) -> None:
        """Look at one claimed lease until it waits: whatever happens, the row is left claimable and nothing is lost."""
        held: Lease | None = lease
        while held is not None:
            with structlog.contextvars.bound_contextvars(lease=held.name, state=str(held.state)):
                answer = await self._answer(held)
                try:
                    held = await self._apply(held, answer)
                except Exception as error:  # noqa: BLE001  the claim runs out and somebody looks again
                    log.error("engine.apply_failed", error=f"{type(error).__name__}: {error}"[:500])
                    return

    async def _answer(self, lease: Lease) -> Answer:
        forced = route(lease, self.deps)
        if forced is not None:
            return forced
        try:
            async with asyncio.timeout(self.deps.timing.hold.total_seconds() * 0.8):
                return await STATIONS[lease.state](lease, self.deps)
        except TimeoutError:
            return Wait(pause(lease.tries), "A look took too long and was given up; it is tried again.", failed=True)
        except Exception as error:  # noqa: BLE001  an exception is a pause, never a lost lease
            log.error("engine.look_failed", error=f"{type(error).__name__}: {error}"[:500])
            return Wait(pause(lease.tries), f"A look failed: {type(error).__name__}. It is tried again.", failed=True)

    async def _apply(self, lease: Lease, answer: Answer) -> Lease | None:
        """Write the answer down. The lease as it now is, still held, if there is more to do at once; else None."""
        deps, now = self.deps, self.deps.clock.now()
        if isinstance(answer, Wait):
            until = now + timedelta(seconds=answer.seconds)
            if lease.deadline is not None and lease.deadline > now:
                until = min(until, lease.deadline)
            await deps.store(
                leases.rest, deps.db, lease, until=until, note=answer.note, values=answer.values, failed=answer.failed, now=now
            )
            return None
        moved = await deps.store(
            leases.move,
            deps.db,
            lease,
            answer.to,
            reason=answer.reason,
            text=answer.text,
            values=answer.values,
            now=now,
            deadline=deadline(answer.to, lease, deps.pool_of(lease), now),
            hold=None if answer.to is State.RELEASED else deps.timing.hold,
        )
        if moved is None:
            return None
        log.info("lease.moved", to=str(answer.to), reason=str(answer.reason or ""), text=answer.text)
        if answer.to in NEWS:
            deps.bell.ring()
        return moved if answer.to is not State.RELEASED else None


def route(lease: Lease, deps: Deps) -> Move | None:
    """What overrides the station: an operator's destroy, a drain that the state does not handle, a deadline that passed."""
    now = deps.clock.now()
    if lease.state not in LIVE or lease.state in (State.DRAINING, State.DESTROYING):
        late = lease.state is State.DRAINING and lease.deadline is not None and lease.deadline <= now
        return Move(State.DESTROYING, text="The forge did not let go of the runner in time.") if late else None
    if lease.destroy_asked_at is not None:
        return Move(way_out(lease.state), lease.asked_reason or Reason.OPERATOR, lease.asked_text)
    if lease.drain_asked_at is not None and lease.state not in GENTLE:
        return Move(way_out(lease.state), lease.asked_reason or Reason.OPERATOR, lease.asked_text)
    if lease.hard_end is not None and lease.hard_end <= now:
        began = lease.state is State.BUSY or lease.job_started_at is not None
        reason = Reason.JOB_TIMEOUT if began else LATE_REASON[lease.state]
        if is_pilot(lease.key) and lease.facts is not None:
            reason = Reason.PILOT_DONE  # its two minutes: no fault of the machine
        return Move(way_out(lease.state), reason, "The hard end time has come.")
    if lease.state in (State.REGISTERING, State.IDLE) and (lease.job_started_at is not None or lease.job_id):
        return None  # its job is there: only the station has yet to see it
    if lease.state is State.IDLE and not lease.tries:
        return None  # late because nobody looked: the station asks the forge first, which may say that a job is on it
    if lease.deadline is not None and lease.deadline <= now:
        to = RULES[lease.state].late
        if to is not None:
            return Move(to, LATE_REASON[lease.state], f"Overdue in {lease.state}. {lease.note}".strip())
    return None
