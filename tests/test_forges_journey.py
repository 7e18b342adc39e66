"""The same stories on all four forges: by webhooks only, by polling only, and by both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.model import JobState, Reason, RepositoryRule, ScopeKind
from app.core.states import State
from app.store.db import Database
from providers.fake import FakeSettings
from tests.world import POLL_SECONDS, World, pool_of

LABELS = ["gpu", "rubin"]
STEP = 2.0

FORGES = pytest.mark.parametrize("forge", ["github", "gitlab", "gitea", "forgejo"])
INTAKES = pytest.mark.parametrize("intake", ["webhook", "poll", "both"])
EITHER = pytest.mark.parametrize("intake", ["webhook", "poll"])
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, unless the story is told on both."""
    return request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")


def at(world: World, *states: State) -> Callable[[], bool]:
    return lambda: bool(world.leases()) and world.lease().state in states


def over(world: World, forge: str, *keys: str) -> Callable[[], bool]:
    """The forge and we agree that the jobs have ended, and nothing is rented any more."""

    def all_over() -> bool:
        if not all(world.sides[forge].conclusion(key) for key in keys) or not world.all_released():
            return False
        return all(world.job(key, forge).state is JobState.COMPLETED for key in keys)

    return all_over


@INTAKES
@FORGES
async def test_from_queue_to_bill(database: Database, tmp_path: Path, forge: str, intake: str) -> None:
    """Of a repository that nobody heard of before, and that only a pattern names."""
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}) as world:
        key, queued = world.sides[forge].queue(LABELS, "acme/train"), world.clock.now()
        await world.run_until(lambda: bool(world.leases()), stride=STEP)
        await world.run_until(over(world, forge, key))
        lease, job = world.lease(), world.job(key, forge)
        assert world.states(lease) == list(State)
        assert (lease.reason, lease.job_conclusion, lease.job_id) == (Reason.JOB_DONE, "success", job.id)
        assert (job.lease_id, job.labels) == (lease.id, tuple(LABELS))
        delay = POLL_SECONDS if intake == "poll" else 0
        assert lease.created_at - queued <= timedelta(seconds=delay + STEP)
        assert (job.heard_by == "poll") if intake == "poll" else (set(world.answers) == {202})
        world.assert_clean()


@BOTH
@pytest.mark.parametrize("forge", ["gitea", "forgejo"])
async def test_a_job_of_an_organisation_that_is_only_polled_with_a_restart_in_every_state(
    database: Database, tmp_path: Path, forge: str
) -> None:
    pool = pool_of(scope=ScopeKind.ORGANIZATION)
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}, pools=[pool]) as world:
        key = world.sides[forge].queue(LABELS, "acme/train")
        await restarting(world, over(world, forge, key))
        assert str(world.lease().key.scope) == "organization:acme"
        assert world.sides[forge].conclusion(key) == "success"
        assert (len(world.leases()), len(world.cloud.machines)) == (1, 1)
        world.assert_clean()


@FORGES
async def test_a_service_that_is_killed_in_every_state_rents_one_machine(
    database: Database, tmp_path: Path, forge: str
) -> None:
    async with World(database, tmp_path, forges=[forge]) as world:
        key = world.sides[forge].queue(LABELS)
        await restarting(world, over(world, forge, key))
        assert world.sides[forge].conclusion(key) == "success"
        assert (len(world.leases()), len(world.cloud.machines)) == (1, 1)
        assert world.lease().job_id == f"{forge}-{key}"
        world.assert_clean()


async def restarting(world: World, there: Callable[[], bool]) -> None:
    """Runs until then; the service is killed and starts again as soon as it has brought its lease to a new state."""
    seen: set[State] = set()
    for _ in range(600):
        await world.step(STEP)
        if there():
            break
        now = {lease.state for lease in world.leases()}
        if now - seen:
            seen |= now
            await world.restart()
    assert there(), world.picture()
    assert seen >= {State.BOOTING, State.PROVING, State.REGISTERING, State.IDLE, State.BUSY}, seen


@EITHER
@FORGES
async def test_a_job_cancelled_before_its_start_gives_its_machine_back(
    database: Database, tmp_path: Path, forge: str, intake: str
) -> None:
    slow = {"cloud": FakeSettings(boot=timedelta(minutes=3))}  # as real ones are
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}, clouds=slow) as world:
        key = world.sides[forge].queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        world.sides[forge].cancel(key)
        await world.run_until(world.all_released, within=timedelta(minutes=2), stride=4)
        assert world.lease().reason is Reason.JOB_GONE
        assert world.job(key, forge).conclusion == "cancelled"
        await world.run(timedelta(minutes=2), stride=15)
        assert len(world.leases()) == 1
        world.assert_clean()


@EITHER
@FORGES
async def test_a_job_that_another_runner_takes_leaves_nothing_behind(
    database: Database, tmp_path: Path, forge: str, intake: str
) -> None:
    """Once while the machine boots, when it goes at once; and once when its runner is registered: then after its idle limit,
    or at once where it could take no other job anyway."""
    pool = pool_of(idle_limit=timedelta(minutes=2))
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}, pools=[pool]) as world:
        side = world.sides[forge]
        first = side.queue(LABELS)
        await world.run_until(at(world, State.BOOTING, State.PROVING))
        end = side.steal(first)
        await world.run_until(world.all_released, within=timedelta(minutes=1), stride=4)
        assert world.lease().reason is Reason.JOB_GONE
        end()
        second = side.queue(LABELS)
        await world.run_until(lambda: len(world.leases()) == 2 and world.lease().state is State.REGISTERING)
        end = side.steal(second)
        pinned = side.forge.pinned
        await world.run_until(world.all_released, within=timedelta(minutes=1 if pinned else 4), stride=4)
        assert world.lease().reason is (Reason.JOB_GONE if pinned else Reason.IDLE_TIMEOUT)
        end()
        await world.run_until(over(world, forge, first, second), stride=15)
        assert (len(world.leases()), len(world.cloud.machines)) == (2, 2), "no second machine for a job"
        assert {lease.job_id for lease in world.leases()} == {""}
        world.assert_clean()


@FORGES
async def test_ten_jobs_of_an_organisation_share_three_places(database: Database, tmp_path: Path, forge: str) -> None:
    pool = pool_of(scope=ScopeKind.ORGANIZATION)
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}, pools=[pool]) as world:
        keys = [world.sides[forge].queue(LABELS, f"acme/repo{number % 2}") for number in range(10)]
        most, done = 0, over(world, forge, *keys)

        def there() -> bool:
            nonlocal most
            most = max(most, len(world.living()))
            return done()

        await world.run_until(there, within=timedelta(hours=2), stride=12)
        assert most == 3
        assert {str(lease.key.scope) for lease in world.leases()} == {"organization:acme"}
        assert sorted(lease.job_id for lease in world.leases()) == sorted(f"{forge}-{key}" for key in keys)
        assert all(world.job(lease.job_id.partition("-")[2], forge).lease_id == lease.id for lease in world.leases())
        world.assert_clean()


@EITHER
@FORGES
async def test_a_job_that_fails_and_is_run_again_gets_a_machine_of_its_own(
    database: Database, tmp_path: Path, forge: str, intake: str
) -> None:
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}) as world:
        side = world.sides[forge]
        first = side.queue(LABELS)
        await world.run_until(lambda: bool(world.hosts), stride=4)
        next(iter(world.hosts.values())).succeeds = False
        await world.run_until(over(world, forge, first), stride=4)
        assert world.lease().job_conclusion == "failure"
        again = side.rerun(first)
        assert (again == first) == side.forge.reruns_in_place
        await world.run_until(lambda: len(world.leases()) == 2, within=timedelta(minutes=1))
        await world.run_until(over(world, forge, again), stride=4)
        one, two = world.leases()
        assert (one.job_id, two.job_id) == (f"{forge}-{first}", f"{forge}-{again}")
        assert world.job(again, forge).lease_id == two.id
        assert (one.reason, one.job_conclusion) == (Reason.JOB_DONE, "failure")
        assert (two.reason, two.job_conclusion) == (Reason.JOB_DONE, "success")
        await world.run(timedelta(minutes=1), stride=15)
        assert len(world.leases()) == 2
        world.assert_clean()


@EITHER
async def test_a_gitea_that_gives_the_second_run_an_id_of_its_own(database: Database, tmp_path: Path, intake: str) -> None:
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": intake}) as world:
        world.gitea.server.version = "1.27.0"
        first = world.gitea.queue(LABELS)
        await world.run_until(over(world, "gitea", first), stride=4)
        again = world.gitea.rerun(first)
        assert again != first
        await world.run_until(over(world, "gitea", again), stride=4)
        assert [lease.job_id for lease in world.leases()] == [f"gitea-{first}", f"gitea-{again}"]
        world.assert_clean()


@EITHER
@FORGES
async def test_a_job_that_waits_for_an_approval_rents_nothing_until_it_has_it(
    database: Database, tmp_path: Path, forge: str, intake: str
) -> None:
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}) as world:
        key = world.sides[forge].queue(LABELS, gated=True)
        await world.run(timedelta(minutes=1))
        assert world.leases() == []
        world.sides[forge].approve(key)
        await world.run_until(over(world, forge, key), stride=4)
        assert world.lease().job_conclusion == "success"
        world.assert_clean()


@EITHER
@FORGES
async def test_code_of_a_fork_rents_nothing_unless_the_rule_says_so(
    database: Database, tmp_path: Path, forge: str, intake: str
) -> None:
    rules = [RepositoryRule("acme/train"), RepositoryRule("acme/open", forks=True)]
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}, repositories=rules) as world:
        strange = world.sides[forge].queue(LABELS, "acme/train", fork="stranger/train")
        welcome = world.sides[forge].queue(LABELS, "acme/open", fork="stranger/open")
        await world.run_until(over(world, forge, welcome), stride=4)
        assert world.sides[forge].conclusion(welcome) == "success"
        assert [lease.job_id for lease in world.leases()] == [f"{forge}-{welcome}"]
        assert "set `forks = true` for [[repository]] acme/train" in world.job(strange, forge).not_ours
        world.assert_clean()


@EITHER
@FORGES
async def test_a_forge_that_is_down_for_ten_minutes_delays_its_jobs_and_loses_none(
    database: Database, tmp_path: Path, forge: str, intake: str
) -> None:
    """It goes down while one job runs and another is queued."""
    async with World(database, tmp_path, forges=[forge], intake={forge: intake}) as world:
        side = world.sides[forge]
        first = side.queue(LABELS)
        await world.run_until(at(world, State.BUSY))
        side.down(True)
        second = side.queue(LABELS)
        await world.run(timedelta(minutes=10), stride=30)
        side.down(False)
        await world.run_until(over(world, forge, first, second), within=timedelta(hours=1), stride=10)
        assert (side.conclusion(first), side.conclusion(second)) == ("success", "success")
        assert sum(lease.job_id == f"{forge}-{second}" for lease in world.leases()) == 1
        await world.run_until(lambda: not side.registered(), within=timedelta(hours=1), stride=60)
        world.assert_clean()


@FORGES
async def test_every_webhook_is_lost_and_every_job_still_runs(database: Database, tmp_path: Path, forge: str) -> None:
    """Its end is heard of long after its machine was given back; meanwhile none is rented for the same job."""
    async with World(database, tmp_path, forges=[forge], repositories=[RepositoryRule("acme/train")]) as world:
        world.intercept = lambda _: []
        keys = [world.sides[forge].queue(LABELS) for _ in range(3)]
        await world.run_until(over(world, forge, *keys), within=timedelta(hours=1), stride=10)
        assert {world.sides[forge].conclusion(key) for key in keys} == {"success"}
        assert len(world.leases()) == 3
        world.assert_clean()
