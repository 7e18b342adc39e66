"""Each instance a server of any OpenStack cloud in `clouds.yaml`, through openstacksdk.

Nova has no idempotency key and no unique names, so `create` looks for the tag before it asks, and asks once. It accepts a
create before it has looked for a host: "no valid host" comes a moment later, as a server in ERROR. `create` listens that long,
has what is left destroyed and proven gone, and tells no capacity only then. A quota that is spent is told at once, with a 403.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
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
    ProviderError,
    Refused,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.http import table, tables
from providers.openstack_cloud import Cloud, Region
from providers.openstack_offers import Known, Shelf
from providers.openstack_servers import (
    PART,
    SERVER_ID,
    USER_DATA_LIMIT,
    Build,
    owner_of,
    recipe,
    refusal,
    shown,
)
from providers.tags import Turns, there

PROFILE = Profile(
    pricing="what your settings say: OpenStack has no API for prices",
    preemption="nobody but the cloud's operator",
    proven_against="own fake: Keystone, Nova, Glance and Neutron on loopback, driven through openstacksdk 4.22",
)
TAGS, VOLUME_TYPES = (2, 52), (2, 67)  # the microversions from which on a create takes them
LOOKS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between the looks at a young server


@dataclass(frozen=True)
class OpenStackSettings:
    cloud: str  # the entry in clouds.yaml
    image: str  # name or id; a pool's machine_image goes before it
    network: str  # name or id
    prices: Mapping[str, Decimal]  # per hour, by FLAVOR or REGION/FLAVOR: these flavors are offered
    clouds_file: Path | None = None  # with secure.yaml beside it; None: where openstacksdk looks for it
    regions: tuple[str, ...] = ()  # empty: the one that the entry names
    security_groups: tuple[str, ...] = ()  # names; empty: the project's default
    availability_zone: str = ""
    config_drive: bool = False  # for clouds whose metadata service is not to be relied on
    volume_gib: int = 0  # boot from a volume of this size, which goes with the server; 0: from the flavor's own disk
    volume_type: str = ""
    currency: str = "USD"
    gpu: Mapping[str, str] = field(default_factory=dict[str, str])  # flavor -> GPU model, which Nova does not know
    gpus: Mapping[str, int] = field(default_factory=dict[str, int])  # flavor -> how many
    gpu_memory_gib: Mapping[str, int] = field(default_factory=dict[str, int])  # flavor -> memory of one
    architectures: Mapping[str, str] = field(default_factory=dict[str, str])  # flavor -> amd64 or arm64
    countries: Mapping[str, str] = field(default_factory=dict[str, str])  # region -> country
    own: bool = False  # a cloud of one's own: nothing is rented, and it is asked first
    billing_granularity: timedelta = timedelta(seconds=1)
    billing_minimum: timedelta = timedelta(0)
    watch: timedelta = timedelta(seconds=8)  # how long a create listens for a server that goes into ERROR

    def __post_init__(self) -> None:
        for name in ("cloud", "image", "network"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if not self.prices:
            raise ValueError("prices names at least one flavor and its price per hour")
        if any(price < 0 for price in self.prices.values()):
            raise ValueError("no price is negative")
        if not all(PART.fullmatch(region) for region in self.regions):
            raise ValueError("regions are made of letters, digits, '.', '_', '-' and blanks")
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("regions names one region twice")
        if not set(self.architectures.values()) <= {"amd64", "arm64"}:
            raise ValueError("an architecture is amd64 or arm64")
        if self.volume_gib < 0 or (self.volume_type and not self.volume_gib):
            raise ValueError("volume_type needs volume_gib, which is not negative")
        if self.billing_granularity <= timedelta(0) or self.billing_minimum < timedelta(0):
            raise ValueError("billing_granularity is more than nothing, and billing_minimum is not negative")
        if not timedelta(0) <= self.watch <= timedelta(minutes=1):
            raise ValueError("watch is at most a minute")


class OpenStackProvider:
    """See the module. An instance's id is REGION/UUID."""

    Settings = OpenStackSettings

    def __init__(self, name: str, settings: OpenStackSettings, *, clock: Clock = SYSTEM) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=settings.billing_granularity,
            billing_minimum=settings.billing_minimum,
            currency=settings.currency,
            own_hardware=settings.own,
            unknown_window=timedelta(minutes=2),
            user_data_limit=USER_DATA_LIMIT,
            tag_limit=63,
            offers_every=timedelta(seconds=60),
            profile=PROFILE,
        )
        self._clock = clock
        self._cloud = Cloud(cloud=settings.cloud, regions=settings.regions, clouds_file=settings.clouds_file, clock=clock)
        known = Known(
            provider=name,
            prices=settings.prices,
            currency=settings.currency,
            gpu=settings.gpu,
            gpus=settings.gpus,
            gpu_memory_gib=settings.gpu_memory_gib,
            architectures=settings.architectures,
            countries=settings.countries,
            volume_gib=settings.volume_gib,
            own=settings.own,
        )
        self._shelf = Shelf(known, clock)
        self._turns = Turns(f"openstack|{settings.clouds_file}|{settings.cloud}")
        self._under_way: set[asyncio.Task[Instance]] = set()

    async def offers(self, need: Need) -> Sequence[Offer]:
        """Every flavor that the settings have a price for, in every region."""
        with guarded("openstack offers"):
            return await self._shelf.offers(await self._cloud.regions())

    async def create(self, order: Order) -> Instance:
        """Goes on to its end if the caller gives up: a thread cannot be called back, and who asks next has to see what it
        did."""
        with guarded("openstack create", maybe_created=True):
            vet(order, self.traits)
            task = asyncio.create_task(self._create(order))
            self._under_way.add(task)
            task.add_done_callback(self._ended)
            return await asyncio.shield(task)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("openstack get"):
            region, server_id = await self._place(instance_id)
            if region is None:
                return None
            found = await self._server(region, server_id)
            return None if found is None else shown(found, region.name)

    async def owned(self, owner: str) -> Sequence[Instance]:
        """One listing per region, every page of it."""
        with guarded("openstack owned"):
            found = list[Instance]()
            for region in (await self._cloud.regions()).values():
                rows = await region.pages("/servers/detail", "servers")
                found += [shown(row, region.name) for row in rows if owner_of(row) == owner]
            return found

    async def destroy(self, instance_id: str) -> None:
        """Deletes the server, and the volume that it was booted from; one that the cloud keeps back is deleted for good."""
        with guarded("openstack destroy"):
            region, server_id = await self._place(instance_id)
            if region is not None:
                await self._destroy(region, server_id)

    async def check(self) -> Health:
        try:
            with guarded("openstack check"):
                regions = await self._cloud.regions()
                for region in regions.values():
                    await self._build(region, self.settings.image)
                    await region.read("/servers/detail", params={"limit": "1"})
                offers = await self.offers(Need())
        except ProviderError as error:
            return Health(False, str(error))
        facts = {"regions": ", ".join(regions), **self._shelf.notes}
        missing = f"; no flavor is called {', '.join(self._shelf.missing)}" if self._shelf.missing else ""
        if not offers:
            return Health(False, f"the login works, but none of its flavors has a price{missing}", facts)
        return Health(True, f"the login works, and {len(offers)} flavors are on offer{missing}", facts)

    async def aclose(self) -> None:
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        await self._cloud.aclose()

    def _ended(self, task: asyncio.Task[Instance]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever gave up does not ask for it

    async def _create(self, order: Order) -> Instance:
        settings = self.settings
        region_name, _, flavor = order.offer.id.rpartition("/")
        regions = await self._cloud.regions()
        region = regions.get(region_name)
        if region is None or not PART.fullmatch(flavor):
            raise Refused(f"{order.offer.id[:80]!r} is no offer of this cloud: REGION/FLAVOR, of {', '.join(regions)}")
        async with self._turns.of(order):
            made = there(await self._tagged(region, order), order)
            if made is not None:
                return await self._watched(region, made)
            build = await self._build(region, order.image or settings.image)
            tags = await region.micro(TAGS)
            micro = await region.micro(VOLUME_TYPES) if settings.volume_type else tags
            if settings.volume_type and not micro:
                raise Refused("volume_type needs a Nova that is newer (2.67)")
            body = recipe(order, flavor, build, tags=bool(micro))
            reply = await region.write("POST", "/servers", body=body, micro=micro, creates=True)
            server_id = str(table(reply.content.get("server")).get("id")) if reply is not None else ""
            if not SERVER_ID.fullmatch(server_id):
                raise Unclear("openstack create: the answer names no server")
            made = Instance(
                f"{region.name}/{server_id}", order.tag, Phase.STARTING, region=region.name, detail="BUILD", key=order.key
            )
            return await self._watched(region, made)

    async def _tagged(self, region: Region, order: Order) -> list[Instance]:
        params = {"name": f"^{order.tag}$"}  # Nova takes it for a regular expression
        rows = await region.pages("/servers/detail", "servers", params=params)
        return [shown(row, region.name) for row in rows if owner_of(row) == order.owner]

    async def _watched(self, region: Region, made: Instance) -> Instance:
        """The server, once it is past the scheduler or the watch is over. Raises what its ERROR means, once it is gone."""
        server_id = made.id.rpartition("/")[2]
        spent, now = 0.0, made
        for pause in (0.0, *LOOKS):
            if spent + pause > self.settings.watch.total_seconds():
                break
            spent += pause
            await self._clock.sleep(pause)
            try:
                found = await self._server(region, server_id)
                if found is None:
                    continue
                now = shown(found, region.name)
            except (ProviderError, TypeError, ValueError):
                continue  # the create was accepted: what a look fails with changes nothing
            if now.phase is Phase.FAILED:
                failure = refusal(found)
                if not await self._cleared(region, server_id):
                    raise Unclear(f"{failure}; what it left, {made.id}, is still there")
                raise failure
            if now.phase is not Phase.STARTING:
                break
        return now

    async def _cleared(self, region: Region, server_id: str) -> bool:
        """Whether what a failed create left is proven gone."""
        for pause in LOOKS[:4]:
            with contextlib.suppress(ProviderError):  # no answer is no proof
                await self._destroy(region, server_id)
                if await self._server(region, server_id) is None:
                    return True
            await self._clock.sleep(pause)
        return False

    async def _destroy(self, region: Region, server_id: str) -> None:
        found = await self._server(region, server_id)
        if found is None:
            return
        if not owner_of(found):
            raise Refused(f"{region.name}/{server_id} is not one of Sublet's")
        if found.get("status") == "SOFT_DELETED":
            await region.write("POST", f"/servers/{server_id}/action", body={"forceDelete": None})
        elif shown(found, region.name).phase not in (Phase.DESTROYING, Phase.ENDED):
            await region.write("DELETE", f"/servers/{server_id}")

    async def _place(self, instance_id: str) -> tuple[Region | None, str]:
        """The region and the server's id, or None for what is no id of ours; nothing is asked over the network."""
        name, _, server_id = instance_id.rpartition("/")
        region = (await self._cloud.regions()).get(name)
        return (region, server_id) if region is not None and SERVER_ID.fullmatch(server_id) else (None, "")

    async def _server(self, region: Region, server_id: str) -> Mapping[str, Any] | None:
        reply = await region.read(f"/servers/{server_id}")
        if reply is None:
            return None
        server = table(reply.content.get("server"))
        if server.get("id") != server_id:
            raise Unclear(f"openstack {region.name}: asked for one server, got another", maybe_created=False)
        return server

    async def _build(self, region: Region, image: str) -> Build:
        settings = self.settings
        return Build(
            image=await self._named(region, "image", "/v2/images", "images", image),
            network=await self._named(region, "network", "/v2.0/networks", "networks", settings.network),
            security_groups=settings.security_groups,
            zone=settings.availability_zone,
            config_drive=settings.config_drive,
            volume_gib=settings.volume_gib,
            volume_type=settings.volume_type,
        )

    async def _named(self, region: Region, service: str, path: str, what: str, name: str) -> str:
        """The id of what is called so; an id is taken as it is. Of several images with one name, the newest that is active."""
        if SERVER_ID.fullmatch(name):
            return name
        params = {"name": name}
        if service == "image":
            params |= {"status": "active", "sort": "created_at:desc", "limit": "1"}
        reply = await region.read(path, service=service, params=params)
        rows = tables(reply.content.get(what)) if reply is not None else ()
        ids = [str(row.get("id")) for row in rows if row.get("name") == name]
        if len(ids) != 1 or not SERVER_ID.fullmatch(ids[0]):
            raise Refused(f"openstack {region.name}: {len(ids)} {what} are called {name!r}: say which by its id")
        return ids[0]
