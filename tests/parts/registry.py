"""A real registry: Debian's `docker-registry`, on loopback, with a data folder that ends with the tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import parts

PART = "Docker registry"
REMEDY = "install docker-registry"
PROGRAM = "docker-registry"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True)
class Pushed:
    """An image in the registry."""

    repository: str  # "127.0.0.1:40123/ci/gpu"
    digest: str
    config: str
    raw: bytes  # its manifest

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True)
class Registry:
    host: str  # "127.0.0.1:40123"

    def push(self, name: str, tag: str, layer: bytes, **config: Any) -> Pushed:
        """An image of one layer, a tar; `config` is what a Dockerfile would set."""
        with httpx.Client(base_url=f"http://{self.host}/v2/{name}", timeout=30) as client:
            packed = json.dumps(
                {
                    "architecture": ARCHITECTURE,
                    "os": "linux",
                    "config": config,
                    "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
                }
            ).encode()
            rows: list[dict[str, Any]] = []
            for kind, raw in ((CONFIG, packed), (LAYER, layer)):
                there = httpx.URL(client.post("/blobs/uploads/").headers["location"])
                client.put(there.copy_add_param("digest", digest_of(raw)), content=raw).raise_for_status()
                rows.append({"mediaType": kind, "digest": digest_of(raw), "size": len(raw)})
            manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": rows[0], "layers": rows[1:]}).encode()
            client.put(f"/manifests/{tag}", content=manifest, headers={"Content-Type": MANIFEST}).raise_for_status()
        return Pushed(f"{self.host}/{name}", digest_of(manifest), digest_of(packed), manifest)


@contextlib.contextmanager
def registry() -> Generator[Registry]:
    with tempfile.TemporaryDirectory(prefix="sublet-registry-") as folder:
        settings = Path(folder) / "config.yml"
        settings.write_text(
            json.dumps(  # JSON is YAML
                {
                    "version": 0.1,
                    "log": {"accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": folder}, "delete": {"enabled": True}},
                    "http": {"addr": "127.0.0.1:0"},
                }
            )
        )
        words = [PROGRAM, "serve", str(settings)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            told: list[str] = []
            for line in process.stderr:
                told.append(line)
                found = re.search(r"listening on (127\.0\.0\.1:\d+)", line)
                if found is not None:
                    yield Registry(found.group(1))
                    break
            else:
                raise AssertionError("".join(told[-20:]))
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def docker_registry() -> Generator[Registry]:
    """One registry for all tests of this worker."""
    if shutil.which(PROGRAM) is None:
        parts.lacks(PART, REMEDY)
    with registry() as made:
        yield made
