"""The guard's own process: the plugin's socket, the runtime's, the door for jobs, and the engine itself as its child.

Started by the agent as `agent.pyz guard FD`, as root. FD is one end of a pair of sockets: on it come its orders, on it go its
questions about images and its lines for the log, and its end is the agent's end. The plugin listens before the engine is
started; the engine is killed by the kernel the moment this process dies, and whatever is left of it asks a plugin that is
gone, and refuses everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple, cast

from . import guard_place, privileges, shape
from .door import Door
from .engine import Engine
from .guard import Guard
from .guard_images import Images, Verdict, verdict
from .guard_request import Refused
from .runner import reap_orphans

PR_SET_PDEATHSIG = 1
LARGEST_MESSAGE = 64 << 20
PLUGINS = Path("/run/docker/plugins")
"""Where every engine looks for plugins; it is not settable (moby, pkg/plugins/discovery_unix.go)."""
PLUGIN = "sublet"
LAST = 20.0
"""Seconds that the engine has to stop its containers."""


class Orders(NamedTuple):
    """What the agent tells the guard. The engine's folder is root's alone."""

    engine: str  # the engine's own socket
    command: list[str]  # how the engine is started
    plugin: str  # the plugin's name
    door: str  # the socket for jobs; "" for none
    gid: int  # who may open it
    runtime: str  # the socket for the runtime
    data: str
    state: str
    word: str
    folders: list[str]  # the job's
    read_only: list[str]  # the hook's
    gpus: int
    runtimes: list[str]
    builds: bool
    known: list[str]  # ids of the pool's own image
    reference: str  # and its name


class Agent:
    """The line to the agent: one question at a time."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._file = line.makefile("rb")
        self._asking = threading.Lock()
        self._writing = threading.Lock()
        self._answered = threading.Condition()
        self._answer: dict[str, Any] | None = None
        self.gone = threading.Event()

    def orders(self) -> Orders:
        return Orders(**json.loads(self._file.readline()))

    def listen(self) -> None:
        """Until the agent is gone."""
        with contextlib.suppress(OSError, ValueError):
            for row in self._file:
                with self._answered:
                    self._answer = shape.table(json.loads(row))
                    self._answered.notify_all()
        self.gone.set()
        with self._answered:
            self._answered.notify_all()

    def tell(self, **message: Any) -> None:
        with self._writing, contextlib.suppress(OSError):
            self._line.sendall(json.dumps(message).encode() + b"\n")

    def say(self, text: str) -> None:
        self.tell(say=text)

    def ask(self, reference: str) -> Verdict:
        """Raises `Refused` if nobody can say now: that is no answer to keep."""
        with self._asking, self._answered:
            self._answer = None
            self.tell(ask=reference)
            self._answered.wait_for(lambda: self._answer is not None or self.gone.is_set())
            told = self._answer
        if told is None or told.get("away"):
            why = "the agent is gone" if told is None else str(told.get("why"))
            raise Refused(f"Nobody can say now whether {reference[:200]} may run: {why}")
        return verdict(told)


class Plugin(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The authorization plugin's protocol, version 1, on a unix socket that only root can open."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, place: Path, guard: Guard) -> None:
        self.guard = guard
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        super().__init__(str(place), Talk)
        place.chmod(0o600)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An engine that hangs up is no news."""


class Talk(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_MESSAGE:
            self.close_connection = True
            self.send_error(411)
            return
        message = self.rfile.read(int(length))
        guard = cast("Plugin", self.server).guard
        if self.path == "/Plugin.Activate":
            self._send({"Implements": ["authz"]})
            return
        if self.path == "/AuthZPlugin.AuthZReq":
            problem = guard.question(message)
        elif self.path == "/AuthZPlugin.AuthZRes":
            problem = guard.answer(message)
        else:
            problem = "The engine asks something that this guard does not know."
        self._send({"Allow": not problem, "Msg": problem, "Err": ""})

    def _send(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return None


class Births:
    """Answers the runtime: may this container, made and not started yet, be started?"""

    def __init__(self, place: Path, guard: Guard, orders: Orders) -> None:
        self._guard, self._orders = guard, orders
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        self._socket.bind(str(place))
        place.chmod(0o600)
        self._socket.listen(64)
        threading.Thread(target=self._serve, name="births", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._one, args=(line,), daemon=True).start()

    def _one(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            line.settimeout(10)
            try:
                asked = json.loads(line.makefile("rb").readline(65536))
                problem = self._judge(str(asked["id"]), int(asked["pid"]))
            except Exception as error:
                problem = f"the guard could not look at it ({type(error).__name__}: {error})"
            line.sendall(json.dumps({"problem": problem}).encode() + b"\n")

    def _judge(self, name: str, pid: int) -> str:
        orders, limits = self._orders, self._guard.limits
        if not self._guard.owner(name):
            return "it is a container that nobody asked the guard about"
        folders, read_only, sockets = map(tuple, (limits.folders, limits.read_only, limits.sockets))
        place = guard_place.Place(orders.data, orders.state, folders, read_only, sockets, orders.gpus > 0)
        problem = guard_place.problem(pid, place)
        if problem:
            self._guard.refused(f"the start of {name[:12]}: {problem}")
        return problem


def main(number: int) -> int:
    line = socket.socket(fileno=number)
    if hasattr(socket, "SO_PEERCRED"):
        uid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]
        if uid != os.geteuid():
            return 2
    privileges.quiet()
    privileges.own_mounts()
    os.umask(0o077)
    os.set_inheritable(number, False)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the agent says when it is over, by hanging up
        signal.signal(ignored, signal.SIG_IGN)
    agent = Agent(line)
    orders = agent.orders()
    engine = Engine(Path(orders.engine), orders.word)
    guard = Guard(
        engine,
        Images(engine, agent.ask, orders.known, orders.reference),
        word=orders.word,
        folders=[os.path.realpath(folder) for folder in orders.folders],
        read_only=[os.path.realpath(folder) for folder in orders.read_only],
        sockets=[os.path.realpath(orders.door)] if orders.door else [],
        gpus=orders.gpus,
        runtimes=orders.runtimes,
        builds=orders.builds,
        say=agent.say,
    )
    plugin = Plugin(PLUGINS / f"{orders.plugin}.sock", guard)
    door = Door(Path(orders.door), Path(orders.engine), orders.gid) if orders.door else None
    with (Path(orders.engine).parent / "log").open("wb") as log:
        child = subprocess.Popen(orders.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent)
    # From here on there are threads; before the engine there were none, so that the lines above were safe to run in a fork.
    threading.Thread(target=plugin.serve_forever, name="plugin", daemon=True).start()
    Births(Path(orders.runtime), guard, orders)
    if door is not None:
        door.open()
    threading.Thread(target=agent.listen, name="agent", daemon=True).start()
    agent.tell(started=child.pid)
    while not agent.gone.wait(0.2) and child.poll() is None:
        reap_orphans(child.pid)  # each container leaves one behind
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(LAST)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for place in (PLUGINS / f"{orders.plugin}.sock", Path(orders.door) if orders.door else None):
        if place is not None:
            with contextlib.suppress(OSError):
                place.unlink()
    return 0


def _die_with_parent() -> None:
    """The kernel ends the engine with the thread that started it: the main one, which lives as long as this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
