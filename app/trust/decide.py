"""All findings of an image against its rule: covered by whom the rule names, and made as it asks; or the exact check that
fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.core.images import ImageCheck, Refusal
from app.trust import provenance
from app.trust.faults import Refused, brief
from app.trust.weigh import Finding, Scales, rank_of

_KEY_OR_NAME = rank_of(Refusal.WRONG_IDENTITY)


@dataclass(frozen=True, slots=True)
class Looked:
    """One manifest or index, and what is attached to it."""

    digest: str
    label: str  # "the index", "amd64"
    findings: tuple[Finding, ...]


def covered(scales: Scales, one: Looked) -> bool:
    """Whether this one, by itself, has everything that the rule asks for: then nothing else needs to be looked at."""
    try:
        signature(scales, one, ())
        made(scales, one, ())
    except Refused:
        return False
    return True


def signature(scales: Scales, top: Looked, platforms: Sequence[Looked]) -> ImageCheck:
    """The image is signed if its own digest is, or if each of its platforms is. Raises Refused.

    With `need_all` that holds for every key and identity by itself."""
    signers, every = scales.signers, scales.rule.need_all
    asked = (" and " if every else " or ").join(signers) or "nobody"
    if not signers:
        raise _no(Refusal.WRONG_KEY, "The pool asks for a signature and names no key and no identity.", asked, "")
    missing = [name for name in signers if not _covers(name, top, platforms)]
    if (every and not missing) or (not every and _covers(None, top, platforms)):
        by = sorted({name for one in (top, *platforms) for found in one.findings if _signs(found) for name in found.signers})
        return ImageCheck("signature", asked, ", ".join(by), True)
    everything = [found for one in (top, *platforms) for found in one.findings]
    if every and any(_signs(found) for found in everything):
        raise _missing(missing, top, everything, asked)
    if scales.rule.provenance is not None and any(found.made is not None and not found.signs for found in everything):
        made(scales, top, platforms)  # where provenance is all that there is, it says better what is wrong
    raise _unsigned(top, platforms, asked)


def made(scales: Scales, top: Looked, platforms: Sequence[Looked]) -> ImageCheck | None:
    """The provenance that the pool asks for, by whom it names. None if it asks for none. Raises Refused."""
    rule = scales.rule.provenance
    if rule is None:
        return None
    asked = f"builder {rule.builder or 'any'}, source {rule.source or 'any'}"
    for group in ([top], list(platforms)):
        best = [next((found for found in one.findings if _fits(scales, found)), None) for one in group]
        if group and all(found is not None for found in best):
            return ImageCheck("provenance", asked, best[0].evidence.detail if best[0] is not None else "", True)
    stated = [found for one in (top, *platforms) for found in one.findings if found.made is not None and found.good]
    if stated:
        first = next((found for found in stated if not found.evidence.good), None)
        if first is not None:
            why = f"The provenance of {brief(top.digest)} does not fit: {first.evidence.detail}."
            raise _provenance(Refusal.WRONG_PROVENANCE, why, asked, first.evidence.detail)
        bare = next(one for one in platforms if not any(_fits(scales, found) for found in one.findings))
        why = f"Its platform {bare.label} has no provenance, and neither has the index."
        raise _provenance(Refusal.NO_PROVENANCE, why, asked, "")
    failed = [found for one in (top, *platforms) for found in one.findings if found.evidence.kind == "provenance"]
    hint = f": {failed[0].evidence.detail}" if failed else "."
    why = f"{brief(top.digest)} has no provenance by anybody whom the pool names{hint}"
    raise _provenance(Refusal.NO_PROVENANCE, why, asked, "")


def _signs(found: Finding) -> bool:
    return found.good and found.signs


def _covers(name: str | None, top: Looked, platforms: Sequence[Looked]) -> bool:
    """Whether that signer, or anybody of the rule, signed the top or every platform."""

    def has(one: Looked) -> bool:
        return any(_signs(found) and (name is None or name in found.signers) for found in one.findings)

    return has(top) or (bool(platforms) and all(has(one) for one in platforms))


def _fits(scales: Scales, found: Finding) -> bool:
    asked = scales.rule.provenance
    return found.good and found.made is not None and asked is not None and not provenance.lacks(asked, found.made)


def _missing(missing: Sequence[str], top: Looked, everything: Sequence[Finding], asked: str) -> Refused:
    who = " and ".join(missing)
    keyed = any("SHA256:" in name for name in missing)
    failed = max((found for found in everything if not found.good), key=lambda found: found.rank, default=None)
    code = Refusal.WRONG_KEY if keyed else Refusal.WRONG_IDENTITY
    if failed is not None and failed.code is not None and failed.rank > _KEY_OR_NAME:
        code = failed.code  # somebody's signature is there, and does not count
    return _no(code, f"{brief(top.digest)} lacks the signature of {who}, and the pool asks for every one.", asked, "others")


def _unsigned(top: Looked, platforms: Sequence[Looked], asked: str) -> Refused:
    """The sentence about what came furthest; an index whose one platform lacks what the others have has its own."""
    bare = [one for one in platforms if not any(_signs(found) for found in one.findings)]
    if platforms and 0 < len(bare) < len(platforms) and not bare[0].findings:
        names = ", ".join(one.label for one in bare)
        return _no(
            Refusal.PLATFORM_UNSIGNED,
            f"The index {brief(top.digest)} is not signed itself, nor is its platform {names} ({brief(bare[0].digest)}).",
            asked,
            f"{names} unsigned",
        )
    failed = [(one, found) for one in (top, *platforms) for found in one.findings if not _signs(found)]
    if not failed:
        return _no(
            Refusal.UNSIGNED,
            f"{brief(top.digest)} is not signed: neither its signature tag nor what is attached to it holds a signature.",
            asked,
            "no signature",
        )
    one, found = max(failed, key=lambda pair: pair[1].rank)
    count = len(failed)
    others = f" ({count} signatures were looked at)" if count > 1 else ""
    detail = found.evidence.detail if not found.good else "It states how the image was made, and is no signature."
    return _no(
        found.code or Refusal.UNSIGNED, f"The signature of {brief(one.digest)} does not count{others}: {detail}", asked, detail
    )


def _no(code: Refusal, why: str, asked: str, seen: str) -> Refused:
    return Refused(code, why, what="signature", asked=asked, seen=seen)


def _provenance(code: Refusal, why: str, asked: str, seen: str) -> Refused:
    return Refused(code, why, what="provenance", asked=asked, seen=seen or "none")
