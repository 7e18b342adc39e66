"""The machines in our attic, as a Sublet provider: knows the contract of Sublet and nothing else of it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from providers.contract import (
    TAG,
    Availability,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Phase,
    Profile,
    Reach,
    Refused,
    Secret,
    Traits,
    Unclear,
    Why,
    guarded,
    vet,
)
from sublet_attic.desk import BadKey, Desk, Full, Row

T = TypeVar("T")
PHASES = {"booked": Phase.STARTING, "on": Phase.RUNNING, "off": Phase.STOPPED, "broken": Phase.FAILED}


@dataclass(frozen=True)
class AtticSettings:
    book: Path  # the SQLite file of the attic's desk
    key: Secret
    price_per_hour: Decimal = Decimal("1.20")
    gpu: str = "VR200"
    machines: int = 3

    def __post_init__(self) -> None:
        if self.machines < 1 or self.price_per_hour < 0:
            raise ValueError("the attic has at least one machine, and nobody is paid for renting it")


def utc_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251  somebody outside has a clock of his own


class AtticProvider:
    """See the module. An instance's id is the number that the desk gave it."""

    Settings = AtticSettings

    def __init__(self, name: str, settings: AtticSettings) -> None:
        self.name, self.settings = name, settings
        self.now: Callable[[], datetime] = utc_now
        self.desk = Desk(settings.book, settings.machines)
        self.traits = Traits(
            idempotent_create=True,
            unique_names=True,
            knows_at_once=True,
            unknown_window=timedelta(seconds=30),
            user_data_limit=64 * 1024,
            offers_every=timedelta(seconds=10),
            profile=Profile(
                hardware="Vera Rubin",
                footprint="under our roof",
                proven_against="its own desk, which is a file: the vendor itself",
            ),
        )

    def __repr__(self) -> str:
        return f"<AtticProvider {self.name}>"

    async def offers(self, need: Need) -> Sequence[Offer]:
        with guarded("attic offers"):
            free = await self._ask(self.desk.free)
            offer = Offer(
                id="attic",
                provider=self.name,
                region="home",
                price_per_hour=self.settings.price_per_hour,
                currency="USD",
                seen_at=self.now(),
                country="SG",
                gpu=self.settings.gpu,
                gpus=1,
                gpu_memory_gib=288,
                memory_gib=512,
                disk_gib=1000,
                architecture="amd64",
                availability=Availability.AVAILABLE if free else Availability.NONE,
                title="a machine in the attic",
                type="attic.1",
            )
            return [offer]

    async def create(self, order: Order) -> Instance:
        with guarded("attic create", maybe_created=True):
            vet(order, self.traits)
            values = (order.tag, order.owner, order.key, order.user_data, self.now(), order.ends_at)
            row = await self._ask(self.desk.book, *values)
            if row.owner != order.owner:
                raise Refused(f"the name {order.tag} is taken")
            if row.key != order.key:
                raise Unclear(f"{order.tag} is there from another attempt")
            return self._instance(row)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("attic get"):
            row = await self._ask(self.desk.find, instance_id)
            return None if row is None else self._instance(row)

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("attic owned"):
            return [self._instance(row) for row in await self._ask(self.desk.of, owner)]

    async def destroy(self, instance_id: str) -> None:
        with guarded("attic destroy"):
            await self._ask(self.desk.give_back, instance_id, self.now())

    async def check(self) -> Health:
        with guarded("attic check"):
            free = await self._ask(self.desk.free)
            return Health(True, f"{free} of {self.settings.machines} machines are free")

    async def aclose(self) -> None:
        """The desk is opened anew for each question."""

    async def _ask(self, question: Callable[..., T], *values: object) -> T:
        try:
            return await asyncio.to_thread(question, self.settings.key.reveal(), *values)
        except Full:
            raise NoCapacity("the attic is full", reach=Reach.PROVIDER) from None
        except BadKey:
            raise Refused("the desk does not know this key", why=Why.CREDENTIALS) from None

    def _instance(self, row: Row) -> Instance:
        known = TAG.fullmatch(row.tag) is not None
        phase = PHASES.get(row.state, Phase.UNKNOWN) if known else Phase.FAILED
        return Instance(row.id, row.tag, phase, row.made_at, "home", row.state, row.key)
