"""What a `[[provider]]` of kind `terraform` may say, and the offers that it lists: a module has no price list to ask."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from providers.contract import Availability, BootsFrom, Offer, Phase, Secret
from providers.terraform_words import CREDENTIALS, NO_CAPACITY, QUOTA, THROTTLED

OWN_INPUTS = (
    "tag",
    "owner",
    "key",
    "ends_at",
    "user_data",
    "image",
    "offer",
    "type",
    "region",
    "gpu",
    "gpus",
    "disk_gib",
    "spot",
)
"""The variables that a create fills in, as far as the module declares them."""
OWN_ENVIRONMENT = ("TF_WORKSPACE", "TF_DATA_DIR", "TF_IN_AUTOMATION", "TF_INPUT", "TF_CLI_ARGS")
WORDS: Mapping[str, type] = {
    "price_per_hour": Decimal,
    "region": str,
    "type": str,
    "title": str,
    "country": str,
    "gpu": str,
    "gpus": int,
    "gpu_memory_gib": int,
    "memory_gib": int,
    "disk_gib": int,
    "architecture": str,
    "spot": bool,
    "variables": dict,
}
"""The keys of one offer's table."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """One offer of the settings."""

    offer: str
    price_per_hour: Decimal
    region: str = "default"
    type: str = ""
    title: str = ""
    country: str | None = None
    gpu: str | None = None
    gpus: int = 0
    gpu_memory_gib: int = 0
    memory_gib: int | None = None
    disk_gib: int | None = None
    architecture: str = "amd64"
    spot: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TerraformSettings:
    root: Path  # states and copies of the module; belongs to this provider of one installation, and to your backup
    module: Path  # the folder of the module
    offers: Mapping[str, Mapping[str, Any]]  # name -> price_per_hour and what the machine has
    binary: str = "terraform"  # or "tofu", or a full path
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])  # further inputs, the same for every machine
    secrets: Mapping[str, Secret] = field(default_factory=dict[str, Secret])  # environment variables, by name
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    pass_environment: tuple[str, ...] = ()  # the service's own environment variables that Terraform may see
    slots: int = 20  # machines at once
    at_once: int = 4  # runs of Terraform at once; a create beyond them waits
    wait: timedelta = timedelta(seconds=45)  # how long a call waits for its run; the run itself goes on
    init_timeout: timedelta = timedelta(minutes=5)
    plan_timeout: timedelta = timedelta(minutes=5)
    apply_timeout: timedelta = timedelta(minutes=20)  # also of a destroy
    grace: timedelta = timedelta(minutes=5)  # between SIGINT and SIGKILL
    refresh_every: timedelta = timedelta(minutes=5)  # how often the vendor is asked about a machine; 0: never
    no_capacity: tuple[str, ...] = tuple(NO_CAPACITY)  # patterns in Terraform's errors, and what they stand for
    quota: tuple[str, ...] = tuple(QUOTA)
    credentials: tuple[str, ...] = tuple(CREDENTIALS)
    throttled: tuple[str, ...] = tuple(THROTTLED)
    phases: Mapping[str, str] = field(default_factory=dict[str, str])  # the output `phase` -> one of ours
    currency: str = "USD"
    boots_from: BootsFrom = BootsFrom.MACHINE_IMAGE
    billing_granularity: timedelta = timedelta(seconds=1)
    billing_minimum: timedelta = timedelta(0)
    spot_notice: timedelta | None = None
    dead_man_switch: bool = False  # whether the module has the vendor end the machine at `ends_at`
    user_data_limit: int | None = 16384  # bytes; the least that a large vendor takes

    def __post_init__(self) -> None:
        shelves(self)
        if self.boots_from is BootsFrom.PROCESS:
            raise ValueError("boots_from is machine-image or container-image")
        if self.slots < 1 or self.at_once < 1:
            raise ValueError("slots and at_once are at least 1")
        if min(self.wait, self.init_timeout, self.plan_timeout, self.apply_timeout, self.grace) <= timedelta(0):
            raise ValueError("every time-out is longer than nothing")
        for name in self.variables:
            if name in OWN_INPUTS:
                raise ValueError(f"the variable {name} is filled in by Sublet and cannot be set")
        for name in (*self.secrets, *self.environment, *self.pass_environment):
            if name in OWN_ENVIRONMENT or name.startswith("TF_CLI_ARGS"):
                raise ValueError(f"the environment variable {name} is Sublet's own and cannot be set")
        for words in patterns(self).values():
            for pattern in words:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{pattern!r} is no pattern: {error}") from None
        known = {str(phase) for phase in Phase if phase is not Phase.ENDED}  # only a destroy proves an end
        for word, phase in self.phases.items():
            if phase not in known:
                raise ValueError(f"phases says {phase!r} of {word!r}, and a phase is one of {', '.join(sorted(known))}")


def shelves(settings: TerraformSettings) -> Mapping[str, Shelf]:
    """The offers of the settings. Raises ValueError, with a sentence, for the first that is wrong."""
    if not settings.offers:
        raise ValueError("offers names at least one offer, with its price_per_hour")
    return {name: _shelf(name, table) for name, table in settings.offers.items()}


def _shelf(name: str, table: Mapping[str, Any]) -> Shelf:
    given: dict[str, Any] = {}
    for key, value in table.items():
        if key not in WORDS:
            raise ValueError(f"the offer {name} has an unknown key {key!r}; it knows {', '.join(WORDS)}")
        if WORDS[key] is Decimal:
            given[key] = _price(name, value)
        elif type(value) is not WORDS[key] or (WORDS[key] is int and value < 0):
            raise ValueError(f"{key} of the offer {name} is not what it should be")
        else:
            given[key] = value
    if "price_per_hour" not in given:
        raise ValueError(f"the offer {name} has no price_per_hour: without a price nothing is rented")
    for variable in given.get("variables", {}):
        if variable in OWN_INPUTS:
            raise ValueError(f"the variable {variable} is filled in by Sublet and cannot be set")
    return Shelf(name, **given)


def _price(name: str, value: object) -> Decimal:
    try:
        price = Decimal(str(value)) if isinstance(value, int | float | str | Decimal) and value is not True else Decimal("NaN")
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price < 0:
        raise ValueError(f"price_per_hour of the offer {name} is a number that is not negative")
    return price


def offered(shelf: Shelf, provider: str, settings: TerraformSettings, now: datetime) -> Offer:
    return Offer(
        id=shelf.offer,
        provider=provider,
        region=shelf.region,
        price_per_hour=shelf.price_per_hour,
        currency=settings.currency,
        seen_at=now,
        country=shelf.country,
        gpu=shelf.gpu,
        gpus=shelf.gpus,
        gpu_memory_gib=shelf.gpu_memory_gib,
        memory_gib=shelf.memory_gib,
        disk_gib=shelf.disk_gib,
        architecture=shelf.architecture,
        spot=shelf.spot,
        availability=Availability.UNKNOWN,  # nobody knows before an apply
        title=shelf.title or shelf.offer,
        type=shelf.type,
        notice=settings.spot_notice if shelf.spot else None,
    )


def patterns(settings: TerraformSettings) -> Mapping[str, Sequence[str]]:
    """The words of `terraform_words.sort`, as these settings have them."""
    return {
        "no_capacity": settings.no_capacity,
        "quota": settings.quota,
        "credentials": settings.credentials,
        "throttled": settings.throttled,
    }
