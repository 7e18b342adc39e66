"""POST /hooks/{forge}: authenticate, parse, commit in a group, then answer. The answer 202 comes only after the commit."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.model import Job, JobState
from app.core.rules import allowed_repository
from app.forges.contract import BadDelivery, BadSignature, Delivery, DeliveryKind, Forge
from app.kit.telemetry import logger
from app.store import intruders, jobs, polls, reruns
from app.web.errors import Problem, TooLarge, reply
from app.web.parts import WebParts

log = logger(__name__)

PATH = "/hooks/"
DEEPEST = 2_000
"""Records that may wait for a commit; beyond it the forge is asked to come back, which it does by redelivery."""
WIDEST = 200
"""Records in one commit: enough for any burst, few enough that one commit stays short."""
PATIENCE = 8.0
"""Seconds a caller waits for its commit: GitHub and GitLab give up after 10."""
LARGE = 256 * 1024
"""Bytes from which a body is checked and parsed in a thread, and only a few such bodies are read at once."""
RETRY_AFTER = {"retry-after": "5"}


class Full(Exception):
    """Too many records wait for a commit."""


class Unavailable(Exception):
    """The database did not take the record."""


@dataclass(slots=True)
class _Waiting:
    record: jobs.Record
    outcome: asyncio.Future[jobs.Recorded]


class GroupedWriter:
    """One writer: commits whatever gathered while it was busy with the last commit, and never waits for more.

    Its task lives only while something is to be written, so there is nothing to start or to stop."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts
        self._queue: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self.commits = 0

    async def write(self, record: jobs.Record) -> jobs.Recorded:
        """The record's own outcome, once it is committed. Raises Full or Unavailable; then it may be sent again."""
        if len(self._queue) >= DEEPEST:
            raise Full
        waiting = _Waiting(record, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        try:
            async with asyncio.timeout(PATIENCE):
                return await waiting.outcome
        except TimeoutError:
            raise Unavailable("the commit takes too long") from None

    async def _drain(self) -> None:
        while self._queue:
            group, self._queue = self._queue[:WIDEST], self._queue[WIDEST:]
            group = [waiting for waiting in group if not waiting.outcome.done()]  # whoever gave up will send it again
            if not group:
                continue
            try:
                self._settle(group, await self._commit([waiting.record for waiting in group]))
            except Exception as error:  # noqa: BLE001  one poisoned record, or a database that is down: told to each caller
                await self._one_by_one(group, error)
            except BaseException:
                for waiting in group:
                    waiting.outcome.cancel()
                raise

    async def _commit(self, records: Sequence[jobs.Record]) -> list[jobs.Recorded]:
        self.commits += 1
        return await self._parts.lane(jobs.record, self._parts.db, records, self._parts.clock.now())

    async def _one_by_one(self, group: Sequence[_Waiting], cause: Exception) -> None:
        """Each record alone, so that a poisoned one fails only itself; none, if the database does not answer at all."""
        if len(group) == 1 or not await self._answers():
            log.error("deliveries not committed", count=len(group), error=f"{type(cause).__name__}: {cause}")
            for waiting in group:
                self._fail(waiting, cause)
            return
        for waiting in group:
            try:
                self._settle([waiting], await self._commit([waiting.record]))
            except Exception as error:  # noqa: BLE001  told to its caller, logged here; the others go on
                record = waiting.record
                log.error(
                    "delivery not committed", forge=record.forge, guid=record.guid, error=f"{type(error).__name__}: {error}"
                )
                self._fail(waiting, error)

    async def _answers(self) -> bool:
        try:
            await self._parts.lane(self._parts.db.ping)
        except Exception:  # noqa: BLE001  whatever it is, it does not answer
            return False
        return True

    @staticmethod
    def _settle(group: Sequence[_Waiting], outcomes: Sequence[jobs.Recorded]) -> None:
        for waiting, outcome in zip(group, outcomes, strict=True):
            if not waiting.outcome.done():
                waiting.outcome.set_result(outcome)

    @staticmethod
    def _fail(waiting: _Waiting, cause: Exception) -> None:
        if not waiting.outcome.done():
            error = Unavailable(type(cause).__name__)
            waiting.outcome.set_exception(error)


class Intake:
    """What became of each delivery, for all forges alike."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts
        self._writer = GroupedWriter(parts)
        self._large = asyncio.Semaphore(4)

    @property
    def commits(self) -> int:
        """Transactions so far: many deliveries share one."""
        return self._writer.commits

    async def take(self, name: str, request: Request) -> JSONResponse:
        """One delivery, from its raw body to the answer. Raises Problem."""
        try:
            return await self._take(name, request)
        except ClientDisconnect:
            raise Problem(400, "The delivery broke off.") from None

    async def _take(self, name: str, request: Request) -> JSONResponse:
        forge = self._parts.forges.get(name)
        if forge is None:
            self._count(name, "refused")
            raise Problem(404, "No forge of this name is configured.")
        hears = self._parts.listening.get(name)
        if hears is not None and not hears.webhooks:
            self._count(name, "refused")
            hint = f'It is set to intake = "poll" in [{name}]; take the webhook away at the forge, or change the setting.'
            raise Problem(404, f"{name} is polled here: no webhook is taken.", hint=hint)
        try:
            delivery = await self._authenticate(forge, request)
        except TooLarge:
            self._count(name, "too_large")
            log.warning("delivery too large", forge=name)
            raise
        except BadSignature as error:
            self._count(name, "bad_signature")
            log.warning("delivery not authentic", forge=name, error=str(error))
            raise Problem(
                401, "The delivery carries no valid signature.", hint="Compare the webhook secret on both sides."
            ) from None
        except BadDelivery as error:
            self._count(name, "bad_delivery")
            log.warning("delivery unreadable", forge=name, error=str(error))
            if forge.always_2xx:
                return _answer("unreadable", str(error))
            raise Problem(400, str(error)) from None
        return await self._place(forge, delivery)

    async def _authenticate(self, forge: Forge, request: Request) -> Delivery:
        headers = {key.lower(): value for key, value in request.headers.items()}
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) <= LARGE:
            return forge.parse(headers, await request.body())
        async with self._large:  # what was not authenticated yet must not fill the memory
            body = await request.body()
            return await self._parts.lane(forge.parse, headers, body)

    async def _place(self, forge: Forge, delivery: Delivery) -> JSONResponse:
        name, job = forge.name, delivery.job
        if delivery.kind is DeliveryKind.PING:
            self._count(name, "ping")
            return _answer("pong")
        if delivery.kind is DeliveryKind.IGNORED or job is None:
            self._count(name, "ignored")
            log.info("delivery ignored", forge=name, kind=delivery.event, action=delivery.action, why=delivery.note)
            return _answer("ignored", delivery.note or f"Sublet does not act on {delivery.event}.")
        if allowed_repository(job.repository, self._parts.repositories) is None:
            self._count(name, "refused")
            log.warning("repository not allowed", forge=name, repository=job.repository, guid=delivery.guid)
            if job.runner_name:
                await self._turn_out(job)
            return _answer("refused", f"{job.repository} is not in the allow list; add a [[repository]] that matches it.")
        record = jobs.Record(delivery.forge, delivery.guid, delivery.event, delivery.action, job)
        try:
            recorded = await self._writer.write(record)
        except (Full, Unavailable) as error:
            self._count(name, "unavailable")
            log.error("delivery not recorded", forge=name, guid=delivery.guid, error=type(error).__name__)
            message = "Too many deliveries wait." if isinstance(error, Full) else "The database does not answer."
            raise Problem(503, message, hint="Send it again; nothing was recorded.", headers=RETRY_AFTER) from None
        # The end of a job that nobody had taken is also what a late word says of one that was cancelled and is run again.
        untaken = job.state is JobState.COMPLETED and not job.runner_name
        if forge.reruns_in_place and (untaken or (recorded is jobs.Recorded.STALE and job.state is not JobState.COMPLETED)):
            await self._doubt(forge, job)
        self._parts.bell.ring()
        result = str(recorded)
        self._count(name, result)
        log.info("delivery", forge=name, result=result, action=delivery.action, job=job.id, guid=delivery.guid)
        return _answer(result, "The job has no usable id." if recorded is jobs.Recorded.IGNORED else "")

    async def _turn_out(self, job: Job) -> None:
        try:
            if name := await self._parts.lane(intruders.turn_out, self._parts.db, job, self._parts.clock.now()):
                log.warning("a job that nobody allowed runs on a lease", lease=name, repository=job.repository)
                self._parts.bell.ring()
        except Exception as error:  # noqa: BLE001  the forge's listing tells it again
            log.error("lease not ended", job=job.id, error=type(error).__name__)

    async def _doubt(self, forge: Forge, job: Job) -> None:
        """A job that ran, or had ended, waits again: the delivery is late, or the job is run again under its old id. The forge
        itself says which at the next round, which is now; without it the next listing would find out, only later."""
        try:
            await self._parts.lane(reruns.doubt, self._parts.db, job.id, self._parts.clock.now())
            await self._parts.lane(polls.hasten, self._parts.db, f"poll {forge.name}", self._parts.clock.now())
        except Exception as error:  # noqa: BLE001  the delivery itself is recorded
            log.error("doubt not recorded", forge=forge.name, job=job.id, error=type(error).__name__)

    def _count(self, forge: str, result: str) -> None:
        self._parts.telemetry.deliveries.add(forge=forge, result=result)


@functools.lru_cache(maxsize=64)
def _answer(result: str, reason: str = "") -> JSONResponse:
    """Thousands of deliveries have the same few answers; one answer may be sent many times."""
    return JSONResponse({"result": result, "reason": reason[:300]} if reason else {"result": result}, 202)


class Door:
    """Deliveries go past the application's routing: a forge sends thousands at once, and nothing of it is for them.

    What is asked, checked and answered is the same on both ways."""

    def __init__(self, app: ASGIApp, intake: Intake) -> None:
        self._app, self._intake = app, intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(PATH) if scope["type"] == "http" and scope["path"].startswith(PATH) else ""
        if not name or "/" in name or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._intake.take(name, Request(scope, receive))
        except Problem as problem:
            answer = reply(problem, str(scope["state"]["request_id"]))
        await answer(scope, receive, send)


def router(intake: Intake) -> APIRouter:
    """The webhook address of every forge, as the API's description shows it."""
    routes = APIRouter(tags=["webhooks"])

    @routes.post(PATH + "{forge}", status_code=202, summary="A forge's webhook delivery, signed")
    async def receive(forge: str, request: Request) -> JSONResponse:
        """Recorded deliveries answer 202 after the commit; repeated ones too. 401: not authentic. 503: send it again."""
        return await intake.take(forge, request)

    return routes
