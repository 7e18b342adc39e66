"""Webhooks of projects and groups on the fake GitLab: their log of deliveries, and sending one of them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.fakes.loopback import Reply, Request

Pair = tuple[dict[str, str], bytes]
PAGE = 20  # GitLab shows no more of a log at once
RESENDS = 5  # a minute, for each project or group


@dataclass(slots=True)
class FakeHook:
    id: int
    place: tuple[str, int]  # ("projects", 401), ("groups", 402)
    url: str
    log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # newest first
    resent: list[datetime] = field(default_factory=list[datetime])


class Hooks:
    """`post` sends a delivery at once and tells the status of its answer, 0 for none; so a resend works as on GitLab."""

    def __init__(self, now: Callable[[], datetime], post: Callable[[Pair], int]) -> None:
        self.all: dict[int, FakeHook] = {}
        self.visible = True  # else the token's user is no maintainer
        self._now, self._post, self._next = now, post, 70_000

    def add(self, key: int, url: str, kind: str = "projects") -> FakeHook:
        """A webhook of the project of this id, or of a group."""
        self._next += 1
        hook = self.all[self._next] = FakeHook(self._next, (kind, key), url)
        return hook

    def note(self, pair: Pair, status: int, group: int | None = None) -> None:
        """An attempt in the log of every webhook of the project, or of this group; status 0: there was no answer."""
        headers, body = pair
        told = json.loads(body)
        place = ("projects", told["project_id"]) if group is None else ("groups", group)
        for hook in [one for one in self.all.values() if one.place == place]:
            self._next += 1
            kept = {"Idempotency-Key": headers["idempotency-key"], "X-Gitlab-Event": "Job Hook", "X-Gitlab-Token": "[REDACTED]"}
            event = {
                "id": self._next,
                "url": hook.url,
                "trigger": "job_hooks",
                "request_headers": kept,
                "request_data": told,
                "response_headers": {},
                "response_body": "",
                "execution_duration": 0.1,
                "response_status": str(status) if status else "internal error",
            }
            hook.log.insert(0, event)

    def answer(self, request: Request, place: tuple[str, int], rest: list[str]) -> Reply:
        """`rest` is what follows /projects/:id/hooks or /groups/:id/hooks."""
        if not self.visible:
            return Reply(403, {"message": "403 Forbidden"})
        own = [one for one in self.all.values() if one.place == place]
        if not rest:
            kind = {"projects": "project_id", "groups": "group_id"}[place[0]]
            return Reply(200, [{"id": one.id, "url": one.url, kind: place[1], "job_events": True} for one in own])
        hook = next((one for one in own if str(one.id) == rest[0]), None)
        if hook is None:
            return Reply(404, {"message": "404 Not found"})
        if rest[1:] == ["events"]:
            size = int(request.query.get("per_page", "20"))
            if not 1 <= size <= PAGE:
                return Reply(400, {"error": "per_page does not have a valid value"})
            start = (int(request.query.get("page", "1")) - 1) * size
            return Reply(200, hook.log[start : start + size])
        if len(rest) == 4 and rest[1] == "events" and rest[3] == "resend":
            return self._resend(hook, rest[2])
        return Reply(404, {"message": "404 Not found"})

    def _resend(self, hook: FakeHook, key: str) -> Reply:
        event = next((one for one in hook.log if str(one["id"]) == key), None)
        if event is None:
            return Reply(404, {"message": "404 Not found"})
        hook.resent = [when for when in hook.resent if self._now() - when < timedelta(minutes=1)]
        if len(hook.resent) >= RESENDS:
            message = {"message": {"error": "This endpoint has been requested too many times. Try again later."}}
            return Reply(429, message, {"Retry-After": "60"})
        hook.resent.append(self._now())
        pair = ({"idempotency-key": event["request_headers"]["Idempotency-Key"]}, json.dumps(event["request_data"]).encode())
        status = self._post(pair)
        if not 200 <= status < 300:
            return Reply(422, {"message": "Error response"})
        return Reply(201, {"response_status": status})
