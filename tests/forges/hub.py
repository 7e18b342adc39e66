"""The demo forge on loopback with our GitHub side of it, for stories of runs, queues and deliveries."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from app.core.model import Job, JobState
from app.demo import forge as demo
from app.demo.deliveries import Receipt
from app.demo.keys import Keys, fresh
from app.demo.nouns import JobSpec, Run
from app.demo.office import Office
from app.demo.work import Order
from app.forges.github import GitHubForge
from app.kit.clock import SystemClock
from providers.contract import Secret
from tests.demo.conftest import StillClock
from tests.fakes.served import served

SHA = "c0ffee" + "0" * 34
_KEYS: list[Keys] = []


class HubClock(StillClock):
    """Stands still at the machine's own time, because PyGithub signs by that."""

    def __init__(self) -> None:
        super().__init__()
        self._now = SystemClock().now()


class Hub:
    """A demo forge with acme/train, and a GitHubForge that speaks to it. Every request is counted by verb and path."""

    def __init__(self, origin: str, state: demo.ForgeState, office: Office, keys: Keys, clock: HubClock) -> None:
        self.state, self.office, self.keys, self.clock = state, office, keys, clock
        self.calls: list[tuple[str, str, int]] = []
        self.url = f"{origin}/api/v3"
        self.left: list[int] = []
        state.repository("acme/train", clock.now())

    def forge(self, **changes: Any) -> GitHubForge:
        values: dict[str, Any] = {
            "webhook_secret": Secret(self.keys.webhook_secret),
            "now": self.clock.now,
            "api_url": self.url,
            "app_id": str(self.state.book.app_id),
            "private_key": Secret(self.keys.app_pem),
            "on_rate": self.note,
        }
        return GitHubForge(**{**values, **changes})

    def note(self, _: str, left: int) -> None:
        self.left.append(left)

    def start(self, *labels: str, jobs: int = 1, repository: str = "acme/train", approval: bool = False, **more: Any) -> Run:
        """A run of so many jobs."""
        specs = [JobSpec(f"job-{place}", f"job-{place}", list(labels or ("gpu",)), "", approval) for place in range(jobs)]
        return self.state.start(Order(repository, SHA, specs, **more), self.clock.now())

    def jobs(self, run: Run) -> list[int]:
        return [job.id for job in self.state.book.jobs.values() if job.run_id == run.id]

    def job(self, run: Run) -> Job:
        """The run's first job, as a delivery would have told it."""
        key = str(self.jobs(run)[0])
        return Job(f"github-{key}", "github", key, run.repository, JobState.QUEUED, run_id=str(run.id))

    def deliver(self, *, arrives: bool = True) -> list[str]:
        """Every delivery that is due is tried once; their GUIDs."""
        tried = self.state.outbox.due(self.clock.now())
        for one in tried:
            receipt = Receipt(202) if arrives else Receipt(502, "failed to connect to host")
            self.state.outbox.record(one, receipt, self.clock.now())
        return [one.guid for one in tried]

    def asked(self, piece: str, verb: str = "GET") -> int:
        """How many requests of this kind were answered with something new."""
        return len([1 for one, path, status in self.calls if one == verb and piece in path and status != 304])


@contextmanager
def a_hub() -> Generator[Hub]:
    if not _KEYS:
        _KEYS.append(fresh())
    clock, state = HubClock(), demo.forge_state()
    app = demo.build(state, _KEYS[0], clock=clock)
    calls: list[tuple[str, str, int]] = []

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                calls.append((scope["method"], scope["path"].removeprefix("/api/v3"), message["status"]))
            await send(message)

        await app(scope, receive, noted if scope["type"] == "http" else send)

    with served(counted) as origin:
        state.book.origin = origin
        hub = Hub(origin, state, app.state.office, _KEYS[0], clock)
        hub.calls = calls
        state.hook(f"{origin}/hooks/github", clock.now())
        hub.deliver()  # the ping
        yield hub
