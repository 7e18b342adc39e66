"""Makes signatures as other people's tools write them, with `cryptography` alone: nothing here knows `app.trust`."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from app.core.images import PublicKey

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
OLD_BUNDLE = "application/vnd.dev.sigstore.bundle+json;version=0.{}"
SIGNS = "https://sigstore.dev/cosign/sign/v1"
V0_2 = "https://slsa.dev/provenance/v0.2"
V1 = "https://slsa.dev/provenance/v1"


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class SigningKey:
    """A pair of keys with a name: `kind` is p256, p384, rsa or ed25519."""

    def __init__(self, name: str = "cosign.pub", kind: str = "p256", private: Private | None = None) -> None:
        self.name, self.kind = name, kind
        self.private = private if private is not None else _made(kind)

    @property
    def public(self) -> PublicKey:
        raw = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return PublicKey(self.name, raw.decode())

    def pem(self, password: str = "") -> str:
        """The private key, as `openssl genpkey` writes it."""
        lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock).decode()

    def sign(self, raw: bytes, *, hash_: hashes.HashAlgorithm | None = None, pss: bool = False) -> bytes:
        hash_ = hash_ or hashes.SHA256()
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(raw)
        if isinstance(self.private, rsa.RSAPrivateKey):
            pad = padding.PSS(padding.MGF1(hash_), 32) if pss else padding.PKCS1v15()
            return self.private.sign(raw, pad, hash_)
        return self.private.sign(raw, ec.ECDSA(hash_))


def _made(kind: str) -> Private:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP384R1() if kind == "p384" else ec.SECP256R1())


def simple_signing(digest: str, *, reference: str = "registry.test/ci/gpu", optional: Mapping[str, Any] | None = None) -> bytes:
    """What cosign signs in the tag form."""
    return packed(
        {
            "critical": {
                "identity": {"docker-reference": reference},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": optional,
        }
    )


def message_bundle(
    key: SigningKey, content: bytes, *, media_type: str = BUNDLE, digest: str | None = None, signature: bytes | None = None
) -> bytes:
    """A bundle over the manifest's own bytes."""
    claimed = bytes.fromhex((digest or digest_of(content)).removeprefix("sha256:"))
    signed = {
        "messageDigest": {"algorithm": "SHA2_256", "digest": b64encode(claimed).decode()},
        "signature": b64encode(signature if signature is not None else key.sign(content)).decode(),
    }
    return packed({"mediaType": media_type, "verificationMaterial": {"publicKey": {"hint": "h"}}, "messageSignature": signed})


def pae(kind: str, payload: bytes) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def envelope(key: SigningKey, payload: bytes, *, kind: str = "application/vnd.in-toto+json") -> dict[str, Any]:
    signature = b64encode(key.sign(pae(kind, payload))).decode()
    return {"payload": b64encode(payload).decode(), "payloadType": kind, "signatures": [{"sig": signature, "keyid": ""}]}


def dsse_bundle(
    key: SigningKey, payload: bytes, *, media_type: str = BUNDLE, kind: str = "application/vnd.in-toto+json"
) -> bytes:
    """A bundle with an envelope, as cosign 3 attaches it."""
    return packed(
        {
            "mediaType": media_type,
            "verificationMaterial": {"publicKey": {"hint": "h"}},
            "dsseEnvelope": envelope(key, payload, kind=kind),
        }
    )


def statement(*digests: str, predicate_type: str = SIGNS, predicate: object = None, version: str = "v1") -> bytes:
    """An in-toto statement about images."""
    return packed(
        {
            "_type": f"https://in-toto.io/Statement/{version}",
            "subject": [{"name": "image", "digest": {"sha256": digest.removeprefix("sha256:")}} for digest in digests],
            "predicateType": predicate_type,
            "predicate": predicate if predicate is not None else {},
        }
    )


def slsa_1(digest: str, *, builder: str, source: str) -> bytes:
    """Provenance as GitHub's attestations have it."""
    workflow = {"repository": source, "ref": "refs/heads/main", "path": "ci.yml"}
    kind = "https://actions.github.io/buildtypes/workflow/v1"
    definition: dict[str, Any] = {"buildType": kind, "externalParameters": {"workflow": workflow}}
    predicate = {"buildDefinition": definition, "runDetails": {"builder": {"id": builder}}}
    return statement(digest, predicate_type=V1, predicate=predicate)


def slsa_0_2(digest: str, *, builder: str, source: str) -> bytes:
    predicate = {"builder": {"id": builder}, "invocation": {"configSource": {"uri": source, "entryPoint": "ci.yml"}}}
    return statement(digest, predicate_type=V0_2, predicate=predicate, version="v0.1")
