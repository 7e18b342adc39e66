"""What follows from an image's verdict: the digests it stands for, what a node must show, and what speaks against a lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.images import ImageVerdict, Mode, verdict_of
from app.core.model import Lease, Pool

SHORT = 19  # characters of a digest in a sentence: "sha256:" and twelve more, as Docker shows them


@dataclass(frozen=True, slots=True)
class Wanted:
    """The image that a node must be found to run."""

    digest: str
    digests: frozenset[str]  # any of them will do: the index, or a platform's manifest
    mode: str
    signed: bool


def short(digest: str) -> str:
    """A digest as it stands in a sentence."""
    return f"{digest[:SHORT]}…" if len(digest) > SHORT else digest


def digests(verdict: ImageVerdict) -> frozenset[str]:
    """Everything that a person might have revoked to stop it: the index, each manifest, each configuration."""
    named = {verdict.digest, *(digest for _, *pair in verdict.manifests for digest in pair)}
    return frozenset(named - {""})


def architectures(verdict: ImageVerdict | None) -> frozenset[str]:
    """Those that the image was built for; empty: any."""
    return frozenset() if verdict is None else frozenset(one for one, _, _ in verdict.manifests if one)


def verdict_on(lease: Lease) -> ImageVerdict | None:
    """What is written on the lease; None: nothing, or nothing that can be read."""
    if lease.image_verdict is None:
        return None
    try:
        return verdict_of(lease.image_verdict)
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def wanted(lease: Lease) -> Wanted | None:
    """What its node must show; None: there is no image to show."""
    verdict = verdict_on(lease)
    if verdict is None or not verdict.allowed:
        return None
    named = {verdict.digest, *(manifest for _, manifest, _ in verdict.manifests)}
    return Wanted(verdict.digest, frozenset(named), lease.mode, lease.signed)


def unproven(lease: Lease, pool: Pool) -> str:
    """A sentence where the lease was rented without the proof that it, or its pool as it is now, asks for; else empty."""
    if pool.signed and not lease.signed:
        return f"It was rented before the pool {pool.name} asked for a signed image."
    if not lease.signed and lease.mode in ("", Mode.BARE):
        return ""
    verdict = verdict_on(lease)
    if verdict is None or not verdict.allowed:
        return "Its image has to be verified, and nothing on the lease shows that it was."
    return ""


def revoked_since(verdict: ImageVerdict, pool: Pool, noted: Mapping[str, str]) -> str:
    """A sentence if the image, or a part of it, was revoked by the settings or by a person (`noted`, with why); else empty."""
    named = digests(verdict)
    written = sorted(named & pool.trust.revoked) if pool.trust is not None else []
    if written:
        return f"The image {short(written[0])} is revoked in the settings."
    told = sorted(named & noted.keys())
    return f"The image {short(told[0])} was revoked: {noted[told[0]]}" if told else ""
