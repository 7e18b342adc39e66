"""Is the runner's program new enough for its forge? It is asked before it is started, and one that is too old is refused.

A program that does not say is started all the same: then the start itself tells.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Callable, NamedTuple

from . import shape
from .command import Outcome

PATIENCE = 15.0
"""Seconds for the program's answer."""
LARGEST_ANSWER = 4096
"""Bytes of it that are read."""
SHELLS = ("sh", "bash", "dash")
"""One of these only starts the runner: the version that it prints is not its own."""
NUMBER = re.compile(r"(?<![\w.])v?(\d{1,9}(?:\.\d{1,9})+)")
"""The first dotted number: gitea-runner says "v3.3.0", GitHub's "2.335.1", Forgejo's "v12.8.0+5-gab12"."""


class Least(NamedTuple):
    """The oldest version that will do, and how to ask for the one that is here."""

    command: list[str]
    version: str
    why: str  # one sentence for people


def read(given: object) -> Least | None:
    """The service's word; None if it asks for nothing. Raises ValueError if it cannot be read."""
    if given is None:
        return None
    asked: Any = shape.table(given)
    command, least, why = shape.items(asked.get("command")), asked.get("version"), asked.get("why")
    texts = [*command, least, why]
    if not command or not all(isinstance(text, str) for text in texts) or first(str(least)) != str(least):
        raise ValueError("not a least version")
    return Least([str(word) for word in command], str(least), str(why))


def first(text: str) -> str:
    """The first version in a text, "" if there is none."""
    found = NUMBER.search(text)
    return found.group(1) if found else ""


def is_older(version: str, least: str) -> bool:
    """By numbers, not by letters; "0.2" is no older than "0.2.0"."""
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    found = [int(number) for number in version.split(".")]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def objection(least: Least, told: Outcome, where: str, say: Callable[[str], None]) -> str:
    """Why the program may not be started, as sentences; empty: it may. `where`: "on this machine"."""
    program = PurePosixPath(least.command[0]).name
    name = "The runner" if program in SHELLS else program
    version = "" if told.problem else first(told.text)
    if not version:
        why = told.problem or "there is no version in its answer"
        say(f"{name} does not tell its version ({why}); {least.version} or later is needed. It is started all the same")
        return ""
    if is_older(version, least.version):
        return f"{name} {where} is version {version}. {least.why}"
    say(f"{name} {where} is version {version}")
    return ""
