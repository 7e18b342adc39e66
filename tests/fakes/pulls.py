"""A registry on loopback that a real Docker engine pulls from: one image in it, and a porter in front of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.demo import registry
from app.demo.layout import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Layout
from tests.fakes.served import served
from tests.parts import docker

REPOSITORY = "busybox"


@dataclass
class Porter:
    """Knows one login or one token, and writes down what it was shown."""

    app: ASGIApp
    challenge: str = ""
    expected: str = ""  # the whole header; empty: everybody may come in
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


@dataclass(frozen=True, slots=True)
class Shelf:
    """The registry and its image."""

    porter: Porter
    host: str
    layout: Layout
    digest: str

    @property
    def reference(self) -> str:
        return f"{self.host}/{REPOSITORY}@{self.digest}"

    @property
    def manifest(self) -> Path:
        """The file with the manifest's bytes."""
        path = self.layout.blob(self.digest)
        assert path is not None
        return path


@contextlib.contextmanager
def shelf(engine: str, folder: Path, archive: bytes, config: dict[str, Any] | None = None) -> Generator[Shelf]:
    """An image with this one layer, for this engine's kind of machine; the engine has forgotten it when the block ends."""
    layout = registry.layout(folder, REPOSITORY)
    layer = layout.add(LAYER_TYPE, archive)
    said = {
        "architecture": docker.call(engine, "GET", "/version").json()["Arch"],
        "os": "linux",
        "config": {**(config or {}), "Labels": {"of": str(folder)}},  # nobody else's: none is there from another story
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": layout.add(CONFIG_TYPE, json.dumps(said).encode()),
        "layers": [layer],
    }
    entry = layout.add(MANIFEST_TYPE, json.dumps(manifest).encode())
    layout.name({"v1": entry})
    app = FastAPI()
    app.include_router(registry.routes(folder))
    porter = Porter(app)
    with served(porter) as url:
        made = Shelf(porter, url.removeprefix("http://"), layout, entry["digest"])
        yield made
        docker.call(engine, "DELETE", f"/images/{made.reference}?force=1")
