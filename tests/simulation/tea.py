"""Gitea in one world: the fake one, its users and its runner programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.forges.contract import Forge
from app.forges.gitea import GiteaForge
from app.kit.clock import Clock
from providers.contract import Secret
from tests.fakes.gitea import TOKEN, FakeGitea
from tests.fakes.gitea_state import ENDED, FakeJob
from tests.forge_programs import GiteaProgram, RunnerProgram, Work
from tests.simulation.conditions import Conditions
from tests.simulation.sides import (
    FORK,
    GONE,
    HOOK_SECRET,
    REPOSITORIES,
    STRANGER,
    THEIRS,
    Heard,
    Parcel,
    Send,
    request_of,
    told_of,
    unheard,
)
from tests.simulation.wire import Asked, Told


class Tea(FakeGitea):
    """A job that is run again keeps its id until 1.26, so `turn` counts how often that was."""

    name = "gitea"
    host = "gitea.sim"

    def __init__(self, clock: Clock, version: str, hook: bool, send: Send) -> None:
        """`hook`: its runner is a gitea-runner 3, which asks us before a job begins."""
        super().__init__(clock.now, webhook_secret=HOOK_SECRET, version=version)
        self._send, self._hook = send, hook
        self._heard: dict[int, Heard] = {}  # by the runner's id
        self._turns: Counter[str] = Counter()
        for repository in REPOSITORIES:
            self.add_repository(repository)

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def adapter(self, conditions: Conditions) -> Forge:
        secret = Secret(HOOK_SECRET) if conditions.forges[self.name].webhooks else None
        return GiteaForge(url=self.url, token=Secret(TOKEN), webhook_secret=secret, now=self.now)

    def answer(self, asked: Asked) -> Told:
        return told_of(self.api.answer(request_of(asked)))

    def secrets(self) -> list[str]:
        return [HOOK_SECRET, TOKEN, *self.tokens.by_token]

    def changed(self, job: FakeJob) -> None:
        self._send(Parcel(self.name, *self.deliver(job), unheard, str(job.id), job.status))

    def tick(self) -> list[FakeJob]:
        """A runner that was not heard of for some minutes is gone, and with it, after ten, its job."""
        now = self.now()
        for runner in self.runners.values():
            heard = self._heard.get(runner.id)
            if heard is not None:
                runner.lost_at = heard.at if now - heard.at > GONE else None
        return super().tick()

    # --- its users

    def queue(self, repository: str, labels: list[str], *, fork: bool = False, gated: bool = False) -> str:
        if fork:
            return str(
                self.queue_job(repository, labels, gated=gated, event="pull_request_sync", fork=FORK, actor="mallory").id
            )
        return str(self.queue_job(repository, labels, gated=gated).id)

    def approve(self, key: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  by key, as at every side
        if self.jobs[int(key)].status == "blocked":
            super().approve(self.jobs[int(key)])

    def cancel(self, key: str) -> None:
        if self.jobs[int(key)].status not in ENDED:
            self.cancel_job(self.jobs[int(key)])

    def rerun(self, key: str) -> str | None:
        job = self.jobs[int(key)]
        if job.status not in ENDED:
            return None
        again = self.rerun_job(job)
        self._turns[key] += again is job
        return str(again.id)

    def steal(self, key: str) -> Callable[[], None] | None:
        job = self.jobs[int(key)]
        if job.status != "waiting":
            return None
        self.start_job(job, STRANGER)
        return lambda: self.finish_task(job) if (job.status, job.runner_id) == ("running", STRANGER) else None

    # --- its runners

    def identity(self, credential: Mapping[str, Any]) -> tuple[str, str] | None:
        kept = credential["files"].get(".runner")
        if kept is None:
            return None
        told = json.loads(kept)
        return str(told["name"]), str(told["token"])

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        key = int(json.loads(credential["files"][".runner"])["id"])
        inner: RunnerProgram = GiteaProgram(self, credential)
        heard = Heard(inner if self._hook else Unhooked(inner), self.now, lambda job: self._has(key, job))
        self._heard[key] = heard
        return heard

    def _has(self, runner: int, job: str) -> bool:
        found = self.jobs[int(job)]
        return found.status == "running" and found.runner_id == runner

    def renew(self, program: RunnerProgram, key: str) -> bool:
        heard = next((one for one in self._heard.items() if one[1] is program), None)
        assert heard is not None
        heard[1].hear()
        return not self._has(heard[0], key)

    def abandon(self, program: RunnerProgram, key: str) -> None:
        return None

    # --- what it knows

    def all_jobs(self) -> dict[str, str]:
        words = {"blocked": "waiting", "waiting": "queued", "running": "in_progress"}
        return {str(job.id): words.get(job.status, job.status) for job in self.jobs.values()}

    def turn(self, key: str) -> int:
        return self._turns[key]

    def looks(self) -> int:
        """One more for each further run: a queued job still shows the attempt before, and only a running one its own. And one
        when its runner asks: a job may be run again, by anybody, before anybody looked."""
        return 2 * len(self.jobs) + 3 * sum(self._turns.values())

    def registered(self) -> list[str]:
        return [one.name for one in self.runners.values()]

    def busy_on(self, runner_name: str) -> str | None:
        found = (job.id for job in self.jobs.values() if job.status == "running" and job.runner_name == runner_name)
        return next(map(str, found), None)

    def ran_on(self, key: str) -> str:
        job = self.jobs[int(key)]
        return f"{THEIRS}-runner" if job.runner_id == STRANGER else job.runner_name

    def note(self, key: str) -> str:
        return ""


class Unhooked:
    """An act_runner: it calls no hook, and only its output tells that a job has begun."""

    def __init__(self, program: RunnerProgram) -> None:
        self._program = program
        self.ended: int | None = None

    def take(self, now: datetime) -> Work | None:
        work = self._program.take(now)
        return None if work is None else replace(work, claim={})

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        self._program.finish(work, success, now)
