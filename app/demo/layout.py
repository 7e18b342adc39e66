"""An OCI image layout in a folder: blobs under their digests, and an index that says which tag means which manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
TAG = "org.opencontainers.image.ref.name"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layout:
    """One repository. Readers see a file whole or not at all, so a process may serve what another one writes."""

    folder: Path

    def blob(self, digest: str) -> Path | None:
        """The file with these bytes, if it is here."""
        path = self.folder / "blobs/sha256" / digest.removeprefix("sha256:")
        return path if DIGEST.fullmatch(digest) and path.is_file() else None

    def entries(self) -> list[dict[str, Any]]:
        """The descriptors of all manifests, each with its tag among its annotations."""
        try:
            told: dict[str, Any] = json.loads((self.folder / "index.json").read_bytes())
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = told["manifests"]
        return found

    def find(self, reference: str) -> dict[str, Any] | None:
        """The descriptor of a manifest, by its tag or its digest."""
        same = (one for one in self.entries() if reference in (one["digest"], one.get("annotations", {}).get(TAG)))
        return next(same, None)

    def add(self, media_type: str, content: bytes | Callable[[IO[bytes]], None]) -> dict[str, Any]:
        """Puts a blob in and returns its descriptor. `content` may write the bytes itself, where they are many."""
        blobs = self.folder / "blobs/sha256"
        blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = blobs / f".part-{os.getpid()}"
        with part.open("w+b") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            size = file.tell()
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        part.replace(blobs / digest)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}

    def name(self, tags: dict[str, dict[str, Any]]) -> None:
        """Makes the tags mean these manifests, and drops every blob that nothing names any more."""
        manifests = [{**entry, "annotations": {**entry.get("annotations", {}), TAG: tag}} for tag, entry in tags.items()]
        self._write("oci-layout", {"imageLayoutVersion": "1.0.0"})
        self._write("index.json", {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests})
        wanted = {digest for entry in manifests for digest in self._below(entry)}
        for path in (self.folder / "blobs/sha256").iterdir():
            if f"sha256:{path.name}" not in wanted:
                path.unlink(missing_ok=True)

    def _below(self, entry: dict[str, Any]) -> list[str]:
        """The digests of a manifest and of all that it names."""
        path = self.blob(entry["digest"])
        told: dict[str, Any] = json.loads(path.read_bytes()) if path is not None else {}
        parts = [told["config"], *told["layers"]] if told else []
        return [entry["digest"], *(part["digest"] for part in parts)]

    def _write(self, name: str, content: dict[str, Any]) -> None:
        part = self.folder / f".{name}.{os.getpid()}"
        part.write_text(json.dumps(content), "utf-8")
        part.replace(self.folder / name)
