"""What the web is given by app.main: nothing here is global, so that tests build as many services as they like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from app.core.gpus import GpuNames
from app.core.images import ImageVerdict, TrustRule
from app.core.listening import Listening
from app.core.model import Pool, RepositoryRule
from app.forges.contract import Forge
from app.kit.bell import Ringing
from app.kit.clock import Clock
from app.kit.telemetry import Telemetry
from app.kit.threads import Lane
from app.store.db import Database
from app.store.vault import Vault
from app.trust.judge import PullAccess
from providers.contract import Health, Traits

HealthCheck = Callable[[], Awaitable[Health]]
"""A look at one provider or one forge that costs nothing."""


class Judge(Protocol):
    """Says whether an image may run, and lends what it is pulled with: app.trust.judge.ImageTrust."""

    async def judge(self, reference: str, rule: TrustRule, *, region: str = "") -> ImageVerdict:
        """Raises RegistryAway where nobody can say: that means wait, never yes."""
        ...

    async def pull_access(self, reference: str) -> PullAccess | None:
        """None where everybody may pull. Raises RegistryAway, and ValueError for what `judge` refuses."""
        ...


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The few settings that pages and nodes need to know."""

    public_url: str  # "https://ci.acme.example", no slash at the end
    version: str
    demo: bool = False
    heartbeat_seconds: float = 5.0  # how often a node reports
    silent_seconds: float = 120.0  # after which a node powers itself off, and a lease counts as silent
    beat_seconds: float = 30.0  # the engine's longest pause between two looks
    forge_hosts: tuple[str, ...] = ()  # "github.com:443": what a pilot's node measures its way to
    metrics_open: bool = True  # False: /metrics asks for an API token
    secure_hooks: Mapping[str, bool] | None = None  # per forge: is a webhook secret set? None: settings without are refused

    @property
    def https(self) -> bool:
        """Whether cookies are marked Secure and browsers are told to stay on https."""
        return urlsplit(self.public_url).scheme == "https"


@dataclass(frozen=True, slots=True)
class Make:
    """What a provider is made by."""

    kind: str = ""  # as the settings name it; empty: nobody said
    package: str = ""  # the distribution that its wrapper came with, and its version


@dataclass(frozen=True, slots=True)
class WebParts:
    """Everything the web needs; built once by app.main."""

    db: Database
    lane: Lane  # the store's lane: every blocking call of the web goes through it
    forges: Mapping[str, Forge]  # by name, as in /hooks/{name}
    clock: Clock
    bell: Ringing  # rung after a fact was committed: the engine's, wherever it runs
    vault: Vault
    pools: Mapping[str, Pool]  # by name
    repositories: Sequence[RepositoryRule]
    agent: tuple[bytes, str]  # the zipapp, and its SHA-256 in hex
    settings: WebSettings
    telemetry: Telemetry
    providers: Mapping[str, HealthCheck]  # by name
    forge_checks: Mapping[str, HealthCheck]  # by name
    forge_lanes: Mapping[str, Lane] = field(default_factory=dict[str, Lane])  # by name: where each forge is asked
    engine_beat: Callable[[], datetime | None] | None = None  # when the engine last looked; None: no engine in this process
    trust: Judge | None = None  # None: no pool has an image
    registry_checks: Mapping[str, HealthCheck] = field(default_factory=dict[str, HealthCheck])  # by host
    traits: Mapping[str, Traits] = field(default_factory=dict[str, Traits])  # of each provider, by name
    makes: Mapping[str, Make] = field(default_factory=dict[str, Make])  # the same
    gpu_names: GpuNames = field(default_factory=GpuNames)
    listening: Mapping[str, Listening] = field(default_factory=dict[str, Listening])  # by forge: how its news come
    replica: str = ""  # this process's name among all that serve the database
