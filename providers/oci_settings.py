"""What a `[[provider]]` table of kind "oci" may say, the countries of Oracle's regions, and the memory of its GPUs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from providers.contract import Secret
from providers.regions import vet_images

REGION = re.compile(r"[a-z]{2,3}(-[a-z]{2,16}){1,3}-\d{1,2}")
SHAPE = re.compile(r"(VM|BM)\.[A-Za-z0-9._-]{1,60}")
PATTERN = re.compile(r"(VM|BM|\*)[A-Za-z0-9._*?-]{0,60}")
FINGERPRINT = re.compile(r"([0-9a-f]{2}:){15}[0-9a-f]{2}")
PREEMPTIBLE = "preemptible"
HALF = Decimal("0.5")
"""Preemptible capacity always costs half of on-demand (Oracle, "Preemptible instances", pricing)."""


def ocid(kind: str) -> re.Pattern[str]:
    """An Oracle Cloud identifier: ocid1.KIND.REALM.[REGION].UNIQUE."""
    return re.compile(rf"ocid1\.{kind}\.oc\d{{1,3}}\.[a-z0-9-]{{0,40}}\.[a-z0-9.]{{8,140}}")


INSTANCE, IMAGE, SUBNET, GROUP = ocid("instance"), ocid("image"), ocid("subnet"), ocid("networksecuritygroup")
IMAGES_ARE = "ocid1.image…"
TENANCY, USER, COMPARTMENT, KEY = ocid("tenancy"), ocid("user"), ocid("(?:compartment|tenancy)"), ocid("key")

COUNTRIES: Mapping[str, str] = {
    "af-casablanca-1": "MA",
    "af-johannesburg-1": "ZA",
    "ap-batam-1": "ID",
    "ap-chuncheon-1": "KR",
    "ap-delhi-1": "IN",
    "ap-hyderabad-1": "IN",
    "ap-kulai-2": "MY",
    "ap-melbourne-1": "AU",
    "ap-mumbai-1": "IN",
    "ap-osaka-1": "JP",
    "ap-seoul-1": "KR",
    "ap-singapore-1": "SG",
    "ap-singapore-2": "SG",
    "ap-sydney-1": "AU",
    "ap-tokyo-1": "JP",
    "ca-montreal-1": "CA",
    "ca-toronto-1": "CA",
    "eu-amsterdam-1": "NL",
    "eu-frankfurt-1": "DE",
    "eu-madrid-1": "ES",
    "eu-madrid-3": "ES",
    "eu-marseille-1": "FR",
    "eu-milan-1": "IT",
    "eu-paris-1": "FR",
    "eu-stockholm-1": "SE",
    "eu-turin-1": "IT",
    "eu-zurich-1": "CH",
    "il-jerusalem-1": "IL",
    "me-abudhabi-1": "AE",
    "me-dubai-1": "AE",
    "me-jeddah-1": "SA",
    "me-riyadh-1": "SA",
    "mx-monterrey-1": "MX",
    "mx-queretaro-1": "MX",
    "sa-bogota-1": "CO",
    "sa-santiago-1": "CL",
    "sa-saopaulo-1": "BR",
    "sa-valparaiso-1": "CL",
    "sa-vinhedo-1": "BR",
    "uk-cardiff-1": "GB",
    "uk-london-1": "GB",
    "us-ashburn-1": "US",
    "us-chicago-1": "US",
    "us-phoenix-1": "US",
    "us-saltlake-2": "US",
    "us-sanjose-1": "US",
}
"""The places in the SDK's list of regions (oci.regions_definitions); a region that is not here has an unknown country."""

GPU_MEMORY_GIB: Mapping[str, int] = {
    "*.GPU2.*": 16,
    "*.GPU3.*": 16,
    "BM.GPU4.8": 40,
    "BM.GPU.A100-v2.8": 80,
    "*.GPU.A10.*": 24,
    "BM.GPU.L40S.4": 48,
    "BM.GPU.H100.8": 80,
    "BM.GPU.H200.8": 141,
    "BM.GPU.B200.8": 180,
    "BM.GPU.GB200.4": 186,
    "BM.GPU.B300.8": 270,
    "BM.GPU.GB300.4": 278,
}
"""Of one GPU, by shape (Oracle, "Compute shapes", rounded down to what a node can see). The API does not tell it."""


@dataclass(frozen=True)
class OciSettings:
    tenancy: str
    user: str
    fingerprint: str  # of the API key
    private_key: Secret  # of the API key, PEM
    compartment: str  # where the instances live, and nothing else should
    subnets: Mapping[str, str]  # region -> a regional subnet of it: these are the regions that are used
    pass_phrase: Secret | None = None  # of the private key
    security_groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, tuple[str, ...]]
    )  # network security groups
    images: Mapping[str, str] = field(default_factory=dict[str, str])  # "REGION" or "REGION/arm64" -> ocid1.image…
    shapes: tuple[str, ...] = ("VM.GPU*", "BM.GPU*")  # shapes that are offered, with * and ?
    on_demand: bool = True
    preemptible: bool = True  # virtual machines only: Oracle has no preemptible bare metal
    prices: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])  # [REGION/]SHAPE[/preemptible] -> an hour
    currency: str = "USD"  # of the prices
    gpu_memory_gib: Mapping[str, int] = field(default_factory=dict[str, int])  # shape -> of one GPU, where it is not known
    public_address: bool = False
    disk_gib: int = 200  # size of the boot volume
    kms_key: str = ""  # ocid1.key… of a vault, for the boot volume; empty: Oracle's key
    proxy: str = ""  # http://HOST:PORT; never taken from the environment

    def __post_init__(self) -> None:
        for name, value, form in (
            ("tenancy", self.tenancy, TENANCY),
            ("user", self.user, USER),
            ("compartment", self.compartment, COMPARTMENT),
        ):
            if not form.fullmatch(value):
                raise ValueError(f"{name} is an OCID (ocid1.{name}.oc1..…)")
        if not FINGERPRINT.fullmatch(self.fingerprint):
            raise ValueError("fingerprint is that of the API key: 16 bytes as hex, with colons")
        if not self.subnets:
            raise ValueError('subnets names at least one region and its subnet, as {"ap-singapore-1" = "ocid1.subnet…"}')
        for region, subnet in self.subnets.items():
            if not REGION.fullmatch(region) or not SUBNET.fullmatch(subnet):
                raise ValueError(f"subnets: {region[:40]!r} is a region such as ap-singapore-1, and its subnet ocid1.subnet…")
        self._places()
        if not self.shapes or not all(PATTERN.fullmatch(pattern) for pattern in self.shapes):
            raise ValueError('shapes are patterns such as "BM.GPU.H100.8" or "VM.GPU*", at least one')
        if not (self.on_demand or self.preemptible):
            raise ValueError("on_demand or preemptible must be true, or nothing is offered")
        if not 50 <= self.disk_gib <= 32768:
            raise ValueError("disk_gib is 50 to 32768, as Oracle has it for boot volumes")
        if self.kms_key and not KEY.fullmatch(self.kms_key):
            raise ValueError("kms_key is an OCID (ocid1.key…)")
        if any(not SHAPE.fullmatch(shape) or gib < 1 for shape, gib in self.gpu_memory_gib.items()):
            raise ValueError("gpu_memory_gib has shapes, and at least 1 GiB for each")
        for name, price in self.prices.items():
            first, _, rest = name.partition("/")
            region, shape = (first, rest) if REGION.fullmatch(first) else ("", name)
            if not SHAPE.fullmatch(shape.removesuffix(f"/{PREEMPTIBLE}")) or region not in ("", *self.subnets) or price < 0:
                raise ValueError(
                    f"prices: {name[:80]!r} is [REGION/]SHAPE[/{PREEMPTIBLE}] of a region in subnets, and no price is negative"
                )

    def _places(self) -> None:
        for region, groups in self.security_groups.items():
            if region not in self.subnets or not groups or not all(GROUP.fullmatch(group) for group in groups):
                raise ValueError(
                    f"security_groups of {region[:40]!r}: a region of subnets, and ids as ocid1.networksecuritygroup…"
                )
        vet_images(self.images, form=IMAGE, shape=IMAGES_ARE, ours=self.subnets)

    def price(self, region: str, shape: str, *, preemptible: bool) -> Decimal | None:
        """An hour of the whole machine; the price of one region goes before that of all, and preemptible is half if unsaid."""
        if preemptible:
            name = f"{shape}/{PREEMPTIBLE}"
            said = self.prices.get(f"{region}/{name}", self.prices.get(name))
            full = self.price(region, shape, preemptible=False)
            return said if said is not None or full is None else full * HALF
        return self.prices.get(f"{region}/{shape}", self.prices.get(shape))


def offer_id(region: str, shape: str, *, preemptible: bool) -> str:
    return f"{region}/{shape}/{PREEMPTIBLE}" if preemptible else f"{region}/{shape}"


def split_offer(offer: str) -> tuple[str, str, bool]:
    """Region, shape and whether it is preemptible; empty words if it is no offer's id."""
    region, _, rest = offer.partition("/")
    shape, slash, market = rest.partition("/")
    good = REGION.fullmatch(region) and SHAPE.fullmatch(shape) and market == (PREEMPTIBLE if slash else "")
    return (region, shape, bool(market)) if good else ("", "", False)
