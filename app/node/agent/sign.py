"""Whether an image's signatures hold, checked by this machine's own `openssl` against the keys that the service sent.

What is signed names the image by its digest, in one of three ways: cosign's simple-signing document, a DSSE envelope around an
in-toto statement, or the manifest itself. A signature that names no digest, or another one, is worth nothing here.

ECDSA and RSA (PKCS #1 v1.5): `openssl dgst -verify`, from OpenSSL 1.0 on. P-384 with SHA-256 or SHA-384: both are in use.
Ed25519: `openssl pkeyutl -rawin`, from OpenSSL 3.0 on (openssl-pkeyutl(1)); an older one is told so, and nothing is believed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from . import command, shape

PATIENCE = 20.0
MOST = 32
"""Signatures of one image."""
LARGEST = 4 << 20
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SIMPLE = "cosign container image signature"
PLACES = "/usr/bin:/bin:/usr/local/bin:/usr/local/ssl/bin"


class Signature(NamedTuple):
    """One signature, as the service hands it over."""

    kind: str  # "provenance" is checked, and is no signature of the image
    payload: bytes
    signature: bytes
    key: str  # PEM: a public key, or the certificate that has it


class Checked(NamedTuple):
    problem: str  # a sentence; empty: every signature holds, and one at least names the image
    openssl: str  # its own name and version
    keys: tuple[str, ...]  # fingerprints of the keys that signed


def read(rows: object) -> tuple[Signature, ...]:
    """The signatures of an answer. ValueError for what cannot be read: it must not be skipped."""
    found: list[Signature] = []
    for row in shape.items(rows):
        given = shape.table(row)
        payload, signature = _bytes(given.get("payload")), _bytes(given.get("signature"))
        found.append(Signature(str(given.get("kind", "")), payload, signature, str(given.get("key", ""))))
    if len(found) > MOST:
        raise ValueError(f"there are {len(found)} signatures; at most {MOST} are looked at")
    return tuple(found)


def check(signatures: tuple[Signature, ...], names: frozenset[str], search: str | None = None) -> Checked:
    """Every signature must hold; one of them must name one of the digests `names`. Never raises."""
    program = shutil.which("openssl", path=search) or (shutil.which("openssl", path=PLACES) if search is None else None)
    if program is None:
        return Checked("openssl is not on this machine, so that nobody here can check a signature", "", ())
    told = command.run([program, "version"], PATIENCE)
    version = " ".join(told.text.split())[:100]
    if told.problem or not version:
        return Checked(f"openssl {told.problem or 'does not say which it is'}", "", ())
    keys: list[str] = []
    named = False
    for place, one in enumerate(signatures, 1):
        problem, key, digest = _one(program, version, one, names)
        if problem:
            return Checked(f"signature {place} of {len(signatures)} ({one.kind[:40]}): {problem}", version, tuple(keys))
        keys += [] if key in keys else [key]
        named = named or (one.kind != "provenance" and digest in names)
    if not named:
        return Checked("no signature names this image", version, tuple(keys))
    return Checked("", version, tuple(keys))


def _one(program: str, version: str, one: Signature, names: frozenset[str]) -> tuple[str, str, str]:
    """(problem, the key's fingerprint, the digest that is named)."""
    digests = named(one.payload)
    if not digests & names:
        return f"it names {', '.join(sorted(digests))[:200] or 'no digest'}, not this image", "", ""
    with tempfile.TemporaryDirectory(prefix="sublet-sign-") as folder:
        place = Path(folder)
        for name, content in (("key", one.key.encode()), ("signature", one.signature), ("payload", one.payload)):
            (place / name).write_bytes(content)
        if "BEGIN CERTIFICATE" in one.key:
            told = command.run([program, "x509", "-in", f"{place}/key", "-noout", "-pubkey"], PATIENCE)
            if told.problem:
                return f"its certificate cannot be read: openssl {told.problem}", "", ""
            (place / "key").write_text(told.text)
        try:
            der = _der((place / "key").read_text())
        except ValueError as error:
            return str(error), "", ""
        problem = _verify(program, version, place, der)
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    return problem, fingerprint, next(iter(digests & names))


def _verify(program: str, version: str, place: Path, der: bytes) -> str:
    if b"\x06\x03\x2b\x65\x70" in der[:16]:  # the algorithm's name in the key: 1.3.101.112, Ed25519 (RFC 8410)
        words = [program, "pkeyutl", "-verify", "-pubin", "-inkey", f"{place}/key", "-sigfile", f"{place}/signature", "-rawin"]
        told = command.run([*words, "-in", f"{place}/payload"], PATIENCE)
        if told.problem and re.match(r"OpenSSL (0|1)\.", version):
            return f"{version} cannot check Ed25519: the image needs OpenSSL 3, or another kind of key"
        return f"the signature does not hold (openssl {told.problem})" if told.problem else ""
    problem = ""
    for kind in ("-sha256", "-sha384"):
        words = [program, "dgst", kind, "-verify", f"{place}/key", "-signature", f"{place}/signature", f"{place}/payload"]
        told = command.run(words, PATIENCE)
        if not told.problem and told.text.strip() == "Verified OK":
            return ""
        problem = problem or f"the signature does not hold (openssl {told.problem or told.text.strip()[:60]})"
    return problem


def named(payload: bytes) -> frozenset[str]:
    """The digests that signed bytes speak for."""
    own = frozenset({"sha256:" + hashlib.sha256(payload).hexdigest()})  # the manifest itself may be what is signed
    wrapped = re.match(rb"DSSEv1 ([0-9]{1,4}) ", payload)
    try:
        if wrapped is None:
            critical = shape.table(shape.table(json.loads(payload)).get("critical"))
            said = shape.table(critical.get("image")).get("docker-manifest-digest")
            return frozenset({str(said)}) if critical.get("type") == SIMPLE and _is_digest(said) else own
        start = wrapped.end() + int(wrapped.group(1)) + 1
        rest = re.match(rb"([0-9]{1,9}) ", payload[start : start + 10])
        if rest is None or len(payload) != start + rest.end() + int(rest.group(1)):
            return frozenset()
        subjects = shape.items(shape.table(json.loads(payload[start + rest.end() :])).get("subject"))
    except (ValueError, RecursionError):
        return own
    digests = ["sha256:" + str(shape.table(shape.table(one).get("digest")).get("sha256")) for one in subjects]
    return frozenset(digest for digest in digests if _is_digest(digest))


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and DIGEST.fullmatch(text) is not None


def _der(pem: str) -> bytes:
    found = re.search(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]{1,20000})-----END PUBLIC KEY-----", pem)
    if found is None:
        raise ValueError("its key is no public key in PEM form")
    try:
        return base64.b64decode("".join(found.group(1).split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its key cannot be read") from None


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) > LARGEST:
        raise ValueError("a signature cannot be read")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a signature cannot be read") from None
