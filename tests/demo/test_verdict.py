"""The verdict on the demo's image: the service's own judge, the forge's registry, and what is refused with which word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.core.images import ImageVerdict, PublicKey, TrustRule
from app.demo import image, launch, registry, signature
from app.kit.clock import SystemClock
from app.trust.access import RegistryAccess
from app.trust.judge import ImageTrust


@pytest.fixture
def published(process: launch.Running) -> image.Published:
    return image.publish(process.folder, process.url)


@pytest.fixture
async def trust(published: image.Published) -> AsyncIterator[ImageTrust]:
    host = published.repository.partition("/")[0]
    judge = ImageTrust({host: RegistryAccess(host, plain_http=True)}, SystemClock())
    yield judge
    await judge.aclose()


def asking_for(key_file: Path) -> TrustRule:
    return TrustRule(keys=(PublicKey(key_file.name, key_file.read_text("utf-8")),))


async def test_it_is_let_in_by_its_digest_with_its_evidence(trust: ImageTrust, published: image.Published) -> None:
    verdict: ImageVerdict = await trust.judge(published.reference, asking_for(published.public_key_file))
    assert verdict.allowed, verdict.why
    assert verdict.reference == f"{published.repository}@{published.digest}"
    assert [architecture for architecture, _, _ in verdict.manifests] == [image.machine_here()]
    (one,) = verdict.evidence
    assert (one.kind, one.good, one.digest) == ("cosign tag", True, published.digest)
    assert one.signer.startswith("image-signing.pub") and "SHA256:" in one.signer


async def test_another_key_is_not_the_demos(trust: ImageTrust, published: image.Published, tmp_path: Path) -> None:
    signature.private_key(tmp_path)
    verdict = await trust.judge(published.reference, asking_for(tmp_path / signature.PUBLIC))
    assert (verdict.allowed, verdict.code) == (False, "wrong_key")


async def test_without_its_signature_it_is_refused(
    trust: ImageTrust, published: image.Published, process: launch.Running
) -> None:
    shelf = registry.layout(process.folder, image.NAME)
    entry = shelf.find(image.TAG)
    assert entry is not None
    shelf.name({image.TAG: entry})
    try:
        verdict = await trust.judge(published.reference, asking_for(published.public_key_file))
        assert (verdict.allowed, verdict.code) == (False, "unsigned")
    finally:
        assert image.publish(process.folder, process.url) == published
