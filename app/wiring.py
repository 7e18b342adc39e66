"""Puts the parts together: settings -> providers, forges, store -> web and engine. Tests hand in their own parts."""

from __future__ import annotations

import functools
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fastapi import FastAPI

from app import __version__, image_rules
from app.core.gpus import ARCHITECTURES, GpuNames
from app.core.images import Mode
from app.core.listening import Listening
from app.core.model import Pool, RepositoryRule, ScopeKind
from app.core.states import State
from app.engine import enlist
from app.engine.catalogue import Catalogue
from app.engine.inventory import Inventory
from app.engine.loop import Engine
from app.engine.step import Deps, Timing
from app.forge_wiring import forges_of, hosts_of, listening_of, scopes_of
from app.forges.contract import Forge, ForgeError
from app.kit.bell import Bell, Chime
from app.kit.clock import Clock, SteadyClock, SystemClock
from app.kit.telemetry import Telemetry
from app.kit.threads import Lane, ThreadLane
from app.metered import MeteredForge, MeteredProvider, MeteredTrust
from app.node import package
from app.presence import Presence
from app.settings import PoolSettings, RepositorySettings, Settings
from app.store import images, leases, sweep
from app.store.db import Database, upgrade
from app.store.vault import Vault, VaultError, check_keys
from app.trust.judge import ImageTrust
from app.web.app import build as build_web
from app.web.app import build_probe
from app.web.parts import HealthCheck, Make, WebParts, WebSettings
from providers import registry
from providers.contract import Health, Need, Provider


@dataclass(frozen=True, slots=True)
class Service:
    """A whole service, not started: the engine to run, the web application to serve, and its presence among others."""

    db: Database
    engine: Engine
    web: FastAPI
    deps: Deps
    parts: WebParts
    telemetry: Telemetry
    presence: Presence
    trust: ImageTrust | None = None

    async def aclose(self) -> None:
        """Let go of everything. Call it when neither engine nor web runs any more."""
        for provider in self.deps.providers.values():
            await provider.aclose()
        if self.trust is not None:
            await self.trust.aclose()
        self.deps.store.close()
        for lane in self.deps.lanes.values():
            lane.close()
        self.db.close()


@dataclass(frozen=True, slots=True)
class Outfit:
    """What differs between a service for people and one for a test."""

    clock: Clock
    store: Lane
    forge_lane: Callable[[str], Lane]  # a lane for the forge of this name
    token: Callable[[int], str] = secrets.token_hex
    below: Callable[[int], int] = secrets.randbelow
    role: str = "all"  # what this process runs: "all", "web" or "engine"
    host: str = "here"  # the machine's name, for people


def system_outfit(db: Database, role: str) -> Outfit:
    """Threads, and a time that no jump of this machine's clock changes: with PostgreSQL the database's, the same for all."""
    clock = SteadyClock(db.time) if db.postgresql else SteadyClock(SystemClock().now, steps=False)
    return Outfit(clock, ThreadLane("store", 16), lambda forge: ThreadLane(forge, 4), role=role, host=socket.gethostname())


def assemble(
    *,
    db: Database,
    vault: Vault,
    forges: Mapping[str, Forge],
    providers: Mapping[str, Provider],
    pools: Mapping[str, Pool],
    repositories: tuple[RepositoryRule, ...],
    outfit: Outfit,
    web: WebSettings,
    timing: Timing,
    telemetry: Telemetry | None = None,
    node_ca: str | None = None,
    trust: ImageTrust | None = None,
    registries: Mapping[str, HealthCheck] | None = None,
    gpu_names: GpuNames | None = None,
    makes: Mapping[str, Make] | None = None,
    listening: Mapping[str, Listening] | None = None,
) -> Service:
    """Build a service from its parts. The database is migrated already."""
    telemetry = telemetry or telemetry_of(forges, providers, pools)
    agent = package.agent()
    bell = Bell()
    lanes = {name: outfit.forge_lane(name) for name in forges}
    metered = {name: MeteredForge(forge, telemetry) for name, forge in forges.items()}
    counted = {name: MeteredProvider(provider, telemetry) for name, provider in providers.items()}
    judge = None if trust is None else MeteredTrust(trust, telemetry)
    owner = sweep.installation(db, outfit.clock.now())
    deps = Deps(
        db=db,
        store=outfit.store,
        lanes=lanes,
        forges=metered,
        providers=counted,
        pools=pools,
        repositories=repositories,
        clock=outfit.clock,
        bell=bell,
        asking={name: Bell() for name in forges},
        vault=vault,
        timing=timing,
        owner=owner,
        service_url=web.public_url,
        agent_hash=agent[1],
        node_ca=node_ca,
        token=outfit.token,
        below=outfit.below,
        inventory=Inventory(counted, owner, outfit.clock),
        catalogue=Catalogue(counted, outfit.clock, gpu_names or GpuNames()),
        telemetry=telemetry,
        since=outfit.clock.now(),
        trust=judge,
        listening=listening or {},
    )
    engine = Engine(deps)
    runs_engine = outfit.role != "web"
    presence = Presence(
        db,
        outfit.store,
        outfit.clock,
        bell,
        vault,
        name=f"{outfit.role}-{outfit.host[:30]}-{outfit.token(3)}",
        role=outfit.role,
        beat=lambda: engine.last_beat if runs_engine else None,
    )
    parts = WebParts(
        db=db,
        lane=outfit.store,
        forges=metered,
        clock=outfit.clock,
        bell=Chime(bell.ring, presence.pass_on),
        vault=vault,
        pools=pools,
        repositories=repositories,
        agent=agent,
        settings=web,
        telemetry=telemetry,
        providers={name: provider.check for name, provider in counted.items()},
        forge_checks={name: _forge_check(forge, lanes[name]) for name, forge in metered.items()},
        forge_lanes=lanes,
        engine_beat=(lambda: engine.last_beat) if runs_engine else None,
        trust=judge,
        registry_checks=registries or {},
        traits={name: provider.traits for name, provider in counted.items()},
        makes=makes or {},
        gpu_names=gpu_names or GpuNames(),
        listening={name: deps.hears(name) for name in metered},
        replica=presence.me.name,
    )
    web_app = build_probe(parts) if outfit.role == "engine" else build_web(parts)
    return Service(db, engine, web_app, deps, parts, telemetry, presence, trust)


def telemetry_of(forges: Iterable[str], providers: Iterable[str], pools: Mapping[str, Pool]) -> Telemetry:
    """Every metric, with the label values that these settings can give."""
    return Telemetry(
        version=__version__,
        pools=sorted(pools),
        providers=sorted(providers),
        forges=sorted(forges),
        gpus=sorted({pool.need.gpu for pool in pools.values() if pool.need.gpu is not None}),
        phases=[str(state) for state in State],
    )


def _forge_check(forge: Forge, lane: Lane) -> HealthCheck:
    async def check() -> Health:
        try:
            return Health(True, await lane(forge.check))
        except ForgeError as error:
            return Health(False, str(error))

    return check


def from_settings(
    settings: Settings, public_url: str, *, demo: bool = False, role: str = "all", new_keys: bool = False
) -> Service:
    """Build the service that the settings describe: opens and migrates the database, makes the keys on the first start.

    `new_keys`: go on though the key file is another one than that of the database.
    Raises SecretError, SettingsError, registry.ProviderTrouble, VaultError, and the database's own errors."""
    data = Path(settings.data)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = settings.database.address() or f"sqlite:///{data.absolute() / ('demo.db' if demo else 'sublet.db')}"
    upgrade(url)
    db = Database(url)
    outfit = system_outfit(db, role)
    try:
        keys = _keys(db, data / "vault.keys", outfit.clock.now(), anew=new_keys)
    except VaultError:
        db.close()
        raise
    pools = {pool.name: pool_of(pool, settings) for pool in settings.pool}
    telemetry = telemetry_of(settings.forges, [table.name for table in settings.provider], pools)
    # With SQLite our own time does not follow a clock that is set right later, and a forge would refuse what we sign.
    signed_at = outfit.clock.now if db.postgresql else SystemClock().now
    forges = forges_of(settings, signed_at, lambda forge, left: telemetry.forge_rate_left.set(left, forge=forge), public_url)
    providers, known = providers_of(settings, data), registry.installed().kinds
    registries = image_rules.registries_of(settings)
    judged = any(pool.trust is not None for pool in pools.values())
    silent = timedelta(minutes=settings.engine.silent_minutes)
    if not db.postgresql:  # one process at a time (app.main holds a lock): the claims of one that was killed need not run out
        leases.free_claims(db)
    service = assemble(
        db=db,
        vault=keys,
        forges=forges,
        providers=providers,
        pools=pools,
        repositories=tuple(_rule_of(rule) for rule in settings.repository),
        outfit=outfit,
        web=WebSettings(
            public_url=public_url.rstrip("/"),
            version=__version__,
            demo=demo,
            heartbeat_seconds=settings.engine.heartbeat_seconds,
            silent_seconds=silent.total_seconds(),
            beat_seconds=settings.engine.beat_seconds,
            forge_hosts=hosts_of(settings),
        ),
        timing=Timing(
            beat=timedelta(seconds=settings.engine.beat_seconds),
            hold=timedelta(seconds=settings.engine.hold_seconds),
            silent=silent,
            redeliver=timedelta(seconds=settings.engine.redeliver_seconds),
            poll=timedelta(seconds=settings.engine.poll_seconds),
        ),
        telemetry=telemetry,
        node_ca=settings.server.node_ca.read_text() if settings.server.node_ca else None,
        trust=image_rules.trust_of(settings, registries, outfit.clock) if judged else None,
        registries={host: functools.partial(image_rules.answers, access) for host, access in registries.items()},
        gpu_names=GpuNames(settings.gpu_names),
        listening=listening_of(settings),
        makes={table.name: Make(table.kind, known[table.kind].package) for table in settings.provider},
    )
    if role != "web":
        enlist.reconsider(service.deps)
        images.note_pools(db, image_rules.unsigned(pools), pools, outfit.clock.now())
    return service


def _keys(db: Database, file: Path, now: datetime, *, anew: bool) -> Vault:
    """The vault on this file. Raises VaultError, with what to do about it, if the database was sealed with other keys."""
    made = not file.exists()
    keys = Vault(file)
    sweep.installation(db, now)  # the mark of the keys has its place in its row
    try:
        check_keys(db, keys, anew=anew)
    except VaultError as error:
        if made:
            file.unlink()
        there = "There is no key file" if made else "It is not the key file"
        raise VaultError(
            f"{there} of this database at {file.absolute()} ({error}). Every process needs the same one: copy it from where "
            "the service runs already, or from your backup. If it is lost for good: `sublet up --new-keys`."
        ) from None
    return keys


def _rule_of(rule: RepositorySettings) -> RepositoryRule:
    return RepositoryRule(rule.match, rule.forks, frozenset(rule.events), frozenset(rule.actors))


def providers_of(settings: Settings, data: Path) -> dict[str, Provider]:
    """Every [[provider]], built through the registry that strangers use too."""
    built: dict[str, Provider] = {}
    for table in settings.provider:
        own = table.own()
        if table.kind in ("local", "terraform"):
            own.setdefault("root", str(data.absolute() / "instances" / table.name))
        built[table.name] = registry.build(table.kind, table.name, own)
    return built


def pool_of(pool: PoolSettings, settings: Settings) -> Pool:
    """A pool of the settings as the value that the core decides with."""
    github = settings.github
    names = GpuNames(settings.gpu_names)
    enterprise = github.enterprise if github is not None and (pool.scope or github.scope) == "enterprise" else ""
    return Pool(
        name=pool.name,
        labels=frozenset(pool.labels),
        need=Need(
            gpu=None if pool.gpu is None else names.canonical(pool.gpu),
            gpus=pool.gpus,
            gpu_memory_gib=pool.gpu_memory_gib,
            memory_gib=pool.memory_gib,
            disk_gib=pool.disk_gib,
            architecture=pool.architecture,
            regions=frozenset(region.lower() for region in pool.regions),
            spot=None if pool.spot == "first" else pool.spot,
            max_price_per_hour=pool.max_price_per_hour,
            min_driver=pool.min_driver,
            min_cuda=pool.min_cuda,
            gpu_architecture=pool.gpu_architecture or ARCHITECTURES.get(names.canonical(pool.gpu or "")),
        ),
        ceiling=pool.ceiling,
        forges=frozenset(pool.forges),
        providers=pool.providers,
        may_add=frozenset(pool.may_add),
        rent_on_burst_only=pool.rent == "burst",
        spot_first=pool.spot == "first",
        usual=None if pool.usual_minutes is None else timedelta(minutes=pool.usual_minutes),
        image=pool.image,
        trust=image_rules.rule_of(pool, settings),
        mode=Mode(pool.mode),
        allow_build=pool.allow_build,
        machine_image=pool.machine_image,
        scope=ScopeKind(pool.scope) if pool.scope is not None else None,
        scopes=scopes_of(settings),
        scope_path=pool.scope_path or enterprise,
        runner_group=pool.runner_group or (github.runner_group if github is not None else ""),
        runner_command=pool.runner_command,
        max_duration=timedelta(minutes=pool.max_minutes),
        idle_limit=timedelta(minutes=pool.idle_minutes),
        boot_limit=timedelta(minutes=pool.boot_minutes),
        beacon=pool.beacon,
        note=pool.note,
    )
