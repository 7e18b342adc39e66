"""A Gitea on loopback, and our side of it, for the tests of the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from app.core.model import Job, JobState, Scope, ScopeKind
from app.forges.contract import Minted, RunnerOrder
from app.forges.gitea import GiteaForge
from providers.contract import Secret
from tests.fakes.gitea import TOKEN, FakeGitea
from tests.fakes.gitea_state import FakeJob, FakeRunner
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import HOOK_SECRET, ManualClock

REPOSITORY = "acme/train"
HOME = Scope(ScopeKind.REPOSITORY, REPOSITORY)
ORGANIZATION = Scope(ScopeKind.ORGANIZATION, "acme")
INSTANCE = Scope(ScopeKind.ENTERPRISE, "gitea")


@dataclass
class GiteaSide:
    """The server, and a maker of forges that speak to it."""

    server: FakeGitea
    clock: ManualClock
    rates: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def forge(self, **changes: Any) -> GiteaForge:
        values: dict[str, Any] = {
            "url": self.server.url,
            "token": Secret(TOKEN),
            "now": self.clock.now,
            "webhook_secret": Secret(HOOK_SECRET),
            "timeout": timedelta(seconds=2),
            "on_rate": self._note,
        }
        return GiteaForge(**{**values, **changes})

    def _note(self, name: str, left: int) -> None:
        self.rates.append((name, left))

    def known(self, job: FakeJob) -> Job:
        """The job as a delivery left it: its key and its place."""
        home = self.server.repositories[job.repository_id].path
        return Job(f"gitea-{job.id}", "gitea", str(job.id), home, JobState.QUEUED, run_id=str(job.run_id))


def serve(clock: ManualClock, **changes: Any) -> Iterator[GiteaSide]:
    server = FakeGitea(clock.now, webhook_secret=HOOK_SECRET, **changes)
    server.start()
    try:
        yield GiteaSide(server, clock)
    finally:
        server.stop()


def order(scope: Scope = HOME, name: str = "sublet-brave-owl-12-1", **changes: object) -> RunnerOrder:
    values: dict[str, object] = {"name": name, "scope": scope, "labels": ("gpu", "Rubin"), "idle_limit": timedelta(minutes=3)}
    return RunnerOrder(**{**values, **changes})  # pyright: ignore[reportArgumentType]  a test's shorthand


def identity_of(minted: Minted) -> dict[str, Any]:
    return json.loads(minted.credential.files[".runner"].reveal())


def task(gitea: GiteaSide, minted: Minted, **changes: Any) -> FakeJob | None:
    """What the runner program on the machine gets when it asks."""
    identity = identity_of(minted)
    return gitea.server.request_task(identity["uuid"], identity["token"], **changes)


def record(gitea: GiteaSide, minted: Minted) -> FakeRunner:
    return gitea.server.runners[int(minted.runner_id)]


def changed(gitea: GiteaSide, path: str, change: Callable[[dict[str, Any]], None], *, job: FakeJob) -> None:
    """The next listing or job of this path is told otherwise than it is."""
    told = gitea.server.api.job(job)
    change(told)
    reply = Reply(200, {"jobs": [told], "total_count": 1} if path.endswith("/jobs") else told)
    gitea.server.loopback.faults.append(Fault("GET", path, reply=reply))
