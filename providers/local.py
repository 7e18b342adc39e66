"""Instances on this very machine: each one a process group with its own folder, surviving a restart of the service.

For own GPU hosts, for the demo and for tests. It isolates by process and folder, not by kernel: jobs of people you
do not trust belong in a container or on a rented machine. Where the service runs as root, the start-up script's own
agent drops its rights; the provider only starts the script. A service under systemd needs `KillMode=process`, or a
restart takes the instances along.
"""

import asyncio
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psutil

from providers.clock import SYSTEM, Clock
from providers.contract import (
    TAG,
    Availability,
    BootsFrom,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Profile,
    Refused,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.local_folders import PATIENCE, Folders, Record
from providers.local_gpus import find_gpus, share

ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
GIB = 1024**3


PROFILE = Profile(
    hardware="whatever this machine has",
    footprint="where you put it",
    residency="your own machine",
    pricing="what your settings say",
    preemption="nobody but you",
    proven_against="vendor software: real processes on Linux",
)


@dataclass(frozen=True)
class LocalSettings:
    root: Path  # holds a folder per instance; belongs to one installation
    slots: int = 4  # instances at once
    price_per_hour: Decimal = Decimal(0)  # what an hour of one slot shall count as
    currency: str = "USD"
    region: str = "local"

    def __post_init__(self) -> None:
        if self.slots < 1 or self.price_per_hour < 0:
            raise ValueError("slots is at least 1, and price_per_hour at least 0")


class LocalProvider:
    """See the module. An instance's id is its tag."""

    Settings = LocalSettings

    def __init__(self, name: str, settings: LocalSettings, *, clock: Clock = SYSTEM) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            currency=settings.currency,
            boots_from=BootsFrom.PROCESS,
            own_hardware=True,
            idempotent_create=True,
            unique_names=True,
            knows_at_once=True,
            unknown_window=timedelta(seconds=2 * PATIENCE),  # by then a create that was given up on is over
            user_data_limit=256 * 1024,
            tag_limit=63,
            offers_every=timedelta(seconds=2),
            profile=PROFILE,
            dead_man_switch=True,
            notes={"isolation": "a process group and a folder on the service's own machine; for trusted jobs"},
        )
        self._clock = clock
        self._folders = Folders(settings.root, settings.region)

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One offer per free slot. The machine's memory and GPUs are shared out evenly among the slots."""
        with guarded("local offers"):
            return await asyncio.to_thread(self._offers)

    async def create(self, order: Order) -> Instance:
        with guarded("local create", maybe_created=True):
            vet(order, self.traits)
            return await asyncio.to_thread(self._create, order)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("local get"):
            return await asyncio.to_thread(self._folders.look, instance_id) if TAG.fullmatch(instance_id) else None

    async def owned(self, owner: str) -> Sequence[Instance]:
        """An instance whose record cannot be read counts as this owner's: better asked about than forgotten."""
        with guarded("local owned"):
            return await asyncio.to_thread(self._owned, owner)

    async def destroy(self, instance_id: str) -> None:
        """SIGTERM, a short grace, SIGKILL until none is left, then the folder. Raises `Unclear` if some do not end."""
        with guarded("local destroy"):
            if not TAG.fullmatch(instance_id):
                return
            if await asyncio.to_thread(self._folders.ask_to_end, instance_id):
                await self._grace(instance_id)
            end = time.monotonic() + PATIENCE
            while left := await asyncio.to_thread(self._folders.end, instance_id):
                if time.monotonic() > end:
                    raise Unclear(f"{left} processes of {instance_id} do not end", maybe_created=False)
                await asyncio.sleep(0.03)

    async def _grace(self, instance_id: str) -> None:
        """Until all its processes have ended, or GRACE is over."""
        end = time.monotonic() + GRACE
        while await asyncio.to_thread(self._folders.processes, instance_id):
            if time.monotonic() > end:
                return
            await asyncio.sleep(0.03)

    async def check(self) -> Health:
        with guarded("local check"):
            return await asyncio.to_thread(self._check)

    async def aclose(self) -> None:
        """Nothing to close: the instances live on."""

    def _offers(self) -> list[Offer]:
        slots, now = self.settings.slots, self._clock.now()
        root = next(folder for folder in (self._folders.root, *self._folders.root.parents) if folder.exists())
        gpus, _ = find_gpus()
        offers: list[Offer] = []
        for slot in sorted(set(range(1, slots + 1)) - self._folders.taken()):
            mine = share(gpus, slot, slots)
            offers.append(
                Offer(
                    id=f"slot-{slot}",
                    provider=self.name,
                    region=self.settings.region,
                    price_per_hour=self.settings.price_per_hour,
                    currency=self.settings.currency,
                    seen_at=now,
                    gpu=mine[0].name if mine else None,
                    gpus=len(mine),
                    gpu_memory_gib=min((gpu.memory_gib for gpu in mine), default=0),
                    memory_gib=psutil.virtual_memory().total // GIB // slots,
                    disk_gib=shutil.disk_usage(root).free // GIB,
                    architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
                    own=True,
                    availability=Availability.AVAILABLE,
                    title=f"slot {slot} of {slots} on this machine",
                )
            )
        return offers

    def _create(self, order: Order) -> Instance:
        folders = self._folders
        with folders.locked():
            folders.sweep()
            if folders.exists(order.tag):
                slot = self._same(order)
            elif folders.processes(order.tag):
                raise Unclear(f"processes of an instance {order.tag} are left without their folder: destroy it first")
            else:
                slot = self._slot(order.offer)
                times = self._clock.now().isoformat(), order.ends_at.isoformat()
                folders.place(Record(order.tag, order.key, order.owner, slot, *times), order.user_data)
            if not folders.started(order.tag):
                seconds = (order.ends_at - self._clock.now()).total_seconds()
                folders.start(order.tag, seconds, self._gpu_environment(slot))
        instance = folders.look(order.tag)
        if instance is None:
            raise Unclear(f"{order.tag} was destroyed while it was being created", maybe_created=False)
        return instance

    def _same(self, order: Order) -> int:
        """The slot of what is there under this tag, if it is what is asked for. Raises if it is not."""
        record = self._folders.record(order.tag)
        if record is None or record.owner != order.owner:
            raise Refused(f"the name {order.tag} is taken by an instance that is not ours")
        if record.key != order.key:
            raise Unclear(f"an instance {order.tag} of another attempt is there")
        return record.slot

    def _slot(self, offer: Offer) -> int:
        """The offered slot if it is still free, else another one with as many GPUs."""
        slots, taken = self.settings.slots, self._folders.taken()
        gpus, _ = find_gpus()
        free = [slot for slot in range(1, slots + 1) if slot not in taken and len(share(gpus, slot, slots)) == offer.gpus]
        if not free:
            raise NoCapacity(f"no slot with {offer.gpus} GPUs is free: {len(taken)} of {slots} slots are taken")
        return next((slot for slot in free if offer.id == f"slot-{slot}"), free[0])

    def _gpu_environment(self, slot: int) -> dict[str, str]:
        """CUDA programs see only the slot's own GPUs. On a machine without GPUs nothing is said."""
        gpus, _ = find_gpus()
        mine = share(gpus, slot, self.settings.slots)
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in mine) or "-1"} if gpus else {}

    def _owned(self, owner: str) -> list[Instance]:
        folders, found = self._folders, list[Instance]()
        for tag in folders.tags():
            record = folders.record(tag)
            if record is None or record.owner == owner:
                instance = folders.look(tag)
                if instance is not None:
                    found.append(instance)
        return found

    def _check(self) -> Health:
        root = self._folders.root
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        gpus, problem = find_gpus()
        facts = {"root": str(root), "gpus": ", ".join(gpu.name for gpu in gpus) or problem}
        if not os.access(root, os.W_OK | os.X_OK):
            return Health(False, f"{root} cannot be written", facts)
        free = self.settings.slots - len(self._folders.taken())
        return Health(True, f"{free} of {self.settings.slots} slots are free on this machine", facts)
