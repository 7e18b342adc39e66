"""What a registry answers to a stranger: the WWW-Authenticate header, and the token that its token service gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from app.trust import strict
from app.trust.faults import Refused

LARGEST_TOKEN: Final = 64 * 1024
USUAL_LIFE: Final = 60.0
"""Seconds that a token lives if the service does not say (distribution, token authentication specification)."""
_SCHEME = re.compile(r"[ ,]*([A-Za-z][A-Za-z0-9-]*)(?: +|$)")
_FIELD = re.compile(r'[ ,]*([A-Za-z][A-Za-z0-9_-]*)[ ]*=[ ]*(?:"((?:[^"\\]|\\.)*)"|([^ ,"]*))')


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str  # lower case
    fields: Mapping[str, str]  # names in lower case


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    seconds: float

    def __repr__(self) -> str:
        return f"Token(***, {self.seconds:g} s)"


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Every challenge of every header (RFC 9110, 11.6.1); what is no challenge is skipped."""
    found: list[Challenge] = []
    for header in headers:
        header = header[:8192]
        at = 0
        fields: dict[str, str] = {}
        while at < len(header):
            match = _FIELD.match(header, at) if found else None
            if match is not None:
                quoted, bare = match[2], match[3]
                fields.setdefault(match[1].lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare)
            else:
                match = _SCHEME.match(header, at)
                if match is None:
                    break
                fields = {}
                found.append(Challenge(match[1].lower(), fields))
            at = max(match.end(), at + 1)
    return found


def chosen(headers: Iterable[str]) -> Challenge | None:
    """The challenge to answer: a token before a password; None if there is none of the two."""
    listed = challenges(headers)
    for scheme in ("bearer", "basic"):
        for one in listed:
            if one.scheme == scheme and (scheme == "basic" or one.fields.get("realm")):
                return one
    return None


def token_of(raw: bytes) -> Token | None:
    """The token of a token service's answer: `token`, or `access_token` as OAuth names it."""
    try:
        values = strict.parse(raw, "token")
    except Refused:
        return None
    text = strict.text(values, "token") or strict.text(values, "access_token")
    if not text or not re.fullmatch(r"[\x21-\x7e]+", text):
        return None
    seconds = strict.whole(values, "expires_in")
    return Token(text, USUAL_LIFE if seconds is None or seconds <= 0 else float(min(seconds, 3600)))
