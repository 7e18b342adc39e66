"""GitLab's JSON, read into our nouns: Job Hook deliveries, jobs and runners of the REST API.

Traps: the job's tags are not in the event (`runner.tags` are the runner's); `commit.id` is the
pipeline's id; `project_name` is made of names for people ("Group / Project"), not of paths; a
`created` event may already show a runner. A retried job is a new job with a new id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from app.core.model import Job, JobState, Run
from app.forges.contract import RunnerView
from app.forges.payload import (
    Table,
    Unreadable,
    identity,
    is_identity,
    labels,
    link,
    moment,
    number,
    part,
    truth,
    whole,
    word,
    words,
)

EVENTS: Mapping[str, JobState] = {
    "created": JobState.WAITING,  # not runnable yet: earlier stages come first
    "pending": JobState.QUEUED,
    "running": JobState.IN_PROGRESS,
    "success": JobState.COMPLETED,
    "failed": JobState.COMPLETED,
    "canceled": JobState.COMPLETED,
}
STATUSES: Mapping[str, JobState] = {
    **EVENTS,
    "waiting_for_resource": JobState.WAITING,
    "waiting_for_callback": JobState.WAITING,
    "preparing": JobState.WAITING,
    "manual": JobState.WAITING,
    "scheduled": JobState.WAITING,
    "canceling": JobState.IN_PROGRESS,
    "skipped": JobState.COMPLETED,
}
"""What the REST API may say; the event comes for the first six only (GitLab app/models/ci/build.rb)."""

CONCLUSIONS: Mapping[str, str] = {"success": "success", "failed": "failure", "canceled": "cancelled", "skipped": "skipped"}
"""GitLab's final statuses in the words that GitHub uses, so that the rest of Sublet knows one vocabulary."""

PATH = re.compile(r"(?=.{3,280}$)(?:(?!\.{1,2}/)[A-Za-z0-9_.-]+/)+(?!\.{1,2}$)[A-Za-z0-9_.-]+")
GROUP = re.compile(r"(?=.{1,280}$)(?:(?!\.{1,2}/)[A-Za-z0-9_.-]+/)*(?!\.{1,2}$)[A-Za-z0-9_.-]+")
OWN_CODE = frozenset({"push", "web", "trigger", "schedule", "api", "pipeline", "parent_pipeline", "chat", "webide"})
"""Sources of pipelines that run a branch or tag of their own project (GitLab lib/gitlab/ci/pipeline: enums/ci/pipeline.rb)."""
MERGE_REQUEST = re.compile(r"refs/merge-requests/([0-9]{1,19})/(?:head|merge|train)")
LONGEST_QUEUED = 30 * 24 * 3600  # seconds; no job waits for longer
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")


def job_of_event(forge: str, base: str, event: Table) -> tuple[Job | None, str]:
    """The job and its status; no job for a status that we do not act on. Raises Unreadable.

    `base` is the GitLab's own address: it may live under a path, which then begins every link."""
    status = word(event, "build_status")
    key, project = identity(event, "build_id"), part(event, "project")
    home = identity(event, "project_id") or identity(project, "id")
    if not key or not home or not status:
        raise Unreadable("the delivery names no job, project or status")
    if identity(project, "id") not in ("", home):
        raise Unreadable("the delivery names two projects")
    state = EVENTS.get(status)
    if state is None:
        return None, status
    site = (link(project, "web_url") or link(part(event, "repository"), "homepage")).rstrip("/")
    repository = whole(project, "path_with_namespace", PATH) or path_of(base, site)
    if not repository:
        raise Unreadable("the delivery does not say the project's path")
    started = state in (JobState.IN_PROGRESS, JobState.COMPLETED)
    ended = state is JobState.COMPLETED
    runner = part(event, "runner")
    job = Job(
        id=f"{forge}-{key}",
        forge=forge,
        key=key,
        repository=repository,
        repository_id=home,
        state=state,
        run_id=identity(event, "pipeline_id") or identity(part(event, "commit"), "id"),
        attempt=min(number(event, "retries_count") or 0, 99_999) + 1,
        labels=None,
        name=words(event, "build_name", 200),
        workflow=words(event, "build_stage", 200),
        url=f"{site}/-/jobs/{key}" if site else "",
        branch=words(event, "ref", 255),
        sha=whole(event, "sha", _COMMIT),
        actor=words(part(event, "user"), "username", 100),
        conclusion=CONCLUSIONS[status] if ended else "",
        runner_id=identity(runner, "id") if started else "",
        runner_name=words(runner, "description", 100) if started else "",
        queued_at=moment(event, "build_created_at"),
        started_at=moment(event, "build_started_at") if started else None,
        completed_at=moment(event, "build_finished_at") if ended else None,
    )
    return job, status


def path_of(base: str, site: str) -> str:
    """The full path of the project that a link leads to, or empty."""
    path = unquote(urlsplit(site).path).partition("/-/")[0].strip("/")
    root = urlsplit(base).path.strip("/")
    if root and (path + "/").startswith(root + "/"):
        path = path[len(root) :].strip("/")
    return path if PATH.fullmatch(path) else ""


def job_of_answer(job: Job, base: str, raw: Table, now: datetime) -> Job:
    """The job as the REST API tells it `now`, with its tags. Raises Unreadable.

    The project's path is taken from the answer too: the delivery's own word is only as good as the
    webhook's token, which every maintainer of the project may know."""
    if identity(raw, "id") != job.key:
        raise Unreadable("the answer is about another job")
    status = word(raw, "status")
    state = STATUSES.get(status, job.state)
    url, runner = link(raw, "web_url"), part(raw, "runner")
    started = state in (JobState.IN_PROGRESS, JobState.COMPLETED)
    ended = state is JobState.COMPLETED
    found: dict[str, Any] = {
        "repository": path_of(base, url),
        "labels": labels(raw, "tag_list") or (),
        "state": state,
        "run_id": identity(part(raw, "pipeline"), "id"),
        "name": words(raw, "name", 200),
        "workflow": words(raw, "stage", 200),
        "url": url,
        "branch": words(raw, "ref", 255),
        "sha": whole(part(raw, "commit"), "id", _COMMIT),
        "actor": words(part(raw, "user"), "username", 100),
        "conclusion": CONCLUSIONS.get(status, "") if ended else "",
        "runner_id": identity(runner, "id") if started else "",
        "runner_name": words(runner, "description", 100) if started else "",
        "queued_at": _queued_at(raw, now),
        "started_at": moment(raw, "started_at") if started else None,
        "completed_at": moment(raw, "finished_at") if ended else None,
    }
    return replace(job, **{name: value for name, value in found.items() if value not in ("", None)})


def _queued_at(raw: Table, now: datetime) -> datetime | None:
    """When it became pending: a job of a later stage is made long before. GitLab tells for how long it was queued, or is."""
    made, queued = moment(raw, "created_at"), raw.get("queued_duration")
    if isinstance(queued, bool) or not isinstance(queued, int | float) or not 0 <= queued <= LONGEST_QUEUED:
        return made
    since = (moment(raw, "started_at") or now) - timedelta(seconds=queued)
    return since if made is None else max(made, since)


def project_of(job: Job) -> str:
    """The job's project as one part of a URL: by its number, which no rename changes, where that is known."""
    return job.repository_id if is_identity(job.repository_id) else quote(job.repository, safe="")


def job_of_listing(forge: str, base: str, repository: str, raw: Table, now: datetime) -> Job:
    """A job out of a project's listing. Raises Unreadable."""
    key, pipeline = identity(raw, "id"), part(raw, "pipeline")
    if not key:
        raise Unreadable("a job without id")
    home = identity(pipeline, "project_id")
    empty = Job(f"{forge}-{key}", forge, key, repository, JobState.WAITING, repository_id=home)
    return job_of_answer(empty, base, raw, now)


def run_of_answer(job: Job, base: str, raw: Table, source_project: str | None) -> Run:
    """The job's pipeline. `source_project` is the id of the project that a merge request comes from. Raises Unreadable.

    A pipeline of a branch or tag runs its own project's code. Of a merge request's pipeline only the merge
    request says whose code it is; where it does not, nobody can say."""
    key, home = identity(raw, "id"), identity(raw, "project_id")
    if key != job.run_id:
        raise Unreadable("the answer is about another pipeline")
    repository = path_of(base, link(raw, "web_url")) or job.repository
    source, ref = word(raw, "source"), words(raw, "ref", 255)
    fork: bool | None = None
    if MERGE_REQUEST.fullmatch(ref) or source == "merge_request_event":
        fork = source_project != home if source_project and home else None
    elif source in OWN_CODE:
        fork = False
    return Run(
        forge=job.forge,
        repository=repository,
        id=key,
        attempt=job.attempt,
        event=source,
        head_repository=repository if fork is False else "",
        fork=fork,
        actor=words(part(raw, "user"), "username", 100),
    )


def runner_of_answer(raw: Table) -> RunnerView:
    """A runner record; its description carries our name for it. Raises Unreadable.

    GitLab calls a runner online for two hours after its last word, so that "online" proves little."""
    key = identity(raw, "id")
    if not key:
        raise Unreadable("a runner without id")
    work = word(raw, "job_execution_status")
    busy = {"active": True, "idle": False}.get(work)
    return RunnerView(runner_id=key, name=words(raw, "description", 255), online=truth(raw, "online"), busy=busy)
