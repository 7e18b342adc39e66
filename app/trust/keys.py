"""Public keys: which we take, their fingerprints, and whether one of them made a signature.

Taken: ECDSA on P-256 and P-384, RSA from 2048 bits with PKCS #1 v1.5 and SHA-256, Ed25519. The signature does not say what
made it (cosign, SIGNATURE_SPEC: "no information about the signature scheme is included"): the key alone decides.

P-384: cosign hashes with SHA-256 whatever the curve, since the payload's digest is the registry's, while Sigstore's
registry of algorithms pairs P-384 with SHA-384 (sigstore/architecture-docs, algorithm-registry). Both count.
Ed25519: the plain form of RFC 8032. The pre-hashed one (Ed25519ph) is another signature; `cryptography` cannot check it.
RSA-PSS: not taken, because the node's openssl would need other options for it; said clearly, so that nobody searches.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from app.core.images import PublicKey

Taken = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
LEAST_RSA: Final = 2048
LARGEST_RSA: Final = 8192
"""Bits: a check with more takes long enough to be a way to stop the service."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may sign, ready to check with."""

    name: str
    pem: str
    fingerprint: str
    public: Taken

    @property
    def shown(self) -> str:
        return f"{self.name} ({self.fingerprint})"


def load(given: PublicKey) -> Key:
    """The key of a setting. ValueError with a sentence for what is no key, or none that we take."""
    if "PRIVATE KEY" in given.pem:
        raise ValueError(f"{given.name} is a private key: name the public one, and keep this one away from here")
    try:
        public = load_pem_public_key(given.pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{given.name} is no public key in PEM form") from None
    return of(public, given.name)


def of(public: object, name: str) -> Key:
    """The same for a key that a library has read. ValueError for a kind that we do not take."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        if public.curve.name not in ("secp256r1", "secp384r1"):
            raise ValueError(f"{name} is on the curve {public.curve.name}: P-256 and P-384 are understood")
    elif isinstance(public, rsa.RSAPublicKey):
        if not LEAST_RSA <= public.key_size <= LARGEST_RSA:
            raise ValueError(f"{name} has {public.key_size} bits: RSA keys of {LEAST_RSA} to {LARGEST_RSA} are understood")
    elif not isinstance(public, ed25519.Ed25519PublicKey):
        raise ValueError(f"{name} is a key of a kind that is not understood: ECDSA, RSA or Ed25519 are")
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return Key(name, pem, fingerprint(der), public)


def fingerprint(der: bytes) -> str:
    """SHA256:… over the DER form (SubjectPublicKeyInfo), in base64 without padding, as OpenSSH writes them."""
    return "SHA256:" + b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def signed(key: Key, signature: bytes, payload: bytes) -> bool:
    """Whether this key made this signature over exactly these bytes."""
    public = key.public
    if isinstance(public, ed25519.Ed25519PublicKey):
        return _passes(lambda: public.verify(signature, payload))
    if isinstance(public, rsa.RSAPublicKey):
        return _passes(lambda: public.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256()))
    return any(_ecdsa(public, signature, payload, one) for one in _hashes(public))


def signed_digest(key: Key, signature: bytes, digest: bytes) -> bool:
    """The same where only the SHA-256 of the bytes is known. Never for Ed25519, which needs the bytes."""
    public, known = key.public, Prehashed(hashes.SHA256())
    if len(digest) != 32 or isinstance(public, ed25519.Ed25519PublicKey):
        return False
    if isinstance(public, rsa.RSAPublicKey):
        return _passes(lambda: public.verify(signature, digest, padding.PKCS1v15(), known))
    return _passes(lambda: public.verify(signature, digest, ec.ECDSA(known)))


def is_pss(key: Key, signature: bytes, payload: bytes) -> bool:
    """Whether an RSA key made it with PSS instead: refused all the same, with a sentence that says so."""
    public = key.public
    if not isinstance(public, rsa.RSAPublicKey):
        return False
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    return _passes(lambda: public.verify(signature, payload, pss, hashes.SHA256()))


def _hashes(public: ec.EllipticCurvePublicKey) -> tuple[hashes.HashAlgorithm, ...]:
    return (hashes.SHA256(),) if public.curve.name == "secp256r1" else (hashes.SHA256(), hashes.SHA384())


def _passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except InvalidSignature:
        return False
    except (ValueError, UnsupportedAlgorithm):  # a signature of a length that cannot be one
        return False
    return True


def _ecdsa(public: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    return _passes(lambda: public.verify(signature, payload, ec.ECDSA(algorithm)))
