"""From webhook to bill: whole journeys through the real web, engine and store; some on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.core.model import JobState, Reason, RepositoryRule, ScopeKind
from app.core.states import State
from app.demo.nouns import ApiFault
from app.engine import reaper
from app.store import audit, ledger, nodes
from app.store.db import Database
from providers.contract import Need, Offer, Order
from providers.fake import FakeSettings
from providers.fake_cloud import Machine, Trouble
from tests.fake_node import Manner
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]
WHOLE_LIFE = list(State)

BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
"""For stories in which SQL is more than one statement after the other."""


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, unless the story is told on both."""
    return request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")


@BOTH
async def test_a_github_job_of_an_organisation_from_webhook_to_bill(database: Database, tmp_path: Path) -> None:
    pool = pool_of(scope=ScopeKind.ORGANIZATION)
    async with World(database, tmp_path, pools=[pool]) as world:
        key = world.github.queue(LABELS, "acme/train")
        await world.run_until(world.all_released)
        lease = world.lease()
        assert world.states(lease) == WHOLE_LIFE
        assert (lease.reason, lease.job_conclusion, lease.job_id) == (Reason.JOB_DONE, "success", f"github-{key}")
        assert str(lease.key.scope) == "organization:acme"
        assert world.job(key).state is JobState.COMPLETED
        assert world.job(key).lease_id == lease.id
        assert set(world.answers) == {202}
        world.assert_clean()
        kinds = [charge.kind for charge in ledger.charges(database, lease.id)]
        assert kinds == ["before_job", "job", "after_job"][: len(kinds)]
        actions = [entry.action for entry in audit.listing(database, f"lease:{lease.id}")]
        assert actions.count("lease.booting") == 1


@BOTH
async def test_a_gitlab_job_from_webhook_to_bill(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, gitlab=True) as world:
        assert world.gitlab is not None
        key = world.gitlab.queue(LABELS, "acme/train")
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.BUSY)
        assert world.job(key, "gitlab").state is JobState.IN_PROGRESS
        runner = world.gitlab.lab.runners[int(world.lease().runner_id)]
        assert runner.paused, "it must not take a second job"
        await world.run_until(world.all_released)
        lease = world.lease()
        assert (lease.reason, lease.job_conclusion) == (Reason.JOB_DONE, "success")
        assert world.job(key, "gitlab").labels == tuple(LABELS)
        world.assert_clean()


@BOTH
async def test_ten_jobs_share_three_places(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        keys = [world.github.queue(LABELS, f"acme/repo{number % 2}") for number in range(10)]
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, len(world.living()))
            return all(world.github.conclusion(key) for key in keys) and world.all_released()

        await world.run_until(done, within=timedelta(hours=2), stride=5)
        assert most == 3
        assert len(world.leases()) == 10
        world.assert_clean()


async def test_a_job_cancelled_before_its_start_gives_the_machine_back(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        world.github.cancel(key)
        await world.run_until(world.all_released, within=timedelta(minutes=2))
        assert world.lease().reason is Reason.JOB_GONE
        world.assert_clean()


async def test_a_job_that_waits_for_an_approval_rents_nothing_until_it_has_it(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        key = world.github.queue(LABELS, needs_approval=True)
        await world.run(timedelta(minutes=1))
        assert world.leases() == []
        world.github.state.approve(int(key), world.clock.now())
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"


async def test_a_stolen_runner_is_replaced(database: Database, tmp_path: Path) -> None:
    """A job that came later takes the runner that was rented for an earlier one; both are served, by two machines."""
    async with World(database, tmp_path) as world:
        first = world.github.queue(LABELS)
        await world.run_until(lambda: world.lease().state is State.PROVING if world.leases() else False)
        thief = world.github.queue(["gpu"])  # fewer labels: no pool serves it, but our runner matches it
        world.github.state.book.jobs = dict(sorted(world.github.state.book.jobs.items(), key=lambda item: -item[0]))
        await world.run_until(lambda: bool(world.github.conclusion(first)) and world.all_released(), within=timedelta(hours=1))
        assert world.github.conclusion(thief) is not None
        assert len(world.leases()) == 2
        world.assert_clean()


@BOTH
@pytest.mark.parametrize("moment", [state for state in State if state is not State.RELEASED])
async def test_a_restart_in_any_state_changes_nothing(database: Database, tmp_path: Path, moment: State) -> None:
    async with World(database, tmp_path) as world:
        key = world.github.queue(LABELS)
        visited: set[State] = set()

        def there() -> bool:
            visited.update(lease.state for lease in world.leases())
            return moment in visited

        await world.run_until(lambda: there() or world.all_released())
        await world.restart()
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert len(world.leases()) == 1
        assert len(world.cloud.machines) == 1
        world.assert_clean()


@BOTH
async def test_a_lost_reply_to_create_rents_one_machine(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.cloud.faults.script("create", Trouble.LOST_REPLY)
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released)
        assert len(world.cloud.machines) == 1
        assert world.github.conclusion(key) == "success"
        world.assert_clean()


async def test_a_late_create_of_a_cloud_without_keys_rents_one_machine(database: Database, tmp_path: Path) -> None:
    """No answer, the machine comes half a minute later, and the cloud would make a second one if it were asked again."""
    blind = FakeSettings(honours_keys=False, unique_names=False)
    async with World(database, tmp_path, clouds={"cloud": blind}) as world:
        world.cloud.faults.script("create", Trouble.LATE, wait=timedelta(seconds=30))
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released)
        assert len(world.cloud.machines) == 1
        assert world.github.conclusion(key) == "success"
        world.assert_clean()


async def test_no_capacity_moves_on_to_the_next_cloud(database: Database, tmp_path: Path) -> None:
    clouds = {"dear": FakeSettings(price_per_hour=Decimal(5)), "cheap": FakeSettings()}
    async with World(database, tmp_path, clouds=clouds) as world:
        world.providers["cheap"].cloud.faults.script("create", Trouble.NO_CAPACITY)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        (lease,) = world.leases()
        assert (lease.provider, lease.reason) == ("dear", Reason.JOB_DONE), "the same lease, in the same cycle"
        world.assert_clean()


async def test_an_offer_above_the_cap_is_never_taken_and_the_queue_says_why(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds={"cloud": FakeSettings(price_per_hour=Decimal("9.51"))}) as world:
        key = world.github.queue(LABELS)
        await world.run(timedelta(minutes=2))
        assert world.cloud.machines == {}
        assert "No offer passes (1 price)" in world.job(key).wait


async def test_a_cloud_that_is_down_makes_the_job_wait_and_work_goes_on_by_itself(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.cloud.faults.script("offers", Trouble.BROKEN_OFF, until=world.clock.now() + timedelta(minutes=3))
        key = world.github.queue(LABELS)
        await world.run(timedelta(minutes=1))
        assert "Provider cloud: cloud: no answer to offers" in world.job(key).wait
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"


async def test_a_forge_that_is_down_makes_the_job_wait_and_the_queue_says_so(database: Database, tmp_path: Path) -> None:
    """The node is up and proven when the forge stops answering; the same machine serves when it is back."""
    async with World(database, tmp_path) as world:
        world.github.state.book.faults.api.append(ApiFault("generate-jitconfig", 502, times=4))
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().tries > 1)
        await world.step()
        assert "is registering its runner. github:" in world.job(key).wait
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert len(world.leases()) == 1
        world.assert_clean()


async def test_a_runner_whose_answer_was_lost_is_removed_and_made_again_under_a_fresh_name(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path) as world:
        world.github.state.book.faults.api.append(ApiFault("generate-jitconfig", 502, times=1, after=True))
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert world.lease().mint_try == 2
        world.assert_clean()


async def test_a_node_that_is_less_than_it_was_sold_for_gets_no_credential(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.manners = [Manner.LIAR]
        key = world.github.queue(LABELS)
        await world.run_until(lambda: len(world.leases()) == 2)
        bad = world.leases()[0]
        assert bad.reason is Reason.BAD_NODE
        assert "GPU count: asked 1, seen 0" in bad.reason_text
        assert bad.runner_name == ""
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        world.assert_clean()


async def test_a_node_that_never_speaks_is_given_up_and_replaced(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, pools=[pool_of(boot_limit=timedelta(minutes=5))]) as world:
        world.manners = [Manner.SILENT]
        key = world.github.queue(LABELS)
        done = lambda: bool(world.github.conclusion(key)) and world.all_released()  # noqa: E731
        await world.run_until(done, within=timedelta(hours=1), stride=6)
        assert [lease.reason for lease in world.leases()] == [Reason.BOOT_TIMEOUT, Reason.JOB_DONE]
        world.assert_clean()


async def test_a_join_token_used_twice_destroys_the_lease(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.manners = [Manner.TWICE]
        world.github.queue(LABELS)
        await world.run_until(lambda: len(world.leases()) == 2)
        assert world.leases()[0].reason is Reason.JOIN_REUSED
        assert any(entry.action == "node.join_reused" for entry in audit.listing(database, f"lease:{world.leases()[0].id}"))
        await world.run_until(world.all_released)
        world.assert_clean()


@BOTH
async def test_an_instance_that_vanishes_under_its_job_is_closed_and_billed_to_that_moment(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path) as world:
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.BUSY)
        world.cloud.vanish(next(iter(world.cloud.machines)))
        await world.run_until(lambda: world.leases()[0].state is State.RELEASED)
        assert world.leases()[0].reason is Reason.INSTANCE_LOST


async def test_a_runner_that_never_gets_a_job_is_given_back_after_its_idle_limit(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, pools=[pool_of(idle_limit=timedelta(minutes=2))]) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.REGISTERING)
        world.github.cancel(key)
        await world.run_until(world.all_released)
        assert world.lease().reason is Reason.IDLE_TIMEOUT
        world.assert_clean()


@BOTH
async def test_a_stuck_destroy_blocks_nothing_and_is_paid_until_absence_is_proven(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.cloud.faults.script("destroy", Trouble.STUCK, wait=timedelta(minutes=20), times=None)
        first = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.leases()[0].state is State.DESTROYING)
        second = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(second)))
        assert world.leases()[0].state is State.DESTROYING
        await world.run_until(world.all_released, within=timedelta(hours=1), stride=15)
        assert world.github.conclusion(first) == "success"
        assert abs(world.ledger() - world.invoiced()) < Decimal("0.05"), "a little is paid until the next look proves it"


async def test_a_job_of_a_fork_that_takes_our_runner_fails_at_its_start_with_a_clear_line(
    database: Database, tmp_path: Path
) -> None:
    """Nothing is rented for it; but its labels fit a runner that was rented for another job."""
    async with World(database, tmp_path) as world:
        ours = world.github.queue(LABELS)
        await world.run_until(lambda: world.lease().state is State.PROVING if world.leases() else False)
        thief = world.github.queue(["gpu"], event="pull_request", fork="stranger/train")
        world.github.state.book.jobs = dict(sorted(world.github.state.book.jobs.items(), key=lambda item: -item[0]))
        await world.run_until(lambda: bool(world.github.conclusion(ours)) and world.all_released(), within=timedelta(hours=1))
        assert (world.github.conclusion(thief), world.github.conclusion(ours)) == ("failure", "success")
        first, _ = world.leases()
        assert first.reason in (Reason.JOB_REFUSED, Reason.JOB_DONE)
        assert any("stranger/train" in line.line for line in lease_log(database, first.id))
        world.assert_clean()


async def test_what_is_not_ours_is_shown_as_such_and_rents_nothing(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, repositories=[RepositoryRule("acme/train")]) as world:
        world.github.queue(LABELS, "acme/secret")
        strange = world.github.queue([*LABELS, "gpus:64"])
        await world.run(timedelta(minutes=1))
        assert world.leases() == []
        assert "gpus:64 is not one that a job may add" in world.job(strange).not_ours


async def test_an_orphan_is_destroyed_only_when_it_was_seen_twice(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        ours = world.living()[0]
        machine = world.cloud.make(_order_like(ours), at=world.clock.now())
        machine.tag = "sublet-nobody-1"
        assert await reaper.survey(world.service.deps) == 0
        assert len(world.living()) == 2
        world.clock.advance(timedelta(minutes=1))
        assert await reaper.survey(world.service.deps) == 1
        assert [left.tag for left in world.living()] == [ours.tag]
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"


async def test_a_runner_that_no_lease_owns_is_removed_and_a_neighbours_is_not(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        deps, now = world.service.deps, world.clock.now()
        for name in (f"{deps.runner_prefix}lost-1", "sublet-someone-else-1"):
            world.github.state.register("repos/acme/train", name, LABELS, 1, now)
        assert await reaper.reap_runners(deps) == 0
        world.clock.advance(timedelta(minutes=15))
        assert await reaper.reap_runners(deps) == 1
        assert world.github.registered() == ["sublet-someone-else-1"]


async def test_a_pool_without_a_gpu_asks_for_none(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, pools=[pool_of(need=Need(max_price_per_hour=Decimal(9)))]) as world:
        key = world.github.queue(["self-hosted", "Linux", *LABELS])
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert world.lease().facts is not None
        world.assert_clean()


def lease_log(database: Database, lease_id: str) -> list[nodes.LogLine]:
    return nodes.log(database, lease_id, 0, 100)


def _order_like(machine: Machine) -> Order:
    offer = Offer("cloud-1", "cloud", "sg", machine.price_per_hour, "USD", machine.created_at)
    return Order(offer, "another-key", "sublet-nobody-1", machine.owner, "", machine.hard_end)
