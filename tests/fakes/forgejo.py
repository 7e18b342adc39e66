"""A Forgejo on loopback: stateful, on a clock of the test's choice, with real webhook deliveries and faults.

    forgejo = FakeForgejo(now=clock.now, webhook_secret="...")
    forgejo.start()
    forgejo.add_repository("acme/train")
    job = forgejo.queue_job("acme/train", ["gpu", "rubin"])
    for headers, body in forgejo.take_outbox(): ...      # every delivery since the last look
    program = OneJob(forgejo, minted.credential.command, files)  # what the machine runs
    work = program.take()

`answer` serves a request without any socket. Requests and replies are held against Forgejo's own API description where it is
at hand; `stop()` raises AssertionError with every complaint.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from tests.fakes import openapi
from tests.fakes.forgejo_api import ForgejoApi
from tests.fakes.forgejo_state import FINISHED, FakeJob, ForgejoState, Unauthenticated
from tests.fakes.loopback import Fault, Loopback, Reply, Request

Pair = tuple[dict[str, str], bytes]
TOKEN = "f0" * 20
SILENT, RELEASED, DEVELOPMENT = "silent", "released", "development"
"""What webhooks tell: nothing; as of today that a run has ended; as of the next versions each change of a job."""
UNDESCRIBED = ("/version", "/user", "/repositories/")
"""Left out of the description that we have, as are the lists of an owner's repositories."""


class FakeForgejo(ForgejoState):
    """`webhook_secret` is what the hook was set up with; without one its signatures are sent empty."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        *,
        token: str = TOKEN,
        webhook_secret: str = "",
        webhooks: str = DEVELOPMENT,
        target: str = "",
        prefix: str = "",
    ) -> None:
        super().__init__(now)
        self.webhook_secret, self.webhooks, self.target = webhook_secret, webhooks, target
        self.outbox: list[Pair] = []
        self.violations: list[str] = []
        self._prefix = prefix  # a Forgejo may live under a path
        self.loopback = Loopback(self.answer)
        self.api = ForgejoApi(self, token, lambda: self.url)

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

    def age(self, version: str = "15.0.7+gitea-1.22.0") -> None:
        """Be a Forgejo 15: no job says its run, no run its jobs, and webhooks come at the end of a run."""
        self.api.version, self.api.tells_runs, self.webhooks = version, False, RELEASED

    def answer(self, request: Request) -> Reply:
        """The reply to a request, held against the description."""
        prefix = f"{self._prefix}/api/v1"
        if not request.path.startswith(f"{prefix}/"):
            return Reply(404, {"message": "not found"})
        inner = Request(request.verb, request.path.removeprefix(self._prefix), request.query, request.headers, request.raw)
        reply = self.api.answer(inner)
        path = request.path.removeprefix(prefix)
        described = not path.startswith(UNDESCRIBED) and not path.endswith("/repos") and reply.status != 307
        if openapi.DATA.is_dir() and described:
            judge = openapi.forgejo()
            self.violations += judge.request(request.verb, path, request.query, request.body)
            self.violations += judge.response(request.verb, path, reply.status, reply.body)
        return reply

    def changed(self, job: FakeJob) -> None:
        if self.webhooks == DEVELOPMENT:
            self.outbox.append(self.deliver(job))
        elif self.webhooks == RELEASED:
            ended = self.status_of(job.run)
            if ended in FINISHED and all(one.status in FINISHED for one in self.latest(job.run)):
                self.outbox.append(self._run_ended(job, "success" if ended in ("success", "skipped") else "failure"))

    def take_outbox(self) -> list[Pair]:
        """Every delivery since the last call, in order: a test may lose, repeat or shuffle them."""
        taken, self.outbox = self.outbox, []
        return taken

    def deliver(self, job: FakeJob) -> Pair:
        """A delivery for the job as it is now (structs.WorkflowJobPayload)."""
        page = f"{self.url}/{job.run.repository.path}/actions/runs/{job.run.index}"
        return self.signed(
            f"workflow_job_{job.status}",
            {
                "action": "completed" if job.status in FINISHED else "status_changed",
                "job": {**self.api.job(job), "run_id": job.run.id, "html_url": f"{page}/jobs/0/attempt/{job.attempt}"},
                "run": self.api.run(job.run),
                "repository": self.api.repository(job.run.repository),
            },
        )

    def _run_ended(self, job: FakeJob, what: str) -> Pair:
        """A delivery of a whole run (structs.ActionPayload)."""
        run = self.api.run(job.run)
        return self.signed(f"action_run_{what}", {"action": what, "run": run, "prior_status": "running"})

    def signed(self, event: str, content: Any) -> Pair:
        """Headers and body as Forgejo sends them (services/webhook/shared/payloader.go), each name with its twins."""
        body = json.dumps(content).encode()
        signature = hmac.new(self.webhook_secret.encode(), body, hashlib.sha256).hexdigest() if self.webhook_secret else ""
        told = {"event": event, "event-type": event, "delivery": str(uuid.uuid4()), "signature": signature}
        headers = {f"x-{maker}-{name}": value for maker in ("forgejo", "gitea", "gogs") for name, value in told.items()}
        headers |= {f"x-github-{name}": told[name] for name in ("event", "event-type", "delivery")}
        headers["x-hub-signature-256"] = f"sha256={signature}"
        headers["content-type"] = "application/json"
        return headers, body

    def post(self, pair: Pair) -> int:
        """Send it to `target`; the status of the answer."""
        url = urlsplit(self.target)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
        try:
            connection.request("POST", url.path, pair[1], pair[0])
            return connection.getresponse().status
        finally:
            connection.close()

    def fault(self, path: str, kind: str, *, verb: str = "", times: int = 1, retry_after: int | None = None) -> None:
        """`429`, `500`, `403`, any other status; `hang up` before, or `lose answer` after the effect."""
        if kind in ("hang up", "lose answer"):
            fault = Fault(verb, path, times, effect=kind == "lose answer", hang_up=True)
        else:
            headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
            fault = Fault(verb, path, times, Reply(int(kind), {"message": f"{kind} by order of the test"}, headers))
        self.loopback.faults.append(fault)


class OneJob:
    """`forgejo-runner one-job`, as far as Forgejo can tell: reads its own command line, declares, asks for its one job."""

    def __init__(self, server: ForgejoState, command: Sequence[str], files: Mapping[str, str]) -> None:
        """Raises ValueError for a command line that the real program refuses (internal/app/cmd: args.go, job.go)."""
        if tuple(command[1:2]) != ("one-job",):
            raise ValueError(f"not the command for one job: {command}")
        flags: dict[str, list[str]] = {}
        words = iter(command[2:])
        for word in words:
            if word not in ("--url", "--uuid", "--token-url", "--label", "--handle", "--wait"):
                raise ValueError(f"unknown flag: {word}")
            flags.setdefault(word, []).append("" if word == "--wait" else next(words))
        name = flags["--token-url"][0].removeprefix("file:///proc/self/cwd/")
        labels = [label.split(":") for label in flags["--label"]]
        if name not in files or any(len(label) != 2 or label[1] != "host" for label in labels):
            raise ValueError(f"no token, or a label with an unknown schema: {command}")
        uuid.UUID(flags["--uuid"][0])
        self.server, self.uuid, self.token = server, flags["--uuid"][0], files[name]
        self.handle, self.waits = flags.get("--handle", [""])[0], "--wait" in flags
        self.ended: int | None = None
        self.output = ["Starting job"]
        server.declare(self.uuid, self.token, [label[0] for label in labels])
        self.output.append("single task poller launched")

    def take(self) -> FakeJob | None:
        """Ask once more. A runner that Forgejo no longer knows asks in vain, for ever."""
        try:
            if self.handle:
                job = self.server.fetch_single(self.uuid, self.token, self.handle)
            else:
                job = self.server.fetch_any(self.uuid, self.token)
        except Unauthenticated:
            return None
        if job is None:
            self.ended = None if self.waits else 2
            return None
        where = job.run.repository.path
        self.output += ["single task poller successfully fetched one task from", f"task {job.task_id} repo is {where}"]
        return job

    def finish(self, job: FakeJob, conclusion: str = "success") -> None:
        """Report the end of the job, and end."""
        self.server.finish(job, conclusion)
        self.output.append("single task poller is shutting down")
        self.ended = 0
