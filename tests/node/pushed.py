"""Images that an engine can really run, pushed into a real registry."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import Any

import httpx

from tests.fakes.signer import digest_of
from tests.parts import docker, lacks
from tests.parts.registry import RealRegistry

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Pushed:
    repository: str  # "127.0.0.1:40123/ci/gpu"
    digest: str
    config: str

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.digest}"


def push(registry: RealRegistry, name: str, tag: str, layer: bytes = b"", **config: Any) -> Pushed:
    """An image of one layer, a tar: busybox if none is given. `config` is what a Dockerfile would set."""
    layer = layer or docker.busybox_archive() or lacks("busybox", "install busybox-static")
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer)]}
    packed = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": config, "rootfs": rootfs}).encode()
    rows: list[dict[str, Any]] = []
    with registry.client() as client:
        for kind, raw in ((CONFIG, packed), (LAYER, layer)):
            if client.head(f"/v2/{name}/blobs/{digest_of(raw)}").status_code != 200:
                place = httpx.URL(client.post(f"/v2/{name}/blobs/uploads/").headers["location"])
                client.put(place.copy_merge_params({"digest": digest_of(raw)}), content=raw).raise_for_status()
            rows.append({"mediaType": kind, "digest": digest_of(raw), "size": len(raw)})
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": rows[0], "layers": rows[1:]}).encode()
        client.put(f"/v2/{name}/manifests/{tag}", content=manifest, headers={"Content-Type": MANIFEST}).raise_for_status()
    return Pushed(f"{registry.host}/{name}", digest_of(manifest), digest_of(packed))
