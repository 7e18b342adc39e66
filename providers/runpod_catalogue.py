"""What RunPod has to rent now: its catalogue of GPU types and data centres as offers, and whether one is in stock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from providers.clock import Clock
from providers.contract import Availability, Need, Offer, Refused
from providers.http import tables
from providers.runpod_account import Account


class Cloud(StrEnum):
    SECURE = "secure"  # RunPod's own halls
    COMMUNITY = "community"  # other people's machines: never for what must not be read


STOCK: Mapping[str, Availability] = {
    "NONE": Availability.NONE,
    "LOW": Availability.SCARCE,
    "MEDIUM": Availability.AVAILABLE,
    "HIGH": Availability.AVAILABLE,
}
IN_STOCK = frozenset({Availability.SCARCE, Availability.AVAILABLE})
ANYWHERE = "any"
"""The region of an offer whose place RunPod chooses: the catalogue names no data centre for it."""
PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}")
GPU_ID = re.compile(r"[ -~]{1,100}")
CONTINENTS = frozenset({"EU", "EUR", "AP", "SEA", "OC", "ME", "AF", "SA", "NA", "AS", "LATAM"})
"""First parts of data-centre names that stand before a country (`AP-JP-1`); any other two letters are one (`US-KS-2`)."""
ARM = re.compile(r"\b(?:gh\d{3}|gb\d{3}|vr\d{3}|grace|vera)\b", re.IGNORECASE)
"""Grace and Vera hosts are Arm machines. The catalogue has no field for it, so the GPU's name has to tell."""
MONTH = Decimal(730)  # hours
PLACES_KEPT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Place:
    """What an offer's id says: cloud, data centre, number of GPUs and their type."""

    cloud: Cloud
    data_center: str
    count: int
    gpu: str

    @property
    def id(self) -> str:
        return f"{self.cloud}/{self.data_center}/{self.count}/{self.gpu}"

    @staticmethod
    def of(offer_id: str) -> Place:
        """Raises `Refused` for what is no id of an offer of ours."""
        cloud, _, rest = offer_id.partition("/")
        data_center, _, rest = rest.partition("/")
        count, _, gpu = rest.partition("/")
        if cloud not in set(Cloud) or not PLACE.fullmatch(data_center) or not GPU_ID.fullmatch(gpu):
            raise Refused(f"{offer_id[:100]!r} is no offer of RunPod")
        if not count.isdecimal() or not 1 <= int(count) <= 64:
            raise Refused(f"{offer_id[:100]!r} is no offer of RunPod")
        return Place(Cloud(cloud), data_center, int(count), gpu)


@dataclass(frozen=True)
class Wanted:
    """The part of the settings that the catalogue is asked with."""

    clouds: tuple[Cloud, ...]
    counts: tuple[int, ...]
    data_centers: tuple[str, ...]
    regions: tuple[str, ...]
    countries: tuple[str, ...]
    compliance: tuple[str, ...]
    country_of: Mapping[str, str]
    min_cuda: str
    disk_gib: int
    disk_price: Decimal  # per GB and month


class Catalogue:
    """Asks once per cloud and number of GPUs. Raises only `ProviderError` and what `guarded` catches."""

    def __init__(self, name: str, account: Account, wanted: Wanted, clock: Clock) -> None:
        self._name, self._account, self._wanted, self._clock = name, account, wanted, clock
        self._places: tuple[datetime, frozenset[str]] | None = None

    async def offers(self, need: Need, barred: frozenset[str]) -> list[Offer]:
        """One per cloud, data centre, GPU type and number; `barred` are GPU types that the account may not have."""
        if need.spot:
            return []  # API v2 has no field for interruptible pods
        found: dict[str, Offer] = {}
        for cloud in self._wanted.clouds:
            for count in (need.gpus,) if need.gpus else self._wanted.counts:
                for gpu in await self._stock(cloud, count):
                    for offer in await self._of(gpu, cloud, count):
                        if str(gpu["id"]) not in barred:
                            found[offer.id] = offer
        return list(found.values())

    async def priced(self) -> int:
        """How many GPU types have a price in our clouds."""
        gpus = await self._account.gpus({})
        return sum(any(_price(gpu, cloud) for cloud in self._wanted.clouds) for gpu in gpus)

    async def in_stock(self, cloud: Cloud, count: int) -> Mapping[str, frozenset[str]]:
        """GPU type -> the data centres that have so many of it now, by the vendor's own word."""
        now: dict[str, frozenset[str]] = {}
        for gpu in await self._stock(cloud, count):
            now[str(gpu["id"])] = frozenset(place for place, level in self._levels(gpu) if level in IN_STOCK)
        return now

    async def _stock(self, cloud: Cloud, count: int) -> Sequence[Mapping[str, Any]]:
        params: dict[str, str | int] = {"include": "AVAILABILITY", "product": "POD", "count": count, "cloud": cloud.upper()}
        if self._wanted.countries:
            params["countryCodes"] = ",".join(self._wanted.countries)
        if self._wanted.min_cuda:
            params["minCudaVersion"] = self._wanted.min_cuda
        return await self._account.gpus(params)

    def _levels(self, gpu: Mapping[str, Any]) -> list[tuple[str, Availability]]:
        """Data centre and stock. A type that is there but in no data centre that is named may be placed anywhere."""
        named = [(str(place["id"]), _level(place.get("availability"))) for place in tables(gpu.get("dataCenters") or [])]
        return [one for one in named if PLACE.fullmatch(one[0])] or [(ANYWHERE, _level(gpu.get("availability")))]

    async def _of(self, gpu: Mapping[str, Any], cloud: Cloud, count: int) -> list[Offer]:
        price, most = _price(gpu, cloud), int(gpu["maxCount"][cloud.value])
        # Whether a machine works is proven by NVML, which AMD's do not have. UNKNOWN may be a new one of NVIDIA's.
        if price is None or count > most or gpu.get("manufacturer") == "AMD" or not GPU_ID.fullmatch(str(gpu["id"])):
            return []
        allowed = await self._allowed()
        return [
            self._offer(Place(cloud, place, count, str(gpu["id"])), gpu, price * count, level)
            for place, level in self._levels(gpu)
            if (allowed is None or place in allowed) and not (place == ANYWHERE and self._wanted.countries)
        ]

    def _offer(self, place: Place, gpu: Mapping[str, Any], price: Decimal, level: Availability) -> Offer:
        storage = self._wanted.disk_price * self._wanted.disk_gib / MONTH
        return Offer(
            id=place.id,
            provider=self._name,
            region=place.data_center,
            price_per_hour=(price + storage).quantize(Decimal("0.0001")),
            currency="USD",
            seen_at=self._clock.now(),
            country=self._country(place.data_center),
            gpu=place.gpu,
            gpus=place.count,
            gpu_memory_gib=int(gpu["memory"]),
            disk_gib=self._wanted.disk_gib,
            architecture="arm64" if ARM.search(f"{place.gpu} {gpu.get('name', '')}") else "amd64",
            availability=level,
            title=f"{place.count} x {gpu.get('name') or place.gpu}, {place.cloud} cloud",
            type=f"{place.count} x {place.gpu}",
        )

    def _country(self, data_center: str) -> str | None:
        """As the settings say, or as the name does."""
        if data_center in self._wanted.country_of:
            return self._wanted.country_of[data_center].upper()
        first, second, *_ = (*data_center.upper().split("-"), "")
        word = second if first in CONTINENTS else first
        return word if re.fullmatch(r"[A-Z]{2}", word) else None

    async def _allowed(self) -> frozenset[str] | None:
        """The data centres that the settings leave; None: any, and where RunPod chooses it, too.

        Countries are no part of it: the stock itself is asked for by country."""
        wanted, now = self._wanted, self._clock.now()
        chosen = frozenset(wanted.data_centers) if wanted.data_centers else None
        if not wanted.regions and not wanted.compliance:
            return chosen
        if self._places is None or now - self._places[0] > PLACES_KEPT:
            asked = {"regions": wanted.regions, "compliance": wanted.compliance}
            params: dict[str, str | int] = {key: ",".join(words) for key, words in asked.items() if words}
            rows = await self._account.data_centers(params)
            self._places = (now, frozenset(str(row["id"]) for row in rows))
        return self._places[1] if chosen is None else self._places[1] & chosen


def _level(word: object) -> Availability:
    return STOCK.get(str(word), Availability.UNKNOWN)


def _price(gpu: Mapping[str, Any], cloud: Cloud) -> Decimal | None:
    """Dollars per hour of one GPU; None where it is not for rent in this cloud."""
    price = Decimal(str(gpu["price"][cloud.value])).quantize(Decimal("0.0001"))
    return price if gpu[cloud.value] is True and price > 0 else None
