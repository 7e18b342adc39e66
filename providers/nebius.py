"""Each instance a virtual machine of Nebius AI Cloud, through its own async SDK (gRPC).

A create carries the order's key as `X-Idempotency-Key`, so that asking again is answered with the same operation. Its boot disk
is a managed one and goes with it. A preemptible machine that was taken away is stopped, not gone: its disk is billed until it
is destroyed. `create` does not wait for the whole operation, only so long that a quick no is heard as one.
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
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
    Secret,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.nebius_account import PAGE, Account
from providers.nebius_errors import sorted_status
from providers.nebius_machines import INSTANCE_ID, PART, Build, Place, owner_of, recipe, shown
from providers.nebius_offers import NOTICE, Shelf, Wanted

PROFILE = Profile(
    hardware="what its platform list names: B300 and B200 at the time of writing",
    footprint="one region per project: Europe, the United States, Israel (me-west1)",
    own_keys=None,
    audit_logs="actions are logged and kept for 24 months",
    residency="an instance and its disks stay in the region of their project",
    pricing="time that the machine runs, plus its disk as long as it exists; offers are priced by Nebius's own calculator",
    preemption="a preemptible machine may be stopped at any time, 60 s after a SIGTERM; its disk stays and is billed",
    proven_against="vendor model: a gRPC server on loopback built on Nebius's own stubs, driven through its SDK (0.6.29)",
    source="docs.nebius.com and github.com/nebius/api, August to November 2026",
)
KEY = re.compile(r"[A-Za-z0-9-]{16,64}")
LOOKS = (1.0, 2.0, 4.0, 8.0)  # seconds between the looks at a young operation


class DiskType(StrEnum):
    NETWORK_SSD = "network-ssd"
    NETWORK_SSD_NON_REPLICATED = "network-ssd-non-replicated"
    NETWORK_SSD_IO_M3 = "network-ssd-io-m3"


@dataclass(frozen=True)
class NebiusSettings:
    projects: Mapping[str, str]  # region -> the project to rent in there
    credentials_file: Path | None = None  # a service account's, as `nebius iam auth-public-key generate` writes it
    token: Secret | None = None  # an IAM token instead, which lasts for hours
    tenant: str = ""  # asked for its stock; empty: the availability of offers is unknown
    platforms: tuple[str, ...] = ()  # empty: all that have GPUs
    spot: bool = True  # whether preemptible machines are offered too
    image: str = "ubuntu24.04-cuda12"  # a family, or an image's id; a pool's machine_image goes before it
    image_arm64: str = ""  # the same for Grace and Vera hosts; empty: they are not offered
    disk_gib: int = 200
    disk_type: DiskType = DiskType.NETWORK_SSD
    subnets: Mapping[str, str] = field(default_factory=dict[str, str])  # region -> subnet; else the project's only one
    security_groups: Mapping[str, str] = field(default_factory=dict[str, str])  # region -> group; else the network's default
    public_address: bool = False  # without one, Nebius's egress gateway still lets the machine out
    prices: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])  # per hour, by offer or PLATFORM/PRESET[/spot]
    currency: str = "USD"
    architectures: Mapping[str, str] = field(default_factory=dict[str, str])  # platform -> amd64 or arm64, where the guess errs
    countries: Mapping[str, str] = field(default_factory=dict[str, str])  # region -> country, for regions that are new
    watch: timedelta = timedelta(seconds=7)  # how long a create listens for a quick no

    def __post_init__(self) -> None:
        if not self.projects:
            raise ValueError("projects names at least one region and its project, as { eu-north1 = 'project-…' }")
        if len(set(self.projects.values())) != len(self.projects):
            raise ValueError("projects names one project twice, and a project is in one region")
        if bool(self.token) == (self.credentials_file is not None):
            raise ValueError("either credentials_file or token is set")
        for name, table in (("subnets", self.subnets), ("security_groups", self.security_groups)):
            if strange := set(table) - set(self.projects):
                raise ValueError(f"{name} names {', '.join(sorted(strange))}, for which projects has no project")
        if not all(PART.fullmatch(word) for word in (*self.projects, *self.projects.values(), *self.platforms)):
            raise ValueError("regions, projects and platforms are made of letters, digits, '.', '_' and '-'")
        if self.disk_gib < 10 or any(price < 0 for price in self.prices.values()):
            raise ValueError("disk_gib is at least 10, and no price is negative")
        if not set(self.architectures.values()) <= {"amd64", "arm64"}:
            raise ValueError("an architecture is amd64 or arm64")
        if not timedelta(0) <= self.watch <= timedelta(minutes=1):
            raise ValueError("watch is at most a minute")


class NebiusProvider:
    """See the module. An instance's id is Nebius's own, `computeinstance-…`."""

    Settings = NebiusSettings

    def __init__(self, name: str, settings: NebiusSettings, *, clock: Clock = SYSTEM, endpoint: str = "") -> None:
        """`endpoint` is host:port of a stand-in for Nebius on loopback, for tests."""
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=timedelta(seconds=1),  # "from the moment it is started and to a complete stop" (its terms)
            currency=settings.currency,
            spot=settings.spot,
            spot_notice=NOTICE,
            idempotent_create=True,
            unique_names=len(settings.projects) == 1,  # names are unique within a project
            unknown_window=timedelta(minutes=2),
            user_data_limit=32768,  # max_len of cloud_init_user_data, in characters: bytes are never fewer
            tag_limit=63,
            offers_every=timedelta(seconds=60),
            profile=PROFILE,
            notes={"stopped": "a preempted machine is only stopped: its disk is billed until it is destroyed"},
        )
        self._clock = clock
        self._account = Account(
            token=settings.token, credentials_file=settings.credentials_file, clock=clock, endpoint=endpoint
        )
        wanted = Wanted(
            provider=name,
            currency=settings.currency,
            platforms=settings.platforms,
            spot=settings.spot,
            tenant=settings.tenant,
            prices=settings.prices,
            architectures=settings.architectures,
            countries=settings.countries,
        )
        self._shelf = Shelf(self._account, clock, wanted)
        self._regions = {project: region for region, project in settings.projects.items()}
        self._subnets = dict(settings.subnets)

    async def offers(self, need: Need) -> Sequence[Offer]:
        """Every platform and preset of every project that has a price; a machine on Arm only where there is an image for it."""
        with guarded("nebius offers"):
            found = await self._shelf.offers({region: await self._build(region) for region in self.settings.projects})
            return [offer for offer in found if offer.architecture == "amd64" or self.settings.image_arm64]

    async def create(self, order: Order) -> Instance:
        with guarded("nebius create", maybe_created=True):
            vet(order, self.traits)
            place = Place.of(order.offer.id)
            if place.region not in self.settings.projects:
                raise Refused(f"the settings name no project in {place.region}")
            build = await self._build(place.region, image=order.image or self._image(order.offer.architecture))
            compute = self._account.compute
            request = recipe(compute, self._account.common, place, build, name=order.tag, order=order)
            key = order.key if KEY.fullmatch(order.key) else hashlib.sha256(order.key.encode()).hexdigest()
            operation = await self._account.write(compute.InstanceServiceClient, "create", request, key=key, creates=True)
            instance_id = str(operation.resource_id)
            if not INSTANCE_ID.fullmatch(instance_id):
                raise Unclear("nebius create: the answer names no instance")
            await self._listen(operation, instance_id)
            return Instance(instance_id, order.tag, Phase.STARTING, region=place.region, detail="CREATING", key=order.key)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("nebius get"):
            found = await self._found(instance_id)
            return None if found is None else shown(found, self._regions)

    async def owned(self, owner: str) -> Sequence[Instance]:
        """One listing per project, every page of it."""
        with guarded("nebius owned"):
            found = list[Instance]()
            for project in self._regions:
                rows = await self._instances(project)
                found += [shown(row, self._regions) for row in rows if owner_of(row) == owner]
            return found

    async def destroy(self, instance_id: str) -> None:
        """Deletes the instance and its managed disk."""
        with guarded("nebius destroy"):
            found = await self._found(instance_id)
            if found is None or shown(found, self._regions).phase is Phase.DESTROYING:
                return
            if not owner_of(found):
                raise Refused(f"{instance_id} is not one of Sublet's")
            compute = self._account.compute
            await self._account.write(compute.InstanceServiceClient, "delete", compute.DeleteInstanceRequest(id=instance_id))

    async def check(self) -> Health:
        try:
            with guarded("nebius check"):
                for project in self._regions:
                    await self._instances(project)
                offers = await self.offers(Need())
        except ProviderError as error:
            return Health(False, str(error))
        facts = {"regions": ", ".join(self.settings.projects), **self._shelf.trouble}
        missing = f"; {self._shelf.unpriced} more have no price" if self._shelf.unpriced else ""
        if not offers:
            return Health(False, f"the key works, but there is no offer with a price{missing}", facts)
        return Health(True, f"the key works, and {len(offers)} machines are on offer{missing}", facts)

    async def aclose(self) -> None:
        await self._account.aclose()

    async def _listen(self, operation: Any, instance_id: str) -> None:
        """Raises what the operation failed with, once nothing is left of it; returns as soon as the watch is over."""
        spent = 0.0
        for pause in LOOKS:
            if operation.done() or spent + pause > self.settings.watch.total_seconds():
                break
            spent += pause
            await self._clock.sleep(pause)
            with contextlib.suppress(ProviderError):  # the create was accepted: what a look fails with changes nothing
                await self._account.refresh(operation)
        if not operation.done() or operation.successful():
            return
        failure = sorted_status(operation.status(), "nebius create", creates=True)
        if not await self._cleared(instance_id):
            raise Unclear(f"{failure}; what it left of {instance_id} is still there")
        raise failure

    async def _cleared(self, instance_id: str) -> bool:
        """Whether what a failed create left is proven gone."""
        for pause in LOOKS[:3]:
            with contextlib.suppress(ProviderError):  # no answer is no proof, and no refusal of the create
                await self.destroy(instance_id)
                if await self._found(instance_id) is None:
                    return True
            await self._clock.sleep(pause)
        return False

    async def _found(self, instance_id: str) -> Any:
        if not INSTANCE_ID.fullmatch(instance_id):
            return None
        compute = self._account.compute
        return await self._account.read(compute.InstanceServiceClient, "get", compute.GetInstanceRequest(id=instance_id))

    async def _instances(self, project: str) -> Sequence[Any]:
        compute = self._account.compute
        request = compute.ListInstancesRequest(parent_id=project, page_size=PAGE)
        return await self._account.pages(compute.InstanceServiceClient, request)

    async def _build(self, region: str, *, image: str = "") -> Build:
        settings = self.settings
        return Build(
            project=settings.projects[region],
            subnet=await self._subnet(region),
            security_group=settings.security_groups.get(region, ""),
            public_address=settings.public_address,
            disk_gib=settings.disk_gib,
            disk_type=settings.disk_type.name,
            image=image or settings.image,
        )

    def _image(self, architecture: str) -> str:
        return self.settings.image_arm64 if architecture == "arm64" else self.settings.image

    async def _subnet(self, region: str) -> str:
        """The one of the settings, or the only one of the project. Raises `Refused` where that is not clear."""
        if region not in self._subnets:
            vpc = self._account.vpc
            request = vpc.ListSubnetsRequest(parent_id=self.settings.projects[region], page_size=PAGE)
            ids = [str(subnet.metadata.id) for subnet in await self._account.pages(vpc.SubnetServiceClient, request)]
            if len(ids) != 1:
                raise Refused(f"the project in {region} has {len(ids)} subnets: say which in subnets")
            self._subnets[region] = ids[0]
        return self._subnets[region]
