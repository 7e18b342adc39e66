"""A Gitea on loopback: stateful, on a clock of the test's choice, with real webhook deliveries and faults.

    gitea = FakeGitea(now=clock.now, webhook_secret="...")
    gitea.start()
    gitea.add_repository("acme/train")
    job = gitea.queue_job("acme/train", ["gpu", "rubin"])
    headers, body = gitea.deliver(job)      # or take_outbox(): every delivery since the last look

Requests and replies are held against Gitea's own API description where it is at hand;
`stop()` raises AssertionError with every complaint.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.fakes import openapi
from tests.fakes.gitea_api import GiteaApi
from tests.fakes.gitea_state import FakeJob, GiteaState
from tests.fakes.loopback import Fault, Loopback, Reply, Request

TOKEN = "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3"
Pair = tuple[dict[str, str], bytes]

CUT = (
    re.compile(r"/version|/user"),
    re.compile(r"/(?:orgs|users)/[^/]+/repos"),
    re.compile(r"/repos/[^/]+/[^/]+"),
    re.compile(r"/repos/[^/]+/[^/]+/pulls/[0-9]+"),
)
"""What the stored part of Gitea's description leaves out."""


class FakeGitea(GiteaState):
    """`webhook_secret` is what the webhook was set up with; empty: its deliveries carry empty signatures."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        *,
        token: str = TOKEN,
        webhook_secret: str = "",
        version: str = "1.26.1",
        prefix: str = "",
    ) -> None:
        super().__init__(now, version)
        self.webhook_secret = webhook_secret
        self.outbox: list[Pair] = []
        self.violations: list[str] = []
        self.proxy: dict[str, str] = {}  # headers that a proxy in front adds to every reply
        self._prefix = prefix  # a Gitea may live under a path
        self.loopback = Loopback(self._answer)
        self.api = GiteaApi(self, token, lambda: self.url)

    @property
    def url(self) -> str:
        return self.loopback.url + self._prefix

    @property
    def requests(self) -> list[Request]:
        return self.loopback.requests

    def start(self) -> None:
        self.loopback.start()

    def stop(self) -> None:
        self.loopback.stop()
        assert not self.violations, "\n".join(self.violations)

    def changed(self, job: FakeJob) -> None:
        self.outbox.append(self.deliver(job))

    def take_outbox(self) -> list[Pair]:
        """Every delivery since the last call, in order: a test may lose, repeat or shuffle them."""
        taken, self.outbox = self.outbox, []
        return taken

    def deliver(self, job: FakeJob) -> Pair:
        """A delivery for the job as it is now."""
        return self.send("workflow_job", self.payload(job))

    def again(self, pair: Pair) -> Pair:
        """What Gitea sends after a restart, because it had not noted that it was sent: the same under the same id."""
        return dict(pair[0]), pair[1]

    def redeliver(self, pair: Pair) -> Pair:
        """What a person sends again from the webhook's page: the same body under a new id (models/webhook/hooktask.go)."""
        return self._signed(pair[0]["x-gitea-event-type"], pair[1])

    def send(self, event: str, content: dict[str, Any]) -> Pair:
        """A delivery of any event, as services/webhook/deliver.go sends it."""
        return self._signed(event, json.dumps(content).encode())

    def _signed(self, event: str, body: bytes) -> Pair:
        made = hmac.new(self.webhook_secret.encode(), body, hashlib.sha256).hexdigest() if self.webhook_secret else ""
        headers = {"content-type": "application/json", "x-hub-signature": "sha1=", "x-hub-signature-256": f"sha256={made}"}
        delivery = str(uuid.uuid4())
        for family in ("gitea", "gogs", "github"):
            headers |= {f"x-{family}-delivery": delivery, f"x-{family}-event": event, f"x-{family}-event-type": event}
        return headers | {"x-gitea-signature": made, "x-gogs-signature": made}, body

    def payload(self, job: FakeJob) -> dict[str, Any]:
        """The body of a `workflow_job` delivery (modules/structs/hook.go: WorkflowJobPayload)."""
        home, run = self.repositories[job.repository_id], self.runs[job.run_id]
        body: dict[str, Any] = {
            "action": self.api.status(job)[0],
            "workflow_job": self.api.job(job),
            "repository": self.api.repository(home),
            "sender": {"id": 3, "login": run.again_by or run.actor, "username": run.again_by or run.actor},
        }
        if home.owner in self.organizations:
            body["organization"] = {"id": 2, "name": home.owner, "username": home.owner}
        return body

    def fault(self, path: str, kind: str, *, verb: str = "", times: int = 1, retry_after: int | None = None) -> None:
        """`429`, `500`, `403`, any other status; `hang up` before, or `lose answer` after the effect."""
        if kind in ("hang up", "lose answer"):
            fault = Fault(verb, path, times, effect=kind == "lose answer", hang_up=True)
        else:
            headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
            fault = Fault(verb, path, times, Reply(int(kind), {"message": f"{kind} by order of the test"}, headers))
        self.loopback.faults.append(fault)

    def _answer(self, request: Request) -> Reply:
        if not request.path.startswith(f"{self._prefix}/api/"):
            return Reply(404, {"message": "Not Found"})
        plain = request.path.removeprefix(self._prefix)
        reply = self.api.answer(Request(request.verb, plain, request.query, request.headers, request.raw))
        path = plain.removeprefix("/api/v1")
        cut = path == plain or any(pattern.fullmatch(path) for pattern in CUT)  # the runners' service has no description
        if openapi.DATA.is_dir() and not cut:
            judge = openapi.gitea()
            self.violations += judge.request(request.verb, path, request.query, request.body)
            self.violations += judge.response(request.verb, path, reply.status, reply.body)
        return Reply(reply.status, reply.body, {**reply.headers, **self.proxy}, reply.raw)
