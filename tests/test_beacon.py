"""GitLab fails a job after an hour without an online matching runner; a pool that starts from zero meets that."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from app.core.model import JobState
from app.engine import beacon
from app.store.db import Database
from providers.fake_cloud import Trouble
from tests.world import World, pool_of


async def test_a_gitlab_job_outlives_the_hour_because_the_pools_beacon_is_lit(database: Database, tmp_path: Path) -> None:
    """No cloud has anything for two hours; the job waits, and then runs."""
    async with World(database, tmp_path, gitlab=True, pools=[pool_of(may_add=frozenset({"spot", "gpus:2"}))]) as world:
        assert world.gitlab is not None
        lab = world.gitlab.lab
        world.cloud.faults.script("offers", Trouble.BROKEN_OFF, until=world.clock.now() + timedelta(hours=2))
        key = world.gitlab.queue(["gpu", "rubin", "spot"])
        for _ in range(12):
            await world.run(timedelta(minutes=10), stride=300)
            await beacon.tend(world.service.deps)
            assert lab.drop_stuck_jobs() == []
        lit = [one for one in lab.runners.values() if one.description.startswith("sublet-beacon")]
        assert [sorted(one.tags) for one in lit] == [["gpu", "gpus:1", "gpus:2", "rubin", "spot"]]
        assert not lit[0].paused
        assert not lit[0].run_untagged
        assert world.job(key, "gitlab").state is JobState.QUEUED


async def test_a_beacon_that_nothing_asks_for_any_more_is_taken_off_the_forge(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, gitlab=True) as world:
        assert world.gitlab is not None
        world.gitlab.queue(["gpu", "rubin"])
        await world.run_until(world.all_released)
        await beacon.tend(world.service.deps)
        assert len(world.gitlab.lab.runners) == 1
        world.clock.advance(timedelta(days=8))
        await beacon.tend(world.service.deps)
        assert world.gitlab.lab.runners == {}


async def test_without_a_beacon_the_same_job_is_failed_by_gitlab(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, gitlab=True, pools=[pool_of(beacon=False)]) as world:
        assert world.gitlab is not None
        world.cloud.faults.script("offers", Trouble.BROKEN_OFF, until=world.clock.now() + timedelta(hours=2))
        world.gitlab.queue(["gpu", "rubin"])
        for _ in range(8):
            await world.run(timedelta(minutes=10), stride=300)
            await beacon.tend(world.service.deps)
        assert len(world.gitlab.lab.drop_stuck_jobs()) == 1


async def test_a_beacon_whose_key_is_lost_gives_way_to_another(database: Database, tmp_path: Path) -> None:
    """So it is after a restore without the key file."""
    async with World(database, tmp_path, gitlab=True) as world:
        assert world.gitlab is not None
        world.gitlab.queue(["gpu", "rubin"])
        await world.run_until(world.all_released)
        await beacon.tend(world.service.deps)
        (old,) = world.gitlab.lab.runners
        (tmp_path / "vault.keys").unlink()
        await world.restart()
        world.clock.advance(timedelta(hours=1))
        await beacon.tend(world.service.deps)
        await beacon.tend(world.service.deps)
        (new,) = world.gitlab.lab.runners
        assert new != old
