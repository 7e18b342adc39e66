"""Builds the demo's container image on a local Docker engine, once: no registry, no download, known by what is in it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.demo.rootfs import NoImage, Tree, gather

NAME = "sublet-demo"
USUAL = "unix:///var/run/docker.sock"
SETTINGS = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    "LABEL org.opencontainers.image.title=sublet-demo",
    'CMD ["/bin/sh"]',
)
BUILD_SECONDS = 180.0
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def build(host: str = "") -> str:
    """The image's reference, "sublet-demo:<hash>"; built if the engine does not have it yet.

    `host`: the engine, "unix:///…" or "tcp://loopback:port"; else DOCKER_HOST, else the usual socket. Raises NoImage."""
    address = host or os.environ.get("DOCKER_HOST") or USUAL
    try:
        with _client(address) as client:
            client.get("/_ping")  # before the work of gathering
            tree = gather()
            reference = f"{NAME}:{tree.fingerprint()[:12]}"
            if client.get(f"/images/{reference}/json").status_code != 200:
                _fits(client)
                _send(client, tree, reference)
            return reference
    except httpx.HTTPError as error:
        raise NoImage(f"the Docker engine at {address} does not answer: {error}") from None


def _client(address: str) -> httpx.Client:
    parts = urlsplit(address)
    if parts.scheme == "unix":
        if not Path(parts.path).is_socket():
            raise NoImage(f"the Docker engine at {address} does not answer: there is no such socket")
        return httpx.Client(base_url="http://docker", transport=httpx.HTTPTransport(uds=parts.path), timeout=BUILD_SECONDS)
    if parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "localhost", "::1"):
        return httpx.Client(base_url=f"http://{parts.netloc}", timeout=BUILD_SECONDS, trust_env=False)
    raise NoImage(f"the demo needs a Docker engine on this machine; {address[:100]} is none")


def _fits(client: httpx.Client) -> None:
    """The image is made of this machine's programs: an engine of another kind of machine cannot run them."""
    told: dict[str, Any] = client.get("/version").json()
    here = MACHINES.get(platform.machine().lower(), platform.machine())
    if (told.get("Os"), told.get("Arch")) != ("linux", here):
        raise NoImage(f"the Docker engine runs {told.get('Os')}/{told.get('Arch')}, this machine linux/{here}")


def _send(client: httpx.Client, tree: Tree, reference: str) -> None:
    repository, _, tag = reference.partition(":")
    question = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": list(SETTINGS)}
    with tempfile.TemporaryFile() as file:
        tree.write(file)
        size = file.tell()
        file.seek(0)
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(size)}
        reply = client.post("/images/create", params=question, content=file, headers=headers)
    lines = [json.loads(line) for line in reply.text.splitlines() if line.strip()]
    problem = next((str(line["error"]) for line in lines if "error" in line), "")
    if reply.status_code != 200 or problem:
        raise NoImage(f"the Docker engine refuses the image: {problem or reply.text[:300]}")
