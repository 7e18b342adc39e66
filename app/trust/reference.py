"""An image reference as people write it, taken apart: registry, repository, tag, digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from app.trust.faults import Refused, unreadable

DOCKER_HUB: Final = "docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HOST = re.compile(
    r"(?:(?:[a-z0-9](?:[a-z0-9-]{0,62}(?<!-))?)(?:\.[a-z0-9](?:[a-z0-9-]{0,62}(?<!-))?)*|\[[0-9a-f:]{2,39}\])(?::[0-9]{1,5})?"
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOCAL_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Which image: a digest, or the tag that names one now."""

    host: str  # lower case, with its port
    repository: str
    tag: str  # "" if there is a digest
    digest: str

    @property
    def name(self) -> str:
        return f"{self.host}/{self.repository}"

    def at(self, digest: str) -> str:
        """What travels on: registry, repository and digest, no tag."""
        return f"{self.name}@{digest}"


def parse(written: str) -> Reference:
    """Docker's rules (distribution/reference): the first part is a host if it has a dot or a colon or is `localhost`;
    without one it is Docker Hub's, where a single word stands below `library/`; without tag it is `latest`; of tag and
    digest only the digest counts. Refused: everything else, digests that are not sha256, an engine's local ids, and hosts
    that are known by their capitals alone: written small, as references travel, they would be a folder of Docker Hub."""
    text = written.strip()
    if len(text) > 1000:
        raise _bad(f"{text[:40]}…", "it is too long")
    if _LOCAL_ID.fullmatch(text) and (text.startswith("sha256:") or len(text) == 64):
        raise _bad(text, "it is an engine's local id, which no registry knows: name registry, repository and digest")
    name, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise _bad(text, "its digest is not `sha256:` and 64 hex digits")
    if "@" in text and not digest:
        raise _bad(text, "nothing follows the @")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first.lower(), rest
    else:
        host, path = DOCKER_HUB, name
    path, colon, tag = path.partition(":")
    if host in _HUB_NAMES:
        host, path = DOCKER_HUB, path if "/" in path else f"library/{path}"
    if not _HOST.fullmatch(host):
        raise _bad(text, f"{host!r} is no registry's name")
    if not _REPOSITORY.fullmatch(path) or len(path) > 255:
        raise _bad(text, f"{path!r} is no repository's name")
    if colon and not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag!r} is no tag")
    return Reference(host, path, "" if digest else tag or "latest", digest)


def _bad(text: str, why: str) -> Refused:
    return unreadable(f"{text!r} is no image reference: {why}.", what="reference", asked="registry/repository:tag or @digest")
