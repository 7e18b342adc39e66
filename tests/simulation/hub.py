"""GitHub in one world: the demo forge, its users and its runner programs."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from app.demo import forge as demo
from app.demo.deliveries import Receipt
from app.demo.deliveries import body as body_of
from app.demo.deliveries import headers as headers_of
from app.demo.keys import Keys, fresh
from app.demo.nouns import Book, Delivery, JobSpec, Progress
from app.demo.office import Office
from app.demo.state import ForgeState
from app.demo.work import Order, Refusal
from app.forges.contract import Forge
from app.forges.github import GitHubForge
from app.kit.clock import Clock
from providers.contract import Secret
from tests.forge_programs import GitHubProgram, RunnerProgram
from tests.simulation.conditions import Conditions
from tests.simulation.sides import FORK, REPOSITORIES, THEIRS, Parcel, Send
from tests.simulation.wire import Asked, Told, over_asgi

HOOK_URL = "http://127.0.0.1/hooks/github"


class Outlet:
    """A clock whose hands are those of the world that runs."""

    def __init__(self) -> None:
        self.clock: Clock | None = None

    def now(self) -> datetime:
        assert self.clock is not None
        return self.clock.now()

    def monotonic(self) -> float:
        assert self.clock is not None
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the demo forge waits for nothing here")


class Hall:
    """The demo forge's application, built once in a process: its book is emptied for each world."""

    def __init__(self) -> None:
        self.clock = Outlet()
        self.keys: Keys = fresh()
        self.state: ForgeState = demo.forge_state("http://127.0.0.1")
        self.app = demo.build(self.state, self.keys, clock=self.clock, access_clock=self.clock)
        self.office: Office = self.app.state.office

    def empty(self, clock: Clock, seed: int) -> None:
        """As if it had just been made."""
        self.clock.clock = clock
        clean = Book(origin="http://127.0.0.1")
        for field in dataclasses.fields(Book):
            setattr(self.state.book, field.name, getattr(clean, field.name))
        self.state._chance.seed(seed)  # pyright: ignore[reportPrivateUsage]  its only source of chance
        self.office.door._spent.clear()  # pyright: ignore[reportPrivateUsage]  every world has its own hour


_HALL: list[Hall] = []


def hall() -> Hall:
    """The one of this process."""
    if not _HALL:
        _HALL.append(Hall())
    return _HALL[0]


class Hub:
    """GitHub, as far as Sublet, a user and a runner can tell."""

    name = "github"
    host = "127.0.0.1"

    def __init__(self, clock: Clock, seed: int, quota: int, send: Send) -> None:
        self._clock, self._send = clock, send
        self._hall = hall()
        self._hall.empty(clock, seed)
        self.state, self.keys = self._hall.state, self._hall.keys
        limits = self.state.book.limits
        limits.requests_per_hour = quota
        limits.jit_unused, limits.jit_idle = timedelta(days=1), timedelta(minutes=30)  # what stays longer is ours to take off
        self.state.changed = self._pump
        self._hall.office.changed = self._pump  # type: ignore[method-assign]  no doorbell: nobody waits at it
        self._busy = False
        for repository in REPOSITORIES:
            self.state.repository(repository, clock.now())
        self.state.hook(HOOK_URL, clock.now())

    def adapter(self, conditions: Conditions) -> Forge:
        keys, hooked = self.keys, conditions.forges[self.name].webhooks
        credentials: dict[str, Any] = {"token": Secret(keys.token)}
        if conditions.app:
            credentials = {"app_id": str(self.state.book.app_id), "private_key": Secret(keys.app_pem)}
        return GitHubForge(
            webhook_secret=Secret(keys.webhook_secret) if hooked else None,
            now=self._clock.now,
            api_url="http://127.0.0.1/api/v3",
            hook_url=HOOK_URL,
            named=() if conditions.globs else REPOSITORIES,
            **credentials,
        )

    def answer(self, asked: Asked) -> Told:
        return over_asgi(self._hall.app, asked)

    def secrets(self) -> list[str]:
        return [self.keys.webhook_secret, self.keys.token, self.keys.app_pem[40:100]]

    def _pump(self) -> None:
        """Hand over every delivery that was not handed over yet."""
        if self._busy:
            return
        self._busy = True
        now = self._clock.now()
        for one in self.state.outbox.due(now):
            self.state.outbox.record(one, Receipt(504, "timed out"), now)  # until somebody answers
            self._send(self._parcel(one))
        self._busy = False

    def _parcel(self, one: Delivery) -> Parcel:
        headers = {name.lower(): value for name, value in headers_of(self.state.book, one, self.keys.webhook_secret).items()}

        def receipt(status: int) -> None:
            told = Receipt(status) if status else Receipt(502, "failed to connect to host")
            self.state.outbox.record(one, told, self._clock.now(), headers)

        key = str(one.payload.get("workflow_job", {}).get("id", ""))
        return Parcel(self.name, headers, body_of(one), receipt, key, one.action or one.event)

    # --- its users

    def queue(self, repository: str, labels: list[str], *, fork: bool = False, gated: bool = False) -> str:
        spec = JobSpec("eval", "eval", labels, needs_approval=gated)
        event: dict[str, Any] = {"event": "pull_request", "fork": FORK, "actor": "mallory"} if fork else {}
        run = self.state.start(Order(repository, "c0ffee" + "0" * 34, [spec], **event), self._clock.now())
        return str(next(job.id for job in self.state.book.jobs.values() if job.run_id == run.id))

    def approve(self, key: str) -> None:
        if self.state.book.jobs[int(key)].progress is Progress.WAITING:
            self.state.approve(int(key), self._clock.now())

    def cancel(self, key: str) -> None:
        if self.state.book.jobs[int(key)].progress is not Progress.COMPLETED:
            self.state.cancel(int(key), self._clock.now())

    def rerun(self, key: str) -> str | None:
        job = self.state.book.jobs.get(int(key))
        if job is None or job.progress is not Progress.COMPLETED or job.superseded:
            return None
        return str(self.state.rerun([int(key)], self._clock.now())[0].id)

    def steal(self, key: str) -> Callable[[], None] | None:
        job = self.state.book.jobs[int(key)]
        if job.progress is not Progress.QUEUED:
            return None
        now = self._clock.now()
        scope = f"repos/{self.state.book.runs[job.run_id].repository}"
        minted = self.state.register(scope, f"{THEIRS}-{key}", job.labels, 1, now)
        self.state.connect(minted.token, "s" * 64, "2.336.0", now)
        runner = self.state.session(minted.token, "s" * 64, now)
        taken = self.state.take(runner, now)
        if taken is None:
            self.state.remove(scope, runner.id)
            return None
        return lambda: self._finish(minted.token, "s" * 64, taken.id)

    def _finish(self, token: str, session: str, job_id: int) -> None:
        try:
            self.state.finish(token, session, job_id, "success", self._clock.now())
        except Refusal:
            return  # it was lost, or cancelled, in the meantime

    def identity(self, credential: Mapping[str, Any]) -> tuple[str, str] | None:
        config = str(credential["environment"].get("ACTIONS_RUNNER_INPUT_JITCONFIG", ""))
        if not config:
            return None
        told = json.loads(base64.b64decode(json.loads(base64.b64decode(config))[".runner"]))
        return str(told["agentName"]), config[-60:]

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        return GitHubProgram(cast(Any, self), credential["environment"]["ACTIONS_RUNNER_INPUT_JITCONFIG"])

    def renew(self, program: RunnerProgram, key: str) -> bool:
        ours = cast(Any, program)
        now = self._clock.now()
        return self.state.renew(self.state.session(ours._token, ours._session, now), int(key), now)

    def abandon(self, program: RunnerProgram, key: str) -> None:
        ours = cast(Any, program)
        self.state.finish(ours._token, ours._session, int(key), "cancelled", self._clock.now())

    def tick(self) -> None:
        self.state.tick(self._clock.now())
        self._pump()

    # --- what it knows

    def all_jobs(self) -> dict[str, str]:
        return {str(job.id): job.conclusion or str(job.progress) for job in self.state.book.jobs.values()}

    def turn(self, key: str) -> int:
        return 0

    def looks(self) -> int:
        return sum(run.attempt for run in self.state.book.runs.values())

    def registered(self) -> list[str]:
        return [one.name for one in self.state.book.runners.values() if not one.name.startswith(THEIRS)]

    def busy_on(self, runner_name: str) -> str | None:
        for runner in self.state.book.runners.values():
            if runner.name == runner_name and runner.job_id is not None:
                job = self.state.book.jobs[runner.job_id]
                return None if job.cancel_asked_at is not None else str(job.id)
        return None

    def ran_on(self, key: str) -> str:
        return self.state.book.jobs[int(key)].runner_name or ""

    def note(self, key: str) -> str:
        return self.state.book.jobs[int(key)].note
