"""An image that is signed may run; each way in which one is not has its own word and its own sentence."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.core.images import PublicKey, Refusal, TrustRule
from app.trust.faults import RegistryAway
from tests.fakes.signer import SIGNS, dsse_bundle, message_bundle, simple_signing, statement
from tests.trust.scene import Scene, key


async def test_a_signed_image_may_run_and_only_its_digest_travels_on(scene: Scene) -> None:
    digest = scene.image(signed=True)
    verdict = await scene.judge()
    assert verdict.allowed
    assert verdict.digest == digest
    assert verdict.reference == f"registry.test/ci/gpu@{digest}"
    assert [check.what for check in verdict.checks] == ["registry", "tag", "content", "signature"]
    [manifest] = verdict.manifests
    assert manifest[:2] == ("amd64", digest)
    [evidence] = verdict.evidence
    assert evidence.good and evidence.kind == "cosign tag" and evidence.digest == digest
    assert evidence.signer.startswith("cosign.pub (SHA256:")
    assert evidence.key_pem == scene.key.public.pem


async def test_evidence_does_not_show_what_only_a_node_needs(scene: Scene) -> None:
    scene.image(signed=True)
    shown = repr(await scene.judge())
    assert "BEGIN PUBLIC KEY" not in shown and "docker-manifest-digest" not in shown


async def test_an_unsigned_image_is_refused(scene: Scene) -> None:
    digest = scene.image()
    code, why = await scene.refused()
    assert code == Refusal.UNSIGNED
    assert why.startswith(f"{digest[:19]}… is not signed")


async def test_a_signature_by_somebody_else_is_refused(scene: Scene) -> None:
    scene.sign(scene.image(), key("other.pub"))
    code, why = await scene.refused()
    assert code == Refusal.WRONG_KEY
    assert "No key of the pool made this signature" in why


async def test_a_signature_of_another_digest_is_refused(scene: Scene) -> None:
    digest, other = scene.image(), scene.image("old", seed="old")
    scene.sign(digest, says=other)
    code, why = await scene.refused()
    assert code == Refusal.WRONG_DIGEST
    assert other[:19] in why and digest[:19] in why


async def test_a_signature_that_was_cut_off_from_its_payload_is_refused(scene: Scene) -> None:
    digest, other = scene.image(), scene.image("old", seed="old")
    scene.sign(digest, signature=scene.key.sign(simple_signing(other)))
    assert (await scene.refused())[0] == Refusal.WRONG_KEY


async def test_one_good_signature_among_bad_ones_is_enough(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, key("other.pub"))
    scene.sign(digest, says=scene.image("old", seed="old"))
    scene.sign(digest, payload=b"{")
    scene.sign(digest)
    verdict = await scene.judge()
    assert verdict.allowed
    assert [one.good for one in verdict.evidence] == [False, False, False, True]
    assert all(one.detail for one in verdict.evidence if not one.good)


async def test_other_bytes_under_the_digest_are_refused(scene: Scene) -> None:
    digest = scene.image(signed=True)
    scene.registry.fault(f"manifests/{digest}", tamper=True)
    code, why = await scene.refused()
    assert code == Refusal.TAMPERED
    assert digest[:19] in why


async def test_other_bytes_in_place_of_a_signature_do_not_count(scene: Scene) -> None:
    scene.image(signed=True)
    scene.registry.fault("/blobs/", tamper=True, times=2)  # the image's config, then the payload
    assert (await scene.refused())[0] == Refusal.TAMPERED
    scene.registry.faults[0].times = 0
    scene.registry.fault("/blobs/", tamper=True)
    verdict = await scene.judge()
    assert verdict.code == Refusal.TAMPERED


async def test_a_tag_that_moves_after_the_verdict_moves_nothing(scene: Scene) -> None:
    good = scene.image(signed=True)
    before = await scene.judge()
    bad = scene.image(seed="stranger")
    assert before.reference.endswith(good)
    after = await scene.judge()
    assert (after.code, after.digest) == (Refusal.UNSIGNED, bad)
    assert (await scene.judge(before.reference)).allowed


async def test_what_is_revoked_is_refused_whatever_is_known_of_it(scene: Scene) -> None:
    digest = scene.image(signed=True)
    assert (await scene.judge()).allowed
    code, why = await scene.refused(revoked=frozenset({digest}))
    assert (code, why) == (Refusal.REVOKED, f"{digest[:19]}… is revoked.")
    assert (await scene.judge()).allowed


async def test_a_revoked_digest_costs_no_call(scene: Scene) -> None:
    digest = scene.image(signed=True)
    code, _ = await scene.refused(f"{scene.name}@{digest}", revoked=frozenset({digest}))
    assert code == Refusal.REVOKED and scene.registry.seen == []


async def test_a_revoked_platform_revokes_its_index(scene: Scene) -> None:
    digest = scene.index(signed=True)
    arm = scene.registry.platforms("ci/gpu", digest)[1]
    code, why = await scene.refused(revoked=frozenset({arm}))
    assert code == Refusal.REVOKED and arm[:19] in why and digest[:19] in why
    config = (await scene.judge()).manifests[0][2]
    assert (await scene.refused(revoked=frozenset({config})))[0] == Refusal.REVOKED


async def test_only_registries_of_the_settings_are_asked(scene: Scene) -> None:
    code, why = await scene.refused("elsewhere.test/ci/gpu:v3")
    assert code == Refusal.UNKNOWN_REGISTRY
    assert "elsewhere.test" in why and scene.registry.seen == []


async def test_only_repositories_of_the_rule_may_run(scene: Scene) -> None:
    scene.image(signed=True)
    allowed = frozenset({"registry.test/ci/*"})
    assert (await scene.judge(repositories=allowed)).allowed
    code, why = await scene.refused(repositories=frozenset({"registry.test/prod/*"}))
    assert code == Refusal.NOT_ALLOWED_REPOSITORY
    assert "registry.test/ci/gpu" in why and "registry.test/prod/*" in why


async def test_what_is_not_there_is_not_found(scene: Scene) -> None:
    digest = scene.image(signed=True)
    code, why = await scene.refused("registry.test/ci/gpu:v4")
    assert (code, why) == (Refusal.NOT_FOUND, "registry.test/ci/gpu has no tag 'v4'.")
    del scene.registry.manifests["ci/gpu", digest]
    assert (await scene.refused(f"registry.test/ci/gpu@{digest}"))[0] == Refusal.NOT_FOUND


@pytest.mark.parametrize(
    "written", ["", "ci/gpu:", "registry.test/ci/GPU", "registry.test/ci/gpu@sha512:00", "sha256:" + "0" * 64]
)
async def test_what_is_no_reference_is_unreadable(scene: Scene, written: str) -> None:
    verdict = await scene.trust.judge(written, scene.rule())
    assert (verdict.code, verdict.reference, scene.registry.seen) == (Refusal.UNREADABLE, "", [])


async def test_an_unsigned_pool_pins_the_digest_and_says_so(scene: Scene) -> None:
    digest = scene.image()
    verdict = await scene.judge(rule=TrustRule(signed=False))
    assert verdict.allowed and verdict.digest == digest
    assert verdict.why == f"{digest[:19]}… is pinned; no signature is asked for."
    assert scene.registry.asked(".sig") == []
    code, _ = await scene.refused(rule=TrustRule(signed=False, revoked=frozenset({digest})))
    assert code == Refusal.REVOKED


async def test_a_rule_without_any_signer_lets_nothing_in(scene: Scene) -> None:
    scene.image(signed=True)
    code, why = await scene.refused(rule=TrustRule())
    assert code == Refusal.WRONG_KEY and "names no key" in why


async def test_all_of_them_must_sign_where_the_pool_says_all(scene: Scene) -> None:
    second = key("release.pub", "ed25519")
    both: dict[str, Any] = {"keys": (scene.key.public, second.public), "need_all": True}
    digest = scene.image(signed=True)
    code, why = await scene.refused(**both)
    assert code == Refusal.WRONG_KEY and "release.pub" in why and "cosign.pub" not in why
    scene.sign(digest, second)
    verdict = await scene.judge(**both)
    assert verdict.allowed and "cosign.pub" in verdict.why and "release.pub" in verdict.why


async def test_a_signature_that_is_too_old_counts_no_more(scene: Scene) -> None:
    digest = scene.image()
    made = scene.clock.now() - timedelta(days=20)
    scene.sign(digest, optional={"timestamp": int(made.timestamp())})
    assert (await scene.judge(oldest=timedelta(days=21))).allowed
    code, why = await scene.refused(oldest=timedelta(days=14))
    assert code == Refusal.TOO_OLD and "2026-11-01" in why and "14 days" in why


async def test_a_signature_without_a_date_is_too_old_where_age_counts(scene: Scene) -> None:
    scene.image(signed=True)
    code, why = await scene.refused(oldest=timedelta(days=3650))
    assert code == Refusal.TOO_OLD and "Nothing proves when" in why


async def test_a_signature_from_the_future_is_none(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, optional={"timestamp": int((scene.clock.now() + timedelta(days=2)).timestamp())})
    assert (await scene.judge()).allowed
    assert (await scene.refused(oldest=timedelta(days=1)))[0] == Refusal.TOO_OLD


async def test_the_furthest_signature_tells_why_it_is_refused(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, key("other.pub"))
    scene.sign(digest, optional={"timestamp": int((scene.clock.now() - timedelta(days=90)).timestamp())})
    code, why = await scene.refused(oldest=timedelta(days=30))
    assert code == Refusal.TOO_OLD and "2 signatures were looked at" in why


async def test_a_registry_that_is_away_means_wait_even_for_half_an_answer(scene: Scene) -> None:
    digest = scene.image()
    scene.attach(digest, message_bundle(scene.key, scene.content(digest)))
    scene.registry.fault("/referrers/", status=503)
    with pytest.raises(RegistryAway, match=r"registry\.test answered 503"):
        await scene.judge()


async def test_a_report_of_weaknesses_is_no_signature(scene: Scene) -> None:
    digest = scene.image()
    said = statement(digest, predicate_type="https://cosign.sigstore.dev/attestation/vuln/v1")
    scene.attach(digest, dsse_bundle(scene.key, said))
    code, why = await scene.refused()
    assert code == Refusal.UNSIGNED and "vuln/v1" in why
    scene.attach(digest, dsse_bundle(scene.key, statement(digest, predicate_type=SIGNS)))
    assert (await scene.judge()).allowed


@pytest.mark.parametrize("pem", ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
async def test_a_key_that_cannot_be_read_lets_nothing_in(scene: Scene, pem: str) -> None:
    scene.image(signed=True)
    code, why = await scene.refused(keys=(PublicKey("broken.pub", pem),))
    assert code == Refusal.WRONG_KEY and "broken.pub is no public key" in why


async def test_a_private_key_in_the_settings_is_told_apart(scene: Scene) -> None:
    scene.image(signed=True)
    code, why = await scene.refused(keys=(PublicKey("cosign.key", scene.key.pem()),))
    assert code == Refusal.WRONG_KEY and "is a private key" in why and "BEGIN" not in why
