"""What the node agent calls. A node is taken for hostile: it may only speak for its own lease, and only until that ends.

The web records what a node says and rings the bell; the engine decides what follows. Every answer is `no-store`.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from app.core.labels import sharpen
from app.core.model import Job, JobState, Lease, Reason, Run
from app.core.rules import Admission, JobClaim, may_run, objection
from app.core.states import ORDER, State
from app.forges.contract import ForgeError, ForgeRefused
from app.kit.telemetry import logger
from app.store import leases, nodes, runs
from app.store.rows import plain
from app.store.vault import credential_context
from app.trust.faults import RegistryAway
from app.web import node_bodies as bodies
from app.web.node_images import NodeImages
from app.web.node_pilots import NodePilots
from app.web.parts import WebParts

log = logger(__name__)
B = TypeVar("B", bound=bodies.Body)
T = TypeVar("T")

NO_STORE = {"cache-control": "no-store"}
LIMIT = 64 * 1024
LOG_LIMIT = 256 * 1024
AFTER_END = timedelta(minutes=10)
"""A session outlives the hard end by this, for the last log lines; a destroyed lease ends it at once."""
UNKNOWN_END = timedelta(hours=1)
PER_SECOND, BURST = 20.0, 200.0
"""Requests of one lease, and joins or failed sessions from one address. An agent at work makes about five a second.
Each web counts for itself: it is itself that it keeps from being flooded."""
MOST_REMEMBERED = 10_000


class Denied(Exception):
    """The node is told no: with a status, a word and a sentence."""

    def __init__(self, status: int, code: str, message: str, wait: float = 1.0) -> None:
        """`wait`: seconds until it is worth while to ask again, where it is."""
        super().__init__(message)
        self.status, self.code, self.message, self.wait = status, code, message, wait

    def response(self) -> JSONResponse:
        headers = {**NO_STORE, "retry-after": f"{self.wait:.0f}"} if self.status in (429, 503) else NO_STORE
        return JSONResponse({"error": {"code": self.code, "message": self.message}}, self.status, headers)


class Buckets:
    """Token buckets, one per name, for the busiest `MOST_REMEMBERED` names."""

    def __init__(self, monotonic: Callable[[], float], rate: float = PER_SECOND, burst: float = BURST) -> None:
        self._monotonic, self._rate, self._burst = monotonic, rate, burst
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> None:
        """Raises Denied (429) if the bucket is empty."""
        now = self._monotonic()
        level, since = self._level.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        self._level[name] = (max(level - 1, 0.0), now)
        if len(self._level) > MOST_REMEMBERED:
            self._level.popitem(last=False)
        if level < 1:
            raise Denied(429, "slow_down", "Too many requests; come back in a second.")


@dataclass(frozen=True, slots=True)
class Reply:
    content: dict[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """A node with a session that holds."""

    lease: Lease
    session_hash: str
    now: datetime


def digest(secret: str) -> str:
    """How secrets are kept and looked up: an index over hashes leaks nothing through time."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Nodes:
    """The routes' work, apart from how HTTP names it."""

    def __init__(self, parts: WebParts) -> None:
        self.parts = parts
        self._buckets = Buckets(parts.clock.monotonic)
        self._images, self._pilots = NodeImages(parts), NodePilots(parts)

    # --- who is calling

    async def body(self, request: Request, shape: type[B], limit: int = LIMIT) -> B:
        """The body, counted while it is read and checked before anything is done with it."""
        raw = bytearray()
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            raise Denied(413, "too_large", f"The body may have {limit} bytes.")
        async for piece in request.stream():
            raw += piece
            if len(raw) > limit:
                raise Denied(413, "too_large", f"The body may have {limit} bytes.")
        try:
            return shape.model_validate_json(bytes(raw))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
            raise Denied(422, "unreadable", f"The body is not what this address takes ({where[:100] or 'JSON'}).") from None

    async def caller(self, request: Request) -> Caller:
        """Raises Denied: 410 for a session that is over, 401 for one that was never there, 429 for a node that asks too often.

        The two differ for a node at work: after a database was put back from a backup, it is unknown and not over."""
        now = self.parts.clock.now()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        session_hash = digest(token) if scheme.lower() == "bearer" and 43 <= len(token) <= 200 else ""
        lease = await self.parts.lane(nodes.lease_of, self.parts.db, session_hash, now) if session_hash else None
        if lease is None:
            self._buckets.take(f"address:{_address(request)}")
            if session_hash and await self.parts.lane(nodes.had_session, self.parts.db, session_hash):
                raise Denied(410, "ended", "This session is over.")
            raise Denied(401, "no_session", "This session is unknown.")
        self._buckets.take(f"lease:{lease.id}")
        return Caller(lease, session_hash, now)

    # --- what they say

    async def join(self, request: Request) -> Reply:
        parts, now = self.parts, self.parts.clock.now()
        self._buckets.take(f"address:{_address(request)}")
        asked = await self.body(request, bodies.Join)
        lease = await parts.lane(leases.get, parts.db, asked.lease)
        outcome = "unknown"
        if lease is not None:
            hashes = digest(asked.token), digest(asked.session)
            outcome = str(await parts.lane(nodes.join, parts.db, lease.id, *hashes, now, _expiry(lease, now)))
        parts.telemetry.node_joins.add(result=outcome)
        if lease is None or outcome == "unknown":
            raise Denied(401, "unknown", "This lease or this join token is unknown.")
        if outcome == "reused":
            parts.bell.ring()
            log.warning("join token used a second time", lease=lease.name, address=_address(request))
            raise Denied(403, "join_reused", "This join token was used before. The lease is being destroyed.")
        if outcome == "ended":
            raise Denied(410, "ended", "This lease is over.")
        parts.bell.ring()
        pool = parts.pools.get(lease.key.pool)
        answer = {
            "lease": lease.name,
            "want": plain(sharpen(lease.need, lease.ask, lease.key.labels)),
            "heartbeat_seconds": parts.settings.heartbeat_seconds,
            "silent_seconds": parts.settings.silent_seconds,
            "pool_note": "" if pool is None else pool.note,
            "image": await _patiently(self._images.own(lease)),
            "measure": self._pilots.wanted(lease),
            **_times(lease, now),
        }
        return Reply(answer)

    async def facts(self, request: Request) -> Reply:
        caller = await self.caller(request)
        told = await self.body(request, bodies.Facts)
        await self.parts.lane(nodes.report_facts, self.parts.db, caller.lease.id, told.model_dump(), caller.now)
        self.parts.bell.ring()
        return Reply({"ok": True})

    async def sample(self, request: Request) -> Response:
        """Bytes by which a pilot's node measures its network: once, and for nobody else."""
        caller = await self.caller(request)
        await self.body(request, bodies.Nothing)
        found = None if _is_over(caller.lease) else await self._pilots.sample(caller.lease, caller.now)
        if found is None:
            raise Denied(409, "no_sample", "There is no sample for this node, or no second one.")
        return found

    async def measured(self, request: Request) -> Reply:
        caller = await self.caller(request)
        told = await self.body(request, bodies.Measured)
        return Reply({"kept": await self._pilots.measured(caller.lease, told, caller.now)})

    async def heartbeat(self, request: Request) -> Reply:
        caller = await self.caller(request)
        await self.body(request, bodies.Heartbeat)
        lease, expires = caller.lease, _expiry(caller.lease, caller.now)
        await self.parts.lane(nodes.beat, self.parts.db, lease.id, caller.session_hash, caller.now, expires)
        return Reply({"state": str(lease.state), "stop": _is_over(lease), **_times(lease, caller.now)})

    async def credential(self, request: Request) -> Reply:
        """Opened only here and only now: it is sealed at rest, and only the first ticket ever gets it."""
        caller = await self.caller(request)
        ticket = (await self.body(request, bodies.Credential)).ticket
        if (no := await self._images.revoked(caller.lease)) and not _is_over(caller.lease):
            parts, lease = self.parts, caller.lease
            await parts.lane(leases.ask, parts.db, lease.id, "destroy", Reason.IMAGE_REFUSED, no, "node", caller.now)
            parts.bell.ring()
            raise Denied(410, "gone", "The image of this lease was revoked: there is no credential for this node.")
        taken = await self.parts.lane(nodes.take_credential, self.parts.db, caller.lease.id, digest(ticket), caller.now)
        if taken.outcome is nodes.Fetch.GONE:
            raise Denied(410, "gone", "There is no credential for this node any more.")
        if taken.sealed is None:
            return Reply({"wait": 0.5}, 202)
        self.parts.bell.ring()
        opened = json.loads(self.parts.vault.open(taken.sealed, credential_context(caller.lease.id)))
        told = ("command", "environment", "files", "ready", "begun", "least")
        return Reply({name: opened[name] for name in told if name in opened})  # one sealed by an older version has fewer

    async def image(self, request: Request) -> Reply:
        """May the job start a container from this image? The same rule as for the pool's own, and only by digest."""
        caller = await self.caller(request)
        told = await self.body(request, bodies.Image)
        if _is_over(caller.lease):
            raise Denied(410, "ended", "This lease is over.")
        return Reply(await _patiently(self._images.asked(caller.lease, told.reference, caller.now)))

    async def event(self, request: Request) -> Reply:
        caller = await self.caller(request)
        told = await self.body(request, bodies.Event)
        at = told.at or caller.now  # the store holds it between the joining and now
        await self.parts.lane(nodes.event, self.parts.db, caller.lease.id, told.kind, at, told.data, caller.now)
        self.parts.bell.ring()
        return Reply({"ok": True})

    async def log(self, request: Request) -> Reply:
        caller = await self.caller(request)
        told = await self.body(request, bodies.Log, LOG_LIMIT)
        lines = [(line.seq, _within(line.at, caller), line.source, line.line) for line in told.lines]
        return Reply({"kept": await self.parts.lane(nodes.append_log, self.parts.db, caller.lease.id, lines)})

    async def job(self, request: Request) -> Reply:
        """May the job that came run here? No means that the machine goes, too: it has met a job that it must not have."""
        caller = await self.caller(request)
        told = await self.body(request, bodies.JobStarted)
        parts, lease = self.parts, caller.lease
        claim = JobClaim(**told.model_dump())
        if _is_over(lease) or lease.asked_reason is Reason.JOB_REFUSED:
            return _admission(False, f"Sublet: lease {lease.name} is ending and takes no job.")
        # The agent refuses a second job by itself; here it is refused also to an agent that somebody changed.
        wanted = digest(json.dumps([claim.repository, claim.run_id, claim.attempt, claim.job]))
        if not await parts.lane(nodes.take_job, parts.db, lease.id, wanted):
            return _admission(False, f"Sublet: lease {lease.name} is for one job and has had it.")
        try:
            admission = may_run(claim, lease, parts.repositories, await self._run_of(claim, lease))
        except ForgeError as error:
            no = f"Nobody can say where it comes from: {error} Run it again."
            admission = Admission(False, (f"Sublet refuses this job on lease {lease.name}.", no))
        if not admission.allowed:
            text = " ".join(admission.lines)[:1000]
            await parts.lane(leases.ask, parts.db, lease.id, "drain", Reason.JOB_REFUSED, text, "node", caller.now)
            parts.bell.ring()
            return _admission(False, *admission.lines, _page(parts, lease))
        data = {"repository": claim.repository, "run_id": claim.run_id, "event": claim.event, "actor": claim.actor}
        await parts.lane(nodes.event, parts.db, lease.id, "job_started", caller.now, data, caller.now)
        parts.bell.ring()
        return _admission(True, *admission.lines, *_story(lease), _page(parts, lease))

    async def _run_of(self, claim: JobClaim, lease: Lease) -> Run | None:
        """The run that the job says it belongs to, as its forge tells it; asked for now if nobody has yet.

        It is asked for in any case where a run may be set going again under its old name: a job that was cancelled before it
        began, and run again before anybody looked, is told by nothing else, and who did that counts.
        None: this service does not know the forge. Raises ForgeError where there is no answer."""
        parts, name = self.parts, lease.key.forge
        forge, lane = parts.forges.get(name), parts.forge_lanes.get(name)
        known = await parts.lane(runs.known, parts.db, name, claim.repository, claim.run_id, claim.attempt)
        if forge is None or lane is None or (known is not None and not forge.reruns_in_place):
            return known
        asked = Job("", name, "", claim.repository, JobState.IN_PROGRESS, run_id=claim.run_id, attempt=claim.attempt)
        told = await lane(forge.fetch_run, asked)
        if told is None or told.repository.casefold() != claim.repository.casefold():
            raise ForgeRefused(f"{name} has no run {claim.run_id} in {claim.repository}.")

        def judge(run: Run) -> str:
            return objection(run, parts.repositories)

        await parts.lane(runs.tell, parts.db, [(asked, told)], judge, parts.clock.now())
        return told


def router(parts: WebParts) -> APIRouter:
    """GET /node/agent.pyz and the POST routes of the node protocol."""
    routes, node = APIRouter(prefix="/node", include_in_schema=False), Nodes(parts)
    content, sha256 = parts.agent

    async def agent() -> Response:
        headers = {**NO_STORE, "etag": f'"{sha256}"', "content-disposition": 'attachment; filename="agent.pyz"'}
        return Response(content, media_type="application/zip", headers=headers)

    routes.add_api_route("/agent.pyz", agent, methods=["GET"])
    told = (node.join, node.facts, node.heartbeat, node.credential, node.image, node.event, node.log, node.job)
    for work in (*told, node.measured, node.sample):
        routes.add_api_route(f"/{work.__name__}", _answering(work), methods=["POST"], response_model=None)
    return routes


def _answering(work: Callable[[Request], Awaitable[Reply | Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            reply = await work(request)
        except Denied as denied:
            return denied.response()
        return reply if isinstance(reply, Response) else JSONResponse(reply.content, reply.status, NO_STORE)

    return answer


async def _patiently(answer: Awaitable[T]) -> T:
    """A registry that is away means wait, never yes: the node asks again."""
    try:
        return await answer
    except RegistryAway as away:
        wait = min(max(away.wait.total_seconds(), 1.0), 30.0)
        raise Denied(503, "registry_away", f"The registry does not answer: {away}", wait) from None


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _expiry(lease: Lease, now: datetime) -> datetime:
    """A session must outlast any outage of ours during a job: it ends with the lease, not with a missed heartbeat."""
    return (lease.hard_end or now + UNKNOWN_END) + AFTER_END


def _times(lease: Lease, now: datetime) -> dict[str, str]:
    end = lease.hard_end or now + UNKNOWN_END
    return {"now": _rfc3339(now), "hard_end": _rfc3339(end), "session_expires": _rfc3339(_expiry(lease, now))}


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _within(at: datetime | None, caller: Caller) -> datetime:
    """A node's time, held between its joining and now: it may be wrong, or lie."""
    if at is None:
        return caller.now
    return min(max(at, caller.lease.joined_at or caller.now), caller.now)


def _is_over(lease: Lease) -> bool:
    return ORDER[lease.state] >= ORDER[State.DRAINING]


def _admission(allowed: bool, *lines: str) -> Reply:
    return Reply({"allowed": allowed, "lines": list(lines)})


def _page(parts: WebParts, lease: Lease) -> str:
    return f"Page: {parts.settings.public_url}/leases/{lease.name}"


def _story(lease: Lease) -> Sequence[str]:
    """Offer and price, start-up, and limit, for the job's own log: the one place that most developers look at."""
    lines: list[str] = []
    title = str((lease.offer or {}).get("title") or (lease.offer or {}).get("id") or "").strip()[:200]
    if lease.price_per_hour is not None:
        lines.append(f"Offer: {title or lease.provider} at {lease.price_per_hour.normalize():f} {lease.currency} an hour")
    times = (lease.asked_at, lease.joined_at, lease.facts_at, lease.runner_started_at)
    steps = zip(("asked", "joined", "measured", "online"), times, strict=True)
    took = [f"{name} +{(at - lease.created_at).total_seconds():.1f} s" for name, at in steps if at is not None]
    if took:
        lines.append("Start-up: " + ", ".join(took))
    if lease.hard_end is not None:
        lines.append(f"Limit: this machine ends at {lease.hard_end.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC at the latest")
    return lines
