"""The doctor's checks of images: do the registries answer, can the keys be used, and would each pool's image pass now?"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from app.core.model import Pool
from app.kit.telemetry import logger
from app.store import images
from app.trust import keys
from app.trust.faults import RegistryAway
from app.web.parts import WebParts
from app.web.schema import Check, check

log = logger(__name__)

PATIENCE = 10.0
"""Seconds for one look; they run side by side."""
NAMED = 3


async def image_checks(parts: WebParts) -> list[Check]:
    """One check for the pools that ask for no signature, one for the keys, and one for each pool's image as it is now."""
    judged = [pool for _, pool in sorted(parts.pools.items()) if pool.trust is not None and pool.image is not None]
    found = [_unsigned(parts), *([_keys(judged)] if judged else [])]
    return [*found, *await asyncio.gather(*(_image(parts, pool) for pool in judged))]


def _unsigned(parts: WebParts) -> Check:
    bare = sorted(name for name, pool in parts.pools.items() if not pool.signed)
    if not bare:
        return check("signatures", "ok", "Every pool asks for a signed image.")
    more = f" and {len(bare) - NAMED} more" if len(bare) > NAMED else ""
    text = f"`signed = false` in {', '.join(bare[:NAMED])}{more}: nothing proves what their jobs run in."
    return check("signatures", "warn", text, "Name a signed `image` in the pool, and take `signed = false` out.")


def _keys(pools: list[Pool]) -> Check:
    given = {key for pool in pools if pool.trust is not None for key in pool.trust.keys}
    shown: set[str] = set()
    for one in given:
        try:
            shown.add(keys.load(one).shown)
        except ValueError as error:
            return check("image keys", "fail", f"{error}.", "Compare `keys` in [trust] and [[pool]] with your key files.")
    keyless = any(pool.trust is not None and pool.trust.identities for pool in pools)
    text = ", ".join(sorted(shown)) or ("Signatures without a key count." if keyless else "No pool asks for one.")
    return check("image keys", "ok", text[:500])


async def _image(parts: WebParts, pool: Pool) -> Check:
    name, image = f"image {pool.name}"[:100], pool.image or ""
    fix = f"`sublet image verify {image} --pool {pool.name}` shows every check."
    if parts.trust is None or pool.trust is None:
        return check(name, "fail", "This process has nothing to judge an image with.", "Look at the log; restart the service.")
    try:
        async with asyncio.timeout(PATIENCE):
            rule = replace(pool.trust, revoked=pool.trust.revoked | await parts.lane(images.revoked_digests, parts.db))
            verdict = await parts.trust.judge(image, rule)
    except TimeoutError:
        return check(name, "warn", f"{image}: no answer within {PATIENCE:.0f} s. Its jobs wait.", "Look at the registry.")
    except RegistryAway as away:
        return check(name, "warn", f"{image}: {away} Its jobs wait.", "Compare its [[registry]] with what the registry shows.")
    except Exception as error:  # noqa: BLE001  the database may be away: its own check says so, and the page stays
        log.warning("image check failed", pool=pool.name, error=f"{type(error).__name__}: {error}")
        return check(name, "fail", f"{type(error).__name__}; the log has the cause.", "Look at the log.")
    if not verdict.allowed:
        return check(name, "fail", f"{image} is refused: {verdict.why} Nothing is rented for it."[:500], fix)
    return check(name, "ok" if pool.signed else "warn", f"{image}: {verdict.why}"[:500], "" if pool.signed else fix)
