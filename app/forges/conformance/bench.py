"""What a check stands on: the bench that stands an adapter up, the faults, and the words that checks are written in."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

from app.core.model import Job, Scope
from app.forges.contract import Credential, DeliveryKind, Forge, ForgeError, Minted, RunnerOrder, RunnerView

E = TypeVar("E", bound=ForgeError)
Pair = tuple[dict[str, str], bytes]
"""A delivery: headers as they came, and the raw body."""
PATIENCE = 10.0  # seconds for one call, whatever the forge does; benches give their adapters a timeout of a few


class Fault(StrEnum):
    """What a bench can bring about beyond a job's plain life. `cause` begins the upper ones, and `mend` ends them."""

    DOWN = "down"  # every call ends without an answer, and without an effect
    SERVER_ERROR = "server error"  # every call is answered with 500
    GARBAGE = "garbage"  # every call is answered with a success that is not JSON
    REDIRECT = "redirect"  # every call is answered with a redirect to another host, which counts who comes: `astray`
    RUDE = "rude"  # every call is refused with 400 and words that are long and unclean
    RATE_LIMITED = "rate limited"  # every call is refused, with the wish to be left alone for a minute
    QUOTA_LOW = "quota low"  # the forge's headers say that 7 % of the quota are left
    TOKEN_EXPIRED = "token expired"  # noqa: S105  the account's token or key is no longer taken
    LOST_REPLY = "lost reply"  # the next registration has its effect, and its answer is lost
    HALF_LISTING = "half listing"  # every page of a listing of jobs but the first fails
    HALF_RUNNERS = "half listing of runners"  # every page of a listing of runners but the first fails
    # What else a bench may know:
    DELIVERIES = "deliveries"  # the forge sends webhooks for jobs
    OLD_SECRET = "an old secret"  # noqa: S105  the webhook's secret was changed, and the one before still counts
    WAITING = "waiting"  # a job can be held back: `queue(..., waiting=True)`
    FORK = "fork"  # a run of a fork's code: `queue(..., fork=True)`
    RERUN = "rerun"  # a job that has ended can be run again: `rerun`
    STOLEN = "stolen"  # another runner, not of ours, takes a job: `steal`
    CONDITIONAL = "conditional requests"  # an unchanged listing costs no quota: `spent`
    UNDELIVERED = "undelivered"  # a delivery that did not arrive is on the forge's own list: `lose`


class Signing(StrEnum):
    """By which secret a delivery is signed."""

    CURRENT = "current"
    PREVIOUS = "previous"  # only asked for with OLD_SECRET
    WRONG = "wrong"


class Failed(AssertionError):
    """An adapter broke the contract."""


class Missing(Exception):
    """The machine lacks what a bench stands on."""


class Program(Protocol):
    """The forge's runner on one machine, started with one credential."""

    def take(self) -> str | None:
        """Start if need be, ask for a job once: the key of the one it got. None where it gets none, or may not ask."""
        ...

    def finish(self, key: str) -> None:
        """The job ends, with success."""
        ...


class Bench(Protocol):
    """One forge, stood up for one check."""

    name: str
    stands_on: str  # what the forge is here, and what it was held against
    faults: frozenset[Fault]
    signatures: Sequence[str]  # the headers, in lower case, that make a delivery authentic
    repository: str  # where jobs are queued
    other: str  # another repository of the same owner
    owner: str
    scopes: Sequence[Scope]  # where runners can be registered for jobs of `repository`; the first is the usual one
    labels: tuple[str, ...]  # a job's usual ones
    actor: str  # who sets the bench's jobs going

    @property
    def secrets(self) -> Sequence[str]:
        """Of the service: no credential, message, repr or log line may show them."""
        ...

    def forge(self, *, polled: bool = False) -> Forge:
        """A new adapter on the same backing; `polled`: without any secret of a webhook."""
        ...

    def queue(self, labels: Sequence[str] = (), *, repository: str = "", waiting: bool = False, fork: bool = False) -> str:
        """A new job, with `labels` and in `repository` where nothing else is said; its key."""
        ...

    def cancel(self, key: str) -> None:
        """Cancel a job that no runner has."""
        ...

    def rerun(self, key: str) -> str:
        """Run a job again that has ended; the key of what is queued now."""
        ...

    def steal(self, key: str) -> None:
        """A runner that is none of ours takes the job."""
        ...

    def conclusion(self, key: str) -> str | None:
        """How the job ended, in the forge's own words; None while it has not."""
        ...

    def crowd(self) -> Sequence[str]:
        """Queue more jobs in `repository` than a page of the forge's listing holds; their keys."""
        ...

    def crowd_of_runners(self, prefix: str) -> Sequence[str]:
        """More runners in the first scope, of names with this prefix, than a page of the listing holds; their ids."""
        ...

    def deliveries(self) -> Sequence[Pair]:
        """What the forge has sent since the last look, oldest first."""
        ...

    def repeated(self, pair: Pair) -> Pair:
        """The delivery as it comes when the forge sends it once more."""
        ...

    def signed(self, pair: Pair, by: Signing) -> Pair:
        """The same headers and body, signed anew."""
        ...

    def lose(self) -> None:
        """What is still to be sent does not arrive, and the forge notes it. Only with UNDELIVERED."""
        ...

    def program(self, credential: Credential) -> Program: ...

    def token_of(self, minted: Minted) -> str:
        """The runner's own secret in the credential."""
        ...

    def labels_of(self, minted: Minted) -> frozenset[str]:
        """What jobs the runner would take, by what the forge knows once its program runs."""
        ...

    def registered(self) -> Sequence[str]:
        """The names of all runners that the forge has a record of, beacons left out."""
        ...

    def asked(self) -> int:
        """How many requests have reached the forge."""
        ...

    def astray(self) -> int:
        """How many requests have reached another host. Only with REDIRECT."""
        ...

    def spent(self) -> int:
        """How much of the quota is used up. Only with CONDITIONAL."""
        ...

    def cause(self, fault: Fault) -> None: ...

    def mend(self) -> None:
        """No fault any more. Time has passed meanwhile, so that no wait which the forge asked for still holds."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    title: str
    needs: frozenset[Fault]
    run: Callable[[Bench], None]

    def applies_to(self, faults: frozenset[Fault]) -> bool:
        return self.needs <= faults


CHECKS: list[Check] = []


def check(*needs: Fault) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Registers a check; its docstring is its title."""

    def register(run: Callable[[Bench], None]) -> Callable[[Bench], None]:
        name = getattr(run, "__name__", "check")
        CHECKS.append(Check(name, (run.__doc__ or name).strip().splitlines()[0].rstrip("."), frozenset(needs), run))
        return run

    return register


def expect(claim: bool, sentence: str) -> None:
    if not claim:
        raise Failed(sentence)


def refusal(call: Callable[[], object], *kinds: type[E], what: str) -> E:
    """The error that a call must end in, within `PATIENCE`; anything else breaks the contract."""
    began = time.monotonic()
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        result = call()
    except kinds as error:
        expect(time.monotonic() - began < PATIENCE, f"{what} took longer than {PATIENCE:.0f} s")
        expect(bool(str(error).strip()), f"{what}: {type(error).__name__} without a sentence")
        return error
    except Exception as error:
        raise Failed(f"{what} became {type(error).__name__} ({error}), not {wanted}") from error
    raise Failed(f"{what} gave {str(result)[:100]!r} where {wanted} was due")


@contextmanager
def faulty(bench: Bench, fault: Fault) -> Generator[None]:
    bench.cause(fault)
    try:
        yield
    finally:
        bench.mend()


_NUMBERS = itertools.count(1)


def order(bench: Bench, *, job: Job | None = None, scope: Scope | None = None, command: tuple[str, ...] = ()) -> RunnerOrder:
    """An order as the engine makes it: a fresh name, the job's labels, and the job itself for a forge that pins."""
    told = job.labels if job is not None else None
    return RunnerOrder(
        name=f"sublet-kit-{next(_NUMBERS)}",
        scope=scope or bench.scopes[0],
        labels=told or bench.labels,
        job=job.key if job is not None else "",
        installation=job.installation if job is not None else "",
        command=command,
        idle_limit=timedelta(minutes=5),
        description="a runner of the conformance kit",
        max_duration=timedelta(hours=1),
    )


def parsed(forge: Forge, pairs: Sequence[Pair]) -> list[Job]:
    """The jobs that deliveries tell of, in their order."""
    found = [forge.parse(lowered(headers), body) for headers, body in pairs]
    return [one.job for one in found if one.kind is DeliveryKind.JOB and one.job is not None]


def lowered(headers: dict[str, str]) -> dict[str, str]:
    """Header names as the service gives them to `parse`."""
    return {name.lower(): value for name, value in headers.items()}


def listed(bench: Bench, forge: Forge, key: str) -> Job:
    """A queued job, as the forge's own listing tells it."""
    found = [job for job in forge.open_jobs(bench.repository) if job.key == key]
    expect(len(found) == 1, f"the listing shows job {key} {len(found)} times")
    return found[0]


def queued(bench: Bench, forge: Forge) -> Job:
    """A new job, as the forge's own listing tells it."""
    return listed(bench, forge, bench.queue())


def find(bench: Bench, forge: Forge, name: str) -> list[RunnerView]:
    """The records of that name in the first scope."""
    return [one for one in forge.runners(bench.scopes[0], name) if one.name == name]


def removed(bench: Bench, forge: Forge, minted: Minted) -> None:
    """Take a runner off the forge, and prove that it is gone: also for a new adapter, and by the forge's own records."""
    scope = bench.scopes[0]
    forge.remove_runner(scope, minted.runner_id)
    expect(forge.runner(scope, minted.runner_id) is None, "a runner that was removed is still shown")
    expect(bench.forge().runner(scope, minted.runner_id) is None, "a new adapter still sees it")
    forge.remove_runner(scope, minted.runner_id)


def same_labels(one: Sequence[str], other: Sequence[str]) -> bool:
    return {label.casefold() for label in one} == {label.casefold() for label in other}
