"""What Nebius would rent now: platforms from its live API, prices from its own calculator, availability from its own advice.

Nothing about GPUs is written down here: a platform that is new today is an offer today. The calculator is given the very
create request that would be sent, with its managed disk, and answers with the account's own price per hour.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from providers.clock import Clock
from providers.contract import Availability, Offer, ProviderError, Refused, Why
from providers.nebius_account import PAGE, Account
from providers.nebius_machines import PART, Build, Place, recipe

PRICES_LAST = timedelta(minutes=15)
BATCH = 40  # create requests in one question to the calculator
DEAREST = Decimal(100_000)
NOTICE = timedelta(seconds=60)  # SIGTERM 60 s before the stop (docs.nebius.com: compute/virtual-machines/preemptible)
COUNTRIES: Mapping[str, str] = {
    "eu-north1": "FI",
    "eu-north2": "IS",
    "eu-west1": "FR",
    "me-west1": "IL",
    "uk-south1": "GB",
    "us-central1": "US",
}
ARM = re.compile(r"\b(?:g[bh]|vr?|vera)\d{3}|\b(?:vera|grace)\b", re.IGNORECASE)
"""Grace and Vera hosts are Arm, and neither a platform nor a preset says so: GB200, GH200, VR200."""
LEVELS: Mapping[str, Availability] = {
    "AVAILABILITY_LEVEL_HIGH": Availability.AVAILABLE,
    "AVAILABILITY_LEVEL_MEDIUM": Availability.AVAILABLE,
    "AVAILABILITY_LEVEL_LOW": Availability.SCARCE,
    "AVAILABILITY_LEVEL_LIMIT_REACHED": Availability.NONE,
}
BEST = (Availability.AVAILABLE, Availability.SCARCE, Availability.UNKNOWN, Availability.NONE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The settings that the shelf goes by."""

    provider: str
    currency: str
    platforms: tuple[str, ...]
    spot: bool
    tenant: str
    prices: Mapping[str, Decimal]
    architectures: Mapping[str, str]
    countries: Mapping[str, str]


@dataclass
class Shelf:
    """The offers, and what kept some of them off."""

    account: Account
    clock: Clock
    wanted: Wanted
    trouble: dict[str, str] = field(default_factory=dict[str, str])
    unpriced: int = 0
    _prices: dict[Place, Decimal | None] = field(default_factory=dict[Place, "Decimal | None"])  # None: it has none
    _asked: dict[str, datetime] = field(default_factory=dict[str, datetime])

    async def offers(self, builds: Mapping[str, Build]) -> Sequence[Offer]:
        """`builds` is region -> how a machine is made there. Raises `ProviderError` if a region cannot be read."""
        advice = await self._advice()
        offers, unpriced = list[Offer](), 0
        for region, build in builds.items():
            found = await self._platforms(region, build)
            await self._price(region, build, [place for place, *_ in found])
            for place, platform, preset in found:
                price = self._price_of(place)
                if price is None:
                    unpriced += 1
                else:
                    offers.append(self._offer(place, platform, preset, price, advice.get(place, Availability.UNKNOWN), build))
        self.unpriced = unpriced
        return offers

    async def _platforms(self, region: str, build: Build) -> list[tuple[Place, Any, Any]]:
        compute = self.account.compute
        request = compute.ListPlatformsRequest(parent_id=build.project, page_size=PAGE)
        found = dict[Place, tuple[Place, Any, Any]]()
        for platform in await self.account.pages(compute.PlatformServiceClient, request):
            name = str(platform.metadata.name)
            for preset in platform.spec.presets:
                fits = name in self.wanted.platforms if self.wanted.platforms else preset.resources.gpu_count > 0
                if not fits or not PART.fullmatch(name) or not PART.fullmatch(str(preset.name)):
                    continue
                place = Place(region, name, str(preset.name))
                found[place] = (place, platform, preset)
                if self.wanted.spot and platform.status.allowed_for_preemptibles:
                    cheap = Place(region, name, str(preset.name), spot=True)
                    found[cheap] = (cheap, platform, preset)
        return list(found.values())

    async def _advice(self) -> dict[Place, Availability]:
        """Stock by place; empty where no tenant is set, or where it may not be asked for: then it is unknown."""
        self.trouble.pop("availability", None)
        if not self.wanted.tenant:
            return {}
        capacity, best = self.account.capacity, dict[Place, Availability]()
        request = capacity.ListResourceAdviceRequest(parent_id=self.wanted.tenant, page_size=PAGE)
        try:
            rows = await self.account.pages(capacity.ResourceAdviceServiceClient, request)
        except ProviderError as error:
            self.trouble["availability"] = str(error)
            return {}
        for row in rows:
            machine = row.spec.compute_instance
            if machine is None:
                continue
            for spot, said in ((False, row.status.on_demand), (True, row.status.preemptible)):
                place = Place(str(row.spec.region), str(machine.platform), str(machine.preset.name), spot)
                # One row per fabric: the machine may be put on any of them.
                best[place] = min(_level(said), best.get(place, Availability.NONE), key=BEST.index)
        return best

    async def _price(self, region: str, build: Build, places: Sequence[Place]) -> None:
        """Bring the region's prices up to date. A calculator that refuses is no reason to show nothing that has a price."""
        self.trouble.pop(f"prices {region}", None)
        open_ = [place for place in places if self._set(place) is None]
        asked = self._asked.get(region)
        fresh = asked is not None and self.clock.now() - asked < PRICES_LAST
        if fresh and all(place in self._prices for place in open_):
            return
        now: dict[Place, Decimal | None] = dict.fromkeys(open_)
        try:
            for start in range(0, len(open_), BATCH):
                now |= await self._estimated(build, open_[start : start + BATCH])
        except ProviderError as error:
            self.trouble[f"prices {region}"] = str(error)
            return
        self._prices = {place: price for place, price in self._prices.items() if place.region != region} | now
        self._asked[region] = self.clock.now()

    async def _estimated(self, build: Build, places: Sequence[Place]) -> dict[Place, Decimal]:
        """One question; halved as long as it is refused, so that one preset without a price does not hide the others."""
        if not places:
            return {}
        compute, billing = self.account.compute, self.account.billing
        named = {f"estimate-{number}": place for number, place in enumerate(places)}
        specs = [
            billing.ResourceSpec(spec=compute.REGISTRY.pack_any(recipe(compute, self.account.common, place, build, name=name)))
            for name, place in named.items()
        ]
        hours = billing.FilterAggregationUnit.FilterAggregationUnitValue.FILTER_AGGREGATION_UNIT_HOUR
        request = billing.EstimateBatchRequest(
            resource_specs=specs,
            currency=self.wanted.currency.lower(),
            filter_aggregation_unit=billing.FilterAggregationUnit(filter_aggregation_unit_values=[hours]),
        )
        try:
            answer = await self.account.read(billing.CalculatorServiceClient, "estimate_batch", request)
        except Refused as refusal:
            if refusal.why is not Why.REQUEST:
                raise
            answer = None
        if answer is None:
            if len(places) == 1:
                return {}
            middle = len(places) // 2
            return await self._estimated(build, places[:middle]) | await self._estimated(build, places[middle:])
        if str(answer.currency).lower() not in ("", self.wanted.currency.lower()):
            raise Refused(f"nebius prices come in {str(answer.currency)[:10]!r}, not {self.wanted.currency}")
        return _per_hour(answer.resource_costs, named)

    def _set(self, place: Place) -> Decimal | None:
        """The price that the settings give: of this very offer, or of its machine in every region."""
        prices = self.wanted.prices
        return prices.get(str(place), prices.get(str(place).partition("/")[2]))

    def _price_of(self, place: Place) -> Decimal | None:
        given = self._set(place)
        return given if given is not None else self._prices.get(place)

    def _offer(
        self, place: Place, platform: Any, preset: Any, price: Decimal, availability: Availability, build: Build
    ) -> Offer:
        spec, gpus = platform.spec, int(preset.resources.gpu_count)
        name = str(spec.human_readable_name or place.platform)[:120]
        known = {**COUNTRIES, **self.wanted.countries}
        arm = ARM.search(place.platform.replace("-", " ")) is not None
        return Offer(
            id=str(place),
            provider=self.wanted.provider,
            region=place.region,
            price_per_hour=price,
            currency=self.wanted.currency,
            seen_at=self.clock.now(),
            country=known.get(place.region),
            gpu=place.platform if gpus else None,
            gpus=gpus,
            # "gigabytes" as on the card's label: what NVML counts as GiB. The older field is on its way out.
            gpu_memory_gib=int(spec.gpu_memory_gibibytes or spec.gpu_memory_gigabytes) if gpus else 0,
            memory_gib=int(preset.resources.memory_gibibytes),
            disk_gib=build.disk_gib,
            architecture=self.wanted.architectures.get(place.platform, "arm64" if arm else "amd64"),
            spot=place.spot,
            availability=availability,
            title=f"{gpus} × {name}" if gpus > 1 else name,
            type=f"{place.platform}/{place.preset}",
            notice=NOTICE if place.spot else None,
        )


def _level(said: Any) -> Availability:
    if getattr(said.data_state, "name", "") != "DATA_STATE_FRESH":
        return Availability.UNKNOWN
    level = LEVELS.get(str(getattr(said.availability_level, "name", "")), Availability.UNKNOWN)
    return Availability.NONE if level is Availability.SCARCE and int(said.available) == 0 else level


def _per_hour(costs: Any, named: Mapping[str, Place]) -> dict[Place, Decimal]:
    """The calculator's answer by the names that the question gave. An hour's figure only; what is no price is left out."""
    prices = dict[Place, Decimal]()
    for cost in costs:
        place = named.get(str(cost.metadata.name))
        if place is None or cost.general is None or "hour" not in str(cost.aggregation_unit.unit).lower():
            continue
        try:
            price = Decimal(str(cost.general.total.cost))
        except InvalidOperation:
            continue
        if price.is_finite() and 0 < price < DEAREST:
            prices[place] = prices.get(place, Decimal(0)) + price
    return prices
