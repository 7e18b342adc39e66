"""The bench of GitHub: the demo forge, which speaks GitHub's API, on loopback and in memory."""

from __future__ import annotations

import atexit
import base64
import contextlib
import dataclasses
import functools
import json
import secrets
from collections.abc import Generator, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.core.model import Scope, ScopeKind
from app.demo import deliveries as post
from app.demo import forge as demo
from app.demo.access import Door
from app.demo.keys import fresh
from app.demo.nouns import Book, JobSpec
from app.demo.nouns import Runner as HubRunner
from app.demo.office import Office
from app.demo.work import Order, Refusal
from app.forges.conformance import Fault, Pair, Signing
from app.forges.contract import Credential, Forge, Minted
from app.forges.github import CONFIG, GitHubForge
from app.kit.clock import SystemClock
from providers.contract import Secret
from tests.demo.conftest import StillClock
from tests.fakes.loopback import Reply
from tests.fakes.served import served
from tests.forges.spoiled import ELSEWHERE, reply_for

OLD, WRONG = "the secret of last year", "somebody else's secret"
SHA = "c0ffee" + "0" * 34


class BenchClock(StillClock):
    """Begins at the machine's own time, because PyGithub signs by that."""

    def begin(self) -> None:
        self._now = SystemClock().now()


class GitHubBench:
    """See the module. Every request passes `answer`, which may speak in the demo forge's place."""

    name = "github"
    stands_on = "the demo forge, which is held against GitHub's own api.github.com.json and schemas of webhooks"
    faults = frozenset(Fault)
    signatures: Sequence[str] = ("x-hub-signature-256",)
    repository = "acme/train"
    other, owner = "acme/serve", "acme"
    scopes: Sequence[Scope] = (Scope(ScopeKind.REPOSITORY, "acme/train"), Scope(ScopeKind.ORGANIZATION, "acme"))
    labels: tuple[str, ...] = ("self-hosted", "gpu", "rubin")
    actor = "mona"

    def __init__(self) -> None:
        stage().empty()
        self.keys, self.clock, self.state, self.app = stage().keys, stage().clock, stage().state, stage().app
        self.secrets: Sequence[str] = (self.keys.webhook_secret, OLD, self.keys.app_pem.splitlines()[1])
        self.statuses: list[int] = []
        self.fault: Fault | None = None
        self.origin = ""

    def open(self, origin: str) -> None:
        """It is served at this address."""
        self.origin = self.state.book.origin = origin
        for path in (self.repository, self.other):
            self.state.repository(path, self.clock.now())
        self.state.hook("https://sublet.example/hooks/github", self.clock.now())
        self.deliveries()  # the ping

    def forge(self, *, polled: bool = False) -> Forge:
        return GitHubForge(
            webhook_secret=None if polled else Secret(self.keys.webhook_secret),
            webhook_secret_previous=None if polled else Secret(OLD),
            now=self.clock.now,
            api_url=f"{self.origin}/api/v3",
            app_id=str(self.state.book.app_id),
            private_key=Secret(self.keys.app_pem),
            timeout=timedelta(seconds=2),
        )

    def queue(self, labels: Sequence[str] = (), *, repository: str = "", waiting: bool = False, fork: bool = False) -> str:
        spec = JobSpec("train", "train", list(labels or self.labels), "", waiting)
        return self._start([spec], repository or self.repository, fork)[0]

    def _start(self, specs: list[JobSpec], repository: str, fork: bool) -> list[str]:
        more: dict[str, Any] = {"event": "pull_request", "fork": "mallory/train"} if fork else {}
        run = self.state.start(Order(repository, SHA, specs, **more), self.clock.now())
        return [str(job.id) for job in self.state.book.jobs.values() if job.run_id == run.id]

    def cancel(self, key: str) -> None:
        self.state.cancel(int(key), self.clock.now())

    def rerun(self, key: str) -> str:
        return str(self.state.rerun([int(key)], self.clock.now())[0].id)

    def steal(self, key: str) -> None:
        job, now = self.state.book.jobs[int(key)], self.clock.now()
        theirs = self.state.register(f"repos/{self.repository}", "theirs", job.labels, 1, now)
        taken = self.state.take(self.state.connect(theirs.token, "their session", "2.336.0", now), now)
        assert taken is job

    def conclusion(self, key: str) -> str | None:
        return self.state.book.jobs[int(key)].conclusion

    def crowd(self) -> Sequence[str]:
        return self._start(
            [JobSpec(f"j{place}", f"j{place}", list(self.labels)) for place in range(105)], self.repository, False
        )

    def crowd_of_runners(self, prefix: str) -> Sequence[str]:
        where, now = f"repos/{self.repository}", self.clock.now()
        return [str(self.state.register(where, f"{prefix}{place}", ["gpu"], 1, now).runner.id) for place in range(105)]

    def deliveries(self) -> Sequence[Pair]:
        return self.state.outbox.collect(self.clock.now(), self.keys.webhook_secret)

    def repeated(self, pair: Pair) -> Pair:
        guid = pair[0]["X-GitHub-Delivery"]
        attempt = next(one for one in self.state.outbox.log() if one.guid == guid)
        self.state.outbox.again(attempt.id, self.clock.now())
        return next(found for found in self.deliveries() if found[0]["X-GitHub-Delivery"] == guid)

    def signed(self, pair: Pair, by: Signing) -> Pair:
        secret = {Signing.CURRENT: self.keys.webhook_secret, Signing.PREVIOUS: OLD, Signing.WRONG: WRONG}[by]
        kept = {name: value for name, value in pair[0].items() if name.lower() != "x-hub-signature-256"}
        return kept | {"X-Hub-Signature-256": post.sign(secret, pair[1])}, pair[1]

    def lose(self) -> None:
        for one in self.state.outbox.due(self.clock.now()):
            self.state.outbox.record(one, post.Receipt(502, "failed to connect to host"), self.clock.now())

    def program(self, credential: Credential) -> GitHubProgram:
        return GitHubProgram(self, token_in(credential))

    def token_of(self, minted: Minted) -> str:
        return minted.credential.environment[CONFIG].reveal()

    def labels_of(self, minted: Minted) -> frozenset[str]:
        return frozenset(self.state.book.runners[int(minted.runner_id)].labels)

    def registered(self) -> Sequence[str]:
        return [one.name for one in self.state.book.runners.values()]

    def asked(self) -> int:
        return len(self.statuses)

    def astray(self) -> int:
        return ELSEWHERE.count

    def spent(self) -> int:
        return len([status for status in self.statuses if status != 304])

    def cause(self, fault: Fault) -> None:
        self.fault = fault
        if fault is Fault.QUOTA_LOW:
            self.state.book.faults.quota_taken = 0.93

    def mend(self) -> None:
        self.clock.advance(3700 if self.fault is Fault.QUOTA_LOW else 120)
        self.fault, self.state.book.faults.quota_taken = None, 0.0

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, answered by the demo forge or by the fault."""

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
            await send(message)

        async def unheard(message: Any) -> None:
            """The answer never arrives whole, and the connection ends."""
            if message["type"] == "http.response.start":
                self.statuses.append(0)
                await send(
                    {"type": "http.response.start", "status": message["status"], "headers": [(b"content-length", b"99")]}
                )

        minting = scope["path"].endswith("/generate-jitconfig")
        later = b"page=" in scope["query_string"] and b"page=1" not in scope["query_string"].replace(b"per_page=100", b"")
        if self.fault is Fault.DOWN:
            await unheard({"type": "http.response.start", "status": 502})
        elif self.fault is Fault.LOST_REPLY and minting:
            self.fault = None
            await self.app(scope, receive, unheard)
        elif self.fault in (Fault.HALF_LISTING, Fault.HALF_RUNNERS) and later:
            await give(Reply(502, {"message": "a page of the listing is not to be had"}), noted)
        elif self.fault is Fault.RATE_LIMITED:
            said = {"message": "You have exceeded a secondary rate limit."}
            await give(Reply(403, said, {"Retry-After": "60"}), noted)
        elif self.fault is Fault.TOKEN_EXPIRED:
            await give(Reply(401, {"message": "Bad credentials"}), noted)
        elif self.fault is not None and self.fault in (Fault.SERVER_ERROR, Fault.GARBAGE, Fault.REDIRECT, Fault.RUDE):
            await give(reply_for(self.fault, None), noted)
        else:
            await self.app(scope, receive, noted)


async def give(reply: Reply, send: Any) -> None:
    """A reply of its own."""
    raw = json.dumps(reply.body).encode() if reply.raw is None else reply.raw
    told = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **reply.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


def token_in(credential: Credential) -> str:
    """What the runner signs in with, out of its just-in-time config."""
    files = json.loads(base64.b64decode(credential.environment[CONFIG].reveal()))
    return str(json.loads(base64.b64decode(files[".credentials"]))["data"]["accessToken"])


class GitHubProgram:
    """actions/runner, as far as GitHub can tell."""

    def __init__(self, bench: GitHubBench, token: str) -> None:
        self._bench, self._token, self._session = bench, token, secrets.token_hex(32)
        self._runner: HubRunner | None = None

    def _now(self) -> datetime:
        return self._bench.clock.now()

    def take(self) -> str | None:
        state, now = self._bench.state, self._now()
        try:
            if self._runner is None:
                self._runner = state.connect(self._token, self._session, "2.336.0", now)
            job = state.take(state.session(self._token, self._session, now), now)
        except Refusal:
            return None
        return None if job is None else str(job.id)

    def finish(self, key: str) -> None:
        self._bench.state.finish(self._token, self._session, int(key), "success", self._now())


class Stage:
    """What is served: the bench of the moment. One server does for all of them, and one demo forge, emptied for each: both
    take long to begin."""

    def __init__(self) -> None:
        self._server = contextlib.ExitStack()
        self._bench: GitHubBench | None = None
        self.origin = ""
        self.keys, self.clock, self.state = fresh(), BenchClock(), demo.forge_state()
        self.app = demo.build(self.state, self.keys, clock=self.clock)

    def empty(self) -> None:
        """A new forge, to whoever looks: nothing in its book, nothing spent of anybody's quota."""
        self.clock.begin()
        new = Book(origin=self.origin)
        for field in dataclasses.fields(Book):
            setattr(self.state.book, field.name, getattr(new, field.name))
        office: Office = self.app.state.office
        office.door = Door(self.state.book, self.keys, SystemClock())

    def show(self, bench: GitHubBench) -> None:
        if not self.origin:
            self.origin = self._server.enter_context(served(self))
            atexit.register(self._server.close)
        self._bench = bench
        bench.open(self.origin)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert self._bench is not None
            await self._bench.answer(scope, receive, send)


@functools.cache
def stage() -> Stage:
    return Stage()


@contextlib.contextmanager
def bench() -> Generator[GitHubBench]:
    stood = GitHubBench()
    stage().show(stood)
    yield stood
