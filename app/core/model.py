"""The nouns, frozen: Job, Pool, Ask, Demand, Lease, Runner, Reason. One meaning each (docs/glossary.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from app.core.images import Mode, TrustRule
from app.core.states import State
from providers.contract import Need


class JobState(StrEnum):
    """Where a forge's job is. Only ever moves down this list; a re-run is a new job with a new key."""

    WAITING = "waiting"  # held back by an approval or by other jobs: no demand yet
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


JOB_ORDER: Mapping[JobState, int] = {state: place for place, state in enumerate(JobState)}


class ScopeKind(StrEnum):
    REPOSITORY = "repository"  # a GitLab project too
    ORGANIZATION = "organization"  # a GitLab group too
    ENTERPRISE = "enterprise"  # a whole GitLab instance too


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """Where a runner is registered: `repository acme/train`, `organization acme`, `enterprise acme-inc`."""

    kind: ScopeKind
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> Scope:
        """The inverse of `str`. Raises ValueError for an unknown kind."""
        kind, _, path = text.partition(":")
        return cls(ScopeKind(kind), path)


class Reason(StrEnum):
    """Why a lease took the road it took. Set once: the first reason wins."""

    JOB_DONE = "job_done"
    JOB_GONE = "job_gone"  # cancelled, or taken by another runner, before this one had it
    JOB_REFUSED = "job_refused"  # the job that came may not run on this lease
    IDLE_TIMEOUT = "idle_timeout"
    NO_OFFER = "no_offer"  # nothing that passes the pool's limits
    NO_CAPACITY = "no_capacity"
    PROVIDER_REFUSED = "provider_refused"
    PLAN_TIMEOUT = "plan_timeout"
    LAUNCH_TIMEOUT = "launch_timeout"
    BOOT_TIMEOUT = "boot_timeout"
    PROVE_TIMEOUT = "prove_timeout"
    REGISTER_TIMEOUT = "register_timeout"
    JOB_TIMEOUT = "job_timeout"  # the hard end time came
    IMAGE_REFUSED = "image_refused"  # not signed as the pool demands, or revoked since
    BAD_NODE = "bad_node"  # GPU, driver or memory are not what was asked for
    JOIN_REUSED = "join_reused"  # somebody used the join token a second time
    INSTANCE_LOST = "instance_lost"  # the provider no longer has it: reclaimed, or died
    NODE_SILENT = "node_silent"
    RUNNER_REFUSED = "runner_refused"  # the forge would not register it
    RUNNER_FAILED = "runner_failed"  # ended without a job
    OPERATOR = "operator"
    SHUTDOWN = "shutdown"  # the demo ended
    PILOT_DONE = "pilot_done"  # it was rented to be measured, and was, or its two minutes were over


LATE_REASON: Mapping[State, Reason] = {
    State.PLANNED: Reason.PLAN_TIMEOUT,
    State.LAUNCHING: Reason.LAUNCH_TIMEOUT,
    State.BOOTING: Reason.BOOT_TIMEOUT,
    State.PROVING: Reason.PROVE_TIMEOUT,
    State.REGISTERING: Reason.REGISTER_TIMEOUT,
    State.IDLE: Reason.IDLE_TIMEOUT,
    State.BUSY: Reason.JOB_TIMEOUT,
}
SERVED: frozenset[Reason] = frozenset(
    {
        Reason.JOB_DONE,
        Reason.JOB_GONE,
        Reason.JOB_REFUSED,
        Reason.JOB_TIMEOUT,
        Reason.IDLE_TIMEOUT,
        Reason.OPERATOR,
        Reason.SHUTDOWN,
        Reason.PILOT_DONE,
    }
)
"""Reasons that are no failure of ours."""
FAILED: frozenset[Reason] = frozenset(Reason) - SERVED | {Reason.IDLE_TIMEOUT}
"""Reasons after which the next try for the same demand waits. A runner that no job came to is one too: where its job still
waits, its group or its labels keep the two apart."""
FAULTY: frozenset[Reason] = frozenset(
    {
        Reason.NO_CAPACITY,
        Reason.PROVIDER_REFUSED,
        Reason.LAUNCH_TIMEOUT,
        Reason.BOOT_TIMEOUT,
        Reason.PROVE_TIMEOUT,
        Reason.REGISTER_TIMEOUT,
        Reason.BAD_NODE,
        Reason.INSTANCE_LOST,
        Reason.NODE_SILENT,
    }
)
"""Reasons that speak against the machine: its offer is banned for a while."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a job's labels add to its pool's need. No ask can raise a limit."""

    spot: bool = False
    burst: bool = False
    gpu: str | None = None
    gpus: int | None = None
    regions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pool:
    """Configuration: which jobs a pool serves, what they need, floor, ceiling and price."""

    name: str
    labels: frozenset[str]
    need: Need
    ceiling: int  # machines alive at once, whatever their state
    forges: frozenset[str] = frozenset()  # empty: every configured forge
    providers: tuple[str, ...] = ()  # in order of preference; empty: all
    may_add: frozenset[str] = frozenset()  # "spot", "burst", "region:sg", "gpus:4" (at most), "gpu:h100"
    rent_on_burst_only: bool = False  # own hosts first; rent only for jobs that say `burst`
    spot_first: bool = False  # spot before on-demand, which is taken where no spot passes
    usual: timedelta | None = None  # how long its jobs take; None: as long as the last ones took
    image: str | None = None  # the container image that its jobs run in, as the settings name it
    trust: TrustRule | None = None  # what the image must show; None: there is no image, and nothing is proven
    mode: Mode = Mode.BARE
    allow_build: bool = False  # guarded: whether jobs may build images
    machine_image: str | None = None  # what a provider of machines boots below all that
    scope: ScopeKind | None = None  # where its runners are registered; None: as its forge has it
    scopes: Mapping[str, ScopeKind] = field(default_factory=dict[str, ScopeKind])  # by forge; else the repository
    scope_path: str = ""  # the organisation or enterprise; empty: the job's own owner
    runner_group: str = ""
    runner_command: tuple[str, ...] = ()  # empty: the forge's usual one
    max_duration: timedelta = timedelta(hours=1)  # of the whole lease, from launch to the hard end
    idle_limit: timedelta = timedelta(minutes=5)
    boot_limit: timedelta = timedelta(minutes=20)
    beacon: bool = True  # GitLab: keep one online record against the one-hour trap
    note: str = ""  # shown on every lease of the pool, for example "asks for no GPU"

    @property
    def signed(self) -> bool:
        """Whether its image must be signed. A lease of a pool where it need not be wears a red mark."""
        return self.trust is not None and self.trust.signed


@dataclass(frozen=True, slots=True)
class Job:
    """A forge's unit of work that waits for a runner."""

    id: str  # "{forge}-{key}"
    forge: str
    key: str  # the forge's own job id
    repository: str  # "acme/train", or the full path of a GitLab project
    state: JobState
    repository_id: str = ""
    run_id: str = ""
    attempt: int = 1
    labels: tuple[str, ...] | None = None  # as written; None: the forge's event does not say
    name: str = ""
    workflow: str = ""
    url: str = ""
    branch: str = ""
    sha: str = ""
    actor: str = ""
    conclusion: str = ""
    runner_id: str = ""
    runner_name: str = ""
    queued_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    installation: str = ""  # GitHub App installation id
    # What we made of it:
    seen_at: datetime | None = None
    pool: str | None = None
    scope: Scope | None = None
    not_ours: str = ""  # a sentence, when no pool serves it
    wait: str = ""  # a sentence: why it still waits
    lease_id: str = ""
    cleared_at: datetime | None = None  # when its run was found to be one that may spend money here; before that, no demand
    heard_at: datetime | None = None  # the forge's last word on it, by webhook or by poll
    heard_by: str = ""  # how it was heard of first: "webhook" or "poll"
    reopened_at: datetime | None = None  # when it was found to be run again under its old id; all above is of this run


@dataclass(frozen=True, slots=True)
class Run:
    """Where a job's code comes from and who set it going, as the forge itself tells it: one per workflow run or pipeline."""

    forge: str
    repository: str
    id: str
    attempt: int = 1
    event: str = ""
    head_repository: str = ""  # full path; empty: deleted, or the forge does not say
    fork: bool | None = None  # None: nobody can say
    actor: str = ""  # who set this attempt going


@dataclass(frozen=True, slots=True)
class DemandKey:
    """Jobs with the same key are served by the same runners."""

    pool: str
    forge: str
    scope: Scope
    labels: tuple[str, ...]  # lower case, sorted
    job: str = ""  # on a forge that pins a runner to its job, the job's id: there one lease serves one job, and no other


@dataclass(frozen=True, slots=True)
class Demand:
    """How many runners a pool should have now for one key, and for which jobs."""

    key: DemandKey
    jobs: tuple[Job, ...]  # queued ones, oldest first
    ask: Ask

    @property
    def count(self) -> int:
        return len(self.jobs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says of one offer: pass or reject, with the values it saw."""

    provider: str
    offer: str
    title: str
    region: str
    price_per_hour: Decimal
    passed: bool
    rule: str = ""
    detail: str = ""
    currency: str = ""
    expected: Decimal = Decimal(0)  # the bill for the pool's usual job
    gpu: str = ""
    gpus: int = 0
    spot: bool = False
    availability: str = ""


@dataclass(frozen=True, slots=True)
class NodeImage:
    """What the agent found when it checked the image itself. Untrusted like the rest."""

    digest: str = ""  # of what runs there: the index, or the manifest of the machine's platform
    mode: str = ""
    checked: bool = False  # the machine's own openssl verified a signature that names this digest
    openssl: str = ""  # its version
    keys: tuple[str, ...] = ()  # fingerprints of the keys that verified it
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the agent measured on the node. Untrusted: every field may lie."""

    gpus: tuple[Mapping[str, Any], ...] = ()  # name, memory_mib, architecture, uuid, mig
    driver: str = ""
    cuda: str = ""
    architecture: str = ""  # amd64, arm64
    memory_mib: int = 0
    disk_free_mib: int = 0
    kernel: str = ""
    cpus: int = 0
    problem: str = ""  # why nvidia-smi could not be asked
    image: NodeImage | None = None  # None: it said nothing of it


@dataclass(frozen=True, slots=True)
class Lease:
    """Our promise to pay for one instance for one runner's life."""

    id: str
    name: str  # word-word-nn
    key: DemandKey
    state: State
    attempt: int
    tag: str  # the instance's unique name at the provider
    created_at: datetime
    entered_at: datetime  # when it came into `state`
    deadline: datetime | None  # when it is overdue in `state`
    due: datetime
    need: Need = field(default_factory=Need)
    ask: Ask = field(default_factory=Ask)
    reason: Reason | None = None
    reason_text: str = ""
    note: str = ""  # what the last look said, for people
    tries: int = 0  # failed looks in a row in this state
    claim: str = ""
    version: int = 0  # counts facts, so that a fact which came during a look is not slept over
    image: str | None = None  # what the provider is told to boot; a container only ever by its digest
    mode: str = ""  # of its pool when it was planned; "": planned before there were modes
    signed: bool = False  # its image had to be signed; without that it wears a red mark
    image_digest: str = ""  # what the tag meant: looked up once, and only this travels on
    image_verdict: Mapping[str, Any] | None = None  # core.images.ImageVerdict as JSON: who signed it, or which check failed
    # Placement:
    provider: str = ""
    region: str = ""
    offer: Mapping[str, Any] | None = None  # the chosen offer as JSON
    decision: Mapping[str, Any] | None = None  # why this offer: every verdict kept
    price_per_hour: Decimal | None = None
    currency: str = "USD"
    granularity: timedelta = timedelta(seconds=1)
    minimum: timedelta = timedelta(0)
    asked_at: datetime | None = None  # when create was first asked: money may be owed from here
    last_asked_at: datetime | None = None  # when create was asked last: a late effect of it may still come
    billed_from: datetime | None = None  # when the provider says that the instance came to be
    create_key: str = ""
    instance_id: str = ""
    hard_end: datetime | None = None
    gone_at: datetime | None = None  # when the provider proved absence
    booked_at: datetime | None = None
    # Node:
    join_hash: str = ""
    joined_at: datetime | None = None
    heartbeat_at: datetime | None = None
    facts_at: datetime | None = None
    facts: NodeFacts | None = None
    runner_started_at: datetime | None = None
    job_started_at: datetime | None = None
    runner_exited_at: datetime | None = None
    runner_exit: int | None = None
    runner_why: str = ""  # why it could not be started at all, in the node's words
    # Runner:
    runner_id: str = ""
    runner_name: str = ""
    mint_try: int = 0
    credential_ready: bool = False
    credential_taken_at: datetime | None = None
    job_id: str = ""
    job_done_at: datetime | None = None
    job_conclusion: str = ""
    # Facts by people and by policy:
    drain_asked_at: datetime | None = None
    destroy_asked_at: datetime | None = None
    missing_at: datetime | None = None  # since when its provider's lists lack it, or show it stopped
    asked_reason: Reason | None = None
    asked_text: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """One stay of a lease in one state."""

    state: State
    entered_at: datetime
    left_at: datetime | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RepositoryRule:
    """Which repositories may spend money here; what no rule names may not."""

    match: str  # glob over the full path, case-insensitive: "acme/*"
    forks: bool = False  # may jobs of forks run
    events: frozenset[str] = frozenset()  # empty: the usual safe ones (app.core.rules)
    actors: frozenset[str] = frozenset()  # globs over the forge's user names; empty: anybody who could start such a run

    @property
    def exact(self) -> bool:
        """It names one repository."""
        return not any(sign in self.match for sign in "*?[")
