"""An OCI registry in memory: a real ASGI application, with the faults that real ones have.

    registry = FakeRegistry()
    digest = registry.image("ci/gpu", "v3")
    registry.sign("ci/gpu", digest, SigningKey())
    trust = ImageTrust({registry.host: RegistryAccess(registry.host)}, clock, client=registry.client())

Several can stand on one wire: `Wire(registry, mirror).client()`; `tests.fakes.served.served(registry)` puts one on loopback.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import httpx

from tests.fakes.signer import BUNDLE, SigningKey, digest_of, packed, simple_signing

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came in, and what it was answered."""

    method: str
    host: str
    path: str
    query: str
    authorization: str
    status: int


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests that fit."""

    path: str = ""  # a piece of the path
    method: str = ""
    times: int = 1_000_000
    status: int = 0  # answered instead
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    redirect: str = ""  # an address; {path} is the path that was asked
    tamper: bool = False  # the first byte of the body is another one
    swell: int = 0  # bytes that are sent after the body
    content_type: str = ""
    body: bytes | None = None

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.path in path and self.method in ("", method)


@dataclass(slots=True)
class Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])


class FakeRegistry:
    """Manifests, blobs, tags, referrers. `auth` is "", "basic" or "bearer"; `referrers` whether it has that API."""

    def __init__(
        self,
        host: str = "registry.test",
        *,
        auth: str = "",
        referrers: bool = True,
        username: str = "robot",
        password: str = "hunter-2-hunter",
        anonymous: bool = False,
        page: int = 0,
    ) -> None:
        self.host, self.auth, self.referrers, self.anonymous, self.page = host, auth, referrers, anonymous, page
        self.username, self.password = username, password
        self.realm = f"https://{host}/token"
        self.down = False
        self.digest_header = True  # whether manifests are answered with their digest
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.tokens: dict[str, str] = {}  # token -> scope
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []

    # What stories do

    def client(self) -> httpx.AsyncClient:
        return Wire(self).client()

    def fault(self, path: str = "", **rest: Any) -> Fault:
        self.faults.append(Fault(path, **rest))
        return self.faults[-1]

    def blob(self, repository: str, raw: bytes) -> str:
        self.blobs[repository, digest_of(raw)] = raw
        return digest_of(raw)

    def manifest(self, repository: str, value: object, media_type: str = OCI_MANIFEST, tag: str = "") -> str:
        """Any manifest; bytes are stored as they are."""
        raw = value if isinstance(value, bytes) else packed(value)
        digest = digest_of(raw)
        self.manifests[repository, digest] = (media_type, raw)
        if tag:
            self.tags[repository, tag] = digest
        return digest

    def bytes_of(self, repository: str, digest: str) -> bytes:
        return self.manifests[repository, digest][1]

    def image(
        self,
        repository: str,
        tag: str = "",
        *,
        architecture: str = "amd64",
        system: str = "linux",
        seed: str = "",
        docker: bool = False,
    ) -> str:
        """A small image for one platform; `seed` makes it another one."""
        layer = f"layer {architecture} {seed}".encode()
        config = packed(
            {
                "architecture": architecture,
                "os": system,
                "config": {"Labels": {"seed": seed}},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
            }
        )
        kind = "application/vnd.docker.container.image.v1+json" if docker else OCI_CONFIG
        rows = [
            self._row(kind, self.blob(repository, config), config),
            self._row(OCI_LAYER, self.blob(repository, layer), layer),
        ]
        media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        value = {"schemaVersion": 2, "mediaType": media_type, "config": rows[0], "layers": rows[1:]}
        return self.manifest(repository, value, media_type, tag)

    def index(
        self,
        repository: str,
        tag: str = "",
        *,
        architectures: Sequence[str] = ("amd64", "arm64"),
        extra: Iterable[object] = (),
        seed: str = "",
        docker: bool = False,
    ) -> str:
        """An index with one image for each architecture, and `extra` entries as they are."""
        rows: list[object] = []
        for architecture in architectures:
            digest = self.image(repository, architecture=architecture, seed=seed, docker=docker)
            row = self.entry(repository, digest)
            rows.append({**row, "platform": {"architecture": architecture, "os": "linux"}})
        media_type = DOCKER_LIST if docker else OCI_INDEX
        value = {"schemaVersion": 2, "mediaType": media_type, "manifests": [*rows, *extra]}
        return self.manifest(repository, value, media_type, tag)

    def entry(self, repository: str, digest: str) -> dict[str, Any]:
        """The descriptor of a manifest."""
        media_type, raw = self.manifests[repository, digest]
        return self._row(media_type, digest, raw)

    def platforms(self, repository: str, digest: str) -> list[str]:
        """The digests that an index names."""
        return [one["digest"] for one in json.loads(self.bytes_of(repository, digest))["manifests"]]

    def sign(
        self,
        repository: str,
        digest: str,
        key: SigningKey,
        *,
        says: str = "",
        payload: bytes | None = None,
        signature: bytes | None = None,
        annotations: Mapping[str, str] | None = None,
        optional: Mapping[str, Any] | None = None,
    ) -> None:
        """In the cosign tag form, beside the signatures that are there. `says` names another digest than it hangs at."""
        payload = payload if payload is not None else simple_signing(says or digest, optional=optional)
        made = b64encode(signature if signature is not None else key.sign(payload)).decode()
        row = {**self._row(SIMPLE_SIGNING, self.blob(repository, payload), payload)}
        row["annotations"] = {SIGNATURE: made, **(annotations or {})}
        tag = f"{digest.replace(':', '-')}.sig"
        there = self.tags.get((repository, tag))
        rows: list[Any] = json.loads(self.bytes_of(repository, there))["layers"] if there else []
        self._artifact(repository, [*rows, row], tag)

    def attest(self, repository: str, digest: str, envelope: object) -> None:
        """In the tag form of cosign 2."""
        raw = packed(envelope)
        row = self._row("application/vnd.dsse.envelope.v1+json", self.blob(repository, raw), raw)
        self._artifact(repository, [row], f"{digest.replace(':', '-')}.att")

    def attach(self, repository: str, digest: str, bundle: bytes, *, artifact_type: str = BUNDLE, listed: bool = True) -> str:
        """A bundle by referrers; without that API by the fallback tag, as a pusher has to. `listed`: with its type."""
        row = self._row(artifact_type, self.blob(repository, bundle), bundle)
        empty = self._row(EMPTY, self.blob(repository, b"{}"), b"{}")
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": empty,
            "layers": [row],
            "subject": self.entry(repository, digest),
        }
        made = self.manifest(repository, value)
        if not self.referrers:
            tag = digest.replace(":", "-")
            there = self.tags.get((repository, tag))
            rows: list[Any] = json.loads(self.bytes_of(repository, there))["manifests"] if there else []
            row = {**self.entry(repository, made), **({"artifactType": artifact_type} if listed else {})}
            fallback: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*rows, row]}
            self.manifest(repository, fallback, OCI_INDEX, tag)
        return made

    def asked(self, piece: str = "") -> list[str]:
        """`METHOD path` of each request whose path has the piece."""
        return [f"{one.method} {one.path}" for one in self.seen if piece in one.path]

    def _artifact(self, repository: str, rows: list[Any], tag: str) -> None:
        config = packed({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [r["digest"] for r in rows]}})
        row = self._row(OCI_CONFIG, self.blob(repository, config), config)
        self.manifest(repository, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": row, "layers": rows}, tag=tag)

    @staticmethod
    def _row(media_type: str, digest: str, raw: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest, "size": len(raw)}

    # HTTP

    async def __call__(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        method, path, query = scope["method"], scope["path"], scope["query_string"].decode()
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        fault = next((one for one in self.faults if one.fits(method, path)), None)
        login = headers.get("authorization", "")
        if fault is not None:
            fault.times -= 1
            reply = self._broken(fault, method, path, query, login, body)
        else:
            reply = self._answer(method, path, query, login, body, headers)
        self.seen.append(Seen(method, headers.get("host", ""), path, query, login, reply.status))
        sent = b"" if method == "HEAD" else reply.body
        listed = {"content-length": str(len(reply.body)), **reply.headers}
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in listed.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
        await send({"type": "http.response.body", "body": sent})

    def _broken(self, fault: Fault, method: str, path: str, query: str, login: str, body: bytes) -> Reply:
        if fault.redirect:
            return Reply(fault.status or 307, headers={"location": fault.redirect.replace("{path}", path)})
        if fault.status:
            return Reply(fault.status, fault.body or b"", dict(fault.headers))
        reply = self._answer(method, path, query, login, body, {})
        if fault.body is not None:
            reply.body = fault.body
        if fault.tamper and reply.body:
            reply.body = bytes([reply.body[0] ^ 1]) + reply.body[1:]
        reply.body += b" " * fault.swell
        if fault.content_type:
            reply.headers["content-type"] = fault.content_type
        reply.headers.update(fault.headers)
        return reply

    def _answer(self, method: str, path: str, query: str, login: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        fields = {name: values[0] for name, values in parse_qs(query).items()}
        if path == "/token":
            return self._token(fields, login)
        refused = self._refused(method, path, login)
        if refused is not None:
            return refused
        match = re.fullmatch(r"/v2/(.+?)/(manifests|blobs|referrers|tags)/(.*)", path)
        if match is None:
            return Reply(200 if path == "/v2/" else 404)
        repository, kind, name = match.groups()
        if kind == "manifests":
            return self._manifests(method, repository, name, body, headers.get("content-type", OCI_MANIFEST))
        if kind == "blobs":
            return self._blobs(method, repository, name, fields, body)
        if kind == "referrers" and self.referrers:
            return self._referrers(repository, name, int(fields.get("last", "0")))
        return Reply(404, b'{"errors":[]}')

    def _manifests(self, method: str, repository: str, name: str, body: bytes, content_type: str) -> Reply:
        if method == "PUT":
            digest = self.manifest(repository, body, content_type, "" if name.startswith("sha256:") else name)
            return Reply(201, headers={"docker-content-digest": digest})
        digest = name if name.startswith("sha256:") else self.tags.get((repository, name), "")
        found = self.manifests.get((repository, digest))
        if found is None:
            return Reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        told = {"docker-content-digest": digest} if self.digest_header else {}
        return Reply(200, found[1], {"content-type": found[0], **told})

    def _blobs(self, method: str, repository: str, name: str, fields: Mapping[str, str], body: bytes) -> Reply:
        if method == "POST":
            return Reply(202, headers={"location": f"/v2/{repository}/blobs/uploads/1?state=a%2Fb"})
        if method == "PUT":
            if digest_of(body) != fields.get("digest"):
                return Reply(400)
            self.blob(repository, body)
            return Reply(201)
        raw = self.blobs.get((repository, name))
        return Reply(404) if raw is None else Reply(200, raw, {"content-type": "application/octet-stream"})

    def _referrers(self, repository: str, digest: str, since: int) -> Reply:
        rows: list[dict[str, Any]] = []
        for (where, made), (_, raw) in self.manifests.items():
            value = json.loads(raw)
            subject: dict[str, Any] = value.get("subject") or {}
            if where == repository and subject.get("digest") == digest:
                rows.append({**self.entry(repository, made), "artifactType": value.get("artifactType", "")})
        shown = rows[since : since + self.page] if self.page else rows
        told = {"content-type": OCI_INDEX}
        if self.page and since + self.page < len(rows):
            told["link"] = f'</v2/{repository}/referrers/{digest}?last={since + self.page}>; rel="next"'
        return Reply(200, packed({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": shown}), told)

    # Logins

    def _refused(self, method: str, path: str, login: str) -> Reply | None:
        if not self.auth:
            return None
        if self.auth == "basic":
            known = login == self._basic()
            return None if known else Reply(401, b"{}", {"www-authenticate": 'Basic realm="registry"'})
        match = re.fullmatch(r"/v2/(.+?)/(?:manifests|blobs|referrers|tags)/.*", path)
        scope = self.tokens.get(login.removeprefix("Bearer "), "")
        actions = scope.rpartition(":")[2].split(",")
        wanted = "pull" if method in ("GET", "HEAD") else "push"
        if match is not None and scope.startswith(f"repository:{match[1]}:") and wanted in actions:
            return None
        told = f'Bearer realm="{self.realm}",service="{self.host}",scope="repository:everything:*"'
        return Reply(401, b"{}", {"www-authenticate": told})

    def _basic(self) -> str:
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()

    def _token(self, fields: Mapping[str, str], login: str) -> Reply:
        if login and login != self._basic():
            return Reply(401, b"{}")
        if not login and not self.anonymous:
            return Reply(401, b"{}")
        token = f"token-{len(self.tokens) + 1}"
        self.tokens[token] = fields.get("scope", "")
        return Reply(200, packed({"token": token, "expires_in": 300}), {"content-type": "application/json"})


def login_of(authorization: str) -> tuple[str, str]:
    """User and password of a Basic header."""
    user, _, password = b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
    return user, password


class Wire(httpx.AsyncBaseTransport):
    """The network between a client and several registries; a host that is not on it, or is down, cannot be reached."""

    def __init__(self, *registries: FakeRegistry, others: Mapping[str, FakeRegistry] | None = None) -> None:
        """`others`: further hosts that a registry answers as, such as its token service."""
        self.hosts = {one.host.partition(":")[0]: one for one in registries} | dict(others or {})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        registry = self.hosts.get(request.url.host)
        if registry is None or registry.down:
            raise httpx.ConnectError(f"no way to {request.url.host}")
        return await httpx.ASGITransport(app=registry).handle_async_request(request)  # pyright: ignore[reportArgumentType]
