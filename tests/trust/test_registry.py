"""Registries as they are: logins, token services, redirects, mirrors, and answers that nobody should swallow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.core.images import Refusal
from app.trust.faults import RegistryAway
from providers.contract import Secret
from tests.fakes.registry import FakeRegistry, Wire, login_of
from tests.trust.scene import REPOSITORY, Scene

LOGIN: dict[str, Any] = {"username": "robot", "password": Secret("hunter-2-hunter")}


def stranger(host: str) -> FakeRegistry:
    """Another host on the wire, to see what is sent to it."""
    return FakeRegistry(host)


# Away: wait, never allow


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["manifests/v3", "manifests/sha256:", ".sig", "/blobs/"])
async def test_a_registry_that_does_not_say_means_wait(scene: Scene, status: int, path: str) -> None:
    scene.image(signed=True)
    scene.registry.fault(path, status=status)
    with pytest.raises(RegistryAway) as caught:
        await scene.judge()
    assert "registry.test" in str(caught.value) and caught.value.wait >= timedelta(seconds=1)
    scene.registry.faults.clear()
    assert (await scene.judge()).allowed


async def test_a_registry_that_is_down_means_wait(scene: Scene) -> None:
    scene.image(signed=True)
    scene.registry.down = True
    with pytest.raises(RegistryAway, match=r"registry\.test cannot be reached"):
        await scene.judge()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("7", 7), ("0", 1), ("999999", 3600), ("soon", 30), ("", 30), ("Sat, 21 Nov 2026 12:02:00 GMT", 120), ("99999999999", 30)],
)
async def test_how_long_to_wait_is_the_registrys_to_say(scene: Scene, written: str, seconds: int) -> None:
    scene.registry.fault("manifests", status=429, headers={"retry-after": written})
    with pytest.raises(RegistryAway, match="throttles us") as caught:
        await scene.judge()
    assert caught.value.wait == timedelta(seconds=seconds)


@pytest.mark.parametrize("status", [400, 405, 418])
async def test_an_answer_that_makes_no_sense_means_wait(scene: Scene, status: int) -> None:
    digest = scene.image(signed=True)
    scene.registry.fault(f"manifests/{digest}", status=status)
    with pytest.raises(RegistryAway, match=str(status)):
        await scene.judge()


async def test_a_registry_that_does_not_know_head_or_names_no_digest(scene: Scene) -> None:
    digest = scene.image(signed=True)
    scene.registry.digest_header = False
    assert (await scene.judge()).digest == digest
    scene.registry.fault("manifests/v3", method="HEAD", status=405)
    assert (await scene.judge()).digest == digest
    scene.registry.faults.clear()
    scene.registry.fault("manifests/v3", method="HEAD", headers={"docker-content-digest": "sha256:nonsense"})
    assert (await scene.judge()).digest == digest


# Too much


async def test_more_bytes_than_a_manifest_ever_has(scene: Scene) -> None:
    digest = scene.image(signed=True)
    scene.registry.fault(f"manifests/{digest}", swell=5 * 1024 * 1024)
    code, why = await scene.refused()
    assert code == Refusal.UNREADABLE and "more than 4194304 bytes" in why


async def test_more_bytes_than_a_signature_ever_has(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, payload=b" " * (1024 * 1024 + 1))
    assert (await scene.refused())[0] == Refusal.UNREADABLE


async def test_a_flood_of_signatures_is_not_waded_through(scene: Scene) -> None:
    digest = scene.image()
    row = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest, "size": 1}
    scene.registry.manifest(
        REPOSITORY, {"schemaVersion": 2, "config": row, "layers": [row] * 65}, tag=f"{digest.replace(':', '-')}.sig"
    )
    scene.registry.seen.clear()
    assert (await scene.refused())[0] == Refusal.UNREADABLE
    assert len(scene.registry.seen) < 8


# Logins


async def test_a_login_is_sent_where_it_is_asked_for() -> None:
    scene = Scene(registry=FakeRegistry(auth="basic"), **LOGIN)
    scene.image(signed=True)
    assert (await scene.judge()).allowed
    first, *rest = scene.registry.seen
    assert (first.status, first.authorization) == (401, "")
    assert {login_of(one.authorization) for one in rest} == {("robot", "hunter-2-hunter")}
    await scene.aclose()


async def test_a_token_is_fetched_once_and_asks_only_to_pull() -> None:
    scene = Scene(registry=FakeRegistry(auth="bearer"), **LOGIN)
    scene.image(signed=True)
    assert (await scene.judge()).allowed
    [token] = [one for one in scene.registry.seen if one.path == "/token"]
    assert login_of(token.authorization) == ("robot", "hunter-2-hunter")
    assert list(scene.registry.tokens.values()) == ["repository:ci/gpu:pull"]
    assert all(not one.authorization.startswith("Basic") for one in scene.registry.seen if one.path != "/token")
    scene.registry.seen.clear()
    assert (await scene.judge()).allowed
    assert scene.registry.asked() == ["HEAD /v2/ci/gpu/manifests/v3"]
    await scene.aclose()


async def test_a_token_that_has_ended_is_fetched_anew() -> None:
    scene = Scene(registry=FakeRegistry(auth="bearer"), cache_for=timedelta(0), **LOGIN)
    scene.image(signed=True)
    await scene.judge()
    scene.clock.advance(timedelta(minutes=6))
    await scene.judge()
    assert len(scene.registry.tokens) == 2
    scene.registry.tokens.clear()  # the registry forgets earlier than it said
    assert (await scene.judge()).allowed
    await scene.aclose()


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_wrong_or_missing_login_means_wait_and_says_so(auth: str) -> None:
    scene = Scene(registry=FakeRegistry(auth=auth), username="robot", password=Secret("wrong-wrong"))
    scene.image(signed=True)
    with pytest.raises(RegistryAway, match="refuses the login of the settings") as caught:
        await scene.judge()
    assert "wrong-wrong" not in str(caught.value)
    await scene.aclose()
    scene = Scene(registry=scene.registry)
    with pytest.raises(RegistryAway, match="the settings have none"):
        await scene.judge()
    await scene.aclose()


async def test_a_stranger_may_pull_what_is_public() -> None:
    scene = Scene(registry=FakeRegistry(auth="bearer", anonymous=True))
    scene.image(signed=True)
    assert (await scene.judge()).allowed
    assert scene.registry.seen[1].authorization == ""
    await scene.aclose()


async def test_a_token_service_may_have_a_host_of_its_own() -> None:
    registry = FakeRegistry(auth="bearer")
    registry.realm = "https://auth.test/token?account=x"
    scene = Scene(registry=registry, client=Wire(registry, others={"auth.test": registry}).client(), **LOGIN)
    scene.image(signed=True)
    assert (await scene.judge()).allowed
    [token] = [one for one in registry.seen if one.path == "/token"]
    assert token.host == "auth.test" and "account=x" in token.query and "service=registry.test" in token.query
    await scene.aclose()


@pytest.mark.parametrize(
    "realm",
    [
        "http://registry.test/token",
        "http://auth.test/token",
        "https://localhost/token",
        "https://127.0.0.1/token",
        "https://[::1]/token",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.7/token",
        "https://2130706433/token",
        "https://0x7f.1/token",
        "https://user:pass@auth.test/token",
        "file:///etc/passwd",
        "//auth.test/token",
        "not an address",
        "https://",
    ],
)
async def test_no_login_goes_to_a_token_service_at_an_odd_address(realm: str) -> None:
    registry = FakeRegistry(auth="bearer")
    registry.realm = realm
    hosts = ["auth.test", "localhost", "127.0.0.1", "::1", "169.254.169.254", "10.0.0.7", "2130706433", "0x7f.1"]
    others = {host: stranger(host) for host in hosts}
    scene = Scene(registry=registry, client=Wire(registry, others=others).client(), **LOGIN)
    scene.image(signed=True)
    with pytest.raises(RegistryAway):
        await scene.judge()
    assert all(one.seen == [] for one in others.values())
    assert not any("/token" in one.path for one in registry.seen)
    await scene.aclose()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"token":""}', b'{"token":"a b"}', b"[", b'{"token":"x"}' + b" " * 70_000])
async def test_a_token_service_that_gives_no_token_means_wait(body: bytes) -> None:
    scene = Scene(registry=FakeRegistry(auth="bearer"), **LOGIN)
    scene.image(signed=True)
    scene.registry.fault("/token", status=200, body=body)
    with pytest.raises(RegistryAway):
        await scene.judge()
    await scene.aclose()


# Redirects


async def test_blobs_may_lie_elsewhere_and_no_login_goes_there() -> None:
    registry, store = FakeRegistry(auth="basic"), stranger("store.test")
    scene = Scene(store, registry=registry, **LOGIN)
    scene.image(signed=True)
    store.blobs = registry.blobs
    registry.fault("/blobs/", redirect="https://store.test{path}?signed=yes")
    assert (await scene.judge()).allowed
    assert len(store.seen) == 2
    assert {(one.authorization, one.query) for one in store.seen} == {("", "signed=yes")}
    await scene.aclose()


async def test_where_a_redirect_leads_is_checked_like_everything_else(scene: Scene) -> None:
    scene.image(signed=True)
    scene.registry.fault("/blobs/", redirect="/v2/ci/gpu/manifests/v3", times=1)
    assert (await scene.refused())[0] == Refusal.TAMPERED


@pytest.mark.parametrize(
    "target",
    [
        "http://store.test{path}",
        "https://localhost{path}",
        "https://127.0.0.1{path}",
        "https://169.254.169.254{path}",
        "ftp://store.test{path}",
        "https://a:b@store.test{path}",
        "https://registry.test{path}",  # round in circles
        "http://[",
        "",
    ],
)
async def test_redirects_to_odd_addresses_are_not_followed(target: str) -> None:
    hosts = {host: stranger(host) for host in ("store.test", "localhost", "127.0.0.1", "169.254.169.254")}
    registry = FakeRegistry()
    scene = Scene(registry=registry, client=Wire(registry, others=hosts).client())
    scene.image(signed=True)
    for one in hosts.values():
        one.blobs = registry.blobs
    registry.fault("/blobs/", status=302, headers={"location": ""}) if not target else registry.fault(
        "/blobs/", redirect=target
    )
    with pytest.raises(RegistryAway):
        await scene.judge()
    assert all(one.seen == [] for one in hosts.values())
    assert len(registry.seen) < 10
    await scene.aclose()
