"""Signatures without a key of one's own: a certificate names the signer for ten minutes, and a log keeps when.

The `sigstore` library judges the bundle against a trusted-root file, without any network: certificate chain, signed
certificate timestamp, log entry with its proof, signature. This file asks it, and says in our words what failed.

The library demands an inclusion proof in each bundle. The annotations that cosign 2 writes beside keyless signatures in
the tag form have only the log's promise, so these are refused with a sentence: cosign 3 writes bundles by itself, cosign
2.4 and later with `--new-bundle-format`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.images import Identity, Refusal
from app.trust import strict, times
from app.trust.bundle import Bundle, Envelope, Message
from app.trust.faults import Refused, brief, unreadable
from app.trust.globs import fits

if TYPE_CHECKING:
    from sigstore.verify import Verifier

ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
OLD_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
OTHER_NAME: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
"""Fulcio's extensions (sigstore/fulcio, oid-info.md); the old issuer is bare text, the new one a DER string."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Whom the certificate names, and what is proven with it."""

    subjects: tuple[str, ...]
    issuer: str
    signed_at: datetime
    log_index: int | None
    key_pem: str

    @property
    def shown(self) -> str:
        shown = f"{', '.join(self.subjects) or 'nobody'} ({self.issuer or 'no issuer'})"
        return "".join(one if one.isprintable() else "?" for one in shown)  # a stranger chose it

    def is_one(self, asked: Identity) -> bool:
        """Issuer and subject exactly, or by pattern where the setting has one."""
        return bool(self.issuer) and fits(asked.issuer, self.issuer) and any(fits(asked.subject, one) for one in self.subjects)


class Keyless:
    """A trusted root, read once: at the first bundle that needs it, because the library takes half a second to load."""

    def __init__(self, trusted_root: Path, witnesses: times.Witnesses) -> None:
        self._path, self._witnesses = trusted_root, witnesses
        self._verifier: Verifier | None = None

    def check(self, bundle: Bundle, digest: str) -> Signer:
        """Blocking. The proven signer of a bundle that speaks for this digest, or Refused; nothing else is ever raised.

        An envelope is proven as a whole; which digest its statement names is for the caller to read."""
        try:
            return self._check(bundle, digest)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001  a stranger's bytes in a stranger's parser: whatever it is, it is a no
            raise unreadable(f"The bundle cannot be checked ({type(error).__name__}).", what="signature") from None

    def _check(self, bundle: Bundle, digest: str) -> Signer:
        from sigstore import errors
        from sigstore.hashes import Hashed
        from sigstore.models import Bundle as TheirBundle
        from sigstore.models import InvalidBundle
        from sigstore_models.common.v1 import HashAlgorithm

        try:
            theirs = TheirBundle.from_json(_spelled_out(bundle.raw))
        except InvalidBundle as error:
            raise unreadable(f"The bundle is refused: {_line(error)}.", what="signature") from None
        certificate = theirs.signing_certificate
        moment = self._moment(bundle, certificate)
        seen = _Seen()
        try:
            if isinstance(bundle.content, Message):
                wanted = bytes.fromhex(digest.removeprefix("sha256:"))
                if bundle.content.digest and bundle.content.digest != wanted:
                    other = brief(f"sha256:{bundle.content.digest.hex()}")
                    raise Refused(
                        Refusal.WRONG_DIGEST, f"The bundle speaks for {other}, not for {brief(digest)}.", what="signature"
                    )
                self._library().verify_artifact(Hashed(algorithm=HashAlgorithm.SHA2_256, digest=wanted), theirs, seen)
            else:
                kind, payload = self._library().verify_dsse(theirs, seen)
                assert isinstance(bundle.content, Envelope)
                if (kind, payload) != (bundle.content.kind, bundle.content.payload):
                    raise unreadable("The bundle's envelope reads differently twice.", what="signature")
        except errors.VerificationError as error:
            if "verified time" in str(error):
                raise Refused(
                    Refusal.EXPIRED_IDENTITY,
                    "Nothing proves that the bundle was signed while its certificate was valid.",
                    what="signature",
                ) from None
            raise Refused(Refusal.WRONG_IDENTITY, f"The bundle does not hold: {_line(error)}.", what="signature") from None
        if seen.certificate is None or seen.certificate != certificate:
            raise unreadable("The bundle names its certificate ambiguously.", what="signature")
        pem = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        at = certificate.not_valid_before_utc if moment is None else moment.at
        # The library has proven the entry's place in the log; what it proved is the first, and there is only one.
        index = bundle.entries[0].index if len(bundle.entries) == 1 else None
        return Signer(subjects(certificate), issuer(certificate), at, index, pem)

    def _library(self) -> Verifier:
        if self._verifier is None:
            from sigstore.models import TrustedRoot
            from sigstore.verify import Verifier

            self._verifier = Verifier(trusted_root=TrustedRoot.from_file(str(self._path)))
        return self._verifier

    def _moment(self, bundle: Bundle, certificate: x509.Certificate) -> times.Moment | None:
        """When it was signed, as far as somebody vouches for it. Refused if the certificate was not valid then."""
        content = bundle.content
        found = times.stamped(self._witnesses, bundle.times, content.signature)
        claimed = [one for one in bundle.entries if one.time and one.promise]
        if found is None and claimed:
            found = next((one for entry in claimed if (one := times.logged(self._witnesses, entry, content.signature))), None)
        at = found.at if found is not None else None
        if at is None and claimed and claimed[0].time <= times.LATEST:
            at = datetime.fromtimestamp(claimed[0].time, UTC)  # only to say no with: the library proves it before a yes
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if at is not None and not since <= at <= until:
            raise Refused(
                Refusal.EXPIRED_IDENTITY,
                f"The bundle was signed at {at:%Y-%m-%d %H:%M:%S} UTC, when its certificate was not valid "
                f"({since:%Y-%m-%d %H:%M:%S} to {until:%Y-%m-%d %H:%M:%S}).",
                what="signature",
                asked=f"signed between {since.isoformat()} and {until.isoformat()}",
                seen=at.isoformat(),
            )
        return found


class _Seen:
    """The policy that the library asks for: it notes the certificate, whose names are compared afterwards."""

    def __init__(self) -> None:
        self.certificate: x509.Certificate | None = None

    def verify(self, cert: x509.Certificate) -> None:
        self.certificate = cert


def issuer(certificate: x509.Certificate) -> str:
    """Who vouched for the signer's name: the address of the OpenID provider."""
    for oid in (ISSUER, OLD_ISSUER):
        value = _extension(certificate, oid)
        if value is None:
            continue
        raw = value.value
        if oid == ISSUER:  # DER: UTF8String (0x0c), then a length of one byte: issuers are short
            return raw[2:].decode() if len(raw) > 2 and raw[0] == 0x0C and raw[1] == len(raw) - 2 < 0x80 else ""
        return raw.decode()
    return ""


def subjects(certificate: x509.Certificate) -> tuple[str, ...]:
    """The signer's names: an address of a workflow, or of mail."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found: list[str] = []
    for name in names:
        if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier):
            found.append(name.value)
        elif isinstance(name, x509.OtherName) and name.type_id == OTHER_NAME:
            raw = name.value
            if len(raw) > 2 and raw[0] == 0x0C and raw[1] == len(raw) - 2 < 0x80:
                found.append(raw[2:].decode())
    return tuple(found)


def _spelled_out(raw: bytes) -> bytes:
    """The bundle with the zeros that its JSON may leave out.

    protobuf's JSON omits fields that have their default, and sigstore-js does: the first entry of a private log has no
    `logIndex` and no `hashes`. The library takes that for a broken bundle. Written anew from what we read, it also cannot
    be read differently by the two of us."""
    values = strict.parse(raw, "bundle")
    material = strict.table(values, "verificationMaterial")
    material.setdefault("tlogEntries", [])
    for entry in strict.rows(material, "tlogEntries"):
        proof = strict.table(strict.table({"entry": entry}, "entry"), "inclusionProof")
        if proof:
            proof.setdefault("logIndex", "0")
            proof.setdefault("hashes", [])
    return json.dumps(values).encode()


def _extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> Any:
    try:
        return certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None


def _line(error: Exception) -> str:
    """The first line of what a library says, in one sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
