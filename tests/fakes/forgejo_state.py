"""What a Forgejo remembers and how it behaves: owners, repositories, runs, jobs by attempt, runner records, who gets which job.

Rules are those of Forgejo's source: models/actions/run_job.go (a run's status out of its jobs'), models/actions/task.go (who
gets a job: an exact handle, or the oldest that fits; labels must be a subset), services/actions/clear_tasks.go (zombies after
ten minutes, jobs that nobody takes after a day).
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

ZOMBIE = timedelta(minutes=10)  # ZOMBIE_TASK_TIMEOUT
ABANDONED = timedelta(hours=24)  # ABANDONED_JOB_TIMEOUT
ONLINE = timedelta(minutes=1)
FINISHED = frozenset({"success", "failure", "cancelled", "skipped"})


@dataclass(slots=True)
class FakeOwner:
    id: int
    name: str
    person: bool


@dataclass(slots=True)
class FakeRepository:
    id: int
    path: str
    owner: FakeOwner
    has_actions: bool = True


@dataclass(slots=True)
class FakeRun:
    id: int
    repository: FakeRepository
    index: int
    event: str
    actor: str
    fork: bool
    need_approval: bool
    created: datetime
    updated: datetime


@dataclass(slots=True)
class FakeRunner:
    """A runner record; uuid and token are what a machine holds."""

    id: int
    uuid: str
    token: str
    name: str
    description: str
    ephemeral: bool
    place: FakeRepository | FakeOwner | None  # None: the whole instance
    labels: tuple[str, ...] = ()  # as its program declared them
    contacted_at: datetime | None = None
    used: bool = False


@dataclass(slots=True)
class FakeJob:
    """One attempt of a job: a re-run is another one with the same id and another handle."""

    id: int
    handle: str
    run: FakeRun
    name: str
    labels: tuple[str, ...]
    needs: tuple[int, ...]  # ids of jobs
    attempt: int
    status: str
    created_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    runner: FakeRunner | None = None
    task_id: int = 0
    silent_since: datetime | None = None
    note: str = ""


class Unauthenticated(Exception):
    """No runner has this uuid and this token."""


@dataclass
class ForgejoState:
    """The state, and every way it changes. `changed` is called after each change of a job's status."""

    now: Callable[[], datetime]
    owners: dict[str, FakeOwner] = field(default_factory=dict[str, FakeOwner])
    repositories: dict[int, FakeRepository] = field(default_factory=dict[int, FakeRepository])
    moved: dict[str, FakeRepository] = field(default_factory=dict[str, FakeRepository])  # by the path they had
    runs: dict[int, FakeRun] = field(default_factory=dict[int, FakeRun])
    jobs: dict[str, FakeJob] = field(default_factory=dict[str, FakeJob])  # by handle, every attempt
    runners: dict[int, FakeRunner] = field(default_factory=dict[int, FakeRunner])
    removed: list[FakeRunner] = field(default_factory=list[FakeRunner])
    _next: int = 100

    def changed(self, job: FakeJob) -> None:
        """A job has a new status."""

    def number(self) -> int:
        self._next += 1
        return self._next

    def fresh_handle(self) -> str:
        """The name of a new attempt."""
        return str(uuid.uuid4())

    def add_owner(self, name: str, *, person: bool = False) -> FakeOwner:
        return self.owners.setdefault(name.casefold(), FakeOwner(self.number(), name, person))

    def add_repository(self, path: str) -> FakeRepository:
        """The repository of this path; its owner becomes an organisation unless there is one already."""
        known = self.repository(path)
        if known is not None:
            return known
        made = FakeRepository(self.number(), path, self.add_owner(path.partition("/")[0]))
        self.repositories[made.id] = made
        return made

    def repository(self, path: str) -> FakeRepository | None:
        return next((one for one in self.repositories.values() if one.path.casefold() == path.casefold()), None)

    def rename_repository(self, path: str, to: str) -> None:
        """The old path leads on until somebody else takes it."""
        found = self.repository(path)
        assert found is not None, path
        self.moved[path.casefold()] = found
        found.path, found.owner = to, self.add_owner(to.partition("/")[0])

    def queue_job(
        self,
        path: str,
        labels: Sequence[str],
        *,
        needs: Sequence[FakeJob] = (),
        event: str = "",
        fork: bool = False,
        approval: bool = False,
        actor: str = "ann",
        name: str = "train",
        run: FakeRun | None = None,
    ) -> FakeJob:
        """A new job in a run of its own, in the run of those it needs, or in `run`. They block it, as an approval does."""
        now, home = self.now(), self.add_repository(path)
        run = run or (needs[0].run if needs else None)
        if run is None:
            event = event or ("pull_request" if fork else "push")
            run = FakeRun(self.number(), home, 1 + len(self.runs), event, actor, fork, approval, now, now)
            self.runs[run.id] = run
        job = FakeJob(
            self.number(), self.fresh_handle(), run, name, tuple(labels), tuple(one.id for one in needs), 1, "blocked", now
        )
        self.jobs[job.handle] = job
        if self._held(job):
            self._told(job)
        else:
            self._enqueue(job)
        return job

    def approve(self, run: FakeRun) -> None:
        """A stranger's run may go on. It stays the run of a fork."""
        run.need_approval = False
        self._release(run)

    def rerun_job(self, job: FakeJob) -> FakeJob:
        """The same job by id, another attempt by handle."""
        assert job.status in FINISHED, job.status
        again = FakeJob(
            job.id, self.fresh_handle(), job.run, job.name, job.labels, job.needs, job.attempt + 1, "blocked", self.now()
        )
        self.jobs[again.handle] = again
        self._enqueue(again)
        return again

    def cancel_job(self, job: FakeJob) -> None:
        if job.status not in FINISHED:
            self.finish(job, "cancelled")

    def finish(self, job: FakeJob, conclusion: str = "success") -> None:
        """The job is over. An ephemeral runner's record goes with it, and jobs that needed it go on or are skipped."""
        if job.status in FINISHED:
            return
        job.status, job.finished_at = conclusion, self.now()
        if job.runner is not None and job.runner.ephemeral:
            self.remove_runner(job.runner)
        self._told(job)
        self._release(job.run)

    def latest(self, run: FakeRun | None = None) -> list[FakeJob]:
        """The last attempt of every job, or of the run's, by id."""
        found: dict[int, FakeJob] = {}
        for job in self.jobs.values():
            if run is None or job.run is run:
                found[job.id] = job
        return [found[key] for key in sorted(found)]

    def status_of(self, run: FakeRun) -> str:
        """AggregateJobStatus: a failed job makes the run a failure at once, whatever still waits."""
        told = {job.status for job in self.latest(run)}
        if told <= {"skipped"}:
            return "skipped"
        if told <= {"success", "skipped"}:
            return "success"
        return next((one for one in ("cancelled", "failure", "running", "waiting", "blocked") if one in told), "unknown")

    def create_runner(
        self, name: str, place: FakeRepository | FakeOwner | None, *, description: str = "", ephemeral: bool = False
    ) -> FakeRunner:
        made = FakeRunner(
            self.number(), str(uuid.uuid4()), secrets.token_hex(20), name, description, ephemeral, place, contacted_at=None
        )
        self.runners[made.id] = made
        return made

    def remove_runner(self, runner: FakeRunner) -> None:
        """The record is gone, and with it the right to report: a job that ran there falls silent."""
        if self.runners.pop(runner.id, None) is not None:
            self.removed.append(runner)
        for job in self.jobs.values():
            if job.runner is runner and job.status == "running":
                job.silent_since = self.now()

    def declare(self, uuid: str, token: str, labels: Sequence[str]) -> FakeRunner:
        """What a runner's program says at its start: which labels it serves. Raises Unauthenticated."""
        runner = self._authenticated(uuid, token)
        runner.labels = tuple(labels)
        return runner

    def fetch_single(self, uuid: str, token: str, handle: str) -> FakeJob | None:
        """FetchSingleTask: this one attempt, if it waits and the runner may have it. Raises Unauthenticated."""
        runner = self._authenticated(uuid, token)
        job = self.jobs.get(handle)
        return self._give(job, runner) if job is not None and self._fits(runner, job) else None

    def fetch_any(self, uuid: str, token: str) -> FakeJob | None:
        """FetchTask: the oldest job that waits and that the runner may have. Raises Unauthenticated."""
        runner = self._authenticated(uuid, token)
        waiting = sorted(self.jobs.values(), key=lambda one: (one.queued_at or one.created_at, one.id))
        job = next((one for one in waiting if self._fits(runner, one)), None)
        return None if job is None else self._give(job, runner)

    def runner_status(self, runner: FakeRunner) -> str:
        if any(job.runner is runner and job.status == "running" for job in self.jobs.values()):
            return "active"
        return "idle" if runner.contacted_at is not None and self.now() - runner.contacted_at < ONLINE else "offline"

    def fall_silent(self, job: FakeJob) -> None:
        """The machine under the job is gone: nobody reports any more."""
        job.silent_since = job.silent_since or self.now()

    def tick(self) -> None:
        """Forgejo's own sweeps."""
        now = self.now()
        for job in self.latest():
            if job.status == "running" and job.silent_since is not None and now - job.silent_since >= ZOMBIE:
                job.note = "zombie"
                self.finish(job, "failure")
            elif job.status == "waiting" and job.queued_at is not None and now - job.queued_at >= ABANDONED:
                job.note = "abandoned"
                self.finish(job, "cancelled")

    def _authenticated(self, uuid: str, token: str) -> FakeRunner:
        for runner in self.runners.values():
            if runner.uuid == uuid and secrets.compare_digest(runner.token, token):
                runner.contacted_at = self.now()
                return runner
        raise Unauthenticated("unregistered runner")

    def _fits(self, runner: FakeRunner, job: FakeJob) -> bool:
        if job.status != "waiting" or (runner.ephemeral and runner.used):
            return False
        home = job.run.repository
        reached = runner.place is None or runner.place is home or runner.place is home.owner
        return reached and set(job.labels) <= set(runner.labels)

    def _give(self, job: FakeJob, runner: FakeRunner) -> FakeJob:
        runner.used = True
        job.runner, job.status, job.started_at, job.task_id = runner, "running", self.now(), self.number()
        self._told(job)
        return job

    def _held(self, job: FakeJob) -> bool:
        done = {one.id: one.status for one in self.latest(job.run)}
        return job.run.need_approval or any(done.get(key) != "success" for key in job.needs)

    def _release(self, run: FakeRun) -> None:
        for job in self.latest(run):
            done = {one.id: one.status for one in self.latest(run)}
            if job.status != "blocked":
                continue
            if any(done[key] in FINISHED - {"success"} for key in job.needs):
                self.finish(job, "skipped")
            elif not self._held(job):
                self._enqueue(job)

    def _enqueue(self, job: FakeJob) -> None:
        job.status, job.queued_at = "waiting", self.now()
        self._told(job)

    def _told(self, job: FakeJob) -> None:
        job.run.updated = self.now()
        self.changed(job)
