"""Forgejo's JSON, read into our nouns: deliveries of jobs, jobs and runs of the REST API, runner records.

Traps: a job's id stays when it is run again, its handle does not; a job carries the number of its repository and never its
name; Forgejo 15 does not say which run a job belongs to, 16 does; times that have not come yet are written as 1970 or year 1.
Sources: forgejo services/convert/action.go, modules/structs, models/actions/status.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from app.core.model import Job, JobState, Run
from app.forges.contract import RunnerView
from app.forges.payload import Table, Unreadable, identity, labels, link, moment, number, part, truth, whole, word, words

STATES: Mapping[str, JobState] = {
    "blocked": JobState.WAITING,  # other jobs come first, or somebody has to approve the run
    "waiting": JobState.QUEUED,
    "running": JobState.IN_PROGRESS,
    "success": JobState.COMPLETED,
    "failure": JobState.COMPLETED,
    "cancelled": JobState.COMPLETED,
    "skipped": JobState.COMPLETED,
}
"""What a job's `status` says. The final ones are GitHub's own words for a conclusion."""

PATH = re.compile(r"(?=.{3,200}$)(?!\.{1,2}/)[A-Za-z0-9_.-]+/(?!\.{1,2}$)[A-Za-z0-9_.-]+")
OWNER = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,100}")
HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,127}")
"""Opaque, a UUID so far. It becomes a word of a command, so it never begins with a dash."""
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
RUN_UNTOLD = re.compile(r"job-[0-9]{1,19}")
"""Stands for the run of a job of which the forge does not say to which run it belongs: each such job has its own."""
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
_EVENTS: Mapping[str, str] = {
    **dict.fromkeys(
        (f"pull_request_{what}" for what in ("sync", "assign", "label", "milestone", "review_request")), "pull_request"
    ),
    "pull_request_approved": "pull_request_review",
    "pull_request_rejected": "pull_request_review",
    "pull_request_comment": "issue_comment",
}
"""Forgejo's own names of events (modules/webhook/type.go) in the words that a workflow's `on` has."""


def job_of_event(forge: str, event: Table) -> tuple[Job, str]:
    """The job of a `workflow_job_*` delivery, and its status. Nothing but the signed body is believed. Raises Unreadable."""
    raw, run, home = part(event, "job"), part(event, "run"), part(event, "repository")
    repository, number_of_it = whole(home, "full_name", PATH), identity(home, "id")
    if not repository or not number_of_it:
        raise Unreadable("the delivery does not say the repository's name and id")
    if identity(raw, "repo_id") not in ("", number_of_it):
        raise Unreadable("the delivery names two repositories")
    run_id = identity(raw, "run_id") or identity(run, "id")
    if not run_id or identity(run, "id") not in ("", run_id):
        raise Unreadable("the delivery names no run, or two")
    job = job_of_row(forge, raw, repository, run_id)
    if job is None:
        raise Unreadable("the job has no handle: Forgejo 15 or later is needed")
    started = job.state in (JobState.IN_PROGRESS, JobState.COMPLETED)
    found = Job(
        id=job.id,
        forge=forge,
        key=job.key,
        repository=repository,
        repository_id=number_of_it,
        state=job.state,
        run_id=run_id,
        attempt=job.attempt,
        labels=job.labels,
        name=job.name,
        workflow=words(run, "workflow_id", 200),
        url=link(raw, "html_url") or link(run, "html_url"),
        branch=words(run, "prettyref", 255),
        sha=whole(run, "commit_sha", _COMMIT),
        actor=words(part(run, "trigger_user"), "login", 100),
        conclusion=job.conclusion,
        queued_at=moment(run, "created") if job.attempt == 1 else None,
        started_at=moment(run, "started") if started and job.attempt == 1 else None,
    )
    return found, word(raw, "status")


def job_of_row(forge: str, raw: Table, repository: str, run_id: str = "") -> Job | None:
    """A job out of a listing; None for one without a handle, which no runner can be made for. Raises Unreadable.

    Where neither the row nor `run_id` says the run, the job has a run of its own name."""
    handle, key, status = whole(raw, "handle", HANDLE), identity(raw, "id"), word(raw, "status")
    if not handle:
        return None
    if not key or not status:
        raise Unreadable("a job without id or status")
    state = STATES.get(status, JobState.WAITING)
    return Job(
        id=f"{forge}-{handle}",
        forge=forge,
        key=handle,
        repository=repository,
        repository_id=identity(raw, "repo_id"),
        state=state,
        run_id=identity(raw, "run_id") or run_id or f"job-{key}",
        attempt=max(1, min(number(raw, "attempt") or 1, 99_999)),
        labels=labels(raw, "runs_on") or (),
        name=words(raw, "name", 200),
        conclusion=status if state is JobState.COMPLETED else "",
    )


def run_of_answer(job: Job, raw: Table) -> Run:
    """The job's run. Raises Unreadable.

    `is_fork_pull_request` is Forgejo's own judgement, and stays when somebody approves the run; a run that still waits for
    approval is a stranger's too."""
    key, home = identity(raw, "id"), whole(part(raw, "repository"), "full_name", PATH)
    if not key or not home:
        raise Unreadable("a run without id or repository")
    fork = truth(raw, "is_fork_pull_request")
    if truth(raw, "need_approval"):
        fork = True
    return Run(
        forge=job.forge,
        repository=home,
        id=job.run_id,
        attempt=job.attempt,
        event=event_of(raw),
        head_repository=home if fork is False else "",
        fork=fork,
        actor=words(part(raw, "trigger_user"), "login", 100),
    )


def event_of(raw: Table) -> str:
    """What set the run going, in the words of a workflow's `on`. Raises Unreadable."""
    told = word(raw, "trigger_event") or word(raw, "event")
    return "pull_request_review" if told.startswith("pull_request_review_") and told not in _EVENTS else _EVENTS.get(told, told)


def changed_since(raw: Table, since: datetime) -> bool:
    """Whether the run has changed since then, or does not say when. Raises Unreadable."""
    at = moment(raw, "updated")
    return at is None or at >= since


def runner_of_answer(raw: Table) -> RunnerView:
    """A runner record. Raises Unreadable."""
    key = identity(raw, "id")
    if not key:
        raise Unreadable("a runner without id")
    online, busy = {"offline": (False, False), "idle": (True, False), "active": (True, True)}.get(
        word(raw, "status"), (None, None)
    )
    return RunnerView(runner_id=key, name=words(raw, "name", 255), online=online, busy=busy)
