"""The node routes on a real store, with the engine's part played by the test."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from app.core.model import Lease, Pool, RepositoryRule
from app.core.pilot import key_of
from app.core.states import State
from app.engine.seal import seal
from app.forges.contract import Credential
from app.kit.bell import Bell
from app.kit.clock import Clock
from app.kit.telemetry import Telemetry
from app.kit.threads import InlineLane, Lane
from app.node.package import agent
from app.store import leases, pilots
from app.store.db import Database
from app.store.pilots import Pilot
from app.store.vault import Vault, credential_context
from app.web.nodes import digest, router
from app.web.parts import WebParts, WebSettings
from providers.contract import Need, Secret
from tests.fake_node import FakeNode, Manner, Told
from tests.node.agents import TOKEN
from tests.store.nouns import HOLD, KEY, NOW, a_lease, again, led_to

END = NOW + timedelta(hours=1)
SECRET = "jit-secret-0123456789abcdef"
RULES = (RepositoryRule("acme/*"), RepositoryRule("open/*", forks=True, events=frozenset({"pull_request_target"})))


class StillClock:
    """A moment that moves when the test says so."""

    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return (self.moment - NOW).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class Site:
    """The node routes, alone, on a database."""

    def __init__(self, db: Database, folder: Path, lane: Lane | None = None, clock: Clock | None = None) -> None:
        self.db, self.still, self.bell, self.vault = db, StillClock(), Bell(), Vault(folder / "keys")
        self.clock: Clock = clock or self.still
        self.telemetry = Telemetry()
        self.parts = WebParts(
            db=db,
            lane=lane or InlineLane(),
            forges={},
            clock=self.clock,
            bell=self.bell,
            vault=self.vault,
            pools={KEY.pool: Pool(KEY.pool, frozenset(KEY.labels), Need(), 3, note="asks for no GPU")},
            repositories=RULES,
            agent=agent(),
            settings=WebSettings("https://ci.acme.example", "0.1.0", heartbeat_seconds=0.2, forge_hosts=("github.com:443",)),
            telemetry=self.telemetry,
            providers={},
            forge_checks={},
        )
        self.app = FastAPI()
        self.app.include_router(router(self.parts))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    def lease(self, state: State = State.BOOTING, number: int = 1, **values: Any) -> Lease:
        now = self.clock.now()
        start = a_lease(number, now=now, join_hash=digest(TOKEN), hard_end=now + (END - NOW), need=Need(gpu="rubin", gpus=2))
        return led_to(self.db, state, now, start, **values)

    def pilot(self, number: int = 1) -> Lease:
        """A booting lease that a person wants measured."""
        now = self.clock.now()
        drawn = a_lease(number, now=now, key=key_of(), provider="cloud", join_hash=digest(TOKEN), hard_end=now + (END - NOW))
        one = Pilot(f"pilot-{number}", "cloud", "sg", drawn.id, "ada", now)
        assert pilots.ask(self.db, one, drawn, "to see", now) == ""
        return self.move(drawn, State.LAUNCHING, State.BOOTING)

    def node(self, lease: Lease, manner: Manner = Manner.HONEST) -> FakeNode:
        return FakeNode(self.client, Told("http://test", lease.id, agent()[1], TOKEN), manner)

    def move(self, lease: Lease, *states: State, **values: Any) -> Lease:
        """What the engine does."""
        now = self.clock.now()
        for state in states:
            held = next(one for one in leases.claim(self.db, "engine", now, 100, HOLD) if one.id == lease.id)
            assert leases.move(self.db, held, state, reason=None, text="", values=values, now=now, deadline=None, due=now)
        return again(self.db, lease)

    def mint(self, lease: Lease, command: tuple[str, ...] = ("./run.sh",), ready: str = "Listening", **more: Any) -> None:
        """What the engine's runner station does once the node is proven; `more` of a Credential."""
        credential = Credential(command, {"JIT": Secret(SECRET)}, ready=ready, **more)
        sealed = seal(self.vault, credential, credential_context(lease.id))
        now = self.clock.now()
        (held,) = leases.claim(self.db, "engine", now, 10, HOLD)
        assert leases.rest(self.db, held, until=now, note="", values={"credential": sealed}, failed=False, now=now)

    def metric(self, line: str) -> bool:
        return line in self.telemetry.exposition()[0].decode()

    async def rang(self) -> bool:
        return await self.bell.wait(0)


@contextmanager
def served(app: FastAPI) -> Generator[str]:
    """The app on a port of the system's choice, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    ready = threading.Event()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for _ in range(500):
            if server.started:
                break
            ready.wait(0.02)
        assert server.started
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


async def joined_node(site: Site, lease: Lease) -> FakeNode:
    """A node of a lease that is further on than joining: its session is written as the join wrote it."""
    node = site.node(lease)
    with site.db.write() as conn:
        conn.exec_driver_sql(
            "INSERT INTO node_session (hash, lease_id, created_at, expires_at) VALUES (?, ?, ?, ?)",
            (digest(node.session), lease.id, NOW.replace(tzinfo=None), END.replace(tzinfo=None)),
        )
        conn.exec_driver_sql("UPDATE lease SET joined_at = ? WHERE id = ?", (NOW.replace(tzinfo=None), lease.id))
    return node
