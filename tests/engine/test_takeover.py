"""Two engines on one database: one that was paused, or whose host has a wrong clock, or that ends, harms nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.core.model import Job, JobState
from app.core.states import State
from app.engine import enlist, listen
from app.engine.loop import Chore, Engine
from app.engine.step import Deps
from app.kit.clock import SteadyClock
from app.kit.threads import InlineLane, P, R
from app.store import jobs, leases
from app.store.db import Database
from tests.parts.postgres import plain
from tests.world import ManualClock, World


class Counting(InlineLane):
    """Counts how often leases are claimed."""

    claims = 0

    async def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.claims += getattr(function, "__name__", "") == "claim"
        return await super().__call__(function, *args, **kwargs)


class WallClock(ManualClock):
    """A machine's own clock, which somebody sets while it runs."""

    def __init__(self, true: ManualClock) -> None:
        super().__init__()
        self._true, self.wrong = true, timedelta(0)

    def now(self) -> datetime:
        return self._true.now() + self.wrong


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    database = Database(postgresql_url)
    yield database
    database.close()


def busy(world: World) -> bool:
    return bool(world.leases()) and world.lease().state is State.BUSY


async def until(reached: Callable[[], object]) -> None:
    """Let the other tasks work until then."""
    while not reached():  # noqa: ASYNC110  what is waited for is in the database
        await asyncio.sleep(0)


async def plan(world: World, engine: Engine) -> None:
    """Everything up to a planned lease, which nobody has claimed yet."""
    await world.deliver()
    await engine.sow()
    await enlist.learn(engine.deps)
    await engine.sow()
    assert len(world.leases()) == 1, world.picture()


async def test_what_a_paused_engine_does_too_late_changes_nothing(postgresql: Database, tmp_path: Path) -> None:
    """It was paused for longer than its claim lasts, and another took over meanwhile."""
    async with World(postgresql, tmp_path) as world:
        paused, other = world.service.engine, world.another(world.clock).engine
        world.github.queue(["gpu", "rubin"], "acme/train")
        await plan(world, paused)
        hold = paused.deps.timing.hold
        held = leases.claim(postgresql, paused.name, world.clock.now(), 10, hold)
        assert await other.beat() == 0, "a claim that holds is respected"
        world.clock.advance(hold + timedelta(seconds=1))
        await other.beat()
        before = world.lease()
        assert before.state is State.BOOTING and len(held) == 1
        await paused.look(held[0])
        assert world.lease() == before
        assert len(world.living()) == 1
        await world.run_until(world.all_released)
        world.assert_clean()


async def test_a_host_with_a_wrong_clock_takes_nothing_and_ends_nothing(postgresql: Database, tmp_path: Path) -> None:
    """An engine goes by the database's time. By the clock of its host, 12 hours ahead, it would end the job."""
    async with World(postgresql, tmp_path) as world:
        world.job_duration = timedelta(minutes=10)
        shared, wall = SteadyClock(world.clock.now, world.clock.monotonic), WallClock(world.clock)
        wall.wrong = timedelta(hours=12)
        by_the_shared_time, by_the_wall = world.another(shared).engine, world.another(wall).engine
        world.github.queue(["gpu", "rubin"], "acme/train")
        await world.run_until(lambda: busy(world))
        for _ in range(5):
            await world.step(20)
            await by_the_shared_time.beat()
            shared.sync()
        assert busy(world) and len(world.leases()) == 1
        await by_the_wall.beat()
        assert not busy(world)


async def test_a_clock_that_is_set_under_sqlite_ends_nothing(sqlite_url: str, tmp_path: Path) -> None:
    """One process, and no other's time to go by: it measures lengths of time by itself, and follows no jump."""
    database = Database(sqlite_url)
    async with World(database, tmp_path) as world:
        world.job_duration = timedelta(minutes=5)
        wall = WallClock(world.clock)
        clock = SteadyClock(wall.now, world.clock.monotonic, steps=False)
        await world.restart(clock)
        world.github.queue(["gpu", "rubin"], "acme/train")
        await world.run_until(lambda: busy(world))
        for hours in (2, -2, 2):
            wall.wrong = timedelta(hours=hours)
            await world.step(20)
            clock.sync()
        assert busy(world)
        await world.run_until(world.all_released, stride=10)
        world.assert_clean()
        assert world.lease().job_conclusion == "success"
    database.close()


async def test_a_lease_that_somebody_s_open_transaction_holds_is_not_run_after(
    postgresql: Database, postgresql_url: str, tmp_path: Path
) -> None:
    """It is due and cannot be claimed until the database ends that transaction: the loop must not spin meanwhile."""
    async with World(postgresql, tmp_path) as world:
        counted = Counting()
        engine = Engine(replace(world.service.deps, store=counted), chores=())
        world.github.queue(["gpu", "rubin"], "acme/train")
        await plan(world, engine)
        counted.claims = 0
        with psycopg.connect(plain(postgresql_url)) as other:
            other.execute("SELECT id FROM lease FOR UPDATE")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await engine.run()
        assert 1 <= counted.claims <= 10


async def test_a_delivery_that_is_committed_in_the_middle_of_planning_rents_no_second_machine(
    postgresql: Database, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning reads jobs and leases one after the other, and a web may write between: the job that a machine has just taken
    must not be seen as waiting beside a machine that is seen as having its job."""
    other = Database(postgresql_url)
    async with World(postgresql, tmp_path) as world:
        key = world.github.queue(["gpu", "rubin"], "acme/train")
        await world.deliver()
        world.intercept = lambda _: []  # the forge is slow to say that the job began; the node said so
        await world.run_until(lambda: busy(world))
        job, lease = world.job(key), world.lease()
        assert job.state is JobState.QUEUED and not lease.job_id
        begun = replace(job, state=JobState.IN_PROGRESS, runner_name=lease.runner_name, started_at=world.clock.now())
        waiting = jobs.waiting

        def interrupted(conn: Any) -> list[Job]:
            found = waiting(conn)
            jobs.record(other, [jobs.Record("github", "late", "workflow_job", "in_progress", begun)], world.clock.now())
            return found

        monkeypatch.setattr(leases.jobs, "waiting", interrupted)
        await world.service.engine.sow()
        assert len(world.leases()) == 1, world.picture()
    other.close()


@pytest.mark.parametrize("hangs", [False, True])
async def test_after_a_start_the_forge_is_asked_before_anything_is_rented(
    database: Database, tmp_path: Path, hangs: bool
) -> None:
    """The job was cancelled while nobody listened. A forge that hangs is not waited for, though: others want machines."""
    async with World(database, tmp_path) as world:
        key = world.github.queue(["gpu", "rubin"], "acme/train")
        await world.deliver()
        world.intercept = lambda _: []
        world.github.cancel(key)
        answers, never = asyncio.Event(), asyncio.Event()
        rounds = [answers, never]

        async def poll(deps: Deps) -> int:
            await rounds.pop(0).wait()
            return await listen.poll(deps)

        world.clock.advance(timedelta(minutes=2))
        timing = replace(world.service.deps.timing, settle=timedelta(0) if hangs else timedelta(seconds=10))
        deps = replace(world.service.deps, timing=timing, since=world.clock.now())
        engine = Engine(deps, chores=(Chore("poll", lambda _: timedelta(seconds=15), poll, shared=False, first=True),))
        running = asyncio.create_task(engine.run())
        async with asyncio.timeout(20):
            await until(lambda: engine.last_beat and (world.leases() if hangs else world.job(key).pool))
            assert bool(world.leases()) is hangs
            answers.set()
            await until(lambda: world.job(key).state is JobState.COMPLETED and not engine.settling)
        await engine.sow()
        assert bool(world.leases()) is hangs
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_engine_that_ends_in_order_leaves_nothing_held(postgresql: Database, tmp_path: Path) -> None:
    async with World(postgresql, tmp_path) as world:
        leaving, other = world.service.engine, world.another(world.clock).engine
        world.github.queue(["gpu", "rubin"], "acme/train")
        await plan(world, leaving)
        leases.claim(postgresql, leaving.name, world.clock.now(), 10, leaving.deps.timing.hold)
        assert await other.beat() == 0
        await leaving.stop()
        assert await other.beat() >= 1, "the other goes on at once"
        await world.run_until(world.all_released)
        world.assert_clean()
