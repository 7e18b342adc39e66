"""Mirrors, which are never trusted for a name, and how a registry may be reached."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.images import TrustRule
from app.trust.access import RegistryAccess, forbidden
from app.trust.faults import RegistryAway
from providers.contract import Secret
from tests.fakes.registry import FakeRegistry, login_of
from tests.fakes.signer import digest_of
from tests.trust.scene import REPOSITORY, Scene

LOGIN: dict[str, Any] = {"username": "robot", "password": Secret("hunter-2-hunter")}


async def test_mirrors_are_asked_first_for_what_has_a_digest() -> None:
    mirror = FakeRegistry("mirror.test")
    scene = Scene(mirror, mirrors=("mirror.test",))
    digest = scene.image(signed=True)
    mirror.manifests, mirror.blobs = dict(scene.registry.manifests), dict(scene.registry.blobs)
    assert (await scene.judge()).reference == f"registry.test/ci/gpu@{digest}"
    assert scene.registry.asked("/blobs/") == [] and len(mirror.asked("/blobs/")) == 2
    assert scene.registry.asked("manifests/v3") == ["HEAD /v2/ci/gpu/manifests/v3"]
    assert mirror.asked("manifests/v3") == [] and mirror.asked(".sig") == []
    await scene.aclose()


@pytest.mark.parametrize(
    "fault", [{"status": 404}, {"status": 500}, {"status": 401}, {"tamper": True}, {"swell": 5_000_000}, None]
)
async def test_what_a_mirror_lacks_or_spoils_comes_from_the_registry(fault: dict[str, Any] | None) -> None:
    mirror = FakeRegistry("mirror.test")
    scene = Scene(mirror, mirrors=("mirror.test",))
    scene.image(signed=True)
    mirror.manifests, mirror.blobs = dict(scene.registry.manifests), dict(scene.registry.blobs)
    if fault is None:
        mirror.down = True
    else:
        mirror.fault("", **fault)
    assert (await scene.judge()).allowed
    await scene.aclose()


async def test_a_mirror_never_says_what_a_tag_means_unless_the_settings_say_so() -> None:
    mirror = FakeRegistry("mirror.test")
    scene = Scene(mirror, mirrors=("mirror.test",))
    new = scene.image(signed=True)
    old = mirror.image(REPOSITORY, "v3", seed="old")
    assert (await scene.judge()).digest == new
    scene.registry.down = True
    with pytest.raises(RegistryAway):
        await scene.judge()
    trusting = Scene(mirror, registry=scene.registry, mirrors=("mirror.test",), mirrors_resolve_tags=True)
    assert (await trusting.judge(rule=TrustRule(signed=False))).digest == old
    await scene.aclose()
    await trusting.aclose()


async def test_a_mirror_stands_in_for_a_registry_that_is_away_but_never_says_unsigned_for_it() -> None:
    mirror = FakeRegistry("mirror.test")
    scene = Scene(mirror, mirrors=("mirror.test",))
    digest = scene.image(signed=True)
    mirror.manifests, mirror.blobs = dict(scene.registry.manifests), dict(scene.registry.blobs)
    pinned = f"registry.test/ci/gpu@{digest}"
    scene.registry.down = True
    with pytest.raises(RegistryAway):
        await scene.judge(pinned)
    mirror.tags = dict(scene.registry.tags)
    assert (await scene.judge(pinned)).allowed
    await scene.aclose()


async def test_mirrors_may_be_for_some_regions() -> None:
    europe, anywhere = FakeRegistry("eu.test"), FakeRegistry("any.test")
    scene = Scene(europe, anywhere, mirrors=("eu-*=eu.test", "any.test"), cache_for=timedelta(0))
    scene.image(signed=True)
    await scene.judge(region="us-east-1")
    assert europe.seen == [] and len(anywhere.seen) == 3
    await scene.judge(region="eu-west-1")
    assert len(europe.seen) == 3
    await scene.aclose()


async def test_a_login_is_for_its_registry_and_never_for_a_mirror() -> None:
    registry, mirror = FakeRegistry(auth="basic"), FakeRegistry("mirror.test", auth="basic")
    scene = Scene(mirror, registry=registry, mirrors=("mirror.test",), **LOGIN)
    scene.image(signed=True)
    assert (await scene.judge()).allowed
    assert {one.authorization for one in mirror.seen} == {""}
    own = RegistryAccess("mirror.test", username="reader", password=Secret("its-own-login"))
    again = Scene(mirror, registry=registry, mirrors=("mirror.test",), accesses=(own,), **LOGIN)
    assert (await again.judge()).allowed
    assert {login_of(one.authorization) for one in mirror.seen if one.authorization} == {("reader", "its-own-login")}
    await scene.aclose()
    await again.aclose()


# Access


def test_plain_http_is_for_this_machine_alone() -> None:
    assert RegistryAccess("localhost:5000", plain_http=True).base == "http://localhost:5000"
    assert RegistryAccess("[::1]:5000", plain_http=True).base == "http://[::1]:5000"
    assert RegistryAccess("127.0.0.1:5000", plain_http=True).base == "http://127.0.0.1:5000"
    with pytest.raises(ValueError, match="only for registries on this machine"):
        RegistryAccess("registry.test", plain_http=True)
    assert RegistryAccess("docker.io").base == "https://registry-1.docker.io"
    assert "hunter" not in repr(RegistryAccess("registry.test", **LOGIN))


def test_an_authority_of_its_own_adds_to_the_usual_ones(tmp_path: Path) -> None:
    context = ssl.create_default_context()
    assert RegistryAccess("registry.test", ca=context).tls() is context
    broken = tmp_path / "ca.pem"
    broken.write_text("nothing", "utf-8")
    with pytest.raises(ssl.SSLError):
        RegistryAccess("registry.test", ca=broken).tls()


async def test_what_a_node_needs_to_pull(scene: Scene) -> None:
    digest = scene.image(signed=True)
    pinned = f"registry.test/ci/gpu@{digest}"
    assert await scene.trust.pull_access(pinned) is None
    bearer = Scene(registry=FakeRegistry(auth="bearer"), **LOGIN)
    lent = await bearer.trust.pull_access(pinned)
    assert lent is not None and lent.is_token and lent.until == bearer.clock.now() + timedelta(minutes=5)
    assert bearer.registry.tokens[lent.password.reveal()] == "repository:ci/gpu:pull"
    basic = Scene(registry=FakeRegistry(auth="basic"), **LOGIN)
    lent = await basic.trust.pull_access(pinned)
    assert lent is not None and (lent.username, lent.password.reveal(), lent.until) == ("robot", "hunter-2-hunter", None)
    for one in (bearer, basic):
        bare = Scene(registry=one.registry)
        assert await bare.trust.pull_access(pinned) is None
        await bare.aclose()
        one.registry.down = True
        with pytest.raises(RegistryAway):
            await one.trust.pull_access(pinned)
        await one.aclose()
    with pytest.raises(ValueError, match="not among the registries"):
        await scene.trust.pull_access(f"elsewhere.test/ci/gpu@{digest_of(b'')}")
    asked = len(scene.registry.seen)
    assert await scene.trust.pull_access(pinned) is None and len(scene.registry.seen) == asked, (
        "without a login nobody is asked"
    )


@pytest.mark.parametrize(
    ("target", "followed"),
    [
        ("https://registry.test/token", True),
        ("https://store.test/x", True),
        ("https://8.8.8.8/x", True),
        ("https://localhost./x", False),
        ("https://x.localhost/x", False),
        ("https://[::ffff:127.0.0.1]/x", False),
        ("https://[fe80::1]/x", False),
        ("https://0177.1/x", False),
        ("https://127.1/x", False),
        ("https://0.0.0.0/x", False),
        ("https://192.168.1.1/x", False),
    ],
)
def test_addresses_that_a_registry_may_send_us_to(target: str, followed: bool) -> None:
    assert (forbidden(httpx.URL(target), RegistryAccess("registry.test"), "it") == "") is followed
    loopback = RegistryAccess("127.0.0.1:5000", plain_http=True)
    assert forbidden(httpx.URL("http://127.0.0.1:5001/token"), loopback, "it") == ""
    assert forbidden(httpx.URL("http://store.test/x"), loopback, "it") == "it is not https"
