"""What a station is given (`Deps`) and what it may answer (`Move`, `Wait`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from app.core import pilot
from app.core.cooling import FIRST_REST
from app.core.images import ImageVerdict, TrustRule
from app.core.listening import Listening
from app.core.model import Lease, Pool, Reason, RepositoryRule
from app.core.states import RULES, State
from app.engine.catalogue import Catalogue
from app.engine.inventory import Inventory
from app.forges.contract import Forge
from app.kit.bell import Bell
from app.kit.clock import Clock
from app.kit.telemetry import Telemetry
from app.kit.threads import Lane
from app.store import leases
from app.store.db import Database
from app.store.vault import Vault
from app.trust.judge import PullAccess
from providers.contract import Provider


@dataclass(frozen=True, slots=True)
class Move:
    """Go on to another state; `values` are columns written in the same transaction."""

    to: State
    reason: Reason | None = None
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Wait:
    """Stay, and look again after so many seconds, or when a fact comes. `note` is shown to people."""

    seconds: float
    note: str = ""
    failed: bool = False  # counts as a failed look: the next pause may grow
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


Answer = Move | Wait


@dataclass(frozen=True, slots=True)
class Timing:
    """How often things are looked at, and how long they may take."""

    beat: timedelta = timedelta(seconds=5)  # the longest sleep of the loop
    hold: timedelta = timedelta(seconds=90)  # how long a claim lasts; also the deadline of one look
    watch: timedelta = timedelta(seconds=20)  # how often each provider is asked for its list of our instances
    rest: timedelta = timedelta(hours=1)  # until a lease is looked at to which nothing happens
    hush: timedelta = timedelta(seconds=30)  # so long after its last word a node may be dead; several heartbeats
    silent: timedelta = timedelta(minutes=3)  # a node that says nothing for so long is taken for dead
    ban: timedelta = FIRST_REST  # of an offer that failed once
    market: timedelta = timedelta(minutes=5)  # how often offers are looked at while nobody wants any
    forge_sweep: timedelta = timedelta(minutes=15)  # one list call per scope: GitHub counts calls by the hour
    beacon: timedelta = timedelta(minutes=30)
    poll: timedelta = timedelta(minutes=5)  # how often the open jobs of active repositories are listed
    redeliver: timedelta = timedelta(minutes=2)  # how often a forge is asked which deliveries did not arrive
    unheard: timedelta = timedelta(minutes=20)  # so long without a word on an open job, and its forge is asked for it
    settle: timedelta = timedelta(seconds=10)  # so long at most a forge may take after a start before anything is rented
    width: int = 64  # looks at once


class Judge(Protocol):
    """Says whether an image may run, and lends what it is pulled with: app.trust.judge.ImageTrust."""

    async def judge(self, reference: str, rule: TrustRule, *, region: str = "") -> ImageVerdict:
        """Raises RegistryAway where nobody can say: that means wait, never yes."""
        ...

    async def pull_access(self, reference: str) -> PullAccess | None:
        """None where everybody may pull. Raises RegistryAway, and ValueError for what `judge` refuses."""
        ...


@dataclass(frozen=True, slots=True)
class Deps:
    """Everything a station may touch."""

    db: Database
    store: Lane
    lanes: Mapping[str, Lane]  # one for each forge, so that one that hangs holds up no other
    forges: Mapping[str, Forge]
    providers: Mapping[str, Provider]
    pools: Mapping[str, Pool]
    repositories: tuple[RepositoryRule, ...]
    clock: Clock
    bell: Bell
    asking: Mapping[str, Bell]  # one for each forge: rung when there may be something to ask it
    vault: Vault
    timing: Timing
    owner: str  # our owner tag at every provider
    service_url: str  # where nodes reach us
    agent_hash: str  # SHA-256 of the agent, hex
    node_ca: str | None  # PEM that nodes pin, if the service has its own CA
    token: Callable[[int], str]  # unguessable hex of so many bytes
    below: Callable[[int], int]  # a random number from 0 to n - 1
    inventory: Inventory
    catalogue: Catalogue
    telemetry: Telemetry
    since: datetime  # when this service started: before that it heard no node
    trust: Judge | None = None  # None: no pool has an image
    listening: Mapping[str, Listening] = field(default_factory=dict[str, Listening])  # by forge; else both ways

    @property
    def runner_prefix(self) -> str:
        """What every runner of this installation is named by, so that two Sublets never touch each other's."""
        return f"sublet-{self.owner[:6]}-"

    async def keep(self, lease: Lease, **values: Any) -> bool:
        """Write down what is about to be done, under the claim. False: somebody else went on, so do not do it."""
        return await self.store(leases.keep, self.db, lease, values, self.clock.now())

    def hears(self, forge: str) -> Listening:
        """How this forge's news reach us."""
        return self.listening.get(forge) or Listening(poll=self.timing.poll)

    def lane(self, forge: Forge) -> Lane:
        """Where this forge is asked."""
        return self.lanes[forge.name]

    def pool_of(self, lease: Lease) -> Pool:
        """The lease's pool; one that left the settings lives on with the lease's own need and the usual limits."""
        if pilot.is_pilot(lease.key):
            return pilot.pool_of(lease, self.pools)
        return self.pools.get(lease.key.pool) or Pool(lease.key.pool, frozenset(lease.key.labels), lease.need, ceiling=0)


Station = Callable[[Lease, Deps], Awaitable[Answer]]


def deadline(state: State, lease: Lease, pool: Pool, now: datetime) -> datetime | None:
    """When a lease that enters `state` now is overdue there: the table's time, or the pool's own, never past the hard end."""
    within = RULES[state].within
    if within is None:
        return None
    if state is State.BOOTING:
        within = pool.boot_limit
    elif state is State.IDLE:
        within = pool.idle_limit + timedelta(minutes=2)  # the station itself ends an idle runner at the limit
    elif state is State.BUSY:
        return lease.hard_end or now + pool.max_duration
    until = now + within
    before_job = state in (State.BOOTING, State.PROVING, State.REGISTERING, State.IDLE)
    return min(until, lease.hard_end) if before_job and lease.hard_end is not None else until


def pause(tries: int, *, first: float = 1.0, longest: float = 60.0) -> float:
    """Seconds to wait after so many failed looks in a row: doubling from `first`, at most `longest`."""
    return min(first * 2.0 ** min(tries, 16), longest)
