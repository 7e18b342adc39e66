"""What a GitLab remembers and how it behaves: projects, jobs, runner records, and who gets which job.

Rules are those of GitLab's source: lib/gitlab/ci/matching/runner_matcher.rb (who matches),
lib/api/ci/runner.rb (a paused record is given no job; `verify` counts as a sign of life) and
app/services/ci/stuck_builds/drop_pending_service.rb (the one-hour trap).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

ONLINE = timedelta(hours=2)  # ONLINE_CONTACT_TIMEOUT
STUCK = timedelta(hours=1)
PATIENT = timedelta(hours=24)
FINISHED = frozenset({"success", "failed", "canceled", "skipped"})
HOOKED = frozenset({"created", "pending", "running", "success", "failed", "canceled"})  # app/models/ci/build.rb


@dataclass(slots=True)
class FakeProject:
    id: int
    path: str
    group_id: int | None
    archived: bool = False
    shared_with: tuple[int, ...] = ()  # groups that may use it too


@dataclass(slots=True)
class FakeRunner:
    """A runner record; its token is what a machine holds."""

    id: int
    token: str
    description: str
    runner_type: str
    project_id: int | None
    group_id: int | None
    tags: tuple[str, ...]
    run_untagged: bool
    locked: bool
    paused: bool
    maximum_timeout: int | None
    note: str
    created_at: datetime
    contacted_at: datetime | None = None


@dataclass(slots=True)
class FakeJob:
    id: int
    project_id: int
    pipeline_id: int
    name: str
    stage: str
    ref: str
    sha: str
    tags: tuple[str, ...]
    status: str
    created_at: datetime
    token: str
    retries: int = 0
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    runner_id: int | None = None
    failure_reason: str = "unknown_failure"
    user: str = "ann"


@dataclass(slots=True)
class FakePipeline:
    id: int
    project_id: int
    source: str
    ref: str
    user: str


class GitLabState:
    """The state, and every way it changes. `changed` is called after each change of a job's status."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.projects: dict[int, FakeProject] = {}
        self.groups: dict[int, str] = {}
        self.people: set[str] = set()  # who have projects of their own; their names are no groups
        self.jobs: dict[int, FakeJob] = {}
        self.pipelines: dict[int, FakePipeline] = {}
        self.merge_requests: dict[tuple[int, int], int | None] = {}  # (project, iid) -> the project that it comes from
        self.runners: dict[int, FakeRunner] = {}
        self.removed: list[FakeRunner] = []
        self._next = 400

    def changed(self, job: FakeJob) -> None:
        """A job has a new status."""

    def number(self) -> int:
        self._next += 1
        return self._next

    def add_group(self, path: str) -> int:
        """The group's id; the same path gives the same group."""
        for key, known in self.groups.items():
            if known == path:
                return key
        key = self.number()
        self.groups[key] = path
        return key

    def add_project(self, path: str) -> int:
        """The project's id. Its group is made too, unless its owner is one of the people."""
        key = self.number()
        group = path.rpartition("/")[0]
        self.projects[key] = FakeProject(key, path, self.add_group(group) if group and group not in self.people else None)
        return key

    def queue_job(
        self,
        project_id: int,
        tags: tuple[str, ...] | list[str],
        *,
        name: str = "train",
        ref: str = "main",
        status: str = "pending",
        source: str = "push",
        merges: int | None = None,
        user: str = "ann",
    ) -> FakeJob:
        """A new job: `pending`, or `created` where earlier stages come first; of a merge request from `merges`, a project."""
        now = self.now()
        if merges is not None:
            request = 1 + len(self.merge_requests)
            self.merge_requests[project_id, request] = merges
            source, ref = "merge_request_event", f"refs/merge-requests/{request}/head"
        job = FakeJob(
            id=self.number(),
            project_id=project_id,
            pipeline_id=self._pipeline(project_id, source, ref, user).id,
            name=name,
            stage="test",
            ref=ref,
            sha="c" * 40,
            tags=tuple(tags),
            status=status,
            created_at=now,
            token=secrets.token_hex(10),
            queued_at=now if status == "pending" else None,
            user=user,
        )
        self.jobs[job.id] = job
        self.changed(job)
        return job

    def _pipeline(self, project_id: int, source: str, ref: str, user: str) -> FakePipeline:
        made = FakePipeline(self.number(), project_id, source, ref, user)
        self.pipelines[made.id] = made
        return made

    def enqueue(self, job: FakeJob) -> None:
        """created -> pending."""
        job.status, job.queued_at = "pending", self.now()
        self.changed(job)

    def start_job(self, job: FakeJob, runner: FakeRunner | int) -> None:
        """The job runs on this runner, as if that had asked for it."""
        job.runner_id = runner if isinstance(runner, int) else runner.id
        job.status, job.started_at = "running", self.now()
        self.changed(job)

    def finish_job(self, job: FakeJob, status: str = "success", failure_reason: str = "script_failure") -> None:
        job.status, job.finished_at = status, self.now()
        if status == "failed":
            job.failure_reason = failure_reason
        self.changed(job)

    def cancel_job(self, job: FakeJob) -> None:
        self.finish_job(job, "canceled")

    def retry_job(self, job: FakeJob) -> FakeJob:
        """A retried job is a new one with a new id; the old one stays as it ended."""
        again = self.queue_job(job.project_id, job.tags, name=job.name, ref=job.ref, status="created")
        again.retries = job.retries + 1
        self.enqueue(again)
        return again

    def create_runner(self, **values: object) -> FakeRunner:
        key = self.number()
        token = f"glrt-t1_{secrets.token_urlsafe(24)}"
        runner = FakeRunner(id=key, token=token, created_at=self.now(), **values)  # pyright: ignore[reportArgumentType]  from JSON
        self.runners[key] = runner
        return runner

    def remove_runner(self, runner: FakeRunner) -> None:
        self.removed.append(replace(runner))
        del self.runners[runner.id]

    def by_token(self, token: object) -> FakeRunner | None:
        """The runner with this token, now heard from."""
        for runner in self.runners.values():
            if secrets.compare_digest(runner.token.encode(), str(token).encode()):
                runner.contacted_at = self.now()
                return runner
        return None

    def request_job(self, token: str) -> FakeJob | None:
        """What `POST /jobs/request` gives: the oldest pending job that the runner may take; it then runs."""
        runner = self.by_token(token)
        if runner is None or runner.paused:
            return None
        for job in sorted(self.jobs.values(), key=lambda one: (one.queued_at or one.created_at, one.id)):
            if job.status == "pending" and self.matches(runner, job):
                self.start_job(job, runner)
                return job
        return None

    def matches(self, runner: FakeRunner, job: FakeJob) -> bool:
        """Whether the runner could take the job: scope and tags."""
        project = self.projects[job.project_id]
        if runner.runner_type == "project_type" and runner.project_id != project.id:
            return False
        if runner.runner_type == "group_type":
            group = self.groups.get(runner.group_id or 0, "?")
            if not project.path.startswith(f"{group}/"):
                return False
        return set(job.tags) <= set(runner.tags) and (bool(job.tags) or runner.run_untagged)

    def online(self, runner: FakeRunner) -> bool:
        return runner.contacted_at is not None and self.now() - runner.contacted_at < ONLINE

    def busy(self, runner: FakeRunner) -> bool:
        return any(job.runner_id == runner.id and job.status == "running" for job in self.jobs.values())

    def drop_stuck_jobs(self) -> list[FakeJob]:
        """GitLab's hourly sweep: a pending job without an active, online, matching runner fails after an hour."""
        dropped: list[FakeJob] = []
        for job in list(self.jobs.values()):
            if job.status != "pending" or job.queued_at is None:
                continue
            helped = any(not one.paused and self.online(one) and self.matches(one, job) for one in self.runners.values())
            if self.now() - job.queued_at > (PATIENT if helped else STUCK):
                self.finish_job(job, "failed", "stuck_pending_no_matching_runners")
                dropped.append(job)
        return dropped
