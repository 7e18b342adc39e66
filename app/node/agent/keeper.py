"""Keeps an engine of this lease's own, behind the guard: starts both, answers the guard's questions, ends both.

Nothing of the machine's own engine is used or read: another data folder, another configuration, and the runtime with the guard
in front. Everything lies in one folder that only root can open.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable

from . import command, shape
from .engine import Engine, Failed
from .guard_server import PLUGIN, Orders

DOOR = Path("/var/run/docker.sock")
"""Where every client looks, and the path that GitHub's runner mounts whatever it is told."""
READY = 90.0
ENDING = 30.0
MOST_SAID = 500
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NVIDIA = "nvidia-container-runtime"
SERVICES = ("docker.socket", "docker.service", "containerd.service")
METADATA = (("iptables", "169.254.0.0/16"), ("ip6tables", "fd00:ec2::254"))


class Keeper:
    """`start` and `end` are called once, from any thread; `poll` by the main thread."""

    def __init__(
        self,
        program: Iterable[str],
        folder: Path,
        flags: Iterable[str] = (),
        say: Callable[[str], None] = lambda text: None,
        plugin: str = PLUGIN,
    ) -> None:
        self._program, self._flags, self._say = [*program], [*flags], say
        self.folder, self._plugin = folder, plugin
        self.word = secrets.token_urlsafe(32)
        self.engine = Engine(folder / "engine.sock", self.word)
        self._child: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def start(self, answer: Callable[[str], dict[str, Any]], **given: Any) -> None:
        """Raises `Failed`. `answer`: what the service says of an image; `given`: the rest of the guard's orders."""
        dockerd, runc = (shutil.which(name, path=SEARCH) for name in ("dockerd", "runc"))
        if os.geteuid() != 0:
            raise Failed("an engine of its own can be started by root alone")
        if dockerd is None or runc is None:
            raise Failed(f"{'dockerd' if dockerd is None else 'runc'} is not on this machine: its image needs Docker Engine")
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        runtimes = self._write(runc, shutil.which(NVIDIA, path=SEARCH))
        orders = Orders(
            engine=str(self.engine.path),
            command=self._command(dockerd),
            plugin=self._plugin,
            runtime=str(self.folder / "births"),
            data=str(self.folder / "data"),
            state=str(self.folder / "state"),
            word=self.word,
            runtimes=runtimes,
            **given,
        )
        self._line, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(
                [*self._program, "guard", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": SEARCH, "LC_ALL": "C.UTF-8"},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"the guard cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        self._line.sendall(json.dumps(orders._asdict()).encode() + b"\n")
        threading.Thread(target=self._listen, args=(self._line, answer), name="keeper", daemon=True).start()
        self._wait()

    def poll(self) -> int | None:
        """How the guard ended; None while it lives, or was never started."""
        return None if self._child is None else self._child.poll()

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def end(self) -> None:
        """Takes every container away and hangs up: then the guard stops the engine. Repeatable."""
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(Failed):
                self.engine.remove_all()
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
        if self._child is not None and self._child.poll() is None:
            try:
                self._child.wait(ENDING)
            except subprocess.TimeoutExpired:
                self._child.kill()  # the kernel kills the engine with it
                self._child.wait()
        if self._line is not None:
            self._line.close()

    def _listen(self, line: socket.socket, answer: Callable[[str], dict[str, Any]]) -> None:
        said = 0
        with contextlib.suppress(OSError, ValueError), line.makefile("rb") as rows:
            for row in rows:
                told = shape.table(json.loads(row))
                if "say" in told:
                    said += 1
                    if said <= MOST_SAID:  # a job that tries on and on must not push out everybody's lines
                        self._say(f"guard: {str(told['say'])[:1000]}")
                    if said == MOST_SAID:
                        self._say("guard: what is refused from here on is not listed")
                if "ask" in told:
                    line.sendall(json.dumps(answer(str(told["ask"]))).encode() + b"\n")

    def _wait(self) -> None:
        until = time.monotonic() + READY
        while time.monotonic() < until:
            if self.poll() is not None:
                raise Failed(f"the container engine did not start: {self._last_words()}")
            with contextlib.suppress(Failed):
                if self.engine.ask("GET", "/_ping", patience=5.0).status == 200:
                    return
            time.sleep(0.1)
        raise Failed(f"the container engine was not ready in {READY:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "log").read_text("utf-8", "replace").splitlines()
        except OSError:
            return "it wrote nothing"
        return " / ".join(line[-300:] for line in lines[-2:]) or "it wrote nothing"

    def _command(self, dockerd: str) -> list[str]:
        folder = self.folder
        words = [dockerd, "--config-file", f"{folder}/daemon.json", "--data-root", f"{folder}/data"]
        words += ["--exec-root", f"{folder}/state", "--pidfile", f"{folder}/pid"]
        return [
            *words,
            "-H",
            f"unix://{self.engine.path}",
            "--group",
            "root",
            "--authorization-plugin",
            self._plugin,
            *self._flags,
        ]

    def _write(self, runc: str, nvidia: str | None) -> list[str]:
        """The engine's configuration, and its runtimes with the guard in front; their names."""
        runtimes = {PLUGIN: runc, **({"nvidia": nvidia} if nvidia else {})}
        for name, program in runtimes.items():
            place = self.folder / f"runtime-{name}"
            first = " ".join(map(shlex.quote, [*self._program, "runtime", str(self.folder / "births"), program]))
            place.write_text(
                "#!/bin/sh\n# The guard looks at what is created; all else goes to the runtime itself.\n"
                f'case " $* " in *" create "*|*" run "*|*" restore "*) exec {first} "$@";; esac\n'
                f'exec {shlex.quote(program)} "$@"\n'
            )
            place.chmod(0o700)
        configuration = {
            "runtimes": {name: {"path": str(self.folder / f"runtime-{name}")} for name in runtimes},
            "default-runtime": PLUGIN,
            "features": {"cdi": True},
            "builder": {"Entitlements": {"network-host": False, "security-insecure": False}},
        }
        (self.folder / "daemon.json").write_text(json.dumps(configuration))
        return [*runtimes]


def stop_others(door: Path = DOOR, run: Callable[[list[str], float], command.Outcome] = command.run) -> None:
    """Ends the machine's own engine, which nobody guards. Raises `Failed` if something still answers."""
    for name in SERVICES:  # the socket first, or it would start the service again
        run(["systemctl", "stop", name], 60.0)
    refuse_others(door)


def refuse_others(door: Path = DOOR) -> None:
    """Raises `Failed` if an engine answers where the guarded one shall be."""
    try:
        Engine(door).ask("GET", "/_ping", patience=5.0)
    except Failed:
        return
    raise Failed(f"another container engine answers at {door}, and nobody guards it")


def close_metadata(run: Callable[[list[str], float], command.Outcome] = command.run) -> str:
    """Closes the metadata address for containers, as the start-up script does for the runner's user; "" or why not."""
    problem = ""
    for program, network in METADATA:
        rule = ["-d", network, "-p", "tcp", "!", "--dport", "53", "-j", "REJECT"]
        for chain in ("DOCKER-USER", "FORWARD"):
            told = run([program, "-I", chain, *rule], 20.0)
            if not told.problem:
                break
        else:
            problem = problem or f"{program} {told.problem}"
    return problem
