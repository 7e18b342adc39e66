"""What Oracle has in the configured regions: shapes, what its capacity report says of them, and the settings' prices."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, cast

from providers.clock import Clock
from providers.contract import Availability, Offer, ProviderError, Unclear
from providers.oci_api import IDENTITY, Tenancy
from providers.oci_settings import COUNTRIES, GPU_MEMORY_GIB, SHAPE, OciSettings, offer_id
from providers.regions import answering, boots

CATALOGUE_EVERY = timedelta(hours=1)  # shapes and availability domains change with Oracle's releases, not with the minute
SCARCE = 2  # so many machines or fewer
BATCH = 20  # shapes in one capacity report
ARM = re.compile(r"ampere|\barm\b|neoverse|grace|vera", re.IGNORECASE)
ARM_SHAPE = re.compile(r"\.(A1|A2|A4)\.|\.(GB|VR)\d", re.IGNORECASE)
MARKS = re.compile(r"[®™©]|\((?:R|TM)\)|\b(?:NVIDIA|Tesla)\b", re.IGNORECASE)
RANK = (Availability.NONE, Availability.UNKNOWN, Availability.SCARCE, Availability.AVAILABLE)


@dataclass(frozen=True, slots=True)
class Kind:
    """One shape in one region."""

    name: str
    gpu: str | None
    gpus: int
    gpu_memory_gib: int
    memory_gib: int
    architecture: str
    domains: tuple[str, ...]  # availability domains that have it

    @property
    def preemptible(self) -> bool:
        """Oracle: "Preemptible capacity does not support bare metal instances"."""
        return self.name.startswith("VM.")


class Catalogue:
    """Shapes from memory while they are young; capacity is asked for each time."""

    def __init__(self, name: str, settings: OciSettings, tenancy: Tenancy, clock: Clock) -> None:
        self._name, self._settings, self._tenancy, self._clock = name, settings, tenancy, clock
        self._domains: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[str, tuple[datetime, Mapping[str, Kind]]] = {}
        self.troubles: dict[str, str] = {}  # region -> what was wrong at the last look
        self.unpriced: dict[str, frozenset[str]] = {}  # region -> shapes that are left out

    async def offers(self, regions: Iterable[str]) -> Sequence[Offer]:
        """Of the regions that answer. Raises if none does, or if the credentials are refused."""
        return await answering(regions, self._region, self.troubles)

    async def domains(self, region: str) -> tuple[str, ...]:
        """The region's availability domains, which have other names for each tenancy."""
        if region not in self._domains:
            rows = await self._tenancy.pages(region, "list_availability_domains", self._settings.tenancy, service=IDENTITY)
            names = tuple(sorted(_text(row.name) for row in rows))
            if not names:
                raise Unclear(f"oci {region}: no availability domain is told", maybe_created=False)
            self._domains[region] = names
        return self._domains[region]

    async def having(self, region: str, shape: str) -> tuple[str, ...]:
        """The availability domains that have the shape, as far as that is known; else all of the region."""
        known = self._kinds.get(region)
        there = known[1].get(shape) if known is not None else None
        return there.domains if there is not None else await self.domains(region)

    async def kinds(self, region: str) -> Mapping[str, Kind]:
        """Shape -> what it is, for those that the settings offer. Flexible shapes are left out: their size is open."""
        known, now = self._kinds.get(region), self._clock.now()
        if known is None or now - known[0] >= CATALOGUE_EVERY:
            known = self._kinds[region] = (now, await self._look(region))
        return known[1]

    async def _look(self, region: str) -> Mapping[str, Kind]:
        told: dict[str, Any] = {}
        had: dict[str, list[str]] = {}
        for domain in await self.domains(region):
            rows = await self._tenancy.pages(
                region, "list_shapes", self._settings.compartment, availability_domain=domain, limit=500
            )
            for row in rows:
                name = _text(row.shape)
                if not SHAPE.fullmatch(name) or row.is_flexible or domain in had.get(name, ()):
                    continue
                if any(fnmatchcase(name, pattern) for pattern in self._settings.shapes):
                    told[name] = row
                    had.setdefault(name, []).append(domain)
        return {name: self._kind(name, row, tuple(had[name])) for name, row in sorted(told.items())}

    def _kind(self, name: str, row: Any, domains: tuple[str, ...]) -> Kind:
        gpus = int(row.gpus or 0)
        described = " ".join(MARKS.sub(" ", row.gpu_description or "").split())
        known = [gib for pattern, gib in GPU_MEMORY_GIB.items() if fnmatchcase(name, pattern)]
        arm = ARM.search(row.processor_description or "") or ARM_SHAPE.search(name)
        return Kind(
            name,
            (described or name) if gpus else None,
            gpus,
            self._settings.gpu_memory_gib.get(name, known[0] if known else 0) if gpus else 0,
            int(row.memory_in_gbs or 0),
            "arm64" if arm else "amd64",
            domains,
        )

    async def _region(self, region: str) -> list[Offer]:
        settings = self._settings
        every = await self.kinds(region)
        kinds = {name: kind for name, kind in every.items() if boots(settings.images, region, kind.architecture)}
        prices: dict[tuple[str, bool], Decimal] = {}
        for kind in kinds.values():
            for preemptible in (False, True):
                price = settings.price(region, kind.name, preemptible=preemptible)
                sold = (settings.preemptible and kind.preemptible) if preemptible else settings.on_demand
                if sold and price is not None:
                    prices[kind.name, preemptible] = price
        priced = {name for name, _ in prices}
        self.unpriced[region] = frozenset(kinds.keys() - priced)
        had = await self._capacity(region, [kinds[name] for name in sorted(priced)])
        seen = self._clock.now()
        return [
            self._offer(region, kinds[name], price, had.get(name, Availability.UNKNOWN), seen, preemptible=preemptible)
            for (name, preemptible), price in prices.items()
        ]

    async def _capacity(self, region: str, kinds: Sequence[Kind]) -> Mapping[str, Availability]:
        """The best of all availability domains; unknown where the report is refused or fails, and the trouble is kept."""
        models, best = self._tenancy.models, dict[str, Availability]()
        self.troubles.pop(region, None)
        for domain in await self.domains(region):
            names = [kind.name for kind in kinds if domain in kind.domains]
            for start in range(0, len(names), BATCH):
                asked = models.CreateComputeCapacityReportDetails(
                    compartment_id=self._settings.tenancy,  # the report is always of the root compartment (the SDK's model)
                    availability_domain=domain,
                    shape_availabilities=[
                        models.CreateCapacityReportShapeAvailabilityDetails(instance_shape=name)
                        for name in names[start : start + BATCH]
                    ],
                )
                try:
                    answer = await self._tenancy.read(region, "create_compute_capacity_report", asked)
                    rows = [(_text(row.instance_shape), _availability(row)) for row in _rows(answer.data.shape_availabilities)]
                except ProviderError as error:
                    self.troubles[region] = str(error)
                    continue
                except (AttributeError, TypeError):
                    self.troubles[region] = f"oci {region}: an unreadable capacity report"
                    continue
                for name, found in rows:
                    best[name] = max(found, best.get(name, found), key=RANK.index)
        return best

    def _offer(self, region: str, kind: Kind, price: Decimal, had: Availability, seen: datetime, *, preemptible: bool) -> Offer:
        title = f"{kind.name}{' preemptible' if preemptible else ''} in {region}"
        return Offer(
            id=offer_id(region, kind.name, preemptible=preemptible),
            provider=self._name,
            region=region,
            price_per_hour=price,
            currency=self._settings.currency,
            seen_at=seen,
            country=COUNTRIES.get(region),
            gpu=kind.gpu,
            gpus=kind.gpus,
            gpu_memory_gib=kind.gpu_memory_gib,
            memory_gib=kind.memory_gib,
            disk_gib=self._settings.disk_gib,
            architecture=kind.architecture,
            spot=preemptible,
            availability=had,
            title=f"{kind.gpus} x {kind.gpu}, {title}" if kind.gpu else title,
            type=kind.name,
        )


def _availability(row: Any) -> Availability:
    """As the report words it; a status that is not known stays unknown."""
    if row.availability_status in ("OUT_OF_HOST_CAPACITY", "HARDWARE_NOT_SUPPORTED"):
        return Availability.NONE
    if row.availability_status != "AVAILABLE":
        return Availability.UNKNOWN
    count = row.available_count
    return Availability.SCARCE if isinstance(count, int) and count <= SCARCE else Availability.AVAILABLE


def _rows(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return cast("list[Any]", value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
