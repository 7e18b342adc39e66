"""One list per provider and beat: what it is asked for, what it misses, what it finds too many, and what that costs."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from app.core.billing import ChargeKind
from app.core.model import Reason
from app.core.states import State
from app.store import leases, ledger, strays
from app.store.db import Database
from providers.contract import Offer, Order
from providers.fake import FakeSettings
from providers.fake_cloud import Machine, Trouble
from tests.fake_node import Manner
from tests.world import World, pool_of

LABELS = ["self-hosted", "gpu", "rubin"]
RECORDS = {"cloud": FakeSettings(keeps_records=True)}


def calls(world: World, verb: str) -> int:
    return sum(call.verb == verb for call in world.cloud.calls)


async def busy(world: World, jobs: int) -> None:
    for _ in range(jobs):
        world.github.queue(LABELS)
    await world.run_until(lambda: [one.state for one in world.leases()].count(State.BUSY) == jobs)


async def test_a_fleet_at_rest_costs_one_list_a_beat_and_no_call_for_each_machine(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, pools=[pool_of(ceiling=6)]) as world:
        world.job_duration = timedelta(minutes=20)
        await busy(world, 6)
        await world.run(timedelta(seconds=10))
        before = {verb: calls(world, verb) for verb in ("owned", "get", "destroy")}
        await world.run(timedelta(minutes=5))
        assert 14 <= calls(world, "owned") - before["owned"] <= 16
        assert (calls(world, "get"), calls(world, "destroy")) == (before["get"], before["destroy"])


async def test_a_machine_that_vanishes_is_billed_to_the_moment_that_its_vendor_tells(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path, clouds=RECORDS) as world:
        await busy(world, 1)
        world.cloud.vanish(next(iter(world.cloud.machines)))
        await world.run_until(lambda: world.leases()[0].state is State.RELEASED)
        assert world.leases()[0].reason is Reason.INSTANCE_LOST
        lines = {line.tag: line for line in world.cloud.invoice().lines}
        booked = sum((charge.amount for charge in ledger.charges(database, world.leases()[0].id)), Decimal(0))
        assert booked == lines[world.leases()[0].tag].exact.quantize(Decimal("0.000001"))


async def test_a_busy_machine_that_its_provider_denies_lives_on_while_its_node_speaks(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path) as world:
        world.job_duration = timedelta(minutes=10)
        await busy(world, 1)
        machine = next(iter(world.cloud.machines.values()))
        hidden = world.cloud.machines.pop(machine.id)  # lists and `get` deny it, and its node goes on
        for _ in range(60):
            world.clock.advance(timedelta(seconds=5))
            await world.hosts[machine.id].step(world.clock.now())
            await world.service.engine.beat()
        assert world.lease().state is State.BUSY
        assert world.lease().missing_at is not None
        world.cloud.machines[machine.id] = hidden
        await world.run_until(world.all_released)
        assert world.lease().reason is Reason.JOB_DONE
        world.assert_clean()


async def test_one_missing_sighting_ends_no_machine(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.manners = [Manner.SILENT]
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.BOOTING)
        world.cloud.faults.list_lag = timedelta(minutes=1)  # the list is of a time before the machine was made
        await world.run(timedelta(seconds=50))
        assert world.lease().missing_at is not None
        assert world.lease().state is State.BOOTING
        await world.run(timedelta(minutes=2))
        assert world.lease().missing_at is None, "the list has caught up"


async def test_one_list_without_a_machine_does_not_prove_that_none_was_made(database: Database, tmp_path: Path) -> None:
    """The create had no answer, and an operator wants the lease gone. The one list of that moment lacks the machine."""
    clouds = {"cloud": FakeSettings(honours_keys=False, unique_names=False)}
    async with World(database, tmp_path, clouds=clouds) as world:
        world.cloud.faults.script("create", Trouble.LOST_REPLY)
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        first = world.lease()
        leases.ask(database, first.id, "destroy", Reason.OPERATOR, "Not needed.", "person", world.clock.now())
        world.cloud.faults.list_lag = timedelta(hours=1)
        await world.run_until(lambda: world.leases()[0].missing_at is not None)
        world.cloud.faults.list_lag = timedelta(0)
        await world.run_until(lambda: world.leases()[0].state is State.RELEASED)
        assert world.leases()[0].instance_id, "the second list had it"
        await world.run_until(world.all_released)
        world.assert_clean()


async def test_a_second_machine_of_one_order_is_destroyed_and_booked_while_the_first_goes_on(
    database: Database, tmp_path: Path
) -> None:
    clouds = {"cloud": FakeSettings(honours_keys=False, unique_names=False, keeps_records=True)}
    async with World(database, tmp_path, clouds=clouds) as world:
        world.job_duration = timedelta(minutes=5)
        world.cloud.faults.script("create", Trouble.DOUBLED)
        world.github.queue(LABELS)
        await world.run_until(lambda: len(world.living()) == 2)
        _settled(world.living()[0])  # if it booted, too, it would use the join token a second time
        await world.run_until(lambda: world.lease().state is State.BUSY)
        assert len(world.living()) == 2
        await world.run_until(lambda: len(world.living()) == 1, within=timedelta(minutes=3))
        assert world.lease().state is State.BUSY
        assert world.living()[0].id == world.lease().instance_id
        await world.run_until(world.all_released)
        assert [one.kind for one in ledger.charges(database, world.lease().id)].count(ChargeKind.STRAY) == 1
        world.assert_clean()


async def test_of_two_machines_of_one_order_the_one_with_the_job_is_not_destroyed(database: Database, tmp_path: Path) -> None:
    """The provider named the other one in its answer, and that one never came up."""
    clouds = {"cloud": FakeSettings(honours_keys=False, unique_names=False, keeps_records=True)}
    async with World(database, tmp_path, clouds=clouds) as world:
        world.job_duration = timedelta(minutes=5)
        world.cloud.faults.script("create", Trouble.DOUBLED)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: len(world.living()) == 2)
        _settled(world.cloud.machines[world.lease().instance_id])
        await world.run_until(world.all_released)
        assert (world.github.conclusion(key), len(world.leases())) == ("success", 1)
        await world.run_until(lambda: not world.living(), within=timedelta(minutes=3))
        world.assert_clean()


async def test_a_machine_that_comes_after_its_lease_was_closed_is_destroyed_and_booked(
    database: Database, tmp_path: Path
) -> None:
    clouds = {"cloud": FakeSettings(honours_keys=False, unique_names=False, keeps_records=True)}
    async with World(database, tmp_path, clouds=clouds) as world:
        world.cloud.faults.script("create", Trouble.LATE, wait=timedelta(minutes=12))
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()))
        world.github.cancel(key)
        await world.run_until(world.all_released)
        assert world.living() == []
        await world.run_until(lambda: bool(world.living()), within=timedelta(minutes=15))
        await world.run_until(lambda: world.living() == [], within=timedelta(minutes=3))
        assert [one.kind for one in ledger.charges(database, world.lease().id)] == [ChargeKind.STRAY]
        world.assert_clean()


async def test_too_many_orphans_at_once_wait_until_a_person_says_that_they_may_go(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        owner = world.service.deps.owner
        for number in range(5):
            offer = Offer("cloud-1", "cloud", "sg", Decimal(1), "USD", world.clock.now())
            order = Order(offer, f"key-{number}", f"sublet-nobody-{number}", owner, "", world.clock.now() + timedelta(hours=9))
            _settled(world.cloud.make(order))
        await world.run(timedelta(minutes=3))
        assert len(world.living()) == 5
        assert len(strays.open_ones(database, "cloud")) == 5
        assert strays.confirm(database, "cloud", "ada", world.clock.now()) == 5
        await world.run(timedelta(minutes=1))
        assert world.living() == []
        assert strays.open_ones(database, "cloud") == []


def _settled(machine: Machine) -> None:
    machine.runs_from = None  # nobody steps its node


async def test_a_node_that_falls_silent_is_noticed_although_nobody_looks_at_its_lease(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path, pools=[pool_of(idle_limit=timedelta(hours=2))]) as world:
        world.manners = [Manner.MUTE_LATER]
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.REGISTERING)
        world.github.cancel(key)
        await world.run_until(lambda: world.leases()[0].state is State.RELEASED, within=timedelta(minutes=20), stride=5)
        assert world.leases()[0].reason in (Reason.NODE_SILENT, Reason.REGISTER_TIMEOUT)


async def test_a_vendor_that_does_not_know_a_new_id_yet_proves_nothing(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        provider = world.providers["cloud"]
        provider.traits = replace(provider.traits, knows_at_once=False)
        await world.restart()  # the service reads the traits when it is put together
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()), stride=1)
        machine = world.living()[0]
        del world.cloud.machines[machine.id]  # the vendor has it, and does not know it yet
        world.github.cancel(key)
        await world.run(timedelta(seconds=30))
        assert world.lease().state is State.DESTROYING
        world.cloud.machines[machine.id] = machine
        await world.run_until(world.all_released)
        assert world.living() == []
