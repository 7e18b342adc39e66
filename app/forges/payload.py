"""Careful reading of JSON that strangers wrote: every value is checked for its type and cut to a length.

A missing or null value reads as empty; a value of another type than the forge documents is
`Unreadable`, with a sentence. Nothing that comes out holds a control character, a lone surrogate
or a NUL (PostgreSQL refuses the last two).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlsplit

Table = Mapping[str, object]

LABELS = 100  # labels of one job; GitHub takes at most 100 for a runner
LABEL = 256  # characters of one label: the runner's own limit (actions/runner Validators.cs)
GREATEST_ID = 2**63 - 1

# C0, C1, line and paragraph separators, and the marks that reorder what a person reads.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PORTS = {"https": 443, "http": 80}
_DIGITS = re.compile(r"[0-9]{1,19}")
_WORD = re.compile(r"[a-z][a-z_]{0,39}")
_SECRET = re.compile(
    r"\b(?:gh[a-z]_[\w.-]{10,}|github_pat_\w{10,}|gl[a-z]{1,6}-[\w.=-]{10,}|whsec_[\w+/=]{10,}|eyJ[\w-]{10,}(?:\.[\w-]+)*)"
)


class Unreadable(ValueError):
    """What was sent is not what the forge documents."""


def clean(text: str, limit: int) -> str:
    """One printable line of at most `limit` characters."""
    return _UNFIT.sub("\ufffd", text[: limit + 1]).strip()[:limit]


def quoted(text: object, limit: int = 300) -> str:
    """A forge's own words for a message of ours: one line, cut, without anything that looks like a token."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    if not isinstance(text, str):
        text = "" if text is None else json.dumps(text, default=str)
    return _SECRET.sub("***", clean(text, 4 * limit))[:limit]


def table(value: object, what: str) -> Table:
    """The JSON object. Raises Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is not a JSON object")
    return cast("Table", value)


def load(body: bytes) -> Table:
    """The JSON object that the body is. Raises Unreadable."""
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("the body is not JSON") from None
    return table(value, "the body")


def part(source: Table, key: str) -> Table:
    """The object under the key; empty if it is missing or null. Raises Unreadable."""
    value = source.get(key)
    return {} if value is None else table(value, key)


def words(source: Table, key: str, limit: int) -> str:
    """The string under the key for people to read, cut to the limit. Raises Unreadable."""
    value = source.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable(f"{key} is not a string")
    return clean(value, limit)


def word(source: Table, key: str) -> str:
    """A word of the forge's own vocabulary (`timed_out`), or empty where it is none. Raises Unreadable."""
    value = words(source, key, 41)
    return value if _WORD.fullmatch(value) else ""


def whole(source: Table, key: str, pattern: re.Pattern[str]) -> str:
    """A string that names something and so is never cut: it fits the pattern, is empty, or is Unreadable."""
    value = source.get(key)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Unreadable(f"{key} is not what the forge documents")
    return value


def number(source: Table, key: str) -> int | None:
    """A whole number from 0 up, or None where the key is missing. Raises Unreadable."""
    value = source.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= GREATEST_ID:
        raise Unreadable(f"{key} is not a whole number")
    return value


def identity(source: Table, key: str) -> str:
    """An id as text; some answers write it as a string of digits. Empty if missing or 0. Raises Unreadable."""
    value = source.get(key)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= GREATEST_ID:
        raise Unreadable(f"{key} is not an id")
    return str(value) if value else ""


def is_identity(text: str) -> bool:
    """Whether the text can stand for an id in a URL."""
    return _DIGITS.fullmatch(text) is not None


def truth(source: Table, key: str) -> bool | None:
    """True, False, or None where the forge does not say."""
    value = source.get(key)
    return value if isinstance(value, bool) else None


def labels(source: Table, key: str) -> tuple[str, ...] | None:
    """A list of labels as written, or None where the key is missing. Raises Unreadable.

    Whoever writes a workflow writes them: a list that no runner could have is an empty one, which no pool serves. Were it
    unreadable, one such job would hide all others that are listed with it."""
    value = source.get(key)
    if value is None:
        return None
    if not isinstance(value, list):
        raise Unreadable(f"{key} is not a list")
    entries = cast("list[object]", value)
    found = [entry for entry in entries if isinstance(entry, str)]
    if len(found) < len(entries):
        raise Unreadable(f"{key} holds something other than strings")
    if len(found) > LABELS or any(len(label) > LABEL for label in found):
        return ()
    return tuple(clean(label, LABEL) for label in found)


def rows(source: object, what: str) -> list[Table]:
    """A list of JSON objects. Raises Unreadable."""
    if not isinstance(source, list):
        raise Unreadable(f"{what} is not a list")
    return [table(entry, f"an entry of {what}") for entry in cast("list[object]", source)]


def link(source: Table, key: str, limit: int = 500) -> str:
    """A web address that may be shown as a link, or empty. Raises Unreadable."""
    value = words(source, key, limit + 1)
    if len(value) > limit or not value.startswith(("https://", "http://")) or re.search(r"[\s\ufffd\"<>]", value):
        return ""
    return value


def moment(source: Table, key: str) -> datetime | None:
    """An aware UTC time, or None where the forge does not say a usable one. Raises Unreadable for another type.

    GitLab has written `2021-02-23 02:41:37 UTC` as well as RFC 3339; GitHub writes year 1 for "never".
    """
    value = words(source, key, 40)
    if value.endswith(" UTC"):
        value = value.removesuffix(" UTC") + "+00:00"
    try:
        found = datetime.fromisoformat(value)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if 2000 <= found.year <= 2200 else None


def same_address(one: str, other: str) -> bool:
    """Whether two web addresses lead to the same place, whatever the case of the host and a slash at the end."""
    try:
        pair = [urlsplit(text) for text in (one, other)]
        places = [(url.scheme, url.hostname, url.port or _PORTS.get(url.scheme), url.path.rstrip("/")) for url in pair]
    except ValueError:
        return False
    return places[0] == places[1] and bool(places[0][1])
