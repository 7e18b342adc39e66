"""Is everything as it should be? Each check with its status, what was found, and one thing to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit

from app.kit.telemetry import logger
from app.web.parts import HealthCheck, WebParts
from app.web.schema import Check
from app.web.words import duration

log = logger(__name__)

PATIENCE = 10.0
"""Seconds for one check; they run side by side."""
Status = Literal["ok", "warn", "fail", "skip"]


def check(name: str, status: Status, text: str, fix: str = "") -> Check:
    return Check(name=name, status=status, text=text, fix=fix)


async def examine(parts: WebParts) -> list[Check]:
    """All checks, in the order a person would mend them. Costs nothing at any provider."""
    forge_fix = "Compare the [github] or [gitlab] settings with what the forge shows."
    provider_fix = "Compare its [[provider]] settings with what the vendor shows."
    looks = [_ask(f"forge {name}", look, forge_fix) for name, look in parts.forge_checks.items()]
    looks += [_ask(f"provider {name}", look, provider_fix) for name, look in parts.providers.items()]
    database, *others = await asyncio.gather(_database(parts), *looks)
    found = [database, _engine(parts), _public_url(parts), _pools(parts), _repositories(parts), _secrets(parts)]
    if not parts.forge_checks:
        text = "No forge is configured, so no job can come."
        found.append(check("forge", "warn", text, "Add [github] or [gitlab] to sublet.toml."))
    if not parts.providers:
        found.append(check("provider", "warn", "No provider is configured, so nothing can be leased.", "Add a [[provider]]."))
    return [*found, *others]


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
    return parts.engine_beat is not None and (age is None or age.total_seconds() > max(3 * parts.settings.beat_seconds, 60))


def _engine(parts: WebParts) -> Check:
    if parts.engine_beat is None:
        return check("engine", "skip", "It runs in another process, not in this one.")
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
    fix = "Set `public_url` to an https address that the forge and rented machines can reach."
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


def _secrets(parts: WebParts) -> Check:
    known = parts.settings.secure_hooks
    if not parts.forges:
        return check("webhook secret", "skip", "No forge is configured.")
    if known is None:
        return check("webhook secret", "ok", f"Set for {', '.join(sorted(parts.forges))}; settings without one are refused.")
    bare = sorted(name for name, secure in known.items() if not secure)
    if bare:
        text = f"Not set for {', '.join(bare)}: every delivery is refused."
        return check("webhook secret", "fail", text, "Set `webhook_secret` (GitHub) or `webhook_token` (GitLab) on both sides.")
    return check("webhook secret", "ok", f"Set for {', '.join(sorted(known))}.")
