"""Repositories, runs and jobs of the forge: forward only. Time and chance are passed in."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.demo import shapes
from app.demo.deliveries import Outbox
from app.demo.nouns import Account, Book, Group, Job, JobSpec, Progress, Repository, Run
from app.demo.owners import source as source_of

REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,38}/(?!\.+$)[A-Za-z0-9._-]{1,100}")
KEPT_RUNS = 300


class Refusal(Exception):
    """An answer other than yes, with GitHub's status and message."""

    def __init__(self, status: int, message: str, *errors: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors


def not_found() -> Refusal:
    return Refusal(404, "Not Found")


@dataclass(frozen=True, slots=True)
class Order:
    """A run that is to be started."""

    repository: str
    sha: str
    jobs: Sequence[JobSpec]
    workflow: str = "gpu-eval"
    path: str = ".github/workflows/gpu-eval.yml"
    event: str = "push"
    branch: str = "main"
    actor: str = "mona"
    message: str = "Evaluate"
    fork: str = ""  # full name of the head repository of a pull request from a fork
    fork_deleted: bool = False


class Work:
    """What is to be done, and for whom. Thread-safe: a test may act on it while a server answers from it."""

    def __init__(self, book: Book, chance: random.Random, changed: Callable[[], None] = lambda: None) -> None:
        self.book = book
        self.outbox = Outbox(book, chance)
        self.changed = changed  # rung after every change
        self.lock = threading.RLock()
        self._chance = chance

    # -- who and where ------------------------------------------------------------------------------------------------

    def account(self, login: str, now: datetime, *, kind: str = "Organization", enterprise: str = "acme-inc") -> Account:
        """The owner of this name; made if new, with the App installed on it."""
        found = self.book.accounts.get(login)
        if found is None:
            found = Account(self._number(), login, kind, self._number(), enterprise, now)
            self.book.accounts[login] = found
        return found

    def repository(self, full_name: str, now: datetime, *, private: bool = True, parent: str = "") -> Repository:
        """The repository of this name; made if new, with its owner."""
        found = self.book.repositories.get(full_name)
        if found is not None:
            return found
        if not REPOSITORY_NAME.fullmatch(full_name):
            raise Refusal(422, "Validation Failed", f"{full_name[:80]!r} is no repository name: owner/name")
        owner = self.account(full_name.partition("/")[0], now, kind="User" if parent else "Organization")
        found = Repository(self._number(), full_name, owner.login, now, private, parent)
        self.book.repositories[full_name] = found
        self.changed()
        return found

    def groups(self, scope: str) -> list[Group]:
        own = [one for one in self.book.groups if one.scope == scope]
        return [Group(1, "Default", scope, default=True), *own]

    def add_group(self, scope: str, name: str, repositories: list[str] | None = None) -> Group:
        made = Group(1 + len(self.groups(scope)), name, scope, repositories=repositories)
        self.book.groups.append(made)
        self.changed()
        return made

    def in_scope(self, scope: str, repository: str) -> bool:
        kind, _, path = scope.partition("/")
        owner = self.book.accounts.get(repository.partition("/")[0])
        if kind == "repos":
            return path.lower() == repository.lower()
        if kind == "orgs":
            return owner is not None and owner.login.lower() == path.lower()
        return owner is not None and owner.enterprise.lower() == path.lower()

    # -- runs and jobs ------------------------------------------------------------------------------------------------

    def start(self, order: Order, now: datetime) -> Run:
        """An event came: a run, and its jobs queued or waiting for approval."""
        with self.lock:
            repository = self.repository(order.repository, now)
            head: str | None = order.repository
            if order.fork:
                head = self.repository(order.fork, now, private=repository.private, parent=order.repository).full_name
            if order.fork_deleted:
                head = None
            mine = [one for one in self.book.runs.values() if one.repository == order.repository]
            run = Run(
                id=self._number(),
                number=max((one.number for one in mine), default=0) + 1,
                repository=order.repository,
                workflow=order.workflow,
                path=order.path,
                event=order.event,
                actor=order.actor,
                branch=order.branch,
                sha=order.sha,
                message=order.message,
                created_at=now,
                updated_at=now,
                head_repository=head,
                base_branch=repository.default_branch,
                started_at=now,
            )
            self.book.runs[run.id] = run
            if order.event == "push":
                repository.pushed_at = now
            for spec in order.jobs:
                progress = Progress.WAITING if spec.needs_approval else Progress.QUEUED
                self._add_job(
                    Job(self._number(), run.id, 1, spec.key, spec.name, list(spec.labels), progress, now, spec.group), now
                )
            self._prune()
            return run

    def run(self, repository: str, run_id: int) -> Run:
        run = self.book.runs.get(run_id)
        if run is None or run.repository.lower() != repository.lower():
            raise not_found()
        return run

    def job(self, repository: str, job_id: int) -> Job:
        job = self.book.jobs.get(job_id)
        if job is None:
            raise not_found()
        self.run(repository, job.run_id)
        return job

    def approve(self, job_id: int, now: datetime) -> Job:
        with self.lock:
            job = self._any_job(job_id)
            if job.progress is not Progress.WAITING:
                raise Refusal(422, "There is no pending approval for this job")
            job.progress = Progress.QUEUED
            self._tell(job, "queued", now)
            return job

    def cancel(self, job_id: int, now: datetime) -> None:
        """At once if no runner has it; else its runner is told, and ends it."""
        with self.lock:
            job = self._any_job(job_id)
            if job.progress is Progress.COMPLETED:
                raise Refusal(409, "Cannot cancel a workflow run that is completed.")
            if job.progress is Progress.IN_PROGRESS:
                job.cancel_asked_at = job.cancel_asked_at or now
                self.changed()
            else:
                self._complete(job, "cancelled", now)

    def cancel_run(self, run_id: int, now: datetime) -> None:
        open_jobs = [one for one in shapes.latest_jobs(self.book, run_id) if one.progress is not Progress.COMPLETED]
        if not open_jobs:
            raise Refusal(409, "Cannot cancel a workflow run that is completed.")
        for job in open_jobs:
            self.cancel(job.id, now)

    def rerun(self, job_ids: Sequence[int], now: datetime) -> list[Job]:
        """A new attempt of the run; each of these jobs again, under a new id."""
        with self.lock:
            old = [self._any_job(one) for one in job_ids]
            if not old or any(one.progress is not Progress.COMPLETED for one in old):
                raise Refusal(403, "This workflow run is already running")
            run = self.book.runs[old[0].run_id]
            run.attempt += 1
            run.started_at = now
            made: list[Job] = []
            for job in old:
                job.superseded = True
                labels = list(job.labels)
                fresh = Job(self._number(), run.id, run.attempt, job.key, job.name, labels, Progress.QUEUED, now, job.group)
                self._add_job(fresh, now)
                made.append(fresh)
            return made

    def hook(self, url: str, now: datetime) -> None:
        """Where events go from now on. A ping comes first, as on GitHub."""
        with self.lock:
            self.book.hook_url = url
            if url:
                self.outbox.add("ping", shapes.ping(self.book, now), now)
            self.changed()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _number(self) -> int:
        self.book.counter += 1
        return self.book.counter

    def _any_job(self, job_id: int) -> Job:
        job = self.book.jobs.get(job_id)
        if job is None:
            raise not_found()
        return job

    def _add_job(self, job: Job, now: datetime) -> None:
        self.book.jobs[job.id] = job
        self._tell(job, str(job.progress), now)

    def _complete(self, job: Job, conclusion: str, now: datetime) -> None:
        if job.progress is Progress.COMPLETED:
            return
        job.progress, job.conclusion, job.completed_at = Progress.COMPLETED, conclusion, now
        for step in job.steps:
            if step.status != "completed":
                step.status, step.conclusion, step.completed_at = "completed", conclusion, now
        self._tell(job, "completed", now)

    def _tell(self, job: Job, action: str, now: datetime) -> None:
        run = self.book.runs[job.run_id]
        run.updated_at = now
        payload: dict[str, Any] = shapes.workflow_job(self.book, job, action)
        where = source_of(self.book, self.book.repositories[run.repository], run.actor)
        self.outbox.add(
            "workflow_job",
            payload,
            now,
            action=action,
            repository_id=where["repository"]["id"],
            installation_id=where["installation"]["id"],
        )
        self.changed()

    def _prune(self) -> None:
        """The oldest ended runs go, so that the file stays small."""
        for run_id in list(self.book.runs)[: max(0, len(self.book.runs) - KEPT_RUNS)]:
            jobs = [one for one in self.book.jobs.values() if one.run_id == run_id]
            if all(one.progress is Progress.COMPLETED for one in jobs):
                del self.book.runs[run_id]
                for job in jobs:
                    del self.book.jobs[job.id]
