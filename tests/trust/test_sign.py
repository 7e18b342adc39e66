"""Signing for teams that have nothing yet, and every reason why it may not come to it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.trust.access import RegistryAccess
from app.trust.faults import RegistryAway
from app.trust.sign import CannotSign, Signed, sign
from providers.contract import Secret
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import SigningKey
from tests.trust.scene import REPOSITORY, Scene, key


async def signed(scene: Scene, pem: str = "", password: Secret | None = None, reference: str = "") -> Signed:
    access = {scene.registry.host: RegistryAccess(scene.registry.host, username="robot", password=Secret("hunter-2-hunter"))}
    name = reference or f"{scene.name}:v3"
    return await sign(name, pem or scene.key.pem(), password, access, scene.clock, client=scene.client)


@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
async def test_what_is_signed_may_run(auth: str) -> None:
    scene = Scene(registry=FakeRegistry(auth=auth), username="robot", password=Secret("hunter-2-hunter"))
    digest = scene.index()
    made = await signed(scene)
    assert made.reference == f"registry.test/ci/gpu@{digest}" and made.tag == f"{digest.replace(':', '-')}.sig"
    verdict = await scene.judge()
    assert verdict.allowed and made.fingerprint in verdict.evidence[0].signer
    assert verdict.evidence[0].signed_at == scene.clock.now()
    if auth == "bearer":
        assert "repository:ci/gpu:pull,push" in scene.registry.tokens.values()
    await scene.aclose()


async def test_it_stands_beside_what_is_there_and_only_once(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, key("other.pub"))
    scene.sign(digest, payload=b"not for us")
    assert (await signed(scene)).count == 3
    again = await signed(scene)
    assert (again.count, again.fresh) == (3, False)
    assert len((await scene.judge()).evidence) == 3


async def test_a_digest_can_be_signed_without_a_tag(scene: Scene) -> None:
    digest = scene.image("")
    assert (await signed(scene, reference=f"{scene.name}@{digest}")).digest == digest


async def test_a_key_with_a_password(scene: Scene) -> None:
    scene.image()
    locked = scene.key.pem("correct horse")
    assert (await signed(scene, locked, Secret("correct horse"))).fresh
    for pem, password, why in (
        (locked, None, "has a password, and none was given"),
        (locked, Secret("wrong"), "or the password is wrong"),
        (scene.key.pem(), Secret("needless"), "has no password, and one was given"),
    ):
        with pytest.raises(CannotSign, match=why):
            await signed(scene, pem, password)


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        ("nonsense", "no private key in PEM form"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "sign with cosign"),
        (key().public.pem, "no private key in PEM form"),
        (SigningKey(private=ec.generate_private_key(ec.SECP521R1())).pem(), "secp521r1"),
        (SigningKey(private=rsa.generate_private_key(65537, 1024)).pem(), "1024 bits"),
    ],
    ids=["nonsense", "cosign", "public", "p521", "rsa1024"],
)
async def test_keys_that_cannot_sign(scene: Scene, pem: str, why: str) -> None:
    scene.image()
    with pytest.raises(CannotSign, match=why):
        await signed(scene, pem)


async def test_what_cannot_be_signed(scene: Scene) -> None:
    with pytest.raises(CannotSign, match="has no v3"):
        await signed(scene)
    with pytest.raises(CannotSign, match="not among the registries"):
        await signed(scene, reference="elsewhere.test/ci/gpu:v3")
    with pytest.raises(CannotSign, match="no image reference"):
        await signed(scene, reference="registry.test/CI")
    digest = scene.image()
    scene.registry.manifest(REPOSITORY, b"{}", tag=f"{digest.replace(':', '-')}.sig")
    with pytest.raises(CannotSign, match="schema version 2"):
        await signed(scene)


async def test_a_registry_that_takes_nothing(scene: Scene) -> None:
    scene.image()
    for status, fails in ((405, CannotSign), (403, RegistryAway), (503, RegistryAway)):
        fault = scene.registry.fault("", method="PUT", status=status)
        with pytest.raises(fails):
            await signed(scene)
        fault.times = 0
    away = scene.registry.fault("uploads", method="POST", status=202, headers={"location": "https://elsewhere.test/upload"})
    with pytest.raises(RegistryAway, match="another address"):
        await signed(scene)
    away.times = 0
    assert (await signed(scene)).fresh
