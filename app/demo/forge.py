"""The demo forge as a web application: GitHub's paths under /api/v3, its runner's protocol, a control API, plain pages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from app.demo import api_app, api_runners, api_runs, control, front, protocol, registry
from app.demo.access import Door
from app.demo.archive import Archive
from app.demo.deliveries import Postman
from app.demo.joblogs import JobLogs
from app.demo.keys import Keys
from app.demo.nouns import Book
from app.demo.office import Office, refused
from app.demo.state import ForgeState
from app.demo.work import Refusal
from app.kit.clock import Clock, SystemClock

TICK_SECONDS = 1.0


def forge_state(origin: str = "http://127.0.0.1", seed: int = 7) -> ForgeState:
    """A new, empty forge for tests: the same seed makes the same ids and tokens."""
    return ForgeState(Book(origin=origin), random.Random(seed))  # noqa: S311  tests want the same again


def build(
    state: ForgeState,
    keys: Keys,
    *,
    clock: Clock,
    access_clock: Clock | None = None,
    folder: Path | None = None,
    posting: bool = False,
    ticking: bool = False,
    keep: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application; `app.state.office` is what its routes work with.

    `access_clock` is the clock of tokens, the machine's own by default: PyGithub signs by that one, whatever a test does.
    `folder` holds git repositories, job logs and the image that the registry serves; without it there are none. With
    `posting`, deliveries are sent over HTTP; without, a test collects them from `state.outbox`. With `ticking`, time-outs
    come by themselves; without, with the next request. `keep` writes the book down and is called before every answer.
    """
    door = Door(state.book, keys, access_clock or SystemClock())
    archive = Archive(folder / "git") if folder is not None else None
    logs = JobLogs(folder / "logs" if folder is not None else None)
    office = Office(state, keys, door, clock, logs, archive, keep)
    state.changed = office.changed

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[None]] = []
            if posting:
                postman = Postman(state.book, state.outbox, keys.webhook_secret, clock, office.keep_now)
                tasks.append(group.create_task(postman.work(office.bell.wait)))
            if ticking:
                tasks.append(group.create_task(_tick(office)))
            yield
            office.stopping.set()
            office.bell.ring()
            for task in tasks:
                task.cancel()

    app = FastAPI(title="Demo forge", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.state.office = office

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return refused(refusal)

    @app.exception_handler(404)
    async def nowhere(_: Request, __: Exception) -> Response:
        return refused(Refusal(404, "Not Found"))

    @app.exception_handler(405)
    async def otherwise(_: Request, __: Exception) -> Response:
        return refused(Refusal(404, "Not Found"))

    @app.exception_handler(RequestValidationError)  # a word where a number should stand
    async def unreadable(_: Request, __: Exception) -> Response:
        return refused(Refusal(404, "Not Found"))

    parts = [part.routes(office) for part in (api_app, api_runners, api_runs, protocol, control)]
    parts += [] if folder is None else [registry.routes(folder)]
    for part in (*parts, control.pages(office)):
        app.router.routes.extend(part.routes)  # not as routers inside the router: each would be looked through at each request
    app.add_middleware(front.Front, office=office)
    return app


async def _tick(office: Office) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        office.state.tick(office.clock.now())
        office.keep_if_changed()
