"""An HTTP server on loopback for fakes: one function answers, faults can be put in its way."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def fields_of(query: str) -> dict[str, str]:
    """A query's fields; what is given several times (`scope[]`) is joined by commas."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


@dataclass(frozen=True, slots=True)
class Request:
    """What came in. Header names are lower case; the path is still quoted."""

    verb: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in self.path.split("/") if part]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    raw: bytes | None = None  # sent as it is, instead of `body`


@dataclass(slots=True)
class Fault:
    """Something goes wrong with the next requests that fit."""

    verb: str = ""  # empty: any
    path: str = ""  # a piece of the path
    times: int = 1
    reply: Reply | None = None  # given instead of the true answer
    effect: bool = False  # do the work first: the answer is lost, or replaced
    hang_up: bool = False  # close the connection without any answer

    def fits(self, request: Request) -> bool:
        return self.times > 0 and self.verb in ("", request.verb) and self.path in request.path


class Loopback:
    """Serves `answer` on a port of the system's choice; keeps every request and every reply."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self._answer = answer
        self._lock = threading.RLock()
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.faults: list[Fault] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "not started"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def serve(self, request: Request) -> Reply | None:
        """The reply with all faults considered; None: hang up."""
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self.faults if fault.fits(request)), None)
            if fault is not None:
                fault.times -= 1
            reply = self._answer(request) if fault is None or fault.effect else Reply(500)
            if fault is not None:
                reply = None if fault.hang_up else fault.reply or reply
            if reply is not None:
                self.replies.append(reply)
            return reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._serve
                raise AttributeError(name)

            def _serve(self) -> None:
                url = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                query = fields_of(url.query)
                reply = outer.serve(Request(self.command, url.path, query, headers, self.rfile.read(length)))
                if reply is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                raw = b"" if reply.body is None else json.dumps(reply.body).encode()
                raw = raw if reply.raw is None else reply.raw
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                return None

        return Handler
