"""Plugins as strangers would write them, good and bad, for the registry's tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from providers.contract import Health, Instance, Need, Offer, Order, Secret, Traits


class Tier(StrEnum):
    SPOT = "spot"
    FIRM = "firm"


@dataclass(frozen=True)
class AcmeSettings:
    token: Secret
    region: str
    zones: tuple[str, ...] = ()
    price_cap: Decimal = Decimal(10)
    patience: timedelta = timedelta(seconds=30)
    ca: Path | None = None
    retries: int = 3
    verify: bool = True
    share: float = 1.0
    tier: Tier = Tier.FIRM
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if self.region == "moon":
            raise ValueError(f"there is no region moon for {self.token.reveal()}")


class Acme:
    Settings = AcmeSettings

    def __init__(self, name: str, settings: AcmeSettings) -> None:
        self.name, self.settings, self.traits = name, settings, Traits()
        if settings.region == "mars":
            raise RuntimeError(f"mars does not like {settings.token.reveal()}")

    async def offers(self, need: Need) -> Sequence[Offer]:
        return ()

    async def create(self, order: Order) -> Instance:
        raise NotImplementedError

    async def get(self, instance_id: str) -> Instance | None:
        return None

    async def owned(self, owner: str) -> Sequence[Instance]:
        return ()

    async def destroy(self, instance_id: str) -> None: ...

    async def check(self) -> Health:
        return Health(True, "fine")

    async def aclose(self) -> None: ...


class FromTheFuture(Acme):
    """Says at the class already that it was written for another contract."""

    traits = Traits(contract=2)


class QuietlyFromTheFuture(Acme):
    """Says so only once it is built."""

    def __init__(self, name: str, settings: AcmeSettings) -> None:
        super().__init__(name, settings)
        self.traits = Traits(contract=2)


@dataclass
class OpenSettings:
    token: str = ""


class NotFrozen(Acme):
    Settings = OpenSettings  # pyright: ignore[reportAssignmentType]  that is what is wrong with it


class NoSettings:
    pass


@dataclass(frozen=True)
class GreedySettings:
    name: str = ""


class Greedy(Acme):
    Settings = GreedySettings  # pyright: ignore[reportAssignmentType]  that is what is wrong with it
