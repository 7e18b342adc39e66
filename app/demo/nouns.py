"""What the demo forge knows: accounts, repositories, runs, jobs, runners, deliveries; everything here is kept on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class Progress(StrEnum):
    """Where a job is. It only ever moves down this list; a re-run is a new job."""

    WAITING = "waiting"  # for a person's approval
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


@dataclass
class Account:
    """An owner of repositories, with our App installed on it."""

    id: int
    login: str
    kind: str  # "Organization" or "User"
    installation_id: int
    enterprise: str = ""
    created_at: datetime | None = None


@dataclass
class Repository:
    id: int
    full_name: str
    owner: str
    created_at: datetime
    private: bool = True
    parent: str = ""  # full name, when this one is a fork
    default_branch: str = "main"
    pushed_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.full_name.partition("/")[2]


@dataclass
class Group:
    """A runner group of an organisation or enterprise. A repository has only the default one, id 1."""

    id: int
    name: str
    scope: str
    default: bool = False
    repositories: list[str] | None = None  # full names that may use it; None: all


@dataclass
class JobSpec:
    """One job as its workflow file has it."""

    key: str
    name: str
    labels: list[str]
    group: str = ""  # `runs-on: {group: …}`
    needs_approval: bool = False
    steps: list[str] = field(default_factory=list[str])


@dataclass
class Step:
    number: int
    name: str
    status: str = "queued"
    conclusion: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass
class Run:
    """One workflow run: what an event set off."""

    id: int
    number: int
    repository: str
    workflow: str
    path: str
    event: str
    actor: str
    branch: str
    sha: str
    message: str
    created_at: datetime
    updated_at: datetime
    head_repository: str | None  # None: the fork was deleted
    base_branch: str = "main"
    attempt: int = 1
    started_at: datetime | None = None


@dataclass
class Job:
    id: int
    run_id: int
    attempt: int
    key: str
    name: str
    labels: list[str]
    progress: Progress
    created_at: datetime
    group: str = ""
    steps: list[Step] = field(default_factory=list[Step])
    conclusion: str | None = None
    runner_id: int | None = None
    runner_name: str | None = None
    runner_group_id: int | None = None
    runner_group_name: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    renewed_at: datetime | None = None
    cancel_asked_at: datetime | None = None
    superseded: bool = False  # a later attempt has its own job of this key
    note: str = ""
    summary: str = ""
    log_lines: int = 0


@dataclass
class Runner:
    """A registration. It exists, offline, from the moment its JIT config is made."""

    id: int
    name: str
    scope: str  # "repos/acme/train", "orgs/acme", "enterprises/acme-inc"
    labels: list[str]
    group_id: int
    created_at: datetime
    credential: str  # SHA-256 of the token inside the JIT config
    work_folder: str = "_work"
    session: str = ""  # SHA-256 of the session that used the JIT config; set once
    version: str | None = None
    seen_at: datetime | None = None
    idle_since: datetime | None = None
    job_id: int | None = None


@dataclass
class Delivery:
    """One attempt to deliver one event. All attempts of an event share its GUID."""

    id: int
    guid: str
    event: str
    action: str | None
    payload: dict[str, Any]
    url: str
    due: datetime
    installation_id: int | None = None
    repository_id: int | None = None
    redelivery: bool = False
    behind: int = 0  # held back until so many later events were made
    delivered_at: datetime | None = None
    duration: float = 0.0
    status: str = ""
    status_code: int = 0
    request_headers: dict[str, str] = field(default_factory=dict[str, str])
    response_headers: dict[str, str] = field(default_factory=dict[str, str])
    response_body: str = ""


@dataclass
class ApiFault:
    """Spoils answers of the API: `times` requests whose path contains `match`."""

    match: str
    status: int = 502
    times: int = 1
    after: bool = False  # do the work, then lose the answer
    retry_after: int | None = None  # seconds


@dataclass
class Faults:
    """What goes wrong on purpose. Shares are 0 to 1; times are seconds. The same seed spoils the same events."""

    seed: int = 0
    lose: float = 0.0  # never sent, and not in the delivery log
    fail: float = 0.0  # in the delivery log as failed, never arrives
    repeat: float = 0.0  # arrives twice under one GUID
    delay: float = 0.0  # share of events that come late
    delay_seconds: list[float] = field(default_factory=lambda: [1.0, 5.0])  # from, to
    reorder: float = 0.0  # share of events that later ones overtake
    reorder_window: int = 3  # by how many, at most
    reorder_seconds: float = 5.0  # and for how long, at most
    parallel: int = 1  # deliveries in flight at once
    quota_taken: float = 0.0  # share of each credential's hour that somebody else has used up
    stale_lists: bool = False  # lists stay as they were when each was first asked for after this began
    api: list[ApiFault] = field(default_factory=list[ApiFault])
    counted: int = 0  # events since these faults were set


@dataclass
class Limits:
    """GitHub's own limits, as far as Sublet can meet them."""

    queue: timedelta = timedelta(hours=24)  # a queued job fails after this
    lost: timedelta = timedelta(minutes=10)  # a busy runner that is silent so long is lost, and its job fails
    jit_idle: timedelta = timedelta(minutes=5)  # a connected JIT runner without a job is removed; it exits 0
    jit_unused: timedelta = timedelta(hours=1)  # a JIT config that never connected
    online: timedelta = timedelta(seconds=60)  # seen so recently means "online"
    group_runners: int = 10_000
    requests_per_hour: int = 5_000


@dataclass
class Book:
    """All of it. One JSON file."""

    origin: str  # "http://127.0.0.1:40123"
    app_id: int = 1_204_771
    app_slug: str = "sublet-demo"
    counter: int = 30_000_000_000  # ids do not fit into 32 bits, as on GitHub
    hook_id: int = 4_711
    hook_url: str = ""  # empty: no webhook, no deliveries
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    repositories: dict[str, Repository] = field(default_factory=dict[str, Repository])
    groups: list[Group] = field(default_factory=list[Group])
    runs: dict[int, Run] = field(default_factory=dict[int, Run])
    jobs: dict[int, Job] = field(default_factory=dict[int, Job])
    runners: dict[int, Runner] = field(default_factory=dict[int, Runner])
    former: dict[str, str] = field(default_factory=dict[str, str])  # credential of a removed runner -> why
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    faults: Faults = field(default_factory=Faults)
    limits: Limits = field(default_factory=Limits)
