"""A service of a few lines on loopback that says to a real agent what the test wants it to hear, and remembers what it said."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
"""The service's time when it starts: off the machine's clock, which the agent never asks."""
PATIENCE = 20.0

Reply = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Seen:
    path: str
    body: dict[str, Any]
    session: str


@dataclass
class Script:
    """What the service answers. A test changes it while the agent runs."""

    hard_end: timedelta = timedelta(hours=1)  # after START
    heartbeat_seconds: float = 0.2
    silent_seconds: float = 600.0
    state: str = "booting"
    stop: bool = False
    away: bool = False  # every request is answered 503
    mute: bool = False  # every connection is closed without an answer
    agent: bytes = b""
    credential: dict[str, Any] | None = None
    image: dict[str, Any] | None = None  # of the pool, as the join answer holds it
    images: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])  # and of others, by name
    want: dict[str, Any] = field(default_factory=dict[str, Any])
    measure: dict[str, Any] | None = None  # of a pilot, as the join answer holds it
    sample: bytes = b""
    refuse: dict[str, Reply] = field(default_factory=dict[str, Reply])
    allow: bool = True
    began: float = field(default_factory=time.monotonic)

    def reply(self, path: str, body: dict[str, Any]) -> Reply:
        now = START + timedelta(seconds=time.monotonic() - self.began)
        end = (START + self.hard_end).isoformat()
        times = {"now": now.isoformat(timespec="milliseconds"), "hard_end": end, "session_expires": end}
        if self.away:
            return 503, {"error": {"code": "failed", "message": "away"}}
        if path in self.refuse:
            return self.refuse[path]
        if path == "/node/join":
            seconds = {"heartbeat_seconds": self.heartbeat_seconds, "silent_seconds": self.silent_seconds}
            told = {} if self.image is None else {"image": self.image, "want": self.want}
            return 200, {"lease": "calm-fox-01", "pool_note": "", "measure": self.measure, **told, **seconds, **times}
        if path == "/node/image":
            return 200, self.images.get(body["reference"], {"allowed": False, "why": "nobody has signed it."})
        if path == "/node/heartbeat":
            return 200, {"state": self.state, "stop": self.stop, **times}
        if path == "/node/credential":
            return (202, {"wait": 0.5}) if self.credential is None else (200, self.credential)
        if path == "/node/log":
            return 200, {"kept": len(body["lines"])}
        if path == "/node/job":
            return 200, {"allowed": self.allow, "lines": ["Lease calm-fox-01", "Page: somewhere"]}
        return 200, {"ok": True}


class Service:
    """Runs in threads of its own; ends with the `with` block of `serving`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script = Script()
        self.seen: list[Seen] = []
        self._changed = threading.Condition()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if service.script.mute or service.script.away:
                    self.close_connection = True
                    return
                self._send(200, service.script.agent)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                session = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if service.script.mute:
                    self.close_connection = True
                    return
                status, reply = service.script.reply(self.path, body)
                service.note(Seen(self.path, body, session), status)
                given = self.path == "/node/sample" and status == 200
                self._send(status, service.script.sample if given else json.dumps(reply).encode())

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                return None

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away in the middle, or that does not trust our certificate, is no error here."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def note(self, seen: Seen, status: int) -> None:
        if status < 500:
            with self._changed:
                self.seen.append(seen)
                self._changed.notify_all()

    def wait_for(self, path: str, fits: Callable[[dict[str, Any]], bool] = lambda body: True) -> Seen:
        """The first request to this path whose body fits, past or coming."""

        def find() -> Seen | None:
            return next((seen for seen in self.seen if seen.path == path and fits(seen.body)), None)

        with self._changed:
            found = self._changed.wait_for(find, PATIENCE)
        assert found is not None, f"no fitting {path} in {PATIENCE} s; seen: {[seen.path for seen in self.seen][-20:]}"
        return found

    def wait_for_event(self, kind: str) -> dict[str, Any]:
        return self.wait_for("/node/event", lambda body: body["kind"] == kind).body

    def wait_for_line(self, piece: str) -> str:
        """The first log line that holds this piece."""
        seen = self.wait_for("/node/log", lambda body: any(piece in line["line"] for line in body["lines"]))
        return next(line["line"] for line in seen.body["lines"] if piece in line["line"])

    def lines(self, source: str | None = None) -> list[str]:
        with self._changed:
            logs = [seen.body["lines"] for seen in self.seen if seen.path == "/node/log"]
        return [line["line"] for batch in logs for line in batch if source in (None, line["source"])]

    def bodies(self, path: str) -> list[dict[str, Any]]:
        with self._changed:
            return [seen.body for seen in self.seen if seen.path == path]

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Generator[Service]:
    service = Service(tls)
    service.start()
    try:
        yield service
    finally:
        service.close()
