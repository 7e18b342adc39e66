"""Each instance a container on a Docker engine (20.10 or newer), through its HTTP API: no SDK, no command line.

The container's name is the order's tag, which the engine keeps unique, and its labels hold owner, key and end time,
all inside the one create call. Created but not started, it runs nothing, and the same create again starts it.
Every path and field is as the Engine API v1.41 reference has it (docs.docker.com/engine/api).
"""

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from providers.clock import SYSTEM, Clock
from providers.contract import (
    Availability,
    BootsFrom,
    Health,
    Instance,
    Need,
    NoCapacity,
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
from providers.docker_engine import Engine, is_loopback
from providers.http import table

PHASES: Mapping[str, Phase] = {
    "created": Phase.FAILED,  # half-created: STARTING only while this very provider is about to start it
    "restarting": Phase.STARTING,
    "running": Phase.RUNNING,
    "paused": Phase.STOPPED,
    "removing": Phase.DESTROYING,
    "exited": Phase.STOPPED,
    "dead": Phase.FAILED,
}
CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
"""What an agent that starts as root needs to hand its folder over and drop its rights; Docker's default has 14."""
ENTRY = ("/bin/sh", "-c", 'start=$SUBLET_START; unset SUBLET_START; eval "$start"')
"""The script comes by environment: arguments are seen by everybody on the host."""
GIB = 1024**3
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}


PROFILE = Profile(
    hardware="whatever the engine's machine has",
    footprint="where you put it",
    residency="your own machine",
    pricing="what your settings say",
    preemption="nobody but you",
    proven_against="vendor software: Docker Engine 20.10",
)


@dataclass(frozen=True)
class DockerSettings:
    host: str = "unix:///var/run/docker.sock"  # or tcp://HOST:2376 with the three tls files
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    slots: int = 4  # containers at once
    price_per_hour: Decimal = Decimal(0)  # what an hour of one slot shall count as
    currency: str = "USD"
    region: str = "local"
    network: str = "bridge"  # any network of the engine; "host" reaches a service on the engine's own loopback
    hosts: tuple[str, ...] = ()  # further names, as "host.docker.internal:host-gateway"
    memory_gib: Decimal = Decimal(0)  # limit per container; 0: none
    cpus: Decimal = Decimal(0)  # limit per container; 0: none
    pids: int = 4096  # limit per container
    shm_mib: int = 1024  # /dev/shm, which data loaders fill
    capabilities: tuple[str, ...] = CAPABILITIES  # all others are dropped
    user: str = ""  # empty: the image's own
    gpu: str = ""  # the engine cannot tell its GPUs, so the settings do: name, how many in all, memory of one
    gpus: int = 0
    gpu_memory_gib: int = 0
    pull: bool = True  # whether an image that is not on the engine is pulled

    def __post_init__(self) -> None:
        address = urlsplit(self.host)
        if address.scheme not in ("unix", "tcp"):
            raise ValueError("host is unix:///PATH or tcp://HOST:PORT")
        tls = (self.tls_ca, self.tls_certificate, self.tls_key)
        if any(tls) and not all(tls):
            raise ValueError("tls_ca, tls_certificate and tls_key come together")
        if address.scheme == "tcp" and not all(tls) and not is_loopback(address.hostname or ""):
            raise ValueError("a tcp host needs tls_ca, tls_certificate and tls_key: without TLS anyone could be root there")
        if self.slots < 1 or self.price_per_hour < 0 or self.gpus < 0 or self.memory_gib < 0 or self.cpus < 0:
            raise ValueError("slots is at least 1; prices, limits and gpus are not negative")


class DockerProvider:
    """See the module. An instance's id is the container's."""

    Settings = DockerSettings

    def __init__(
        self,
        name: str,
        settings: DockerSettings,
        *,
        clock: Clock = SYSTEM,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            currency=settings.currency,
            boots_from=BootsFrom.CONTAINER_IMAGE,
            own_hardware=True,
            idempotent_create=True,
            unique_names=True,
            knows_at_once=True,
            unknown_window=timedelta(minutes=1),
            user_data_limit=96 * 1024,  # Linux: one environment string is at most 128 KiB (MAX_ARG_STRLEN)
            tag_limit=63,
            offers_every=timedelta(seconds=2),
            profile=PROFILE,
            notes={"isolation": "a container with few capabilities and no new privileges; the kernel is shared"},
        )
        self._clock = clock
        self._engine = Engine(settings.host, title=f"docker engine {name}", tls=_tls(settings), transport=transport)
        self._placing = asyncio.Lock()
        self._starting: set[str] = set()

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One offer per free slot. Memory is shared out evenly where no limit is set; GPUs are what the settings say."""
        with guarded("docker offers"):
            taken = await self._taken()
            info = await self._engine.info()
            return [self._offer(slot, info) for slot in range(1, self.settings.slots + 1) if slot not in taken]

    async def create(self, order: Order) -> Instance:
        with guarded("docker create", maybe_created=True):
            vet(order, self.traits)
            there = await self._engine.inspect(order.tag) or await self._placed(order)
            if there is None and self.settings.pull:
                await self._engine.pull(order.image or "", order.login)
                there = await self._placed(order)
            if there is None:
                more = "" if self.settings.pull else ", and pull is off"
                raise Refused(f"image {(order.image or '')[:200]} is not on the engine{more}")
            self._same(order, there)
            return await self._start(there)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("docker get"):
            there = await self._engine.inspect(instance_id) if CONTAINER_ID.fullmatch(instance_id) else None
            return None if there is None else self._instance(there)

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("docker owned"):
            rows = await self._engine.listing(f"sublet.owner={owner}")
            return [self._instance(row) for row in rows if _labels(row).get("sublet.owner") == owner]

    async def destroy(self, instance_id: str) -> None:
        """Kills the container and removes it with its anonymous volumes."""
        with guarded("docker destroy"):
            there = await self._engine.inspect(instance_id) if CONTAINER_ID.fullmatch(instance_id) else None
            if there is None:
                return
            if "sublet.owner" not in _labels(there):
                raise Refused(f"container {instance_id[:12]} is not one of Sublet's")
            await self._engine.remove(instance_id)

    async def check(self) -> Health:
        try:
            with guarded("docker check"):
                info = await self._engine.info()
                free = self.settings.slots - len(await self._taken())
        except ProviderError as error:
            return Health(False, str(error))
        facts = {"engine": str(info.get("ServerVersion", "")), "images": str(info.get("Images", ""))}
        return Health(True, f"{free} of {self.settings.slots} slots are free on this engine", facts)

    async def aclose(self) -> None:
        await self._engine.aclose()

    async def _taken(self) -> set[int]:
        """The slots of every container of Sublet on this engine, whoever owns it."""
        labels = [_labels(row) for row in await self._engine.listing("sublet.slot")]
        return {int(found["sublet.slot"]) for found in labels if found["sublet.slot"].isdigit()}

    def _offer(self, slot: int, info: Mapping[str, Any]) -> Offer:
        settings, gpus = self.settings, len(self._gpus(slot))
        architecture = str(info["Architecture"])
        return Offer(
            id=f"slot-{slot}",
            provider=self.name,
            region=settings.region,
            price_per_hour=settings.price_per_hour,
            currency=settings.currency,
            seen_at=self._clock.now(),
            gpu=settings.gpu if gpus else None,
            gpus=gpus,
            gpu_memory_gib=settings.gpu_memory_gib if gpus else 0,
            memory_gib=int(settings.memory_gib) or int(info["MemTotal"]) // GIB // settings.slots,
            architecture=ARCHITECTURES.get(architecture, architecture),
            own=True,
            availability=Availability.AVAILABLE,
            title=f"slot {slot} of {settings.slots} on {info.get('Name', 'the engine')}",
        )

    def _gpus(self, slot: int) -> list[str]:
        """The device numbers of one slot: an even share each, and one for the first slots if there are fewer."""
        each = max(1, self.settings.gpus // self.settings.slots)
        return [str(number) for number in range(self.settings.gpus)][(slot - 1) * each : slot * each]

    async def _placed(self, order: Order) -> Mapping[str, Any] | None:
        """The container, created; None if its image is not there. Raises `NoCapacity` if every fitting slot is taken."""
        async with self._placing:
            taken = await self._taken()
            slots = range(1, self.settings.slots + 1)
            free = [slot for slot in slots if slot not in taken and len(self._gpus(slot)) == order.offer.gpus]
            if not free:
                raise NoCapacity(f"no slot with {order.offer.gpus} GPUs is free: {len(taken)} of {len(slots)} are taken")
            slot = next((slot for slot in free if order.offer.id == f"slot-{slot}"), free[0])
            there = await self._engine.create(order.tag, self._recipe(order, slot))
            if there is None:
                return None
            self._same(order, there)
            on_slot = {row["Id"] for row in await self._engine.listing(f"sublet.slot={slot}")}
            if there["Id"] in on_slot and len(on_slot) > 1:
                await self._engine.remove(str(there["Id"]))  # another service was placing here: whoever sees it steps back
                raise NoCapacity(f"slot {slot} was taken at the same moment")
            return there

    def _recipe(self, order: Order, slot: int) -> dict[str, Any]:
        settings, gpus = self.settings, self._gpus(slot)
        return {
            "Image": order.image,
            "Entrypoint": list(ENTRY),
            "Cmd": [],
            "Env": [f"SUBLET_START={order.user_data}"],
            "User": settings.user,
            "Labels": {
                "sublet.owner": order.owner,
                "sublet.tag": order.tag,
                "sublet.key": order.key,
                "sublet.slot": str(slot),
                "sublet.ends-at": order.ends_at.astimezone(UTC).isoformat(),
            },
            "HostConfig": {
                "NetworkMode": settings.network,
                "ExtraHosts": list(settings.hosts),
                "Memory": int(settings.memory_gib * GIB),
                "NanoCpus": int(settings.cpus * 10**9),
                "PidsLimit": settings.pids,
                "ShmSize": settings.shm_mib * 1024**2,
                "CapDrop": ["ALL"],
                "CapAdd": list(settings.capabilities),
                "SecurityOpt": ["no-new-privileges"],
                "Init": True,
                "AutoRemove": False,
                "RestartPolicy": {"Name": "no"},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
                "DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": gpus, "Capabilities": [["gpu"]]}] if gpus else [],
            },
        }

    def _same(self, order: Order, there: Mapping[str, Any]) -> None:
        """Raises if what is there under the order's name is not what is asked for."""
        labels = _labels(there)
        if labels.get("sublet.owner") != order.owner:
            raise Refused(f"the name {order.tag} is taken by a container that is not ours")
        if labels.get("sublet.key") != order.key:
            raise Unclear(f"a container {order.tag} of another attempt is there")

    async def _start(self, there: Mapping[str, Any]) -> Instance:
        """Start what is only created. If the engine cannot, nothing stays, and that is a definite no."""
        container = str(there["Id"])
        if _state(there) != "created":
            return self._instance(there)
        self._starting.add(container)
        try:
            problem = await self._engine.start(container)
            if problem:
                await self._engine.remove(container)
                if await self._engine.inspect(container) is None:
                    raise Refused(problem)
                raise Unclear(problem)
        finally:
            self._starting.discard(container)
        started = await self._engine.inspect(container)
        if started is None:
            raise Unclear(f"container {container[:12]} went as it was started", maybe_created=False)
        return self._instance(started)

    def _instance(self, there: Mapping[str, Any]) -> Instance:
        labels, state, container = _labels(there), _state(there), str(there["Id"])
        phase = PHASES.get(state, Phase.UNKNOWN)
        if container in self._starting and state == "created":
            phase = Phase.STARTING
        detail = state
        if state in ("exited", "dead") and not isinstance(there["State"], str):
            detail = f"{state} with {table(there['State']).get('ExitCode')}"
        tag, key = labels.get("sublet.tag", ""), labels.get("sublet.key", "")
        return Instance(container, tag, phase, _created(there["Created"]), self.settings.region, detail, key)


def _labels(there: Mapping[str, Any]) -> Mapping[str, str]:
    """A listing has them at the top, an inspection under Config."""
    found = there["Labels"] if "Labels" in there else table(there["Config"])["Labels"]
    return table(found or {})


def _state(there: Mapping[str, Any]) -> str:
    state = there["State"]
    return state if isinstance(state, str) else str(table(state)["Status"])


def _created(value: int | str) -> datetime:
    """Seconds in a listing; in an inspection RFC 3339 with nine digits of a second."""
    if isinstance(value, int):
        return datetime.fromtimestamp(value, UTC)
    return datetime.fromisoformat(value[:19]).replace(tzinfo=UTC)


def _tls(settings: DockerSettings) -> ssl.SSLContext | None:
    if settings.tls_ca is None or settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context
