"""Each instance an OCI Compute instance of Oracle, on demand or preemptible, in all regions of the settings, through its SDK.

Owner, tag, key and end time are freeform tags inside the one launch, which also carries a retry token that Oracle honours
for 24 hours. An instance's id is "REGION/ocid1.instance…", so that it is found again with one call. Fields, codes and
states are those of the SDK's own models.
"""

import fnmatch
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from providers.clock import SYSTEM, Clock
from providers.contract import (
    Health,
    Instance,
    Need,
    Offer,
    Order,
    Phase,
    Profile,
    Refused,
    Traits,
    Unclear,
    Why,
    guarded,
    vet,
)
from providers.oci_api import Tenancy
from providers.oci_errors import Busy, NotShown
from providers.oci_launch import KEY, OWNER, TAG, USER_DATA, Launcher, tags_of
from providers.oci_offers import Catalogue
from providers.oci_settings import INSTANCE, REGION, OciSettings, split_offer
from providers.regions import REMEMBERED, looked, place_of, whole

PHASES: Mapping[str, Phase] = {
    "PROVISIONING": Phase.STARTING,
    "STARTING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "MOVING": Phase.RUNNING,  # to another host, or another compartment
    "CREATING_IMAGE": Phase.STOPPED,  # somebody's image of it is being made: it is off, and billed
    "STOPPING": Phase.STOPPED,
    "STOPPED": Phase.STOPPED,
    "TERMINATING": Phase.DESTROYING,
    "TERMINATED": Phase.ENDED,  # the record stays for at least 12 hours
}
PAGE = 500
BARE_METAL_MINIMUM, VIRTUAL_MINIMUM = timedelta(hours=1), timedelta(minutes=1)
"""Oracle, "Per-second billing for Compute": by the second, bare metal at least an hour, virtual machines at least a minute."""

PROFILE = Profile(
    hardware="B200, GB200, B300 and MI300X by Oracle's shapes; the SDK of 2026-10 names no Rubin",
    footprint="among others Singapore, Batam, Kulai, Dubai, Abu Dhabi, Jeddah, Riyadh, Jerusalem",
    own_keys="yes: boot volumes with a key of the customer's vault",
    audit_logs="yes: OCI Audit",
    residency="an instance and its boot volume stay in the region that they were made in",
    pricing="by the second, bare metal at least one hour, virtual machines one minute; prices from your settings",
    preemption="preemptible virtual machines only, after a notice that Oracle calls short; half the price",
    proven_against="vendor model: an own fake behind the vendor's SDK (oci 2.189), both checked by the SDK's models",
    source="Oracle's compute documentation and the models of oci 2.189.0, 2026-11",
)


class OciProvider:
    """See the module."""

    Settings = OciSettings

    def __init__(
        self,
        name: str,
        settings: OciSettings,
        *,
        clock: Clock = SYSTEM,
        endpoints: Mapping[str, str] | None = None,
        page: int = PAGE,
    ) -> None:
        """`endpoints` and `page` are for tests. Raises ValueError where the SDK is missing or the key cannot be used."""
        self.name = name
        self.settings = settings
        metal = any(fnmatch.fnmatchcase("BM.", pattern[:3]) or pattern[0] in "*?" for pattern in settings.shapes)
        self.traits = Traits(
            billing_granularity=timedelta(seconds=1),
            billing_minimum=BARE_METAL_MINIMUM if metal else VIRTUAL_MINIMUM,
            currency=settings.currency,
            spot=settings.preemptible,
            idempotent_create=True,
            unknown_window=timedelta(minutes=2),  # Oracle names no bound
            user_data_limit=USER_DATA,
            tag_limit=63,  # a freeform tag takes 256
            offers_every=timedelta(minutes=2),
            profile=PROFILE,
            notes={
                "power-off": "a machine that powers itself off is stopped, and a GPU shape is billed on until its end",
                "domains": "one create asks the availability domains of its region one after the other",
                "preemption": "a preemptible machine that ends unasked counts as taken away: its record does not say why",
            },
        )
        self._page = page
        self._tenancy = Tenancy(settings, clock=clock, endpoints=dict(endpoints or {}))
        self._catalogue = Catalogue(name, settings, self._tenancy, clock)
        self._launcher = Launcher(settings, self._tenancy)
        self._asked: OrderedDict[str, None] = OrderedDict()  # instances whose end was asked for by us

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One per region, shape and market that has a price, with what Oracle's capacity report says of it."""
        with guarded("oci offers"):
            wanted = [region for region in self.settings.subnets if not need.regions or region in need.regions]
            return await self._catalogue.offers(wanted) if wanted else []

    async def create(self, order: Order) -> Instance:
        with guarded("oci create", maybe_created=True):
            vet(order, self.traits)
            region, shape, _ = split_offer(order.offer.id)
            if region not in self.settings.subnets:
                raise Refused(f"{order.offer.id[:80]!r} is no offer of this provider")
            with guarded(f"oci {region} availability domains"):
                every = await self._catalogue.domains(region)
                domains = await self._catalogue.having(region, shape)
            instance = self._instance(region, await self._launcher.launch(order, domains, alone=len(every) == 1))
            if instance.tag != order.tag or instance.key != order.key:
                raise Unclear(f"oci {region}: the answer to create names another machine")
            return instance

    async def get(self, instance_id: str) -> Instance | None:
        """A 404 of Oracle's, or a 400 for an id that it does not take, may hide a machine that this key may not see. Absence
        is proven by the whole list of our compartment, which the key may read, and which does not have it."""
        with guarded("oci get"):
            place = self._place(instance_id)
            if place is None:
                return None
            region, name = place
            try:
                row = (await self._tenancy.read(region, "get_instance", name)).data
            except Refused as error:
                if not isinstance(error, NotShown) and error.why is not Why.REQUEST:
                    raise
                rows = await self._rows(region)
                row = next((row for row in rows if row.id == name), None)
                return None if row is None else self._instance(region, row)
            if row.id != name:
                raise Unclear(f"oci {region}: an answer about another instance", maybe_created=False)
            return self._instance(region, row)

    async def owned(self, owner: str) -> Sequence[Instance]:
        """One call per region; those that have ended are shown as long as Oracle keeps their records."""
        with guarded("oci owned"):
            return await whole("oci", self.settings.subnets, lambda region: self._owned(region, owner))

    async def destroy(self, instance_id: str) -> None:
        """Terminates, and deletes the boot volume with it."""
        with guarded("oci destroy"):
            place = self._place(instance_id)
            if place is None:
                return
            self._asked[place[1]] = None
            while len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
            try:
                await self._tenancy.write(
                    place[0],
                    "terminate_instance",
                    place[1],
                    preserve_boot_volume=False,
                    preserve_data_volumes_created_at_launch=False,
                )
            except (Refused, Busy) as error:
                now = await self.get(instance_id)
                if now is not None and now.phase not in (Phase.DESTROYING, Phase.ENDED):
                    raise error from None

    async def check(self) -> Health:
        """Reads availability domains, shapes, capacity and the compartment's instances of every region. A launch cannot be
        tried without launching."""
        facts, bad = await looked("oci", self.settings.subnets, self._look)
        for region in [region for region in facts if region in self._catalogue.troubles]:
            facts[f"{region} capacity"] = f"unknown: {self._catalogue.troubles[region][:200]}"
        if bad:
            return Health(False, bad, facts)
        unpriced = sorted({shape for shapes in self._catalogue.unpriced.values() for shape in shapes})
        if unpriced:
            facts["unpriced"] = f"{', '.join(unpriced)[:300]}; say their prices in the settings"
        summary = f"{len(self.settings.subnets)} regions answer"
        return Health(
            True, summary + (f"; {len(unpriced)} shapes are left out, for they have no price" if unpriced else ""), facts
        )

    async def aclose(self) -> None:
        await self._tenancy.aclose()

    async def _look(self, region: str) -> str:
        offers = await self._catalogue.offers([region])
        there = await self._rows(region)
        return f"{len(offers)} offers; {len(there)} instances and records in the compartment"

    async def _rows(self, region: str) -> Sequence[Any]:
        rows = await self._tenancy.pages(region, "list_instances", self.settings.compartment, limit=self._page)
        if not all(isinstance(row.id, str) and INSTANCE.fullmatch(row.id) for row in rows):
            raise Unclear(f"oci {region}: a list with rows that are no instances", maybe_created=False)
        return rows

    async def _owned(self, region: str, owner: str) -> list[Instance]:
        return [self._instance(region, row) for row in await self._rows(region) if tags_of(row).get(OWNER) == owner]

    def _place(self, instance_id: str) -> tuple[str, str] | None:
        """Region and OCID; None if it cannot be an instance of Oracle. Raises `Unclear` for a region that is not ours."""
        return place_of(instance_id, region=REGION, name=INSTANCE, ours=self.settings.subnets)

    def _instance(self, region: str, row: Any) -> Instance:
        """Raises TypeError or AttributeError, which `guarded` makes `Unclear`, where it is not what Oracle would say."""
        name, state, tags = row.id, row.lifecycle_state, tags_of(row)
        if not isinstance(name, str) or not INSTANCE.fullmatch(name) or not isinstance(state, str):
            raise TypeError("not an instance")
        made: Any = row.time_created
        # Oracle's record does not say who ended it; nobody stops a preemptible machine but Oracle and whoever terminates it.
        phase, preemptible = PHASES.get(state, Phase.UNKNOWN), row.preemptible_instance_config is not None
        return Instance(
            id=f"{region}/{name}",
            tag=tags.get(TAG, ""),
            phase=phase,
            created_at=made.astimezone(UTC) if isinstance(made, datetime) else None,
            region=region,
            detail=f"{state} (preemptible)" if preemptible else state,
            key=tags.get(KEY, ""),
            preempted=preemptible and phase in (Phase.DESTROYING, Phase.ENDED) and name not in self._asked,
        )
