"""The cork board in our hall, as a Sublet forge: knows the contract of Sublet, what it reads and fills in with, and no more."""

import hashlib
import hmac
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from app.core.model import Job, JobState, Run, Scope, ScopeKind
from app.forges.command import command_of
from app.forges.contract import (
    BadDelivery,
    BadSignature,
    Credential,
    Delivery,
    DeliveryKind,
    ForgeDown,
    ForgeRefused,
    Minted,
    Missed,
    NameTaken,
    Pace,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
    Surroundings,
)
from app.forges.payload import Table, Unreadable, identity, labels, load, whole, word, words
from providers.contract import Secret
from sublet_corkboard.board import Away, BadPass, Board, Desk, Slip, Taken, told

T = TypeVar("T")
TOKEN = "BOARD_TOKEN"
READY, BEGUN = "sits at desk", "has taken slip"  # what a worker says as it goes
LABELS = 20  # no slip is wider
STATES = {
    "held": JobState.WAITING,
    "open": JobState.QUEUED,
    "taken": JobState.IN_PROGRESS,
    "done": JobState.COMPLETED,
}
OUTCOMES = {"good": "success", "bad": "failure", "torn_down": "cancelled"}
PROJECT = re.compile(r"[a-z0-9-]{1,40}/[a-z0-9-]{1,40}")
NUMBER = re.compile(r"[0-9]{1,18}")
SIGNATURE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CorkboardSettings:
    file: Path  # the board itself
    key: Secret  # of the hall
    worker: str = "corkboard-worker"

    def __post_init__(self) -> None:
        if not self.worker.strip():
            raise ValueError("somebody has to do the work: `worker` is blank")


class CorkboardForge:
    """See the module. A job's key is the number of its slip, a runner's id the number of its desk."""

    Settings = CorkboardSettings
    contract = 1
    kind = "corkboard"
    always_2xx = False
    single_use = True  # the board clears a desk when its one slip is done
    pinned = False
    wide = False
    reruns_in_place = False

    def __init__(self, name: str, settings: CorkboardSettings, around: Surroundings) -> None:
        self.name, self._settings, self._around = name, settings, around
        self.board = Board(settings.file, settings.key.reveal())

    def __repr__(self) -> str:
        return f"<CorkboardForge {self.name}>"

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        self._authenticate(headers.get("x-board-signature", ""), body)
        try:
            job = self._job(load(body))
        except Unreadable as error:
            raise BadDelivery(f"The board's note cannot be read: {error}.") from None
        state = job.state.value
        return Delivery(self.name, f"slip-{job.key}-{state}", DeliveryKind.JOB, "note", state, job)

    def _authenticate(self, given: str, body: bytes) -> None:
        """Over the raw body, in constant time, before anything of it is read."""
        secrets = [one for one in (self._around.webhook_secret, self._around.webhook_secret_previous) if one]
        if not secrets:
            raise BadSignature("No webhook secret is set: the board's notes are not taken.")
        if not SIGNATURE.fullmatch(given):
            raise BadSignature("The note carries no X-Board-Signature.")
        fits = False
        for secret in secrets:
            made = hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()
            fits |= hmac.compare_digest(made, given)
        if not fits:
            raise BadSignature

    def _job(self, slip: Table) -> Job:
        """The job that a slip is. Raises Unreadable."""
        key, project, state = identity(slip, "slip"), whole(slip, "project", PROJECT), STATES.get(word(slip, "state"))
        if not key or not project or state is None:
            raise Unreadable("it names no slip, no project, or no state that slips have")
        return Job(
            id=f"{self.name}-{key}",
            forge=self.name,
            key=key,
            repository=project,
            state=state,
            run_id=identity(slip, "run"),
            labels=labels(slip, "labels") or (),
            conclusion=OUTCOMES.get(word(slip, "outcome"), "") if state is JobState.COMPLETED else "",
            runner_name=words(slip, "runner", 100),
        )

    def unfit(self, labels: Sequence[str]) -> str:
        return f"A slip has room for {LABELS} labels." if len(labels) > LABELS else ""

    def fetch_job(self, job: Job) -> Job | None:
        slip = self._ask("show a slip", lambda: self.board.slip(number(job.key)))
        return None if slip is None else replace(self._job(told(slip)), installation=job.installation)

    def fetch_run(self, job: Job) -> Run | None:
        run, slip = number(job.run_id), self._ask("show a slip", lambda: self.board.slip(number(job.key)))
        if slip is None or slip.run != run:
            return None
        return Run(self.name, slip.project, str(slip.run), event="push", fork=not slip.own, actor=slip.author)

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        slips: list[Slip] = self._ask("list the slips", lambda: self.board.slips(project(place)))
        return [self._job(told(slip)) for slip in slips]

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        return self._ask("list the projects", lambda: self.board.projects(project(f"{owner}/x").partition("/")[0]))

    def missed(self, since: datetime) -> Sequence[Missed] | None:
        return None  # the board keeps no list: what it did not tell is found by `open_jobs`

    def redeliver(self, missed: Missed) -> None:
        raise ForgeRefused("The board never tells a thing twice.")

    def pace(self) -> Pace:
        return Pace.FREE

    def mint_runner(self, order: RunnerOrder) -> Minted:
        why = self.unfit(order.labels)
        if why or not order.labels:
            raise ForgeRefused(why or "A desk at the board needs a label.")
        place = self._place(order.scope)
        usual = (self._settings.worker, "--board", "{file}", "--once")
        command = command_of(order, usual, {"name": order.name, "file": str(self._settings.file)})
        try:
            desk: Desk = self._ask("set up a desk", lambda: self.board.register(place, order.name, order.labels))
        except Taken:
            raise NameTaken(f"{self.name} has a desk {order.name} already") from None
        return Minted(str(desk.id), Credential(command, {TOKEN: Secret(desk.token)}, ready=READY, begun=BEGUN))

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        desk = self._ask("show a desk", lambda: self.board.desk(number(runner_id)))
        return None if desk is None else shown(desk)

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        desks: list[Desk] = self._ask("list the desks", lambda: self.board.desks(self._place(scope)))
        return [shown(desk) for desk in desks if desk.name.startswith(prefix)]

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """A desk is good for one slip: there is nothing to do."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        try:
            self._ask("clear a desk", lambda: self.board.clear(number(runner_id)))
        except Taken:
            raise RunnerBusy(f"Somebody works at desk {runner_id} of {self.name}.") from None

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        return None  # a slip hangs there until it is taken

    def check(self) -> str:
        return f"{self.name}: {self._ask('greet', self.board.greet)}."

    def _place(self, scope: Scope) -> str:
        if scope.kind is not ScopeKind.REPOSITORY:
            raise ForgeRefused("A desk at the board belongs to one project: leave the pool's scope at `repository`.")
        return project(scope.path)

    def _ask(self, deed: str, question: Callable[[], T]) -> T:
        """The answer, or what its absence means for whoever asked: a definite no, or come back later."""
        try:
            return question()
        except BadPass:
            raise ForgeRefused(f"{self.name} does not know our key: set the one that the caretaker gave you.") from None
        except (Away, OSError, sqlite3.Error) as error:
            raise ForgeDown(f"{self.name} gave no answer when asked to {deed} ({type(error).__name__})") from None


def number(key: str) -> int:
    if not NUMBER.fullmatch(key):
        raise ForgeRefused("On the board everything has a number.")
    return int(key)


def project(place: str) -> str:
    if not PROJECT.fullmatch(place):
        raise ForgeRefused("No project of the board has such a name.")
    return place


def shown(desk: Desk) -> RunnerView:
    return RunnerView(str(desk.id), desk.name, online=None, busy=desk.slip is not None)
