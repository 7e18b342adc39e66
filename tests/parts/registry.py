"""A real registry: Debian's `docker-registry`, on a free port of loopback, with a folder of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.fakes.registry import FakeRegistry
from tests.node.certificates import server_side
from tests.parts import lacks

PART = "Docker registry"
REMEDY = "install docker-registry"
USER, PASSWORD = "robot", "hunter-2-hunter"
BCRYPT = "$2b$05$abcdefghijklmnopqrstuuRSXa0xPWdRCD48b9IKfO3NCbN0ih1dm"
"""Of that password; the registry reads no other form of htpasswd."""


@dataclass(frozen=True, slots=True)
class RealRegistry:
    """Where it listens; with `ca` it speaks TLS and wants the login."""

    host: str
    ca: Path | None
    folder: Path  # its files: .../docker/registry/v2

    @property
    def login(self) -> tuple[str, str] | None:
        return (USER, PASSWORD) if self.ca is not None else None

    def client(self) -> httpx.Client:
        base = f"{'https' if self.ca is not None else 'http'}://{self.host}"
        context = ssl.create_default_context(cafile=self.ca)
        return httpx.Client(base_url=base, verify=context, auth=self.login, trust_env=False)

    def blob_file(self, digest: str) -> Path:
        """Where it keeps those bytes: for tests that change them behind its back."""
        name = digest.removeprefix("sha256:")
        return self.folder / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def take(self, memory: FakeRegistry) -> None:
        """Push everything that a registry in memory holds: blobs, images, then what names them, then tags."""
        with self.client() as client:
            for (repository, digest), raw in memory.blobs.items():
                if client.head(f"/v2/{repository}/blobs/{digest}").status_code == 200:
                    continue
                place = client.post(f"/v2/{repository}/blobs/uploads/").headers["location"]
                url = httpx.URL(place).copy_merge_params({"digest": digest})
                assert client.put(url, content=raw).status_code == 201
            last = sorted(memory.manifests.items(), key=lambda one: "manifests" in json.loads(one[1][1]))
            for (repository, digest), (media_type, raw) in last:
                names = [tag for (where, tag), at in memory.tags.items() if (where, at) == (repository, digest)]
                for name in names or [digest]:
                    path = f"/v2/{repository}/manifests/{name}"
                    answer = client.put(path, content=raw, headers={"content-type": media_type})
                    assert answer.status_code == 201, answer.text


@contextlib.contextmanager
def real_registry(*, guarded: bool = False) -> Generator[RealRegistry]:
    """Started, and ended with the block. `guarded`: TLS by an authority of its own, and a login."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        lacks(PART, REMEDY)
    folder = Path(tempfile.mkdtemp(prefix="sublet-registry-"))
    try:
        with socket.create_server(("127.0.0.1", 0)) as free:
            host = f"127.0.0.1:{free.getsockname()[1]}"
        http: dict[str, object] = {"addr": host}
        settings: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": http,
        }
        ca = None
        if guarded:
            _, pem = server_side(folder)
            ca = folder / "ca.pem"
            ca.write_text(pem, "utf-8")
            (folder / "htpasswd").write_text(f"{USER}:{BCRYPT}\n", "utf-8")
            http["tls"] = {"certificate": str(folder / "server.pem"), "key": str(folder / "server.pem")}
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        (folder / "config.yml").write_text(json.dumps(settings), "utf-8")  # JSON is YAML
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        log = process.stderr
        drain = threading.Thread(target=log.read, daemon=True)  # a full pipe would stop it
        try:
            said: list[str] = []
            while "listening on" not in (said or [""])[-1]:
                said.append(log.readline())
                assert said[-1], "".join(said)[-2000:]
            drain.start()
            yield RealRegistry(host, ca, folder / "data")
        finally:
            process.kill()  # it has nothing to put in order
            process.wait(10)
            if drain.is_alive():
                drain.join(5)
            log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def registry_session() -> Generator[RealRegistry]:
    with real_registry() as registry:
        yield registry


@pytest.fixture
def docker_registry(registry_session: RealRegistry) -> RealRegistry:
    """Plain, open to everybody, shared by the tests of a worker: use repositories of your own."""
    return registry_session


@pytest.fixture
def guarded_registry() -> Generator[RealRegistry]:
    """With TLS and a login, for one test."""
    with real_registry(guarded=True) as registry:
        yield registry
