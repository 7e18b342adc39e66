"""What a node is told of images: the one that it runs in, and each that its job wants a container from."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.core import verdicts
from app.core.images import Evidence, ImageVerdict, Mode, Refusal
from app.core.model import Lease, Pool
from app.store import images
from app.trust.faults import RegistryAway
from app.web.parts import WebParts

MOST_SIGNATURES = 32
"""As many as the agent looks at; the signatures of the image first."""
PATIENCE = 8.0
"""Seconds for a registry: the agent hangs up after ten, and asks again."""
PROVENANCE = "provenance"


class NodeImages:
    """Answers one node at a time. A registry that is away makes it RegistryAway: the node asks again."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts

    async def own(self, lease: Lease) -> dict[str, Any] | None:
        """The image that the node must be found to run, with what it needs to check that by itself; None: a bare one."""
        verdict = verdicts.verdict_on(lease)
        if verdict is None or not verdict.allowed:
            return None
        pool = self._parts.pools.get(lease.key.pool)
        pulled = lease.image == verdict.reference  # its provider has booted it: the node pulls nothing
        return {
            "mode": lease.mode,
            "reference": verdict.reference,
            "signed": lease.signed,
            "allow_build": pool is not None and pool.allow_build,
            **_checkable(verdict, lease),
            "access": None if pulled else await self._access(verdict),
        }

    async def asked(self, lease: Lease, reference: str, now: datetime) -> dict[str, Any]:
        """Whether the job may start a container from this image: judged as the pool's own, and written down.

        A tag is looked up once: the digest that passed first is the one that the name means on this lease."""
        parts, pool = self._parts, self._parts.pools.get(lease.key.pool)
        if no := self._closed(lease, pool):
            return _refusal(no)
        earlier = await parts.lane(images.asked_of, parts.db, lease.id)
        known = next((one.verdict for one in earlier if one.asked == reference and one.verdict.allowed), None)
        if known is None and len({one.asked for one in earlier} - {reference}) >= images.MOST_ASKED:
            return _refusal(f"The job has asked for {images.MOST_ASKED} images by now; no further one is looked at.")
        found = await self._judge(lease, reference if known is None else known.reference, pool)
        found = replace(found, asked=reference)
        verdict = await parts.lane(images.remember, parts.db, lease.id, reference, found, now)
        if verdict is None:
            return _refusal(f"The job has asked for {images.MOST_ASKED} images by now; no further one is looked at.")
        if not verdict.allowed:
            return {**_refusal(verdict.why), "digest": verdict.digest}
        access = await self._access(verdict)
        told = _checkable(verdict, lease)
        return {"allowed": True, "why": verdict.why, "reference": verdict.reference, **told, "access": access}

    async def revoked(self, lease: Lease) -> str:
        """A sentence if the lease's image was revoked since it was let in; empty if not. Reads nothing for a bare lease."""
        verdict, pool = verdicts.verdict_on(lease), self._parts.pools.get(lease.key.pool)
        if verdict is None:
            return ""
        parts = self._parts
        noted = await parts.lane(images.revoked_among, parts.db, verdicts.digests(verdict))
        return verdicts.revoked_since(verdict, pool or Pool(lease.key.pool, frozenset(), lease.need, 0), noted)

    def _closed(self, lease: Lease, pool: Pool | None) -> str:
        """Why no container may be started here, whatever the image."""
        if lease.mode != Mode.GUARDED:
            return f"The mode of this lease is {lease.mode or 'bare'}: its job starts no containers."
        if pool is None or pool.trust is None:
            return f"The pool {lease.key.pool} is not in the settings any more, so nobody can say whose signature counts."
        if self._parts.trust is None:
            return "This process has nothing to judge an image with."
        return ""

    async def _judge(self, lease: Lease, reference: str, pool: Pool | None) -> ImageVerdict:
        parts = self._parts
        assert parts.trust is not None and pool is not None and pool.trust is not None  # `_closed` has said no otherwise
        rule = replace(pool.trust, revoked=pool.trust.revoked | await parts.lane(images.revoked_digests, parts.db))
        try:
            async with asyncio.timeout(PATIENCE):
                verdict = await parts.trust.judge(reference, rule, region=lease.region)
        except TimeoutError:
            raise RegistryAway("The registry takes its time.") from None
        if verdict.code == Refusal.REVOKED:
            noted = await parts.lane(images.revoked_among, parts.db, verdicts.digests(verdict))
            return replace(verdict, why=verdicts.revoked_since(verdict, pool, noted) or verdict.why)
        return verdict

    async def _access(self, verdict: ImageVerdict) -> dict[str, str] | None:
        """What the node pulls it with: for this answer only, never written down. A token has no user name."""
        if self._parts.trust is None:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                lent = await self._parts.trust.pull_access(verdict.reference)
        except TimeoutError:
            raise RegistryAway("The registry takes its time.") from None
        except ValueError:  # its registry left the settings
            return None
        return None if lent is None else {"username": lent.username, "password": lent.password.reveal()}


def _refusal(why: str) -> dict[str, Any]:
    return {"allowed": False, "why": why, "reference": "", "digest": "", "manifests": [], "signatures": [], "access": None}


def _checkable(verdict: ImageVerdict, lease: Lease) -> dict[str, Any]:
    """Digests and good signatures, of the platform that the lease's machine is known to have, or of all."""
    return {
        "digest": verdict.digest,
        "manifests": [list(one) for one in verdict.manifests],
        "signatures": [
            {
                "kind": one.kind,
                "digest": one.digest,
                "payload": b64encode(one.payload).decode(),
                "signature": b64encode(one.signature).decode(),
                "key": one.key_pem,
            }
            for one in _signatures(verdict, str((lease.offer or {}).get("architecture") or ""))
        ],
    }


def _signatures(verdict: ImageVerdict, architecture: str) -> Sequence[Evidence]:
    good = [one for one in verdict.evidence if one.good and one.payload and one.signature and one.key_pem]
    others = {manifest for built_for, manifest, _ in verdict.manifests if built_for != architecture} - {verdict.digest}
    mine = [one for one in good if one.digest not in others] or good
    return sorted(mine, key=lambda one: one.kind == PROVENANCE)[:MOST_SIGNATURES]
