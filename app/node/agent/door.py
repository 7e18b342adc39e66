"""The socket that jobs see: hands their connections on to the engine's own, which only root can reach.

Engines from 29 on speak gRPC on the same socket, to whoever begins with HTTP/2, and ask no authorization plugin about it (moby,
daemon/command/httphandler.go). So nothing passes here that begins like HTTP/2, at the start of a connection or later.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from pathlib import Path

FIRST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS) /")
PREFACE = b"PRI * HTTP/2.0"
PIECE = 65536
PATIENCE = 30.0
"""Seconds for the first bytes of a connection."""
MOST = 512
"""Connections at once."""


class Door:
    def __init__(self, place: Path, engine: Path, gid: int) -> None:
        """Listens at once; nobody is let through before `open`."""
        self._engine = engine
        self._room = threading.BoundedSemaphore(MOST)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        self._socket.bind(str(place))
        os.chown(str(place), 0, gid)
        place.chmod(0o660)
        self._socket.listen(128)

    def open(self) -> None:
        threading.Thread(target=self._serve, name="door", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line = self._socket.accept()[0]
            except OSError:
                return
            if not self._room.acquire(blocking=False):
                line.close()
                continue
            threading.Thread(target=self._pass, args=(line,), daemon=True).start()

    def _pass(self, line: socket.socket) -> None:
        try:
            with line, contextlib.suppress(OSError):
                self._join(line)
        finally:
            self._room.release()

    def _join(self, line: socket.socket) -> None:
        line.settimeout(PATIENCE)
        first = b""
        while len(first) < 9:
            more = line.recv(PIECE)
            if not more:
                return
            first += more
        if not FIRST.match(first) or PREFACE in first:
            line.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        line.settimeout(None)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
            engine.connect(str(self._engine))
            engine.sendall(first)
            back = threading.Thread(target=_copy, args=(engine, line), daemon=True)
            back.start()
            if not _copy(line, engine, first[1 - len(PREFACE) :]):
                engine.shutdown(socket.SHUT_RDWR)
            back.join()


def _copy(source: socket.socket, target: socket.socket, tail: bytes | None = None) -> bool:
    """Until the source ends; then the target is told so, and may still answer. False: HTTP/2 was seen, and not passed on.

    `tail`: what came before, if there is to be a look."""
    with contextlib.suppress(OSError):
        while True:
            piece = source.recv(PIECE)
            if not piece:
                break
            if tail is not None:
                whole = tail + piece
                if PREFACE in whole:
                    return False
                tail = whole[1 - len(PREFACE) :]
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    return True
