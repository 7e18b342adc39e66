"""The gate: a unix socket on which the job-started hook asks the agent, and the agent asks the service.

The job never holds the session. One job may pass: whoever asks again for another one is refused here, without asking.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable

from . import shape
from .wire import Away, Wire

ASKING = 60.0
"""Seconds for which the service is asked again and again; then the job is turned away."""
LARGEST_QUESTION = 1 << 16
LONGEST_PATH = 100
"""Bytes of a unix socket's path (unix(7) says 108 with the end mark)."""


class Gate:
    """Opened before the runner starts, closed with the agent."""

    def __init__(self, folder: Path, program: Iterable[str], wire: Wire, say: Callable[[str], None]) -> None:
        self._wire, self._say = wire, say
        self._program = [*program]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._folder = folder
        self._short: Path | None = None  # the socket's other place, where the folder's path is too long for one
        self._uids: frozenset[int] = frozenset()
        self._first: tuple[Any, ...] | None = None
        self._answer: dict[str, Any] = {}
        self.admitted = threading.Event()  # a job was let in
        self.asking = ASKING

    @property
    def script(self) -> Path:
        """GitHub's runner starts no hook without this ending."""
        return self._folder / "job-started.sh"

    @property
    def plain(self) -> Path:
        """The same, for runners that take any program. Gitea's gives its hook the job's own variables, and a file that ends
        in `.sh` to bash, for which some of them are orders (BASH_ENV); this one it starts as it is."""
        return self._folder / "job-started"

    def open(self, uids: Iterable[int], python: str = "") -> None:
        """Writes the hook's script where the runner can read and not change it, and listens for these users.

        `python`: inside of an image another one than ours runs the hook, and its program lies beside it."""
        self._uids = frozenset(uids)
        self._folder.mkdir(mode=0o755, exist_ok=True)
        self._folder.chmod(0o755)
        place = self._folder / "gate"
        if len(os.fsencode(place)) > LONGEST_PATH:
            short = Path(tempfile.mkdtemp(prefix="sublet-", dir="/tmp"))  # TMPDIR may be as deep as the folder itself
            short.chmod(0o755)
            place = self._short = short / "gate"
        program = self._program
        if python:
            copy = shutil.copyfile(self._program[-1], str(self._folder / "agent.pyz"))
            Path(copy).chmod(0o644)
            program = [python, "-I", copy]
        words = " ".join(shlex.quote(word) for word in (*program, "hook", str(place)))
        for name in (self.script, self.plain):
            name.write_text("#!/bin/sh\n# Asks Sublet whether this job may run on this machine.\nexec " + words + "\n")
            name.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        self._socket.bind(str(place))
        place.chmod(0o666)  # who may really ask is told by the kernel, below
        self._socket.listen(8)
        threading.Thread(target=self._serve, name="gate", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._short is not None:
            shutil.rmtree(str(self._short.parent), ignore_errors=True)

    def _serve(self) -> None:
        while True:
            try:
                line = self._socket.accept()[0]
            except OSError:
                return
            with line, contextlib.suppress(OSError, ValueError, RecursionError):
                line.settimeout(5)
                if self._welcome(line):
                    reply = self.decide(_question(line))
                    line.sendall(json.dumps(reply).encode() + b"\n")

    def _welcome(self, line: socket.socket) -> bool:
        if not hasattr(socket, "SO_PEERCRED"):
            return True
        uid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]
        return uid in self._uids

    def decide(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer for the hook: {"allowed", "lines"}."""
        job = tuple(str(question.get(name, "")) for name in ("repository", "run_id", "attempt", "job"))
        if self._first is not None and job != self._first:
            self._say(f"a second job asked to run here and was refused: {job[0]} {job[1]}")
            return _no("this machine was rented for one job and has had it; another one may not run here.")
        if self._first is not None and self._answer:
            return self._answer
        self._first = job
        self._answer = self._ask(question)
        if self._answer["allowed"]:
            self.admitted.set()
        self._say(f"the job {job[0]} {job[1]} {job[3]} was {'let in' if self._answer['allowed'] else 'refused'}")
        return self._answer

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + self.asking
        while True:
            try:
                status, body = self._wire.post("/node/job", question)
            except Away as away:
                if time.monotonic() + max(1.0, away.wait) > until:
                    return _no(
                        f"the service could not be reached for {self.asking:g} s ({away}), "
                        "so this job may not start here. Run it again later."
                    )
                time.sleep(max(1.0, away.wait))
                continue
            lines = shape.items(body.get("lines"))
            if status != 200 or not lines or not isinstance(body.get("allowed"), bool):
                return _no(f"the service refuses to answer ({status}), so this job may not start here.")
            return {"allowed": body["allowed"], "lines": [str(line)[:1000] for line in lines[:20]]}


def _no(sentence: str) -> dict[str, Any]:
    return {"allowed": False, "lines": ["Sublet: " + sentence]}


def _question(line: socket.socket) -> dict[str, Any]:
    raw = b""
    while not raw.endswith(b"\n") and len(raw) <= LARGEST_QUESTION:
        piece = line.recv(65536)
        if not piece:
            break
        raw += piece
    question = shape.table(json.loads(raw[:LARGEST_QUESTION]))
    if not question:
        raise ValueError("not a question")
    return question
