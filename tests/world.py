"""A whole service on a manual clock: the real web, engine and store; fake clouds, forges and nodes that behave, or do not.

async with World(database, tmp_path) as world:
    key = world.github.queue(["gpu", "rubin"], "acme/train")
    await world.run_until(lambda: world.all_released())
    assert world.ledger() == world.cloud.invoice().exact

`World(..., forges=["gitea"], intake={"gitea": "poll"})` is one on another forge that no webhook reaches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from app.core.listening import Listening
from app.core.model import Job, Lease, Pool, RepositoryRule
from app.core.states import State
from app.engine.step import Timing
from app.kit.clock import Clock
from app.kit.threads import InlineLane
from app.store import jobs, lease_views, ledger
from app.store.db import Database
from app.store.vault import Vault
from app.trust.access import RegistryAccess
from app.trust.judge import ImageTrust
from app.web.parts import WebSettings
from app.wiring import Outfit, Service, assemble
from providers.contract import Need, Phase, Secret
from providers.fake import FakeProvider, FakeSettings
from providers.fake_cloud import FakeCloud, Machine
from tests.fake_node import FakeNode, Manner, read_user_data
from tests.fakes.registry import FakeRegistry
from tests.forge_programs import RunnerProgram, Work
from tests.forge_sides import Delivery, ForgejoSide, GiteaSide, GitHubSide, GitLabSide, Side, side_of

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
URL = "https://sublet.test"
POLL_SECONDS = 15
"""Between two listings of a forge that is only polled, and of every Forgejo: as the settings have it."""


S = TypeVar("S", GitHubSide, GitLabSide, GiteaSide, ForgejoSide)


class ManualClock:
    """Time that stands still until a test moves it. Whoever sleeps moves it, too."""

    def __init__(self, start: datetime = NOON) -> None:
        self._now, self._start = start, start

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=seconds))

    def advance(self, step: timedelta) -> None:
        self._now += step


def pool_of(**values: Any) -> Pool:
    """The pool `gpu` of most stories: one Rubin GPU at up to 9.50 an hour, three machines at once."""
    given: dict[str, Any] = {
        "name": "gpu",
        "labels": frozenset({"gpu", "rubin"}),
        "need": Need(gpu="rubin", gpus=1, gpu_memory_gib=80, max_price_per_hour=Decimal("9.50")),
        "ceiling": 3,
    }
    return Pool(**{**given, **values})


@dataclass
class Host:
    """One machine from the inside: its node, and the forge's runner program on it."""

    machine: Machine
    node: FakeNode
    side: Side | None  # None: it is a pilot's, and meets no forge
    duration: timedelta
    succeeds: bool = True
    takes_jobs: bool = True
    program: RunnerProgram | None = None
    work: Work | None = None
    until: datetime | None = None
    allowed: bool = True
    over: bool = False
    next_beat: datetime = NOON

    async def step(self, now: datetime) -> None:
        """One step of its life."""
        if self.over or self.node.manner is Manner.SILENT:
            return
        if "online" not in self.node.done or now >= self.next_beat:
            did = await self.node.step()
            self.next_beat = now + timedelta(seconds=6)
            if did not in ("", "heartbeat"):
                return  # a step at a time
        if self.node.stopped:
            self.over = True
            return
        if self.side is None or "online" not in self.node.done or not self.takes_jobs or "exit" in self.node.done:
            return
        if self.program is None:
            self.program = self.side.program(self.node.credential or {})
        if self.work is None:
            await self._look_for_work(self.program, now)
        elif self.until is not None and now >= self.until:
            self.program.finish(self.work, self.succeeds and self.allowed, now)
            await self.node.exit(0)

    async def _look_for_work(self, program: RunnerProgram, now: datetime) -> None:
        self.work = program.take(now)
        if self.work is not None:
            sign = (self.node.credential or {}).get("begun")
            if sign and any(sign in line for line in self.work.output):
                await self.node.begun()
            if self.work.claim:
                self.allowed, lines = await self.node.job_started(**self.work.claim)
                await self.node.log(*lines)
            self.until = now + (self.duration if self.allowed else timedelta(0))
        elif program.ended is not None:
            await self.node.exit(program.ended)


class World:
    """See the module. Everything in it may be set and read by a test."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        pools: Sequence[Pool] = (),
        repositories: Sequence[RepositoryRule] = (RepositoryRule("acme/*"),),
        clouds: Mapping[str, FakeSettings] | None = None,
        gitlab: bool = False,
        forges: Sequence[str] = ("github",),
        intake: Mapping[str, str] | None = None,
        seed: int = 1,
        timing: Timing | None = None,
        images: FakeRegistry | None = None,
    ) -> None:
        """`images`: the registry that the pools' images lie in; it may be down, and asks for the login that it says.
        `intake`: by forge "both", "poll" or "webhook", as in the settings; `gitlab`: GitLab beside `forges`."""
        self.clock, self.database, self._folder = ManualClock(), database, folder
        self._intake = dict(intake or {})
        self.sides: dict[str, Side] = {
            name: side_of(name, self.clock, hooked=self._intake.get(name) != "poll")
            for name in (*forges, *(["gitlab"] if gitlab else []))
        }
        settings = clouds or {"cloud": FakeSettings()}
        self.providers = {name: FakeProvider(name, one, clock=self.clock) for name, one in settings.items()}
        self.pools = {pool.name: pool for pool in (pools or (pool_of(),))}
        self._repositories, self._timing = tuple(repositories), timing or Timing()
        self._random = random.Random(seed)
        self.hosts: dict[str, Host] = {}
        self.manners: list[Manner] = []  # of the next machines, in order; then they are honest
        self.job_duration = timedelta(minutes=1)
        self.intercept: Callable[[list[Delivery]], list[Delivery]] = lambda deliveries: deliveries
        self.answers: list[int] = []  # status of every webhook delivery
        self.images = images
        self._wires: list[httpx.AsyncClient] = []
        self.service = self._assemble()
        self.client = self._client()

    @property
    def github(self) -> GitHubSide:
        return self._side(GitHubSide)

    @property
    def gitlab(self) -> GitLabSide:
        return self._side(GitLabSide)

    @property
    def gitea(self) -> GiteaSide:
        return self._side(GiteaSide)

    @property
    def forgejo(self) -> ForgejoSide:
        return self._side(ForgejoSide)

    def _side(self, kind: type[S]) -> S:
        return next(side for side in self.sides.values() if isinstance(side, kind))

    def _listening(self, name: str) -> Listening:
        """What the settings make of this forge's `intake`."""
        often = timedelta(seconds=POLL_SECONDS)
        match self._intake.get(name, "both"):
            case "poll":
                return Listening(webhooks=False, poll=often)
            case "webhook":
                return Listening(webhooks=True, poll=None)
            case _:
                return Listening(webhooks=True, poll=often if name == "forgejo" else self._timing.poll)

    def another(self, clock: Clock) -> Service:
        """One more process on the same database, in the same world, with its own clock; only the test drives it."""
        return self._assemble(clock)

    def _assemble(self, clock: Clock | None = None) -> Service:
        outfit = Outfit(
            clock or self.clock,
            InlineLane(),
            lambda _: InlineLane(),
            token=lambda size: f"{self._random.getrandbits(size * 8):0{size * 2}x}",
            below=self._random.randrange,
        )
        return assemble(
            db=self.database,
            vault=Vault(self._folder / "vault.keys"),
            forges={name: side.forge for name, side in self.sides.items()},
            providers=dict(self.providers),
            pools=self.pools,
            repositories=self._repositories,
            outfit=outfit,
            web=WebSettings(public_url=URL, version="test", heartbeat_seconds=5, silent_seconds=180),
            timing=self._timing,
            trust=self._trust(outfit),
            listening={name: self._listening(name) for name in self.sides},
        )

    def _trust(self, outfit: Outfit) -> ImageTrust | None:
        """The real judge, on the wire of the registry in memory."""
        if self.images is None:
            return None
        username, password = (self.images.username, Secret(self.images.password)) if self.images.auth else ("", None)
        access = RegistryAccess(self.images.host, username=username, password=password)
        client = self.images.client()
        self._wires.append(client)
        return ImageTrust({access.host: access}, outfit.clock, client=client, lane=InlineLane())

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.service.web), base_url=URL)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in (self.client, *self._wires):
            await client.aclose()
        for side in self.sides.values():
            side.stop()

    @property
    def cloud(self) -> FakeCloud:
        """The cloud behind the first provider."""
        return next(iter(self.providers.values())).cloud

    async def restart(self, clock: Clock | None = None) -> None:
        """The service dies without a word and starts again, perhaps with another clock; clouds, forges and nodes go on."""
        await self.client.aclose()
        self.service = self._assemble(clock)
        self.client = self._client()
        for host in self.hosts.values():
            host.node.client = self.client

    # --- time

    async def step(self, seconds: float = 1.0) -> None:
        """A moment passes: machines boot, nodes speak, forges deliver, the engine does all that is due."""
        self.clock.advance(timedelta(seconds=seconds))
        await self.deliver()
        await self.live()
        await self.deliver()
        await self.service.engine.beat()

    async def run_until(
        self, there: Callable[[], bool], within: timedelta = timedelta(minutes=30), stride: float = 2.0
    ) -> None:
        """Steps until the condition holds. Fails, with a picture of every lease, if it does not within the time."""
        end = self.clock.now() + within
        while not there():
            assert self.clock.now() < end, self.picture()
            await self.step(stride)

    async def run(self, duration: timedelta, stride: float = 5.0) -> None:
        """Steps for so long."""
        end = self.clock.now() + duration
        while self.clock.now() < end:
            await self.step(stride)

    async def deliver(self) -> None:
        """Every delivery of every forge that is due, through the real web; none of one that is only polled."""
        for side in self.sides.values():
            sent = side.deliveries()
            for headers, body in [] if self._intake.get(side.name) == "poll" else self.intercept(sent):
                response = await self.client.post(f"/hooks/{side.name}", content=body, headers=headers)
                self.answers.append(response.status_code)

    async def live(self) -> None:
        """Every machine that runs takes one step."""
        for provider in self.providers.values():
            for machine in provider.cloud.living():
                if machine.phase(self.clock.now()) is not Phase.RUNNING:
                    continue
                host = self.hosts.get(machine.id) or self._boot(machine)
                await host.step(self.clock.now())
                if host.over:
                    provider.cloud.stop(machine.id)

    def _boot(self, machine: Machine) -> Host:
        manner = self.manners.pop(0) if self.manners else Manner.HONEST
        told = read_user_data(machine.user_data)
        lease = lease_views.get(self.database, told.lease)
        assert lease is not None, "a machine was made for a lease that was never written down"
        host = Host(machine, FakeNode(self.client, told, manner), self.sides.get(lease.key.forge), self.job_duration)
        self.hosts[machine.id] = host
        return host

    # --- what there is

    def leases(self) -> list[Lease]:
        """All of them, the oldest first."""
        return sorted(lease_views.listing(self.database, which="all", limit=1000), key=lambda lease: lease.created_at)

    def lease(self) -> Lease:
        """The newest, whole."""
        found = lease_views.get(self.database, self.leases()[-1].id)
        assert found is not None
        return found

    def job(self, key: str, forge: str = "github") -> Job:
        found = jobs.get(self.database, f"{forge}-{key}")
        assert found is not None, f"no job {key}"
        return found

    def all_released(self) -> bool:
        """At least one lease was, and none is open."""
        leases = self.leases()
        return bool(leases) and all(lease.state is State.RELEASED for lease in leases)

    def states(self, lease: Lease) -> list[State]:
        return [span.state for span in lease_views.spans(self.database, lease.id)]

    def ledger(self) -> Decimal:
        """Everything that was ever booked."""
        return sum(ledger.total(self.database, NOON - timedelta(days=1)).values(), Decimal(0))

    def invoiced(self) -> Decimal:
        """What all clouds ask for by now, exactly."""
        return sum((provider.cloud.invoice().exact for provider in self.providers.values()), Decimal(0))

    def living(self) -> list[Machine]:
        return [machine for provider in self.providers.values() for machine in provider.cloud.living()]

    def assert_clean(self) -> None:
        """Nothing leaks: no machine, no runner; and the books are those of the clouds."""
        assert self.all_released(), self.picture()
        assert self.living() == []
        assert [name for side in self.sides.values() for name in side.registered()] == []
        assert abs(self.ledger() - self.invoiced()) < Decimal("0.0001") * max(len(self.leases()), 1)

    def picture(self) -> str:
        lines = [f"at {self.clock.now():%H:%M:%S}"]
        lines += [
            f"  {lease.name} {lease.state} {lease.reason or ''} {lease.reason_text} | {lease.note}" for lease in self.leases()
        ]
        waiting = jobs.listing(self.database, "waiting", 20)
        lines += [f"  job {job.key} {job.state} pool={job.pool} {job.not_ours or job.wait}" for job in waiting]
        return "\n".join(lines)
