"""The Sigstore bundle, versions 0.1 to 0.3, and what stands in it: a message's signature, or a DSSE envelope.

sigstore/protobuf-specs, sigstore_bundle.proto: until 0.2 the certificate is the first of a chain, from 0.3 it stands alone;
a bundle that a key made has a hint instead, which proves nothing. protobuf's JSON writes bytes as base64 and 64-bit
numbers as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from app.trust import strict
from app.trust.faults import Refused, unreadable

MEDIA_TYPE: Final = re.compile(r"application/vnd\.dev\.sigstore\.bundle(?:\+json;version=0\.[123]|\.v0\.3\+json)")
IN_TOTO: Final = "application/vnd.in-toto+json"
STATEMENTS: Final = frozenset({"https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"})
SIGNS: Final = "https://sigstore.dev/cosign/sign/v1"
"""The predicate type by which cosign 3 says: this is a signature of the image."""
MOST_SUBJECTS: Final = 1024
MOST_TIMES: Final = 8


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a transparency log, as the bundle claims it. Proven by nobody yet."""

    index: int
    log: bytes  # the log's id
    time: int  # seconds; 0 if the log does not date its entries
    promise: bytes  # the signed entry timestamp
    body: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A signature over the artifact itself: here the manifest's bytes."""

    digest: bytes  # what it says that it signed; may be missing
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """DSSE: a typed payload and its signature."""

    kind: str
    payload: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that are signed: the pre-authentication encoding (secure-systems-lab/dsse, protocol.md)."""
        kind = self.kind.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


@dataclass(frozen=True, slots=True)
class Bundle:
    keyless: bool  # it brings a certificate
    content: Message | Envelope
    entries: tuple[LogEntry, ...]
    times: tuple[bytes, ...]  # RFC 3161 responses
    raw: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """in-toto: this predicate holds for these subjects."""

    subjects: frozenset[str]  # digests
    predicate_type: str
    predicate: Mapping[str, Any]


def is_bundle(media_type: str) -> bool:
    return media_type.startswith("application/vnd.dev.sigstore.bundle")


def read(raw: bytes) -> Bundle:
    """Refused: another version, neither or both contents, no or several signatures in the envelope."""
    values = strict.parse(raw, "bundle")
    kind = strict.text(values, "mediaType")
    if not MEDIA_TYPE.fullmatch(kind):
        raise unreadable(f"The bundle is of type {kind[:80]!r}; versions 0.1 to 0.3 are understood.")
    material = strict.table(values, "verificationMaterial")
    chain = strict.table(material, "x509CertificateChain")
    keyless = bool(material.get("certificate")) or bool(strict.rows(chain, "certificates"))
    if keyless == (material.get("publicKey") is not None):
        raise unreadable("The bundle must have either a certificate or a key's hint.")
    enveloped = values.get("dsseEnvelope") is not None
    if enveloped == (values.get("messageSignature") is not None):
        raise unreadable("The bundle must have either a message's signature or an envelope.")
    if enveloped:
        content: Message | Envelope = envelope(strict.table(values, "dsseEnvelope"))
    else:
        content = _message(strict.table(values, "messageSignature"))
    stamps = strict.rows(strict.table(material, "timestampVerificationData"), "rfc3161Timestamps")
    return Bundle(
        keyless,
        content,
        tuple(entry for one in strict.rows(material, "tlogEntries")[:MOST_TIMES] if (entry := _entry(one)) is not None),
        tuple(strict.coded(_row(one).get("signedTimestamp"), "bundle") for one in stamps[:MOST_TIMES]),
        raw,
    )


def envelope(values: Mapping[str, Any]) -> Envelope:
    """DSSE as JSON; exactly one signature, as the bundle's specification asks."""
    signatures = strict.rows(values, "signatures")
    if len(signatures) != 1:
        raise unreadable(f"The envelope has {len(signatures)} signatures instead of one.")
    return Envelope(
        strict.text(values, "payloadType"),
        strict.coded(values.get("payload"), "envelope"),
        strict.coded(_row(signatures[0]).get("sig"), "envelope"),
    )


def statement(inside: Envelope) -> Statement:
    """The in-toto statement in an envelope. Call it only after the signature was checked."""
    if inside.kind != IN_TOTO:
        raise unreadable(f"The envelope holds {inside.kind[:80]!r}, no in-toto statement.")
    values = strict.parse(inside.payload, "statement")
    strict.plain(values, ("_type", "subject", "predicateType", "predicate"), "statement")
    if strict.text(values, "_type") not in STATEMENTS:
        raise unreadable("The statement is not of in-toto's version 0.1 or 1.")
    subjects = strict.rows(values, "subject")
    if len(subjects) > MOST_SUBJECTS:
        raise unreadable(f"The statement speaks of {len(subjects)} things; at most {MOST_SUBJECTS} are looked at.")
    digests = [f"sha256:{strict.text(strict.table(_row(one), 'digest'), 'sha256')}" for one in subjects]
    return Statement(
        frozenset(digest for digest in digests if strict.is_digest(digest)),
        strict.text(values, "predicateType"),
        strict.table(values, "predicate"),
    )


def _message(values: Mapping[str, Any]) -> Message:
    claimed = strict.table(values, "messageDigest")
    if claimed and strict.text(claimed, "algorithm") != "SHA2_256":
        raise unreadable("The bundle's message is not hashed with SHA-256.")
    digest = strict.coded(claimed["digest"], "bundle") if "digest" in claimed else b""
    return Message(digest, strict.coded(values.get("signature"), "bundle"))


def _entry(value: object) -> LogEntry | None:
    """None for an entry that dates nothing we could check."""
    values = _row(value)
    try:
        return LogEntry(
            strict.whole(values, "logIndex") or 0,
            strict.coded(strict.table(values, "logId").get("keyId"), "bundle"),
            strict.whole(values, "integratedTime") or 0,
            strict.coded(strict.table(values, "inclusionPromise").get("signedEntryTimestamp", ""), "bundle"),
            strict.coded(values.get("canonicalizedBody"), "bundle"),
        )
    except Refused:
        return None


def _row(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
