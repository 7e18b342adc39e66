"""The forms in which a signature may come, the keys that may make it, and what provenance says."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.core.images import Identity, Provenance, Refusal
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import (
    OLD_BUNDLE,
    SigningKey,
    dsse_bundle,
    envelope,
    message_bundle,
    packed,
    simple_signing,
    slsa_0_2,
    slsa_1,
    statement,
)
from tests.trust.scene import REPOSITORY, Scene, key

KINDS = ["p256", "p384", "rsa", "ed25519"]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_key_signs_in_each_form(scene: Scene, kind: str) -> None:
    by = key(f"{kind}.pub", kind)
    digest = scene.image()
    content = scene.content(digest)
    scene.sign(digest, by)
    assert (await scene.judge(keys=(by.public,))).evidence[0].kind == "cosign tag"
    del scene.registry.tags[REPOSITORY, f"{digest.replace(':', '-')}.sig"]
    for bundle in (message_bundle(by, content), dsse_bundle(by, statement(digest))):
        made = scene.registry.attach(REPOSITORY, digest, bundle)
        [evidence] = (await Scene(registry=scene.registry).judge(keys=(by.public,))).evidence
        assert (evidence.kind, evidence.good, evidence.digest) == ("sigstore bundle", True, digest)
        del scene.registry.manifests[REPOSITORY, made]


async def test_a_key_on_p384_may_hash_with_either(scene: Scene) -> None:
    by = key("p384.pub", "p384")
    digest = scene.image()
    payload = simple_signing(digest)
    scene.sign(digest, by, payload=payload, signature=by.sign(payload, hash_=hashes.SHA384()))
    assert (await scene.judge(keys=(by.public,))).allowed


async def test_pss_is_refused_by_its_name(scene: Scene) -> None:
    by = key("rsa.pub", "rsa")
    digest = scene.image()
    payload = simple_signing(digest)
    scene.sign(digest, by, payload=payload, signature=by.sign(payload, pss=True))
    code, why = await scene.refused(keys=(by.public,))
    assert code == Refusal.WRONG_KEY and "PSS" in why


@pytest.mark.parametrize(
    "private", [ec.generate_private_key(ec.SECP521R1()), rsa.generate_private_key(65537, 1024)], ids=["p521", "rsa1024"]
)
async def test_other_keys_are_refused_by_their_name(scene: Scene, private: Any) -> None:
    by = SigningKey("odd.pub", private=private)
    scene.sign(scene.image(), by)
    code, why = await scene.refused(keys=(by.public,))
    assert code == Refusal.WRONG_KEY and ("secp521r1" in why or "1024 bits" in why)


@pytest.mark.parametrize("media_type", [OLD_BUNDLE.format(1), OLD_BUNDLE.format(2), OLD_BUNDLE.format(3)])
@pytest.mark.parametrize("referrers", [True, False], ids=["api", "fallback"])
async def test_bundles_of_each_version_by_api_and_by_fallback(media_type: str, referrers: bool) -> None:
    scene = Scene(registry=FakeRegistry(referrers=referrers))
    digest = scene.index()
    scene.attach(digest, message_bundle(scene.key, scene.content(digest), media_type=media_type), artifact_type=media_type)
    verdict = await scene.judge()
    assert verdict.allowed and len(verdict.manifests) == 2
    await scene.aclose()


async def test_the_fallback_works_without_types_in_its_list_and_beside_other_things() -> None:
    scene = Scene(registry=FakeRegistry(referrers=False))
    digest = scene.image()
    scene.attach(digest, b"a bill of materials", artifact_type="application/spdx+json")
    scene.attach(digest, b"another", artifact_type="application/spdx+json", listed=False)
    scene.attach(digest, dsse_bundle(scene.key, statement(digest)), listed=False)
    verdict = await scene.judge()
    assert verdict.allowed and len(verdict.evidence) == 1
    await scene.aclose()


async def test_pages_of_referrers_are_followed() -> None:
    scene = Scene(registry=FakeRegistry(page=1))
    digest = scene.image()
    for seed in ("a", "b"):
        scene.attach(digest, dsse_bundle(key("other.pub"), statement(digest, predicate=seed)))
    scene.attach(digest, dsse_bundle(scene.key, statement(digest)))
    verdict = await scene.judge()
    assert verdict.allowed and len(verdict.evidence) == 3
    await scene.aclose()


async def test_a_web_page_in_place_of_the_api_means_the_fallback() -> None:
    scene = Scene(registry=FakeRegistry(referrers=False))
    digest = scene.image()
    scene.attach(digest, message_bundle(scene.key, scene.content(digest)))
    scene.registry.fault("/referrers/", status=200, body=b"<html>", headers={"content-type": "text/html"})
    assert (await scene.judge()).allowed
    await scene.aclose()


async def test_cosign_2_may_attach_its_manifest_of_signatures_as_a_referrer(scene: Scene) -> None:
    digest = scene.image()
    payload = simple_signing(digest)
    row = {
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": scene.registry.blob(REPOSITORY, payload),
        "size": len(payload),
        "annotations": {"dev.cosignproject.cosign/signature": b64encode(scene.key.sign(payload)).decode()},
    }
    config = {"mediaType": "application/vnd.dev.cosign.artifact.sig.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}
    value = {"schemaVersion": 2, "config": config, "layers": [row], "subject": scene.registry.entry(REPOSITORY, digest)}
    scene.registry.manifest(REPOSITORY, value)
    assert (await scene.judge()).allowed


async def test_a_message_of_ours_for_another_image_is_told_apart_from_a_strangers(scene: Scene) -> None:
    digest, other = scene.image(), scene.image("old", seed="old")
    scene.attach(digest, message_bundle(scene.key, scene.content(other)))
    assert (await scene.refused())[0] == Refusal.WRONG_DIGEST
    assert (await scene.refused(keys=(key("other.pub").public,)))[0] == Refusal.WRONG_KEY


async def test_a_message_that_lies_about_its_digest_is_refused(scene: Scene) -> None:
    digest, other = scene.image(), scene.image("old", seed="old")
    scene.attach(digest, message_bundle(scene.key, scene.content(other), digest=digest))
    assert (await scene.refused())[0] == Refusal.WRONG_KEY


async def test_a_statement_for_another_image_is_refused(scene: Scene) -> None:
    digest, other = scene.image(), scene.image("old", seed="old")
    scene.attach(digest, dsse_bundle(scene.key, statement(other)))
    code, why = await scene.refused()
    assert code == Refusal.WRONG_DIGEST and other[:19] in why
    scene.attach(digest, dsse_bundle(scene.key, statement(other, digest)))
    assert (await scene.judge()).allowed


async def test_an_envelope_of_another_kind_is_no_statement(scene: Scene) -> None:
    digest = scene.image()
    scene.attach(digest, dsse_bundle(scene.key, statement(digest), kind="text/plain"))
    code, why = await scene.refused()
    assert code == Refusal.UNREADABLE and "text/plain" in why


async def test_an_envelope_with_two_signatures_is_refused(scene: Scene) -> None:
    digest = scene.image()
    bundle = json.loads(dsse_bundle(scene.key, statement(digest)))
    bundle["dsseEnvelope"]["signatures"] *= 2
    scene.attach(digest, packed(bundle))
    assert (await scene.refused())[0] == Refusal.UNREADABLE


async def test_a_keyless_signature_in_the_tag_form_says_what_to_do(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, key("ephemeral"), annotations={"dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----"})
    rule = scene.rule(keys=(), identities=(Identity("https://issuer.test", "*"),))
    code, why = await scene.refused(rule=rule)
    assert code == Refusal.WRONG_IDENTITY and "--new-bundle-format" in why


# Provenance

BUILDER = "https://github.com/acme/ci/.github/workflows/image.yml@refs/heads/main"
ASKED = Provenance("https://github.com/acme/ci/*", "https://github.com/acme/gpu")


@pytest.mark.parametrize("form", [slsa_1, slsa_0_2])
@pytest.mark.parametrize(
    "source",
    ["https://github.com/acme/gpu", "git+https://github.com/acme/gpu@refs/heads/main", "https://github.com/acme/gpu.git"],
)
async def test_provenance_that_fits(scene: Scene, form: Any, source: str) -> None:
    digest = scene.image(signed=True)
    scene.attach(digest, dsse_bundle(scene.key, form(digest, builder=BUILDER, source=source)))
    verdict = await scene.judge(provenance=ASKED)
    assert verdict.allowed
    assert verdict.checks[-1].what == "provenance"
    assert verdict.evidence[-1].kind == "provenance" and BUILDER in verdict.evidence[-1].detail


async def test_a_pool_that_asks_for_provenance_gets_none(scene: Scene) -> None:
    digest = scene.image(signed=True)
    assert (await scene.refused(provenance=ASKED))[0] == Refusal.NO_PROVENANCE
    said = slsa_1(digest, builder=BUILDER, source=ASKED.source)
    scene.attach(digest, dsse_bundle(key("other.pub"), said))
    assert (await scene.refused(provenance=ASKED))[0] == Refusal.NO_PROVENANCE


@pytest.mark.parametrize(
    ("builder", "source", "word"),
    [
        ("https://github.com/evil/ci/x", ASKED.source, "builder"),
        (BUILDER, "https://github.com/acme/gpu-evil", "source"),
        (BUILDER, "https://github.com@evil.test/acme/gpu", "source"),
        (BUILDER, "https://evil.test/https://github.com/acme/gpu", "source"),
        ("", ASKED.source, "builder"),
    ],
)
async def test_provenance_that_does_not_fit(scene: Scene, builder: str, source: str, word: str) -> None:
    digest = scene.image(signed=True)
    scene.attach(digest, dsse_bundle(scene.key, slsa_1(digest, builder=builder, source=source)))
    code, why = await scene.refused(provenance=ASKED)
    assert code == Refusal.WRONG_PROVENANCE and f"its {word} is" in why


async def test_provenance_alone_signs_where_it_is_asked_for_and_nowhere_else(scene: Scene) -> None:
    digest = scene.image()
    scene.attach(digest, dsse_bundle(scene.key, slsa_1(digest, builder=BUILDER, source=ASKED.source)))
    assert (await scene.judge(provenance=ASKED)).allowed
    code, why = await scene.refused()
    assert code == Refusal.UNSIGNED and "states how the image was made" in why
    assert (await scene.refused(provenance=Provenance(builder="elsewhere")))[0] == Refusal.WRONG_PROVENANCE


async def test_provenance_in_the_tag_form_of_cosign_2(scene: Scene) -> None:
    digest = scene.image(signed=True)
    scene.registry.attest(REPOSITORY, digest, envelope(scene.key, slsa_0_2(digest, builder=BUILDER, source=ASKED.source)))
    assert (await scene.judge(provenance=ASKED)).allowed


async def test_old_provenance_counts_no_more(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, optional={"timestamp": int(scene.clock.now().timestamp())})
    scene.attach(digest, dsse_bundle(scene.key, slsa_1(digest, builder=BUILDER, source=ASKED.source)))
    code, why = await scene.refused(provenance=ASKED, oldest=timedelta(days=1))
    assert code == Refusal.NO_PROVENANCE and "Nothing proves when" in why


@pytest.mark.parametrize(
    ("outside", "dependencies", "fits"),
    [
        ({"source": "git+https://github.com/acme/gpu@refs/tags/v1"}, [], True),
        ({"source": {"uri": "https://github.com/acme/gpu"}}, [], True),
        ({"configSource": {"uri": "https://github.com/acme/gpu.git#main"}}, [], True),
        ({}, [{"uri": "git+https://github.com/acme/gpu@refs/heads/main"}], True),
        ({}, [{"uri": "https://elsewhere.test"}, {"uri": "https://github.com/acme/gpu"}], False),
        ({"source": "https://elsewhere.test"}, [{"uri": "https://github.com/acme/gpu"}], False),
    ],
)
async def test_where_a_builder_may_name_its_source(scene: Scene, outside: Any, dependencies: Any, fits: bool) -> None:
    digest = scene.image(signed=True)
    definition = {"externalParameters": outside, "resolvedDependencies": dependencies}
    predicate = {"buildDefinition": definition, "runDetails": {"builder": {"id": BUILDER}}}
    said = statement(digest, predicate_type="https://slsa.dev/provenance/v1", predicate=predicate)
    scene.attach(digest, dsse_bundle(scene.key, said))
    assert (await scene.judge(provenance=ASKED)).code == ("" if fits else Refusal.WRONG_PROVENANCE)
