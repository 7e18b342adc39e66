"""A GitLab on loopback: stateful, on a clock of the test's choice, with real webhook deliveries and faults.

    gitlab = FakeGitLab(now=clock.now, webhook_token="...", signing_token="whsec_...")
    gitlab.start()
    project = gitlab.add_project("acme/train")
    job = gitlab.queue_job(project, ["gpu", "rubin"])
    headers, body = gitlab.deliver(job)      # or take_outbox(): every delivery since the last look

Requests and replies are held against GitLab's own API description where it is at hand;
`stop()` raises AssertionError with every complaint.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from tests.fakes import openapi
from tests.fakes.gitlab_api import GitLabApi, stamp
from tests.fakes.gitlab_hooks import Hooks, Pair
from tests.fakes.gitlab_state import HOOKED, FakeJob, GitLabState
from tests.fakes.loopback import Fault, Loopback, Reply, Request

TOKEN = "glpat-fake-of-the-tests-00"


def signing_token(seed: str = "sublet") -> str:
    """A well-formed signing token."""
    return "whsec_" + base64.b64encode(hashlib.sha256(seed.encode()).digest()).decode()


class FakeGitLab(GitLabState):
    """`webhook_token` and `signing_token` are what the hook was set up with; both may be on at once."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        *,
        token: str = TOKEN,
        webhook_token: str = "",
        signing_token: str = "",
        target: str = "",
        prefix: str = "",
    ) -> None:
        super().__init__(now)
        self.webhook_token, self.signing_token, self.target = webhook_token, signing_token, target
        self.outbox: list[Pair] = []
        self.violations: list[str] = []
        self._prefix = prefix  # a GitLab may live under a path
        self._keys: dict[tuple[int, str], str] = {}
        self.loopback = Loopback(self._answer)
        self.hooks = Hooks(now, self.again)
        self.api = GitLabApi(self, token, lambda: self.url, self.hooks)

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
        if job.status in HOOKED:
            self.outbox.append(self.deliver(job))

    def take_outbox(self) -> list[Pair]:
        """Every delivery since the last call, in order: a test may lose, repeat or shuffle them."""
        taken, self.outbox = self.outbox, []
        return taken

    def deliver(self, job: FakeJob) -> Pair:
        """A delivery for the job as it is now. The same status again is the same delivery: same key."""
        body = json.dumps(self.payload(job)).encode()
        key = self._keys.setdefault((job.id, job.status), str(uuid.uuid4()))
        return self._signed(key, body)

    def again(self, pair: Pair) -> int:
        """A resend: the same body under the same key, signed anew. Lands in the outbox, as if it had arrived."""
        self.outbox.append(self._signed(pair[0]["idempotency-key"], pair[1]))
        self.hooks.note(self.outbox[-1], 202)
        return 202

    def _signed(self, key: str, body: bytes) -> Pair:
        headers = {
            "content-type": "application/json",
            "user-agent": "GitLab/19.4.0",
            "x-gitlab-event": "Job Hook",
            "x-gitlab-webhook-uuid": "02affd2d-2cba-4033-917d-ec22d5dc4b38",
            "x-gitlab-instance": "https://gitlab.test",
            "x-gitlab-event-uuid": str(uuid.uuid4()),
            "idempotency-key": key,
        }
        if self.webhook_token:
            headers["x-gitlab-token"] = self.webhook_token
        if self.signing_token:
            headers |= sign(self.signing_token, key, self.now(), body)
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

    def payload(self, job: FakeJob) -> dict[str, Any]:
        """The body of a Job Hook (lib/gitlab/data_builder/build.rb); job tags are not in it."""
        project, runner = self.projects[job.project_id], self.runners.get(job.runner_id or 0)
        web, (group, _, name) = f"{self.url}/{project.path}", project.path.rpartition("/")
        return {
            "object_kind": "build",
            "ref": job.ref,
            "tag": False,
            "before_sha": "0" * 40,
            "sha": job.sha,
            "retries_count": job.retries,
            "build_id": job.id,
            "build_name": job.name,
            "build_stage": job.stage,
            "build_status": job.status,
            "build_created_at": stamp(job.created_at),
            "build_started_at": stamp(job.started_at),
            "build_finished_at": stamp(job.finished_at),
            "build_duration": None,
            "build_queued_duration": 0.5,
            "build_allow_failure": False,
            "build_failure_reason": job.failure_reason,
            "pipeline_id": job.pipeline_id,
            "runner": None
            if runner is None
            else {
                "id": runner.id,
                "description": runner.description,
                "runner_type": runner.runner_type,
                "active": not runner.paused,
                "is_shared": runner.runner_type == "instance_type",
                "tags": list(runner.tags),
            },
            "project_id": project.id,
            "project_name": f"{group.title()} / {name.title()}",
            "user": {"id": 3, "name": job.user.title(), "username": job.user},
            "commit": {"id": job.pipeline_id, "name": None, "sha": job.sha, "message": "A change\n", "status": job.status},
            "repository": {"name": name.title(), "url": f"git@gitlab.test:{project.path}.git", "homepage": web},
            "project": {"id": project.id, "name": name.title(), "web_url": web, "path_with_namespace": project.path},
            "environment": None,
        }

    def _answer(self, request: Request) -> Reply:
        prefix = f"{self._prefix}/api/v4"
        if not request.path.startswith(prefix):
            return Reply(404, {"error": "404 Not Found"})
        inner = Request(request.verb, request.path.removeprefix(self._prefix), request.query, request.headers, request.raw)
        reply = self.api.answer(inner)
        path = request.path.removeprefix(prefix)
        cut = path.startswith(("/groups/", "/users/")) and not path.endswith("/runners")
        cut = cut or "/merge_requests/" in path  # these are not in the file
        if openapi.DATA.is_dir() and not cut:
            judge = openapi.gitlab()
            self.violations += judge.request(request.verb, path, request.query, request.body)
            if reply.status != 304:  # no description tells of it: Rack answers so, whatever the route
                self.violations += judge.response(request.verb, path, reply.status, reply.body)
        return reply


def sign(token: str, key: str, when: datetime, body: bytes, *, late: timedelta = timedelta(0)) -> dict[str, str]:
    """The headers of the signed form (Standard Webhooks), as if sent `late` before `when`."""
    stamp_of = str(int((when - late).timestamp()))
    secret = base64.b64decode(token.removeprefix("whsec_"))
    made = hmac.new(secret, f"{key}.{stamp_of}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(made).decode()
    return {"webhook-id": key, "webhook-timestamp": stamp_of, "webhook-signature": signature}
