"""The few calls of the Docker Engine API that the agent makes itself, over the engine's unix socket (Engine 20.10 or later).

Paths without a version mean the engine's own newest: Engine 29 no longer speaks 1.41, and Engine 20.10 nothing later.

Each call carries a word that only the agent and the guard know: by it the guard tells the agent's calls from a job's.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from . import shape
from .image import Access

HEADER = "X-Sublet-Agent"
PATIENCE = 60.0
PULL_PATIENCE = 120.0
"""Seconds without a word of progress."""
LARGEST_ANSWER = 32 << 20


class Failed(Exception):
    """The engine refuses, or gives no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Line(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, patience: float | None) -> None:
        super().__init__("docker", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Answer(NamedTuple):
    status: int
    body: Any  # parsed JSON; None if there is none


class Engine:
    """One engine. Safe to use from several threads: each call has a connection of its own."""

    def __init__(self, path: Path, word: str = "") -> None:
        self.path = path
        self._headers = {"Host": "docker", "User-Agent": "sublet-agent/1"}
        if word:
            self._headers[HEADER] = word

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, patience: float | None = PATIENCE, **query: object
    ) -> Answer:
        """The engine's answer, be it yes or no. Raises `Failed` if there is none."""
        line = _Line(self.path, patience)
        headers = dict(self._headers)
        raw = None
        if body is not None:
            raw, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            line.request(method, _at(path, query), raw, headers)
            answer = line.getresponse()
            content = answer.read(LARGEST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the container engine gives no answer: {type(error).__name__}: {error}") from None
        finally:
            line.close()
        try:
            return Answer(answer.status, json.loads(content) if content.strip() else None)
        except ValueError:
            return Answer(answer.status, {"message": content[:300].decode("utf-8", "replace")})

    def must(
        self, method: str, path: str, body: dict[str, Any] | None = None, patience: float | None = PATIENCE, **query: object
    ) -> Any:
        """The body of a yes. Raises `Failed` with the engine's own sentence."""
        answer = self.ask(method, path, body, patience, **query)
        if answer.status >= 300 and answer.status != 304:
            raise Failed(f"the container engine refuses: {_said(answer)}", answer.status)
        return answer.body

    def find(self, path: str) -> dict[str, Any] | None:
        """An object, or None if there is none. Raises `Failed`."""
        answer = self.ask("GET", path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Failed(f"the container engine refuses: {_said(answer)}", answer.status)
        return shape.table(answer.body)

    def image(self, name: str) -> dict[str, Any] | None:
        return self.find(f"/images/{quote(name, safe='/:@')}/json")

    def container(self, name: str) -> dict[str, Any] | None:
        return self.find(f"/containers/{quote(name, safe='')}/json")

    def pull(self, reference: str, access: Access | None) -> None:
        """By digest, and nothing else. Waits for its end. Raises `Failed`."""
        name, _, digest = reference.partition("@")
        line = _Line(self.path, PULL_PATIENCE)
        headers = {**self._headers, "Content-Length": "0"}
        if access is not None:
            said = {"username": access.username, "password": access.password}
            login = said if access.username else {"registrytoken": access.password}
            raw = json.dumps({**login, "serveraddress": name.partition("/")[0]}).encode()
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(raw).decode()
        try:
            line.request("POST", _at("/images/create", {"fromImage": name, "tag": digest}), None, headers)
            answer = line.getresponse()
            if answer.status != 200:
                raise Failed(f"{reference} cannot be pulled: {answer.read(300).decode('utf-8', 'replace').strip()}")
            for row in answer:  # 200 comes first, and how it ended in the last line
                problem = shape.table(json.loads(row)).get("error") if b'"error"' in row else None
                if problem:
                    raise Failed(f"{reference} cannot be pulled: {str(problem)[:300]}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Failed(f"{reference} cannot be pulled: {type(error).__name__}: {error}") from None
        finally:
            line.close()

    def attach(self, container: str) -> socket.socket:
        """The container's stdin, and its output in frames. Raises `Failed`."""
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        head = [f"POST {_at(f'/containers/{container}/attach', query)} HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp"]
        head += [f"{name}: {value}" for name, value in self._headers.items()]
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.settimeout(PATIENCE)
            line.connect(str(self.path))
            line.sendall("\r\n".join([*head, "Content-Length: 0", "", ""]).encode())
            told = b""
            while not told.endswith(b"\r\n\r\n") and len(told) < 65536:  # byte by byte: what follows is the container's
                piece = line.recv(1)
                if not piece:
                    break
                told += piece
        except OSError as error:
            line.close()
            raise Failed(f"the container engine gives no answer: {error}") from None
        if told[9:12] not in (b"101", b"200"):
            line.close()
            raise Failed(f"the container engine refuses: {told[:80].decode('ascii', 'replace')}")
        line.settimeout(None)
        return line

    def remove_all(self) -> None:
        """Every container of this engine, killed and taken away. Raises `Failed`."""
        for row in shape.items(self.must("GET", "/containers/json", patience=10.0, all="1")):
            self.remove(str(shape.table(row).get("Id")))

    def remove(self, container: str) -> None:
        self.ask("DELETE", f"/containers/{container}", patience=30.0, force="1", v="1")


def _said(answer: Answer) -> str:
    message = shape.table(answer.body).get("message")
    return str(message)[:500] if message else f"status {answer.status}"


def frames(line: socket.socket) -> Any:
    """The pieces of a container's output, from frames of eight bytes of head (API: attach, "stream format")."""
    while True:
        head = _exactly(line, 8)
        if len(head) < 8:
            return
        left = int.from_bytes(head[4:], "big")
        while left:
            piece = line.recv(min(left, 65536))
            if not piece:
                return
            left -= len(piece)
            yield piece


def _exactly(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = line.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def _at(path: str, query: dict[str, Any]) -> str:
    return path + ("?" + urlencode(query) if query else "")
