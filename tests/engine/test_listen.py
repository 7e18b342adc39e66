"""Webhooks are hints: whichever is lost, doubled, late or out of order, every job runs and every lease ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from app.core.model import Job, JobState, Reason, RepositoryRule
from app.core.states import State
from app.demo.deliveries import Receipt
from app.engine import listen
from app.engine.step import Timing
from app.forges.contract import ForgeDown, ForgeRefused, HeldBack, Missed, Pace
from app.store import polls
from app.store.db import Database
from tests.forge_sides import Delivery
from tests.world import NOON, World

LABELS = ["gpu", "rubin"]
TRAIN = (RepositoryRule("acme/train"),)
BRISK = Timing(poll=timedelta(seconds=30), redeliver=timedelta(seconds=20), unheard=timedelta(minutes=2))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough for these stories; where its words matter, tests/store tells them on both."""
    return sqlite_url


def none(_: list[Delivery]) -> list[Delivery]:
    return []


def without(*actions: str) -> Callable[[list[Delivery]], list[Delivery]]:
    """Every delivery but those of these actions."""
    words = [f'"action":"{action}"'.encode() for action in actions]
    return lambda sent: [one for one in sent if not any(word in one[1].replace(b": ", b":")[:200] for word in words)]


def no_jobs(_: str, _installation: str = "") -> Sequence[Job]:
    return []


def fails(world: World, sent: list[Delivery]) -> list[Delivery]:
    """None arrives, and GitHub knows it."""
    outbox = world.github.state.outbox
    guids = {headers["X-GitHub-Delivery"] for headers, _ in sent}
    for one in outbox.log():
        if one.guid in guids and one.status_code == 202:
            outbox.record(one, Receipt(502, "failed to connect to host"), world.clock.now())
    return []


@pytest.mark.parametrize("forge", ["github", "gitlab"])
async def test_every_webhook_is_lost_and_every_job_still_runs(database: Database, tmp_path: Path, forge: str) -> None:
    async with World(database, tmp_path, repositories=TRAIN, gitlab=forge == "gitlab", timing=BRISK) as world:
        world.intercept = none
        side = world.sides[forge]
        keys = [side.queue(LABELS, "acme/train") for _ in range(3)]
        await world.run_until(lambda: all(side.conclusion(key) for key in keys) and world.all_released(), stride=4)
        await world.run_until(lambda: all(world.job(key, forge).state is JobState.COMPLETED for key in keys), stride=8)
        assert {world.job(key, forge).heard_by for key in keys} == {"poll"}
        assert len(world.leases()) == 3
        world.assert_clean()


@pytest.mark.parametrize("lost", ["queued", "in_progress", "completed"])
async def test_one_kind_of_webhook_is_lost_and_the_job_ends_right(database: Database, tmp_path: Path, lost: str) -> None:
    async with World(database, tmp_path, repositories=TRAIN, timing=BRISK) as world:
        world.intercept = without(lost)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released(), stride=4)
        await world.run_until(lambda: world.job(key).state is JobState.COMPLETED, stride=8)
        assert (world.job(key).conclusion, world.lease().reason) == ("success", Reason.JOB_DONE)
        assert len(world.leases()) == 1
        world.assert_clean()


@pytest.mark.parametrize("seed", range(2))
async def test_doubled_late_and_reordered_webhooks_change_nothing(database: Database, tmp_path: Path, seed: int) -> None:
    async with World(database, tmp_path, timing=BRISK) as world:
        chance, held = random.Random(seed), list[Delivery]()

        def chaos(sent: list[Delivery]) -> list[Delivery]:
            held.extend(sent * chance.randint(1, 3))
            chance.shuffle(held)
            now, held[:] = held[: len(held) // 2], held[len(held) // 2 :]
            return now

        world.intercept = chaos
        keys = [world.github.queue(LABELS) for _ in range(3)]
        await world.run_until(lambda: all(world.github.conclusion(key) for key in keys) and world.all_released(), stride=4)
        assert len(world.leases()) == 3
        world.assert_clean()


async def test_a_job_cancelled_without_a_word_gives_its_machine_back(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, timing=BRISK) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        world.intercept = none
        world.github.cancel(key)
        await world.run_until(world.all_released, within=timedelta(minutes=10), stride=8)
        assert (world.job(key).state, world.job(key).conclusion) == (JobState.COMPLETED, "cancelled")
        world.assert_clean()


async def test_a_job_that_the_forge_no_longer_has_is_no_demand(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, timing=BRISK) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        world.intercept = none
        del world.github.state.book.jobs[int(key)]
        await world.run_until(world.all_released, within=timedelta(minutes=10), stride=8)
        assert (world.job(key).state, world.job(key).conclusion) == (JobState.COMPLETED, "gone")
        world.assert_clean()


async def test_a_running_job_is_not_believed_to_be_gone_on_one_answer(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, timing=BRISK) as world:
        world.job_duration = timedelta(minutes=10)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.job(key).state is JobState.IN_PROGRESS)
        asked: list[str] = []

        def gone(job: Job) -> Job | None:
            asked.append(job.key)
            return None

        monkeypatch.setattr(world.github.forge, "fetch_job", gone)
        monkeypatch.setattr(world.github.forge, "open_jobs", no_jobs)
        await world.run_until(lambda: len(asked) == 1, stride=15)
        await world.run(timedelta(seconds=10))
        assert world.job(key).state is JobState.IN_PROGRESS
        assert "asked once more" in world.job(key).wait
        await world.run_until(lambda: len(asked) == 2, stride=15)
        assert world.job(key).conclusion == "gone"


async def test_a_webhook_that_failed_is_sent_again_and_the_job_runs(database: Database, tmp_path: Path) -> None:
    quick = Timing(poll=timedelta(hours=9), redeliver=timedelta(seconds=20))
    async with World(database, tmp_path, timing=quick) as world:
        await world.step()
        world.intercept = lambda sent: fails(world, sent)
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=10))
        world.intercept = list
        await world.run_until(
            lambda: bool(world.github.conclusion(key)) and world.all_released(), within=timedelta(minutes=9), stride=4
        )
        assert world.job(key).heard_by == "webhook"
        said = {one.name: one.said for one in polls.rounds(database)}
        assert said["redeliver github"] == "Every delivery arrived."
        world.assert_clean()


async def test_after_a_downtime_everything_since_is_asked_for(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, timing=Timing(poll=timedelta(days=9), redeliver=timedelta(seconds=20))) as world:
        await world.step()
        world.intercept = lambda sent: fails(world, sent)
        key = world.github.queue(LABELS)
        await world.deliver()
        world.clock.advance(timedelta(hours=9))  # nobody is there
        world.intercept = list
        await world.restart()
        await world.run_until(lambda: bool(world.github.conclusion(key)), within=timedelta(minutes=9), stride=4)


def lost(world: World, monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """GitHub says that so many deliveries never came, and takes requests for more that never come either."""
    sent = [Missed(f"/app/hook/deliveries/{number}", f"guid-{number:03d}", NOON) for number in range(count)]
    asked: list[str] = []

    def missed(_: datetime) -> Sequence[Missed]:
        return sent

    def redeliver(one: Missed) -> None:
        asked.append(one.guid)

    monkeypatch.setattr(world.github.forge, "missed", missed)
    monkeypatch.setattr(world.github.forge, "redeliver", redeliver)
    return asked


async def test_redeliveries_are_few_in_a_round_and_few_for_one_delivery(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        asked = lost(world, monkeypatch, 30)
        assert await listen.redeliver(world.service.deps) == listen.RESENT
        assert await listen.redeliver(world.service.deps) == 0, "not before its time"
        for _ in range(60):
            world.clock.advance(timedelta(minutes=6))
            await listen.redeliver(world.service.deps)
        assert {asked.count(guid) for guid in set(asked)} == {polls.TRIES}
        assert len(set(asked)) == 30


async def test_two_engines_search_in_turns_and_a_started_one_at_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        rounds: list[datetime] = []

        def missed(since: datetime) -> Sequence[Missed]:
            rounds.append(since)
            return []

        monkeypatch.setattr(world.github.forge, "missed", missed)
        first, second = world.service.deps, world.another(world.clock).deps
        for deps in (first, second, first, second):
            await listen.redeliver(deps)
        assert len(rounds) == 1
        world.clock.advance(timedelta(minutes=2))
        for deps in (second, first):
            await listen.redeliver(deps)
        assert len(rounds) == 2
        world.clock.advance(timedelta(seconds=1))
        await world.restart()
        await listen.redeliver(world.service.deps)
        assert len(rounds) == 3


async def test_polls_slow_down_and_stop_with_the_forges_quota(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, repositories=TRAIN) as world:
        asked: list[str] = []

        def open_jobs(name: str, _: str = "") -> Sequence[Job]:
            asked.append(name)
            return []

        monkeypatch.setattr(world.github.forge, "open_jobs", open_jobs)
        for pace, rounds in ((Pace.FREE, 12), (Pace.SLOW, 4), (Pace.STOP, 0)):
            asked.clear()
            monkeypatch.setattr(world.github.forge, "pace", lambda pace=pace: pace)  # pyright: ignore[reportUnknownLambdaType]
            for _ in range(60):
                world.clock.advance(timedelta(minutes=1))
                await listen.poll(world.service.deps)
            assert abs(len(asked) - rounds) <= 1, pace


async def test_one_bad_repository_hides_no_other(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is refused, one never gives a clear answer: both are tried again, and the third is listed every time."""
    rules = tuple(RepositoryRule(f"acme/{name}") for name in ("bad", "good", "shut"))
    async with World(database, tmp_path, repositories=rules) as world:
        asked: list[str] = []

        def open_jobs(name: str, _: str = "") -> Sequence[Job]:
            asked.append(name)
            if name == "acme/shut":
                raise ForgeRefused("403 Forbidden.")
            if name == "acme/bad":
                raise ForgeDown("It changed while it was listed.")
            return []

        monkeypatch.setattr(world.github.forge, "open_jobs", open_jobs)
        for _ in range(6):
            await listen.poll(world.service.deps)
            world.clock.advance(timedelta(minutes=5))
        assert {name: asked.count(f"acme/{name}") for name in ("bad", "good", "shut")} == {"bad": 6, "good": 6, "shut": 1}


async def test_a_round_that_is_held_back_goes_on_where_it_was(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tuple(RepositoryRule(f"acme/{name}") for name in "abcd")
    async with World(database, tmp_path, repositories=rules) as world:
        asked, left = list[str](), 2

        def open_jobs(name: str, _: str = "") -> Sequence[Job]:
            nonlocal left
            if not left:
                raise HeldBack("The rest is kept.")
            left -= 1
            asked.append(name)
            return []

        monkeypatch.setattr(world.github.forge, "open_jobs", open_jobs)
        await listen.poll(world.service.deps)
        world.clock.advance(timedelta(minutes=5))
        left = 2
        await listen.poll(world.service.deps)
        assert sorted(asked) == ["acme/a", "acme/b", "acme/c", "acme/d"]


async def test_calls_of_a_poll_depend_on_repositories_and_not_on_leases(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, timing=BRISK) as world:
        for _ in range(6):
            world.github.queue(LABELS)
        await world.run_until(lambda: len(world.living()) == 3)
        asked: list[str] = []
        real = world.github.forge.open_jobs

        def open_jobs(name: str, installation: str = "") -> Sequence[Job]:
            asked.append(name)
            return real(name, installation)

        monkeypatch.setattr(world.github.forge, "open_jobs", open_jobs)

        def fetch_job(job: Job) -> Job | None:
            asked.append(job.key)
            return job

        monkeypatch.setattr(world.github.forge, "fetch_job", fetch_job)
        world.clock.advance(timedelta(minutes=1))
        await listen.poll(world.service.deps)
        assert asked == ["acme/train"]


async def test_a_runner_that_dies_before_its_job_leaves_the_job_to_the_next(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, timing=BRISK) as world:
        world.intercept = without("in_progress", "completed")
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.REGISTERING, stride=0.5)
        for machine in world.living():
            world.cloud.stop(machine.id)
        await world.run_until(
            lambda: bool(world.github.conclusion(key)) and world.all_released(), within=timedelta(hours=1), stride=4
        )
        assert len(world.leases()) == 2
        world.assert_clean()
