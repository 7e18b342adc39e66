"""From the settings to what decides about images: the rule of each pool, the keys, and the registries that may be asked."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import timedelta

import httpx

from app.core.images import Identity, Mode, Provenance, PublicKey, TrustRule
from app.core.model import Pool
from app.kit.clock import Clock
from app.settings import IdentitySettings, PoolSettings, PublicPlace, RegistrySettings, Settings, SettingsError
from app.trust import keys
from app.trust.access import RegistryAccess
from app.trust.judge import ImageTrust
from providers.contract import Health

ANSWERS = frozenset({200, 401})
"""What `GET /v2/` says where there is a registry: 401 asks for a login, which only a repository's own address can try."""
PATIENCE = 8.0
"""Seconds."""


def rule_of(pool: PoolSettings, settings: Settings) -> TrustRule | None:
    """What the pool's image must show; None for a bare pool. Keys are read now. Raises SecretError, SettingsError."""
    if pool.image is None:
        return None
    own = bool(pool.keys or pool.identity)
    places, identities = (pool.keys, pool.identity) if own else (settings.trust.keys, settings.trust.identity)
    oldest = pool.oldest_signature_days
    return TrustRule(
        signed=pool.signed,
        repositories=frozenset(pool.image_repositories),
        keys=_keys(places) if pool.signed else (),
        identities=_identities(identities) if pool.signed else (),
        need_all=pool.sign_by == "all",
        provenance=None if pool.provenance is None else Provenance(pool.provenance.builder, pool.provenance.source),
        oldest=None if oldest is None else timedelta(days=oldest),
        revoked=frozenset(pool.revoked) | frozenset(settings.trust.revoked),
    )


def usual_rule(settings: Settings) -> TrustRule:
    """What [trust] alone asks for, for an image of no pool. Raises SecretError, SettingsError."""
    trust = settings.trust
    return TrustRule(keys=_keys(trust.keys), identities=_identities(trust.identity), revoked=frozenset(trust.revoked))


def _keys(places: tuple[PublicPlace, ...]) -> tuple[PublicKey, ...]:
    found: list[PublicKey] = []
    for place in places:
        given = PublicKey(place.name, place.read().reveal())
        try:
            keys.load(given)
        except ValueError as error:
            raise SettingsError([f"`keys`: {error}"]) from None
        found.append(given)
    return tuple(found)


def _identities(rows: tuple[IdentitySettings, ...]) -> tuple[Identity, ...]:
    return tuple(Identity(row.issuer, row.subject) for row in rows)


def registries_of(settings: Settings) -> dict[str, RegistryAccess]:
    """Those that may be asked, by host; their passwords are read now. Raises SecretError, SettingsError."""
    found = {row.host: _access(row) for row in settings.registry}
    for access in found.values():
        try:
            access.tls()
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or type(error).__name__
            raise SettingsError([f"`ca` of the registry {access.host} cannot be used: {why}"]) from None
    return found


def _access(row: RegistrySettings) -> RegistryAccess:
    return RegistryAccess(
        row.host,
        mirrors=row.mirrors,
        username=row.username,
        password=None if row.password is None else row.password.read(),
        plain_http=row.plain,
        ca=row.ca,
        mirrors_resolve_tags=row.mirrors_resolve_tags,
    )


def trust_of(settings: Settings, registries: Mapping[str, RegistryAccess], clock: Clock) -> ImageTrust:
    """What judges images. Raises SettingsError for a trusted root that is none."""
    cache_for = timedelta(minutes=settings.trust.cache_minutes)
    try:
        return ImageTrust(registries, clock, cache_for=cache_for, trusted_root=settings.trust.trusted_root)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise SettingsError([f"`trusted_root` in [trust] cannot be used: {why}"]) from None


def unsigned(pools: Mapping[str, Pool]) -> dict[str, str]:
    """Each pool that asks for no signature, with what the audit is told of it."""
    return {name: _admitted(pool) for name, pool in pools.items() if not pool.signed}


def _admitted(pool: Pool) -> str:
    if pool.trust is None or pool.mode is Mode.BARE:
        return "`signed = false`: its jobs run on the bare machine, and nothing proves what is on it."
    return f"`signed = false`: {pool.image} is only pinned to the digest that its tag means, whoever made it."


async def answers(access: RegistryAccess) -> Health:
    """Whether a registry is there: a look that needs no login and shows none."""
    async with httpx.AsyncClient(verify=access.tls(), trust_env=False, timeout=PATIENCE) as client:
        try:
            status = (await client.get(f"{access.base}/v2/")).status_code
        except httpx.HTTPError as error:
            return Health(False, f"{access.host} does not answer ({type(error).__name__}): images that lie there wait.")
    if status in ANSWERS:
        return Health(True, f"{access.host} answers.")
    return Health(False, f"{access.host} answers {status} at /v2/, as no registry does.")
