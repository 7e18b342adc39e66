"""Is everything as it should be? Each check with its status, what was found, and one thing to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from app.kit.telemetry import logger
from app.settings.forges import BUILT_IN
from app.store import replicas
from app.store.replicas import Replica
from app.web.hearing import secret_of, table_of
from app.web.image_checks import image_checks
from app.web.leak_checks import leak_checks
from app.web.listen_checks import listen_checks, listening_of
from app.web.parts import HealthCheck, WebParts
from app.web.schema import Check, check
from app.web.words import duration

log = logger(__name__)

PATIENCE = 10.0
"""Seconds for one check; they run side by side."""
SILENT = timedelta(seconds=15)
"""A process says every 3 seconds that it lives; one that says nothing for so long is taken for ended."""


async def examine(parts: WebParts) -> list[Check]:
    """All checks, in the order a person would mend them. Costs nothing at any provider."""
    provider_fix = "Compare its [[provider]] settings with what the vendor shows."
    looks = [_ask(f"forge {name}", look, _forge_fix(name)) for name, look in parts.forge_checks.items()]
    looks += [_ask(f"provider {name}", look, provider_fix) for name, look in parts.providers.items()]
    registry_fix = "Compare its [[registry]] settings with the registry's address."
    looks += [_ask(f"registry {host}"[:100], look, registry_fix) for host, look in parts.registry_checks.items()]
    mine = (_database(parts), _replicas(parts), leak_checks(parts), listen_checks(parts), image_checks(parts))
    (database, known, leaking, listening, pictures), others = await asyncio.gather(
        asyncio.gather(*mine), asyncio.gather(*looks)
    )
    ours = [_public_url(parts), _pools(parts), _repositories(parts), _secrets(parts)]
    found = [database, _engine(parts, known), *(_replica(parts, one) for one in known), *ours]
    if not parts.forge_checks:
        text = "No forge is configured, so no job can come."
        tables = ", ".join(f"[{name}]" for name in BUILT_IN)
        found.append(check("forge", "warn", text, f"Add {tables} or a plugin's [[forge]] to sublet.toml."))
    if not parts.providers:
        found.append(check("provider", "warn", "No provider is configured, so nothing can be leased.", "Add a [[provider]]."))
    return [*found, *pictures, *leaking, *others, *listening]


def _forge_fix(name: str) -> str:
    return f"Compare its settings, {table_of(name)}, with what the forge shows."


async def _database(parts: WebParts) -> Check:
    try:
        async with asyncio.timeout(PATIENCE):
            await parts.lane(parts.db.ping)
    except Exception as error:  # noqa: BLE001  whatever it is, the answer is the same: it does not answer
        log.error("database does not answer", error=f"{type(error).__name__}: {error}")
        return check("database", "fail", "The database does not answer.", "Look at [database] url and at the database itself.")
    return check("database", "ok", f"{parts.db.dialect} answers.")


async def _ask(name: str, look: HealthCheck, fix: str) -> Check:
    try:
        async with asyncio.timeout(PATIENCE):
            health = await look()
    except TimeoutError:
        return check(name, "fail", f"No answer within {PATIENCE:.0f} s.", fix)
    except Exception as error:  # noqa: BLE001  a vendor's client may raise anything; the check says so and the page stays
        log.warning("health check failed", check=name, error=f"{type(error).__name__}: {error}")
        return check(name, "fail", f"{type(error).__name__}; the log has the cause.", fix)
    return check(name, "ok" if health.ok else "fail", health.summary[:500], "" if health.ok else fix)


def beat_age(parts: WebParts) -> timedelta | None:
    """Since the engine finished its last look; None: not yet, or it runs in another process."""
    beat = None if parts.engine_beat is None else parts.engine_beat()
    return None if beat is None else max(parts.clock.now() - beat, timedelta(0))


def beat_late(parts: WebParts) -> bool:
    """Whether the engine of this process has stopped looking."""
    age = beat_age(parts)
    late = age is None or age.total_seconds() > _longest_beat(parts.settings.beat_seconds)
    return parts.engine_beat is not None and late


async def _replicas(parts: WebParts) -> list[Replica]:
    try:
        async with asyncio.timeout(PATIENCE):
            return await parts.lane(replicas.listing, parts.db)
    except Exception as error:  # noqa: BLE001  the check of the database says it
        log.warning("replicas not read", error=f"{type(error).__name__}: {error}")
        return []


def is_alive(one: Replica, now: datetime, beat_seconds: float) -> bool:
    """Whether it was heard lately and, if it moves leases, whether it still does: a process may live on and do nothing."""
    heard = now - one.seen_at <= SILENT
    if not one.moves_leases:
        return heard
    return heard and one.beat_at is not None and (now - one.beat_at).total_seconds() <= _longest_beat(beat_seconds)


def _longest_beat(beat_seconds: float) -> float:
    return max(3 * beat_seconds, 60)


async def engines_alive(parts: WebParts) -> int:
    """How many engines move leases, in whatever process; 0 where nobody can say."""
    now, beat = parts.clock.now(), parts.settings.beat_seconds
    return sum(one.moves_leases and is_alive(one, now, beat) for one in await _replicas(parts))


def _replica(parts: WebParts, one: Replica) -> Check:
    now = parts.clock.now()
    heard = max(now - one.seen_at, timedelta(0))
    what = {"all": "web and engine", "web": "web", "engine": "engine"}.get(one.role, one.role)
    text = f"{what}, {one.version}, up {duration(now - one.started_at)}, heard {duration(heard)} ago."
    name, fix = f"replica {one.name}"[:100], "Look at its log; restart it."
    if heard > SILENT:
        return check(name, "warn", f"{text} It is silent: killed, or cut off.", "Others do its work; start another.")
    if one.moves_leases and not is_alive(one, now, parts.settings.beat_seconds):
        return check(name, "warn", f"{text} Its engine does not look at leases.", fix)
    if one.note:
        return check(name, "warn", f"{text} {one.note}", fix)
    return check(name, "ok", text)


def _engine(parts: WebParts, known: Sequence[Replica]) -> Check:
    if parts.engine_beat is None:
        now, beat = parts.clock.now(), parts.settings.beat_seconds
        alive = sum(one.moves_leases and is_alive(one, now, beat) for one in known)
        if alive:
            return check("engine", "ok", "1 is at work." if alive == 1 else f"{alive} are at work.")
        text = "None is at work: deliveries are recorded, and every lease stays as it is."
        return check("engine", "fail", text, "Start one: `sublet up --role engine`.")
    age = beat_age(parts)
    if age is None:
        return check("engine", "warn", "It has not finished its first look yet.", "Wait a moment; then look at the log.")
    text = f"It finished its last look {duration(age)} ago."
    return (
        check("engine", "fail", text, "Look at the log; restart the service.")
        if beat_late(parts)
        else check("engine", "ok", text)
    )


def _public_url(parts: WebParts) -> Check:
    address = parts.settings.public_url
    url = urlsplit(address)
    callers = "the forge and rented machines" if _hooked(parts) or not parts.forges else "rented machines"
    fix = f"Set `public_url` to an https address that {callers} can reach."
    if url.hostname in ("127.0.0.1", "localhost", "::1"):
        if parts.settings.demo:
            return check("public_url", "ok", f"{address}: enough for the demo, where all runs on this machine.")
        return check("public_url", "warn", f"{address} is only reachable from this machine.", fix)
    if url.scheme != "https":
        return check("public_url", "fail", f"{address} is not https.", fix)
    return check("public_url", "ok", address)


def _pools(parts: WebParts) -> Check:
    if not parts.pools:
        return check("pools", "fail", "No pool is configured, so no job is ours.", "Add a [[pool]] with its labels.")
    names = ", ".join(sorted(parts.pools))
    return check("pools", "ok", f"{len(parts.pools)}: {names}"[:300])


def _repositories(parts: WebParts) -> Check:
    rules: Sequence[str] = [rule.match for rule in parts.repositories]
    fix = 'Add a [[repository]] with match = "your-org/*".'
    if not rules:
        return check("allow list", "fail", "It is empty: no repository may spend money here.", fix)
    if any(set(rule) <= {"*", "/"} for rule in rules):
        return check("allow list", "warn", "It lets every repository spend money here.", fix)
    return check("allow list", "ok", ", ".join(rules)[:300])


def _hooked(parts: WebParts) -> list[str]:
    """The forges whose webhooks are taken."""
    return sorted(name for name in parts.forges if listening_of(parts, name).webhooks)


def _secrets(parts: WebParts) -> Check:
    known, hooked = parts.settings.secure_hooks, _hooked(parts)
    title, polled = "webhook secret", sorted(set(parts.forges) - set(hooked))
    if not parts.forges:
        return check(title, "skip", "No forge is configured.")
    spared = f"Not needed for {', '.join(polled)}: {'it is' if len(polled) == 1 else 'they are'} polled." if polled else ""
    if not hooked:
        return check(title, "skip", spared)
    bare = [name for name in hooked if known is not None and not known.get(name, True)]
    if bare:
        text = f"Not set for {', '.join(bare)}: every delivery is refused. {spared}".strip()
        keys = " and ".join(f"{secret_of(name)} in {table_of(name)}" for name in bare)
        return check(title, "fail", text, f"Set {keys}, and the same at the forge.")
    strict = "; settings without one are refused" if known is None else ""
    return check(title, "ok", f"Set for {', '.join(hooked)}{strict}. {spared}".strip())
