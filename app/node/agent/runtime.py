"""Stands in front of the container runtime: what it has created is shown to the guard, and what the guard refuses is deleted.

Started by containerd for each container as `agent.pyz runtime SOCKET RUNTIME ARGUMENT...`. Only `create` gets here (a line of
shell in front sends the rest on); whatever would start a process without a look in between is not passed on at all.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PATIENCE = 30.0
VALUED = ("--root", "--log", "--log-format", "--criu", "--rootless")
"""Options of runc in front of its verb that take a value of their own."""


def main(words: list[str]) -> int:
    place, program, *given = words
    verb, rest, log = split(given)
    if verb in ("run", "restore"):
        return _failed(log, f"{verb} is not allowed here")
    if verb != "create":
        os.execv(program, [program, *given])
    code = subprocess.call([program, *given])
    if code != 0:
        return code
    name = rest[-1] if rest else ""
    problem = ask(place, name, _valued(rest, "--pid-file"))
    if not problem:
        return 0
    options = given[: given.index("create")]
    subprocess.call([program, *options, "delete", "--force", name])
    return _failed(log, problem)


def split(given: list[str]) -> tuple[str, list[str], str]:
    """(verb, what follows it, the file of --log)."""
    place = 0
    while place < len(given) and given[place].startswith("-"):
        place += 2 if given[place] in VALUED else 1
    verb = given[place] if place < len(given) else ""
    return verb, given[place + 1 :], _valued(given[:place], "--log")


def _valued(words: list[str], option: str) -> str:
    for place, word in enumerate(words):
        if word == option:
            return words[place + 1] if place + 1 < len(words) else ""
        if word.startswith(option + "="):
            return word[len(option) + 1 :]
    return ""


def ask(place: str, name: str, pid_file: str) -> str:
    """What the guard says against it. No answer is a no."""
    try:
        pid = int(Path(pid_file).read_text())
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(PATIENCE)
            line.connect(place)
            line.sendall(json.dumps({"id": name, "pid": pid}).encode() + b"\n")
            raw = b""
            while not raw.endswith(b"\n"):
                piece = line.recv(4096)
                if not piece:
                    return "the guard gave no answer"
                raw += piece
        problem = json.loads(raw)["problem"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the guard gave no answer ({type(error).__name__})"
    return str(problem)


def _failed(log: str, problem: str) -> int:
    """The engine shows the last line of the log, and what is on stderr."""
    text = f"Sublet refuses to start it: {problem}"
    print(text, file=sys.stderr)
    if log:
        with Path(log).open("a") as file:
            file.write(json.dumps({"level": "error", "msg": text}) + "\n")
    return 1
