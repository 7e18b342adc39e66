"""One image for several platforms: its own signature covers all of them, or each needs one."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.images import Refusal
from tests.fakes.signer import dsse_bundle, packed, statement
from tests.trust.scene import REPOSITORY, Scene, key

UNKNOWN = {"architecture": "unknown", "os": "unknown"}


async def test_the_signature_of_the_index_covers_every_platform(scene: Scene) -> None:
    digest = scene.index(signed=True)
    verdict = await scene.judge()
    assert verdict.allowed and verdict.digest == digest
    assert [architecture for architecture, _, _ in verdict.manifests] == ["amd64", "arm64"]
    assert [manifest for _, manifest, _ in verdict.manifests] == scene.registry.platforms(REPOSITORY, digest)


async def test_signatures_of_every_platform_are_as_good(scene: Scene) -> None:
    digest = scene.index()
    amd, arm = scene.registry.platforms(REPOSITORY, digest)
    scene.sign(amd)
    scene.attach(arm, dsse_bundle(scene.key, statement(arm)))
    verdict = await scene.judge()
    assert verdict.allowed
    assert {one.digest for one in verdict.evidence} == {amd, arm}


async def test_one_unsigned_platform_refuses_the_index(scene: Scene) -> None:
    digest = scene.index()
    amd, arm = scene.registry.platforms(REPOSITORY, digest)
    scene.sign(amd)
    code, why = await scene.refused()
    assert code == Refusal.PLATFORM_UNSIGNED
    assert "its platform arm64" in why and arm[:19] in why


async def test_one_platform_with_a_strangers_signature_refuses_the_index(scene: Scene) -> None:
    digest = scene.index()
    amd, arm = scene.registry.platforms(REPOSITORY, digest)
    scene.sign(amd)
    scene.sign(arm, key("other.pub"))
    assert (await scene.refused())[0] == Refusal.WRONG_KEY


async def test_an_index_without_any_signature_is_unsigned(scene: Scene) -> None:
    scene.index()
    assert (await scene.refused())[0] == Refusal.UNSIGNED


async def test_a_signature_moved_from_a_platform_to_the_index_is_refused(scene: Scene) -> None:
    digest = scene.index()
    amd, _ = scene.registry.platforms(REPOSITORY, digest)
    scene.sign(digest, says=amd)
    assert (await scene.refused())[0] == Refusal.WRONG_DIGEST


async def test_where_all_must_sign_each_covers_everything(scene: Scene) -> None:
    second = key("release.pub", "ed25519")
    digest = scene.index()
    amd, arm = scene.registry.platforms(REPOSITORY, digest)
    both: dict[str, Any] = {"keys": (scene.key.public, second.public), "need_all": True}
    scene.sign(digest)
    scene.sign(amd, second)
    assert (await scene.refused(**both))[0] == Refusal.WRONG_KEY
    scene.sign(arm, second)
    assert (await scene.judge(**both)).allowed


async def test_platforms_that_linux_cannot_start_need_no_signature(scene: Scene) -> None:
    attestation = scene.registry.image(REPOSITORY, seed="attestation")
    windows = scene.registry.image(REPOSITORY, system="windows", seed="w")
    extra = [
        {**scene.registry.entry(REPOSITORY, attestation), "platform": UNKNOWN},
        {**scene.registry.entry(REPOSITORY, windows), "platform": {"architecture": "amd64", "os": "windows"}},
    ]
    digest = scene.index(extra=extra)
    for manifest in scene.registry.platforms(REPOSITORY, digest)[:2]:
        scene.sign(manifest)
    verdict = await scene.judge()
    assert verdict.allowed and len(verdict.manifests) == 2


@pytest.mark.parametrize("platform", [None, {}, {"os": "", "architecture": "amd64"}, {"os": "LINUX", "architecture": "x86_64"}])
async def test_an_entry_that_linux_might_start_needs_one(scene: Scene, platform: Any) -> None:
    """containerd takes an entry without a platform, or without a system, for a match."""
    sneaked = scene.registry.image(REPOSITORY, seed="sneaked")
    row = scene.registry.entry(REPOSITORY, sneaked)
    digest = scene.index(extra=[row if platform is None else {**row, "platform": platform}])
    *honest, last = scene.registry.platforms(REPOSITORY, digest)
    for manifest in honest:
        scene.sign(manifest)
    assert last == sneaked
    assert (await scene.refused())[0] == Refusal.PLATFORM_UNSIGNED
    scene.sign(sneaked)
    verdict = await scene.judge()
    assert verdict.allowed and verdict.manifests[-1][:2] == ("amd64", sneaked)


@pytest.mark.parametrize(
    "wrong",
    [
        {"manifests": None},
        {"manifests": {}},
        {"manifests": []},
        {"manifests": [1]},
        {"schemaVersion": 1},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json"},
        {"layers": []},
        {"config": {}},
        {"Manifests": []},
        {"MEDIATYPE": "x"},
    ],
)
async def test_an_index_that_could_be_read_in_two_ways_is_refused(scene: Scene, wrong: dict[str, Any]) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    digest = scene.image()
    row = {**scene.registry.entry(REPOSITORY, digest), "platform": {"architecture": "amd64", "os": "linux"}}
    value = {"schemaVersion": 2, "mediaType": kind, "manifests": [row], **wrong}
    made = scene.registry.manifest(REPOSITORY, value, kind, "v3")
    scene.sign(made)
    scene.sign(digest)
    assert (await scene.refused())[0] == Refusal.UNREADABLE


async def test_names_twice_in_one_object_are_refused(scene: Scene) -> None:
    digest = scene.image()
    row = packed({**scene.registry.entry(REPOSITORY, digest), "platform": {"architecture": "amd64", "os": "linux"}})
    raw = b'{"schemaVersion":2,"manifests":[],"manifests":[' + row + b"]}"
    scene.sign(scene.registry.manifest(REPOSITORY, raw, "application/vnd.oci.image.index.v1+json", "v3"))
    code, why = await scene.refused()
    assert code == Refusal.UNREADABLE and "twice" in why


async def test_an_index_in_an_index_is_refused(scene: Scene) -> None:
    inner = scene.index("inner", signed=True)
    outer = scene.index(
        extra=[{**scene.registry.entry(REPOSITORY, inner), "platform": {"architecture": "amd64", "os": "linux"}}]
    )
    scene.sign(outer)
    assert (await scene.refused())[0] == Refusal.UNREADABLE


async def test_dockers_own_types_are_read_as_well(scene: Scene) -> None:
    scene.index(signed=True, docker=True)
    assert (await scene.judge()).allowed
    scene.image("single", signed=True, docker=True)
    assert (await scene.judge("registry.test/ci/gpu:single")).allowed


async def test_an_image_for_another_system_is_refused(scene: Scene) -> None:
    scene.image(signed=True, system="windows")
    code, why = await scene.refused()
    assert code == Refusal.UNREADABLE and "windows" in why


async def test_a_chart_is_no_image(scene: Scene) -> None:
    config = scene.registry.blob(REPOSITORY, b'{"name":"chart"}')
    row = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": config, "size": 16}
    scene.sign(scene.registry.manifest(REPOSITORY, {"schemaVersion": 2, "config": row, "layers": []}, tag="v3"))
    code, why = await scene.refused()
    assert code == Refusal.UNREADABLE and "no container image" in why


async def test_a_type_that_the_registry_makes_up_is_refused(scene: Scene) -> None:
    digest = scene.index(signed=True)
    scene.registry.fault(f"manifests/{digest}", content_type="application/vnd.oci.image.manifest.v1+json")
    assert (await scene.refused())[0] == Refusal.UNREADABLE
