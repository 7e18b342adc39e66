"""In front of every route: loopback names only, the API's planned faults, rate-limit headers, and keeping before answering."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.demo.nouns import ApiFault
from app.demo.office import Office

STANDING = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"x-github-media-type", b"github.v3; format=json"),
]
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Front:
    """The book is written down before the first byte of an answer leaves."""

    def __init__(self, app: ASGIApp, office: Office) -> None:
        self._app = app
        self._office = office

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        office = self._office
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if host.rpartition(":")[0] not in LOOPBACK and host not in LOOPBACK:  # a web page that renamed itself to loopback
            await _plain(send, 421, {"message": "This forge answers to loopback names only"})
            return
        office.called_at = time.monotonic()
        office.state.tick(office.clock.now())
        fault = self._fault(scope["path"])
        if fault is not None and not fault.after:
            await self._spoil(send, fault)
            return
        lost = False

        async def guarded(message: Message) -> None:
            nonlocal lost
            if message["type"] == "http.response.start":
                office.keep_if_changed()
                if fault is not None:
                    lost = True
                    await self._spoil(send, fault)
                    return
                message = {**message, "headers": [*message["headers"], *STANDING, *_rate_headers(scope)]}
            if not lost:
                await send(message)

        await self._app(scope, receive, guarded)

    def _fault(self, path: str) -> ApiFault | None:
        if not path.startswith("/api/"):
            return None
        for fault in self._office.book.faults.api:
            if fault.times > 0 and fault.match in path:
                fault.times -= 1
                self._office.fresh = True
                return fault
        return None

    async def _spoil(self, send: Send, fault: ApiFault) -> None:
        headers = [(b"retry-after", str(fault.retry_after).encode())] if fault.retry_after is not None else []
        content = {"message": "A fault, as asked for", "documentation_url": "", "status": str(fault.status)}
        await _plain(send, fault.status, content, headers)


def _rate_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    rate: dict[str, int] | None = scope.get("forge.rate")
    if rate is None:
        return []
    told = {**{name: str(rate[name]) for name in ("limit", "remaining", "used", "reset")}, "resource": "core"}
    return [(f"x-ratelimit-{name}".encode(), value.encode()) for name, value in told.items()]


async def _plain(send: Send, status: int, content: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None) -> None:
    raw = json.dumps(content).encode()
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": raw})
