"""What must not hold up a lease or a job: another forge's jobs, old settings, an outage of ours, a person's word half heard."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.model import Job, JobState, Reason, RepositoryRule
from app.core.states import State
from app.engine import enlist
from app.engine.loop import Engine
from app.engine.step import Timing
from app.forges.contract import ForgeDown, RunnerBusy
from app.kit.clock import SystemClock
from app.store import jobs, leases
from app.store.db import Database
from providers.fake import FakeSettings
from providers.fake_cloud import Trouble
from tests.world import NOON, World, pool_of

LABELS = ["gpu", "rubin"]


async def test_two_hundred_jobs_of_a_forge_that_tells_no_labels_hold_up_no_other_forge(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path) as world:
        crowd = [
            Job(f"gitlab-{number}", "gitlab", str(number), "acme/train", JobState.WAITING) for number in range(enlist.GROUP + 1)
        ]
        jobs.record(database, [jobs.Record("gitlab", "", "Job Hook", "created", one) for one in crowd], NOON)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)), within=timedelta(minutes=5))


async def test_a_forge_that_is_down_is_asked_once_a_round(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, gitlab=True) as world:
        assert world.gitlab is not None
        asked: list[str] = []

        def down(job: Job) -> Job | None:
            asked.append(job.key)
            raise ForgeDown("not now")

        monkeypatch.setattr(world.gitlab.forge, "fetch_job", down)
        for _ in range(3):
            world.gitlab.queue(LABELS)
        await world.deliver()
        await enlist.learn(world.service.deps)
        assert len(asked) == 1


async def test_new_settings_are_asked_again_about_every_job_that_waits(database: Database, tmp_path: Path) -> None:
    """Its pool is gone, its repository is not allowed any more, or its forge: none of them may spend money."""
    async with World(database, tmp_path, clouds={"cloud": FakeSettings(gpu="h100")}) as world:
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=10))
        deps = world.service.deps
        assert enlist.reconsider(deps) == 0
        for other, told in (
            (replace(deps, pools={"new": pool_of(name="new")}), ""),
            (replace(deps, repositories=(RepositoryRule("else/*"),)), "not in the allow list"),
            (replace(deps, forges={}), "The forge github is not in the settings."),
        ):
            assert enlist.reconsider(other) == 1
            await enlist.enlist(other)
            job = world.job(key)
            assert (job.pool, told in job.not_ours) == ("new" if not told else None, True)


async def test_a_drain_while_the_runner_registers_makes_no_runner(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:

        def down(*_: object) -> None:
            raise ForgeDown("It does not answer.")

        monkeypatch.setattr(world.github.forge, "mint_runner", down)
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.REGISTERING, stride=0.5)
        first = world.lease()
        monkeypatch.undo()
        leases.ask(database, first.id, "drain", Reason.OPERATOR, "Enough.", "person", world.clock.now())
        await world.service.engine.beat()
        ended = next(one for one in world.leases() if one.id == first.id)
        assert (ended.reason, ended.mint_try) == (Reason.OPERATOR, first.mint_try)
        assert world.github.registered() == []


async def test_a_destroy_is_heard_while_the_forge_keeps_the_runner(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.IDLE, stride=0.5)
        lease = world.lease()

        def busy(*_: object) -> None:
            raise RunnerBusy("It has a job.")

        monkeypatch.setattr(world.github.forge, "remove_runner", busy)
        held = leases.claim(database, "test", world.clock.now() + timedelta(hours=1), 1, timedelta(minutes=1))[0]
        now = world.clock.now()
        assert leases.move(
            database,
            held,
            State.DRAINING,
            reason=Reason.IDLE_TIMEOUT,
            text="",
            values={},
            now=now,
            deadline=now + timedelta(minutes=5),
            due=now,
        )
        leases.ask(database, lease.id, "destroy", Reason.OPERATOR, "Now.", "person", world.clock.now())
        await world.service.engine.beat()
        assert world.leases()[0].state in (State.DESTROYING, State.RELEASED)


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_job_that_began_while_the_service_was_away_keeps_its_machine(
    database: Database, tmp_path: Path, restarts: bool
) -> None:
    """Ten minutes away: the idle limit is long past, the node was not heard, and no delivery came. Or it stood still for a
    while, and its next poll is yet to come."""
    async with World(database, tmp_path) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        await world.live()
        for host in world.hosts.values():
            host.takes_jobs = False
        await world.run_until(lambda: world.lease().state is State.IDLE)
        host = next(iter(world.hosts.values()))
        host.program = world.github.program(host.node.credential or {})
        host.work = host.program.take(world.clock.now())
        assert host.work is not None
        world.github.deliveries()  # lost
        world.clock.advance(timedelta(minutes=10 if restarts else 4))
        if restarts:
            await world.restart()
        await world.service.engine.beat()
        assert world.lease().state is State.BUSY
        host.takes_jobs, host.until = True, world.clock.now() + timedelta(seconds=30)
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert len(world.leases()) == 1
        world.assert_clean()


async def test_an_engine_whose_hands_are_full_sleeps(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, clouds={"cloud": FakeSettings(gpu="h100")}) as world:
        for _ in range(2):
            world.github.queue(LABELS)
        await world.run(timedelta(seconds=10))
        beats = 0

        async def sow() -> None:
            nonlocal beats
            beats += 1

        async def look(_lease: object) -> None:
            await asyncio.Event().wait()

        engine = Engine(replace(world.service.deps, clock=SystemClock(), timing=Timing(width=1)))
        monkeypatch.setattr(engine, "sow", sow)
        monkeypatch.setattr(engine, "look", look)
        running = asyncio.create_task(engine.run())
        await asyncio.sleep(0.3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert beats < 10


async def test_a_slow_list_that_shows_a_late_machine_does_not_bill_it_from_before_it_was(
    database: Database, tmp_path: Path
) -> None:
    """The look began before the machine did. Seed 6992 of the simulation."""
    async with World(database, tmp_path) as world:
        world.cloud.faults.script("create", Trouble.LATE, wait=timedelta(seconds=8))
        world.cloud.faults.script("owned", Trouble.STALLED, times=None, wait=timedelta(seconds=12))
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.leases()[0].billed_from is not None)
        (machine,) = world.cloud.machines.values()
        assert world.leases()[0].billed_from == machine.created_at
        world.cloud.faults.clear()
        await world.run_until(world.all_released)
        world.assert_clean()
