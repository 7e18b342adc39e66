"""Give new jobs their pool, once their run was found to be one that may spend money here; or a sentence why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from app.core.demand import place
from app.core.model import Job, JobState, Run, Scope
from app.core.rules import objection
from app.engine.step import Deps
from app.forges.contract import ForgeDown, ForgeError
from app.store import jobs, runs

GROUP = 200
AT_ONCE = 8  # questions to one forge; its lane may be narrower
LEAST_REST = timedelta(seconds=5)

A = TypeVar("A")


async def enlist(deps: Deps) -> int:
    """Place every new job whose labels are known, and clear it at once where its run is known. How many were looked at.

    `learn` is hinted to ask now what is left to ask."""
    looked = await deps.store(runs.enlist, deps.db, _placing(deps), _judge(deps), deps.clock.now(), GROUP)
    if looked:
        for bell in deps.asking.values():
            bell.ring()
    return looked


async def learn(deps: Deps, only: str = "") -> int:
    """Ask the forges what their events do not carry: a job's labels (GitLab), and once for each run where its code comes
    from and who set it going. Slow, so it runs aside, for each forge (`only`) by itself. How many answers came."""
    return sum([await _learn(deps, name) for name in deps.forges if only in ("", name)])


async def _learn(deps: Deps, name: str) -> int:
    forge = deps.forges[name]
    asked = await deps.store(runs.questions, deps.db, name, deps.clock.now(), GROUP)
    learned = 0
    if asked.labels:
        learned += await _ask(deps, name, asked.labels, forge.fetch_job, _keep_labels, runs.put_off_job)
        await enlist(deps)
        asked = await deps.store(runs.questions, deps.db, name, deps.clock.now(), GROUP)
    if asked.quiet:
        await deps.store(runs.explain_all, deps.db, name, asked.quiet)
    return learned + await _ask(deps, name, asked.runs, forge.fetch_run, _keep_runs, runs.put_off_run)


async def _keep_labels(deps: Deps, answers: Sequence[tuple[Job, Job | None]]) -> None:
    await deps.store(jobs.record, deps.db, [_told(*answer) for answer in answers], deps.clock.now())
    for job, fresh in answers:
        if fresh is not None and fresh.repository.casefold() != job.repository.casefold():
            # Whoever knows a hook's token can write any repository into a delivery.
            no = f"The delivery says that it belongs to {job.repository}; {job.forge} says {fresh.repository}."
        elif fresh is not None and fresh.labels is None:
            no = f"{job.forge} does not say which labels this job has."
        else:
            continue
        await deps.store(jobs.place, deps.db, job.id, pool=None, scope=None, not_ours=no)


def _told(job: Job, fresh: Job | None) -> jobs.Record:
    """A forge's answer about one job. One that is gone is over: nobody will ever tell how it ended."""
    if fresh is None:
        fresh = Job(job.id, job.forge, job.key, job.repository, JobState.COMPLETED, conclusion=jobs.GONE)
    elif fresh.repository.casefold() != job.repository.casefold():
        fresh = job
    return jobs.Record(job.forge, "", "look", "", fresh)


async def _keep_runs(deps: Deps, answers: Sequence[tuple[Job, Run | None]]) -> None:
    await deps.store(runs.tell, deps.db, answers, _judge(deps), deps.clock.now())


async def _ask(
    deps: Deps,
    name: str,
    questions: Sequence[Job],
    ask: Callable[[Job], A],
    keep: Callable[[Deps, Sequence[tuple[Job, A]]], Awaitable[None]],
    put_off: Callable[..., None],
) -> int:
    """Ask several at once and keep the answers as they come, all that are there in one transaction. How many came.

    A forge that does not answer is left alone for a while; one question without an answer keeps no other from its own."""
    if not questions:
        return 0
    lane, room, down = deps.lane(deps.forges[name]), asyncio.Semaphore(AT_ONCE), list[ForgeDown]()

    async def one(place: int, job: Job) -> tuple[int, Job, list[A], ForgeError | None]:
        async with room:
            if down:
                return place, job, [], down[0]
            try:
                return place, job, [await lane(ask, job)], None
            except ForgeDown as error:
                down.append(error)
                return place, job, [], error
            except ForgeError as error:
                return place, job, [], error

    pending = {asyncio.create_task(one(place, job)) for place, job in enumerate(questions)}
    learned = 0
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            heard = sorted((task.result() for task in done), key=lambda result: result[0])
            for _, job, _, error in heard:
                if error is not None and not isinstance(error, ForgeDown):
                    wait = f"{name} was asked where this job comes from: {error} It is asked again."
                    await deps.store(put_off, deps.db, job, wait, deps.clock.now())
            answers = [(job, answer) for _, job, told, _ in heard for answer in told]
            if answers:
                await keep(deps, answers)
                learned += len(answers)
    finally:
        for task in pending:
            task.cancel()
    if down:
        wait = f"{name} was asked where this job comes from, and did not answer: {down[0]} It is asked again."
        until = deps.clock.now() + max(down[0].wait, LEAST_REST)
        await deps.store(runs.put_off_forge, deps.db, name, wait, until)
    return learned


def reconsider(deps: Deps) -> int:
    """At the start: jobs that other settings had placed, cleared or refused are looked at again. Blocking; how many will be."""

    def still(job: Job) -> bool:
        return _placing(deps)(job) == (job.pool, job.scope, "")

    return runs.reconsider(deps.db, still, _judge(deps))


def _placing(deps: Deps) -> runs.Placing:
    pools = list(deps.pools.values())

    def placing(job: Job) -> tuple[str | None, Scope | None, str]:
        if job.forge not in deps.forges:
            return None, None, f"The forge {job.forge} is not in the settings."
        answer = place(job, pools, deps.repositories)
        if isinstance(answer, str):
            return None, None, answer
        no = deps.forges[job.forge].unfit(job.labels or ())  # before a machine is rented that could never take it
        return (None, None, no) if no else (answer[0].name, answer[1], "")

    return placing


def _judge(deps: Deps) -> runs.Judge:
    return lambda run: objection(run, deps.repositories)
