"""A provider in memory that stalls, lies, loses replies and keeps its own invoice: for tests, and to look at Sublet.

It keeps the contract as honestly as a real wrapper does; the trouble is made by the cloud behind it (`fake_cloud.py`),
which a test passes in, scripts and reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import TypeVar

from providers.clock import SYSTEM, Clock
from providers.contract import (
    Availability,
    BootsFrom,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Phase,
    Profile,
    ProviderError,
    Refused,
    Throttled,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.fake_cloud import Call, FakeCloud, Fault, Machine, Trouble

T = TypeVar("T")
CHAOS = (Trouble.BROKEN_OFF, Trouble.LOST_REPLY, Trouble.THROTTLED)


@dataclass(frozen=True)
class FakeSettings:
    seed: int = 0
    region: str = "sg"
    country: str = "SG"
    gpu: str = "rubin"
    gpus: int = 1  # 0: a machine without a GPU
    gpu_memory_gib: int = 288
    memory_gib: int = 512
    disk_gib: int = 1000
    architecture: str = "arm64"
    price_per_hour: Decimal = Decimal("3.60")
    spot: bool = False
    capacity: int = 0  # machines at once; 0: no limit
    boot: timedelta = timedelta(seconds=20)
    ending: timedelta = timedelta(0)
    granularity: timedelta = timedelta(seconds=1)
    minimum: timedelta = timedelta(0)
    honours_keys: bool = True
    unique_names: bool = True
    dead_man_switch: bool = False
    keeps_records: bool = False  # of ended machines
    boots_containers: bool = False  # its orders need a container image, and name it by its digest
    user_data_limit: int = 16384
    offers_every: timedelta = timedelta(seconds=2)
    chaos: Decimal = Decimal(0)  # share of calls that get a random trouble


class FakeProvider:
    """See the module. `cloud` outlives it; without one it gets its own, made by its settings."""

    Settings = FakeSettings

    def __init__(self, name: str, settings: FakeSettings, *, clock: Clock = SYSTEM, cloud: FakeCloud | None = None) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=settings.granularity,
            billing_minimum=settings.minimum,
            spot=settings.spot,
            spot_notice=timedelta(0) if settings.spot else None,
            idempotent_create=settings.honours_keys,
            unique_names=settings.unique_names,
            unknown_window=timedelta(seconds=60),
            knows_at_once=True,
            user_data_limit=settings.user_data_limit,
            tag_limit=63,
            offers_every=settings.offers_every,
            profile=Profile(proven_against="itself: a cloud in memory, for tests"),
            dead_man_switch=settings.dead_man_switch,
            boots_from=BootsFrom.CONTAINER_IMAGE if settings.boots_containers else BootsFrom.MACHINE_IMAGE,
        )
        self.cloud = cloud if cloud is not None else make_cloud(name, settings, clock)

    async def offers(self, need: Need) -> Sequence[Offer]:
        def look() -> list[Offer]:
            full = self._full()
            stock = Availability.NONE if full else Availability.AVAILABLE
            return [replace(offer, seen_at=self.cloud.now, availability=stock) for offer in self.cloud.shelf]

        return await self._call("offers", "", look)

    async def create(self, order: Order) -> Instance:
        vet(order, self.traits)

        def make() -> Instance:
            twin = self.cloud.twin(order)
            if twin is None:
                if self._full():
                    raise NoCapacity(f"{self.name} has no machine left")
                return self._instance(self.cloud.make(order))
            if twin.owner != order.owner:
                raise Refused(f"the name {order.tag} is taken")
            if twin.key != order.key or twin.tag != order.tag:
                raise Unclear(f"an instance {order.tag} of another attempt is there")
            if twin.runs_from is None:
                twin.runs_from = self.cloud.now + self.cloud.boot
            return self._instance(twin)

        def meet(fault: Fault) -> Instance:
            if fault.trouble is Trouble.LATE:
                self.cloud.later(order, fault.wait)
            elif fault.trouble is Trouble.HALF:
                if self.cloud.twin(order) is None:  # one key is one machine, however often it does not come up
                    self.cloud.make(order, half=True)
            elif fault.trouble is Trouble.DOUBLED:
                if self.cloud.twin(order) is None:  # a repeated order has its first machine already
                    self.cloud.make(order)
                return self._instance(self.cloud.make(order))
            raise Unclear(fault.text or f"{self.name}: no answer to create")

        return await self._call("create", order.tag, make, meet)

    async def get(self, instance_id: str) -> Instance | None:
        def look() -> Instance | None:
            machine = self.cloud.machines.get(instance_id)
            if machine is None or (machine.phase(self.cloud.now) is None and not self.cloud.keeps_records):
                return None
            return self._instance(machine)

        return await self._call("get", instance_id, look)

    async def owned(self, owner: str) -> Sequence[Instance]:
        return await self._call("owned", owner, lambda: [self._instance(machine) for machine in self.cloud.seen(owner)])

    async def destroy(self, instance_id: str) -> None:
        def end(wait: timedelta) -> None:
            machine = self.cloud.machines.get(instance_id)
            if machine is not None and machine.phase(self.cloud.now) is not None:
                self.cloud.end(machine, wait, "destroyed")

        def meet(fault: Fault) -> None:
            if fault.trouble is Trouble.STUCK:
                end(fault.wait)
            elif fault.trouble is not Trouble.IGNORED:
                raise Unclear(f"{self.name}: no answer to destroy", maybe_created=False)

        await self._call("destroy", instance_id, lambda: end(self.cloud.ending), meet)

    async def check(self) -> Health:
        try:
            await self._call("check", "", lambda: None)
        except ProviderError as error:
            return Health(False, str(error))
        living = len(self.cloud.living())
        return Health(True, f"{living} machines live in this fake cloud", {"machines": str(living)})

    async def aclose(self) -> None:
        """Nothing to close: the cloud lives on."""

    def _full(self) -> bool:
        return self.cloud.capacity is not None and len(self.cloud.living()) >= self.cloud.capacity

    def _instance(self, machine: Machine) -> Instance:
        # One that is gone has left a record, or a lagging list still shows it.
        phase = machine.phase(self.cloud.now) or (Phase.ENDED if self.cloud.keeps_records else Phase.DESTROYING)
        detail = machine.why or phase.value
        ended_at = machine.gone_at if phase is Phase.ENDED else None
        return Instance(machine.id, machine.tag, phase, machine.created_at, machine.region, detail, machine.key, ended_at)

    async def _call(self, verb: str, subject: str, effect: Callable[[], T], meet: Callable[[Fault], T] | None = None) -> T:
        """One call of the API: trouble first, then the effect, then a line in the log."""
        cloud = self.cloud
        cloud.settle()
        fault = cloud.faults.take(verb, cloud.now) or self._chaos()
        if fault is not None and fault.trouble is Trouble.STALLED:
            await cloud.clock.sleep(fault.wait.total_seconds())
            cloud.settle()
        outcome = fault.trouble.value if fault else "ok"
        try:
            with guarded(f"fake {verb}", maybe_created=verb == "create"):
                return self._met(verb, fault, effect, meet)
        except ProviderError as error:
            outcome = f"{outcome}: {type(error).__name__}" if fault else type(error).__name__
            raise
        finally:
            cloud.calls.append(Call(cloud.now, verb, subject, outcome))

    def _met(self, verb: str, fault: Fault | None, effect: Callable[[], T], meet: Callable[[Fault], T] | None) -> T:
        unclear = Unclear(f"{self.name}: no answer to {verb}", maybe_created=verb == "create")
        if fault is None or fault.trouble is Trouble.STALLED:
            return effect()
        match fault.trouble:
            case Trouble.REFUSED:
                raise Refused(fault.text or f"{self.name} does not accept the key", why=fault.why)
            case Trouble.NO_CAPACITY:
                raise NoCapacity(fault.text or f"{self.name} has no machine of this kind now", reach=fault.reach)
            case Trouble.THROTTLED:
                raise Throttled(fault.text or f"{self.name} asks to slow down", wait=fault.wait)
            case Trouble.LOST_REPLY:
                effect()
                raise unclear
            case Trouble.BROKEN_OFF:
                raise unclear
            case _:
                if meet is None:
                    raise unclear
                return meet(fault)

    def _chaos(self) -> Fault | None:
        faults, dice = self.cloud.faults, self.cloud.random
        if faults.chaos <= 0 or dice.random() >= faults.chaos:
            return None
        return Fault(dice.choice(CHAOS), wait=timedelta(seconds=1 + dice.randrange(10)))


def make_cloud(name: str, settings: FakeSettings, clock: Clock) -> FakeCloud:
    """A cloud with one offer on its shelf, as the settings say."""
    cloud = FakeCloud(
        clock=clock,
        seed=settings.seed,
        boot=settings.boot,
        ending=settings.ending,
        capacity=settings.capacity or None,
        granularity=settings.granularity,
        minimum=settings.minimum,
        honours_keys=settings.honours_keys,
        unique_names=settings.unique_names,
        dead_man_switch=settings.dead_man_switch,
        keeps_records=settings.keeps_records,
    )
    cloud.faults.chaos = float(settings.chaos)
    cloud.shelf.append(
        Offer(
            id=f"{name}-1",
            provider=name,
            region=settings.region,
            country=settings.country,
            price_per_hour=settings.price_per_hour,
            currency=cloud.currency,
            seen_at=clock.now(),
            gpu=settings.gpu if settings.gpus else None,
            gpus=settings.gpus,
            gpu_memory_gib=settings.gpu_memory_gib if settings.gpus else 0,
            memory_gib=settings.memory_gib,
            disk_gib=settings.disk_gib,
            architecture=settings.architecture,
            spot=settings.spot,
            notice=timedelta(0) if settings.spot else None,
            availability=Availability.AVAILABLE,
            title=f"{settings.gpus} x {settings.gpu}" if settings.gpus else "no GPU",
        )
    )
    return cloud
