"""What AWS has in the configured regions: machine types with their zones from EC2, and what an hour of each costs."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from providers.aws_api import PRICE_REGION, Account
from providers.aws_settings import COUNTRIES, TYPE, AwsSettings, offer_id
from providers.clock import Clock
from providers.contract import Offer, ProviderError, Throttled, Unclear
from providers.http import table, tables
from providers.regions import answering, boots

CATALOGUE_EVERY = timedelta(hours=1)  # machine types and zones change with AWS's releases, not with the minute
PRICES_EVERY = timedelta(hours=24)  # a list price changes a few times a year
ASK_AGAIN = timedelta(minutes=15)  # after a price could not be had
NOTICE = timedelta(minutes=2)  # AWS, "Spot Instance interruption notices"
AT_ONCE = 8  # price questions
BATCH = 100  # DescribeInstanceTypes takes so many names
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One machine type in one region."""

    name: str
    gpu: str | None
    gpus: int
    gpu_memory_gib: int
    memory_gib: int
    architecture: str
    on_demand: bool
    spot: bool
    places: Mapping[str, str]  # our subnets whose zone has it -> that zone


class Catalogue:
    """Types and prices, from memory while they are young."""

    def __init__(self, name: str, settings: AwsSettings, account: Account, clock: Clock) -> None:
        self._name, self._settings, self._account, self._clock = name, settings, account, clock
        self._kinds: dict[str, tuple[datetime, Mapping[str, Kind]]] = {}
        self._listed: dict[tuple[str, str], tuple[datetime, Decimal | None]] = {}
        self._asking = asyncio.Semaphore(AT_ONCE)
        self.troubles: dict[str, str] = {}  # region, or "prices" -> what was wrong at the last look
        self.unpriced: dict[str, frozenset[str]] = {}  # region -> types that are left out

    async def offers(self, regions: Iterable[str]) -> Sequence[Offer]:
        """Of the regions that answer. Raises if none does, or if the credentials are refused."""
        return await answering(regions, self._region, self.troubles)

    async def kinds(self, region: str) -> Mapping[str, Kind]:
        """Machine type -> what it is, for those that the settings offer and our zones have."""
        known = self._kinds.get(region)
        now = self._clock.now()
        if known is None or now - known[0] >= CATALOGUE_EVERY:
            known = self._kinds[region] = (now, await self._look(region))
        return known[1]

    def subnets(self, region: str, kind: str) -> tuple[str, ...]:
        """Our subnets whose zone has the type, as far as that is known; else all of the region."""
        known = self._kinds.get(region)
        there = known[1].get(kind) if known is not None else None
        return tuple(there.places) if there is not None else self._settings.subnets[region]

    async def _look(self, region: str) -> Mapping[str, Kind]:
        ours = self._settings.subnets[region]
        rows = await self._account.pages(region, "describe_subnets", "Subnets", SubnetIds=list(ours))
        zones = {str(row["SubnetId"]): str(row["AvailabilityZone"]) for row in rows}
        if set(zones) != set(ours):
            raise Unclear(f"aws {region}: not every subnet is told", maybe_created=False)
        offerings = await self._account.pages(
            region,
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[
                {"Name": "location", "Values": sorted(set(zones.values()))},
                {"Name": "instance-type", "Values": list(self._settings.types)},  # EC2's filters know * and ?
            ],
        )
        had: dict[str, set[str]] = {}
        for row in offerings:
            if TYPE.fullmatch(str(row["InstanceType"])):
                had.setdefault(str(row["InstanceType"]), set()).add(str(row["Location"]))
        names, kinds = sorted(had), dict[str, Kind]()
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            told = await self._account.pages(region, "describe_instance_types", "InstanceTypes", InstanceTypes=batch)
            for row in told:
                name = str(row["InstanceType"])
                places = {subnet: zones[subnet] for subnet in ours if zones[subnet] in had.get(name, ())}
                kind = _kind(name, row, places)
                if kind is not None and places:
                    kinds[name] = kind
        return kinds

    async def _region(self, region: str) -> list[Offer]:
        settings, seen = self._settings, self._clock.now()
        self.troubles.pop(region, None)
        kinds = [kind for kind in (await self.kinds(region)).values() if boots(settings.images, region, kind.architecture)]
        listed: dict[str, Decimal | None] = {}
        if settings.on_demand:
            sold = [kind.name for kind in kinds if kind.on_demand]
            listed = dict(zip(sold, await asyncio.gather(*(self._price(region, name) for name in sold)), strict=True))
        spot = await self._spot_prices(region, [kind for kind in kinds if kind.spot and settings.spot])
        self.unpriced[region] = frozenset(name for name, price in listed.items() if price is None)
        offers = [self._offer(region, kind, price, seen) for kind in kinds if (price := listed.get(kind.name)) is not None]
        for kind in kinds:
            if (price := spot.get(kind.name)) is not None:
                offers.append(self._offer(region, kind, price, seen, spot=True))  # noqa: PERF401  two plain loops read best
        return offers

    def _offer(self, region: str, kind: Kind, price: Decimal, seen: datetime, *, spot: bool = False) -> Offer:
        title = f"{kind.name}{' spot' if spot else ''} in {region}"
        return Offer(
            id=offer_id(region, kind.name, spot=spot),
            provider=self._name,
            region=region,
            price_per_hour=price,
            currency="USD",
            seen_at=seen,
            country=COUNTRIES.get(region),
            gpu=kind.gpu,
            gpus=kind.gpus,
            gpu_memory_gib=kind.gpu_memory_gib,
            memory_gib=kind.memory_gib,
            disk_gib=self._settings.disk_gib,
            architecture=kind.architecture,
            spot=spot,
            title=f"{kind.gpus} x {kind.gpu}, {title}" if kind.gpu else title,
            type=kind.name,
            notice=NOTICE if spot else None,
        )

    async def _price(self, region: str, kind: str) -> Decimal | None:
        """On demand: the settings' price, else the price list's; None if neither tells one."""
        said = self._settings.price(region, kind, spot=False)
        if said is not None:
            return said
        async with self._asking:
            now = self._clock.now()
            known = self._listed.get((region, kind))
            if known is not None and now - known[0] < (PRICES_EVERY if known[1] is not None else ASK_AGAIN):
                return known[1]
            price = known[1] if known is not None else None
            try:
                price = await self._list_price(region, kind)
                self.troubles.pop("prices", None)
            except Throttled:
                return price  # asked again at the next look
            except (ProviderError, LookupError, TypeError, ValueError) as error:
                self.troubles["prices"] = str(error) if isinstance(error, ProviderError) else "an unreadable price list"
            self._listed[region, kind] = (now, price)
            return price

    async def _list_price(self, region: str, kind: str) -> Decimal | None:
        exact = {
            "instanceType": kind,
            "regionCode": region,
            "operatingSystem": "Linux",
            "preInstalledSw": "NA",
            "tenancy": "Shared",
            "capacitystatus": "Used",
        }
        answer = await self._account.read(
            PRICE_REGION,
            "get_products",
            service="pricing",
            ServiceCode="AmazonEC2",
            FormatVersion="aws_v1",
            Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in exact.items()],
        )
        products = [json.loads(text) for text in answer["PriceList"]]
        prices = {price for product in products for price in _hourly(table(product))}
        return max(prices) if prices else None

    async def _spot_prices(self, region: str, kinds: Sequence[Kind]) -> Mapping[str, Decimal]:
        """The highest among our zones: any of them may give the machine, and none shall cost more than was shown."""
        said = {kind.name: self._settings.price(region, kind.name, spot=True) for kind in kinds}
        prices = {name: price for name, price in said.items() if price is not None}
        asked = [name for name in said if name not in prices]
        if not asked:
            return prices
        rows = await self._account.pages(
            region,
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=asked,
            ProductDescriptions=["Linux/UNIX"],
            StartTime=self._clock.now(),  # only what holds now
        )
        of_type = {kind.name: set(kind.places.values()) for kind in kinds}
        latest: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
        for row in rows:
            name, zone, price = str(row["InstanceType"]), str(row["AvailabilityZone"]), _money(row["SpotPrice"])
            since = row["Timestamp"]
            if name not in asked or zone not in of_type[name] or price is None or not isinstance(since, datetime):
                continue
            if (name, zone) not in latest or since > latest[name, zone][0]:
                latest[name, zone] = (since, price)
        for (name, _), (_, price) in latest.items():
            prices[name] = max(price, prices.get(name, price))
        return prices


def _kind(name: str, row: Mapping[str, Any], places: Mapping[str, str]) -> Kind | None:
    """None where a GPU is named without its memory, or the architecture is none of ours."""
    told = [ARCHITECTURES[one] for one in table(row["ProcessorInfo"])["SupportedArchitectures"] if one in ARCHITECTURES]
    if not told:
        return None
    devices = tables(table(row.get("GpuInfo") or {}).get("Gpus", []))
    uses = row.get("SupportedUsageClasses", [])
    gpu, gpus, memory = None, 0, 0
    if devices:
        maker, model = str(devices[0].get("Manufacturer", "")), str(devices[0]["Name"])
        gpu = model if maker.upper() == "NVIDIA" else f"{maker} {model}".strip()
        gpus = sum(int(device["Count"]) for device in devices)
        memory = min(int(table(device["MemoryInfo"])["SizeInMiB"]) for device in devices) // 1024
    return Kind(
        name,
        gpu,
        gpus,
        memory,
        int(table(row["MemoryInfo"])["SizeInMiB"]) // 1024,
        told[0],
        "on-demand" in uses,
        "spot" in uses,
        places,
    )


def _hourly(product: Mapping[str, Any]) -> Sequence[Decimal]:
    """The on-demand prices of one product of the price list, in USD an hour."""
    prices: list[Decimal] = []
    for term in table(table(product["terms"]).get("OnDemand", {})).values():
        for dimension in table(table(term)["priceDimensions"]).values():
            told = table(dimension)
            price = _money(table(told["pricePerUnit"]).get("USD"))
            if str(told["unit"]) in ("Hrs", "Hours") and price:
                prices.append(price)
    return prices


def _money(text: object) -> Decimal | None:
    try:
        price = Decimal(str(text))
    except InvalidOperation:
        return None
    return price if price.is_finite() and price >= 0 else None
