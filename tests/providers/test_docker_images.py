"""Images by digest: a real engine pulls from a registry that wants a login, and from one whose bytes were changed."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.demo.layout import MANIFEST_TYPE
from providers.contract import ImageLogin, Order, Phase, Refused, Secret
from providers.docker import DockerProvider
from providers.docker_engine import registry_auth
from tests import parts
from tests.fakes import pulls
from tests.parts import docker as docker_part
from tests.providers.benches import DockerBench


@pytest.fixture
def shelf(docker_host: str, tmp_path: Path) -> Iterator[pulls.Shelf]:
    archive = docker_part.busybox_archive() or parts.lacks("busybox", "install busybox-static")
    with pulls.shelf(docker_host, tmp_path, archive) as made:
        yield made


@pytest.fixture
async def bench(docker_host: str, docker_image: str) -> AsyncIterator[DockerBench]:
    stand = DockerBench(docker_host, docker_image)
    yield stand
    await stand.aclose()


def pulling(bench: DockerBench) -> DockerProvider:
    provider = DockerProvider("docker", replace(bench.settings, pull=True))
    bench.keep(provider)
    return provider


def order(bench: DockerBench, shelf: pulls.Shelf, login: ImageLogin | None = None) -> Order:
    return replace(bench.order(), image=shelf.reference, login=login)


def running_image(bench: DockerBench, container: str) -> tuple[str, list[str]]:
    """What the container was made from: its image's id, and the digests under which that is known."""
    made = docker_part.call(bench.host, "GET", f"/containers/{container}/json").json()["Image"]
    return made, docker_part.call(bench.host, "GET", f"/images/{made}/json").json()["RepoDigests"]


async def test_the_container_runs_from_exactly_the_digest(bench: DockerBench, shelf: pulls.Shelf) -> None:
    instance = await pulling(bench).create(order(bench, shelf))
    assert instance.phase is Phase.RUNNING
    made, known = running_image(bench, instance.id)
    assert made == json.loads(shelf.manifest.read_bytes())["config"]["digest"]
    assert shelf.reference in known


async def test_a_tag_that_moved_meanwhile_changes_nothing(bench: DockerBench, shelf: pulls.Shelf) -> None:
    asked = order(bench, shelf)
    manifest = json.loads(shelf.manifest.read_bytes())
    other = shelf.layout.add(MANIFEST_TYPE, json.dumps({**manifest, "annotations": {"evil": "yes"}}).encode())
    before = {"mediaType": MANIFEST_TYPE, "digest": shelf.digest, "size": shelf.manifest.stat().st_size}
    shelf.layout.name({"v1": other, "was": before})
    instance = await pulling(bench).create(asked)
    assert shelf.reference in running_image(bench, instance.id)[1]


async def test_bytes_that_are_not_their_digest_are_not_run(bench: DockerBench, shelf: pulls.Shelf) -> None:
    path = shelf.manifest
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion":  2'))
    with pytest.raises(Refused, match="cannot pull"):
        await pulling(bench).create(order(bench, shelf))
    assert await pulling(bench).owned(bench.order.owner) == []


async def test_a_name_and_a_password_are_shown_to_the_registry(bench: DockerBench, shelf: pulls.Shelf) -> None:
    shelf.porter.challenge = 'Basic realm="registry"'
    shelf.porter.expected = "Basic " + base64.b64encode(b"puller:open-sesame").decode()
    with pytest.raises(Refused, match="cannot pull"):
        await pulling(bench).create(order(bench, shelf))
    wrong = ImageLogin(shelf.host, Secret("open-barley"), "puller")
    with pytest.raises(Refused, match="cannot pull") as told:
        await pulling(bench).create(order(bench, shelf, wrong))
    assert "open-barley" not in str(told.value)
    right = ImageLogin(shelf.host, Secret("open-sesame"), "puller")
    assert (await pulling(bench).create(order(bench, shelf, right))).phase is Phase.RUNNING
    assert set(shelf.porter.shown) == {shelf.porter.expected}


async def test_a_short_lived_token_is_shown_as_it_is(bench: DockerBench, shelf: pulls.Shelf) -> None:
    shelf.porter.challenge = f'Bearer realm="http://{shelf.host}/token",service="registry"'
    shelf.porter.expected = "Bearer one-repository-five-minutes"
    login = ImageLogin(shelf.host, Secret("one-repository-five-minutes"))
    assert (await pulling(bench).create(order(bench, shelf, login))).phase is Phase.RUNNING
    assert set(shelf.porter.shown) == {shelf.porter.expected}


async def test_a_login_stays_in_no_container_and_in_no_text(bench: DockerBench, shelf: pulls.Shelf) -> None:
    login = ImageLogin(shelf.host, Secret("open-sesame"), "puller")
    instance = await pulling(bench).create(order(bench, shelf, login))
    assert "open-sesame" not in docker_part.call(bench.host, "GET", f"/containers/{instance.id}/json").text
    assert "open-sesame" not in f"{login} {order(bench, shelf, login)!r} {registry_auth(login)}"
