"""What every route of the forge is given, and the small things that they share."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from app.demo.access import Caller, Door
from app.demo.archive import Archive
from app.demo.joblogs import JobLogs
from app.demo.keys import Keys
from app.demo.nouns import Account, Book, Repository
from app.demo.state import ForgeState
from app.demo.work import Refusal, not_found
from app.kit.clock import Clock

API = "/api/v3"
BODY_LIMIT = 4 * 1024 * 1024


class Doorbell:
    """Rung at every change; wakes all who wait. May be rung from any thread."""

    def __init__(self) -> None:
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def ring(self) -> None:
        for loop, event in list(self._waiting):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self, seconds: float) -> bool:
        """True if it rang within the time."""
        mine = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.add(mine)
        try:
            async with asyncio.timeout(seconds):
                return await mine[1].wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(mine)


@dataclass
class Office:
    state: ForgeState
    keys: Keys
    door: Door
    clock: Clock
    logs: JobLogs
    archive: Archive | None = None  # the git repositories; None: there are none, as in tests without a folder
    keep: Callable[[], None] = lambda: None  # writes the book down
    bell: Doorbell = field(default_factory=Doorbell)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    fresh: bool = False  # something changed since the book was written down
    stale: dict[str, Any] = field(default_factory=dict[str, Any])  # lists as they were when the fault `stale_lists` began
    called_at: float = field(default_factory=time.monotonic)

    @property
    def book(self) -> Book:
        return self.state.book

    def changed(self) -> None:
        self.fresh = True
        self.bell.ring()

    def keep_if_changed(self) -> None:
        if self.fresh:
            self.keep_now()

    def keep_now(self) -> None:
        self.fresh = False
        self.keep()

    def caller(self, request: Request) -> Caller:
        """The authenticated caller, with one request of its budget spent."""
        caller = self.door.caller(request.headers.get("authorization"))
        rate = self.door.rate(caller, spend=0 if request.url.path.endswith("/rate_limit") else 1)
        request.scope["forge.rate"] = rate
        request.scope["forge.unchanged"] = lambda: self.door.rate(caller, spend=-1)  # a 304 costs nothing
        if rate["over"]:
            raise Refusal(403, f"API rate limit exceeded for installation ID {caller.installation_id}.")
        return caller

    def repository(self, owner: str, name: str) -> Repository:
        wanted = f"{owner}/{name}".lower()
        for full_name, found in self.book.repositories.items():
            if full_name.lower() == wanted:
                return found
        raise not_found()

    def organization(self, login: str) -> Account:
        for found in self.book.accounts.values():
            if found.login.lower() == login.lower() and found.kind == "Organization":
                return found
        raise not_found()


async def body(request: Request) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty object."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_LIMIT:
            raise Refusal(413, "Payload too large")
    if not raw:
        return {}
    try:
        value: Any = json.loads(raw)
    except ValueError:
        raise Refusal(400, "Problems parsing JSON") from None
    if not isinstance(value, dict):
        raise Refusal(400, "Body should be a JSON object")
    return cast(dict[str, Any], value)


def words(value: Any, name: str) -> list[str]:
    """A list of strings out of an untrusted body."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in cast(list[Any], value)):
        raise Refusal(422, "Invalid request.", f"{name} is no array of strings")
    return cast(list[str], value)


def refused(refusal: Refusal) -> JSONResponse:
    """A refusal in GitHub's shape."""
    content: dict[str, Any] = {
        "message": refusal.message,
        "documentation_url": "https://docs.github.com/rest",
        "status": str(refusal.status),
    }
    if refusal.errors:
        content["errors"] = list(refusal.errors)
    return JSONResponse(content, refusal.status)


def number(request: Request, name: str, default: int, top: int) -> int:
    try:
        return max(1, min(top, int(request.query_params.get(name, default))))
    except ValueError:
        return default


def paged(request: Request, key: str | None, items: Sequence[Mapping[str, Any]], address: str) -> Response:
    """One page, with GitHub's Link header and an ETag for whoever asks again. `key` None: a bare array."""
    size, page = number(request, "per_page", 30, 100), number(request, "page", 1, 1_000_000)
    last = max(1, -(-len(items) // size))
    others = {name: value for name, value in request.query_params.items() if name != "page"}

    def link(to: int, relation: str) -> str:
        return f'<{address}?{urlencode(others | {"page": str(to)})}>; rel="{relation}"'

    links = [link(page - 1, "prev"), link(1, "first")] if page > 1 else []
    links = links + ([link(page + 1, "next"), link(last, "last")] if page < last else [])
    chosen = list(items[(page - 1) * size : page * size])
    content: Any = chosen if key is None else {"total_count": len(items), key: chosen}
    office: Office = request.app.state.office
    if office.book.faults.stale_lists:
        content = office.stale.setdefault(str(request.url), content)
    else:
        office.stale.clear()
    return conditional(request, content, {"Link": ", ".join(links)} if links else {})


def conditional(request: Request, content: Any, headers: Mapping[str, str]) -> Response:
    """The content with its ETag, or 304 to a caller who has it already. An ETag is good for one credential only."""
    whose = request.headers.get("authorization", "")
    told = json.dumps([whose, content, sorted(headers.items())], sort_keys=True).encode()
    etag = f'W/"{hashlib.sha256(told).hexdigest()}"'
    if request.headers.get("if-none-match") == etag:
        request.scope["forge.rate"] = request.scope["forge.unchanged"]()
        return Response(status_code=304, headers={"ETag": etag})
    return JSONResponse(content, headers={**headers, "ETag": etag})
