"""One repository of a registry and of its mirrors: what has a digest may come from anywhere, what has a name only from the
registry itself."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import httpx

from app.core.images import Refusal
from app.trust import manifests, strict
from app.trust.endpoint import Answer, Endpoint
from app.trust.faults import Refused, RegistryAway, brief, unreadable
from app.trust.manifests import Descriptor, Index, Manifest

R = TypeVar("R")
LARGEST_LAYER: Final = 1024 * 1024
"""Bytes of a signature, a bundle or an attestation."""
MOST_PAGES: Final = 8
MOST_REFERRERS: Final = 64
_NO_REFERRERS: Final = frozenset({400, 404, 405, 406, 501})
"""What registries without the referrers API say: 404 as the specification asks, and others as go-containerregistry found."""


class Repository:
    """Reads by digest ask the mirrors first and the registry last; what fails at one is asked of the next."""

    def __init__(self, name: str, registry: Endpoint, mirrors: Sequence[Endpoint] = ()) -> None:
        self.name, self.registry = name, registry
        self._mirrors = tuple(mirrors)

    async def resolve(self, tag: str) -> str | None:
        """The digest that the tag means now; one HEAD. None if there is no such tag."""
        ask = (*self._mirrors, self.registry) if self.registry.access.mirrors_resolve_tags else (self.registry,)
        return await _first(ask, lambda endpoint: self._resolve(endpoint, tag))

    async def manifest(self, digest: str) -> tuple[bytes, Manifest | Index] | None:
        """The bytes that this digest names, and what they say. Refused if they are not those bytes."""
        return await _first((*self._mirrors, self.registry), lambda endpoint: self._manifest(endpoint, digest))

    async def blob(self, digest: str, limit: int = LARGEST_LAYER) -> bytes | None:
        return await _first((*self._mirrors, self.registry), lambda endpoint: self._blob(endpoint, digest, limit))

    async def tagged(self, tag: str) -> tuple[str, Manifest | Index] | None:
        """What stands under a tag that somebody else's tool made, such as `sha256-….sig`, and its digest.

        The registry's word first; a mirror is asked only while the registry is away. It needs no trust: signatures are
        checked with keys, and a mirror that shows too few leads to no."""
        found = await self._listed(lambda endpoint: self._tagged(endpoint, tag))
        if found is None:
            return None
        return _digest_of(found.body), manifests.read(found.body, found.content_type)

    async def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """What is attached to a digest, by the referrers API or by its fallback, the tag `sha256-…`."""
        found = await self._listed(lambda endpoint: self._referrers(endpoint, digest))
        return tuple(found or ())

    # One endpoint

    async def _get(self, endpoint: Endpoint, path: str, accept: str, limit: int) -> Answer | None:
        answer = await endpoint.call("GET", path, self.name, accept=accept, limit=limit)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise RegistryAway(f"{endpoint.host} answered {answer.status} to a question that it should understand.")
        return answer

    async def _resolve(self, endpoint: Endpoint, tag: str) -> str | None:
        path = f"/v2/{self.name}/manifests/{tag}"
        answer = await endpoint.call("HEAD", path, self.name, accept=manifests.ACCEPT)
        if answer.status == 404:
            return None
        digest = answer.headers.get("docker-content-digest", "")
        if answer.status == 200 and strict.is_digest(digest):
            return digest
        # The header is optional (distribution specification, Digest Header), and some proxies refuse HEAD.
        got = await self._get(endpoint, path, manifests.ACCEPT, manifests.LARGEST)
        return None if got is None else _digest_of(got.body)

    async def _manifest(self, endpoint: Endpoint, digest: str) -> tuple[bytes, Manifest | Index] | None:
        answer = await self._get(endpoint, f"/v2/{self.name}/manifests/{digest}", manifests.ACCEPT, manifests.LARGEST)
        if answer is None:
            return None
        raw = _checked(answer, digest, endpoint).body
        return raw, manifests.read(raw, answer.content_type)

    async def _blob(self, endpoint: Endpoint, digest: str, limit: int) -> bytes | None:
        answer = await self._get(endpoint, f"/v2/{self.name}/blobs/{digest}", "*/*", limit)
        return None if answer is None else _checked(answer, digest, endpoint).body

    async def _tagged(self, endpoint: Endpoint, tag: str) -> Answer | None:
        return await self._get(endpoint, f"/v2/{self.name}/manifests/{tag}", manifests.ACCEPT, manifests.LARGEST)

    async def _referrers(self, endpoint: Endpoint, digest: str) -> list[Descriptor]:
        """Distribution specification, Listing Referrers: pages are linked by a `Link` header; an image without referrers
        has an empty list; 404 means that the API is not there, and only then the fallback tag counts."""
        path = f"/v2/{self.name}/referrers/{digest}"
        found: list[Descriptor] = []
        for page in range(MOST_PAGES):
            answer = await endpoint.call("GET", path, self.name, accept=manifests.OCI_INDEX, limit=manifests.LARGEST)
            # Some registries answer 200 and their web page to addresses that they do not know.
            there = answer.status == 200 and answer.content_type == manifests.OCI_INDEX
            if page == 0 and (answer.status in _NO_REFERRERS or (answer.status == 200 and not there)):
                return await self._fallback(endpoint, digest)
            if not there:
                raise RegistryAway(f"{endpoint.host} answered {answer.status} when asked for what is attached to the image.")
            found += _entries(answer, digest)
            path = _next(answer.headers.get_list("link"), path)
            if not path:
                return found
        raise unreadable(f"{endpoint.host} lists more than {MOST_PAGES} pages of what is attached to {brief(digest)}.")

    async def _fallback(self, endpoint: Endpoint, digest: str) -> list[Descriptor]:
        path = f"/v2/{self.name}/manifests/{digest.replace(':', '-', 1)}"
        answer = await self._get(endpoint, path, manifests.OCI_INDEX, manifests.LARGEST)
        return [] if answer is None else _entries(answer, digest)

    async def _listed(self, ask: Callable[[Endpoint], Awaitable[R | None]]) -> R | None:
        """The registry's own list; a mirror's only while the registry is away, and only if it has one."""
        try:
            return await ask(self.registry)
        except RegistryAway:
            for mirror in self._mirrors:
                try:
                    found = await ask(mirror)
                except (RegistryAway, Refused):
                    continue
                if found:
                    return found
            raise


async def _first(endpoints: Sequence[Endpoint], ask: Callable[[Endpoint], Awaitable[R | None]]) -> R | None:
    """The first that has it. If none has, what the last one says, which is the registry itself."""
    for endpoint in endpoints[:-1]:
        try:
            found = await ask(endpoint)
        except (RegistryAway, Refused):
            continue
        if found is not None:
            return found
    return await ask(endpoints[-1])


def _digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _checked(answer: Answer, digest: str, endpoint: Endpoint) -> Answer:
    seen = _digest_of(answer.body)
    if seen != digest:
        raise Refused(
            Refusal.TAMPERED,
            f"{endpoint.host} sent other bytes than {brief(digest)} names: their digest is {brief(seen)}.",
            what="content",
            asked=digest,
            seen=seen,
        )
    return answer


def _entries(answer: Answer, digest: str) -> list[Descriptor]:
    read = manifests.read(answer.body, answer.content_type)
    if not isinstance(read, Index):
        raise unreadable(f"What is attached to {brief(digest)} is not listed by an index.")
    if len(read.entries) > MOST_REFERRERS:
        raise unreadable(f"More than {MOST_REFERRERS} things are attached to {brief(digest)}.")
    return list(read.entries)


def _next(headers: Sequence[str], path: str) -> str:
    """The next page's path, if it is a page of this very list (RFC 8288)."""
    own = path.partition("?")[0]
    for header in headers:
        address, _, rest = header.partition(">")
        if 'rel="next"' not in rest.replace("'", '"') and "rel=next" not in rest:
            continue
        try:
            url = httpx.URL(f"https://registry.invalid{own}").join(address.strip().removeprefix("<"))
        except httpx.InvalidURL:
            return ""
        return f"{own}?{url.query.decode('ascii', 'replace')}" if url.path == own and url.query else ""
    return ""
