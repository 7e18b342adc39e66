"""GitHub's `workflow_job` deliveries by the thousand: whole payloads as the demo forge writes them, each one signed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.demo import forge as demo
from app.demo import shapes
from app.demo.nouns import JobSpec
from app.demo.work import Order

SECRET = "a webhook secret of the bench"
REPOSITORY = "acme/train"
LABELS = ("gpu", "bench")


class Deliveries:
    """Bodies of 7 to 8 KB with everything that GitHub sends; what differs from one to the next is put into a template."""

    def __init__(self) -> None:
        now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
        state = demo.forge_state()
        state.book.origin = "https://github.example"
        run = state.start(Order(REPOSITORY, "c0ffee" + "0" * 34, [JobSpec("eval", "eval", list(LABELS))]), now)
        job = next(job for job in state.book.jobs.values() if job.run_id == run.id)
        self._payload: dict[str, Any] = json.loads(json.dumps(shapes.workflow_job(state.book, job, "queued")))
        self._sent = 0

    def body(self, number: int, action: str = "queued", **job: Any) -> bytes:
        """About the job of this number, of a run of its own unless `run_id` says otherwise."""
        own = {"id": number, "run_id": number, "status": action, "check_run_url": f"https://github.example/check/{number}"}
        told = {**self._payload, "action": action, "workflow_job": {**self._payload["workflow_job"], **own, **job}}
        return json.dumps(told, separators=(",", ":")).encode()

    def headers(self, content: bytes) -> dict[str, str]:
        """What GitHub sends beside the body; the guid is new each time."""
        self._sent += 1
        return {
            "Accept": "*/*",
            "User-Agent": "GitHub-Hookshot/b3nc4",
            "Content-Type": "application/json",
            "X-GitHub-Event": "workflow_job",
            "X-GitHub-Delivery": f"00000000-0000-4000-8000-{self._sent:012d}",
            "X-GitHub-Hook-ID": "4711",
            "X-GitHub-Hook-Installation-Target-Type": "integration",
            "X-GitHub-Hook-Installation-Target-ID": "1204771",
            "X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), content, hashlib.sha256).hexdigest()}",
        }

    def request(self, number: int, action: str = "queued", **job: Any) -> bytes:
        """The whole HTTP request, ready to be sent."""
        content = self.body(number, action, **job)
        return http("POST /hooks/github", self.headers(content), content)


def http(line: str, headers: Mapping[str, str], content: bytes) -> bytes:
    """One HTTP/1.1 request on a connection that is kept."""
    lines = [f"{line} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content
