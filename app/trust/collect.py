"""What is attached to a digest: the signature tag, the referrers, the attestation tag, one after the other and only as far
as they are needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from app.core.images import Refusal
from app.trust import bundle, cosign, manifests
from app.trust.faults import Refused, brief
from app.trust.manifests import Descriptor, Index, Manifest
from app.trust.repository import LARGEST_LAYER, Repository
from app.trust.weigh import BUNDLE, PROVENANCE, TAG, Found

MOST_BUNDLES: Final = 32


async def attached(repository: Repository, digest: str, *, attestations: bool) -> AsyncIterator[list[Found]]:
    """One list per place. A place whose list cannot be read is a finding that does not count: another place may be good.

    Raises RegistryAway: a place that was not seen could hold what is missing."""
    yield await _layers(repository, cosign.tag(digest), cosign.SIMPLE_SIGNING, TAG)
    try:
        listed = await repository.referrers(digest)
    except Refused as error:
        yield [Found(BUNDLE, problem=error)]
    else:
        yield await _referrers(repository, digest, listed)
    if attestations:
        yield await _layers(repository, cosign.tag(digest, "att"), cosign.DSSE_LAYER, PROVENANCE)


async def _layers(repository: Repository, tag: str, media_type: str, kind: str) -> list[Found]:
    try:
        tagged = await repository.tagged(tag)
        layers = () if tagged is None else cosign.layers(tagged[1], media_type)
    except Refused as error:
        return [Found(kind, problem=error)]
    return [await _layer(repository, layer, kind) for layer in layers]


async def _referrers(repository: Repository, digest: str, listed: tuple[Descriptor, ...]) -> list[Found]:
    """Bundles, and cosign 2's manifests of signatures. In the fallback's index the type may be missing: look inside."""
    found: list[Found] = []
    wanted = [one for one in listed if _may_sign(one.artifact_type) and one.media_type in manifests.MANIFESTS]
    if len(wanted) > MOST_BUNDLES:
        why = f"{len(wanted)} signatures are attached to {brief(digest)}; at most {MOST_BUNDLES} are looked at."
        return [Found(BUNDLE, problem=Refused(Refusal.UNREADABLE, why, what="signature"))]
    for one in wanted:
        try:
            got = await repository.manifest(one.digest)
            if got is None:
                continue  # listed and gone: somebody is cleaning up
            found += await _artifact(repository, got[1])
        except Refused as error:
            found.append(Found(BUNDLE, problem=error))
    return found


async def _artifact(repository: Repository, manifest: Manifest | Index) -> list[Found]:
    if isinstance(manifest, Index):
        return []
    kind = manifest.artifact_type or manifest.config.media_type
    first = manifest.layers[0] if manifest.layers else None
    if first is not None and (bundle.is_bundle(kind) or bundle.is_bundle(first.media_type)):
        return [await _layer(repository, first, BUNDLE)]
    if kind == cosign.ARTIFACT:
        return [await _layer(repository, layer, TAG) for layer in cosign.layers(manifest)]
    return []


async def _layer(repository: Repository, layer: Descriptor, kind: str) -> Found:
    if layer.size > LARGEST_LAYER:
        why = f"A signature has {layer.size} bytes; at most {LARGEST_LAYER} are looked at."
        return Found(kind, problem=Refused(Refusal.UNREADABLE, why, what="signature"))
    try:
        raw = await repository.blob(layer.digest)
    except Refused as error:
        return Found(kind, problem=error)
    if raw is None:
        why = f"The signature {brief(layer.digest)} is listed, and not there."
        return Found(kind, problem=Refused(Refusal.UNREADABLE, why, what="signature"))
    notes = layer.annotations
    return Found(
        kind,
        raw,
        notes.get(cosign.SIGNATURE, ""),
        certificate=bool(notes.get(cosign.CERTIFICATE)),
        log_entry=notes.get(cosign.LOG_ENTRY, ""),
    )


def _may_sign(artifact_type: str) -> bool:
    return not artifact_type or artifact_type == cosign.ARTIFACT or bundle.is_bundle(artifact_type)
