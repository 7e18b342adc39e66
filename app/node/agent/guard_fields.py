"""Fields of a call's body, as the engine reads them; and the limits that they are held against."""

from __future__ import annotations

import os.path
import re
from typing import Any, Callable, NamedTuple, cast

from . import shape
from .guard_request import Refused

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}")


class Limits(NamedTuple):
    """What this lease's job may have, and what the guard can look up."""

    folders: list[str]  # the job's own, resolved: what a container may mount from the host
    read_only: list[str]  # and what it may mount only to read: the job-started hook
    sockets: list[str]  # the guarded socket's paths
    gpus: int  # asked for; 0: none
    runtimes: list[str]  # names under which the guard's own runtime is known
    own: Callable[[str], bool]  # whether a container is one of this job's
    network: Callable[[str], bool]  # whether a network is one that keeps containers apart from the host
    real: Callable[[str], str] = os.path.realpath


def fields(body: dict[str, Any]) -> dict[str, Any]:
    """A JSON object as a Go struct reads it: names in small letters. Null is the same as not there.

    Raises `Refused` for a name beyond ASCII: Go folds some of those onto plain letters."""
    if not all(name.isascii() for name in body):
        raise Refused("The body names a field with letters beyond ASCII.")
    return {name.lower(): value for name, value in body.items() if value is not None}


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def only_nothing(given: dict[str, Any], whose: str) -> None:
    for name, value in given.items():
        if not is_empty(value):
            raise Refused(f"{whose} {name} is not something that a job may set.")


def is_nothing(value: object) -> bool:
    """What a field has if it is left out. An empty list or object may already mean something."""
    return value is None or value is False or value == "" or (type(value) is int and value == 0)


def is_empty(value: object) -> bool:
    return is_nothing(value) or value in ([], {})


def table(value: object, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise Refused(f"{what} is not an object.")
    return shape.table(cast("object", value))


def items(value: object, what: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise Refused(f"{what} is not a list.")
    return cast("list[Any]", value or [])
