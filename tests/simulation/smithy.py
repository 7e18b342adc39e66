"""Forgejo in one world: the fake one, its users and its runner programs."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.forges.contract import Forge
from app.forges.forgejo import FILE, ForgejoForge
from app.kit.clock import Clock
from providers.contract import Secret
from tests.fakes.forgejo import TOKEN, FakeForgejo
from tests.fakes.forgejo_state import FINISHED, FakeJob, FakeRunner, Unauthenticated
from tests.forge_programs import ForgejoProgram, RunnerProgram, Work
from tests.simulation.conditions import Conditions
from tests.simulation.sides import (
    GONE,
    HOOK_SECRET,
    REPOSITORIES,
    THEIRS,
    Heard,
    Parcel,
    Send,
    request_of,
    told_of,
    unheard,
)
from tests.simulation.wire import Asked, Told


class Smithy(FakeForgejo):
    """A job that waits for another one waits for one that is not ours: somebody else's runner does that when it is approved."""

    name = "forgejo"
    host = "forgejo.sim"

    def __init__(self, clock: Clock, webhooks: str, send: Send) -> None:
        super().__init__(clock.now, webhook_secret=HOOK_SECRET, webhooks=webhooks)
        self._send = send
        self._chance = random.Random("handles")
        self._heard: dict[str, tuple[FakeRunner, Heard]] = {}  # by the runner's uuid
        self._first: dict[str, FakeJob] = {}  # what a job waits for
        for repository in REPOSITORIES:
            self.add_repository(repository)

    def fresh_handle(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def adapter(self, conditions: Conditions) -> Forge:
        secret = Secret(HOOK_SECRET) if conditions.forges[self.name].webhooks else None
        return ForgejoForge(url=self.url, token=Secret(TOKEN), webhook_secret=secret, now=self.now)

    def answer(self, asked: Asked) -> Told:  # pyright: ignore[reportIncompatibleMethodOverride]  without the description: it is slow
        return told_of(self.api.answer(request_of(asked)))

    def secrets(self) -> list[str]:
        return [HOOK_SECRET, TOKEN]

    def changed(self, job: FakeJob) -> None:
        before = len(self.outbox)
        super().changed(job)
        for pair in self.outbox[before:]:
            self._send(Parcel(self.name, *pair, unheard, job.handle, job.status))
        del self.outbox[before:]

    def tick(self) -> None:
        """A program that was heard of lately is there and asks every few seconds; one that was not is gone."""
        now = self.now()
        for runner, heard in self._heard.values():
            if now - heard.at <= GONE:
                runner.contacted_at = now
        for job in list(self.jobs.values()):
            if job.status == "running" and job.runner is not None:
                known = self._heard.get(job.runner.uuid)
                if known is not None and now - known[1].at > GONE and job.silent_since is None:
                    job.silent_since = known[1].at
        super().tick()

    # --- its users

    def queue(self, repository: str, labels: list[str], *, fork: bool = False, gated: bool = False) -> str:
        if fork:
            return self.queue_job(repository, labels, fork=True, approval=gated, actor="mallory").handle
        if not gated:
            return self.queue_job(repository, labels).handle
        first = self.queue_job(repository, ["ubuntu-latest"], name="build")
        job = self.queue_job(repository, labels, needs=[first])
        self._first[job.handle] = first
        return job.handle

    def approve(self, key: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  by key, as at every side
        job = self.jobs[key]
        if job.status == "blocked" and key in self._first:
            self.finish(self._first[key])
        elif job.status == "blocked":
            super().approve(job.run)

    def cancel(self, key: str) -> None:
        self.cancel_job(self.jobs[key])

    def rerun(self, key: str) -> str | None:
        job = self.jobs[key]
        latest = next(one for one in self.latest(job.run) if one.id == job.id)
        return self.rerun_job(job).handle if job.status in FINISHED and latest is job else None

    def steal(self, key: str) -> Callable[[], None] | None:
        job = self.jobs[key]
        if job.status != "waiting":
            return None
        theirs = self.create_runner(f"{THEIRS}-{self.number()}", job.run.repository, ephemeral=True)
        self.declare(theirs.uuid, theirs.token, job.labels)
        assert self.fetch_single(theirs.uuid, theirs.token, key) is job
        return lambda: self.finish(job)

    # --- its runners

    def identity(self, credential: Mapping[str, Any]) -> tuple[str, str] | None:
        token = credential["files"].get(FILE)
        if token is None:
            return None
        known = [*self.runners.values(), *self.removed]
        return next(one.name for one in known if one.token == token), str(token)

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        token = credential["files"][FILE]
        runner = next(one for one in [*self.runners.values(), *self.removed] if one.token == token)
        try:
            inner: RunnerProgram = ForgejoProgram(self, credential)
        except Unauthenticated:
            return TurnedAway()
        heard = Heard(inner, self.now, lambda job: self._has(runner, job))
        self._heard[runner.uuid] = runner, heard
        return heard

    def _has(self, runner: FakeRunner, key: str) -> bool:
        return self.jobs[key].status == "running" and self.jobs[key].runner is runner

    def renew(self, program: RunnerProgram, key: str) -> bool:
        runner, heard = next(one for one in self._heard.values() if one[1] is program)
        heard.hear()
        if self._has(runner, key) and runner.id in self.runners:
            self.jobs[key].silent_since = None
        return not self._has(runner, key)

    def abandon(self, program: RunnerProgram, key: str) -> None:
        return None

    # --- what it knows

    def all_jobs(self) -> dict[str, str]:
        words = {"blocked": "waiting", "waiting": "queued", "running": "in_progress"}
        others = {one.handle for one in self._first.values()}
        return {key: words.get(job.status, job.status) for key, job in self.jobs.items() if key not in others}

    def turn(self, key: str) -> int:
        return 0

    def looks(self) -> int:
        return len(self.jobs)

    def registered(self) -> list[str]:
        return [one.name for one in self.runners.values() if not one.name.startswith(THEIRS)]

    def busy_on(self, runner_name: str) -> str | None:
        found = (job for job in self.jobs.values() if job.status == "running" and job.runner is not None)
        return next((job.handle for job in found if job.runner is not None and job.runner.name == runner_name), None)

    def ran_on(self, key: str) -> str:
        runner = self.jobs[key].runner
        return "" if runner is None else runner.name

    def note(self, key: str) -> str:
        return self.jobs[key].note


class TurnedAway:
    """A program whose record was taken off before it started: it ends at once."""

    def __init__(self) -> None:
        self.ended: int | None = 1

    def take(self, now: datetime) -> Work | None:
        return None

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        return None
