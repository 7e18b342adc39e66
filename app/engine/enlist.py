"""Give new jobs their pool, or a sentence why they have none."""

from __future__ import annotations

from dataclasses import replace

from app.core.demand import place
from app.core.model import Job, Pool, Scope
from app.engine.step import Deps
from app.forges.contract import ForgeDown, ForgeError
from app.store import jobs

GROUP = 200


async def enlist(deps: Deps) -> int:
    """Place every new job whose labels are known: in a pool, or among the not-ours with a sentence. How many were placed."""
    found = await deps.store(jobs.unplaced, deps.db, GROUP)
    for job in found:
        await _place(job, deps)
    return len(found)


async def learn(deps: Deps) -> int:
    """Ask the forge for the labels that its events do not carry (GitLab); slow, so it runs aside. How many were learned."""
    down: dict[str, str] = {}  # one question in each round is enough for a forge that does not answer
    learned = 0
    for job in await deps.store(jobs.unlabelled, deps.db, tuple(deps.forges), GROUP):
        if job.forge in down:
            await deps.store(jobs.explain, deps.db, job.id, down[job.forge])
            continue
        try:
            forge = deps.forges[job.forge]
            fresh = await deps.lane(forge)(forge.fetch_job, job)
        except ForgeError as error:
            wait = f"{job.forge} was asked for the job's tags and did not answer: {error} It is asked again."
            if isinstance(error, ForgeDown):
                down[job.forge] = wait
            await deps.store(jobs.explain, deps.db, job.id, wait)
            continue
        no = ""
        if fresh is None or fresh.labels is None:
            no = "The forge no longer has this job."
        elif fresh.repository != job.repository:  # whoever knows the hook's token can write any repository into a delivery
            no = f"The delivery says that it belongs to {job.repository}; {job.forge} says {fresh.repository}."
        if no or fresh is None:
            now = deps.clock.now()
            await deps.store(jobs.place, deps.db, job.id, labels=(), pool=None, scope=None, not_ours=no, now=now)
        else:
            await _place(replace(job, labels=fresh.labels), deps)
        learned += 1
    return learned


def reconsider(deps: Deps) -> int:
    """At the start: jobs that other settings had placed, or had refused, are looked at again. Blocking; how many will be."""

    def still(job: Job) -> bool:
        answer = _whose(job, deps)
        return not isinstance(answer, str) and (answer[0].name, answer[1]) == (job.pool, job.scope)

    return jobs.reconsider(deps.db, still)


def _whose(job: Job, deps: Deps) -> tuple[Pool, Scope] | str:
    if job.forge not in deps.forges:
        return f"The forge {job.forge} is not in the settings."
    return place(job, list(deps.pools.values()), deps.repositories)


async def _place(job: Job, deps: Deps) -> None:
    answer = _whose(job, deps)
    pool, scope, no = (None, None, answer) if isinstance(answer, str) else (answer[0].name, answer[1], "")
    labels = job.labels or ()
    await deps.store(jobs.place, deps.db, job.id, labels=labels, pool=pool, scope=scope, not_ours=no, now=deps.clock.now())
