"""What webhooks missed, or were never to tell: deliveries sent again, open jobs listed, silent jobs asked for; all inside the
forge's rate budget."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from app.core.listening import Listening
from app.core.model import Job, JobState, RepositoryRule
from app.core.rules import allowed_repository
from app.engine.step import Deps
from app.forges.contract import Forge, ForgeDown, ForgeError, ForgeRefused, HeldBack, Missed, Pace
from app.store import intruders, jobs, moves, polls, reruns, runs

log = structlog.get_logger()

ACTIVE = timedelta(days=7)  # a repository with a job of ours in this time is listed
SLOWER = 3  # times: the period while less than half of the forge's quota is left
RESENT = 25  # deliveries at most in one round
GROUP = 200  # jobs in one transaction
AT_ONCE = 4  # listings of one forge
LONGEST_AWAY = timedelta(days=3)  # GitHub keeps deliveries for so long
OVERLAP = timedelta(minutes=5)  # a delivery may be listed later than it was sent
NOT_AGAIN = timedelta(hours=1)  # a repository, or a list of deliveries, that the forge refuses to show
FIND = timedelta(minutes=10)  # how often an owner is asked for its repositories where nothing else tells of them
SELDOM = timedelta(minutes=30)  # the same, and how often those are listed that never had a job, where webhooks tell first
ENOUGH = 2  # repositories without a clear answer, and the round is broken off
SETTLED = timedelta(minutes=1)  # a job heard of within it may be missing in a list that lags
DOUBT_AGAIN = timedelta(minutes=2)
SOON = timedelta(seconds=5)  # the same where the list is the forge's own database, or where nothing else would tell of a cancel


async def poll(deps: Deps) -> int:
    """List the open jobs of every active repository whose turn it is, and ask for jobs that nobody speaks of any more.

    How many jobs were found further on than any webhook had told, or not at all."""
    return await _each(deps, "poll", lambda name: deps.hears(name).poll or deps.timing.poll, _poll)


async def redeliver(deps: Deps) -> int:
    """Ask each forge to send again what did not arrive. How many deliveries were asked for."""
    return await _each(deps, "redeliver", lambda name: deps.timing.redeliver if deps.hears(name).webhooks else None, _redeliver)


Search = Callable[[Deps, Forge, polls.Round], Awaitable[int]]


async def _each(deps: Deps, kind: str, period_of: Callable[[str], timedelta | None], search: Search) -> int:
    """One round at every forge whose turn it is, all at the same time: one that hangs holds up no other.

    A forge without a period is left out."""

    async def one(name: str, forge: Forge) -> int:
        pace, period = forge.pace(), period_of(name)
        if period is None:
            return 0
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
    missed = await deps.lane(forge)(forge.missed, since)
    if missed is None:
        told = "It shows no deliveries and sends none again; what was lost is found by listing."
        await _finish(deps, last, told, None, NOT_AGAIN)
        return 0
    lost = {_guid(one): one for one in sorted(missed, key=_sent)}
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
    now, hears = deps.clock.now(), deps.hears(forge.name)
    down = list[ForgeDown]()
    found = await _reopened(deps, forge, now)
    if hears.poll is not None and not forge.wide:
        await _find(deps, forge, hears, down)
    places = await _places(deps, forge, hears, now) if hears.poll is not None else []
    room = asyncio.Semaphore(AT_ONCE)

    async def one(place: polls.Place) -> int:
        async with room:
            if len(down) >= ENOUGH or any(isinstance(error, HeldBack) for error in down):
                return 0
            try:
                return await _list(deps, forge, place)
            except ForgeError as error:
                await _trouble(deps, forge, place.path, error, down)
            except Exception as error:  # noqa: BLE001  one repository hides no other
                log.error("engine.poll_failed", repository=place.path, error=f"{type(error).__name__}: {error}"[:500])
            return 0

    found += sum(await asyncio.gather(*(one(place) for place in places)))
    if not any(isinstance(error, HeldBack) for error in down):  # one place that is never listed must not hide the end of a job
        before = deps.clock.now() - deps.timing.unheard
        silent = await deps.store(polls.silent, deps.db, forge.name, before, deps.clock.now(), RESENT)
        found += await _ask_for(deps, forge, silent)
    told = f"{len(places)} places listed, {found} jobs moved on." if not down else f"Broken off: {down[0]}"
    await _finish(deps, last, told, None)
    if found:
        deps.telemetry.jobs_found.add(found, forge=forge.name)
        deps.bell.ring()
        if hears.webhooks:
            log.warning("jobs found that no webhook told of", forge=forge.name, count=found)
    return found


async def _trouble(deps: Deps, forge: Forge, path: str, error: ForgeError, down: list[ForgeDown]) -> None:
    """A listing that failed. A bad place goes to the end of the line, so that it keeps no other waiting; one that was not
    asked for at all keeps its own."""
    now = deps.clock.now()
    if isinstance(error, ForgeDown):
        down.append(error)
        if not isinstance(error, HeldBack):
            await deps.store(polls.listed, deps.db, forge.name, path, now, note=f"Broken off: {error}")
        return
    await deps.store(polls.listed, deps.db, forge.name, path, now, ask_after=now + NOT_AGAIN, note=f"Refused: {error}")


async def _places(deps: Deps, forge: Forge, hears: Listening, now: datetime) -> list[polls.Place]:
    """What is listed now: the owners, or the repositories. Of those that only a pattern names, where nothing else can tell
    of a job: a whole owner costs one question there."""
    named = [rule.match for rule in deps.repositories if rule.exact]
    owners = owners_of(deps.repositories) if forge.wide else []
    since, seldom = now - ACTIVE, timedelta(0) if hears.polled_only else SELDOM
    return await deps.store(polls.places, deps.db, forge.name, since, named, now, owners=owners, seldom=seldom)


async def _find(deps: Deps, forge: Forge, hears: Listening, down: list[ForgeDown]) -> None:
    """Which repositories there are, for patterns like `acme/*`: without webhooks, or if the first of a repository is lost,
    nobody else would tell."""
    owners, every = owners_of(deps.repositories), FIND if hears.polled_only else SELDOM
    for owner in await deps.store(polls.due_owners, deps.db, forge.name, owners, deps.clock.now(), every):
        try:
            told = await deps.lane(forge)(forge.repositories, owner.path, owner.installation)
        except ForgeError as error:
            await _trouble(deps, forge, owner.path, error, down)
            continue
        allowed = [path for path in told if allowed_repository(path, deps.repositories) is not None]
        await deps.store(polls.found, deps.db, forge.name, owner.path, allowed, deps.clock.now())


def owners_of(rules: Sequence[RepositoryRule]) -> list[str]:
    """The owners that patterns name in full: `acme` of `acme/*`, `acme/vision` of `acme/vision/**`."""
    found = dict[str, None]()
    for rule in rules:
        head = re.split(r"[*?\[]", rule.match, maxsplit=1)[0]
        if head != rule.match and "/" in head:
            found[head.rpartition("/")[0]] = None
    return list(found)


async def _reopened(deps: Deps, forge: Forge, now: datetime) -> int:
    """Ask for jobs that a delivery told as less far than they were: it was late, or they are run again under the same id."""
    if not forge.reruns_in_place:
        return 0
    found = 0
    for job in await deps.store(reruns.doubted, deps.db, forge.name, now, RESENT):
        began = deps.clock.now()
        try:
            fresh = await deps.lane(forge)(forge.fetch_job, job)
        except HeldBack:
            raise
        except ForgeDown:
            await deps.store(reruns.put_off, deps.db, job.id, began, deps.clock.now() + DOUBT_AGAIN)
            continue
        except ForgeError:
            fresh = None  # it will not say: then the job stays as it is known
        if fresh is not None:
            await deps.store(moves.follow, deps.db, [fresh])
            found += await _write(deps, forge, [fresh], began)
        await deps.store(reruns.settled, deps.db, job.id, began)
    return found


async def _list(deps: Deps, forge: Forge, place: polls.Place) -> int:
    began = deps.clock.now()
    told = await deps.lane(forge)(forge.open_jobs, place.path, place.installation)
    fresh = [job for job in told if _fits(deps, forge, place.path, job)]
    strangers = [job for job in told if allowed_repository(job.repository, deps.repositories) is None]
    for job in strangers:
        ours = job.runner_name.startswith(deps.runner_prefix)
        if ours and (name := await deps.store(intruders.turn_out, deps.db, job, deps.clock.now())):
            log.warning("a job that nobody allowed runs on a lease", lease=name, repository=job.repository)
            deps.bell.ring()
    owner = _is_owner(forge, place.path)
    if owner:  # the list of one repository tells the name that was asked for, which may be an old one that leads to the new
        await deps.store(moves.follow, deps.db, fresh)
    found = await _write(deps, forge, fresh, began)
    prompt = forge.wide or deps.hears(forge.name).polled_only
    mentioned, before = [job.id for job in fresh], began - (SOON if prompt else SETTLED)
    silent = await deps.store(polls.unmentioned, deps.db, forge.name, place.path, mentioned, before, began, owner=owner)
    found += await _ask_for(deps, forge, silent)
    await deps.store(polls.listed, deps.db, forge.name, place.path, began)
    return found


def _is_owner(forge: Forge, path: str) -> bool:
    return forge.wide and "/" not in path


def _fits(deps: Deps, forge: Forge, place: str, job: Job) -> bool:
    path, wanted = job.repository.casefold(), place.casefold()
    inside = path.startswith(f"{wanted}/") if _is_owner(forge, place) else path == wanted
    return job.forge == forge.name and inside and allowed_repository(job.repository, deps.repositories) is not None


async def _ask_for(deps: Deps, forge: Forge, silent: Sequence[Job]) -> int:
    """Ask for each of these jobs. One that the forge no longer has is over, with a conclusion that says so.

    One that gets no answer is put off, so that it keeps no other from being asked for."""
    found, failed = 0, 0
    for job in silent:
        began = deps.clock.now()
        try:
            fresh = await deps.lane(forge)(forge.fetch_job, job)
        except HeldBack:
            raise
        except ForgeError as error:
            down = isinstance(error, ForgeDown)
            wait = (
                f"{forge.name} was asked how this job is and {'did not say' if down else 'refused'}: {error} It is asked again."
            )
            refused = not down and job.state is JobState.QUEUED and await _asked_before(deps, job)
            await deps.store(runs.put_off_job, deps.db, job, wait, deps.clock.now(), unclear=refused)
            failed += down
            if failed >= ENOUGH:
                raise
            continue
        if fresh is None and job.state is JobState.IN_PROGRESS and not await _doubted(deps, job):
            continue
        if fresh is None:
            fresh = replace(job, state=JobState.COMPLETED, conclusion=jobs.GONE, completed_at=None)
        await deps.store(moves.follow, deps.db, [fresh])
        found += await _write(deps, forge, [fresh], began)
    return found


async def _doubted(deps: Deps, job: Job) -> bool:
    """Whether the forge lacked this running job before; a machine at work is not taken away on one answer."""
    if await _asked_before(deps, job):
        return True
    wait = f"{job.forge} no longer shows this job; it is asked once more."
    await deps.store(runs.put_off_job, deps.db, job, wait, deps.clock.now())
    return False


async def _asked_before(deps: Deps, job: Job) -> bool:
    """Whether the last question about this job had no useful answer either."""
    return (await deps.store(polls.doubts, deps.db, [job.id])).get(job.id, 0) > 0


async def _write(deps: Deps, forge: Forge, fresh: Sequence[Job], began: datetime) -> int:
    """What the forge answered to a question that was asked at `began`; jobs that are run again under their id start anew."""
    again = await deps.store(reruns.reopen, deps.db, fresh, began, deps.clock.now()) if forge.reruns_in_place else 0
    return again + await _record(deps, fresh)


async def _record(deps: Deps, fresh: Sequence[Job]) -> int:
    """Write down what the forge says now. How many jobs are new, or further on than was known."""
    found = 0
    for start in range(0, len(fresh), GROUP):
        group = fresh[start : start + GROUP]
        records = [jobs.Record(job.forge, "", "poll", str(job.state), job) for job in group]
        found += await deps.store(jobs.advance, deps.db, records, deps.clock.now())
    return found
