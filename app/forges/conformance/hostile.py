"""Checks of deliveries that are authentic and hostile: whoever may push to a repository writes part of what a forge sends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from app.core.model import Job
from app.forges.conformance.bench import Bench, Failed, Fault, Pair, Signing, check, expect, lowered
from app.forges.conformance.deliveries import authentic
from app.forges.contract import BadDelivery, BadSignature, Delivery, Forge

LONGEST = 1000  # characters of any text that comes out
GREATEST = 2**63 - 1
CONTROLS = frozenset(map(chr, (*range(32), 127, *range(128, 160), 0x2028, 0x2029, 0x202E, 0x2066)))
NEST: Any = json.loads("[" * 200 + "]" * 200)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1.5,
    "",
    "x" * 100_000,
    "a\x00b\x1b[31m\u202e\u2028c\r\nd",
    "\ud800",
    "../../../etc/passwd",
    "javascript:alert(1)",
    "9999-99-99T99:99:99Z",
    [],
    {},
    NEST,
    ["x"] * 5000,
    [None, {"a": 1}],
    {"id": {"id": {"id": []}}},
)
BODIES: tuple[tuple[str, bytes], ...] = (
    ("nothing", b""),
    ("blanks", b"  \n"),
    ("no JSON", b"<html>"),
    ("half of JSON", b'{"action": "queued", '),
    ("a list", b"[]"),
    ("a number", b"7"),
    ("null", b"null"),
    ("NaN", b'{"action": NaN, "id": Infinity}'),
    ("no UTF-8", b'{"a": "\xff\xfe"}'),
    ("UTF-16", '{"action": "queued"}'.encode("utf-16")),
    ("deep lists", b"[" * 100_000 + b"]" * 100_000),
    ("deep objects", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    ("a form", b"payload=%7B%7D"),
    ("an empty object", b"{}"),
    ("a huge number", b'{"id": ' + b"9" * 10_000 + b"}"),
)


def changes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value inside, the whole included."""
    yield path
    if isinstance(value, dict):
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from changes(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(cast("list[Any]", value)[:2]):
            yield from changes(inner, (*path, place))


def changed(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy with another value at the end of the path."""
    if not path:
        return new
    if isinstance(value, dict):
        return {key: changed(inner, path[1:], new) if key == path[0] else inner for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [changed(inner, path[1:], new) if place == path[0] else inner for place, inner in enumerate(value)]


def texts(thing: object) -> Iterator[str]:
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, tuple):
        for one in cast("tuple[object, ...]", thing):
            yield from texts(one)


def unclean(delivery: Delivery) -> str:
    """What is wrong with what came out; empty: nothing."""
    things: list[tuple[str, object]] = [(name, getattr(delivery, name)) for name in ("guid", "event", "action", "note")]
    job: Job | None = delivery.job
    if job is not None:
        things += [(field.name, getattr(job, field.name)) for field in dataclasses.fields(job)]
    for name, thing in things:
        for text in texts(thing):
            if len(text) > LONGEST:
                return f"{name} has {len(text)} characters"
            if CONTROLS & set(text) or (not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text)):
                return f"{name} holds what no line may hold"
        if isinstance(thing, int) and not isinstance(thing, bool) and not 0 <= thing <= GREATEST:
            return f"{name} is {thing}"
        if isinstance(thing, datetime) and thing.tzinfo is None:
            return f"{name} has no time zone"
    if job is not None and (not job.key or not job.repository or {"..", "."} & set(job.repository.split("/"))):
        return f"the job is {job.key!r} of {job.repository!r}"
    if job is not None and job.url and not job.url.startswith(("https://", "http://")):
        return "url is no web address"
    return ""


def read(bench: Bench, forge: Forge, pair: Pair, what: str) -> None:
    """It is read cleanly, or refused as what it is."""
    headers, body = bench.signed(pair, Signing.CURRENT)
    try:
        delivery = forge.parse(lowered(headers), body)
    except BadDelivery as error:
        if CONTROLS & set(str(error)) or len(str(error)) > LONGEST:
            raise Failed(f"{what}: the refusal quotes it unclean") from error
        return
    except BadSignature as error:
        raise Failed(f"{what} is authentic, and was refused as forged: {error}") from error
    except Exception as error:
        raise Failed(f"{what} raised {type(error).__name__}: {str(error)[:200]}") from error
    wrong = unclean(delivery)
    expect(not wrong, f"{what}: {wrong}")


@check(Fault.DELIVERIES)
def garbage_that_is_authentic_is_refused(bench: Bench) -> None:
    """An authentic body that is no event at all is BadDelivery, or ignored"""
    forge, (headers, _) = bench.forge(), authentic(bench)
    for what, body in BODIES:
        read(bench, forge, (dict(headers), body), f"A body of {what}")


@check(Fault.DELIVERIES)
def hostile_values_are_read_cleanly_or_refused(bench: Bench) -> None:
    """Any one value of another type, size or shape is read cleanly or refused: no crash, nothing unclean"""
    forge, (headers, body) = bench.forge(), authentic(bench)
    content: Any = json.loads(body)
    for path in list(changes(content)):
        where = ".".join(map(str, path)) or "the body"
        for value in VALUES:
            try:
                spoiled = json.dumps(changed(content, path, value)).encode()
            except ValueError:  # a number that JSON of this Python does not write
                continue
            read(bench, forge, (dict(headers), spoiled), f"{str(value)[:30]!r} as {where}")


@check(Fault.DELIVERIES)
def missing_values_are_no_crash(bench: Bench) -> None:
    """Any one value that is missing is no crash"""
    forge, (headers, body) = bench.forge(), authentic(bench)
    content: Any = json.loads(body)
    for path in changes(content):
        if path and isinstance(path[-1], str):
            owner: Any = content
            for step in path[:-1]:
                owner = owner[step]
            without = changed(content, path[:-1], {key: value for key, value in owner.items() if key != path[-1]})
            read(bench, forge, (dict(headers), json.dumps(without).encode()), f"A delivery without {'.'.join(map(str, path))}")


@check(Fault.DELIVERIES)
def hostile_headers_are_no_crash(bench: Bench) -> None:
    """Headers that are missing, empty, long or unclean are no crash and never come out unclean"""
    forge, (headers, body) = bench.forge(), authentic(bench)
    headers = lowered(headers)
    for name in headers:
        for value in (None, "", "\x00\x1b[31m", "x" * 100_000, "é\udcff", "a\r\nb", "../.."):
            spoiled = {key: known for key, known in headers.items() if key != name} | ({} if value is None else {name: value})
            try:
                delivery = forge.parse(spoiled, body)
            except (BadDelivery, BadSignature):
                continue
            except Exception as error:
                raise Failed(f"{name}: {str(value)[:20]!r} raised {type(error).__name__}: {error}") from error
            wrong = unclean(delivery)
            expect(not wrong, f"with {name}: {str(value)[:20]!r}, {wrong}")
