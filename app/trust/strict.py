"""JSON as registries hand it out, read so that no other program can read it differently; total: a value or a refusal."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Collection, Mapping
from typing import Any, Never, cast

from app.trust.faults import unreadable

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ODD = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
DEEPEST = 64
"""Levels. Go's own limit is 10,000, Python's about 1,000; no manifest or bundle has more than ten."""


def parse(raw: bytes, what: str) -> dict[str, Any]:
    """An object. Refused: no UTF-8, no JSON, no object, a name twice in one object, NaN, too deep, half a character.

    A name twice matters: Python keeps the last one, as Go does, but other readers keep the first.
    """
    try:
        value: object = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_never)
        if _deeper(value, DEEPEST):
            raise ValueError("it is nested too deep")
        if _ODD.search(raw):  # half a surrogate pair is no text that could be written anywhere, and databases take no NUL
            again = json.dumps(value, ensure_ascii=False)
            again.encode()
            if _NUL.search(again):
                raise ValueError("a NUL")
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, JSONDecodeError and huge numbers are ValueErrors
        said = str(error).splitlines()[0][:120] if isinstance(error, _Twice) or "nested" in str(error) else "it is not JSON"
        raise unreadable(f"The {what} cannot be read: {said}.") from None
    if not isinstance(value, dict):
        raise unreadable(f"The {what} cannot be read: it is not a JSON object.")
    return cast("dict[str, Any]", value)


def plain(values: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """Refuse a field that Go would read as a known one though it is written in another case.

    encoding/json matches names case-insensitively, so `Manifests` after `manifests` replaces it there and not here.
    Only where names are fields: in maps such as annotations both cases may stand side by side.
    """
    folded = {name.casefold(): name for name in known}
    for name in values:
        if folded.get(name.casefold(), name) != name:
            raise unreadable(
                f"The {what} cannot be read: {name!r} is written in another case than {folded[name.casefold()]!r}."
            )


def text(values: Mapping[str, Any], name: str) -> str:
    """The field if it is a text, else ""."""
    value = values.get(name)
    return value if isinstance(value, str) else ""


def table(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The field if it is an object, else an empty one."""
    value = values.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def rows(values: Mapping[str, Any], name: str) -> list[Any]:
    """The field if it is a list, else an empty one."""
    value = values.get(name)
    return cast("list[Any]", value) if isinstance(value, list) else []


def whole(values: Mapping[str, Any], name: str) -> int | None:
    """A whole number; protobuf's JSON writes 64-bit ones as text."""
    value = values.get(name)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def coded(value: object, what: str) -> bytes:
    """Base64, standard alphabet, with its padding."""
    if not isinstance(value, str):
        raise unreadable(f"The {what} cannot be read: a piece that should be base64 is missing.")
    try:
        return b64decode(value, validate=True)
    except ValueError:
        raise unreadable(f"The {what} cannot be read: a piece of it is not base64.") from None


def is_digest(value: object) -> bool:
    """sha256 and 64 lower-case hex digits: the only algorithm that registries and cosign use in practice."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


class _Twice(ValueError):
    """A name stands twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice("a name stands twice in one object")
    return found


def _never(_: str) -> Never:
    raise ValueError("not a number of JSON")


def _deeper(value: object, levels: int) -> bool:
    """Whether it is nested deeper than that; without recursion."""
    row = [value]
    for _ in range(levels + 1):
        row = [
            child
            for one in row
            for child in (
                cast("dict[str, Any]", one).values()
                if isinstance(one, dict)
                else cast("list[Any]", one)
                if isinstance(one, list)
                else ()
            )
        ]
        if not row:
            return False
    return True
