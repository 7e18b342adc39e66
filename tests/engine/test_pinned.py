"""A forge that pins a runner to its job (Forgejo): one lease for each job, whatever its labels, and no other job for it."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from app.core.model import Job, Lease, Reason
from app.core.states import State
from app.store.db import Database
from app.web.auth import issue_cli_token
from tests.world import URL, World, pool_of

LABELS = ["gpu", "rubin"]
INTAKES = pytest.mark.parametrize("intake", ["webhook", "poll"])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough for these stories; tests/test_forges_journey.py tells Forgejo's on both."""
    return sqlite_url


def lease_for(world: World, key: str) -> Lease:
    """The one lease that was made for the job."""
    (found,) = [lease for lease in world.leases() if lease.key.job == f"forgejo-{key}"]
    return found


def told(world: World, key: str) -> Job:
    return world.job(key, "forgejo")


@INTAKES
async def test_two_jobs_with_equal_labels_run_each_on_its_own_machine_whichever_is_ready_first(
    database: Database, tmp_path: Path, intake: str
) -> None:
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": intake}) as world:
        first, second = (world.forgejo.queue(LABELS) for _ in range(2))
        await world.run_until(lambda: len(world.living()) == 2)
        slow = lease_for(world, first)
        (machine,) = [one for one in world.living() if one.tag == slow.tag]
        assert machine.runs_from is not None
        machine.runs_from += timedelta(minutes=3)
        await world.run_until(lambda: world.forgejo.conclusion(second) is not None, stride=4)
        assert world.forgejo.job(first).status == "waiting", "the second machine served its own job and left the first alone"
        await world.run_until(world.all_released, stride=4)
        for key in (first, second):
            lease = lease_for(world, key)
            assert (lease.job_id, told(world, key).lease_id) == (lease.key.job, lease.id)
            assert lease.reason is Reason.JOB_DONE
            assert world.forgejo.conclusion(key) == "success"
        assert len(world.leases()) == 2
        world.assert_clean()


@INTAKES
@pytest.mark.parametrize("moment", [State.BOOTING, State.IDLE])
async def test_the_lease_of_a_cancelled_job_goes_at_once_though_another_job_waits_with_its_labels(
    database: Database, tmp_path: Path, intake: str, moment: State
) -> None:
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": intake}) as world:
        key = world.forgejo.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        if moment is State.IDLE:
            await world.run_until(lambda: bool(world.hosts))
            next(iter(world.hosts.values())).takes_jobs = False  # it is online, and slow to ask
        await world.run_until(lambda: world.lease().state is moment)
        other = world.forgejo.queue(LABELS)
        await world.run_until(lambda: len(world.leases()) == 2, within=timedelta(seconds=20))
        world.forgejo.cancel(key)
        await world.run_until(lambda: lease_for(world, key).state is State.RELEASED, within=timedelta(minutes=1))
        assert lease_for(world, key).reason is Reason.JOB_GONE
        assert lease_for(world, other).state is not State.RELEASED
        await world.run_until(lambda: world.forgejo.conclusion(other) is not None and world.all_released(), stride=4)
        assert (len(world.leases()), world.forgejo.conclusion(other)) == (2, "success")
        world.assert_clean()


async def test_leases_for_single_jobs_count_to_the_ceiling(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["forgejo"], pools=[pool_of(ceiling=2)]) as world:
        keys = [world.forgejo.queue(LABELS) for _ in range(4)]
        most = 0

        def there() -> bool:
            nonlocal most
            most = max(most, len(world.living()))
            return all(world.forgejo.conclusion(key) for key in keys) and world.all_released()

        await world.run_until(lambda: len(world.living()) == 2)
        assert ["at its ceiling of 2 machines" in told(world, key).wait for key in keys].count(True) == 2
        await world.run_until(there, stride=5)
        assert most == 2
        assert [lease.job_id for lease in world.leases()] == [lease.key.job for lease in world.leases()]
        assert {lease.key.job for lease in world.leases()} == {f"forgejo-{key}" for key in keys}
        world.assert_clean()


async def test_a_service_killed_again_and_again_forgets_no_lease_for_whom_it_is(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": "poll"}) as world:
        keys = [world.forgejo.queue(LABELS) for _ in range(2)]
        seen: set[tuple[str, State]] = set()
        for _ in range(200):
            await world.step(2)
            now = {(lease.id, lease.state) for lease in world.leases()}
            if now - seen:
                seen |= now
                await world.restart()
            if all(world.forgejo.conclusion(key) for key in keys) and world.all_released():
                break
        assert {world.forgejo.conclusion(key) for key in keys} == {"success"}, world.picture()
        assert [lease_for(world, key).job_id for key in keys] == [f"forgejo-{key}" for key in keys]
        assert (len(world.leases()), len(world.cloud.machines)) == (2, 2)
        world.assert_clean()


async def test_a_machine_that_dies_is_followed_by_another_for_the_same_job(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["forgejo"]) as world:
        key = world.forgejo.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        world.cloud.vanish(world.living()[0].id)
        await world.run_until(lambda: world.forgejo.conclusion(key) is not None and world.all_released(), stride=5)
        first, second = world.leases()
        assert first.reason is Reason.INSTANCE_LOST
        assert (first.job_id, second.job_id) == ("", f"forgejo-{key}")
        assert first.key == second.key
        assert (world.living(), world.forgejo.registered()) == ([], [])


@INTAKES
async def test_a_label_that_the_forge_cannot_carry_rents_nothing_and_the_queue_says_what_to_write_instead(
    database: Database, tmp_path: Path, intake: str
) -> None:
    pool = pool_of(may_add=frozenset({"gpus:4"}))
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": intake}, pools=[pool]) as world:
        key = world.forgejo.queue([*LABELS, "gpus:4"])
        await world.run(timedelta(minutes=1))
        assert world.leases() == []
        assert world.cloud.machines == {}
        sentence = "Forgejo's runner cannot carry the label 'gpus:4'"
        assert sentence in told(world, key).not_ours
        headers = {"authorization": f"Bearer {issue_cli_token(database, world.clock.now()).reveal()}", "accept": "text/html"}
        transport = httpx.ASGITransport(world.service.web)
        async with httpx.AsyncClient(transport=transport, base_url=URL, headers=headers) as client:
            page = html.unescape(re.sub(r"<[^>]+>", "", (await client.get("/queue?tab=not_ours")).text))
        assert sentence in page and "a pool of its own" in page, page


async def test_a_forge_that_can_carry_the_label_is_not_held_back_by_one_that_cannot(database: Database, tmp_path: Path) -> None:
    pool = pool_of(may_add=frozenset({"gpus:1"}))
    async with World(database, tmp_path, forges=["gitea", "forgejo"], pools=[pool]) as world:
        serves = world.gitea.queue([*LABELS, "gpus:1"])
        refused = world.forgejo.queue([*LABELS, "gpus:1"])
        await world.run_until(lambda: world.gitea.conclusion(serves) is not None and world.all_released(), stride=5)
        assert [lease.job_id for lease in world.leases()] == [f"gitea-{serves}"]
        assert "cannot carry the label 'gpus:1'" in told(world, refused).not_ours
        world.assert_clean()
