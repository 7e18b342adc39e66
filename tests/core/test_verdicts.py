"""What follows from an image's verdict: which digests stop it, and what speaks against a lease."""

from __future__ import annotations

import pytest

from app.core import verdicts
from app.core.images import Evidence, ImageCheck, ImageVerdict, Mode, TrustRule, to_json
from tests.core.values import NOON, lease, pool

INDEX, AMD64, ARM64, CONFIG = (f"sha256:{letter * 64}" for letter in "abcd")
GOOD = ImageVerdict(
    asked="registry.acme.example/ci/gpu:v3",
    allowed=True,
    reference=f"registry.acme.example/ci/gpu@{INDEX}",
    digest=INDEX,
    manifests=(("amd64", AMD64, CONFIG), ("arm64", ARM64, "")),
    checks=(ImageCheck("signature", "one of 1 keys", "cosign.pub", True),),
    evidence=(Evidence("cosign tag", True, "cosign.pub SHA256:x", NOON, 7, "", b"{}", b"\x30\x44", "PEM", INDEX),),
    why="Signed by cosign.pub.",
    at=NOON,
)
BAD = ImageVerdict("ghcr.io/a/b:1", False, "", "", (), (), (), "It is not signed.", NOON, "unsigned")
SIGNED = pool(trust=TrustRule(), mode=Mode.CONTAINED)
BARE = pool()


def test_each_part_of_an_image_stops_it() -> None:
    assert verdicts.digests(GOOD) == {INDEX, AMD64, ARM64, CONFIG}
    assert verdicts.digests(BAD) == frozenset()
    for digest in (INDEX, AMD64, CONFIG):
        said = verdicts.revoked_since(GOOD, SIGNED, {digest: "it leaks"})
        assert said == f"The image {digest[:19]}… was revoked: it leaks"
    assert verdicts.revoked_since(GOOD, SIGNED, {f"sha256:{'e' * 64}": "another"}) == ""
    settings = pool(trust=TrustRule(revoked=frozenset({ARM64})))
    assert "is revoked in the settings" in verdicts.revoked_since(GOOD, settings, {})


def test_an_image_is_built_for_what_its_manifests_say() -> None:
    assert verdicts.architectures(GOOD) == {"amd64", "arm64"}
    assert verdicts.architectures(None) == verdicts.architectures(BAD) == frozenset()


def test_a_bare_lease_of_a_bare_pool_has_nothing_to_prove() -> None:
    assert verdicts.unproven(lease(1), BARE) == ""
    assert verdicts.wanted(lease(1)) is None


def test_a_pool_that_asks_for_a_signature_now_takes_no_lease_of_before() -> None:
    assert "before the pool gpu asked for a signed image" in verdicts.unproven(lease(1), SIGNED)


@pytest.mark.parametrize("verdict", [None, to_json(BAD), {"allowed": True}, {}, {**to_json(GOOD), "manifests": [["amd64"]]}])
def test_a_lease_that_had_to_show_a_signature_and_does_not_is_unproven(verdict: dict[str, object] | None) -> None:
    held = lease(1, signed=True, mode="contained", image_verdict=verdict)
    assert verdicts.wanted(held) is None
    for its_pool in (SIGNED, BARE):  # whatever the pool says by now
        assert "nothing on the lease shows that it was" in verdicts.unproven(held, its_pool)


def test_an_image_that_is_only_pinned_is_pinned_by_its_verdict_too() -> None:
    assert verdicts.unproven(lease(1, mode="contained"), pool(trust=TrustRule(signed=False), mode=Mode.CONTAINED)) != ""
    held = lease(1, mode="contained", image_verdict=to_json(GOOD))
    assert verdicts.unproven(held, pool(trust=TrustRule(signed=False), mode=Mode.CONTAINED)) == ""


def test_a_lease_with_its_verdict_is_proven_and_says_what_its_node_must_show() -> None:
    held = lease(1, signed=True, mode="contained", image_verdict=to_json(GOOD))
    assert verdicts.unproven(held, SIGNED) == ""
    assert verdicts.verdict_on(held) == GOOD
    wanted = verdicts.wanted(held)
    assert wanted is not None and wanted.digests == {INDEX, AMD64, ARM64} and wanted.signed
