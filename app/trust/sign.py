"""Signs an image in the cosign tag form and pushes the signature beside those that are there.

For teams that have no signing yet; `cosign verify --key … --insecure-ignore-tlog` reads what is written here.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.kit.clock import Clock
from app.trust import cosign, keys, manifests, strict
from app.trust.access import RegistryAccess
from app.trust.endpoint import PUSH, Endpoint
from app.trust.faults import Refused, RegistryAway, brief
from app.trust.manifests import OCI_MANIFEST
from app.trust.reference import Reference, parse
from app.trust.repository import Repository
from providers.contract import Secret

CONFIG: Final = "application/vnd.oci.image.config.v1+json"
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class CannotSign(Exception):
    """The image was not signed; the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed, and where the signature is."""

    reference: str  # with the digest
    digest: str
    tag: str  # of the signatures
    fingerprint: str
    count: int  # signatures under the tag now
    fresh: bool  # False: this key's signature was there already


async def sign(
    reference: str,
    key_pem: str,
    password: Secret | None,
    registries: Mapping[str, RegistryAccess],
    clock: Clock,
    *,
    client: httpx.AsyncClient | None = None,
) -> Signed:
    """Sign what the reference means now: of an index the index itself, which covers all its platforms.

    Raises CannotSign, and RegistryAway where the registry is. Two that sign at once may lose one signature, since a tag has
    no lock (cosign, SIGNATURE_SPEC: "works but is racy"): sign again, what is there is kept.
    """
    private, key = _load(key_pem, password)
    try:
        asked = parse(reference)
    except Refused as no:
        raise CannotSign(no.why) from None
    access = registries.get(asked.host)
    if access is None:
        raise CannotSign(f"{asked.host} is not among the registries of the settings.")
    own = client is None
    client = client if client is not None else httpx.AsyncClient(verify=access.tls(), trust_env=False)
    try:
        return await _sign(asked, Endpoint(access, client, clock), private, key, clock)
    except Refused as no:
        raise CannotSign(no.why) from None
    finally:
        if own:
            await client.aclose()


async def _sign(asked: Reference, endpoint: Endpoint, private: Private, key: keys.Key, clock: Clock) -> Signed:
    repository = Repository(asked.repository, endpoint)
    digest = asked.digest or await repository.resolve(asked.tag)
    if digest is None or await repository.manifest(digest) is None:
        raise CannotSign(f"{asked.name} has no {asked.tag or brief(asked.digest)}.")
    tag = cosign.tag(digest)
    rows = await _there(repository, tag)
    for row in rows:
        if await _is_ours(repository, row, key, digest):
            return Signed(asked.at(digest), digest, tag, key.fingerprint, len(rows), fresh=False)
    payload = _packed(
        {
            "critical": {
                "identity": {"docker-reference": asked.name},
                "image": {"docker-manifest-digest": digest},
                "type": cosign.TYPE,
            },
            "optional": {"creator": "sublet", "timestamp": int(clock.now().timestamp())},
        }
    )
    layer = await _push_blob(endpoint, asked.repository, payload, cosign.SIMPLE_SIGNING)
    layer["annotations"] = {cosign.SIGNATURE: b64encode(_signature(private, payload)).decode()}
    rows = [*rows, layer]
    # cosign writes a config whose layers are those of the manifest, so that any registry takes it for an image.
    roots = {"type": "layers", "diff_ids": [row["digest"] for row in rows]}
    config = {"architecture": "", "config": None, "created": "0001-01-01T00:00:00Z", "os": "", "rootfs": roots}
    described = await _push_blob(endpoint, asked.repository, _packed(config), CONFIG)
    manifest = _packed({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": rows})
    path = f"/v2/{asked.repository}/manifests/{tag}"
    await _write(endpoint, "PUT", path, asked.repository, manifest, OCI_MANIFEST)
    return Signed(asked.at(digest), digest, tag, key.fingerprint, len(rows), fresh=True)


async def _there(repository: Repository, tag: str) -> list[dict[str, Any]]:
    """The layers that stand under the tag, as they are written: what we do not understand is kept, too."""
    tagged = await repository.tagged(tag)
    if tagged is None:
        return []
    cosign.layers(tagged[1])  # refused: an index, or too many
    found = await repository.manifest(tagged[0])
    return [] if found is None else strict.rows(strict.parse(found[0], "manifest"), "layers")


async def _is_ours(repository: Repository, row: Mapping[str, Any], key: keys.Key, digest: str) -> bool:
    """Whether this layer is a signature by our key for this digest."""
    try:
        layer = manifests.descriptor(dict(row), "manifest")
        payload = await repository.blob(layer.digest) if layer.media_type == cosign.SIMPLE_SIGNING else None
        if payload is None:
            return False
        signature = strict.coded(layer.annotations.get(cosign.SIGNATURE), "signature")
        return keys.signed(key, signature, payload) and cosign.claim(payload).digest == digest
    except Refused:
        return False


async def _push_blob(endpoint: Endpoint, repository: str, raw: bytes, media_type: str) -> dict[str, Any]:
    """Upload unless it is there (distribution specification, Pushing a blob: POST, then PUT). Gives its descriptor."""
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    there = await endpoint.call("HEAD", f"/v2/{repository}/blobs/{digest}", repository, actions=PUSH)
    if there.status != 200:
        opened = await _write(endpoint, "POST", f"/v2/{repository}/blobs/uploads/", repository, b"", "")
        base = httpx.URL(endpoint.access.base)
        try:
            place = base.join(opened.get("location", ""))
        except httpx.InvalidURL:
            place = base
        if (place.scheme, place.host, place.port) != (base.scheme, base.host, base.port) or place.path in ("", "/"):
            raise RegistryAway(f"{endpoint.host} wants the upload at another address, which is not followed.")
        await _write(
            endpoint, "PUT", str(place.copy_merge_params({"digest": digest})), repository, raw, "application/octet-stream"
        )
    return {"mediaType": media_type, "digest": digest, "size": len(raw)}


async def _write(
    endpoint: Endpoint, method: str, path: str, repository: str, content: bytes, content_type: str
) -> Mapping[str, str]:
    answer = await endpoint.call(method, path, repository, actions=PUSH, content=content, content_type=content_type)
    if answer.status not in (200, 201, 202, 204):
        raise CannotSign(f"{endpoint.host} does not take the signature ({answer.status}).")
    return answer.headers


def _load(pem: str, password: Secret | None) -> tuple[Private, keys.Key]:
    if "ENCRYPTED SIGSTORE PRIVATE KEY" in pem or "ENCRYPTED COSIGN PRIVATE KEY" in pem:
        raise CannotSign("This key is in cosign's own format: sign with cosign, and Sublet will read the signature.")
    try:
        private = load_pem_private_key(pem.strip().encode(), password.reveal().encode() if password else None)
    except TypeError as error:
        wants = "has a password, and none was given" if "not given" in str(error) else "has no password, and one was given"
        raise CannotSign(f"The key {wants}.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CannotSign("The key cannot be read: it is no private key in PEM form, or the password is wrong.") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise CannotSign("The key is of a kind that is not understood: ECDSA, RSA or Ed25519 are.")
    try:
        return private, keys.of(private.public_key(), "the key")
    except ValueError as error:
        raise CannotSign(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


def _signature(private: Private, payload: bytes) -> bytes:
    """SHA-256 whatever the curve, as the tag form demands."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(payload)
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(payload, padding.PKCS1v15(), hashes.SHA256())
    return private.sign(payload, ec.ECDSA(hashes.SHA256()))


def _packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
