"""A small scripted service on loopback, and `sublet` called in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from app.cli import main

Json = dict[str, Any]
Answer = tuple[int, Json] | Callable[[Json], tuple[int, Json]]
TOKEN = "a-token-of-tests"


@dataclass
class Service:
    """Answers what a test says, and remembers what it was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    asked: list[tuple[str, Json]] = field(default_factory=list[tuple[str, Json]])

    def says(self, call: str, answer: Answer | Json, status: int = 200) -> None:
        """`call` is as "GET leases"; the answer is a body, a status with one, or a function of what was asked."""
        self.answers[call] = (status, answer) if isinstance(answer, dict) else answer

    def refuses(self, call: str, status: int, code: str, exit_code: int) -> None:
        error = {"code": code, "exit": exit_code, "message": f"Refused with {code}.", "hint": "Try something else."}
        self.says(call, {"schema_version": 1, "error": error}, status)


class _Handler(BaseHTTPRequestHandler):
    service: Service

    def _answer(self) -> None:
        address = urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        words: Json = json.loads(self.rfile.read(length)) if length else dict(parse_qsl(address.query))
        call = f"{self.command} {address.path.removeprefix('/api/v1/')}"
        self.service.asked.append((call, words))
        status, body = 404, {"error": {"code": "not_found", "exit": 3, "message": f"Nothing at {call}.", "hint": ""}}
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            status, body = 401, {"error": {"code": "not_allowed", "exit": 4, "message": "Not logged in.", "hint": ""}}
        elif call in self.service.answers:
            answer = self.service.answers[call]
            status, body = answer(words) if callable(answer) else answer
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = _answer  # noqa: N815  http.server's names
    do_POST = _answer  # noqa: N815
    do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def service() -> Iterator[Service]:
    script = Service()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": script}))
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Told:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Told]


@pytest.fixture
def sublet(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`sublet(*words)` in an empty folder, with the scripted service and its token in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUBLET_URL", service.url)
    monkeypatch.setenv("SUBLET_TOKEN", TOKEN)

    def run(*words: str) -> Told:
        code = main(list(words))
        printed = capsys.readouterr()
        return Told(code, printed.out, printed.err)

    return run
