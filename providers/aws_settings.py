"""What a `[[provider]]` table of kind "aws" may say, and the countries of AWS's regions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from providers.contract import Secret
from providers.regions import vet_images

REGION = re.compile(r"[a-z]{2}(-[a-z]{2,12}){1,3}-\d{1,2}")
SUBNET = re.compile(r"subnet-[0-9a-f]{8,17}")
GROUP = re.compile(r"sg-[0-9a-f]{8,17}")
IMAGE, IMAGES_ARE = re.compile(r"ami-[0-9a-f]{8,17}"), "ami-…"
TYPE = re.compile(r"[a-z0-9-]{1,24}\.[a-z0-9-]{1,24}")
PATTERN = re.compile(r"[a-z0-9.*?-]{1,40}")

COUNTRIES: Mapping[str, str] = {
    "af-south-1": "ZA",
    "ap-east-1": "HK",
    "ap-east-2": "TW",
    "ap-northeast-1": "JP",
    "ap-northeast-2": "KR",
    "ap-northeast-3": "JP",
    "ap-south-1": "IN",
    "ap-south-2": "IN",
    "ap-southeast-1": "SG",
    "ap-southeast-2": "AU",
    "ap-southeast-3": "ID",
    "ap-southeast-4": "AU",
    "ap-southeast-5": "MY",
    "ap-southeast-6": "NZ",
    "ap-southeast-7": "TH",
    "ca-central-1": "CA",
    "ca-west-1": "CA",
    "cn-north-1": "CN",
    "cn-northwest-1": "CN",
    "eu-central-1": "DE",
    "eu-central-2": "CH",
    "eu-north-1": "SE",
    "eu-south-1": "IT",
    "eu-south-2": "ES",
    "eu-west-1": "IE",
    "eu-west-2": "GB",
    "eu-west-3": "FR",
    "il-central-1": "IL",
    "me-central-1": "AE",
    "me-south-1": "BH",
    "mx-central-1": "MX",
    "sa-east-1": "BR",
    "us-east-1": "US",
    "us-east-2": "US",
    "us-west-1": "US",
    "us-west-2": "US",
}
"""As botocore's own list of endpoints names the places; a region that is not here has an unknown country."""


@dataclass(frozen=True)
class AwsSettings:
    subnets: Mapping[str, tuple[str, ...]]  # region -> its subnets, one a zone: these are the regions that are used
    access_key_id: str = ""  # with secret_access_key; or profile; or neither: the role of the machine the service is on
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    profile: str = ""  # of the shared AWS configuration of the service's user
    security_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])  # none: the VPC's own
    images: Mapping[str, str] = field(default_factory=dict[str, str])  # "REGION" or "REGION/arm64" -> ami-…
    types: tuple[str, ...] = ("p*", "g*")  # machine types that are offered, with * and ?
    on_demand: bool = True
    spot: bool = True
    prices: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])  # [REGION/]TYPE[/spot] -> USD an hour
    public_address: bool = False
    disk_gib: int = 200  # size of the root disk
    disk_type: str = "gp3"
    kms_key: str = ""  # key or alias that encrypts the disks; empty: the account's own default key
    proxy: str = ""  # http://HOST:PORT; never taken from the environment

    def __post_init__(self) -> None:
        if not self.subnets:
            raise ValueError('subnets names at least one region and its subnets, as {"ap-southeast-3" = ["subnet-…"]}')
        for region, subnets in self.subnets.items():
            if not REGION.fullmatch(region):
                raise ValueError(f"subnets: {region[:40]!r} is not a region")
            if not subnets or not all(SUBNET.fullmatch(subnet) for subnet in subnets) or len(set(subnets)) < len(subnets):
                raise ValueError(f"subnets of {region} are different ids as subnet-0123456789abcdef0, at least one")
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key come together")
        if self.session_token and not self.access_key_id:
            raise ValueError("session_token belongs to an access_key_id")
        if self.access_key_id and self.profile:
            raise ValueError("say access_key_id or profile, not both")
        self._places()
        if not self.types or not all(PATTERN.fullmatch(pattern) for pattern in self.types):
            raise ValueError('types are patterns such as "p5.48xlarge" or "p6*", at least one')
        if not (self.on_demand or self.spot):
            raise ValueError("on_demand or spot must be true, or nothing is offered")
        if not 8 <= self.disk_gib <= 65536:
            raise ValueError("disk_gib is 8 to 65536")
        for name, price in self.prices.items():
            first, _, rest = name.partition("/")
            region, kind = (first, rest) if REGION.fullmatch(first) else ("", name)
            if not TYPE.fullmatch(kind.removesuffix("/spot")) or region not in ("", *self.subnets) or price < 0:
                raise ValueError(
                    f"prices: {name[:80]!r} is [REGION/]TYPE[/spot] with a region of subnets, and no price is negative"
                )

    def _places(self) -> None:
        for region, groups in self.security_groups.items():
            if region not in self.subnets or not groups or not all(GROUP.fullmatch(group) for group in groups):
                raise ValueError(f"security_groups of {region[:40]!r}: a region of subnets, and ids as sg-0123456789abcdef0")
        vet_images(self.images, form=IMAGE, shape=IMAGES_ARE, ours=self.subnets)

    def price(self, region: str, kind: str, *, spot: bool) -> Decimal | None:
        """What the settings say, in USD an hour; the price of one region goes before that of all."""
        name = f"{kind}/spot" if spot else kind
        return self.prices.get(f"{region}/{name}", self.prices.get(name))


def offer_id(region: str, kind: str, *, spot: bool) -> str:
    return f"{region}/{kind}/spot" if spot else f"{region}/{kind}"


def split_offer(offer: str) -> tuple[str, str, bool]:
    """Region, type and whether it is spot; empty words if it is no offer's id."""
    region, _, rest = offer.partition("/")
    kind, slash, market = rest.partition("/")
    good = REGION.fullmatch(region) and TYPE.fullmatch(kind) and market == ("spot" if slash else "")
    return (region, kind, market == "spot") if good else ("", "", False)
