"""GitLab in one world: the fake one, its users and its runner programs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast

from app.forges.contract import Forge
from app.forges.gitlab import GitLabForge
from app.kit.clock import Clock
from providers.contract import Secret
from tests.fakes.gitlab import TOKEN, FakeGitLab
from tests.fakes.gitlab_hooks import Pair
from tests.fakes.gitlab_state import FakeJob
from tests.forge_programs import GitLabProgram, RunnerProgram
from tests.simulation.conditions import Conditions
from tests.simulation.sides import HOOK_SECRET, REPOSITORIES, STRANGER, Parcel, Send, request_of, told_of
from tests.simulation.wire import Asked, Told

HOOK_URL = "https://sublet.sim/hooks/gitlab"


class Lab(FakeGitLab):
    """Its webhooks are those of the projects that the service serves; what they sent can be looked up and sent again."""

    name = "gitlab"
    host = "gitlab.sim"

    def __init__(self, clock: Clock, send: Send) -> None:
        super().__init__(clock.now, webhook_token=HOOK_SECRET)
        self._clock, self._send = clock, send
        self._paths: dict[str, int] = {repository: self.add_project(repository) for repository in REPOSITORIES}
        for key in self._paths.values():
            self.hooks.add(key, HOOK_URL)
        self.lab = self  # as the runner's program knows it

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def adapter(self, conditions: Conditions) -> Forge:
        hooked = conditions.forges[self.name].webhooks
        return GitLabForge(
            url=self.url,
            token=Secret(TOKEN),
            webhook_token=Secret(HOOK_SECRET) if hooked else None,
            hook_url=HOOK_URL,
            named=() if conditions.globs else REPOSITORIES,
            now=self._clock.now,
        )

    def answer(self, asked: Asked) -> Told:
        return told_of(self.api.answer(request_of(asked)), ratelimit_remaining="1999")

    def secrets(self) -> list[str]:
        return [HOOK_SECRET, TOKEN]

    def changed(self, job: Any) -> None:
        before = len(self.outbox)
        self._keys.setdefault((job.id, job.status), str(uuid.uuid5(uuid.NAMESPACE_URL, f"{job.id} {job.status}")))
        super().changed(job)
        for pair in self.outbox[before:]:
            self._post(pair)
        del self.outbox[before:]

    def again(self, pair: Pair) -> int:
        """A delivery that GitLab is asked to send again: under its old key, and with what comes of it in the log."""
        self._post(self._signed(pair[0]["idempotency-key"], pair[1]))
        return 202

    def _post(self, pair: Pair) -> None:
        told = json.loads(pair[1])

        def receipt(status: int) -> None:
            self.hooks.note(pair, status)

        self._send(Parcel(self.name, *pair, receipt, str(told["build_id"]), str(told["build_status"])))

    def queue(self, repository: str, labels: list[str], *, fork: bool = False, gated: bool = False) -> str:
        if repository not in self._paths:
            self._paths[repository] = self.add_project(repository)
        return str(self.queue_job(self._paths[repository], labels, status="created" if gated else "pending").id)

    def approve(self, key: str) -> None:
        if self.lab.jobs[int(key)].status == "created":
            self.enqueue(self.lab.jobs[int(key)])

    def cancel(self, key: str) -> None:
        if self.all_jobs()[key] in ("waiting", "queued", "in_progress"):
            self.cancel_job(self.lab.jobs[int(key)])

    def rerun(self, key: str) -> str | None:
        return str(self.retry_job(self.lab.jobs[int(key)]).id) if self.lab.jobs[int(key)].finished_at else None

    def steal(self, key: str) -> Callable[[], None] | None:
        job = self.lab.jobs[int(key)]
        if job.status != "pending":
            return None
        self.start_job(job, STRANGER)
        return lambda: self.finish_job(job) if job.status == "running" else None

    def identity(self, credential: Mapping[str, Any]) -> tuple[str, str] | None:
        environment: Mapping[str, str] = credential["environment"]
        if "CI_SERVER_TOKEN" not in environment:
            return None
        return environment["RUNNER_NAME"], environment["CI_SERVER_TOKEN"]

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        return GitLabProgram(cast(Any, self), credential["environment"]["CI_SERVER_TOKEN"])

    def renew(self, program: RunnerProgram, key: str) -> bool:
        return self.lab.jobs[int(key)].status == "canceled"

    def abandon(self, program: RunnerProgram, key: str) -> None:
        return None

    def tick(self) -> None:
        self.drop_stuck_jobs()
        for job in list(self.lab.jobs.values()):  # a runner that died: GitLab fails its job after an hour without trace updates
            if job.status == "running" and job.runner_id not in self.runners and job.runner_id != STRANGER:
                self.finish_job(job, "failed", "runner_system_failure")
            elif job.status == "running" and job.started_at and self.now() - job.started_at > self._limit(job):
                self.finish_job(job, "failed", "job_execution_timeout")

    def _limit(self, job: FakeJob) -> timedelta:
        """The runner's own limit is told with its registration; a project's is an hour."""
        runner = self.runners.get(job.runner_id or 0)
        own = runner.maximum_timeout if runner is not None else None
        return timedelta(seconds=min(own or 3600, 3600))

    def all_jobs(self) -> dict[str, str]:
        words = {
            "created": "waiting",
            "pending": "queued",
            "running": "in_progress",
            "failed": "failure",
            "canceled": "cancelled",
        }
        return {str(job.id): words.get(job.status, job.status) for job in self.lab.jobs.values()}

    def turn(self, key: str) -> int:
        return 0

    def looks(self) -> int:
        # A job that is run again is another attempt, by webhook; lists and the runner do not say which: one look more.
        again = sum(job.retries > 0 for job in self.lab.jobs.values())
        return len({job.pipeline_id for job in self.lab.jobs.values()}) + again

    def registered(self) -> list[str]:
        return [one.description for one in self.runners.values() if not one.description.startswith("sublet-beacon")]

    def busy_on(self, runner_name: str) -> str | None:
        for job in self.lab.jobs.values():
            runner = self.runners.get(job.runner_id or 0)
            if job.status == "running" and runner is not None and runner.description == runner_name:
                return str(job.id)
        return None

    def ran_on(self, key: str) -> str:
        job = self.lab.jobs[int(key)]
        known = {one.id: one.description for one in [*self.removed, *self.runners.values()]}
        return known.get(job.runner_id or 0, "")

    def note(self, key: str) -> str:
        return self.lab.jobs[int(key)].failure_reason
