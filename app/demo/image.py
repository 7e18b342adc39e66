"""The demo's container image: made of this machine's programs, signed, and laid out for the forge's own registry to serve.

Nothing is downloaded, and the same machine gives the same bytes: the digest says what is in it.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.demo import registry, signature
from app.demo.layout import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Layout
from app.demo.rootfs import NoImage, Tree, gather
from app.kit.clock import SystemClock

NAME, TAG = "sublet-demo", "latest"
USUAL = "unix:///var/run/docker.sock"
CONFIG: dict[str, Any] = {
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ],
    "Cmd": ["/bin/sh"],
    "Labels": {"org.opencontainers.image.title": NAME},
}
CONTENT = "sublet.demo.content"  # the annotation that says of which tree a manifest was made
LONG_AGO = "1970-01-01T00:00:00Z"
ENGINE_SECONDS = 30.0
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Published:
    """The image as the forge's registry serves it."""

    repository: str  # "127.0.0.1:40123/sublet-demo"
    digest: str
    public_key_file: Path

    @property
    def reference(self) -> str:
        """By its tag: whoever verifies it finds the digest."""
        return f"{self.repository}:{TAG}"


def publish(folder: Path, url: str) -> Published:
    """Builds and signs the image in the forge's folder, unless it is there already. `url`: the forge's. Raises NoImage."""
    shelf = registry.layout(folder, NAME)
    repository = f"{urlsplit(url).netloc}/{NAME}"
    key = signature.private_key(folder)
    tree = gather()
    content = tree.fingerprint()
    entry = shelf.find(TAG)
    if entry is None or entry["annotations"].get(CONTENT) != content or shelf.blob(entry["digest"]) is None:
        entry = _build(shelf, tree) | {"annotations": {CONTENT: content}}
    digest = str(entry["digest"])
    signed = signature.sign(shelf, repository, digest, key, SystemClock().now())
    shelf.name({TAG: entry, signature.tag_of(digest): signed})
    return Published(repository, digest, folder / signature.PUBLIC)


def _build(shelf: Layout, tree: Tree) -> dict[str, Any]:
    """One layer, its configuration and the manifest over both; returns the manifest's descriptor."""
    layer = shelf.add(LAYER_TYPE, tree.write)
    config = {
        "architecture": machine_here(),
        "os": "linux",
        "created": LONG_AGO,
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": LONG_AGO, "created_by": "sublet demo"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": shelf.add(CONFIG_TYPE, json.dumps(config, sort_keys=True).encode()),
        "layers": [layer],
    }
    return shelf.add(MANIFEST_TYPE, json.dumps(manifest, sort_keys=True).encode())


def machine_here() -> str:
    """This machine's architecture, in the words of images."""
    return MACHINES.get(platform.machine().lower(), platform.machine())


def suits(host: str = "") -> None:
    """Raises NoImage unless the engine is on this machine and runs this machine's programs.

    `host`: "unix:///…" or "tcp://loopback:port"; else DOCKER_HOST, else the usual socket."""
    address = host or os.environ.get("DOCKER_HOST") or USUAL
    try:
        with _client(address) as client:
            told: dict[str, Any] = client.get("/version").json()
    except (httpx.HTTPError, ValueError) as error:
        raise NoImage(f"the Docker engine at {address} does not answer: {error}") from None
    if (told.get("Os"), told.get("Arch")) != ("linux", machine_here()):
        raise NoImage(f"the Docker engine runs {told.get('Os')}/{told.get('Arch')}, this machine linux/{machine_here()}")


def _client(address: str) -> httpx.Client:
    parts = urlsplit(address)
    if parts.scheme == "unix":
        if not Path(parts.path).is_socket():
            raise NoImage(f"the Docker engine at {address} does not answer: there is no such socket")
        return httpx.Client(base_url="http://docker", transport=httpx.HTTPTransport(uds=parts.path), timeout=ENGINE_SECONDS)
    if parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "localhost", "::1"):
        return httpx.Client(base_url=f"http://{parts.netloc}", timeout=ENGINE_SECONDS, trust_env=False)
    raise NoImage(f"the demo needs a Docker engine on this machine; {address[:100]} is none")
