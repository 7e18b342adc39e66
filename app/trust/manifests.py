"""Manifests and indexes, of OCI and of Docker: bytes in, values or a refusal out.

The digest binds the bytes, not what a program reads in them: whatever another engine could read differently is refused
here (CVE-2021-41190: one document that is an index to one program and a manifest to another).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from app.trust import strict
from app.trust.faults import unreadable

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
EMPTY: Final = "application/vnd.oci.empty.v1+json"

LARGEST: Final = 4 * 1024 * 1024
"""Bytes of a manifest; the distribution specification asks registries to take at least that much."""
MOST_ENTRIES: Final = 256
MOST_PLATFORMS: Final = 32
_FIELDS = frozenset({"schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "artifactType", "annotations"})
_DESCRIPTOR = frozenset({"mediaType", "digest", "size", "platform", "annotations", "artifactType", "urls", "data"})
_PLATFORM = frozenset({"architecture", "os", "os.version", "os.features", "variant", "features"})
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Platform:
    os: str  # lower case; "" counts as the machine's own
    architecture: str


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names a blob or a manifest by its digest."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform, or an artifact such as signatures."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: str = ""  # digest


@dataclass(frozen=True, slots=True)
class Index:
    """One image for several platforms, or the list of an image's referrers."""

    entries: tuple[Descriptor, ...]

    def platforms(self) -> tuple[Descriptor, ...]:
        """The entries that an engine on Linux could start.

        containerd takes an entry without a platform for a match until it has read the config, and an empty system for
        its own. BuildKit's attestations wear the platform unknown/unknown, which nothing starts."""
        found = tuple(one for one in self.entries if one.platform is None or one.platform.os in ("", "linux"))
        if not found:
            raise unreadable("The index has no platform for Linux.")
        if len(found) > MOST_PLATFORMS:
            raise unreadable(f"The index has {len(found)} platforms for Linux; at most {MOST_PLATFORMS} are looked at.")
        if any(one.media_type not in MANIFESTS for one in found):
            odd = next(one.media_type for one in found if one.media_type not in MANIFESTS)
            raise unreadable(f"The index names something of type {odd!r} for Linux; only image manifests are understood.")
        return found


def read(raw: bytes, content_type: str = "") -> Manifest | Index:
    """What the bytes say; their structure, their own `mediaType` and the registry's Content-Type must agree."""
    values = strict.parse(raw, "manifest")
    strict.plain(values, _FIELDS, "manifest")
    if strict.whole(values, "schemaVersion") != 2:
        raise unreadable("The manifest is not of schema version 2: push the image anew with a current tool.")
    inside, outside = strict.text(values, "mediaType"), content_type.partition(";")[0].strip().lower()
    listing = "manifests" in values
    if listing and ("layers" in values or "config" in values):
        raise unreadable("The manifest is an index and an image at once (CVE-2021-41190).")
    ours = INDEXES if listing else MANIFESTS
    for claimed in (inside, outside if outside in INDEXES | MANIFESTS else ""):
        if claimed and claimed not in ours:
            raise unreadable(
                f"The manifest calls itself {claimed!r} and is built like {'an index' if listing else 'an image'}."
            )
    if inside and outside in INDEXES | MANIFESTS and inside != outside:
        raise unreadable(f"The manifest calls itself {inside!r}, the registry calls it {outside!r}.")
    return _index(values) if listing else _manifest(values)


def config_platform(raw: bytes) -> Platform:
    """What an image's config says that it is for. Refused: a config that names no architecture, as of a chart."""
    values = strict.parse(raw, "image config")
    strict.plain(values, ("architecture", "os", "rootfs", "config", "history"), "image config")
    architecture, system = strict.text(values, "architecture"), strict.text(values, "os")
    if not architecture or not system or not strict.table(values, "rootfs"):
        raise unreadable("The config names no architecture and no system: this is no container image.")
    return _platform(system, architecture)


def descriptor(value: object, what: str) -> Descriptor:
    """One descriptor: a digest that is sha256, a size that is a number."""
    if not isinstance(value, dict):
        raise unreadable(f"The {what} has a descriptor that is no object.")
    values = cast("dict[str, Any]", value)
    strict.plain(values, _DESCRIPTOR, what)
    digest, size = values.get("digest"), strict.whole(values, "size")
    if not strict.is_digest(digest):
        raise unreadable(f"The {what} has a descriptor without a sha256 digest.")
    if size is None or size < 0:
        raise unreadable(f"The {what} has a descriptor without a size.")
    platform: Platform | None = None
    if "platform" in values and values["platform"] is not None:
        if not isinstance(values["platform"], dict):
            raise unreadable(f"The {what} has a platform that is no object.")
        given = strict.table(values, "platform")
        strict.plain(given, _PLATFORM, what)
        platform = _platform(strict.text(given, "os"), strict.text(given, "architecture"))
    notes = {name: note for name, note in strict.table(values, "annotations").items() if isinstance(note, str)}
    return Descriptor(strict.text(values, "mediaType"), str(digest), size, platform, strict.text(values, "artifactType"), notes)


def _platform(system: str, architecture: str) -> Platform:
    """As containerd normalizes them (platforms/database.go)."""
    machine = architecture.lower()
    return Platform(system.lower(), _ARCHITECTURES.get(machine, machine))


def _index(values: Mapping[str, Any]) -> Index:
    entries = values["manifests"]
    if not isinstance(entries, list):
        raise unreadable("The index has no list of manifests.")
    listed = cast("list[object]", entries)
    if len(listed) > MOST_ENTRIES:
        raise unreadable(f"The index has {len(listed)} entries; at most {MOST_ENTRIES} are looked at.")
    return Index(tuple(descriptor(one, "index") for one in listed))


def _manifest(values: Mapping[str, Any]) -> Manifest:
    layers = values.get("layers")
    if not isinstance(layers, list):
        raise unreadable("The manifest has neither layers nor manifests.")
    subject = values.get("subject")
    return Manifest(
        descriptor(values.get("config"), "manifest"),
        tuple(descriptor(one, "manifest") for one in cast("list[object]", layers)),
        strict.text(values, "artifactType"),
        "" if subject is None else descriptor(subject, "manifest").digest,
    )
