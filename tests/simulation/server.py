"""One running service of a world: the real engine and web, whose every step may be the last, or take long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

import httpx
import sqlalchemy as sa
from fastapi import FastAPI, Request
from sqlalchemy import event
from sqlalchemy.dialects import sqlite
from starlette.responses import Response

from app.core.listening import Listening
from app.engine import enlist
from app.kit.bell import Bell
from app.kit.clock import SteadyClock
from app.store import leases
from app.web import intake, nodes
from app.web.errors import Problem, explain, reply
from app.web.parts import WebParts, WebSettings
from app.web.shield import Shield
from app.wiring import Outfit, Service, assemble
from tests.parts.reopened import Reopened
from tests.simulation.conditions import Intake
from tests.simulation.loop import Process
from tests.simulation.wire import Asked, scope_of

if TYPE_CHECKING:
    from tests.simulation.world import World

P = ParamSpec("P")
R = TypeVar("R")

URL = "https://sublet.sim"
HOT = 10.0
"""How many times likelier a crash is while an effect is in flight."""
IN_FLIGHT = frozenset({"claim", "keep", "mint_runner", "remove_runner", "create", "destroy", "record", "move"})


class Dead(BaseException):
    """The process is no more: nothing of it goes on."""


def lean(parts: WebParts) -> FastAPI:
    """The web without pages: deliveries and nodes, with the shield and the errors that the whole one has."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    def respond(request: Request, problem: Problem) -> Response:
        return reply(problem, str(getattr(request.state, "request_id", "")))

    async def failed(request: Request, error: Exception) -> Response:
        return respond(request, explain(error))

    app.add_exception_handler(Problem, failed)
    app.add_middleware(intake.Door, intake=intake.Intake(parts))
    app.add_middleware(Shield, clock=parts.clock, respond=respond, https=False)
    app.router.routes.extend(nodes.router(parts).routes)
    return app


class Inline:
    """A lane without threads: a call is one moment, and before and after it the process may stop."""

    def __init__(self, server: Server, *, slow: bool = False) -> None:
        self._server, self._slow = server, slow

    async def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        server = self._server
        name = getattr(function, "__name__", "")
        await server.point(hot=self._slow and name in IN_FLIGHT, slow=self._slow)
        server.check_alive()
        try:
            result = function(*args, **kwargs)
        except Dead:
            await server.stop_here()
        server.after(name, args, result)
        await server.point(hot=name in IN_FLIGHT, slow=self._slow)
        return result

    def close(self) -> None:
        return None


class Unhurried(SteadyClock):
    """Naps of a second last longer here: hours must pass in a blink, and a slow host may do this too."""

    nap = 0.0

    async def sleep(self, seconds: float) -> None:
        await super().sleep(max(seconds, self.nap))


class Patient(Bell):
    """As patient as that clock, where it waits for a hint that somebody may have lost."""

    nap = 0.0

    async def wait(self, seconds: float) -> bool:
        return await super().wait(max(seconds, self.nap))


def _listening(intake: Intake) -> Listening:
    poll = None if intake.mode == "webhook" else timedelta(seconds=intake.poll)
    return Listening(webhooks=intake.webhooks, poll=poll)


def _no_lock(_: int) -> None:
    """What PostgreSQL locks for a transaction, nobody else can want here meanwhile."""


class Several(Reopened):
    """An SQLite file that several services share as they may share a PostgreSQL; here no statement ever runs beside another."""

    def __init__(self, url: str) -> None:
        super().__init__(url)

        def connected(connection: Any, _record: object) -> None:
            connection.create_function("pg_advisory_xact_lock", 1, _no_lock)

        event.listen(self._engine, "connect", connected)

    @property
    def postgresql(self) -> bool:
        return True

    def insert(self, table: sa.Table) -> sqlite.Insert:
        return sqlite.insert(table)


class Server:
    """A process with the service in it. It is dropped at a crash; the next one is a new object."""

    def __init__(self, world: World, name: str, clocked: Callable[[], datetime]) -> None:
        self.world, self.name, self.process = world, name, Process(name)
        self.dice: random.Random = world.dice
        conditions = world.conditions
        self.clock = Unhurried(clocked, world.loop.time, steps=conditions.servers > 1)
        self.clock.nap = conditions.nap
        self.crash_rate = conditions.rate("crash") if world.troubled else 0.0
        self.pause_rate = conditions.rate("engine_paused") if world.troubled else 0.0
        self.yield_rate = conditions.rate("yield")
        self._forever: list[asyncio.Future[Any]] = []
        outfit = Outfit(
            self.clock,
            Inline(self),
            lambda _: Inline(self, slow=True),
            token=lambda size: f"{self.dice.getrandbits(size * 8):0{size * 2}x}",
            below=self.dice.randrange,
        )
        if conditions.servers == 1:
            leases.free_claims(world.database)  # as app.wiring does at the start of the one process of an SQLite file
        self.service: Service = assemble(
            db=world.database,
            vault=world.vault,
            forges={name: side.adapter(conditions) for name, side in world.sides.items()},
            providers={name: world.wrapped(name, self) for name in world.clouds},
            pools=world.pools,
            repositories=world.repositories,
            outfit=outfit,
            web=WebSettings(URL, "sim", heartbeat_seconds=conditions.heartbeat, silent_seconds=conditions.silent),
            timing=world.timing,
            telemetry=world.telemetry,
            listening={name: _listening(one) for name, one in conditions.forges.items()},
        )
        bells = cast("dict[str, Bell]", self.service.deps.asking)
        for name in list(bells):
            bells[name] = bell = Patient()
            bell.nap = conditions.nap
        enlist.reconsider(self.service.deps)
        self.task = world.loop.spawn(self.process, self.service.engine.run())
        self.sync = world.loop.spawn(self.process, self._keep_time())

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(60)
            self.clock.sync()

    # --- where it may stop

    async def point(self, *, hot: bool = False, slow: bool = False) -> None:
        """Between two steps: usually nothing; sometimes others come first; sometimes the process stands still, or dies."""
        dice = self.dice
        chance = dice.random()
        heat = HOT if hot else 1.0
        if chance < self.crash_rate * heat:
            self.world.crash(self)
            await self.stop_here()
        if chance < (self.crash_rate + self.pause_rate) * heat:
            self.world.pause(self)
            await asyncio.sleep(0)
        elif slow:
            await asyncio.sleep(0.05 + 0.5 * dice.random() if dice.random() > 0.03 else 12.0 * dice.random())
        elif self.yield_rate and dice.random() < self.yield_rate:
            await asyncio.sleep(0.02 * dice.random())
        if not self.process.alive:
            await self.stop_here()

    def check_alive(self) -> None:
        if not self.process.alive:
            raise Dead

    async def stop_here(self) -> NoReturn:
        """Nothing after this line is ever reached."""
        future = self.world.loop.create_future()
        self._forever.append(future)
        await future
        raise AssertionError("the dead do not rise")

    def after(self, name: str, args: tuple[Any, ...], result: object) -> None:
        """What the watch wants to know of a call that has just been made."""
        self.world.watch.after(self, name, args, result)

    # --- from outside

    async def serve(self, asked: Asked, answer: asyncio.Future[httpx.Response]) -> None:
        """One request through the real web."""
        sent = False
        status, headers, pieces = 500, dict[str, str](), list[bytes]()

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                await self.stop_here()
            sent = True
            return {"type": "http.request", "body": asked.body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            else:
                pieces.append(message.get("body", b""))

        await self.service.web(scope_of(asked), receive, send)
        if not answer.done():
            request = httpx.Request(asked.verb, URL + asked.path)
            answer.set_result(httpx.Response(status, headers=headers, content=b"".join(pieces), request=request))


class Door:
    """What nodes and forges reach the service by: any of its processes, or nobody. Stands in for an HTTP client."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def post(self, path: str, *, content: str | bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Raises httpx.ConnectError where nobody answers, and httpx.ReadTimeout where nobody answers in time."""
        world = self._world
        server = world.choose_server()
        await asyncio.sleep(0.002 + 0.03 * world.dice.random())
        if server is None or not server.process.alive:
            raise httpx.ConnectError("refused")
        raw = content.encode() if isinstance(content, str) else content
        told = {
            "host": "sublet.sim",
            "content-length": str(len(raw)),
            **{name.lower(): value for name, value in headers.items()},
        }
        answer: asyncio.Future[httpx.Response] = world.loop.create_future()
        server.process.waiters[answer] = None
        world.loop.spawn(server.process, server.serve(Asked("sublet.sim", "POST", path, "", told, raw), answer))
        try:
            async with asyncio.timeout(10):
                return await answer
        except TimeoutError:
            raise httpx.ReadTimeout("no answer") from None
        finally:
            server.process.waiters.pop(answer, None)
