"""GitHub's JSON, read into our nouns: `workflow_job` deliveries, jobs and runners of the REST API.

Two traps of real payloads: an event is told by its `action` (a recorded `queued` delivery has
`workflow_job.status: waiting`), and a queued job may carry a runner (GitHub's own), so a runner is
believed only once the job has started. The oldest payloads lack `head_branch`, `created_at` and
`workflow_name`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.core.model import Job, JobState, Run, Scope, ScopeKind
from app.forges.contract import ForgeRefused, RunnerView
from app.forges.payload import Table, Unreadable, identity, labels, link, moment, number, part, table, truth, whole, word, words

ACTIONS: Mapping[str, JobState] = {
    "waiting": JobState.WAITING,  # a deployment waits for its approval; `queued` follows
    "queued": JobState.QUEUED,
    "in_progress": JobState.IN_PROGRESS,
    "completed": JobState.COMPLETED,
}
STATUSES: Mapping[str, JobState] = {**ACTIONS, "requested": JobState.WAITING, "pending": JobState.WAITING}
"""`GET .../actions/jobs/{id}` knows two more: not queued yet, and held back by a concurrency group."""

REPOSITORY = re.compile(r"(?!\.{1,2}/)[A-Za-z0-9._-]{1,100}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
OWNER = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
_TRIES = 100_000


def home(scope: Scope) -> str:
    """The scope's part of a URL. Raises ForgeRefused for a path that GitHub cannot have."""
    if not (REPOSITORY if scope.kind is ScopeKind.REPOSITORY else OWNER).fullmatch(scope.path):
        raise ForgeRefused(f"GitHub has no {scope.kind} of the name {scope.path[:100]!r}.")
    kinds = {ScopeKind.REPOSITORY: "repos", ScopeKind.ORGANIZATION: "orgs", ScopeKind.ENTERPRISE: "enterprises"}
    return f"/{kinds[scope.kind]}/{scope.path}"


def job_of_event(forge: str, state: JobState, event: Table) -> Job:
    """The job that a `workflow_job` delivery tells of. Raises Unreadable."""
    raw = table(event.get("workflow_job"), "workflow_job")
    home = table(event.get("repository"), "repository")
    key, repository = identity(raw, "id"), whole(home, "full_name", REPOSITORY)
    if not key or not repository:
        raise Unreadable("the delivery names no " + ("repository" if key else "job"))
    job = Job(
        id=f"{forge}-{key}",
        forge=forge,
        key=key,
        repository=repository,
        repository_id=identity(home, "id"),
        state=state,
        actor=words(part(event, "sender"), "login", 100),
        installation=identity(part(event, "installation"), "id"),
    )
    return replace(job, **_facts(raw, state))


def job_of_answer(job: Job, raw: Table) -> Job:
    """The job as the REST API tells it now; what the answer leaves out stays as it was. Raises Unreadable."""
    if identity(raw, "id") != job.key:
        raise Unreadable("the answer is about another job")
    state = STATUSES.get(word(raw, "status"), job.state)
    return replace(job, state=state, **{name: value for name, value in _facts(raw, state).items() if value not in ("", None)})


def run_of_answer(job: Job, raw: Table) -> Run:
    """The workflow run of a job. Raises Unreadable.

    `pull_requests` is empty for forks, so it says nothing; the head repository is null once a fork was deleted."""
    base, head = table(raw.get("repository"), "repository"), part(raw, "head_repository")
    ours, theirs = identity(base, "id"), identity(head, "id")
    if identity(raw, "id") != job.run_id or not ours:
        raise Unreadable("the answer is about another run")
    attempt = number(raw, "run_attempt") or 1
    if attempt > _TRIES:
        raise Unreadable("run_attempt is not a number of tries")
    if attempt < job.attempt:  # it would name who set an earlier attempt going
        raise Unreadable("the answer is older than the job")
    return Run(
        forge=job.forge,
        repository=whole(base, "full_name", REPOSITORY) or job.repository,
        id=job.run_id,
        attempt=attempt,
        event=word(raw, "event"),
        head_repository=whole(head, "full_name", REPOSITORY),
        fork=theirs != ours,
        actor=words(part(raw, "triggering_actor") or part(raw, "actor"), "login", 100),
    )


def job_of_listing(run: Job, raw: Table) -> Job:
    """A job out of a run's listing; `run` is a job of that run with what all its jobs have in common. Raises Unreadable."""
    key = identity(raw, "id")
    if not key:
        raise Unreadable("a job without id")
    return job_of_answer(replace(run, id=f"{run.forge}-{key}", key=key), raw)


def _facts(raw: Table, state: JobState) -> dict[str, Any]:
    """What a job object says, whichever way it came."""
    attempt = number(raw, "run_attempt") or 1
    if attempt > _TRIES:
        raise Unreadable("run_attempt is not a number of tries")
    begun = moment(raw, "started_at")  # of a queued job: when it was queued
    started = state in (JobState.IN_PROGRESS, JobState.COMPLETED)
    ended = state is JobState.COMPLETED
    return {
        "run_id": identity(raw, "run_id"),
        "attempt": attempt,
        "labels": labels(raw, "labels"),
        "name": words(raw, "name", 200),
        "workflow": words(raw, "workflow_name", 200),
        "url": link(raw, "html_url"),
        "branch": words(raw, "head_branch", 255),
        "sha": whole(raw, "head_sha", _COMMIT),
        "queued_at": moment(raw, "created_at") or (None if started else begun),
        "started_at": begun if started else None,
        "completed_at": moment(raw, "completed_at") if ended else None,
        "conclusion": word(raw, "conclusion") if ended else "",
        "runner_id": identity(raw, "runner_id") if started else "",
        "runner_name": words(raw, "runner_name", 100) if started else "",
    }


def runner_of_answer(raw: Table) -> RunnerView:
    """A self-hosted runner. `busy` has been seen false while a job ran (actions/runner #4422). Raises Unreadable."""
    key, name = identity(raw, "id"), words(raw, "name", 100)
    if not key or not name:
        raise Unreadable("a runner without id or name")
    status = word(raw, "status")
    return RunnerView(runner_id=key, name=name, online=status == "online" if status else None, busy=truth(raw, "busy"))
