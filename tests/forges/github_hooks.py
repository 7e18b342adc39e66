"""Webhooks of repositories and organisations on the small GitHub, with their logs of deliveries."""

from __future__ import annotations

import re
from typing import Any

from tests.fakes.loopback import Reply, Request

_LOG = re.compile(r"/((?:repos/[^/]+|orgs)/[^/]+)/hooks(?:/(\d+)/deliveries(?:/(\d+)/attempts)?)?")


class Hooks:
    """`logs` maps a webhook's id to its attempts, the newest first; `again` holds the ids that were asked for once more."""

    def __init__(self) -> None:
        self.places: dict[str, list[dict[str, Any]]] = {}
        self.logs: dict[int, list[dict[str, Any]]] = {}
        self.again: list[int] = []
        self.hidden: set[str] = set()  # places whose webhooks the token may not see

    def add(self, place: str, url: str) -> int:
        """A webhook of `repos/acme/train` or `orgs/acme`."""
        key = 500 + len(self.logs)
        hook = {"id": key, "type": "Repository", "name": "web", "active": True, "config": {"url": url, "content_type": "json"}}
        self.places.setdefault(place, []).append(hook)
        self.logs[key] = []
        return key

    def attempt(self, hook: int, guid: str, at: str, ok: bool, event: str = "workflow_job") -> None:
        log = self.logs[hook]
        log.insert(
            0,
            {
                "id": 9000 + 100 * hook + len(log),
                "guid": guid,
                "delivered_at": at,
                "redelivery": any(one["guid"] == guid for one in log),
                "duration": 0.2,
                "status": "OK" if ok else "failed to connect to host",
                "status_code": 202 if ok else 502,
                "event": event,
                "action": "queued",
                "installation_id": None,
                "repository_id": 7,
                "throttled_at": None,
            },
        )

    def answer(self, request: Request, path: str) -> Reply | None:
        """The reply to a request for webhooks; None for any other."""
        found = _LOG.fullmatch(path)
        if found is None:
            return None
        hooks = self.places.get(found[1], [])
        if found[1] in self.hidden or (found[1].startswith("orgs/") and not hooks):
            return Reply(404, {"message": "Not Found"})
        if found[2] is None:
            return Reply(200, hooks)
        log = self.logs[int(found[2])]
        if found[3]:
            self.again.append(int(found[3]))
            return Reply(202, {})
        wanted = request.query.get("status")
        return Reply(200, [one for one in log if wanted is None or (one["status"] == "OK") == (wanted == "success")])
