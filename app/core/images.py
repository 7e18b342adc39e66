"""What an image must show before it may run, and what it showed: values that travel from trust to lease, page and node."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast


class Mode(StrEnum):
    """How far a pool holds what runs on its machines."""

    CONTAINED = "contained"  # the runner is inside the signed image and has no engine
    GUARDED = "guarded"  # the runner may start containers, each from a verified digest only
    BARE = "bare"  # an unprivileged process on the machine: nothing can be enforced there


class Refusal(StrEnum):
    """The word of each check that an image can fail: `ImageVerdict.code`."""

    NOT_ALLOWED_REPOSITORY = "not_allowed_repository"
    UNKNOWN_REGISTRY = "unknown_registry"
    NOT_FOUND = "not_found"
    UNSIGNED = "unsigned"
    WRONG_KEY = "wrong_key"
    WRONG_DIGEST = "wrong_digest"  # the signature speaks for another image
    TAMPERED = "tampered"  # bytes are not what their digest says
    REVOKED = "revoked"
    EXPIRED_IDENTITY = "expired_identity"  # signed outside of the certificate's time, or with nothing that proves the time
    WRONG_IDENTITY = "wrong_identity"
    TOO_OLD = "too_old"
    NO_PROVENANCE = "no_provenance"
    WRONG_PROVENANCE = "wrong_provenance"
    PLATFORM_UNSIGNED = "platform_unsigned"
    UNREADABLE = "unreadable"  # a reference, a manifest or a limit that nothing of ours understands


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that may sign; `name` is for people: the file it came from."""

    name: str
    pem: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Keyless: whom the certificate names. Exact, or a pattern where it has * or ?."""

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """The SLSA attestation that a pool requires. Exact, or a pattern where it has * or ?; "" is any."""

    builder: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class TrustRule:
    """What an image must show before it may run for a pool."""

    signed: bool = True  # False: it is only pinned to a digest, and every lease wears a red mark
    repositories: frozenset[str] = frozenset()  # patterns over "registry/repository"; none: any of the settings' registries
    keys: tuple[PublicKey, ...] = ()
    identities: tuple[Identity, ...] = ()
    need_all: bool = False  # every key and identity must have signed; else any one of them
    provenance: Provenance | None = None
    oldest: timedelta | None = None  # signatures older than this no longer count
    revoked: frozenset[str] = frozenset()  # digests


@dataclass(frozen=True, slots=True)
class Evidence:
    """One signature or attestation that was looked at.

    The last four are what a node needs to check it by itself: not for pages or logs."""

    kind: str  # "cosign tag", "sigstore bundle", "provenance"
    good: bool
    signer: str  # a key's name and fingerprint "SHA256:…", or "subject (issuer)"
    signed_at: datetime | None
    log_index: int | None
    detail: str  # why it failed; of a good one "", or builder and source
    payload: bytes = field(default=b"", repr=False)  # exactly the bytes that were signed
    signature: bytes = field(default=b"", repr=False)
    key_pem: str = field(default="", repr=False)
    digest: str = ""  # the digest that it speaks for


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """One line of the verdict."""

    what: str
    asked: str
    seen: str
    passed: bool


@dataclass(frozen=True, slots=True)
class ImageVerdict:
    """Whether an image may run, which digest that is, and everything that was looked at."""

    asked: str  # the reference as it was written
    allowed: bool
    reference: str  # "registry/repository@sha256:…", "" if it was not resolved: only this travels on
    digest: str  # of the index or manifest that the tag meant
    manifests: tuple[tuple[str, str, str], ...]  # (architecture, manifest digest, config digest) of every Linux platform
    checks: tuple[ImageCheck, ...]  # in order; the one that failed is named in `why`
    evidence: tuple[Evidence, ...]
    why: str  # a sentence; of a refusal it names the exact check that failed
    at: datetime
    code: str = ""  # of a refusal: a word of `Refusal`; "" if it is allowed


def to_json(verdict: ImageVerdict) -> dict[str, Any]:
    """JSON values, whole: `verdict_of` gives the same verdict back."""
    return {
        "asked": verdict.asked,
        "allowed": verdict.allowed,
        "code": verdict.code,
        "reference": verdict.reference,
        "digest": verdict.digest,
        "manifests": [list(manifest) for manifest in verdict.manifests],
        "checks": [
            {"what": check.what, "asked": check.asked, "seen": check.seen, "passed": check.passed} for check in verdict.checks
        ],
        "evidence": [
            {
                "kind": one.kind,
                "good": one.good,
                "signer": one.signer,
                "signed_at": None if one.signed_at is None else one.signed_at.isoformat(),
                "log_index": one.log_index,
                "detail": one.detail,
                "payload": b64encode(one.payload).decode(),
                "signature": b64encode(one.signature).decode(),
                "key_pem": one.key_pem,
                "digest": one.digest,
            }
            for one in verdict.evidence
        ],
        "why": verdict.why,
        "at": verdict.at.isoformat(),
    }


def verdict_of(values: Mapping[str, Any]) -> ImageVerdict:
    """The verdict that `to_json` wrote. KeyError, TypeError or ValueError for anything else."""
    return ImageVerdict(
        asked=str(values["asked"]),
        allowed=values["allowed"] is True,
        reference=str(values["reference"]),
        digest=str(values["digest"]),
        manifests=tuple((str(one[0]), str(one[1]), str(one[2])) for one in values["manifests"]),
        checks=tuple(
            ImageCheck(str(one["what"]), str(one["asked"]), str(one["seen"]), one["passed"] is True) for one in values["checks"]
        ),
        evidence=tuple(_evidence(one) for one in values["evidence"]),
        why=str(values["why"]),
        at=datetime.fromisoformat(values["at"]),
        code=str(values["code"]),
    )


def _evidence(one: Mapping[str, Any]) -> Evidence:
    signed_at = cast("str | None", one["signed_at"])
    return Evidence(
        kind=str(one["kind"]),
        good=one["good"] is True,
        signer=str(one["signer"]),
        signed_at=None if signed_at is None else datetime.fromisoformat(signed_at),
        log_index=None if one["log_index"] is None else int(one["log_index"]),
        detail=str(one["detail"]),
        payload=b64decode(one["payload"], validate=True),
        signature=b64decode(one["signature"], validate=True),
        key_pem=str(one["key_pem"]),
        digest=str(one["digest"]),
    )
