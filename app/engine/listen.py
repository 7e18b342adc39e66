"""What webhooks missed: deliveries sent again, open jobs listed, silent jobs asked for; all inside the forge's rate budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from app.core.model import Job, JobState
from app.core.rules import allowed_repository
from app.engine.step import Deps
from app.forges.contract import Forge, ForgeDown, ForgeError, ForgeRefused, HeldBack, Missed, Pace
from app.store import jobs, polls, runs

log = structlog.get_logger()

ACTIVE = timedelta(days=7)  # a repository with a job of ours in this time is listed
SLOWER = 3  # times: the period while less than half of the forge's quota is left
RESENT = 25  # deliveries at most in one round
GROUP = 200  # jobs in one transaction
AT_ONCE = 4  # listings of one forge
LONGEST_AWAY = timedelta(days=3)  # GitHub keeps deliveries for so long
OVERLAP = timedelta(minutes=5)  # a delivery may be listed later than it was sent
NOT_AGAIN = timedelta(hours=1)  # a repository, or a list of deliveries, that the forge refuses to show
ENOUGH = 2  # repositories without a clear answer, and the round is broken off
SETTLED = timedelta(minutes=1)  # a job heard of within it may be missing in a list that lags


async def poll(deps: Deps) -> int:
    """List the open jobs of every active repository whose turn it is, and ask for jobs that nobody speaks of any more.

    How many jobs were found further on than any webhook had told, or not at all."""
    return await _each(deps, "poll", deps.timing.poll, _poll)


async def redeliver(deps: Deps) -> int:
    """Ask each forge to send again what did not arrive. How many deliveries were asked for."""
    return await _each(deps, "redeliver", deps.timing.redeliver, _redeliver)


Search = Callable[[Deps, Forge, polls.Round], Awaitable[int]]


async def _each(deps: Deps, kind: str, period: timedelta, search: Search) -> int:
    """One round at every forge whose turn it is, all at the same time: one that hangs holds up no other."""

    async def one(name: str, forge: Forge) -> int:
        pace = forge.pace()
        length = period * (SLOWER if pace is Pace.SLOW else 1)
        last = await deps.store(polls.take, deps.db, f"{kind} {name}", deps.clock.now(), length, deps.since)
        if last is None:
            return 0
        try:
            if pace is Pace.STOP:
                raise HeldBack("What is left of the quota is kept for calls that matter more.")
            return await search(deps, forge, last)
        except ForgeRefused as error:
            await _finish(deps, last, f"Refused: {error}", last.since, NOT_AGAIN)
        except ForgeError as error:
            await _finish(deps, last, f"Broken off: {error}", last.since)
        except Exception as error:  # noqa: BLE001  one forge's nonsense keeps no other from being asked
            log.error("engine.listen_failed", search=last.name, error=f"{type(error).__name__}: {error}"[:500])
            await _finish(deps, last, f"Failed: {type(error).__name__}.", last.since)
        return 0

    return sum(await asyncio.gather(*(one(name, forge) for name, forge in deps.forges.items())))


async def _finish(deps: Deps, last: polls.Round, said: str, since: datetime | None, rest: timedelta | None = None) -> None:
    again = None if rest is None else deps.clock.now() + rest
    await deps.store(polls.finish, deps.db, last, said, since, again)


# --- deliveries that did not arrive


async def _redeliver(deps: Deps, forge: Forge, last: polls.Round) -> int:
    now = deps.clock.now()
    since = max(last.since or deps.since - OVERLAP, now - LONGEST_AWAY)
    lost = {_guid(one): one for one in sorted(await deps.lane(forge)(forge.missed, since), key=_sent)}
    due, later = await deps.store(polls.owed, deps.db, forge.name, list(lost), now)
    asked: list[str] = []
    try:
        for guid in due[:RESENT]:
            await deps.lane(forge)(forge.redeliver, lost[guid])
            asked.append(guid)
            await deps.store(polls.asked, deps.db, forge.name, guid, deps.clock.now())
    finally:
        # Whatever is still owed is looked for again; before that nothing was lost that is not known to have come since.
        owed = [lost[guid].at for guid in (*due, *later)]
        told = f"{len(lost)} did not arrive, {len(asked)} asked for again." if lost else "Every delivery arrived."
        await _finish(deps, last, told, min([*owed, now - OVERLAP]))
    if asked:
        log.warning("deliveries asked for again", forge=forge.name, count=len(asked), missing=len(lost))
    return len(asked)


def _sent(one: Missed) -> datetime:
    return one.at


def _guid(one: Missed) -> str:
    return (one.guid or one.id)[:200]


# --- jobs that nobody told of


async def _poll(deps: Deps, forge: Forge, last: polls.Round) -> int:
    now = deps.clock.now()
    named = [rule.match for rule in deps.repositories if not any(sign in rule.match for sign in "*?[")]
    places = await deps.store(polls.places, deps.db, forge.name, now - ACTIVE, named, now)
    room, down = asyncio.Semaphore(AT_ONCE), list[ForgeDown]()

    async def one(repository: str, installation: str) -> int:
        async with room:
            if len(down) >= ENOUGH or any(isinstance(error, HeldBack) for error in down):
                return 0
            try:
                return await _list(deps, forge, repository, installation)
            except HeldBack as error:  # not asked at all: it keeps its place in the line
                down.append(error)
            except ForgeDown as error:  # it goes to the end of the line, so that one bad repository keeps no other waiting
                down.append(error)
                await deps.store(polls.listed, deps.db, forge.name, repository, now, note=f"Broken off: {error}")
            except ForgeError as error:
                await deps.store(
                    polls.listed, deps.db, forge.name, repository, now, ask_after=now + NOT_AGAIN, note=f"Refused: {error}"
                )
            except Exception as error:  # noqa: BLE001  one repository hides no other
                log.error("engine.poll_failed", repository=repository, error=f"{type(error).__name__}: {error}"[:500])
            return 0

    found = sum(await asyncio.gather(*(one(*place) for place in places)))
    if not down:
        before = deps.clock.now() - deps.timing.unheard
        silent = await deps.store(polls.silent, deps.db, forge.name, before, deps.clock.now(), RESENT)
        found += await _ask_for(deps, forge, silent)
    told = f"{len(places)} repositories listed, {found} jobs moved on." if not down else f"Broken off: {down[0]}"
    await _finish(deps, last, told, None)
    if found:
        deps.telemetry.jobs_found.add(found, forge=forge.name)
        log.warning("jobs found that no webhook told of", forge=forge.name, count=found)
        deps.bell.ring()
    return found


async def _list(deps: Deps, forge: Forge, repository: str, installation: str) -> int:
    began = deps.clock.now()
    told = await deps.lane(forge)(forge.open_jobs, repository, installation)
    fresh = [job for job in told if _fits(deps, forge, repository, job)]
    found = await _record(deps, fresh)
    silent = await deps.store(polls.unmentioned, deps.db, forge.name, repository, [job.id for job in fresh], began - SETTLED)
    found += await _ask_for(deps, forge, silent)
    await deps.store(polls.listed, deps.db, forge.name, repository, began)
    return found


def _fits(deps: Deps, forge: Forge, repository: str, job: Job) -> bool:
    same = job.forge == forge.name and job.repository.casefold() == repository.casefold()
    return same and allowed_repository(job.repository, deps.repositories) is not None


async def _ask_for(deps: Deps, forge: Forge, silent: Sequence[Job]) -> int:
    """Ask for each of these jobs. One that the forge no longer has is over, with a conclusion that says so."""
    found = 0
    for job in silent:
        try:
            fresh = await deps.lane(forge)(forge.fetch_job, job)
        except ForgeDown:
            raise
        except ForgeError as error:
            wait = f"{forge.name} was asked how this job is and refused: {error} It is asked again."
            await deps.store(runs.put_off_job, deps.db, job, wait, deps.clock.now())
            continue
        if fresh is None and job.state is JobState.IN_PROGRESS and not await _doubted(deps, job):
            continue
        if fresh is None:
            fresh = replace(job, state=JobState.COMPLETED, conclusion=jobs.GONE, completed_at=None)
        elif fresh.repository.casefold() != job.repository.casefold():
            continue
        found += await _record(deps, [fresh])
    return found


async def _doubted(deps: Deps, job: Job) -> bool:
    """Whether the forge lacked this running job before; a machine at work is not taken away on one answer."""
    before = await deps.store(polls.doubts, deps.db, [job.id])
    if before.get(job.id, 0):
        return True
    wait = f"{job.forge} no longer shows this job; it is asked once more."
    await deps.store(runs.put_off_job, deps.db, job, wait, deps.clock.now())
    return False


async def _record(deps: Deps, fresh: Sequence[Job]) -> int:
    """Write down what the forge says now. How many jobs are new, or further on than was known."""
    found = 0
    for start in range(0, len(fresh), GROUP):
        group = fresh[start : start + GROUP]
        records = [jobs.Record(job.forge, "", "poll", str(job.state), job) for job in group]
        found += await deps.store(jobs.advance, deps.db, records, deps.clock.now())
    return found
