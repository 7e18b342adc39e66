"""One request that a job makes of the container engine, as the engine shows it to its authorization plugin: read, or refused.

Pure. The engine is written in Go, and what is judged here must be what it will understand: Go's JSON takes a field's name in
any case, Unicode's foldings included, and of two it takes the last; a form in a body wins over the query; the body is shown to
a plugin only if it is JSON, not chunked and below a mebibyte (moby, pkg/authorization; CVE-2024-41110, CVE-2026-34040). So
whatever could be read in two ways is refused, and a body that is not shown counts as one that cannot be read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

from . import shape

OLDEST = 24
"""API 1.24: an older one takes a container's rights from the body of its start."""
LONGEST_URI = 16_384
PATH = re.compile(r"/[A-Za-z0-9._~:@/+%-]*")
DECODED_PATH = re.compile(r"(/[A-Za-z0-9._~:@+ -]+)+")
QUERY = re.compile(r"[!$-:<-~\"]*")  # printable ASCII without # and ;
VERSION = re.compile(r"/v1\.(0|[1-9][0-9]{0,2})(?=/)")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

NOTHING, JSON, UNSEEN = "nothing", "JSON", "unseen"
"""What a call may have as its body. Unseen: one that the engine never shows to a plugin, and that decides nothing."""
BODIED = ("POST", "PUT", "PATCH")


class Refused(Exception):
    """This request is not let through; the sentence says why, and what to do instead."""


class Request(NamedTuple):
    method: str
    path: str  # decoded, without the version
    query: dict[str, str]
    headers: dict[str, str]  # names in small letters
    body: bytes

    @property
    def shown(self) -> str:
        """For a log line."""
        return f"{self.method} {self.path}"[:200]


def read(message: bytes) -> Request:
    """Raises `Refused`."""
    try:
        told = shape.table(json.loads(message.decode("utf-8")))
        body = base64.b64decode(str(told.get("RequestBody") or ""), validate=True)
    except (ValueError, RecursionError, binascii.Error):
        raise Refused("The engine's question cannot be read.") from None
    path, query = _uri(str(told.get("RequestUri", "")))
    headers = {str(name).lower(): str(value) for name, value in shape.table(told.get("RequestHeaders")).items()}
    return Request(str(told.get("RequestMethod", "")), path, query, headers, body)


def _uri(uri: str) -> tuple[str, dict[str, str]]:
    raw, mark, rest = uri.partition("?")
    if len(uri) > LONGEST_URI or not PATH.fullmatch(raw) or BAD_ESCAPE.search(raw):
        raise Refused("The address has characters that no call of a job needs.")
    path = _text(raw)
    found = VERSION.match(path)
    if found is not None:
        if int(found.group(1)) < OLDEST:
            raise Refused(f"API 1.{found.group(1)} is too old: use 1.{OLDEST} or later.")
        path = path[found.end() :]
    if not DECODED_PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise Refused("The address is not in its plain form: no empty, '.' or '..' part, no other version than v1.N.")
    return path, _query(rest) if mark else {}


def _query(raw: str) -> dict[str, str]:
    if not QUERY.fullmatch(raw) or BAD_ESCAPE.search(raw):
        raise Refused("The query has characters that must be escaped.")
    found: dict[str, str] = {}
    for part in raw.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        name = _text(name.replace("+", " "))
        if name in found:
            raise Refused(f"The query names {name[:40]!r} twice.")
        found[name] = _text(value.replace("+", " "))
    return found


def _text(escaped: str) -> str:
    try:
        text = unquote_to_bytes(escaped).decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("The address is not UTF-8.") from None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise Refused("The address holds a control character.")
    return text


def no_body(request: Request) -> None:
    """Raises `Refused` unless the call certainly has none.

    The engine takes `Transfer-Encoding` out of the headers that it shows, and `Content-Length` too where a body is chunked:
    so a call that could have a body must say its length."""
    length = request.headers.get("content-length", "")
    if request.body or length not in ("", "0") or "transfer-encoding" in request.headers:
        raise Refused("This call takes no body, and it came with one.")
    if request.method in BODIED and length != "0":
        raise Refused("This call does not say that it has no body (Content-Length: 0): it may be chunked.")


def json_body(request: Request) -> dict[str, Any]:
    """The body, if it can be read in one way only. Raises `Refused`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("The body is not called application/json, so the engine does not show it to the guard.")
    if not request.body:
        raise Refused("The engine shows no body to the guard: it is empty, chunked, or larger than a mebibyte.")
    if request.headers.get("content-length", "") != str(len(request.body)) or "transfer-encoding" in request.headers:
        raise Refused("The body's length is not said, or it is another one than the engine shows.")
    return parse(request.body)


def parse(raw: bytes) -> dict[str, Any]:
    """JSON that Go and Python understand in the same way. Raises `Refused`."""
    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_constant)
        _sound(parsed)
    except Refused:
        raise
    except (ValueError, RecursionError):
        raise Refused("The body is not JSON.") from None
    if not isinstance(parsed, dict):
        raise Refused("The body is not a JSON object.")
    return cast("dict[str, Any]", parsed)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = {name.casefold() for name, _ in pairs}
    if len(names) != len(pairs):
        raise Refused("The body names one field twice (upper and lower case are the same to the engine).")
    return dict(pairs)


def _constant(word: str) -> Any:
    raise Refused(f"The body holds {word}, which is not JSON.")


def _sound(value: object) -> None:
    """No text with half a surrogate pair: Go turns it into something else."""
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Refused("The body holds half a character.")
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            _sound(name)
            _sound(inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            _sound(inner)
