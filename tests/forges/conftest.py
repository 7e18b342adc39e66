"""A GitHub and a GitLab on loopback, and our side of each, on a clock that stands still until moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from app.forges.github import GitHubForge
from app.forges.gitlab import GitLabForge
from providers.contract import Secret
from tests import parts
from tests.fakes.gitlab import TOKEN, FakeGitLab
from tests.forges.github_server import APP_ID, GitHubServer

SHARED = Path(__file__).parents[3] / "shared" / "data" / "forges"
HOOK_SECRET = "It's a Secret to Everybody"


@dataclass
class ManualClock:
    """A clock that tests move."""

    time: datetime = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def forward(self, step: timedelta) -> None:
        self.time += step


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def payloads() -> Path:
    """The recorded payloads and API descriptions of both forges."""
    if not SHARED.is_dir():
        parts.lacks("shared data", "clone the shared folder beside the repository for recorded payloads")
    return SHARED


@pytest.fixture(scope="session")
def key_pair() -> tuple[str, bytes]:
    """An App's private key as PEM, and the public key that GitHub keeps."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public


@dataclass
class GitHubSide:
    """The server, and a maker of forges that speak to it."""

    server: GitHubServer
    clock: ManualClock
    private_key: str
    rates: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def forge(self, **changes: Any) -> GitHubForge:
        values: dict[str, Any] = {
            "webhook_secret": Secret(HOOK_SECRET),
            "now": self.clock.now,
            "api_url": self.server.url,
            "app_id": APP_ID,
            "private_key": Secret(self.private_key),
            "timeout": timedelta(seconds=2),
            "on_rate": self._note,
        }
        return GitHubForge(**{**values, **changes})

    def _note(self, name: str, left: int) -> None:
        self.rates.append((name, left))

    def personal(self, **changes: Any) -> GitHubForge:
        return self.forge(app_id="", private_key=None, token=Secret(self.server.personal), **changes)


@pytest.fixture(params=["", "/api/v3"], ids=["github.com", "enterprise-server"])
def any_github(request: pytest.FixtureRequest, clock: ManualClock, key_pair: tuple[str, bytes]) -> Iterator[GitHubSide]:
    yield from _serve(GitHubServer(clock.now, key_pair[1], request.param), clock, key_pair[0])


@pytest.fixture
def github(clock: ManualClock, key_pair: tuple[str, bytes]) -> Iterator[GitHubSide]:
    yield from _serve(GitHubServer(clock.now, key_pair[1]), clock, key_pair[0])


def _serve(server: GitHubServer, clock: ManualClock, private_key: str) -> Iterator[GitHubSide]:
    server.start()
    try:
        yield GitHubSide(server, clock, private_key)
    finally:
        server.stop()


@dataclass
class GitLabSide:
    """The server, and a maker of forges that speak to it."""

    server: FakeGitLab
    clock: ManualClock
    rates: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def forge(self, **changes: Any) -> GitLabForge:
        values: dict[str, Any] = {
            "url": self.server.url,
            "token": Secret(TOKEN),
            "now": self.clock.now,
            "webhook_token": Secret(HOOK_SECRET),
            "timeout": timedelta(seconds=2),
            "on_rate": self._note,
        }
        return GitLabForge(**{**values, **changes})

    def _note(self, name: str, left: int) -> None:
        self.rates.append((name, left))


@pytest.fixture(params=["", "/gitlab"], ids=["own-host", "under-a-path"])
def any_gitlab(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[GitLabSide]:
    yield from _serve_gitlab(FakeGitLab(clock.now, webhook_token=HOOK_SECRET, prefix=request.param), clock)


@pytest.fixture
def gitlab(clock: ManualClock) -> Iterator[GitLabSide]:
    yield from _serve_gitlab(FakeGitLab(clock.now, webhook_token=HOOK_SECRET), clock)


def _serve_gitlab(server: FakeGitLab, clock: ManualClock) -> Iterator[GitLabSide]:
    server.start()
    try:
        yield GitLabSide(server, clock)
    finally:
        server.stop()


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Everything that any library logged, at its most talkative."""
    caplog.set_level(0)
    return lambda: caplog.text
