"""The providers of one world: the fake cloud with random trouble, and the wrapper by which a service reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from providers.contract import Health, Instance, Need, Offer, Order, Phase
from providers.fake import FakeProvider, FakeSettings
from providers.fake_cloud import FakeCloud, Fault, Faults, Machine, Trouble
from tests.simulation.conditions import Vendor

if TYPE_CHECKING:
    from tests.simulation.server import Server
    from tests.simulation.world import World

BY_VERB = {
    "create": (
        "lost_reply",
        "broken_off",
        "late_create",
        "half_create",
        "doubled_create",
        "throttled",
        "no_capacity",
        "stalled",
    ),
    "destroy": ("lost_reply", "broken_off", "throttled", "stuck", "ignored_destroy", "stalled"),
    "owned": ("broken_off", "throttled", "stalled"),
    "get": ("broken_off", "throttled", "stalled"),
    "offers": ("broken_off", "throttled", "no_capacity", "stalled"),
    "check": (),
}
TROUBLES = {
    "lost_reply": Trouble.LOST_REPLY,
    "broken_off": Trouble.BROKEN_OFF,
    "late_create": Trouble.LATE,
    "half_create": Trouble.HALF,
    "doubled_create": Trouble.DOUBLED,
    "throttled": Trouble.THROTTLED,
    "no_capacity": Trouble.NO_CAPACITY,
    "stalled": Trouble.STALLED,
    "stuck": Trouble.STUCK,
    "ignored_destroy": Trouble.IGNORED,
}


class Weather(Faults):
    """Trouble by chance and by the hour, from the seed, in place of a script."""

    def __init__(self, world: World, name: str, vendor: Vendor) -> None:
        super().__init__()
        self._world, self._name, self._vendor = world, name, vendor

    def take(self, verb: str, now: datetime) -> Fault | None:
        world = self._world
        if verb == "destroy" and world.during("destroy_refused"):
            world.count("destroy_refused")
            return Fault(
                world.dice.choice((Trouble.BROKEN_OFF, Trouble.THROTTLED, Trouble.REFUSED)), wait=timedelta(seconds=30)
            )
        for name in BY_VERB[verb]:
            rate = world.conditions.rates.get(name)
            if rate is not None and world.troubled and world.dice.random() < rate:
                world.count(name)
                return Fault(TROUBLES[name], wait=self._wait(name))
        return None

    def _wait(self, name: str) -> timedelta:
        dice, window = self._world.dice, self._vendor.window.total_seconds()
        if name == "late_create":  # with the lag of lists, within what the traits promise
            wait = dice.uniform(1.0, window * 0.6)
            self._world.later(wait + 0.001, self._world.notice, self._name)
            return timedelta(seconds=wait)
        if name == "stuck":
            return timedelta(seconds=dice.choice((60, 600, 3600)))
        return timedelta(seconds=dice.choice((2, 15, 60)))


def make_cloud(world: World, vendor: Vendor) -> FakeCloud:
    """The vendor's side. It outlives every service."""
    settings = settings_of(vendor)
    cloud = FakeProvider(vendor.name, settings, clock=world.clock).cloud
    cloud.random.seed(f"{world.conditions.seed} {vendor.name}")
    cloud.currency = vendor.currency
    cloud.shelf = [replace(offer, currency=vendor.currency) for offer in cloud.shelf]
    cloud.faults = Weather(world, vendor.name, vendor)
    return cloud


def settings_of(vendor: Vendor) -> FakeSettings:
    return FakeSettings(
        price_per_hour=Decimal(vendor.price),
        boot=vendor.boot,
        ending=vendor.ending,
        granularity=vendor.granularity,
        minimum=vendor.minimum,
        honours_keys=vendor.keys,
        unique_names=vendor.names,
        dead_man_switch=vendor.dead_man,
        keeps_records=vendor.records,
        capacity=vendor.capacity,
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """A service was told that an instance is no more: when, and since when the bill says so."""

    at: datetime
    ended_at: datetime | None


class Bridge:
    """A provider as one service has it: every call takes a while, and the process may stop before it and after it."""

    def __init__(self, world: World, server: Server, vendor: Vendor, cloud: FakeCloud) -> None:
        self._world, self._server, self._vendor, self._cloud = world, server, vendor, cloud
        self._inner = FakeProvider(vendor.name, settings_of(vendor), clock=world.clock, cloud=cloud)
        self.name = vendor.name
        self.traits = replace(self._inner.traits, unknown_window=vendor.window, knows_at_once=False, currency=vendor.currency)

    async def offers(self, need: Need) -> Sequence[Offer]:
        await self._server.point()
        return await self._inner.offers(need)

    async def create(self, order: Order) -> Instance:
        await self._server.point(hot=True, slow=True)
        self._world.watch.creating(self._server, self.name, order)
        try:
            made = await self._inner.create(order)
        finally:
            self._world.notice(self.name)
        await self._server.point(hot=True, slow=True)
        self._world.watch.sure.add(made.id)
        return made

    async def get(self, instance_id: str) -> Instance | None:
        await self._server.point(slow=True)
        found = await self._inner.get(instance_id)
        machine = self._cloud.machines.get(instance_id)
        if found is not None and machine is not None and self._blind(machine):
            self._world.count("blind_get")
            found = None
        await self._server.point()
        if found is None or found.phase is Phase.ENDED:
            proof = Proof(self._server.clock.now(), found.ended_at if found is not None else None)
            self._world.watch.proofs.setdefault(instance_id, []).append(proof)
        return found

    def _blind(self, machine: Machine) -> bool:
        """Some vendors know a new machine by id only after a while; the traits say how long that may be."""
        rate = self._world.conditions.rates.get("blind_get", 0.0) if self._world.troubled else 0.0
        young = self._world.clock.now() - machine.created_at < self._vendor.window * 0.5
        return bool(rate) and young and self._world.dice.random() < rate

    async def owned(self, owner: str) -> Sequence[Instance]:
        await self._server.point(slow=True)
        self._cloud.faults.list_lag = self._vendor.window * 0.3 if self._world.during("list_lag") else timedelta(0)
        found = await self._inner.owned(owner)
        if self._cloud.faults.list_lag and len(found) != len(self._cloud.living()):
            self._world.count("list_lag")
        rate = self._world.conditions.rates.get("list_hole", 0.0) if self._world.troubled else 0.0
        if rate and found and self._world.dice.random() < rate:
            hole = found[self._world.dice.randrange(len(found))].id
            if hole != self._world.watch.hidden.get(self.name):  # one list lies; two in a row do not tell the same lie
                self._world.count("list_hole")  # the answer says that it is whole, and it is not
                found = [one for one in found if one.id != hole]
                self._world.watch.hidden[self.name] = hole
        else:
            self._world.watch.hidden.pop(self.name, None)
        await self._server.point()
        for one in found:
            if one.phase is Phase.ENDED:  # the record of an end proves it, in a list as well
                self._world.watch.proofs.setdefault(one.id, []).append(Proof(self._server.clock.now(), one.ended_at))
        return found

    async def destroy(self, instance_id: str) -> None:
        await self._server.point(hot=True, slow=True)
        self._world.watch.destroying(self._server, self.name, instance_id)
        await self._inner.destroy(instance_id)
        await self._server.point(hot=True)

    async def check(self) -> Health:
        return await self._inner.check()

    async def aclose(self) -> None:
        await asyncio.sleep(0)
