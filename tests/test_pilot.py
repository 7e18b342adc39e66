"""A pilot from a person's wish to the bill: a lease like any other, that measures one machine and never meets a forge."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.model import Reason
from app.core.pilot import LASTS
from app.core.states import State
from app.store import audit, ledger, nodes, people, pilots, standings
from app.store.db import Database
from app.store.people import Role
from app.web.auth import issue_token
from providers.contract import Need
from providers.fake import FakeSettings
from providers.fake_cloud import Trouble
from tests.engine.signed import a_world, signed_registry
from tests.fake_node import Manner
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]
ITS_LIFE = [State.PLANNED, State.LAUNCHING, State.BOOTING, State.PROVING, State.DESTROYING, State.RELEASED]
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, unless the story is told on both."""
    return request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")


class Operator:
    """A person with an API token, who asks for pilots."""

    def __init__(self, world: World, role: Role = Role.OPERATOR) -> None:
        self._world = world
        people.ensure_person(world.database, role.value, role, world.clock.now())
        self._token = issue_token(world.database, role.value, "test", world.clock.now()).reveal()

    async def call(self, method: str, path: str, **words: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._token}"}
        return await self._world.client.request(method, f"/api/v1/{path}", headers=headers, **words)

    async def wants(self, provider: str = "cloud", **body: Any) -> httpx.Response:
        given = {"max_price_per_hour": "9.50", "reason": "is it any good?", **body}
        return await self.call("POST", f"providers/{provider}/pilot", json=given)

    async def pilot(self, **body: Any) -> str:
        """The id of a new one. The market was looked at before."""
        await self._world.step()
        told = await self.wants(**body)
        assert told.status_code == 200, told.text
        return str(told.json()["id"])

    async def sees(self, identity: str) -> dict[str, Any]:
        return (await self.call("GET", f"pilots/{identity}")).json()


def usable_at(world: World) -> datetime | None:
    """When the node of the newest pilot had proven itself."""
    found = pilots.of_lease(world.database, world.lease().id)
    return None if found is None else found.usable_at


@BOTH
async def test_a_pilot_from_a_wish_to_the_bill(database: Database, tmp_path: Path) -> None:
    clouds = {"cloud": FakeSettings(minimum=timedelta(minutes=1), granularity=timedelta(minutes=1))}
    async with World(database, tmp_path, clouds=clouds) as world:
        operator = Operator(world)
        await world.step()
        shown = (await operator.call("GET", "providers/cloud/pilot")).json()
        assert (shown["price_per_hour"]["amount"], shown["expected"]["amount"], shown["at_most"]["amount"]) == (
            "3.6000",
            "0.3000",
            "1.2000",
        )
        assert shown["why"] == "" and shown["offer"]["gpu"] == "rubin" and world.leases() == []
        identity = await operator.pilot()
        await world.run_until(world.all_released)
        told, lease = await operator.sees(identity), world.lease()
        assert world.states(lease) == ITS_LIFE
        assert (lease.reason, lease.key.pool, lease.key.forge, lease.runner_name) == (Reason.PILOT_DONE, "(pilot)", "", "")
        assert (told["outcome"], told["state"], told["gone"], told["region"]) == ("usable", "released", True, "sg")
        assert 0 <= told["accepted_seconds"] < 20 <= told["running_seconds"] <= told["usable_seconds"] < 40
        assert told["report"]["gpu"]["fp32_tflops"] == 51.2
        assert told["report"]["network"]["download_bytes"] == 32 * 1024 * 1024
        assert Decimal(told["cost"]["amount"]) == world.invoiced() > 0
        assert "before_job" in [charge.kind for charge in ledger.charges(database, lease.id)]
        (kept,) = pilots.listing(database, "cloud")
        assert (kept.outcome, kept.asked_by, kept.region, kept.lease_id) == ("usable", "operator", "sg", lease.id)
        assert kept.ended_at is not None and kept.offer is not None and kept.offer["gpu"] == "rubin"
        (asked,) = audit.listing(database, "provider:cloud")
        assert (asked.actor, asked.action, asked.text) == ("operator", "provider.pilot_asked", "is it any good?")
        planned = audit.listing(database, f"lease:{lease.id}")[-1]
        assert (planned.actor, planned.action) == ("operator", "lease.planned")
        world.assert_clean()


@pytest.mark.parametrize(
    ("database_url", "moment"),
    [*(("sqlite", state) for state in ITS_LIFE[:-1]), ("postgresql", State.PROVING)],
    indirect=["database_url"],
)
async def test_a_restart_in_any_state_changes_nothing(database: Database, tmp_path: Path, moment: State) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        identity = await operator.pilot()
        visited = {world.lease().state}

        def there() -> bool:
            visited.update(lease.state for lease in world.leases())
            return moment in visited

        await world.run_until(lambda: there() or world.all_released())
        await world.restart()
        await world.run_until(world.all_released)
        assert (len(world.leases()), len(world.cloud.machines)) == (1, 1)
        assert (await operator.sees(identity))["outcome"] == "usable"
        world.assert_clean()


async def test_it_covers_no_job_and_no_job_ends_it(database: Database, tmp_path: Path) -> None:
    """The same GPU at the same provider, and a pool with one place: the job gets a machine of its own beside the pilot's."""
    async with World(database, tmp_path, pools=[pool_of(ceiling=1)]) as world:
        operator = Operator(world)
        world.manners = [Manner.MUTE_LATER]  # the pilot takes its whole time
        identity = await operator.pilot()
        await world.run_until(lambda: world.lease().state is State.PROVING)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: world.github.conclusion(key) is not None, stride=5)
        assert len(world.leases()) == 2 and world.job(key).lease_id == world.lease().id
        (pilot, other) = world.leases()
        assert (pilot.drain_asked_at, pilot.job_id, other.job_id) == (None, "", f"github-{key}")
        await world.run_until(world.all_released, stride=5)
        assert (await operator.sees(identity))["outcome"] == "usable"
        world.assert_clean()


async def test_a_job_that_waits_is_not_told_that_a_pilot_comes_for_it(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds={"cloud": FakeSettings(capacity=1)}) as world:
        operator = Operator(world)
        world.manners = [Manner.MUTE_LATER]
        await operator.pilot()
        await world.run_until(lambda: bool(world.living()))
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=30))
        pilot = world.leases()[0]
        assert pilot.name not in world.job(key).wait and pilot.state in (State.BOOTING, State.PROVING)
        await world.run_until(lambda: world.github.conclusion(key) is not None and world.all_released(), stride=5)
        world.assert_clean()


async def test_a_machine_that_never_speaks_is_destroyed_and_booked(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.manners = [Manner.SILENT]
        identity = await operator.pilot()
        await world.run_until(world.all_released, within=timedelta(minutes=20), stride=10)
        told = await operator.sees(identity)
        assert told["outcome"].startswith("boot timeout:") and told["usable_at"] is None and told["report"] is None
        assert world.ledger() == world.invoiced() > Decimal("0.8"), "a quarter of an hour is paid for"
        world.assert_clean()


async def test_one_that_never_measures_has_its_two_minutes(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.manners = [Manner.MUTE_LATER]
        identity = await operator.pilot()
        await world.run_until(lambda: usable_at(world) is not None)
        began = usable_at(world)
        assert began is not None and world.lease().hard_end == began + LASTS
        await world.run_until(world.all_released, stride=1)
        lease, told = world.lease(), await operator.sees(identity)
        assert lease.gone_at is not None and lease.gone_at - began <= LASTS + timedelta(seconds=2)
        assert (lease.reason, told["outcome"], told["report"]) == (Reason.PILOT_DONE, "usable", None)
        world.assert_clean()


async def test_an_engine_that_was_away_ends_it_late_and_blames_no_machine(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.manners = [Manner.MUTE_LATER]
        identity = await operator.pilot()
        await world.run_until(lambda: usable_at(world) is not None)
        world.clock.advance(timedelta(minutes=7))
        await world.run_until(world.all_released)
        assert world.lease().reason is Reason.PILOT_DONE
        assert (await operator.sees(identity))["outcome"] == "usable"
        key = world.github.queue(LABELS)
        await world.run_until(lambda: world.github.conclusion(key) is not None, within=timedelta(minutes=5), stride=5)
        await world.run_until(world.all_released, stride=5)
        world.assert_clean()


async def test_a_machine_that_is_not_what_was_asked_for_is_not_usable(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.manners = [Manner.LIAR]
        identity = await operator.pilot(gpu="R100")
        await world.run_until(world.all_released)
        told = await operator.sees(identity)
        assert told["outcome"].startswith("bad node: GPU count: asked 1, seen 0") and told["usable_seconds"] is None
        world.assert_clean()


async def test_an_operator_may_end_it_at_any_time(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        identity = await operator.pilot()
        await world.run_until(lambda: bool(world.living()))
        told = await operator.call("POST", f"leases/{world.lease().id}/destroy", json={"reason": "enough"})
        assert told.status_code == 200
        await world.run_until(world.all_released, within=timedelta(minutes=1))
        assert (await operator.sees(identity))["outcome"] == "operator: enough"
        assert (await operator.wants()).status_code == 200, "the next one may come"
        await world.run_until(world.all_released)
        world.assert_clean()


async def test_a_no_to_its_create_costs_nothing(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.cloud.faults.script("create", Trouble.NO_CAPACITY, times=None)
        identity = await operator.pilot()
        await world.run_until(world.all_released, within=timedelta(minutes=15), stride=5)
        told = await operator.sees(identity)
        assert told["outcome"] not in ("", "usable") and told["ended_at"] is not None
        assert (told["cost"]["amount"], world.ledger(), world.invoiced()) == ("0.0000", Decimal(0), Decimal(0))
        assert told["lease"] == world.lease().name
        world.assert_clean()


async def test_a_lost_reply_to_its_create_rents_one_machine(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.cloud.faults.script("create", Trouble.LOST_REPLY)
        identity = await operator.pilot()
        await world.run_until(world.all_released)
        assert len(world.cloud.machines) == 1 and (await operator.sees(identity))["outcome"] == "usable"
        world.assert_clean()


async def test_it_stays_with_its_provider_and_under_its_price(database: Database, tmp_path: Path) -> None:
    clouds = {"dear": FakeSettings(price_per_hour=Decimal("7.20")), "cheap": FakeSettings(price_per_hour=Decimal("1.80"))}
    async with World(database, tmp_path, clouds=clouds) as world:
        operator = Operator(world)
        await world.step()
        low = await operator.wants("dear", max_price_per_hour="7.19")
        assert low.status_code == 409 and low.json()["error"]["message"] == "No offer passes: 1 price."
        identity = await operator.pilot(provider="dear")
        await world.run_until(world.all_released)
        assert (await operator.sees(identity))["provider"] == world.lease().provider == "dear"
        assert world.providers["cheap"].cloud.machines == {}
        world.assert_clean()


async def test_a_provider_that_no_pool_names_can_be_piloted(database: Database, tmp_path: Path) -> None:
    """That is what a pilot is for: to know it before a pool rents there."""
    clouds = {"old": FakeSettings(), "new": FakeSettings(price_per_hour=Decimal("1.80"))}
    async with World(database, tmp_path, pools=[pool_of(providers=("old",))], clouds=clouds) as world:
        operator = Operator(world)
        identity = await operator.pilot(provider="new")
        await world.run_until(world.all_released)
        assert (await operator.sees(identity))["outcome"] == "usable" and world.lease().provider == "new"
        world.assert_clean()


async def test_a_pool_lends_its_image_and_its_limits(database: Database, tmp_path: Path) -> None:
    """A provider of containers has to be told an image, and what the node shows of it is proven as for any lease."""
    async with a_world(database, tmp_path, signed_registry()) as world:
        operator = Operator(world)
        await world.step()
        told = (await operator.wants()).json()["error"]
        assert told["message"] == "cloud boots from a container image, and a pilot has none of its own."
        assert (await operator.wants(pool="none")).status_code == 404
        wrong = (await operator.wants(pool="gpu", gpu="h100")).json()["error"]
        assert wrong["message"] == "The pool gpu rents rubin, and no h100."
        identity = await operator.pilot(pool="gpu")
        await world.run_until(world.all_released)
        lease, seen = world.lease(), await operator.sees(identity)
        assert (lease.key.pool, lease.signed, lease.mode, lease.need.gpu) == ("gpu (pilot)", True, "contained", "rubin")
        assert seen["outcome"] == "usable" and lease.image is not None and lease.image.endswith(lease.image_digest)
        world.manners = [Manner.OTHER_IMAGE]
        identity = await operator.pilot(pool="gpu")
        await world.run_until(world.all_released)
        assert (await operator.sees(identity))["outcome"].startswith("bad node: image:")
        world.assert_clean()


async def test_one_pilot_of_a_provider_at_a_time_and_none_where_it_is_paused(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        assert (await operator.wants("nowhere")).status_code == 404
        nothing = await operator.wants()
        assert nothing.status_code == 409 and "asked every few minutes" in nothing.text, "nobody has looked at the market yet"
        await operator.pilot()
        again = await operator.wants()
        assert again.status_code == 409 and f"runs already: lease {world.lease().name}" in again.text
        await world.run_until(world.all_released)
        standings.pause(database, "cloud", "ada", "they doubled their prices", world.clock.now())
        paused = await operator.wants()
        assert paused.status_code == 409 and "they doubled their prices" in paused.text
        assert len(world.leases()) == 1
        viewer = Operator(world, Role.VIEWER)
        assert (await viewer.wants()).status_code == 403
        assert (await viewer.call("GET", "providers/cloud/pilot")).status_code == 200
        (seen,) = (await viewer.call("GET", "pilots", params={"provider": "cloud"})).json()["pilots"]
        assert seen["outcome"] == "usable"
        assert (await viewer.call("GET", "pilots/none")).status_code == 404


async def test_without_a_gpu_anywhere_it_takes_what_there_is(database: Database, tmp_path: Path) -> None:
    plain = pool_of(need=Need(max_price_per_hour=Decimal(1)))
    clouds = {"cloud": FakeSettings(gpus=0, price_per_hour=Decimal("0.36"))}
    async with World(database, tmp_path, pools=[plain], clouds=clouds) as world:
        operator = Operator(world)
        identity = await operator.pilot()
        await world.run_until(world.all_released)
        assert (await operator.sees(identity))["outcome"] == "usable" and world.lease().need.gpus == 0
        world.assert_clean()


async def test_its_node_gets_the_sample_once_and_nothing_for_a_job(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        operator = Operator(world)
        world.manners = [Manner.MUTE_LATER]
        await operator.pilot()
        await world.run_until(lambda: world.lease().state is State.PROVING)
        (host,) = world.hosts.values()
        assert host.node.measure is not None and host.node.measure["bytes"] == 32 * 1024 * 1024
        assert await host.node.fetch() is None, "no credential is ever minted"
        assert await host.node.benchmark(gpu={"name": "x", "problem": "cuInit: CUDA_ERROR_NO_DEVICE (100)"})
        second = await host.node.post("sample", {})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "no_sample")
        again = await host.node.say("measured", gpu={"name": "changed its mind"}, network={})
        assert again == {"kept": False}
        await world.run_until(world.all_released)
        kept = pilots.of_lease(database, world.lease().id)
        assert kept is not None and kept.report is not None and kept.report["gpu"]["name"] == "x"
        assert (await host.node.post("sample", {})).status_code == 410
        assert world.github.registered() == [] and nodes.log(database, world.lease().id) == []
        world.assert_clean()
