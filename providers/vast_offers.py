"""What Vast.ai has to rent now: its search, as priced offers, on demand and by bid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_UP, Decimal
from typing import Any

from providers.clock import Clock
from providers.contract import Availability, Need, Offer, Refused
from providers.vast_account import Account

COUNTRY = re.compile(r"(?:^|,\s*)([A-Z]{2})$")
ARCHITECTURES: Mapping[str, str] = {"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
CENT = Decimal("0.0001")
LOWEST_BID, HIGHEST_BID = Decimal("0.001"), Decimal(128)  # dollars an hour, as the description has them
MONTH = Decimal(730)  # hours
MEGABYTES = 1024  # in a GiB; the REST API counts memory in MB


@dataclass(frozen=True, slots=True)
class Ask:
    """What an offer's id says: the vendor's ask, and for a bid what the disk costs an hour on top of it."""

    number: int
    storage: Decimal | None  # None: on demand

    @property
    def id(self) -> str:
        return str(self.number) if self.storage is None else f"{self.number}/bid/{self.storage}"

    def bid(self, price: Decimal) -> Decimal:
        """What to bid so that bid and disk are the offer's price. Raises `Refused` where that is no bid."""
        bid = price - (self.storage or 0)
        if not LOWEST_BID <= bid <= HIGHEST_BID:
            raise Refused(f"{bid} dollars an hour is no bid at Vast")
        return bid

    @staticmethod
    def of(offer_id: str) -> Ask:
        """Raises `Refused` for what is no id of an offer of ours."""
        match = re.fullmatch(r"([1-9]\d{0,17})(?:/bid/(\d{1,4}(?:\.\d{1,9})?))?", offer_id, re.ASCII)
        if match is None:
            raise Refused(f"{offer_id[:100]!r} is no offer of Vast")
        return Ask(int(match[1]), None if match[2] is None else Decimal(match[2]))


@dataclass(frozen=True)
class Wanted:
    """The part of the settings that the search is made with."""

    countries: tuple[str, ...]
    gpus: tuple[str, ...]
    counts: tuple[int, ...]
    verified: bool
    datacenter: bool
    min_reliability: Decimal
    min_duration: timedelta
    min_cuda: str
    disk_gib: int
    bids: bool
    bid_margin: Decimal
    rows: int


class Search:
    """One call on demand, and one for bids where they are wanted. Raises only `ProviderError` and what `guarded` catches."""

    def __init__(self, name: str, account: Account, wanted: Wanted, clock: Clock) -> None:
        self._name, self._account, self._wanted, self._clock = name, account, wanted, clock

    async def offers(self, need: Need) -> list[Offer]:
        found: dict[str, Offer] = {}
        for spot in (False, True):
            if (need.spot is not None and need.spot is not spot) or (spot and not self._wanted.bids):
                continue
            for row in await self._account.search(self.query(need, spot=spot)):
                offer = self._offer(row, spot=spot)
                if offer is not None:
                    found[offer.id] = offer
        return list(found.values())

    def query(self, need: Need, *, spot: bool) -> dict[str, Any]:
        wanted = self._wanted
        counts = [need.gpus] if need.gpus else list(wanted.counts)
        query: dict[str, Any] = {
            "type": "bid" if spot else "ondemand",
            "limit": wanted.rows,  # the daily quota counts rows, not calls
            "order": [["dph_total", "asc"], ["id", "asc"]],
            "allocated_storage": wanted.disk_gib,
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "external": {"eq": False},
            "gpu_arch": {"eq": "nvidia"},  # whether a machine works is proven by NVML
            "cpu_arch": {"in": ["amd64", "arm64"]},  # the default shows no Arm host
            "num_gpus": {"in": counts},
            "disk_space": {"gte": wanted.disk_gib},
            "reliability": {"gte": float(wanted.min_reliability)},
            "duration": {"gte": wanted.min_duration.total_seconds()},
        }
        if wanted.verified:
            query["verified"] = {"eq": True}
        if wanted.datacenter:
            query["datacenter"] = {"eq": True}
        if wanted.countries:
            query["geolocation"] = {"in": list(wanted.countries)}
        if wanted.gpus:
            query["gpu_name"] = {"in": [name.replace("_", " ") for name in wanted.gpus]}
        if need.gpu_memory_gib:
            query["gpu_ram"] = {"gte": (need.gpu_memory_gib - 1) * MEGABYTES}  # an "80 GB" H100 has 81559 MB
        if wanted.min_cuda:
            query["cuda_max_good"] = {"gte": float(wanted.min_cuda)}
        return query

    def _offer(self, row: Mapping[str, Any], *, spot: bool) -> Offer | None:
        """None for what does not keep to the search: another country, no price, no GPU."""
        match = COUNTRY.search(str(row.get("geolocation") or ""))
        country = match[1] if match else None
        gpus, gpu = int(row["num_gpus"]), str(row["gpu_name"])[:100]
        architecture = ARCHITECTURES.get(str(row.get("cpu_arch") or "amd64"))
        number, price, storage = int(row["id"]), _money(row.get("dph_total")), self._storage(row)
        if spot:
            bid = _money(row.get("min_bid"))
            price = None if bid is None else _up(max(bid * self._wanted.bid_margin, LOWEST_BID)) + storage
        if price is None or gpus < 1 or number < 1 or architecture is None or row.get("rentable") is False:
            return None
        if self._wanted.countries and country not in self._wanted.countries:
            return None
        share = _money(row.get("gpu_frac")) or Decimal(1)
        memory = _money(row.get("cpu_ram"))
        return Offer(
            id=Ask(number, storage if spot else None).id,
            provider=self._name,
            region=country or "unknown",
            price_per_hour=_up(price),
            currency="USD",
            seen_at=self._clock.now(),
            country=country,
            gpu=gpu,
            gpus=gpus,
            gpu_memory_gib=round(float(row["gpu_ram"]) / MEGABYTES),
            memory_gib=None if memory is None else int(memory * share / MEGABYTES),
            disk_gib=self._wanted.disk_gib,
            architecture=architecture,
            spot=spot,
            availability=Availability.AVAILABLE,
            title=f"{gpus} x {gpu}, machine {row.get('machine_id')}, reliability {row.get('reliability2')}"[:120],
            type=f"{gpus} x {gpu}",
        )

    def _storage(self, row: Mapping[str, Any]) -> Decimal:
        """The asked disk's dollars an hour: as told, else by its price per GB and month."""
        told = _money(row.get("storage_total_cost"))
        return _up(told if told is not None else (_money(row.get("storage_cost")) or 0) * self._wanted.disk_gib / MONTH)


def _money(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = Decimal(str(value))
    return number if number.is_finite() and number >= 0 else None


def _up(value: Decimal | int) -> Decimal:
    return Decimal(value).quantize(CENT, ROUND_UP)
