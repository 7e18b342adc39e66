"""The runner inside the pool's image, on a machine of its own: a container without rights; with an engine only if guarded.

It is started with nothing secret on disk or in its configuration: a shell in the container reads its orders from its stdin,
which is a pipe, and becomes the runner. The image needs `/bin/sh`, and `python3` for the job-started hook.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple

from . import command, privileges, version
from .engine import Engine, Failed, frames
from .runner import Runner, Unstartable, Work

GUARDED_SOCKET = "/var/run/docker.sock"
SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm, which data loaders fill; the engine's own 64 MiB are too few."""
BY_DRIVER: dict[str, Any] = {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
BY_CDI: dict[str, Any] = {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=all"], "Capabilities": [], "Options": {}}
NO_DRIVER = re.compile(r"could not select device driver|unknown device driver", re.I)


class Cell(NamedTuple):
    """What the runner's container is made of."""

    image: str  # by its digest
    lease: str
    hook: str  # the hook's folder, at the same path inside, to be read only
    door: str  # the guarded engine's socket; "" for none
    gpus: bool
    network: str


class ContainedRunner(Runner):
    """As `Runner`, for a process that the engine holds."""

    where = "in this pool's image"

    def __init__(self, folder: Path, user: privileges.Account | None, engine: Engine, cell: Cell) -> None:
        super().__init__(folder, (), user)
        self._engine, self._cell = engine, cell
        self._container = ""
        self._question = ""  # the container of `ask`, while there is one
        self._code: int | None = None
        self._ended = threading.Event()

    @property
    def started(self) -> bool:
        return bool(self._container)

    def prepare(self, work: Work, environ: Mapping[str, str]) -> str:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.user is not None:
            shutil.chown(str(self.folder), self.user.uid, self.user.gid)
        name = self.user.name if self.user is not None else "the agent's own user"
        engine = "with the guarded engine" if self._cell.door else "without an engine"
        return f"the runner runs inside {self._cell.image}, as {name}, {engine}"

    def ask(self, words: list[str], environ: Mapping[str, str]) -> command.Outcome:
        """In a container of its own, like the runner's but for the GPUs."""
        hurry = threading.Timer(version.PATIENCE, self._forget)  # its output ends with it
        try:
            with self._lock:
                if self._over:
                    raise Unstartable("the node is going down")
                self._question, attached = self._begin([], "-asked")
            until = time.monotonic() + version.PATIENCE
            hurry.start()
            with attached:
                attached.settimeout(2 * version.PATIENCE)
                self._tell(attached, words, environ)
                pieces: list[bytes] = []
                room = version.LARGEST_ANSWER
                for piece in frames(attached):
                    pieces.append(piece[:room])
                    room -= len(pieces[-1])
            if time.monotonic() >= until:
                return command.Outcome("", f"gave no answer in {version.PATIENCE:g} s")
            code = self._engine.must("POST", f"/containers/{self._question}/wait", patience=version.PATIENCE)["StatusCode"]
            text = b"".join(pieces).decode("utf-8", "replace")
            return command.Outcome(text, f"ended with {code}" if code else "")
        except (Failed, OSError, KeyError, TypeError) as error:
            return command.Outcome("", f"cannot be started: {error}")
        finally:
            hurry.cancel()
            if hurry.is_alive():
                hurry.join()  # the engine takes a container away once
            self._forget()
            self._question = ""

    def _forget(self) -> None:
        if self._question:
            with contextlib.suppress(Failed):
                self._engine.remove(self._question)

    def start(self, work: Work, environ: Mapping[str, str], line: Callable[[bytes], None]) -> None:
        for name, content in work.files.items():
            self._write(name, content)
        with self._lock:
            if self._over:
                raise Unstartable("the node is going down")
            attached = self._create_and_start()
        self._pump = threading.Thread(target=self._talk, args=(attached, line), name="pump", daemon=True)
        threading.Thread(target=self._wait, name="wait", daemon=True).start()
        self._tell(attached, work.command, environ)
        self._pump.start()

    def _tell(self, attached: socket.socket, words: list[str], environ: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):
            attached.sendall(script(words, environ, str(self.folder)).encode())
            attached.shutdown(socket.SHUT_WR)

    def _create_and_start(self) -> socket.socket:
        """The container's stdin and output. GPUs by the vendor's driver, and by CDI where the engine has no such driver."""
        ways: list[list[dict[str, Any]]] = [[BY_DRIVER], [BY_CDI]] if self._cell.gpus else [[]]
        while True:
            try:
                self._container, attached = self._begin(ways.pop(0))
                return attached
            except (Failed, KeyError, TypeError) as error:
                if not ways or not NO_DRIVER.search(str(error)):
                    raise Unstartable(f"the image {self._cell.image} could not be started: {error}") from None

    def _begin(self, devices: list[dict[str, Any]], suffix: str = "") -> tuple[str, socket.socket]:
        """A container that waits for its orders: its id, its stdin and output."""
        name = f"sublet-{self._cell.lease}{suffix}"
        made = self._engine.must("POST", "/containers/create", self.recipe(devices), name=name)
        container = str(made["Id"])
        attached = None
        try:
            attached = self._engine.attach(container)
            self._engine.must("POST", f"/containers/{container}/start")
        except Failed:
            if attached is not None:
                attached.close()
            self._engine.remove(container)
            raise
        return container, attached

    def recipe(self, devices: list[dict[str, Any]]) -> dict[str, Any]:
        """The body of the create call."""
        cell, user = self._cell, self.user
        uid, gid = (os.geteuid(), os.getegid()) if user is None else (user.uid, user.gid)
        mounts = [{"Type": "bind", "Source": str(self.folder), "Target": str(self.folder), "ReadOnly": False}]
        mounts.append({"Type": "bind", "Source": cell.hook, "Target": cell.hook, "ReadOnly": True})
        if cell.door:
            mounts.append({"Type": "bind", "Source": cell.door, "Target": GUARDED_SOCKET, "ReadOnly": False})
        return {
            "Image": cell.image,
            "Entrypoint": ["/bin/sh"],
            "Cmd": ["-s"],
            "User": f"{uid}:{gid}",
            "WorkingDir": str(self.folder),
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "OpenStdin": True,
            "StdinOnce": True,
            "Labels": {"sublet.lease": cell.lease},
            "HostConfig": {
                "Mounts": mounts,
                "NetworkMode": cell.network,
                "Privileged": False,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "DeviceRequests": devices,
                "GroupAdd": [str(number) for number in (user.groups if user is not None else ()) if number != gid],
                "IpcMode": "private",
                "ShmSize": SHARED_MEMORY,
                "OomScoreAdj": 500,
                "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
                "LogConfig": {"Type": "none", "Config": {}},
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "Init": shutil.which("docker-init") is not None,
            },
        }

    def _talk(self, attached: socket.socket, line: Callable[[bytes], None]) -> None:
        with attached, contextlib.suppress(OSError):
            for piece in frames(attached):
                line(piece)
        line(b"")

    def _wait(self) -> None:
        code = -signal.SIGKILL
        with contextlib.suppress(Failed, KeyError, TypeError, ValueError):
            code = int(self._engine.must("POST", f"/containers/{self._container}/wait", patience=None)["StatusCode"])
        self._code = code
        self._ended.set()

    def poll(self) -> int | None:
        return self._code

    def reap(self) -> None:
        """Orphans of a guarded engine that has ended may fall to us; the guard itself is waited for by its keeper."""

    def end(self, grace: float) -> None:
        with self._lock:
            ended, self._over = self._over, True
        self._forget()
        if not self._container or ended:
            return
        with contextlib.suppress(Failed):
            if self._code is None and grace:
                self._engine.ask("POST", f"/containers/{self._container}/stop", patience=grace + 30, t=int(grace))
            self._engine.remove(self._container)
        self._ended.wait(5)
        if self._cell.door:  # what the job left running ends with it
            with contextlib.suppress(Failed):
                self._engine.remove_all()


def environment(work: Work, folder: Path, user: str, hook: Path, own: Mapping[str, str]) -> dict[str, str]:
    """What the runner sees besides the image's own variables.

    GitLab's docker executor runs the hook in its helper container: DOCKER_VOLUMES takes the hook's folder there."""
    chosen = {name: value for name, value in own.items() if re.fullmatch(r"(https?|no|all)_proxy", name, re.I)}
    chosen.update(HOME=str(folder), USER=user, LOGNAME=user)
    if user == "root":
        chosen["RUNNER_ALLOW_RUNASROOT"] = "1"
    chosen["DOCKER_VOLUMES"] = f"{hook.parent}:{hook.parent}:ro"
    chosen.update(work.environment)
    chosen["ACTIONS_RUNNER_HOOK_JOB_STARTED"] = str(hook)
    chosen["RUNNER_PRE_GET_SOURCES_SCRIPT"] = str(hook)
    return chosen


def script(words: list[str], environ: Mapping[str, str], folder: str) -> str:
    """What the shell inside is told: variables, and then to become the runner, whose stdin is empty."""
    lines = ["umask 077", f"cd {shlex.quote(folder)} || exit 126"]
    for name, value in environ.items():
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join([*lines, "exec " + " ".join(map(shlex.quote, words)) + " </dev/null", ""])
