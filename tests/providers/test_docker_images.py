"""Images by digest: a real engine pulls from a registry that wants a login, and from one whose bytes were changed."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.demo import registry
from app.demo.layout import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Layout
from providers.contract import ImageLogin, Order, Phase, Refused, Secret
from providers.docker import DockerProvider
from providers.docker_engine import registry_auth
from tests import parts
from tests.fakes.served import served
from tests.parts import docker as docker_part
from tests.providers.benches import DockerBench

MACHINES = {"amd64": "amd64", "arm64": "arm64", "x86_64": "amd64", "aarch64": "arm64"}


@dataclass
class Porter:
    """In front of a registry: knows one login and one token, and writes down what it was shown."""

    app: ASGIApp
    challenge: str = ""
    expected: str = ""
    shown: list[str] = field(default_factory=list[str])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", [])).get(b"authorization", b"").decode()
        if scope["type"] != "http" or not self.expected or given == self.expected:
            self.shown += [given] if given else []
            await self.app(scope, receive, send)
            return
        headers = [(b"www-authenticate", self.challenge.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@dataclass
class Shelf:
    """A registry on loopback with one busybox image in it."""

    porter: Porter
    host: str
    layout: Layout
    digest: str

    @property
    def reference(self) -> str:
        return f"{self.host}/busybox@{self.digest}"


@pytest.fixture
def shelf(docker_host: str, tmp_path: Path) -> Iterator[Shelf]:
    archive = docker_part.busybox_archive() or parts.lacks("busybox", "install busybox-static")
    layout = registry.layout(tmp_path, "busybox")
    layer = layout.add(LAYER_TYPE, archive)
    told = docker_part.call(docker_host, "GET", "/version").json()
    config = {
        "architecture": MACHINES[told["Arch"]],
        "os": "linux",
        "config": {"Labels": {"of": str(tmp_path)}},  # an image of its own for each story: nothing is there from another one
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": layout.add(CONFIG_TYPE, json.dumps(config).encode()),
        "layers": [layer],
    }
    entry = layout.add(MANIFEST_TYPE, json.dumps(manifest).encode())
    layout.name({"v1": entry})
    app = FastAPI()
    app.include_router(registry.routes(tmp_path))
    porter = Porter(app)
    with served(porter) as url:
        yield Shelf(porter, url.removeprefix("http://"), layout, entry["digest"])
        docker_part.call(docker_host, "DELETE", f"/images/{url.removeprefix('http://')}/busybox@{entry['digest']}?force=1")


@pytest.fixture
async def bench(docker_host: str, docker_image: str) -> AsyncIterator[DockerBench]:
    stand = DockerBench(docker_host, docker_image)
    yield stand
    await stand.aclose()


def pulling(bench: DockerBench) -> DockerProvider:
    provider = DockerProvider("docker", replace(bench.settings, pull=True))
    bench.keep(provider)
    return provider


def order(bench: DockerBench, shelf: Shelf, login: ImageLogin | None = None) -> Order:
    return replace(bench.order(), image=shelf.reference, login=login)


def running_image(bench: DockerBench, container: str) -> tuple[str, list[str]]:
    """What the container was made from: its image's id, and the digests under which that is known."""
    made = docker_part.call(bench.host, "GET", f"/containers/{container}/json").json()["Image"]
    return made, docker_part.call(bench.host, "GET", f"/images/{made}/json").json()["RepoDigests"]


async def test_the_container_runs_from_exactly_the_digest(bench: DockerBench, shelf: Shelf) -> None:
    instance = await pulling(bench).create(order(bench, shelf))
    assert instance.phase is Phase.RUNNING
    made, known = running_image(bench, instance.id)
    path = shelf.layout.blob(shelf.digest)
    assert path is not None
    assert made == json.loads(path.read_bytes())["config"]["digest"]
    assert shelf.reference in known


async def test_a_tag_that_moved_meanwhile_changes_nothing(bench: DockerBench, shelf: Shelf) -> None:
    asked = order(bench, shelf)
    path = shelf.layout.blob(shelf.digest)
    assert path is not None
    manifest = json.loads(path.read_bytes())
    other = shelf.layout.add(MANIFEST_TYPE, json.dumps({**manifest, "annotations": {"evil": "yes"}}).encode())
    shelf.layout.name({"v1": other, "was": {"mediaType": MANIFEST_TYPE, "digest": shelf.digest, "size": path.stat().st_size}})
    instance = await pulling(bench).create(asked)
    assert shelf.reference in running_image(bench, instance.id)[1]


async def test_bytes_that_are_not_their_digest_are_not_run(bench: DockerBench, shelf: Shelf) -> None:
    path = shelf.layout.blob(shelf.digest)
    assert path is not None
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion":  2'))
    with pytest.raises(Refused, match="cannot pull"):
        await pulling(bench).create(order(bench, shelf))
    assert await pulling(bench).owned(bench.order.owner) == []


async def test_a_name_and_a_password_are_shown_to_the_registry(bench: DockerBench, shelf: Shelf) -> None:
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


async def test_a_short_lived_token_is_shown_as_it_is(bench: DockerBench, shelf: Shelf) -> None:
    shelf.porter.challenge = f'Bearer realm="http://{shelf.host}/token",service="registry"'
    shelf.porter.expected = "Bearer one-repository-five-minutes"
    login = ImageLogin(shelf.host, Secret("one-repository-five-minutes"))
    assert (await pulling(bench).create(order(bench, shelf, login))).phase is Phase.RUNNING
    assert set(shelf.porter.shown) == {shelf.porter.expected}


async def test_a_login_stays_in_no_container_and_in_no_text(bench: DockerBench, shelf: Shelf) -> None:
    login = ImageLogin(shelf.host, Secret("open-sesame"), "puller")
    instance = await pulling(bench).create(order(bench, shelf, login))
    assert "open-sesame" not in docker_part.call(bench.host, "GET", f"/containers/{instance.id}/json").text
    assert "open-sesame" not in f"{login} {order(bench, shelf, login)!r} {registry_auth(login)}"
