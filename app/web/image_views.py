"""What is shown of images: the verdict with its evidence, and the marks that a lease wears. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.core import verdicts
from app.core.images import Evidence, ImageVerdict, Mode
from app.core.model import Lease, Pool
from app.web.schema import CheckView, EvidenceView, ImageView, LeaseDetail, PlatformView


def image_view(verdict: ImageVerdict) -> ImageView:
    """Without the signed bytes: they are for machines."""
    return ImageView(
        asked=verdict.asked,
        allowed=verdict.allowed,
        code=verdict.code,
        reference=verdict.reference,
        digest=verdict.digest,
        platforms=[PlatformView(architecture=built_for, digest=digest) for built_for, digest, _ in verdict.manifests],
        checks=[CheckView(what=one.what, asked=one.asked, seen=one.seen, passed=one.passed) for one in verdict.checks],
        evidence=[_evidence(one) for one in verdict.evidence],
        why=verdict.why,
        at=verdict.at,
    )


def _evidence(one: Evidence) -> EvidenceView:
    return EvidenceView(
        kind=one.kind,
        good=one.good,
        signer=one.signer,
        signed_at=one.signed_at,
        log_index=one.log_index,
        detail=one.detail,
        digest=one.digest,
    )


def digests_of(leases: Iterable[Lease]) -> frozenset[str]:
    """What the leases of a list run, as far as a list knows."""
    return frozenset(lease.image_digest for lease in leases if lease.image_digest)


def revoked_ones(leases: Iterable[Lease], pools: Mapping[str, Pool], noted: Mapping[str, str]) -> dict[str, str]:
    """By lease id, a sentence for each whose image was revoked; `noted` is what people revoked, with why."""
    found: dict[str, str] = {}
    for lease in leases:
        pool, digest = pools.get(lease.key.pool), lease.image_digest
        if digest and pool is not None and pool.trust is not None and digest in pool.trust.revoked:
            found[lease.id] = f"The image {verdicts.short(digest)} is revoked in the settings."
        elif digest and digest in noted:
            found[lease.id] = f"The image {verdicts.short(digest)} was revoked: {noted[digest]}"
    return found


@dataclass(frozen=True, slots=True)
class ImageSheet:
    """What the lease's page says of its image, before the tables."""

    sentence: str
    tone: str
    checks: Sequence[CheckView]  # the one that failed first


def image_sheet(lease: LeaseDetail) -> ImageSheet:
    """Whether it runs what was signed; a red mark where nobody can say."""
    image = lease.image
    if image is not None and not image.allowed:
        return ImageSheet(f"Refused, so nothing was rented: {image.why}", "bad", _failed_first(image))
    if image is not None and lease.signed:
        return ImageSheet(image.why, "good", _failed_first(image))
    if image is not None:
        return ImageSheet(f"Not signed, only pinned: {image.why}", "bad", _failed_first(image))
    if lease.signed:
        text = "No image was verified for it." if lease.gone else "Its image is verified before any offer is asked for."
        return ImageSheet(text, "dim", ())
    bare = "It runs on the bare machine, where nothing proves what is there." if lease.mode == Mode.BARE else ""
    old = "It was planned before images were verified." if not lease.mode else ""
    return ImageSheet(f"Not signed. {bare or old or 'No image was pinned for it.'}", "bad", ())


def _failed_first(image: ImageView) -> Sequence[CheckView]:
    return sorted(image.checks, key=lambda check: check.passed)
