"""The hosts of an `ssh` provider as the settings name them: who may be asked where, what each has, and what it costs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any

from providers.contract import Secret

HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
PROGRAM = re.compile(r"[A-Za-z0-9_./+-]{1,200}")
ROOT = re.compile(r"/[A-Za-z0-9_./+-]{1,200}")
COUNTRY = re.compile(r"[A-Z]{2}")
MOST_SLOTS = 128


class State(StrEnum):
    SERVING = "serving"
    DRAINED = "drained"  # nothing new; what runs there is looked after
    RETIRED = "retired"  # off for good, by the operator's word: it is not asked, and what was there counts as gone


@dataclass(frozen=True, slots=True)
class Host:
    """One `hosts` table. What is `None` or empty is taken from the provider's own settings."""

    name: str
    address: str = ""  # empty: the name
    port: int = 0
    user: str = ""
    host_key: str = ""  # "ssh-ed25519 AAAA…": this key and no other; empty: the known_hosts file
    root: str = ""
    sudo: bool | None = None
    first_uid: int | None = None
    python: str = ""
    nvidia_smi: str = ""
    region: str = ""
    country: str = ""
    gpu: str = ""  # as nvidia-smi names it, where that is there; else what offers shall say
    gpus: int = 0
    gpu_memory_gib: int = 0
    slot_gpus: int = 1  # GPUs of one slot
    slots: int = 0  # 0: as many as the GPUs give; without GPUs one
    price_per_hour: Decimal | None = None  # of one slot
    contracted: bool = False  # somebody else's, paid by the hour
    state: State = State.SERVING

    @property
    def own(self) -> bool:
        return not self.contracted

    @property
    def price(self) -> Decimal:
        return self.price_per_hour or Decimal(0)

    @property
    def each(self) -> int:
        """GPUs of one slot; 0 on a host without."""
        return self.slot_gpus if self.gpus else 0


@dataclass(frozen=True)
class SshSettings:
    hosts: Mapping[str, Mapping[str, str | int | float | bool]]  # name -> what is special to it
    key: Secret  # the private key, as OpenSSH writes it
    key_password: Secret | None = None  # what the private key is encrypted with
    known_hosts: Path | None = None  # OpenSSH's file; needed unless every host has its `host_key`
    user: str = "sublet"  # a user of its own on every host
    port: int = 22
    root: str = "/var/lib/sublet/instances"  # on the host: a folder per slot that is taken
    sudo: bool = False  # the host's side runs under `sudo -n`
    first_uid: int = 0  # slot 1 runs as this user number, slot 2 as the next…; 0: all as the login's user
    groups: tuple[str, ...] = ("video", "render")  # which a slot's own user is in
    python: str = "python3"  # on the host, 3.8 or later
    nvidia_smi: str = "nvidia-smi"  # on the host
    region: str = "on-premises"
    country: str = ""  # ISO 3166-1 alpha-2
    price_per_hour: Decimal = Decimal(0)  # what an hour of one slot shall count as
    currency: str = "USD"
    billing_granularity: timedelta = timedelta(seconds=1)  # of contracted hosts
    billing_minimum: timedelta = timedelta(0)  # of contracted hosts
    min_disk_gib: int = 10  # a host with less free space is left out
    connect_timeout: timedelta = timedelta(seconds=10)
    call_timeout: timedelta = timedelta(seconds=45)

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("hosts names no host")
        if not self.key:
            raise ValueError("key is empty")
        if self.connect_timeout <= timedelta(0) or self.call_timeout <= timedelta(0) or self.min_disk_gib < 0:
            raise ValueError("the timeouts are more than 0, and min_disk_gib at least 0")
        if self.price_per_hour < 0 or self.billing_granularity <= timedelta(0) or self.billing_minimum < timedelta(0):
            raise ValueError("prices and the billing's times are not negative")
        hosts_of(self)


def hosts_of(settings: SshSettings) -> Mapping[str, Host]:
    """Every host, with what the provider's own settings say of all. Raises ValueError with a sentence."""
    return {name: _host(name, table, settings) for name, table in settings.hosts.items()}


def _host(name: str, table: Mapping[str, Any], settings: SshSettings) -> Host:
    said = _fill(name, {**table})
    given: dict[str, Any] = {item.name: getattr(said, item.name) for item in fields(Host)}
    given["address"] = said.address or name
    for key in ("port", "user", "root", "python", "nvidia_smi", "region", "country"):
        given[key] = given[key] or getattr(settings, key)
    for key in ("sudo", "first_uid", "price_per_hour"):
        given[key] = getattr(settings, key) if given[key] is None else given[key]
    given["slots"] = said.slots or (said.gpus // said.slot_gpus if said.gpus and said.slot_gpus > 0 else 1)
    host = Host(**given)
    if problem := _problem(host, priced=said.price_per_hour is not None, pinned=settings.known_hosts is not None):
        raise ValueError(f"host {name}: {problem}")
    return host


def _fill(name: str, table: dict[str, Any]) -> Host:
    known: dict[str, Any] = {item.name: item.type for item in fields(Host) if item.name != "name"}
    if strange := sorted(table.keys() - known.keys()):
        raise ValueError(f"host {name}: unknown {', '.join(strange)}; it knows {', '.join(sorted(known))}")
    try:
        if "price_per_hour" in table:
            table["price_per_hour"] = Decimal(str(table["price_per_hour"]))
        if "state" in table:
            table["state"] = State(table["state"])
    except InvalidOperation:
        raise ValueError(f"host {name}: price_per_hour is not a number") from None
    except ValueError:
        raise ValueError(f"host {name}: state is one of {', '.join(State)}") from None
    for key, value in table.items():
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is int):
            raise ValueError(f"host {name}: {key} is not a {getattr(known[key], '__name__', known[key])}")
    return Host(name, **table)


def _problem(host: Host, *, priced: bool, pinned: bool) -> str:
    """A sentence about what makes no sense; empty if all does."""
    rules = (
        (HOST.fullmatch(host.name) is None, "its name is made of a-z, 0-9, dots and hyphens, at most 63"),
        (
            not host.host_key and not pinned,
            "it needs a host_key, or the provider a known_hosts file: no host is trusted unseen",
        ),
        (not 0 < host.port < 65536, "port is 1 to 65535"),
        (not host.user or not host.user.isprintable(), "user is empty"),
        (ROOT.fullmatch(host.root) is None or ".." in host.root, "root is a plain absolute path"),
        (PROGRAM.fullmatch(host.python) is None, "python is a plain path"),
        (PROGRAM.fullmatch(host.nvidia_smi) is None, "nvidia_smi is a plain path"),
        (bool(host.country) and COUNTRY.fullmatch(host.country) is None, "country is two capital letters"),
        (host.gpus < 0 or host.slot_gpus < 1 or host.gpu_memory_gib < 0, "gpus and gpu_memory_gib are not negative"),
        (not 0 < host.slots <= MOST_SLOTS, f"slots is 1 to {MOST_SLOTS}; a slot needs at least slot_gpus GPUs"),
        (
            bool(host.gpus) and host.slots * host.each > host.gpus,
            f"{host.slots} slots of {host.each} GPUs are more than it has",
        ),
        (host.first_uid is not None and host.first_uid != 0 and host.first_uid < 1000, "first_uid is 0, or at least 1000"),
        (host.price_per_hour is None or host.price_per_hour < 0, "price_per_hour is negative"),
        (host.contracted and not priced, "a contracted host has a price_per_hour"),
    )
    return next((sentence for wrong, sentence in rules if wrong), "")
