"""HEAD for every page: what GET would answer, without its body."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENDLESS = "/live/"
"""Streams have no end at which a HEAD could be answered; there it stays a method that the address does not take."""


def only_looks(request: Request) -> bool:
    """Whether whoever asks wants to know of a page and not to act by it: HEAD, or a browser that looks ahead."""
    ahead = "prefetch" in request.headers.get("sec-purpose", request.headers.get("purpose", ""))
    return ahead or bool(getattr(request.state, "head", False))


class Heads:
    """Pure ASGI, so that streams pass through as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].startswith(ENDLESS):
            await self._app(scope, receive, send)
            return

        async def bare(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        state = {**scope.get("state", {}), "head": True}
        await self._app({**scope, "method": "GET", "state": state}, receive, bare)
