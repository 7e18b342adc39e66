"""The runner: its folder, its files, its start under lesser rights, its output, and the end of everything it started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Iterable, Mapping, NamedTuple

from . import command, privileges, shape, version
from .launch import Order

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = re.compile(
    r"LANG|LANGUAGE|LC_[A-Z]+|TZ|LD_LIBRARY_PATH|NVIDIA_[A-Z_]+|CUDA_[A-Z_]+|SSL_CERT_(FILE|DIR)|(https?|no|all)_proxy", re.I
)
"""What of the agent's own environment a job may see: nothing of it is a secret."""
START_PATIENCE = 30.0
HOOK = "{hook}"
"""In the content of a credential's file: stands for the path of the job-started hook."""


class Unstartable(Exception):
    """The runner could not be started."""


class Work(NamedTuple):
    """What the service gave: how to run the runner."""

    command: list[str]
    environment: dict[str, str]
    files: dict[str, str]  # relative name -> content
    ready: str  # a piece of output that says "online"; empty: online once started
    begun: str = ""  # a piece of output that says "a job has begun"; empty: the job-started hook tells that
    least: version.Least | None = None

    @property
    def secrets(self) -> list[str]:
        return [*self.environment.values(), *self.files.values()]

    def with_hook(self, hook: Path) -> Work:
        return self._replace(files={name: content.replace(HOOK, str(hook)) for name, content in self.files.items()})


def read_work(body: Mapping[str, Any]) -> Work:
    """Raises `Unstartable` if the answer is not what the protocol says."""
    words = shape.items(body.get("command"))
    environment, files = shape.texts(body.get("environment", {})), shape.texts(body.get("files", {}))
    if not words or not all(isinstance(word, str) and word for word in words):
        raise Unstartable("the service named no command")
    if environment is None or files is None:
        raise Unstartable("the service's credential cannot be read")
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise Unstartable("the credential names a file outside the runner's folder")
    try:
        least = version.read(body.get("least"))
    except ValueError:
        raise Unstartable("the service's credential cannot be read") from None
    given = [str(word) for word in words]
    return Work(given, environment, files, str(body.get("ready") or ""), str(body.get("begun") or ""), least)


def environment(work: Work, folder: Path, user: str, hook: Path, own: Mapping[str, str]) -> dict[str, str]:
    """What the runner sees: a standard environment, the credential's, and the job-started hook, which nothing overrides."""
    chosen = {name: value for name, value in own.items() if PASSED_ON.fullmatch(name)}
    places = [place for place in own.get("PATH", "").split(":") if place.startswith("/")]
    chosen["PATH"] = ":".join(dict.fromkeys([*places, *STANDARD_PATH.split(":")]))
    chosen.setdefault("LANG", "C.UTF-8")
    chosen.update(HOME=str(folder), USER=user, LOGNAME=user)
    if user == "root":
        chosen["RUNNER_ALLOW_RUNASROOT"] = "1"  # GitHub's run.sh refuses root otherwise; this root has no capability left
    chosen.update(work.environment)
    chosen["ACTIONS_RUNNER_HOOK_JOB_STARTED"] = str(hook)  # actions/runner: absolute path, non-zero fails the job
    chosen["RUNNER_PRE_GET_SOURCES_SCRIPT"] = str(hook)  # gitlab-runner run-single: --pre-get-sources-script
    return chosen


class Runner:
    """One runner in one folder. `start` and `end` are called once; `poll` by the main thread only."""

    where = "on this machine"
    """Where its program is, for people."""

    def __init__(self, folder: Path, program: Iterable[str], user: privileges.Account | None) -> None:
        self.folder = folder
        self.user = user
        self.strip = False
        self._program = [*program]
        self._child: subprocess.Popen[bytes] | None = None
        self._asked: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._lock = threading.Lock()
        self._over = False

    @property
    def started(self) -> bool:
        return self._child is not None

    def prepare(self, work: Work, environ: Mapping[str, str]) -> str:
        """Makes the folder and decides as whom the runner runs. Returns a line that says so. Raises `Unstartable`."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.user is None:
            self.strip = os.geteuid() == 0
            return "the runner runs as the same user" + (", without any capability" if self.strip else "")
        found = self._try(self.user, work, environ)
        if not found:
            return f"the runner runs as the unprivileged user {self.user.name}"
        with contextlib.suppress(OSError):
            shutil.chown(str(self.folder), os.geteuid(), os.getegid())
        name, self.user, self.strip = self.user.name, None, True
        return (
            f"{name} cannot run the runner ({found}): it keeps the user root, "
            "but without any capability and without a way to gain one"
        )

    def _try(self, user: privileges.Account, work: Work, environ: Mapping[str, str]) -> str:
        """Hands the folder over and looks, as that user, whether all would work; what would not."""
        try:
            shutil.chown(str(self.folder), user.uid, user.gid)
        except OSError as error:  # a container may leave root without even that
            return f"the folder cannot be handed over: {error.strerror}"
        named = [word for word in (*self._program, *work.command[1:]) if word.startswith("/") and os.path.exists(word)]  # noqa: PTH110
        return self._launch(Order(work.command, dict(environ), str(self.folder), user, False, [os.__file__, *named]))[1]

    def ask(self, words: list[str], environ: Mapping[str, str]) -> command.Outcome:
        """What a short command says that runs as the runner will: the same user, rights, environment and folder.

        After `prepare`, before `start`. Raises `Unstartable` only if the node is going down."""
        with self._lock:
            if self._over:
                raise Unstartable("the node is going down")
            self._asked, problem = self._launch(Order(words, dict(environ), str(self.folder), self.user, self.strip))
        if problem:
            return command.Outcome("", f"cannot be started: {problem}")
        return command.result(self._asked, version.PATIENCE, version.LARGEST_ANSWER)

    def start(self, work: Work, environ: Mapping[str, str], line: Callable[[bytes], None]) -> None:
        """Writes the files and starts the command in a process group of its own. Raises `Unstartable`."""
        for name, content in work.files.items():
            self._write(name, content)
        with self._lock:
            if self._over:
                raise Unstartable("the node is going down")
            order = Order(work.command, dict(environ), str(self.folder), self.user, self.strip)
            child, problem = self._launch(order)
            if problem:
                raise Unstartable(f"{work.command[0]} could not be started: {problem}")
            self._child = child
        self._pump = threading.Thread(target=_pump, args=(child, line), name="pump", daemon=True)
        self._pump.start()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return None if self._child is None else self._child.poll()

    def reap(self) -> None:
        """Collects orphans that fell to us as their new parent, and leaves the runner's own end to `poll`."""
        if self._child is not None:
            reap_orphans(self._child.pid)

    def drained(self, patience: float) -> bool:
        """Whether all output was read; waits that long for it."""
        if self._pump is not None:
            self._pump.join(patience)
        return self._pump is None or not self._pump.is_alive()

    def end(self, grace: float) -> None:
        """SIGTERM to the whole group, `grace` seconds, SIGKILL; then whatever left the group. Repeatable."""
        with self._lock:
            ended, self._over = self._over, True
        if self._asked is not None and self._asked.returncode is None:
            _signal(self._asked.pid, signal.SIGKILL)
        if self._child is None or ended:
            return  # a second time the group's number could be somebody else's
        group = self._child.pid
        if self.poll() is None and _signal(group, signal.SIGTERM):
            until = time.monotonic() + grace
            while time.monotonic() < until and (self.poll() is None or _signal(group, 0)):
                self.reap()
                time.sleep(0.05)
        _signal(group, signal.SIGKILL)

        def ended_too() -> bool:
            self.poll()
            self.reap()
            return self.poll() is not None

        end_descendants(ended_too)

    def _write(self, name: str, content: str) -> None:
        path = self.folder / name
        for parent in reversed(list(path.relative_to(self.folder).parents)[:-1]):
            inner = self.folder / parent
            inner.mkdir(mode=0o700, exist_ok=True)
            self._hand_over(inner)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            with os.fdopen(os.open(str(path), flags, 0o600), "w", encoding="utf-8") as file:
                file.write(content)
        except OSError as error:
            raise Unstartable(f"{name} cannot be written: {error.strerror}") from None
        self._hand_over(path)

    def _hand_over(self, path: Path) -> None:
        if self.user is not None:
            os.chown(str(path), self.user.uid, self.user.gid)

    def _launch(self, order: Order) -> tuple[subprocess.Popen[bytes], str]:
        """The launcher's process and its problem; empty once the command itself runs (or the probe found nothing)."""
        read, write = os.pipe()
        try:
            child = subprocess.Popen(
                [*self._program, "launch", str(write)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": STANDARD_PATH, "LC_ALL": "C.UTF-8"},
                pass_fds=(write,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(read)
            raise Unstartable(f"the launcher cannot be started: {error.strerror}") from None
        finally:
            os.close(write)
        timer = threading.Timer(START_PATIENCE, _signal, (child.pid, signal.SIGKILL))
        timer.start()
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError), child.stdin as stdin:
            stdin.write(order.pack())
        with os.fdopen(read, "rb") as report:
            problem = report.read(4000).decode("utf-8", "replace")
        timer.cancel()
        if order.probe is not None or problem:
            code = child.wait()
            child.stdout.close()
            if order.probe is not None and code != 0 and not problem:
                problem = f"the probe ended with {code}"
        return child, problem


def descendants(root: int) -> list[int]:
    """Every process below this one, from /proc; empty where there is none. Zombies are left out: they are ended already."""
    children: dict[int, list[int]] = {}
    try:
        entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []
    for entry in entries:
        try:
            state, parent = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
        except (OSError, ValueError):
            continue
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def reap_orphans(own: int) -> None:
    """Collects what has ended below this process, but for one child of its own, which somebody else waits for."""
    while hasattr(os, "waitid"):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid == own:
                return
            os.waitpid(found.si_pid, os.WNOHANG)
        except ChildProcessError:
            return


def end_descendants(ready: Callable[[], bool] = lambda: True) -> None:
    """SIGKILL to every process below this one, until there is none and `ready` says so, or two seconds have passed."""
    for _ in range(100):
        done, left = ready(), descendants(os.getpid())
        if done and not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def _pump(child: subprocess.Popen[bytes], give: Callable[[bytes], None]) -> None:
    """Hands on what the runner writes; b"" at the end."""
    stdout = child.stdout
    with contextlib.suppress(OSError, ValueError):
        while stdout is not None:
            data = os.read(stdout.fileno(), 65536)
            if not data:
                break
            give(data)
    give(b"")
