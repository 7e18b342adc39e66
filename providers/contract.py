"""What Sublet asks of a provider, and what a provider may answer. Standard library only.

A provider rents out instances. It never knows of jobs, forges or leases: it sees an `Order`
and gives back an `Instance`. Everything that differs between vendors is said as data in `Traits`.

Errors are sorted by what the caller must do next:

    ProviderError
    ├── NoCapacity   a definite no to this offer: try the next one
    ├── Refused      a definite no to us (key, balance, quota, bad request): tell a person
    ├── Throttled    not now: come back after `wait`
    └── Unclear      it may have happened: look in `owned()` for the tag before asking again

Anything that a wrapper did not expect must surface as `Unclear`: that one rule stops double rent.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, runtime_checkable

CONTRACT_VERSION = 1
"""A wrapper states the version it was written for as `Traits.contract`; the registry refuses others."""


class Secret:
    """A string that does not show itself: not in `repr`, `str`, f-strings, logs or tracebacks."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Call it only at the moment of use."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not pickled")


class Availability(StrEnum):
    AVAILABLE = "available"
    SCARCE = "scarce"
    NONE = "none"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """Where an instance is, as its provider tells it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"  # off, but still there and possibly still billed: it must be destroyed
    DESTROYING = "destroying"
    FAILED = "failed"  # half-created or broken: it must be destroyed
    ENDED = "ended"  # the vendor's record of one that is no more: nothing runs, nothing is billed from `ended_at` on
    UNKNOWN = "unknown"


class BootsFrom(StrEnum):
    MACHINE_IMAGE = "machine-image"  # a virtual or bare machine; `Order.user_data` is run by cloud-init
    CONTAINER_IMAGE = "container-image"  # a container or pod; `Order.user_data` is its entry command
    PROCESS = "process"  # a process group on a machine that is there already


@dataclass(frozen=True, slots=True)
class Profile:
    """What a buyer asks of a vendor, in a few words each, for the evaluation matrix. `None` means: it is not documented,
    and reads "unknown". Nothing is decided by it."""

    hardware: str | None = None  # the freshest GPUs that its documents or its catalogue name
    footprint: str | None = None  # where its machines stand
    own_keys: str | None = None  # disks encrypted with the customer's keys
    audit_logs: str | None = None  # a record of the API calls of the account
    residency: str | None = None  # whether data stays in the chosen region
    pricing: str | None = None  # how it bills, and where the prices of the offers come from
    preemption: str | None = None  # what may take a machine away, and with what notice
    proven_against: str | None = None  # what the wrapper was tested with; none of ours claims to be proven live
    source: str | None = None  # where the facts above are from, and of when


@dataclass(frozen=True, slots=True)
class Traits:
    """What a provider can and cannot do, as data. `None` means: the vendor does not say."""

    contract: int = CONTRACT_VERSION
    billing_granularity: timedelta = timedelta(seconds=1)  # use is rounded up to a multiple of this
    billing_minimum: timedelta = timedelta(0)  # at least this much is billed per instance
    currency: str = "USD"
    spot: bool = False
    spot_notice: timedelta | None = None
    boots_from: BootsFrom = BootsFrom.MACHINE_IMAGE
    own_hardware: bool = False  # machines that are ours already: nothing is rented
    idempotent_create: bool = False  # the vendor honours `Order.key`
    unique_names: bool = False  # the vendor refuses a second instance of the same tag
    unknown_window: timedelta = timedelta(minutes=2)  # after an unclear create: late execution plus list lag
    knows_at_once: bool = False  # `get` knows a new id from its create on; else its None counts only after `unknown_window`
    user_data_limit: int | None = None  # bytes
    tag_limit: int | None = None  # characters
    dead_man_switch: bool = False  # the vendor itself ends an instance at `Order.ends_at`
    creates_per_minute: int | None = None
    offers_every: timedelta = timedelta(seconds=60)  # offers younger than this are taken from memory
    profile: Profile = Profile()
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Need:
    """The machine that is asked for. `gpu=None` asks for no GPU at all."""

    gpu: str | None = None  # an open string ("rubin", "h100"); never an enum
    gpus: int = 0
    gpu_memory_gib: int = 0  # per GPU
    memory_gib: int = 0
    disk_gib: int = 0
    architecture: str | None = None  # "amd64", "arm64"; None: either
    regions: frozenset[str] = frozenset()  # empty: any
    spot: bool | None = None  # None: either
    max_price_per_hour: Decimal | None = None
    min_driver: str | None = None  # for example "570.86"
    min_cuda: str | None = None  # for example "12.8"
    gpu_architecture: str | None = None  # as NVML tells it, for example "Rubin"


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing a provider would rent us now, at a price per hour."""

    id: str  # the provider's own name for it, the same as long as it is the same thing; what `Order.offer` gives back
    provider: str
    region: str
    price_per_hour: Decimal
    currency: str
    seen_at: datetime
    country: str | None = None  # ISO 3166-1 alpha-2
    gpu: str | None = None  # as the vendor writes it; the service has a table of aliases
    gpus: int = 0
    gpu_memory_gib: int = 0
    memory_gib: int | None = None
    disk_gib: int | None = None
    architecture: str = "amd64"
    spot: bool = False
    own: bool = False
    availability: Availability = Availability.UNKNOWN
    title: str = ""
    type: str = ""  # the vendor's machine type, which may be had at several prices or places; empty: the id
    notice: timedelta | None = None  # what a spot machine is told before it goes; None: nothing, or nobody says


@dataclass(frozen=True, slots=True)
class ImageLogin:
    """What an order's image is pulled with; short-lived where its registry gives such tokens. It is for this create only."""

    registry: str  # host, with its port where it has one
    password: Secret
    username: str = ""  # empty: `password` is a bearer token


@dataclass(frozen=True, slots=True)
class Order:
    """What to create. The tag and the end time ride inside the create call, never after it."""

    offer: Offer
    key: str  # idempotency key: the same within one attempt, new for each attempt
    tag: str  # unique instance name, `[a-z0-9-]`, at most 63 characters
    owner: str  # this installation's owner tag, unguessable, `[a-z0-9]`
    user_data: str  # the start-up script; holds no credential of any forge, registry or provider
    ends_at: datetime  # hard end: the vendor's dead-man switch where it has one
    image: str | None = None  # machine image, or container image as "registry/repository@sha256:…"; None: the provider's own
    login: ImageLogin | None = None  # where the container image's registry wants one


@dataclass(frozen=True, slots=True)
class Instance:
    """The rented machine as the provider sees it."""

    id: str
    tag: str
    phase: Phase
    created_at: datetime | None = None
    region: str = ""
    detail: str = ""  # the vendor's own word for the state
    key: str = ""  # the idempotency key it was ordered with, where the vendor shows it
    ended_at: datetime | None = None  # with ENDED: when its bill ended, where the vendor shows it
    preempted: bool = False  # the vendor says that it took it away itself


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of `Provider.check`: a no-cost look at key, balance and quota."""

    ok: bool
    summary: str  # one sentence
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


class ProviderError(Exception):
    """The provider could not do what was asked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Reach(StrEnum):
    """How far a no goes."""

    OFFER = "offer"  # this type at this price or place
    REGION = "region"  # this type in the whole region
    PROVIDER = "provider"  # whatever is asked for now


class NoCapacity(ProviderError):
    """The provider has no machine of this kind now; nothing was created."""

    def __init__(self, message: str = "", *, reach: Reach = Reach.OFFER) -> None:
        super().__init__(message)
        self.reach = reach


class Why(StrEnum):
    """What a provider refuses us for, as far as it says."""

    CREDENTIALS = "credentials"  # the key is wrong, expired, or may not do this
    FUNDS = "funds"  # the account has no balance, or no card
    QUOTA = "quota"  # the account may not have more of this
    REQUEST = "request"  # what was asked makes no sense to the vendor


class Refused(ProviderError):
    """The provider refuses us (key, balance, quota or request); nothing was created."""

    def __init__(self, message: str = "", *, why: Why = Why.REQUEST) -> None:
        super().__init__(message)
        self.why = why


class Throttled(ProviderError):
    """The provider asks us to slow down; nothing was created."""

    def __init__(self, message: str = "", *, wait: timedelta = timedelta(seconds=30)) -> None:
        super().__init__(message)
        self.wait = wait


class Unclear(ProviderError):
    """No clear answer: what was asked may or may not have happened."""

    def __init__(self, message: str = "", *, maybe_created: bool = True) -> None:
        super().__init__(message)
        self.maybe_created = maybe_created


@runtime_checkable
class Provider(Protocol):
    """Five verbs, a check and a close. Every verb may raise `ProviderError`, and nothing else.

    A class that implements it is registered under the entry-point group `sublet.providers` and is
    built as `Class(name, settings)`, where `settings` is an instance of `Class.Settings`, a frozen
    dataclass whose fields are the keys a `[[provider]]` table may hold besides `name` and `kind`.
    """

    name: str
    traits: Traits

    async def offers(self, need: Need) -> Sequence[Offer]:
        """What could be rented now that fits the need; unfit ones may be left out."""
        ...

    async def create(self, order: Order) -> Instance:
        """Rent one. The same key again gives the same instance where the traits promise it."""
        ...

    async def get(self, instance_id: str) -> Instance | None:
        """The instance, or None once the provider itself says it is not there (proven absence).

        A vendor that keeps a record of ended instances may show it, as ENDED: that proves its absence too, and dates it."""
        ...

    async def owned(self, owner: str) -> Sequence[Instance]:
        """Every instance under this owner tag, whole: a listing with one failed page raises `Unclear`."""
        ...

    async def destroy(self, instance_id: str) -> None:
        """Ask for its end. Repeatable; unknown ids are no error. Only `get` proves absence."""
        ...

    async def check(self) -> Health: ...

    async def aclose(self) -> None: ...


TAG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
OWNER = re.compile(r"[a-z0-9]{1,63}")


def vet(order: Order, traits: Traits) -> None:
    """What every wrapper checks before it asks its vendor for anything. Raises `Refused` with a sentence."""
    if not TAG.fullmatch(order.tag) or len(order.tag) > (traits.tag_limit or 63):
        raise Refused(f"an instance name has at most {traits.tag_limit or 63} of a-z, 0-9 and '-', unlike {order.tag[:80]!r}")
    if not OWNER.fullmatch(order.owner):
        raise Refused("an owner tag is made of a-z and 0-9 only")
    if not order.key or len(order.key) > 128 or not order.key.isascii() or not order.key.isprintable():
        raise Refused("an idempotency key is 1 to 128 printable ASCII characters")
    size = len(order.user_data.encode())
    if traits.user_data_limit is not None and size > traits.user_data_limit:
        raise Refused(f"the start-up script has {size} bytes, and this provider takes {traits.user_data_limit}")
    if "\0" in order.user_data:
        raise Refused("a start-up script holds no NUL character")
    if traits.boots_from is BootsFrom.CONTAINER_IMAGE and not order.image:
        raise Refused("this provider boots from a container image, and the pool names none")


@contextmanager
def guarded(what: str, *, maybe_created: bool = False) -> Generator[None, None, None]:
    """Around the body of a verb: whatever it did not expect surfaces as `Unclear`, with no vendor text in it."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        raise Unclear(f"{what}: unexpected {type(error).__name__}", maybe_created=maybe_created) from error
