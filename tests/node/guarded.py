"""A real engine behind the real guard, and a job that speaks to it: by the API, by bytes, or by the docker command."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from app.node.agent.engine import HEADER
from app.node.agent.guard_server import PLUGINS
from app.node.agent.keeper import Keeper
from tests import parts
from tests.node.agents import open_folder, pack
from tests.node.pushed import Pushed, push
from tests.parts import docker
from tests.parts.registry import RealRegistry, real_registry

NO_BRIDGE = ("--iptables=false", "--ip6tables=false", "--bridge=none")
GPUS = 2


@dataclass(frozen=True)
class Reply:
    status: int
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw.strip() else None

    @property
    def message(self) -> str:
        """The engine's sentence; before API 1.24 it is plain text."""
        return str(self.body.get("message", "")) if self.raw.startswith(b"{") else self.raw.decode("utf-8", "replace").strip()

    @property
    def refused(self) -> str:
        """The guard's sentence; empty if it was let through."""
        prefix, plugin, sentence = self.message.partition("authorization denied by plugin ")
        return sentence.partition(": ")[2] if plugin and not prefix and self.status == 403 else ""


@dataclass
class Ward:
    """The guarded engine, the job's folder, and what the service says of images."""

    keeper: Keeper
    folder: Path
    registry: RealRegistry
    image: Pushed  # verified from the start, and on the engine
    job: Path
    door: Path
    said: list[str] = field(default_factory=list[str])
    heard: threading.Condition = field(default_factory=threading.Condition)
    asked: list[str] = field(default_factory=list[str])
    answers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def answer(self, reference: str) -> dict[str, Any]:
        self.asked.append(reference)
        return self.answers.get(reference, {"allowed": False, "why": "nobody has signed it."})

    def allow(self, name: str, pushed: Pushed, **more: Any) -> None:
        ids = [pushed.digest, pushed.config]
        self.answers[name] = {"allowed": True, "ids": ids, "reference": pushed.reference, **more}

    def push(self, name: str, tag: str, **labels: str) -> Pushed:
        return push(self.registry, name, tag, Labels=labels)

    def hears(self, piece: str) -> bool:
        """Whether the guard says this to the agent, now or in a moment."""
        with self.heard:
            return self.heard.wait_for(lambda: any(piece in line for line in self.said), 10)

    # --- what a job does

    def ask(self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None, **query: str) -> Reply:
        """One call as clients make it."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Host": "docker", "Connection": "close", "Content-Length": str(len(raw))}
        told |= {"Content-Type": "text/plain" if body is None else "application/json"} if method == "POST" else {}
        told |= headers or {}
        at = path + ("?" + urlencode(query) if query else "")
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return self.send(f"{method} {at} HTTP/1.1\r\n{head}\r\n".encode() + raw)

    def send(self, raw: bytes, door: Path | None = None) -> Reply:
        """These very bytes; everything that comes back until the engine hangs up."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(30)
            line.connect(str(door or self.door))
            with contextlib.suppress(OSError):
                line.sendall(raw)
            answer = b""
            with contextlib.suppress(OSError):
                while piece := line.recv(65536):
                    answer += piece
        head, _, content = answer.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if b"chunked" in head.lower():
            content = _joined(content)
        return Reply(int(words[1]) if len(words) > 1 else 0, content)

    def create(self, host: dict[str, Any] | None = None, **config: Any) -> Reply:
        """`POST /containers/create` of a verified image, on no network unless it says so."""
        body = {"Image": self.image.reference, "Cmd": ["sleep", "600"], **config}
        return self.ask("POST", "/containers/create", {**body, "HostConfig": {"NetworkMode": "none", **(host or {})}})

    def made(self, host: dict[str, Any] | None = None, **config: Any) -> str:
        """The id of such a container."""
        reply = self.create(host, **config)
        assert reply.status == 201, reply
        return str(reply.body["Id"])

    def started(self, host: dict[str, Any] | None = None, **config: Any) -> str:
        container = self.made(host, **config)
        reply = self.ask("POST", f"/containers/{container}/start")
        assert reply.status == 204, reply
        return container

    def remove(self, *containers: str) -> None:
        for container in containers:
            assert self.ask("DELETE", f"/containers/{container}", force="1", v="1").status in (204, 404)

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The docker command, as the job's user has it."""
        program = shutil.which("docker") or parts.lacks("docker command", "install docker.io")
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.job), "DOCKER_HOST": f"unix://{self.door}"}
        return subprocess.run([program, *words], env=environ, capture_output=True, text=True, check=False, timeout=60)

    # --- what only the agent does

    @functools.cached_property
    def runner(self) -> tuple[str, str]:
        """A container of the agent's own, as the runner's is: (name, id). It runs as long as the engine."""
        body = {"Image": self.image.reference, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}}
        made = str(self.agent("POST", "/containers/create", body, name="runner-of-the-agent").body["Id"])
        assert self.agent("POST", f"/containers/{made}/start").status == 204
        return "runner-of-the-agent", made

    def agent(self, method: str, path: str, body: object = None, **query: str) -> Reply:
        return self.ask(method, path, body, headers={HEADER: self.keeper.word}, **query)


def _joined(chunked: bytes) -> bytes:
    content = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        count = int(size or b"0", 16)
        content, chunked = content + chunked[:count], chunked[count + 2 :]
    return content


@contextlib.contextmanager
def guarded(**orders: Any) -> Generator[Ward]:
    """An engine of our own with its guard, under a plugin's name that nobody else has; both end with the block."""
    need_engine()
    with open_folder() as folder, real_registry() as there:
        image = push(there, "ci/tools", "v1", Cmd=["sh"])
        job, hook = folder / "runner", folder / "hook"
        job.mkdir()
        hook.mkdir()
        program = (sys.executable, "-I", str(pack(folder)))
        said, heard = list[str](), threading.Condition()

        def say(text: str) -> None:
            with heard:
                said.append(text)
                heard.notify_all()

        name = f"sublet-test-{uuid.uuid4().hex[:8]}"
        keeper = Keeper(program, folder / "engine", NO_BRIDGE, say, name)
        ward = Ward(keeper, folder, there, image, job, folder / "docker.sock", said, heard)
        given = {"gpus": GPUS, "builds": False, "known": [image.digest, image.config], "reference": image.reference, **orders}
        try:
            keeper.start(ward.answer, door=str(ward.door), gid=0, folders=[str(job)], read_only=[str(hook)], **given)
            keeper.engine.pull(image.reference, None)
            yield ward
        finally:
            keeper.end()
            end_leftovers(folder)
            (PLUGINS / f"{name}.sock").unlink(missing_ok=True)  # every engine would try it for 15 seconds


def end_leftovers(folder: Path) -> None:
    """What a killed engine leaves behind: in the agent's own life it is the agent that inherits them."""
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if any(str(folder) in word for word in words) and "containerd-shim" in words[0]:
            for one in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.Error):
                    one.kill()


def need_engine() -> None:
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("dockerd", "runc")):
        parts.lacks(docker.PART, docker.REMEDY)
