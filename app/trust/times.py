"""When a signature was made, as a third party says it: a log's promise, or a timestamp (RFC 3161).

Only for signatures of keys: those with certificates are judged whole by the `sigstore` library (keyless.py). Both need the
trusted-root file of the settings. A time that nobody vouches for is no time: anybody can write a date into a bundle.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from app.trust import keys, strict
from app.trust.bundle import LogEntry
from app.trust.faults import Refused

LATEST: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Moment:
    at: datetime
    log_index: int | None


@dataclass(frozen=True, slots=True)
class Stamper:
    """A timestamp authority, its certificate first, its root last."""

    chain: tuple[x509.Certificate, ...]
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Witnesses:
    """The logs and timestamp authorities of a trusted root."""

    logs: tuple[keys.Key, ...] = ()
    stampers: tuple[Stamper, ...] = ()


def witnesses(trusted_root: bytes) -> Witnesses:
    """Out of a trusted-root file. ValueError with a sentence if it is none; single keys that are not known are left out."""
    try:
        values = strict.parse(trusted_root, "trusted root")
    except Refused as error:
        raise ValueError(error.why) from None
    if not strict.text(values, "mediaType").startswith("application/vnd.dev.sigstore.trustedroot"):
        raise ValueError("it is not a trusted root of Sigstore")
    logs: list[keys.Key] = []
    for log in strict.rows(values, "tlogs"):
        try:
            der = strict.coded(strict.table(strict.table({"log": log}, "log"), "publicKey").get("rawBytes"), "trusted root")
            logs.append(keys.of(load_der_public_key(der), "log"))
        except (Refused, ValueError, UnsupportedAlgorithm):
            continue
    stampers = [found for one in strict.rows(values, "timestampAuthorities") if (found := _stamper(one)) is not None]
    return Witnesses(tuple(logs), tuple(stampers))


def logged(known: Witnesses, entry: LogEntry, signature: bytes) -> Moment | None:
    """The moment at which a log took in this very signature, if the log's promise for that is good.

    The entry must hold the signature: else the fresh entry of one signature would make another one young."""
    if not entry.time or not entry.promise or not 0 < entry.time <= LATEST:
        return None
    said = {
        "body": b64encode(entry.body).decode(),
        "integratedTime": entry.time,
        "logID": entry.log.hex(),
        "logIndex": entry.index,
    }
    promised = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()  # as RFC 8785 writes such values
    if not any(keys.signed(log, entry.promise, promised) for log in known.logs):
        return None
    if b64encode(signature).decode() not in _signatures(entry.body):
        return None
    return Moment(datetime.fromtimestamp(entry.time, UTC), entry.index)


def stamped(known: Witnesses, responses: Sequence[bytes], signature: bytes) -> Moment | None:
    """The moment that a known authority signed for this signature."""
    if not responses or not known.stampers:
        return None
    import rfc3161_client as rfc3161

    for raw in responses:
        try:
            response = rfc3161.decode_timestamp_response(raw)
        except ValueError:
            continue
        for stamper in known.stampers:
            builder = rfc3161.VerifierBuilder().tsa_certificate(stamper.chain[0]).add_root_certificate(stamper.chain[-1])
            for middle in stamper.chain[1:-1]:
                builder = builder.add_intermediate_certificate(middle)
            try:
                builder.build().verify_message(response, signature)
                at = response.tst_info.gen_time
            except (rfc3161.VerificationError, ValueError):
                continue
            if (stamper.since is None or stamper.since <= at) and (stamper.until is None or at < stamper.until):
                return Moment(at.astimezone(UTC), None)
    return None


def tag_entry(written: str) -> LogEntry | None:
    """The log entry that cosign 2 writes beside a signature in the tag form (SIGNATURE_SPEC.md, `bundle`)."""
    try:
        values = strict.parse(written.encode(), "log entry")
        payload = strict.table(values, "Payload")
        return LogEntry(
            strict.whole(payload, "logIndex") or 0,
            bytes.fromhex(strict.text(payload, "logID")),
            strict.whole(payload, "integratedTime") or 0,
            strict.coded(values.get("SignedEntryTimestamp"), "log entry"),
            strict.coded(payload.get("body"), "log entry"),
        )
    except (Refused, ValueError):
        return None


def _signatures(body: bytes) -> set[str]:
    """The signatures in a log entry of kind hashedrekord or dsse, in base64."""
    try:
        values = strict.parse(body, "log entry")
    except Refused:
        return set()
    spec = strict.table(values, "spec")
    if strict.text(values, "kind") == "hashedrekord":
        return {strict.text(strict.table(spec, "signature"), "content")} - {""}
    if strict.text(values, "kind") == "dsse":
        rows = strict.rows(spec, "signatures")
        return {strict.text(cast("dict[str, Any]", one), "signature") for one in rows if isinstance(one, dict)} - {""}
    return set()


def _stamper(value: object) -> Stamper | None:
    values = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    try:
        listed = strict.rows(strict.table(values, "certChain"), "certificates")
        chain = tuple(
            x509.load_der_x509_certificate(strict.coded(strict.table({"one": one}, "one").get("rawBytes"), "trusted root"))
            for one in listed
        )
        period = strict.table(values, "validFor")
        since, until = (_date(strict.text(period, name)) for name in ("start", "end"))
    except (Refused, ValueError, UnsupportedAlgorithm):
        return None
    return Stamper(chain, since, until) if len(chain) > 1 else None


def _date(written: str) -> datetime | None:
    if not written:
        return None
    found = datetime.fromisoformat(written)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
