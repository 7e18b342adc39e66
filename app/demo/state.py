"""The forge's state machine: single-job runners that take queued jobs. Forward only; time and chance are passed in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.demo.nouns import Group, Job, Progress, Runner, Step
from app.demo.work import Refusal, Work, not_found

RUNNER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEPT_FORMER = 2_000


@dataclass(frozen=True, slots=True)
class Minted:
    runner: Runner
    token: str = field(repr=False)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class ForgeState(Work):
    """One forge: the work, and the runners that do it."""

    # -- runners ------------------------------------------------------------------------------------------------------

    def register(
        self, scope: str, name: str, labels: Sequence[str], group_id: int, now: datetime, work_folder: str = "_work"
    ) -> Minted:
        """A JIT runner: the offline record is there from now on, so the same name again is a conflict."""
        with self.lock:
            if not RUNNER_NAME.fullmatch(name):
                raise Refusal(422, "Invalid request.", "name is missing, over 64 characters, or has other than [A-Za-z0-9._-]")
            if not 1 <= len(labels) <= 100 or any(not 1 <= len(label) <= 256 for label in labels):
                raise Refusal(422, "Invalid request.", "labels: 1 to 100 of 1 to 256 characters each")
            if all(one.id != group_id for one in self.groups(scope)):
                raise not_found()
            there = [one for one in self.book.runners.values() if one.scope == scope]
            if any(one.name.lower() == name.lower() for one in there):
                raise Refusal(409, f"Already exists - A runner with the name {name} already exists.")
            if sum(1 for one in there if one.group_id == group_id) >= self.book.limits.group_runners:
                full = f"Runner group {group_id} has reached max limit of {self.book.limits.group_runners} runners."
                raise Refusal(422, full)
            token = f"{self._chance.getrandbits(256):064x}"
            runner = Runner(self._number(), name, scope, list(labels), group_id, now, digest(token), work_folder)
            self.book.runners[runner.id] = runner
            self.changed()
            return Minted(runner, token)

    def runner(self, scope: str, runner_id: int) -> Runner:
        found = self.book.runners.get(runner_id)
        if found is None or found.scope.lower() != scope.lower():
            raise not_found()
        return found

    def online(self, runner: Runner, now: datetime) -> bool:
        return runner.seen_at is not None and now - runner.seen_at <= self.book.limits.online

    def remove(self, scope: str, runner_id: int) -> None:
        """What DELETE does. A runner with a job stays."""
        with self.lock:
            runner = self.runner(scope, runner_id)
            if runner.job_id is not None:
                raise Refusal(422, f'Bad request - Runner "{runner.name}" is still running a job"')
            self._forget(runner, "deleted")

    def connect(self, token: str, session: str, version: str, now: datetime) -> Runner:
        """The runner program starts. One JIT config serves one session, ever."""
        with self.lock:
            runner = self._by_token(token)
            if runner.session and runner.session != digest(session):
                raise Refusal(409, "A session for this runner already exists.")
            if not runner.session:
                runner.session, runner.idle_since = digest(session), now
            runner.version, runner.seen_at = version[:40], now
            self.changed()
            return runner

    def session(self, token: str, session: str, now: datetime) -> Runner:
        """The runner that speaks, noted as seen."""
        runner = self._by_token(token)
        if runner.session != digest(session):
            raise Refusal(409, "A session for this runner already exists.")
        runner.seen_at = now
        return runner

    def take(self, runner: Runner, now: datetime) -> Job | None:
        """Any queued job of its scope and group whose labels it has; the oldest first. The same again if asked again."""
        with self.lock:
            if runner.job_id is not None:
                return self.book.jobs[runner.job_id]
            have = {label.lower() for label in runner.labels}
            group = next(one for one in self.groups(runner.scope) if one.id == runner.group_id)
            for job in self.book.jobs.values():
                if job.progress is not Progress.QUEUED or not {label.lower() for label in job.labels} <= have:
                    continue
                repository = self.book.runs[job.run_id].repository
                if not self.in_scope(runner.scope, repository) or (job.group and job.group.lower() != group.name.lower()):
                    continue
                if group.repositories is not None and repository not in group.repositories:
                    continue
                self._hand_over(job, runner, group, now)
                return job
            return None

    def renew(self, runner: Runner, job_id: int, now: datetime) -> bool:
        """The job's lock is held on to. True: it is to be cancelled."""
        job = self._own_job(runner, job_id)
        job.renewed_at = now
        return job.cancel_asked_at is not None

    def note_steps(self, runner: Runner, job_id: int, steps: list[Step], lines: int) -> None:
        job = self._own_job(runner, job_id)
        job.steps, job.log_lines = steps, lines
        self.changed()

    def finish(self, token: str, session: str, job_id: int, conclusion: str, now: datetime, summary: str = "") -> None:
        """The job is over, and with it the runner: it had one life. Again is harmless."""
        with self.lock:
            done = self.book.jobs.get(job_id)
            if digest(token) in self.book.former and done is not None and done.progress is Progress.COMPLETED:
                return
            runner = self.session(token, session, now)
            job = self._own_job(runner, job_id)
            job.summary = summary[:65_536]
            self._complete(job, conclusion, now)
            self._forget(runner, "job_done")

    def wake(self, now: datetime) -> None:
        """The forge was away, not the runners: their silence counts from now."""
        for runner in self.book.runners.values():
            if runner.seen_at is not None:
                runner.seen_at = now
            if runner.idle_since is not None:
                runner.idle_since = now

    def tick(self, now: datetime) -> None:
        """What time alone brings about."""
        limits = self.book.limits
        with self.lock:
            for job in list(self.book.jobs.values()):
                if job.progress is Progress.QUEUED and now - job.created_at > limits.queue:
                    job.note = "The job was not acquired by a runner in time."
                    self._complete(job, "failure", now)
            for runner in list(self.book.runners.values()):
                seen = runner.seen_at or runner.created_at
                if runner.job_id is not None:
                    if now - seen > limits.lost:
                        job = self.book.jobs[runner.job_id]
                        job.note = f"The self-hosted runner: {runner.name} lost communication with the server."
                        self._complete(job, "failure", now)
                        self._forget(runner, "lost")
                elif runner.idle_since is not None and now - runner.idle_since > limits.jit_idle:
                    self._forget(runner, "idle")
                elif runner.idle_since is None and now - runner.created_at > limits.jit_unused:
                    self._forget(runner, "unused")

    def _own_job(self, runner: Runner, job_id: int) -> Job:
        if runner.job_id != job_id:
            raise not_found()
        return self.book.jobs[job_id]

    def _by_token(self, token: str) -> Runner:
        sought = digest(token)
        for runner in self.book.runners.values():
            if runner.credential == sought:
                return runner
        if sought in self.book.former:
            raise Refusal(410, self.book.former[sought])
        raise Refusal(401, "Bad credentials")

    def _hand_over(self, job: Job, runner: Runner, group: Group, now: datetime) -> None:
        runner.job_id, runner.idle_since = job.id, None
        job.progress, job.started_at, job.renewed_at = Progress.IN_PROGRESS, now, now
        job.runner_id, job.runner_name = runner.id, runner.name
        job.runner_group_id, job.runner_group_name = group.id, group.name
        job.steps = [Step(1, "Set up job", "in_progress", None, now)]
        self._tell(job, "in_progress", now)

    def _forget(self, runner: Runner, why: str) -> None:
        self.book.runners.pop(runner.id, None)
        self.book.former[runner.credential] = why
        for old in list(self.book.former)[: max(0, len(self.book.former) - KEPT_FORMER)]:
            del self.book.former[old]
        self.changed()
