"""The `[trust]` and `[[registry]]` tables, and what a pool says of its image: who must have signed it, and where it may lie."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from app.settings.fields import FilePath, SecretField, Section, Words, folder, is_loopback
from app.settings.secrets import PublicPlace

HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def host_name(host: str) -> str:
    """`registry.acme.example` of `registry.acme.example:5000`; an IPv6 address without its brackets."""
    return host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


def _host(value: str) -> str:
    if not HOST.fullmatch(value):
        raise ValueError('a registry is a host name, with a port where it has one: "registry.acme.example:5000"')
    return known_host(value)


def _digest(value: str) -> str:
    if not DIGEST.fullmatch(value):
        raise ValueError("a digest reads sha256: and 64 of 0-9 and a-f")
    return value


def image_reference(value: str) -> str:
    """An image written in full. Raises ValueError for one whose registry would have to be guessed."""
    rest, _, digest = value.partition("@")
    host, slash, path = rest.partition("/")
    repository, _, tag = path.partition(":")
    named = slash and HOST.fullmatch(host) and (("." in host) or (":" in host) or host == "localhost")
    if not named or not REPOSITORY.fullmatch(repository) or (tag and not TAG.fullmatch(tag)):
        raise ValueError('an image is written in full, its registry first: "registry.acme.example/ci/gpu:v3"')
    if ("@" in value and not DIGEST.fullmatch(digest)) or not (tag or digest):
        raise ValueError("an image ends with a tag or with @sha256: and 64 of 0-9 and a-f")
    return value


def known_host(host: str) -> str:
    """The one name that a registry is known by here: Docker Hub has three."""
    return "docker.io" if host.lower() in HUB else host.lower()


def registry_of(image: str) -> str:
    """The registry's host, of a reference written in full."""
    return known_host(image.partition("/")[0])


def _public(value: Any) -> PublicPlace:
    if isinstance(value, PublicPlace):
        return value
    if not isinstance(value, str):
        raise ValueError("a public key is named as file:PATH, env:NAME or cmd:PROGRAM")
    return PublicPlace(value.strip(), folder=folder())


def _pattern(value: str) -> str:
    if not value or not value.isprintable() or " " in value or "/" not in value:
        raise ValueError('a pattern over registry and repository, for example "registry.acme.example/ci/*"')
    return value


PublicKeyField = Annotated[
    PublicPlace,
    BeforeValidator(_public),
    PlainSerializer(str, return_type=str, when_used="always"),
    WithJsonSchema({"type": "string", "pattern": "^(env|file|cmd):", "title": "public key"}),
]
Digest = Annotated[str, AfterValidator(_digest)]
Host = Annotated[str, AfterValidator(_host)]
ImageReference = Annotated[Words, AfterValidator(image_reference)]
Pattern = Annotated[Words, AfterValidator(_pattern)]


class IdentitySettings(Section):
    """One who may sign without a key: whom the certificate of a keyless signature names."""

    issuer: Words = Field(min_length=1)
    """Who vouched for the signer, for example `https://token.actions.githubusercontent.com`; a pattern where it has `*` or `?`.
    No default."""
    subject: Words = Field(min_length=1)
    """The signer: a person's address, or a workflow's; a pattern where it has `*` or `?`. No default."""


class ProvenanceSettings(Section):
    """The SLSA attestation that an image must have, signed by one who may sign it."""

    builder: Words = ""
    """Who built it, exactly or as a pattern. Default: anybody."""
    source: Words = ""
    """Repository that it was built from, exactly or as a pattern. Default: any."""


class TrustSettings(Section):
    """Whose signature on an image counts. A pool may say otherwise for itself."""

    keys: tuple[PublicKeyField, ...] = Field(default=(), max_length=20)
    """Public keys (PEM) as `file:PATH`, of those who may sign images. Default none. Counts for every pool that names no one."""
    identity: tuple[IdentitySettings, ...] = Field(default=(), max_length=20)
    """Those who may sign without a key. Default none. Counts for every pool that names no one."""
    trusted_root: FilePath | None = None
    """Sigstore's trusted root, as JSON: certificate authorities and logs. Default none. Needed for signatures without a key."""
    cache_minutes: float = Field(default=60.0, ge=0, le=10_080)
    """Minutes that a digest which passed is not looked at again. Default 60. What is revoked is refused at once even so."""
    revoked: tuple[Digest, ...] = Field(default=(), max_length=10_000)
    """Digests that never run. Default none. `sublet image revoke` adds more at once, without a restart."""


class RegistrySettings(Section):
    """A registry that may be asked for images. An image anywhere else is refused."""

    host: Host
    """Host name, with a port where it has one. No default. TLS always, except for this machine's own addresses."""
    username: Words = ""
    """Who asks. Default: nobody, for images that everybody may read."""
    password: SecretField | None = None
    """Password or token of `username`. Default none. One that may only read will do."""
    mirrors: tuple[Words, ...] = Field(default=(), max_length=20)
    """Hosts that are asked before it, in this order; a digest tells whether what they answer is true. Default none.
    `REGION=HOST` is asked only for machines in that region, or in those that fit a pattern: `eu-*=mirror.acme.example`."""
    mirrors_resolve_tags: bool = False
    """Whether a mirror's word counts for which digest a tag means. Default false: the registry itself is asked that."""
    ca: FilePath | None = None
    """PEM file of the authority that signed the registry's certificate. Default none: those that this machine trusts."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.username) != (self.password is not None):
            raise ValueError("`username` and `password` go together")
        for mirror in self.mirrors:
            if not HOST.fullmatch(mirror.rpartition("=")[2]):
                raise ValueError("`mirrors` are host names, each perhaps with a region before it: `eu-north-1=mirror.example`")
        return self

    @property
    def plain(self) -> bool:
        """Whether it is asked without TLS: only this machine's own, and only where no authority is named for it."""
        return is_loopback(host_name(self.host)) and self.ca is None
