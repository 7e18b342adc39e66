"""What an OpenStack cloud would rent: its flavors, with the prices and GPUs that the settings give, for Nova knows neither.

A flavor's extra specs say at most under which alias a PCI device is passed through, or how many vGPUs there are. That is read;
the settings go before it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from providers.clock import Clock
from providers.contract import Availability, Offer, ProviderError
from providers.http import table
from providers.openstack_cloud import Region
from providers.openstack_servers import PART

EXTRA_SPECS = (2, 61)  # from here on the list of flavors has them in it
ALIAS = re.compile(r"([A-Za-z0-9_.-]{1,64}):(\d{1,3})")
NO_GPU = re.compile(r"nic|nvswitch|nvlink|mlx|connectx|qat|fpga|nvme|ssd|net|rdma|ib\d*$", re.IGNORECASE)
ARCHITECTURES: Mapping[str, str] = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "amd64", "amd64": "amd64"}
MIB_PER_GIB = 1024


@dataclass(frozen=True, slots=True)
class Known:
    """What the settings say of flavors, each by the flavor's name."""

    provider: str
    prices: Mapping[str, Decimal]  # by FLAVOR or REGION/FLAVOR
    currency: str
    gpu: Mapping[str, str]
    gpus: Mapping[str, int]
    gpu_memory_gib: Mapping[str, int]
    architectures: Mapping[str, str]
    countries: Mapping[str, str]
    volume_gib: int
    own: bool

    def price(self, region: str, flavor: str) -> Decimal | None:
        return self.prices.get(f"{region}/{flavor}", self.prices.get(flavor))


@dataclass
class Shelf:
    """The offers, and the prices that no flavor was found for."""

    known: Known
    clock: Clock
    missing: list[str] = field(default_factory=list[str])
    notes: dict[str, str] = field(default_factory=dict[str, str])

    async def offers(self, regions: Mapping[str, Region]) -> Sequence[Offer]:
        """Raises `ProviderError` if a region's flavors cannot be read."""
        offers, found = list[Offer](), set[str]()
        self.notes.clear()
        for name, region in regions.items():
            room = await self._room(region)
            for flavor in await self._flavors(region):
                title, flavor_id = str(flavor.get("name", "")), str(flavor.get("id", ""))
                price = self.known.price(name, title)
                if price is None or not PART.fullmatch(flavor_id) or flavor.get("OS-FLV-DISABLED:disabled"):
                    continue
                found |= {title, f"{name}/{title}"}
                offers.append(self._offer(name, flavor_id, title, flavor, price, room))
        self.missing = sorted(key for key in self.known.prices if key not in found)
        return offers

    async def _flavors(self, region: Region) -> Sequence[Mapping[str, Any]]:
        """Every flavor, with its extra specs where the cloud shows them."""
        micro = await region.micro(EXTRA_SPECS)
        flavors = [dict(row) for row in await region.pages("/flavors/detail", "flavors", micro=micro)]
        for flavor in flavors:
            wanted = self.known.price(region.name, str(flavor.get("name", ""))) is not None
            if wanted and "extra_specs" not in flavor and PART.fullmatch(str(flavor.get("id", ""))):
                flavor["extra_specs"] = await self._specs(region, str(flavor["id"]))
        return flavors

    async def _specs(self, region: Region, flavor_id: str) -> Mapping[str, Any]:
        """Older clouds show them one by one, some not at all."""
        try:
            reply = await region.read(f"/flavors/{flavor_id}/os-extra_specs")
        except ProviderError as error:
            self.notes[f"extra specs {region.name}"] = str(error)
            return {}
        return {} if reply is None else table(reply.content.get("extra_specs") or {})

    async def _room(self, region: Region) -> Mapping[str, int]:
        """What the quota leaves: cores, MiB of memory and servers; empty where the cloud does not say."""
        try:
            reply = await region.read("/limits")
            limits = table(table(reply.content["limits"])["absolute"]) if reply is not None else dict[str, Any]()
        except (ProviderError, KeyError, TypeError) as error:
            self.notes[f"quota {region.name}"] = str(error)
            return {}
        names = {"vcpus": "Cores", "ram": "RAMSize", "servers": "Instances"}
        used = {"vcpus": "totalCoresUsed", "ram": "totalRAMUsed", "servers": "totalInstancesUsed"}
        room = dict[str, int]()
        for name, word in names.items():
            most, taken = limits.get(f"maxTotal{word}"), limits.get(used[name])
            if isinstance(most, int) and isinstance(taken, int) and most >= 0:  # -1: no limit
                room[name] = most - taken
        return room

    def _offer(
        self, region: str, flavor_id: str, title: str, flavor: Mapping[str, Any], price: Decimal, room: Mapping[str, int]
    ) -> Offer:
        known, specs = self.known, table(flavor.get("extra_specs") or {})
        model, gpus = gpus_of(specs)
        model, gpus = known.gpu.get(title, model), known.gpus.get(title, gpus)
        if title in known.gpu and not gpus:
            gpus = 1
        disk = known.volume_gib or int(flavor.get("disk") or 0)
        needs = {"vcpus": int(flavor.get("vcpus") or 0), "ram": int(flavor.get("ram") or 0), "servers": 1}
        full = any(needs[name] > left for name, left in room.items())
        return Offer(
            id=f"{region}/{flavor_id}",
            provider=known.provider,
            region=region,
            price_per_hour=price,
            currency=known.currency,
            seen_at=self.clock.now(),
            country=known.countries.get(region),
            gpu=(model or "unknown") if gpus else None,
            gpus=gpus,
            gpu_memory_gib=known.gpu_memory_gib.get(title, 0) if gpus else 0,
            memory_gib=needs["ram"] // MIB_PER_GIB,
            disk_gib=disk or None,
            architecture=known.architectures.get(title) or architecture_of(specs),
            own=known.own,
            # Nova tells no stock. What the quota has no room for will be refused, that much is known.
            availability=Availability.NONE if full else Availability.UNKNOWN,
            title=title,
            type=title,
        )


def gpus_of(specs: Mapping[str, Any]) -> tuple[str, int]:
    """Model and count, as far as extra specs tell: `pci_passthrough:alias` is "h100:8,nvswitch:4", `resources:VGPU` a count."""
    model, count = "", 0
    for name, number in ALIAS.findall(str(specs.get("pci_passthrough:alias", ""))):
        if not NO_GPU.search(name):
            model, count = model or name, count + int(number)
    if count:
        return model, count
    for key, value in specs.items():
        named = re.fullmatch(r"resources\d*:(VGPU|PGPU|CUSTOM_\w*GPU\w*)", str(key))
        if named and str(value).isdigit():
            return named[1].removeprefix("CUSTOM_").lower(), int(value)
    return "", 0


def architecture_of(specs: Mapping[str, Any]) -> str:
    for key, value in specs.items():
        if re.search(r"architecture$|cpu_arch$", str(key)):
            known = ARCHITECTURES.get(str(value).removeprefix("s== ").strip().lower())
            if known:
                return known
        if str(key).upper() == "TRAIT:COMPUTE_ARCH_AARCH64" and value == "required":
            return "arm64"
    return "amd64"
