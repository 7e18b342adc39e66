"""What a Gitea remembers and how it behaves: repositories, runs, jobs, runner records, and who gets which job.

Rules are those of Gitea's source: models/actions/task.go (who gets a job), models/actions/runner.go (online for a minute,
busy for ten seconds), services/actions/clear_tasks.go (jobs given up), services/actions/rerun.go (the same row again).
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

ONLINE = timedelta(minutes=1)
BUSY = timedelta(seconds=10)
ABANDONED = timedelta(hours=24)  # ABANDONED_JOB_TIMEOUT
ZOMBIE = timedelta(minutes=10)  # ZOMBIE_TASK_TIMEOUT
ENDLESS = timedelta(hours=3)  # ENDLESS_TASK_TIMEOUT
ENDED = frozenset({"success", "failure", "cancelled", "skipped"})


@dataclass(slots=True)
class FakeRepository:
    id: int
    path: str
    has_actions: bool = True

    @property
    def owner(self) -> str:
        return self.path.partition("/")[0]


@dataclass(slots=True)
class FakePull:
    """A pull request. No head: the fork was deleted. AGit: pushed to `refs/for/main`, without any fork."""

    number: int
    base: int
    head: int | None
    agit: bool = False


@dataclass(slots=True)
class FakeRun:
    id: int
    repository_id: int
    event: str  # Gitea's own name: pull_request_sync
    ref: str
    actor: str
    again_by: str = ""  # who ran it again


@dataclass(slots=True)
class FakeRunner:
    """A runner record. Its place is a repository's id, an organisation's name, or neither: the whole instance."""

    id: int
    uuid: str
    token: str
    name: str
    labels: tuple[str, ...]
    ephemeral: bool
    repository_id: int | None
    owner: str
    disabled: bool = False
    connected: bool = False
    lost_at: datetime | None = None  # its machine is gone since
    served: bool = False  # has had a job


@dataclass(slots=True)
class FakeJob:
    """A job in the words of the database: waiting (for a runner), blocked, running, or how it ended."""

    id: int
    run_id: int
    repository_id: int
    name: str
    labels: tuple[str, ...]
    status: str
    created_at: datetime
    updated_at: datetime
    attempt: int
    needs: tuple[int, ...] = ()
    gated: bool = False  # waits for an approval
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    runner_id: int | None = None
    runner_name: str = ""
    reported: bool = False  # its runner has told of it
    silent_at: datetime | None = None  # its runner's record was deleted under it


@dataclass(slots=True)
class Scope:
    """Where a registration token registers runners."""

    repository_id: int | None = None
    owner: str = ""


@dataclass(slots=True)
class Tokens:
    """Registration tokens: good for any number of runners, until they are made anew."""

    by_token: dict[str, Scope] = field(default_factory=dict[str, Scope])

    def of(self, scope: Scope) -> str:
        for token, known in self.by_token.items():
            if known == scope:
                return token
        token = "Reg" + secrets.token_hex(18)
        self.by_token[token] = scope
        return token


class GiteaState:
    """The state, and every way it changes. `changed` is called after each change of a job's status."""

    def __init__(self, now: Callable[[], datetime], version: str = "1.26.1") -> None:
        self.now, self.version = now, version
        self.organizations: set[str] = set()
        self.repositories: dict[int, FakeRepository] = {}
        self.runs: dict[int, FakeRun] = {}
        self.jobs: dict[int, FakeJob] = {}
        self.pulls: dict[tuple[int, int], FakePull] = {}
        self.runners: dict[int, FakeRunner] = {}
        self.removed: list[FakeRunner] = []
        self.tokens = Tokens()
        self.knows_ephemeral = True
        self.endless = ENDLESS
        self._next = 700

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("+")[0].split("."))

    @property
    def modern(self) -> bool:
        """Attempts have rows of their own, and `waiting` means an approval."""
        return self.release >= (1, 27)

    def changed(self, job: FakeJob) -> None:
        """A job has a new status."""

    def number(self) -> int:
        self._next += 1
        return self._next

    def add_repository(self, path: str, *, person: bool = False) -> int:
        """The repository's id; the same path gives the same. Its owner is an organisation unless it is a person's."""
        for known in self.repositories.values():
            if known.path == path:
                return known.id
        if not person:
            self.organizations.add(path.partition("/")[0])
        key = self.number()
        self.repositories[key] = FakeRepository(key, path)
        return key

    def add_pull(self, path: str, fork: str | None, *, agit: bool = False) -> FakePull:
        """A pull request from this fork's path; empty: from a fork that was deleted; None: from a branch of its own."""
        base = self.add_repository(path)
        head = base if fork is None else self.add_repository(fork, person=True) if fork else None
        pull = FakePull(1 + len(self.pulls), base, head, agit)
        self.pulls[base, pull.number] = pull
        return pull

    def queue_job(
        self,
        path: str,
        labels: Sequence[str],
        *,
        name: str = "train",
        needs: FakeJob | Sequence[FakeJob] = (),
        gated: bool = False,
        event: str = "push",
        fork: str | None = None,
        agit: bool = False,
        actor: str = "ann",
    ) -> FakeJob:
        """A new job in the repository: queued, or blocked where it needs others or an approval.

        An event of the pull request family brings its pull request: see `add_pull` for `fork`."""
        now, home = self.now(), self.add_repository(path)
        before = (needs,) if isinstance(needs, FakeJob) else tuple(needs)
        if before:
            run = self.runs[before[0].run_id]
        else:
            ref = "refs/heads/main"
            if event.startswith("pull_request"):
                ref = f"refs/pull/{self.add_pull(path, fork, agit=agit).number}/head"
            run = FakeRun(self.number(), home, event, ref, actor)
            self.runs[run.id] = run
        job = FakeJob(
            id=self.number(),
            run_id=run.id,
            repository_id=home,
            name=name,
            labels=tuple(labels),
            status="blocked" if gated or any(one.status != "success" for one in before) else "waiting",
            created_at=now,
            updated_at=now,
            attempt=int(self.modern),
            needs=tuple(one.id for one in before),
            gated=gated,
        )
        self.jobs[job.id] = job
        self.changed(job)
        return job

    def approve(self, job: FakeJob) -> None:
        job.gated = False
        self._unblock(job)

    def cancel_job(self, job: FakeJob) -> None:
        self._end(job, "cancelled")

    def rerun_job(self, job: FakeJob, actor: str = "") -> FakeJob:
        """The job once more: until 1.26 the same row, whose attempt counts when a runner takes it; from 1.27 a new row."""
        now, run = self.now(), self.runs[job.run_id]
        run.again_by = actor
        fresh = {"status": "waiting", "updated_at": now, "started_at": None, "stopped_at": None, "reported": False}
        fresh |= {"runner_id": None, "runner_name": "", "silent_at": None}
        again = job
        if self.modern:
            again = replace(job, id=self.number(), created_at=now, attempt=job.attempt + 1, **fresh)
            self.jobs[again.id] = again
        else:
            for name, value in fresh.items():
                setattr(job, name, value)
        self.changed(again)
        return again

    def register(self, token: object, name: str, labels: Sequence[str], *, ephemeral: bool) -> FakeRunner | None:
        """What Register makes; None: there is no such registration token."""
        scope = self.tokens.by_token.get(str(token))
        if scope is None:
            return None
        runner = FakeRunner(
            id=self.number(),
            uuid=str(uuid.uuid4()),
            token=secrets.token_hex(20),
            name=name,
            labels=tuple(labels),
            ephemeral=ephemeral and self.knows_ephemeral,
            repository_id=scope.repository_id,
            owner=scope.owner,
        )
        self.runners[runner.id] = runner
        return runner

    def connect(self, uuid: str, token: str, labels: Sequence[str] | None = None) -> FakeRunner | None:
        """What Declare does as the runner starts; None: no runner has this identity (any more)."""
        for runner in self.runners.values():
            if runner.uuid == uuid and secrets.compare_digest(runner.token, token):
                runner.connected = True
                if labels is not None:
                    runner.labels = tuple(labels)
                return runner
        return None

    def request_task(self, uuid: str, token: str, *, quiet: bool = False) -> FakeJob | None:
        """What FetchTask gives: the oldest queued job that the runner may take; it then runs.

        `quiet`: the runner has not told of it yet, as in the first second."""
        runner = self.connect(uuid, token)
        if runner is None or runner.disabled or (runner.ephemeral and runner.served):
            return None
        for job in sorted(self.jobs.values(), key=lambda one: (one.updated_at, one.id)):
            if job.status == "waiting" and self.matches(runner, job):
                self.start_job(job, runner)
                job.reported = not quiet
                return job
        return None

    def start_job(self, job: FakeJob, runner: FakeRunner | int) -> None:
        """The job runs on this runner; a number is one that we do not know of."""
        now = self.now()
        if isinstance(runner, FakeRunner):
            runner.served = True
            job.runner_id, job.runner_name = runner.id, runner.name
        else:
            job.runner_id, job.runner_name = runner, "somebody-elses"
        job.status, job.started_at, job.updated_at, job.reported = "running", now, now, True
        job.attempt += not self.modern
        self.changed(job)

    def finish_task(self, job: FakeJob, conclusion: str = "success") -> None:
        """The last UpdateTask: the job ends, an ephemeral runner goes, and whatever needed the job goes on or is skipped."""
        self._end(job, conclusion)

    def lose(self, runner: FakeRunner) -> None:
        """The machine is gone; its record stays."""
        runner.lost_at = self.now()

    def remove_runner(self, runner: FakeRunner) -> None:
        """With a job or without: Gitea does not ask."""
        self.removed.append(replace(runner))
        del self.runners[runner.id]
        for job in self.jobs.values():
            if job.runner_id == runner.id and job.status == "running":
                job.silent_at = self.now()

    def matches(self, runner: FakeRunner, job: FakeJob) -> bool:
        """Whether the runner could take the job: its place, and each of the job's labels."""
        home = self.repositories[job.repository_id]
        if runner.repository_id not in (None, home.id) or runner.owner not in ("", home.owner):
            return False
        return set(job.labels) <= set(runner.labels)

    def online(self, runner: FakeRunner) -> bool:
        return runner.connected and (runner.lost_at is None or self.now() - runner.lost_at <= ONLINE)

    def busy(self, runner: FakeRunner) -> bool:
        """Has told of its job within ten seconds, which is not the same as having one."""
        if runner.lost_at is not None and self.now() - runner.lost_at > BUSY:
            return False
        return any(job.runner_id == runner.id and job.status == "running" and job.reported for job in self.jobs.values())

    def tick(self) -> list[FakeJob]:
        """Gitea's sweeps: jobs that nobody took in a day, or whose runner fell silent, or that run too long."""
        ended: list[FakeJob] = []
        for job in list(self.jobs.values()):
            conclusion, now = "", self.now()
            if job.status in ("waiting", "blocked") and now - job.updated_at > ABANDONED:
                conclusion = "cancelled"
            elif job.status == "running":
                runner = self.runners.get(job.runner_id or 0)
                silent = job.silent_at if runner is None else runner.lost_at
                if (silent is not None and now - silent > ZOMBIE) or now - (job.started_at or now) > self.endless:
                    conclusion = "failure"
            if conclusion:
                self._end(job, conclusion)
                ended.append(job)
        return ended

    def _end(self, job: FakeJob, conclusion: str) -> None:
        now = self.now()
        runner = self.runners.get(job.runner_id or 0)
        job.status, job.stopped_at, job.updated_at = conclusion, now, now
        if runner is not None and runner.ephemeral and runner.served:
            self.remove_runner(runner)
        self.changed(job)
        for other in list(self.jobs.values()):
            if job.id in other.needs and other.status == "blocked":
                if conclusion == "success":
                    self._unblock(other)
                else:
                    self._end(other, "skipped")

    def _unblock(self, job: FakeJob) -> None:
        if not job.gated and all(self.jobs[key].status == "success" for key in job.needs):
            job.status, job.updated_at = "waiting", self.now()
            self.changed(job)
