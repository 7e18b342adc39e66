"""One service on a temporary database, with real forges' parsers; asked in memory, or over real HTTP by a browser."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import json
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.images import ImageVerdict, Mode, TrustRule
from app.core.model import Pool, RepositoryRule
from app.forges.contract import Forge
from app.forges.github import GitHubForge
from app.forges.gitlab import GitLabForge
from app.kit.bell import Bell
from app.kit.telemetry import Telemetry
from app.kit.threads import Lane, ThreadLane
from app.store import people
from app.store.db import Database
from app.store.people import Role
from app.store.vault import Vault
from app.trust.judge import PullAccess
from app.web.app import build
from app.web.auth import hashed, issue_login_link, issue_token
from app.web.parts import WebParts, WebSettings
from providers.contract import Health, Need, Secret
from tests.fakes.served import served
from tests.parts.reopened import reopened
from tests.web.story import IMAGE, NOW, afternoon

URL = "http://127.0.0.1:8080"
GITHUB_SECRET = "a shared secret of GitHub"
GITLAB_TOKEN = "a shared token of GitLab"


class StillClock:
    """Shows the story's time until a test moves it; waits of the pages are real, but short."""

    def __init__(self) -> None:
        self._now = NOW
        self._passed = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._passed += seconds


@dataclass
class Service:
    """The application and everything behind it."""

    parts: WebParts
    app: FastAPI
    clock: StillClock
    db: Database
    tokens: dict[Role, str] = field(default_factory=dict[Role, str])

    @asynccontextmanager
    async def client(self, role: Role | None = None, /, **headers: str) -> AsyncGenerator[httpx.AsyncClient]:
        """A program that speaks with the service; with a role it sends that role's token."""
        given = {**headers, **({"authorization": f"Bearer {self.tokens[role]}"} if role else {})}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=URL, headers=given) as client:
            yield client

    def login_path(self, role: Role = Role.ADMIN) -> str:
        return issue_login_link(self.db, self.clock.now(), role.value)

    def session(self, role: Role = Role.ADMIN) -> tuple[str, str]:
        """A cookie's value and its CSRF token, of somebody who is logged in."""
        once, cookie, csrf = (secrets.token_urlsafe(16) for _ in range(3))
        people.add_link(self.db, hashed(once), role.value, self.clock.now())
        made = people.redeem_link(self.db, hashed(once), hashed(cookie), csrf, self.clock.now())
        assert made is not None
        return cookie, csrf


def pool(**values: Any) -> Pool:
    given: dict[str, Any] = {
        "name": "rubin",
        "labels": frozenset({"gpu", "rubin"}),
        "need": Need(gpu="rubin", gpus=1, max_price_per_hour=Decimal("9.50")),
        "ceiling": 3,
        "image": "registry.acme.example/ci/gpu:v3",
        "mode": Mode.CONTAINED,
        "trust": TrustRule(),
    }
    return Pool(**{**given, **values})


def forges() -> dict[str, Forge]:
    github = GitHubForge(webhook_secret=Secret(GITHUB_SECRET), now=lambda: NOW, token=Secret("t"))
    gitlab = GitLabForge(url="http://127.0.0.1:1", token=Secret("t"), webhook_token=Secret(GITLAB_TOKEN), now=lambda: NOW)
    return {"github": github, "gitlab": gitlab}


async def well() -> Health:
    return Health(True, "The key is good; 41 offers now.")


class Vouching:
    """Says of every image what the story says of its own."""

    async def judge(self, reference: str, rule: TrustRule, *, region: str = "") -> ImageVerdict:
        return replace(IMAGE, asked=reference)

    async def pull_access(self, reference: str) -> PullAccess | None:
        return None


def build_service(db: Database, folder: Path, lane: Lane, **settings: Any) -> Service:
    """A service of the usual parts, with these settings instead of the usual ones."""
    clock = StillClock()
    pools = {"rubin": pool()}
    pools = settings.pop("pools", pools)
    repositories = settings.pop("repositories", (RepositoryRule("acme/*"),))
    given: dict[str, Any] = {"public_url": URL, "version": "0.1.0"}
    parts = WebParts(
        db=db,
        lane=lane,
        forges=forges(),
        clock=clock,
        bell=Bell(),
        vault=Vault(folder / "vault.keys"),
        pools=pools,
        repositories=repositories,
        agent=(b"zip", "0" * 64),
        settings=WebSettings(**{**given, **settings}),
        telemetry=Telemetry(
            version="0.1.0", pools=["rubin"], providers=["cloud-a"], gpus=["rubin"], forges=["github", "gitlab"],
            phases=["planned", "launching", "booting", "proving", "registering", "idle", "busy", "draining", "destroying"],
        ),
        providers={"cloud-a": well},
        forge_checks={"github": well},
        engine_beat=lambda: clock.now() - timedelta(seconds=2),
        trust=Vouching(),
    )  # fmt: skip
    service = Service(parts, build(parts), clock, db)
    for role in Role:
        people.ensure_person(db, role.value, role, clock.now())
        service.tokens[role] = issue_token(db, role.value, "test", clock.now()).reveal()
    return service


@pytest.fixture
def lane() -> Iterator[Lane]:
    threads = ThreadLane("store", 8)
    yield threads
    threads.close()


@pytest.fixture
def db(sqlite_url: str) -> Iterator[Database]:
    with reopened(sqlite_url) as opened:
        yield opened


@pytest.fixture
def service(db: Database, tmp_path: Path, lane: Lane) -> Service:
    """The usual service on SQLite."""
    return build_service(db, tmp_path, lane)


Rebuilt = Callable[..., Service]


@pytest.fixture
def rebuilt(service: Service) -> Rebuilt:
    """The same service with other parts: `rebuilt(lane=...)`."""
    return functools.partial(rebuild, service)


def rebuild(service: Service, **parts: Any) -> Service:
    changed = replace(service.parts, **parts)
    return Service(changed, build(changed), service.clock, service.db, service.tokens)


# --- deliveries


def workflow_job(number: int = 1, action: str = "queued", **values: Any) -> dict[str, Any]:
    """GitHub's `workflow_job` event, as far as we read it."""
    repository = values.pop("repository", "acme/train")
    status = {"waiting": "waiting", "queued": "queued", "in_progress": "in_progress", "completed": "completed"}.get(
        action, action
    )
    job: dict[str, Any] = {
        "id": number,
        "run_id": 9,
        "run_attempt": 1,
        "name": "gpu-eval",
        "workflow_name": "evaluate",
        "head_branch": "main",
        "head_sha": "c0ffee" * 6,
        "labels": ["gpu", "rubin"],
        "status": status,
        "conclusion": None,
        "html_url": f"https://github.example/{repository}/actions/runs/9/job/{number}",
        "created_at": "2026-11-21T12:16:00Z",
        "started_at": "2026-11-21T12:16:00Z",
        "completed_at": None,
        "runner_id": None,
        "runner_name": None,
        "steps": [],
    }
    return {
        "action": action,
        "workflow_job": {**job, **values},
        "repository": {"id": 77, "full_name": repository, "private": True, "owner": {"login": repository.split("/")[0]}},
        "sender": {"login": "ana"},
    }


def github_headers(body: bytes, guid: str, event: str = "workflow_job", secret: str = GITHUB_SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "x-github-event": event,
        "x-github-delivery": guid,
        "x-hub-signature-256": f"sha256={signature}",
        "content-type": "application/json",
    }


async def deliver(client: httpx.AsyncClient, payload: Mapping[str, Any] | bytes, guid: str = "", **how: str) -> httpx.Response:
    """One signed delivery from GitHub."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return await client.post("/hooks/github", content=body, headers=github_headers(body, guid or secrets.token_hex(8), **how))


@dataclass(frozen=True)
class Shown:
    """The service with the story in it, on real HTTP."""

    service: Service
    url: str

    def cookies(self, role: Role = Role.ADMIN, **tastes: str) -> list[dict[str, str]]:
        """A browser that is logged in, with these tastes."""
        values = {"sublet": self.service.session(role)[0], **tastes}
        return [{"name": name, "value": value, "url": self.url} for name, value in values.items()]


def serve(template: Path, folder: Path, story: Callable[[Database], object], **parts: Any) -> Iterator[Shown]:
    """A story, served over real HTTP until whoever asked has seen enough; with these parts instead of the usual ones."""
    shutil.copyfile(template, folder / "sublet.db")
    opened, threads = Database(f"sqlite:///{folder / 'sublet.db'}"), ThreadLane("store", 8)
    service = rebuild(build_service(opened, folder, threads), **parts)
    story(opened)
    with served(service.app) as url:
        yield Shown(service, url)
    threads.close()
    opened.close()


@pytest.fixture(scope="module")
def shown(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """One afternoon, served for all tests of a module; they must not change it."""
    yield from serve(sqlite_template, tmp_path_factory.mktemp("shown"), afternoon)
