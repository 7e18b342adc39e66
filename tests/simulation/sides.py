"""What the forges of a world have in common: names, parcels, and the way from a request to a fake's answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from app.forges.contract import Forge
from tests.fakes.loopback import Reply, Request
from tests.forge_programs import RunnerProgram, Work
from tests.simulation.conditions import Conditions
from tests.simulation.wire import Asked, Told, query_of

LABELS = ("gpu", "rubin")
REPOSITORIES = ("acme/train", "acme/infer")
FORK = "mallory/train"
HOOK_SECRET = "hook-secret-of-the-simulation"
THEIRS = "their-own"
STRANGER = 999_999
"""The runner of somebody else, where a fake asks for no more than a number."""
GONE = timedelta(minutes=3)
"""A runner's program that was not heard of for so long is not there any more."""


@dataclass(slots=True)
class Parcel:
    """One webhook delivery on its way."""

    forge: str
    headers: dict[str, str]
    body: bytes
    receipt: Callable[[int], None]  # told the status of the answer; 0: none
    job: str  # its key
    action: str


Send = Callable[[Parcel], None]


def unheard(_: int) -> None:
    """A forge that keeps no book of its deliveries, or none that anybody may read."""


class Side(Protocol):
    """One forge of a world, as far as Sublet, its users and a runner can tell. `key` is its own name of a job."""

    name: str
    host: str

    def adapter(self, conditions: Conditions) -> Forge:
        """A fresh adapter, as a service makes one at its start; without webhooks it has no secret to believe one by."""
        ...

    def answer(self, asked: Asked) -> Told: ...

    def secrets(self) -> list[str]: ...

    def tick(self) -> object:
        """What time alone brings about."""
        ...

    # --- its users

    def queue(self, repository: str, labels: list[str], *, fork: bool = False, gated: bool = False) -> str: ...

    def approve(self, key: str) -> None: ...

    def cancel(self, key: str) -> None: ...

    def rerun(self, key: str) -> str | None:
        """The key of the new job, which may be the old one's; None if it has not ended."""
        ...

    def steal(self, key: str) -> Callable[[], None] | None:
        """A runner that is not ours takes the job; what ends it, or None if it cannot."""
        ...

    # --- its runners

    def identity(self, credential: Mapping[str, Any]) -> tuple[str, str] | None:
        """The runner's name and its secret; None: the credential is another forge's."""
        ...

    def program(self, credential: dict[str, Any]) -> RunnerProgram: ...

    def renew(self, program: RunnerProgram, key: str) -> bool:
        """The runner's sign of life; True: its job is over or to be cancelled. Raises Refusal once the forge gave it up."""
        ...

    def abandon(self, program: RunnerProgram, key: str) -> None: ...

    # --- what it knows

    def all_jobs(self) -> dict[str, str]:
        """key -> "waiting", "queued", "in_progress", or the conclusion."""
        ...

    def turn(self, key: str) -> int:
        """How many times the job was run again under this same key."""
        ...

    def looks(self) -> int:
        """How many looks at a run the work needs: one for each attempt."""
        ...

    def registered(self) -> list[str]:
        """The names of our runners."""
        ...

    def busy_on(self, runner_name: str) -> str | None:
        """The job that this runner has, unless it is to be cancelled."""
        ...

    def ran_on(self, key: str) -> str: ...

    def note(self, key: str) -> str: ...


def request_of(asked: Asked) -> Request:
    """As a fake on loopback would read it."""
    return Request(asked.verb, asked.path, query_of(asked), asked.headers, asked.body)


def told_of(reply: Reply, **headers: str) -> Told:
    """As it would arrive."""
    raw = b"" if reply.body is None else json.dumps(reply.body).encode()
    kept = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Told(reply.status, {**kept, **reply.headers}, raw if reply.raw is None else reply.raw)


class Heard:
    """A runner's program whose every word its forge notes; what it reports of a job that is no longer its own counts for
    nothing."""

    def __init__(self, program: RunnerProgram, now: Callable[[], datetime], still: Callable[[str], bool]) -> None:
        self._program, self._now, self._still = program, now, still
        self.at = now()
        self.ended = program.ended

    def hear(self) -> None:
        self.at = self._now()

    def take(self, now: datetime) -> Work | None:
        self.hear()
        work = self._program.take(now)
        self.ended = self._program.ended
        return work

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        if self._still(work.key):
            self._program.finish(work, success, now)
            self.ended = self._program.ended
