"""The benches of the built-in providers: the fake cloud on a manual clock, real processes, real containers."""

import asyncio
import atexit
import contextlib
import itertools
import secrets
import signal
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import psutil

from providers import local_keeper
from providers.clock import SYSTEM
from providers.conformance import Fault, Missing
from providers.contract import Offer, Order, Phase, Provider, Why
from providers.docker import DockerProvider, DockerSettings
from providers.fake import FakeProvider, FakeSettings, make_cloud
from providers.fake_cloud import Trouble
from providers.local import LocalProvider, LocalSettings
from providers.local_folders import Folders
from tests.parts import docker as docker_part
from tests.providers.trips import TrippingTransport

shared_engine: str | None = None
"""Set by the tests, so that not every check starts an engine."""
at_exit = contextlib.ExitStack()
atexit.register(at_exit.close)
LIFE = "sleep 600 & wait\n"


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, start: datetime = datetime(2027, 3, 1, 12, tzinfo=UTC)) -> None:
        self.time = start

    def now(self) -> datetime:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        await asyncio.sleep(0)


class Orders:
    """New orders of one owner."""

    def __init__(self, offer: Offer, *, now: datetime, image: str | None = None, script: str = LIFE) -> None:
        self._offer, self._now, self._image, self._script = offer, now, image, script
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self.owner = f"owner{self._run}"

    def __call__(self) -> Order:
        tag = f"sublet-{self._run}-{next(self._numbers)}"
        ends = self._now + timedelta(hours=1)
        return Order(self._offer, secrets.token_hex(16), tag, self.owner, self._script, ends, self._image)


def plain_offer(provider: str, now: datetime) -> Offer:
    return Offer("slot-1", provider, "local", Decimal(0), "USD", now)


class FakeBench:
    name = "fake"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {"stopped": Phase.STOPPED, "running": Phase.RUNNING, "destroying": Phase.DESTROYING}
    secrets: Sequence[str] = ()
    crowd = 30

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.settings = FakeSettings(seed=7)
        self.cloud = make_cloud(self.name, self.settings, self.clock)
        self.order = Orders(self.cloud.shelf[0], now=self.clock.now())

    async def provider(self) -> Provider:
        return FakeProvider(self.name, self.settings, clock=self.clock, cloud=self.cloud)

    async def cause(self, fault: Fault) -> None:
        script = self.cloud.faults.script
        match fault:
            case Fault.LOST_REPLY | Fault.MALFORMED:
                script("create", Trouble.LOST_REPLY)
            case Fault.HALF_CREATED:
                script("create", Trouble.HALF)
            case Fault.NO_CAPACITY:
                script("create", Trouble.NO_CAPACITY)
            case Fault.QUOTA | Fault.CREDENTIALS:
                script("create", Trouble.REFUSED, why=Why.QUOTA if fault is Fault.QUOTA else Why.CREDENTIALS)
            case Fault.THROTTLED:
                script("create", Trouble.THROTTLED)
            case Fault.SERVER_ERROR:
                script("create", Trouble.BROKEN_OFF)
            case Fault.BROKEN_LIST:
                script("owned", Trouble.BROKEN_OFF)
            case Fault.PREEMPTED:
                for machine in self.cloud.living():
                    self.cloud.vanish(machine.id)

    async def put(self, instance_id: str, state: str) -> None:
        if state == "stopped":
            self.cloud.stop(instance_id)
        elif state == "destroying":
            self.cloud.end(self.cloud.machines[instance_id], timedelta(minutes=1), "")

    async def pause(self) -> None:
        await self.clock.sleep(1)


class LocalBench:
    """Real processes. A keeper stands before the real one, and falls over once when it is told to."""

    name = "local"
    faults: frozenset[Fault] = frozenset({Fault.NO_CAPACITY, Fault.HALF_CREATED, Fault.PREEMPTED})
    states: Mapping[str, Phase] = {
        "running": Phase.RUNNING,
        "ended": Phase.STOPPED,
        "killed": Phase.STOPPED,
        "not started": Phase.FAILED,
        "unreadable": Phase.FAILED,
    }
    secrets: Sequence[str] = ()
    crowd = 2

    def __init__(self, folder: Path) -> None:
        self.folders = Folders(folder / "root", "local")
        self.settings = LocalSettings(self.folders.root, slots=3)
        self.order = Orders(plain_offer(self.name, SYSTEM.now()), now=SYSTEM.now())
        self._stumble = folder / "stumble"
        self.keeper = folder / "keeper.py"
        self.keeper.write_text(
            "import os, runpy\n"
            f"try: os.unlink({str(self._stumble)!r})\n"
            f"except FileNotFoundError: runpy.run_path({local_keeper.__file__!r}, run_name='__main__')\n"
        )

    async def provider(self) -> Provider:
        return LocalProvider(self.name, self.settings)

    async def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.NO_CAPACITY:
                provider = await self.provider()
                for _ in range(self.settings.slots):
                    await provider.create(self.order())
            case Fault.HALF_CREATED:
                self._stumble.touch()
            case Fault.PREEMPTED:
                for tag in self.folders.tags():
                    self._kill(tag)
            case _:
                raise AssertionError(fault)

    async def put(self, instance_id: str, state: str) -> None:
        folder = self.folders.root / instance_id
        match state:
            case "ended":
                (await self._script(instance_id)).send_signal(signal.SIGTERM)
            case "killed" | "not started":
                self._kill(instance_id)
                if state == "not started":
                    (folder / "process.json").unlink()
            case "unreadable":
                (folder / "instance.json").write_text("{")
            case _:
                pass

    async def pause(self) -> None:
        await asyncio.sleep(0.02)

    async def _script(self, instance_id: str) -> psutil.Process:
        """The process of the start-up script: on a busy machine the keeper needs a moment to start it."""
        async with asyncio.timeout(15):
            while True:
                for process in self.folders.processes(instance_id):
                    with contextlib.suppress(psutil.Error):
                        if "start.sh" in process.cmdline():
                            return process
                await self.pause()

    def _kill(self, tag: str) -> None:
        for process in self.folders.processes(tag):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may go with one that was killed before it
                process.kill()


class DockerBench:
    """Real containers; the wire between provider and engine can be tripped."""

    name = "docker"
    faults: frozenset[Fault] = frozenset(Fault) - {Fault.QUOTA}
    states: Mapping[str, Phase] = {"running": Phase.RUNNING, "exited": Phase.STOPPED, "paused": Phase.STOPPED}
    secrets: Sequence[str] = ()
    crowd = 2

    def __init__(self, host: str, image: str) -> None:
        self.host = host
        self.settings = DockerSettings(host=host, network="none", slots=3, pull=False)
        self.order = Orders(plain_offer(self.name, SYSTEM.now()), now=SYSTEM.now(), image=image)
        self.wires: list[TrippingTransport] = []
        self._providers: list[DockerProvider] = []

    async def provider(self) -> Provider:
        return await self.docker()

    async def docker(self) -> DockerProvider:
        wire = TrippingTransport(httpx.AsyncHTTPTransport(uds=self.host.removeprefix("unix://")))
        provider = DockerProvider(self.name, self.settings, transport=wire)
        self.wires.append(wire)
        self.keep(provider)
        return provider

    def keep(self, provider: DockerProvider) -> None:
        """Close it with the bench."""
        self._providers.append(provider)

    async def cause(self, fault: Fault) -> None:
        def trip(path: str, status: int | None, text: str = "", *, reaches: bool = False, times: int = 1) -> None:
            answer = None if status is None else httpx.Response(status, json={"message": text}, headers={"Retry-After": "7"})
            for wire in self.wires:
                wire.trip(lambda request: request.url.path.endswith(path), answer, reaches=reaches, times=times)

        match fault:
            case Fault.LOST_REPLY | Fault.HALF_CREATED:
                trip("/containers/create", None, reaches=True)
            case Fault.CREDENTIALS:
                trip("/containers/create", 403, "authorization denied by plugin")
            case Fault.THROTTLED:
                trip("/containers/create", 429, "slow down")
            case Fault.SERVER_ERROR:
                trip("/containers/create", 500, "the engine stumbled")
            case Fault.MALFORMED:
                trip("/containers/create", 201, reaches=True)
            case Fault.BROKEN_LIST:
                trip("/containers/json", 500, "the engine stumbled", times=3)
            case Fault.NO_CAPACITY:
                for _ in range(self.settings.slots):
                    await self._providers[0].create(self.order())
            case Fault.PREEMPTED:
                for instance in await self._providers[0].owned(self.order.owner):
                    docker_part.call(self.host, "POST", f"/containers/{instance.id}/kill")
            case _:
                raise AssertionError(fault)

    async def put(self, instance_id: str, state: str) -> None:
        verb = {"exited": "kill", "paused": "pause"}.get(state)
        if verb is not None:
            docker_part.call(self.host, "POST", f"/containers/{instance_id}/{verb}")

    async def pause(self) -> None:
        await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        """Ends what is left of this bench, also of the other owners that its checks invented."""
        for row in docker_part.call(self.host, "GET", "/containers/json", params={"all": "1"}).json():
            if str(row["Labels"].get("sublet.owner", "")).startswith(self.order.owner):
                docker_part.call(self.host, "DELETE", f"/containers/{row['Id']}", params={"force": "1"})
        for provider in self._providers:
            await provider.aclose()


@contextlib.asynccontextmanager
async def fake() -> AsyncGenerator[FakeBench, None]:
    yield FakeBench()


@contextlib.asynccontextmanager
async def local() -> AsyncGenerator[LocalBench, None]:
    """Restores the real keeper, and proves in the end that no process of the bench is left."""
    real = local_keeper.__file__
    with tempfile.TemporaryDirectory(prefix="sublet-local-") as folder:
        bench = LocalBench(Path(folder))
        local_keeper.__file__ = str(bench.keeper)
        try:
            yield bench
        finally:
            local_keeper.__file__ = real
            provider = await bench.provider()
            for tag in bench.folders.tags():
                await provider.destroy(tag)


@contextlib.asynccontextmanager
async def docker() -> AsyncGenerator[DockerBench, None]:
    """On the engine of the test session if there is one (`shared_engine`), else on one that ends with this program."""
    global shared_engine
    async with contextlib.AsyncExitStack() as stack:
        shared_engine = shared_engine or at_exit.enter_context(docker_part.engine())
        host = shared_engine
        image = docker_part.import_busybox(host) if host else None
        if host is None or image is None:
            raise Missing(f"{docker_part.PART}: {docker_part.REMEDY}")
        bench = DockerBench(host, image)
        stack.push_async_callback(bench.aclose)
        yield bench
