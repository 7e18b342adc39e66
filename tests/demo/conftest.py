"""What the stories of the demo forge share: a forge in memory on a still clock, and one as a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.demo import launch
from app.demo.forge import build, forge_state
from app.demo.keys import Keys, fresh
from app.demo.nouns import JobSpec, Run
from app.demo.state import ForgeState
from app.demo.work import Order
from tests.demo.callers import Caller

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ORIGIN = "http://127.0.0.1:40123"
SHA = "c0ffee" + "0" * 34


class StillClock:
    """Time moves when a test says so."""

    def __init__(self) -> None:
        self._now = NOON

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - NOON).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def keys() -> Keys:
    return fresh()


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def state(clock: StillClock) -> ForgeState:
    """A forge with the repository acme/train, the enterprise acme-inc, and a webhook whose deliveries are collected."""
    made = forge_state(ORIGIN)
    made.repository("acme/train", clock.now())
    made.hook("http://127.0.0.1:9/hooks/github", clock.now())
    made.outbox.collect(clock.now(), "nobody")  # the ping
    return made


@pytest.fixture
async def caller(state: ForgeState, keys: Keys, clock: StillClock, tmp_path: Path) -> AsyncIterator[Caller]:
    """A client that can be anybody; every answer is held against GitHub's description."""
    app = build(state, keys, clock=clock, access_clock=clock, folder=tmp_path / "forge")
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Caller(client, keys, clock, app.state.office)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[launch.Running]:
    """A forge as a process of its own, for all stories of one file. It is ended with them."""
    data = tmp_path_factory.mktemp("forge")
    yield launch.ensure(data, "--idle-minutes", "5")
    launch.stop(data)


def queue(state: ForgeState, *labels: str, now: datetime = NOON, repository: str = "acme/train", **more: Any) -> Run:
    """One run of one job."""
    return state.start(Order(repository, SHA, [JobSpec("eval", "eval", list(labels or ("gpu", "rubin")))], **more), now)


def only_job(state: ForgeState, run: Run) -> int:
    """The id of a run's one job."""
    return next(job.id for job in state.book.jobs.values() if job.run_id == run.id)
