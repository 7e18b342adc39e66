"""An orderly stop in the middle of anything: whatever the engine was waiting for, the next start goes on from there."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ParamSpec, TypeVar

from app.engine.loop import Engine
from app.kit.clock import Clock
from app.kit.threads import Lane
from app.store import leases
from app.store.db import Database
from app.wiring import Service
from tests.world import World

P = ParamSpec("P")
T = TypeVar("T")
LABELS = ["gpu", "rubin"]


class PausingLane(Lane):
    """Gives way before and after each call, so that a stop can come after an effect and before its record."""

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)
        result = function(*args, **kwargs)
        await asyncio.sleep(0)
        return result

    def close(self) -> None:
        return


class Stopped(World):
    """A world whose service is stopped again and again, at moments that a seed picks."""

    def _assemble(self, clock: Clock | None = None) -> Service:
        service = super()._assemble(clock)
        lane = PausingLane()
        deps = replace(service.deps, store=lane, lanes=dict.fromkeys(service.deps.lanes, lane))
        return replace(service, deps=deps, engine=Engine(deps))

    async def stop_after(self, pauses: int) -> None:
        """The engine begins to work, is told to stop after so many pauses, and the service starts anew."""
        task = asyncio.create_task(self.service.engine.beat())
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        leases.free_claims(self.database)
        await self.restart()


async def test_a_service_that_is_stopped_at_every_turn_serves_each_job_once(database: Database, tmp_path: Path) -> None:
    async with Stopped(database, tmp_path) as world:
        chance = random.Random(7)
        world.job_duration = timedelta(seconds=15)
        keys = [world.github.queue(LABELS) for _ in range(2)]
        stops = 0

        async def stop_sometimes() -> None:
            nonlocal stops
            world.clock.advance(timedelta(seconds=2))
            await world.deliver()
            await world.live()
            if chance.random() < 0.5:
                stops += 1
                await world.stop_after(chance.randrange(60))

        for _ in range(400):
            await stop_sometimes()
            await world.step(1)
            if all(world.github.conclusion(key) for key in keys) and world.all_released():
                break
        assert stops > 8
        assert {world.github.conclusion(key) for key in keys} == {"success"}
        assert len(world.cloud.machines) == len(world.leases()) == 2
        world.assert_clean()
