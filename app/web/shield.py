"""Around every request: an id, a size limit, security headers, one log line, and an answer even when the code fails."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.kit.clock import Clock
from app.kit.telemetry import logger
from app.web.errors import Problem, TooLarge, TooSlow, explain

log = logger(__name__)
BODY_PATIENCE = 20.0
"""Seconds that a whole body may take: twice what a forge waits for our answer. A place that is held longer is an attack."""
Respond = Callable[[Request, Problem], Response]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: with that, browsers send `Origin: null` with our own forms (fetch.spec.whatwg.org, "append a request
    # `Origin` header"), and the check that a form is ours could not tell them from a stranger's.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
HSTS = "max-age=31536000"

HOOK_LIMIT = 25 * 1024 * 1024
"""GitHub and GitLab do not deliver more (facts of both: payload cap 25 MB)."""
LOG_LIMIT = 256 * 1024
USUAL_LIMIT = 64 * 1024
QUIET = ("/healthz", "/readyz", "/metrics", "/static/", "/live/", "/node/heartbeat", "/node/log", "/hooks/")
"""What needs no line when it went well: it comes all the time, or, as a delivery, has a line of its own."""


def limit_for(path: str) -> int:
    """Bytes that a body sent to this path may have."""
    if path.startswith("/hooks/"):
        return HOOK_LIMIT
    return LOG_LIMIT if path == "/node/log" else USUAL_LIMIT


class Shield:
    """Pure ASGI, so that streams pass through as they are."""

    def __init__(self, app: ASGIApp, clock: Clock, respond: Respond, *, https: bool) -> None:
        self._app, self._clock, self._respond = app, clock, respond
        headers = {**HEADERS, "strict-transport-security": HSTS} if https else HEADERS
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = self._clock.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [(name, value) for name, value in message.get("headers", ()) if name != b"x-request-id"]
                names = {name for name, _ in given}
                missing = [header for header in self._headers if header[0] not in names]
                message = {**message, "headers": [*given, *missing, (b"x-request-id", request_id.encode())]}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, self._counted(scope, receive), answer)
            except ClientDisconnect:
                return  # a machine that is destroyed in the middle of its last words: nobody is there for an answer
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the last net: whatever it was, the caller gets an answer and the log the cause
                problem = explain(error)
                if problem.status_code >= 500:
                    log.exception("request failed", path=str(scope["path"])[:200])
                if status:
                    raise
                response = self._respond(Request(scope), problem)
                await response(scope, receive, answer)
            finally:
                self._note(scope, status, self._clock.monotonic() - began)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that stops a body at its limit, whatever its Content-Length says, and one that does not come to its end."""
        limit, seen, whole, end = limit_for(scope["path"]), 0, False, asyncio.get_running_loop().time() + BODY_PATIENCE
        declared = [value for name, value in scope["headers"] if name == b"content-length"]
        refused = any(not value.isdigit() or int(value) > limit for value in declared)

        async def counted() -> Message:
            nonlocal seen, refused, whole
            if refused:  # before the first byte is read, where the length was told
                raise TooLarge(limit)
            try:
                async with asyncio.timeout_at(None if whole else end):
                    message = await receive()
            except TimeoutError:
                raise TooSlow from None
            if message["type"] == "http.request":
                whole = not message.get("more_body", False)
                seen += len(message.get("body", b""))
                refused = seen > limit
                if refused:
                    raise TooLarge(limit)
            return message

        return counted

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path = str(scope["path"])
        quiet = status < 400 and (scope["method"] in ("GET", "HEAD") or path.startswith(QUIET))
        say = log.debug if quiet else log.info
        say("request", method=scope["method"], path=path[:200], status=status, milliseconds=round(seconds * 1000, 1))
