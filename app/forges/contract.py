"""What Sublet asks of a forge. Blocking: called through the forge lane, never from the event loop.

ForgeError
├── BadSignature   the delivery is not authentic: 401, nothing stored
├── BadDelivery    authentic, but not what the forge documents: refused with a sentence
├── NameTaken      a runner of this name is there already: mint again under a fresh name
├── RunnerBusy     the forge says that this runner has a job: not removed
├── ForgeRefused   a definite no (rights, missing scope, full group): tell a person
└── ForgeDown      no clear answer, or asked to slow down: come back after `wait`
    └── HeldBack   not asked at all: what is left of the quota is kept for calls that matter more
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from app.core.model import Job, Run, Scope
from providers.contract import Secret


class DeliveryKind(StrEnum):
    JOB = "job"
    PING = "ping"
    IGNORED = "ignored"  # authentic, of an event that we do not act on


@dataclass(frozen=True, slots=True)
class Delivery:
    """One authenticated webhook delivery, parsed."""

    forge: str
    guid: str  # the forge's own dedupe key
    kind: DeliveryKind
    event: str
    action: str
    job: Job | None = None
    note: str = ""  # why it was ignored


@dataclass(frozen=True, slots=True)
class RunnerOrder:
    """A single-job runner that is to be registered."""

    name: str  # fresh for every try: `[a-z0-9-]`, at most 63 characters
    scope: Scope
    labels: tuple[str, ...]  # exactly the job's labels
    job: str = ""  # the key of the one job that it is for, where the forge pins a runner to its job
    group: str = ""  # runner group by name; empty: the default group
    installation: str = ""
    command: tuple[str, ...] = ()  # the pool's own command instead of the usual one: a template, see app.forges.command
    idle_limit: timedelta = timedelta(minutes=5)
    description: str = ""
    max_duration: timedelta | None = None  # GitLab ends a job that takes longer


@dataclass(frozen=True, slots=True)
class Least:
    """The oldest runner that the forge still works with; the node asks the program before it starts it."""

    command: tuple[str, ...]  # prints the version of the program that the credential's command starts
    version: str  # "2.329.0": dotted numbers
    why: str  # one sentence: who needs it, and what to do


@dataclass(frozen=True, slots=True)
class Credential:
    """What the node needs to start the runner. Sealed at rest, fetched once."""

    command: tuple[str, ...]  # argv; holds no secret
    environment: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    files: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    """Relative name -> content, mode 0600. `{hook}` in a content is the path of the job-started hook, filled in on the node."""
    ready: str = ""  # a piece of the runner's output that says "online"; empty: online once started
    begun: str = ""  # a piece of its output that says "a job has begun", of a runner that calls no job-started hook
    least: Least | None = None


@dataclass(frozen=True, slots=True)
class Minted:
    runner_id: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class RunnerView:
    """A runner as the forge lists it. `None` reads "the forge does not say"."""

    runner_id: str
    name: str
    online: bool | None
    busy: bool | None


@dataclass(frozen=True, slots=True)
class Missed:
    """A delivery that never reached us, which the forge would send again if it is asked."""

    id: str  # what `redeliver` takes; made and read by the forge's adapter only
    guid: str  # the delivery's dedupe key, the same when it comes again; empty: the forge does not show it
    at: datetime  # when it was sent last


class Pace(StrEnum):
    """How freely polls may be made now, by what is left of the forge's quota."""

    FREE = "free"
    SLOW = "slow"  # less than half is left: poll a third as often
    STOP = "stop"  # the rest is kept for credentials and removals


class ForgeError(Exception):
    """The forge could not do what was asked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class BadSignature(ForgeError):
    """The delivery carries no valid signature."""


class BadDelivery(ForgeError):
    """The delivery is authentic, but its body cannot be read."""


class NameTaken(ForgeError):
    """A runner of this name exists already."""

    def __init__(self, message: str = "", *, runner_id: str = "") -> None:
        super().__init__(message)
        self.runner_id = runner_id  # the record that has the name, where the forge shows it


class RunnerBusy(ForgeError):
    """The runner has a job and is not removed."""


class ForgeRefused(ForgeError):
    """The forge refuses us; a person has to look."""


class ForgeDown(ForgeError):
    """The forge gives no clear answer now."""

    def __init__(self, message: str = "", *, wait: timedelta = timedelta(seconds=15)) -> None:
        super().__init__(message)
        self.wait = wait


class HeldBack(ForgeDown):
    """The call was not made: what is left of the forge's quota is kept for calls that matter more."""


class Forge(Protocol):
    """One forge account, which may spread its calls over several credentials.

    Calls rank credential > removal > look > poll; each is made only while its rank's share of the quota lasts.
    Every method but `parse`, `unfit` and `pace` may block on the network, with explicit timeouts."""

    name: str  # also the last part of /hooks/{name}
    kind: str  # "github", "gitlab", "gitea", "forgejo", or a stranger's
    always_2xx: bool  # once authentic, never answer 4xx (GitLab switches such hooks off)
    single_use: bool  # the forge itself takes a runner off after its one job (the forge sweep finds what stays)
    pinned: bool  # a runner takes the one job that it was registered for, and no other (Forgejo)
    wide: bool  # `open_jobs` also takes an owner: one listing for all of its repositories (Gitea, Forgejo)
    reruns_in_place: bool  # a job that is run again keeps its key, and is queued once more (Gitea)

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Authenticate over the raw body, then parse. Pure. Headers are lower case.

        Raises BadSignature, BadDelivery."""
        ...

    def unfit(self, labels: Sequence[str]) -> str:
        """Why no runner of this forge can have these labels, for the author of the workflow; empty: one can. Pure."""
        ...

    def fetch_job(self, job: Job) -> Job | None:
        """The job as the forge has it now, with its labels; None if the forge no longer has it."""
        ...

    def fetch_run(self, job: Job) -> Run | None:
        """Where the job's code comes from and who set it going; None if the forge no longer has the run.

        One call, two for a merge request of GitLab's."""
        ...

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        """Every job of the place that is queued or runs, with its labels; the whole listing or an error. A poll.

        A place is a repository; where the forge is `wide`, also an owner, which stands for all of its repositories.
        Jobs that wait for an approval come too; of GitLab's, those that wait for an earlier stage or a person do not.
        Forgejo lists none that is blocked. An unchanged listing costs no quota where the forge honours conditional requests
        (GitHub does)."""
        ...

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        """Full paths of every repository of this owner, with those of its subgroups; the whole listing or an error. A poll.

        For a forge that is not `wide`: where rules name repositories by a glob, these are what is listed one by one."""
        ...

    def missed(self, since: datetime) -> Sequence[Missed] | None:
        """Deliveries sent to us since then of which no attempt has arrived, the oldest first. A poll.

        None: the forge shows no deliveries and sends none again (Gitea, Forgejo); listings find what was lost.
        Raises ForgeRefused where our rights do not reach the list of deliveries."""
        ...

    def redeliver(self, missed: Missed) -> None:
        """Ask for a delivery once more. Repeatable. A poll."""
        ...

    def pace(self) -> Pace:
        """How freely polls may be made now. Asks nobody."""
        ...

    def mint_runner(self, order: RunnerOrder) -> Minted:
        """Register one single-job runner; `order.job` says for which job where the forge is `pinned`.

        Raises NameTaken, ForgeRefused (also where server or template cannot do it: the sentence says why), ForgeDown."""
        ...

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        """The runner, or None once the forge says it is not there."""
        ...

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        """Every runner of the scope whose name starts with the prefix; the whole listing or an error."""
        ...

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Called once when the runner's job has started: GitLab pauses the record, GitHub needs nothing."""
        ...

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Take it off the forge. An unknown id is no error. Raises RunnerBusy, ForgeDown."""
        ...

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        """Keep one online record with these labels alive (GitLab); None where the forge needs none.

        `known` is the credential that an earlier call gave, `runner_id` its record; a new pair comes
        back when the old one is gone. Call it at least every 45 minutes."""
        ...

    def check(self) -> str:
        """One sentence on key, rights and rate limit. Raises ForgeRefused, ForgeDown."""
        ...


CONTRACT_VERSION = 1
"""A stranger's adapter says `contract = 1`; another number is refused before anything of it runs."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the service gives a stranger's adapter besides its own settings: `AcmeForge(name, settings, around)`."""

    now: Callable[[], datetime]  # the service's clock, in UTC; an adapter has no other
    hook_url: str  # where deliveries come: {public_url}/hooks/{name}; empty: there is no public address
    on_rate: Callable[[str, int], None] | None = None  # told the forge's name and how many calls are left
    webhook_secret: Secret | None = None  # None: deliveries are not taken, and `parse` raises BadSignature for all
    webhook_secret_previous: Secret | None = None
    timeout: timedelta = timedelta(seconds=20)  # for one call
