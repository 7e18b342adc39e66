"""A container registry that only reads: what it serves was put into the demo's folder, and it listens where the forge does.

The part of the OCI distribution specification that a pull needs, and the list of what refers to a manifest. No login: whoever
reaches loopback may read the demo's image, which holds nothing of this machine but its programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from app.demo.layout import INDEX_TYPE, TAG, Layout

FOLDER = "registry"
VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
READ = ["GET", "HEAD"]


def layout(folder: Path, repository: str) -> Layout:
    """A repository in the forge's folder."""
    return Layout(folder / FOLDER / repository)


def routes(folder: Path) -> APIRouter:
    router = APIRouter(prefix="/v2")

    def found(repository: str) -> Layout | None:
        shelf = layout(folder, repository)
        return shelf if repository.replace("-", "").isalnum() and shelf.folder.is_dir() else None

    @router.api_route("/", methods=READ)
    async def here() -> Response:
        return JSONResponse({}, headers=VERSION)

    @router.api_route("/{repository}/manifests/{reference}", methods=READ)
    async def manifest(repository: str, reference: str) -> Response:
        shelf = found(repository)
        entry = shelf.find(reference) if shelf is not None else None
        path = shelf.blob(entry["digest"]) if shelf is not None and entry is not None else None
        if entry is None or path is None:
            return missing("MANIFEST_UNKNOWN", "there is no such manifest")
        return FileResponse(path, media_type=entry["mediaType"], headers={**VERSION, "Docker-Content-Digest": entry["digest"]})

    @router.api_route("/{repository}/blobs/{digest}", methods=READ)
    async def blob(repository: str, digest: str) -> Response:
        shelf = found(repository)
        path = shelf.blob(digest) if shelf is not None else None
        if path is None:
            return missing("BLOB_UNKNOWN", "there is no such blob")
        told = {**VERSION, "Docker-Content-Digest": digest}
        return FileResponse(path, media_type="application/octet-stream", headers=told)

    @router.get("/{repository}/tags/list")
    async def tags(repository: str) -> Response:
        shelf = found(repository)
        if shelf is None:
            return missing("NAME_UNKNOWN", "there is no such repository")
        names = sorted(one["annotations"][TAG] for one in shelf.entries())
        return JSONResponse({"name": repository, "tags": names}, headers=VERSION)

    @router.get("/{repository}/referrers/{digest}")
    async def referrers(repository: str, digest: str, request: Request) -> Response:
        shelf = found(repository)
        if shelf is None:
            return missing("NAME_UNKNOWN", "there is no such repository")
        content = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": _referring(shelf, digest)}
        return JSONResponse(content, headers=VERSION, media_type=INDEX_TYPE)

    return router


def _referring(shelf: Layout, digest: str) -> list[dict[str, Any]]:
    """The descriptors of the manifests whose subject this one is."""
    found: list[dict[str, Any]] = []
    for entry in shelf.entries():
        path = shelf.blob(entry["digest"])
        told: dict[str, Any] = json.loads(path.read_bytes()) if path is not None else {}
        if told.get("subject", {}).get("digest") == digest:
            kind = told.get("artifactType") or told["config"]["mediaType"]
            found.append({name: entry[name] for name in ("mediaType", "digest", "size")} | {"artifactType": kind})
    return found


def missing(code: str, message: str) -> Response:
    """A registry's own form of "not found"."""
    return JSONResponse({"errors": [{"code": code, "message": message}]}, 404, headers=VERSION)
