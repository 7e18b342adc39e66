"""The launcher: the agent started once more, which reads an order on stdin, gives its rights away and becomes the command.

It has no threads, so that giving rights away is safe, and its command line shows nothing. What goes wrong is written on a
pipe that closes by itself when the command has been started: nothing on it means "started".
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from . import privileges

LARGEST_ORDER = 8 << 20


class Order(NamedTuple):
    command: list[str]
    environment: dict[str, str]
    folder: str
    account: privileges.Account | None  # become this user
    strip: bool  # or keep the user and drop every capability
    probe: list[str] | None = None  # only look whether all of these could be read and the command be executed

    def pack(self) -> bytes:
        return json.dumps(self._asdict()).encode()


def unpack(raw: bytes) -> Order:
    given: dict[str, Any] = json.loads(raw)
    if given["account"] is not None:
        name, uid, gid, groups = given["account"]
        given["account"] = privileges.Account(name, uid, gid, tuple(groups))
    return Order(**given)


def main(report: int) -> int:
    """Never returns if all goes well. `report` is the descriptor of the pipe for problems."""
    os.set_inheritable(report, False)
    try:
        order = unpack(sys.stdin.buffer.read(LARGEST_ORDER))
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.get_exec_path(order.environment)  # loads what execvpe needs while it can still be read
        privileges.limit()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if order.account is not None:
            privileges.become(order.account)
        elif order.strip:
            privileges.strip()
        else:
            privileges.no_way_back()
        if order.probe is not None:
            os.write(report, obstacle(order).encode("utf-8", "replace"))
            return 0
        os.chdir(order.folder)
        os.execvpe(order.command[0], order.command, order.environment)
    except (OSError, ValueError, privileges.NotDropped) as error:
        os.write(report, f"{error}".encode("utf-8", "replace")[:2000])
    return 126


def obstacle(order: Order) -> str:
    """What keeps this user from running the command in the folder; empty: nothing. Looked at as that user."""
    try:
        os.chdir(order.folder)
        proof = Path(order.folder) / ".writable"
        proof.touch()
        proof.unlink()
    except OSError as error:
        return f"{order.folder}: {error.strerror}"
    for name in order.probe or ():
        if not os.access(name, os.R_OK):
            return f"{name} cannot be read"
    return _not_executable(order.command[0], order.environment.get("PATH", os.defpath), 0)


def _not_executable(name: str, path: str, depth: int) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        return f"{name} cannot be executed"
    try:
        with Path(found).open("rb") as file:
            first = file.readline(512)
    except OSError:
        return ""  # executable and not readable: a program, not a script
    if not first.startswith(b"#!") or depth > 3:
        return ""
    words = first[2:].decode("utf-8", "replace").split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return _not_executable(words[0], path, depth + 1) if words else f"{found} names no interpreter"
