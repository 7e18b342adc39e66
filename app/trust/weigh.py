"""One signature against one rule: who made it, for which digest, when; and why it does not count, if it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from app.core.images import Evidence, Identity, Refusal, TrustRule
from app.trust import bundle as bundles
from app.trust import cosign, keys, provenance, strict, times
from app.trust.bundle import Bundle, Envelope, Message
from app.trust.faults import Refused, brief
from app.trust.keyless import Signer
from app.trust.keys import Key
from app.trust.provenance import Made

TAG: Final = "cosign tag"
BUNDLE: Final = "sigstore bundle"
PROVENANCE: Final = "provenance"
AHEAD: Final = timedelta(minutes=5)
"""How far a signer's clock may be ahead of ours."""
KeylessCheck = Callable[[Bundle, str], Signer]


@dataclass(frozen=True, slots=True)
class Found:
    """Something attached to a digest that may be a signature, as the registry gave it."""

    kind: str  # TAG, BUNDLE; PROVENANCE for a bare envelope
    raw: bytes = b""  # a simple-signing payload, a bundle, an envelope
    signature: str = ""  # of a simple-signing payload, base64
    certificate: bool = False  # of a simple-signing payload: it came with one
    log_entry: str = ""
    problem: Refused | None = None  # why it could not be read


@dataclass(frozen=True, slots=True)
class Finding:
    """What one of them is worth."""

    evidence: Evidence
    code: Refusal | None  # None: it is good
    signers: frozenset[str] = frozenset()  # those of the rule that made it: `signer_names`
    signs: bool = False  # it says that the image may be used, not only something about it
    made: Made | None = None
    rank: int = field(
        default=0, compare=False
    )  # how far it came: the sentence of a refusal is about the one that came furthest

    @property
    def good(self) -> bool:
        return self.code is None


_RANKS: Final = (
    Refusal.UNSIGNED,
    Refusal.UNREADABLE,
    Refusal.TAMPERED,
    Refusal.WRONG_KEY,
    Refusal.WRONG_IDENTITY,
    Refusal.EXPIRED_IDENTITY,
    Refusal.WRONG_DIGEST,
    Refusal.TOO_OLD,
)


def name_of(signer: Key | Identity) -> str:
    return signer.shown if isinstance(signer, Key) else f"{signer.subject} ({signer.issuer})"


class Scales:
    """A rule with its keys loaded. Pure but for `keyless`, which may block."""

    def __init__(
        self, rule: TrustRule, known: tuple[Key, ...], keyless: KeylessCheck | None, witnesses: times.Witnesses, now: datetime
    ) -> None:
        self.rule, self.known = rule, known
        self._keyless, self._witnesses, self._now = keyless, witnesses, now

    @property
    def signers(self) -> dict[str, Key | Identity]:
        """Everybody whom the rule names."""
        listed: list[Key | Identity] = [*self.known, *self.rule.identities]
        return {name_of(one): one for one in listed}

    def weigh(self, found: Found, digest: str, content: bytes) -> Finding:
        """`digest` and `content` are the manifest's that it is attached to. Never raises for what a stranger wrote."""
        try:
            if found.problem is not None:
                raise found.problem
            if found.kind == TAG:
                return self._aged(self._tag(found, digest))
            if found.kind == BUNDLE:
                return self._aged(self._bundle(bundles.read(found.raw), digest, content))
            return self._aged(self._envelope_by_key(bundles.envelope(strict.parse(found.raw, "envelope")), digest, None))
        except Refused as error:
            return _no(error.code, found.kind, error.why)

    # The forms

    def _tag(self, found: Found, digest: str) -> Finding:
        signature = strict.coded(found.signature, "signature")
        key = self._maker(signature, found.raw)
        if key is None:
            if found.certificate:
                code = Refusal.WRONG_IDENTITY if self.rule.identities else Refusal.WRONG_KEY
                return _no(
                    code,
                    TAG,
                    "A keyless signature in the tag form has no proof of its place in the log: "
                    "sign with cosign 3, or with --new-bundle-format.",
                )
            return self._nobody(signature, found.raw, TAG)
        entry = times.tag_entry(found.log_entry) if found.log_entry else None
        moment = times.logged(self._witnesses, entry, signature) if entry is not None else None
        evidence = Evidence(TAG, True, key.shown, None, None, "", found.raw, signature, key.pem)
        try:
            claim = cosign.claim(found.raw)
        except Refused as error:
            return _worse(evidence, Refusal.UNREADABLE, error.why)
        at = moment.at if moment else claim.created
        evidence = replace(evidence, signed_at=at, log_index=moment.log_index if moment else None, digest=claim.digest)
        if claim.digest != digest:
            return _other(evidence, digest)
        return Finding(evidence, None, frozenset({key.shown}), signs=True)

    def _bundle(self, bundle: Bundle, digest: str, content: bytes) -> Finding:
        if bundle.keyless:
            return self._bundle_by_identity(bundle, digest, content)
        if isinstance(bundle.content, Envelope):
            return self._envelope_by_key(bundle.content, digest, bundle)
        return self._message_by_key(bundle, bundle.content, digest, content)

    def _bundle_by_identity(self, bundle: Bundle, digest: str, content: bytes) -> Finding:
        if not self.rule.identities:
            return _no(Refusal.WRONG_KEY, BUNDLE, "It is signed without a key, and the pool asks for keys.")
        if self._keyless is None:
            return _no(Refusal.WRONG_IDENTITY, BUNDLE, "It is signed without a key, and the settings name no trusted root.")
        signer = self._keyless(bundle, digest)
        inside = bundle.content
        payload = inside.signed if isinstance(inside, Envelope) else content
        evidence = Evidence(
            BUNDLE, True, signer.shown, signer.signed_at, signer.log_index, "", payload, inside.signature, signer.key_pem
        )
        names = frozenset(name_of(one) for one in self.rule.identities if signer.is_one(one))
        if not names:
            asked = " or ".join(name_of(one) for one in self.rule.identities)
            return _worse(evidence, Refusal.WRONG_IDENTITY, f"It is signed by {signer.shown}, and the pool asks for {asked}.")
        if isinstance(inside, Envelope):
            return self._stated(evidence, inside, digest, names)
        return Finding(replace(evidence, digest=digest), None, names, signs=True)

    def _message_by_key(self, bundle: Bundle, inside: Message, digest: str, content: bytes) -> Finding:
        claimed = f"sha256:{inside.digest.hex()}" if inside.digest else digest
        if claimed != digest:  # is it at least one of ours, for another image?
            for key in self.known:
                if keys.signed_digest(key, inside.signature, inside.digest):
                    return _other(Evidence(BUNDLE, True, key.shown, None, None, "", digest=claimed), digest)
            return _no(Refusal.WRONG_KEY, BUNDLE, "No key of the pool made it, and it speaks for another image.")
        key = self._maker(inside.signature, content)
        if key is None:
            return self._nobody(inside.signature, content, BUNDLE)
        at, index = self._moment(bundle, inside.signature)
        evidence = Evidence(BUNDLE, True, key.shown, at, index, "", content, inside.signature, key.pem, digest)
        return Finding(evidence, None, frozenset({key.shown}), signs=True)

    def _envelope_by_key(self, inside: Envelope, digest: str, bundle: Bundle | None) -> Finding:
        kind = BUNDLE if bundle is not None else PROVENANCE
        key = self._maker(inside.signature, inside.signed)
        if key is None:
            return self._nobody(inside.signature, inside.signed, kind)
        at, index = self._moment(bundle, inside.signature) if bundle is not None else (None, None)
        evidence = Evidence(kind, True, key.shown, at, index, "", inside.signed, inside.signature, key.pem)
        return self._stated(evidence, inside, digest, frozenset({key.shown}))

    def _stated(self, evidence: Evidence, inside: Envelope, digest: str, signers: frozenset[str]) -> Finding:
        """What a proven envelope says: that the image is signed, how it was made, or something that is neither.

        A report of weaknesses is signed with the same key, and says nothing for the image. Provenance counts as a
        signature only where the pool asks for provenance and it fits: many teams attach nothing else."""
        try:
            said = bundles.statement(inside)
        except Refused as error:
            return _worse(evidence, Refusal.UNREADABLE, error.why)
        if digest not in said.subjects:
            other = min(said.subjects) if said.subjects else ""
            return _other(replace(evidence, digest=other), digest)
        evidence = replace(evidence, digest=digest)
        if said.predicate_type == bundles.SIGNS:
            return Finding(evidence, None, signers, signs=True)
        made = provenance.made(said)
        if made is None:
            return _worse(evidence, Refusal.UNSIGNED, f"It states {said.predicate_type[:120]!r}, which is no signature.")
        asked = self.rule.provenance
        wrong = provenance.lacks(asked, made) if asked is not None else ""
        evidence = replace(evidence, kind=PROVENANCE, good=not wrong, detail=wrong or made.shown)
        return Finding(evidence, None, signers, signs=asked is not None and not wrong, made=made)

    # The parts

    def _maker(self, signature: bytes, payload: bytes) -> Key | None:
        return next((key for key in self.known if keys.signed(key, signature, payload)), None)

    def _nobody(self, signature: bytes, payload: bytes, kind: str) -> Finding:
        for key in self.known:
            if keys.is_pss(key, signature, payload):
                why = "It is an RSA signature with PSS; sign with PKCS #1 v1.5."
                return _no(Refusal.WRONG_KEY, kind, why, key.shown)
        code = Refusal.WRONG_KEY if self.known or not self.rule.identities else Refusal.WRONG_IDENTITY
        return _no(code, kind, "No key of the pool made this signature.")

    def _moment(self, bundle: Bundle, signature: bytes) -> tuple[datetime | None, int | None]:
        for entry in bundle.entries:
            moment = times.logged(self._witnesses, entry, signature)
            if moment is not None:
                return moment.at, moment.log_index
        moment = times.stamped(self._witnesses, bundle.times, signature)
        return (None, None) if moment is None else (moment.at, None)

    def _aged(self, finding: Finding) -> Finding:
        """A good one that is too old is good no more."""
        oldest, at = self.rule.oldest, finding.evidence.signed_at
        if oldest is None or not finding.good:
            return finding
        if at is None:
            return _worse(
                finding.evidence, Refusal.TOO_OLD, "Nothing proves when it was signed, and the pool asks how old it is."
            )
        if at > self._now + AHEAD:
            return _worse(finding.evidence, Refusal.TOO_OLD, f"It is dated in the future: {at:%Y-%m-%d %H:%M} UTC.")
        if self._now - at > oldest:
            days = f"{oldest.total_seconds() / 86400:g}"
            return _worse(
                finding.evidence, Refusal.TOO_OLD, f"It was signed on {at:%Y-%m-%d}, and the pool takes at most {days} days."
            )
        return finding


def _no(code: Refusal, kind: str, why: str, signer: str = "") -> Finding:
    return Finding(Evidence(kind, False, signer, None, None, why), code, rank=rank_of(code))


def _worse(evidence: Evidence, code: Refusal, why: str) -> Finding:
    return Finding(replace(evidence, good=False, detail=why), code, rank=rank_of(code))


def _other(evidence: Evidence, digest: str) -> Finding:
    speaks = brief(evidence.digest) if evidence.digest else "nothing"
    return _worse(
        evidence, Refusal.WRONG_DIGEST, f"It is signed by {evidence.signer}, but speaks for {speaks}, not for {brief(digest)}."
    )


def rank_of(code: Refusal) -> int:
    return _RANKS.index(code) if code in _RANKS else 0
