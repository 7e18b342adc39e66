"""The image that a pool's jobs run in, as the service tells it: which digest, which signatures, and how it must be held."""

from __future__ import annotations

import re
from typing import Any, Iterable, NamedTuple

from . import shape, sign

MODES = ("contained", "guarded", "bare")
REFERENCE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9._-]{1,128}){1,20}@sha256:[0-9a-f]{64}")


class Unusable(Exception):
    """What the service says of an image cannot be used."""


class Manifest(NamedTuple):
    """One platform of an image."""

    architecture: str
    digest: str
    config: str


class Access(NamedTuple):
    """A registry login for a short time. It is kept in memory only and shown nowhere."""

    username: str  # empty: the password is a token
    password: str

    def __repr__(self) -> str:
        return "Access(…)"


class Image(NamedTuple):
    mode: str
    reference: str  # registry/repository@sha256:…
    digest: str
    manifests: tuple[Manifest, ...]
    signatures: tuple[sign.Signature, ...]
    signed: bool  # False: it is only pinned to its digest
    allow_build: bool
    access: Access | None

    @property
    def ids(self) -> frozenset[str]:
        """Every name that an engine may have for it: engines name an image by its config, its manifest or its index."""
        return frozenset({self.digest, *(one.digest for one in self.manifests), *(one.config for one in self.manifests)})

    def names(self, architecture: str) -> frozenset[str]:
        """The digests of which one must be signed: the index, which covers all its platforms, or this machine's platform."""
        return frozenset({self.digest, *(one.digest for one in self.manifests if one.architecture == architecture)})


def read(given: object) -> Image | None:
    """Of an answer's `image`; None: nothing is asked of this machine, as by a service that knows no images.

    Raises `Unusable`: what cannot be read must not be taken for "bare"."""
    if given is None:
        return None
    told = shape.table(given)
    mode = told.get("mode")
    if mode == "bare":
        return None
    if mode not in MODES or not isinstance(told.get("signed"), bool):
        raise Unusable("the service asks for an image in a way that this agent does not know")
    return of(told, str(mode), told["signed"] is True, told.get("allow_build") is True)


def of(told: dict[str, Any], mode: str, signed: bool, allow_build: bool) -> Image:
    """Raises `Unusable`."""
    reference, digest = str(told.get("reference", "")), str(told.get("digest", ""))
    if not REFERENCE.fullmatch(reference) or not reference.endswith("@" + digest):
        raise Unusable(f"{reference[:200]!r} is not an image by its digest")
    try:
        signatures = sign.read(told.get("signatures"))
    except ValueError as error:
        raise Unusable(str(error)) from None
    manifests = tuple(_manifests(shape.items(told.get("manifests"))))
    access = shape.table(told.get("access"))
    login = Access(str(access.get("username", "")), str(access.get("password", ""))) if access.get("password") else None
    return Image(mode, reference, digest, manifests, signatures, signed, allow_build, login)


def _manifests(rows: Iterable[object]) -> Iterable[Manifest]:
    for row in rows:
        words = [str(word) for word in shape.items(row)]
        if len(words) != 3 or not all(sign.DIGEST.fullmatch(word) for word in words[1:]):
            raise Unusable("the service's list of platforms cannot be read")
        yield Manifest(*words)


def check(image: Image, architecture: str, search: str | None = None) -> sign.Checked:
    """This machine's own look at the signatures. An image that needs none has nothing to check."""
    if not image.signed:
        return sign.Checked("", "", ())
    if not image.signatures:
        return sign.Checked("the service sent no signature of the image", "", ())
    return sign.check(image.signatures, image.names(architecture), search)


def report(image: Image, checked: sign.Checked, problem: str = "") -> dict[str, Any]:
    """What goes into the facts. `problem`: what went wrong besides the signatures."""
    trouble = checked.problem or problem
    return {
        "digest": image.digest,
        "mode": image.mode,
        "checked": image.signed and not trouble,
        "openssl": checked.openssl,
        "keys": list(checked.keys),
        "problem": trouble[:300],
    }
