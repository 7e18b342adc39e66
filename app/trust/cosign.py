"""The cosign tag form: signatures as the layers of a manifest under the tag `sha256-….sig` (cosign, SIGNATURE_SPEC.md).

What is signed is a small JSON document that names the image's digest. The reference inside (`docker-reference`) is not
checked, as the specification says: the digest alone binds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from app.trust import strict
from app.trust.faults import unreadable
from app.trust.manifests import Descriptor, Index, Manifest

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
LOG_ENTRY: Final = "dev.sigstore.cosign/bundle"
TYPE: Final = "cosign container image signature"
ARTIFACT: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""The type under which cosign 2 attaches the same manifest by referrers, in its experimental OCI 1.1 mode."""
DSSE_LAYER: Final = "application/vnd.dsse.envelope.v1+json"
"""A layer under the tag `sha256-….att`: an attestation (cosign, ATTESTATION_SPEC.md)."""
MOST_SIGNATURES: Final = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """What a simple-signing payload says."""

    digest: str
    created: datetime | None  # what the signer wrote, inside of what is signed


def tag(digest: str, suffix: str = "sig") -> str:
    """sha256:abc -> sha256-abc.sig"""
    return f"{digest.replace(':', '-', 1)}.{suffix}"


def layers(manifest: Manifest | Index, media_type: str = SIMPLE_SIGNING) -> tuple[Descriptor, ...]:
    """The layers that are signatures, or attestations."""
    if isinstance(manifest, Index):
        raise unreadable("Under the tag of the signatures stands an index.")
    found = tuple(layer for layer in manifest.layers if layer.media_type == media_type)
    if len(found) > MOST_SIGNATURES:
        raise unreadable(f"There are {len(found)} signatures under one tag; at most {MOST_SIGNATURES} are looked at.")
    return found


def claim(payload: bytes) -> Claim:
    """Refused: what is no simple-signing payload of cosign's type, or names no sha256 digest."""
    values = strict.parse(payload, "signature's payload")
    critical = strict.table(values, "critical")
    strict.plain(values, ("critical", "optional"), "signature's payload")
    strict.plain(critical, ("identity", "image", "type"), "signature's payload")
    image = strict.table(critical, "image")
    strict.plain(image, ("docker-manifest-digest",), "signature's payload")
    if strict.text(critical, "type") != TYPE:
        raise unreadable("The signature's payload is not of cosign's type.")
    digest = strict.text(image, "docker-manifest-digest")
    if not strict.is_digest(digest):
        raise unreadable("The signature's payload names no sha256 digest.")
    return Claim(digest, _created(strict.whole(strict.table(values, "optional"), "timestamp")))


def _created(seconds: int | None) -> datetime | None:
    """`optional.timestamp`: seconds since 1970 (containers/image, containers-signature(5))."""
    if seconds is None or not 0 < seconds < 253_402_300_800:
        return None
    return datetime.fromtimestamp(seconds, UTC)
