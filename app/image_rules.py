"""From the settings to what decides about images: the rule of each pool, the keys, and the registries that may be asked."""

from __future__ import annotations

from datetime import timedelta

from app.core.images import Identity, Provenance, PublicKey, TrustRule
from app.settings import IdentitySettings, PoolSettings, PublicPlace, Settings


def rule_of(pool: PoolSettings, settings: Settings) -> TrustRule | None:
    """What the pool's image must show; None for a bare pool. Keys are read now. Raises SecretError."""
    if pool.image is None:
        return None
    own = bool(pool.keys or pool.identity)
    keys, identities = (pool.keys, pool.identity) if own else (settings.trust.keys, settings.trust.identity)
    oldest = pool.oldest_signature_days
    return TrustRule(
        signed=pool.signed,
        repositories=frozenset(pool.image_repositories),
        keys=_keys(keys) if pool.signed else (),
        identities=_identities(identities) if pool.signed else (),
        need_all=pool.sign_by == "all",
        provenance=None if pool.provenance is None else Provenance(pool.provenance.builder, pool.provenance.source),
        oldest=None if oldest is None else timedelta(days=oldest),
        revoked=frozenset(pool.revoked) | frozenset(settings.trust.revoked),
    )


def usual_rule(settings: Settings) -> TrustRule:
    """What [trust] alone asks for, for an image of no pool. Raises SecretError."""
    trust = settings.trust
    return TrustRule(keys=_keys(trust.keys), identities=_identities(trust.identity), revoked=frozenset(trust.revoked))


def _keys(places: tuple[PublicPlace, ...]) -> tuple[PublicKey, ...]:
    return tuple(PublicKey(place.name, place.read().reveal()) for place in places)


def _identities(rows: tuple[IdentitySettings, ...]) -> tuple[Identity, ...]:
    return tuple(Identity(row.issuer, row.subject) for row in rows)
