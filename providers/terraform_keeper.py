"""The keeper of one run of Terraform: takes its steps one after the other, and goes on when the service dies.

Run by `providers.terraform_runs` as `python -I -S terraform_keeper.py RUN LOCK_FD` with what Terraform may see in its
environment. RUN/steps.json says what to do; RUN/result.json says how far it came, written whole before and after each
step. It holds the lock that it was given, and so does all that it starts: as long as anything of a run lives, the run
is at work, whatever became of the service, of the keeper or of Terraform.

- What must be known after a crash is on disk before the step that it is about: `mark` is written and synced first.
- A step that is late, or that is told to stop (SIGTERM), is asked with SIGINT: Terraform then finishes the call that it
  is in and writes its state. Only after `grace` seconds its whole process group is killed.
- Nothing is read from a pipe: Terraform writes into files, which no death of a reader can break.
"""
# ruff: noqa: PTH105, PTH120, PTH123

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # without the import: this file starts fast, so it does without typing, pathlib and subprocess
if TYPE_CHECKING:
    from typing import Any


class Bell:
    """Rings when a child ends, and when the run is told to stop."""

    def __init__(self) -> None:
        self.stop = False
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._ring)
        signal.signal(signal.SIGTERM, self._ring)

    def _ring(self, number: int, frame: object) -> None:
        self.stop = self.stop or number == signal.SIGTERM

    def wait(self, seconds: float) -> None:
        if select.select([self._reader], [], [], max(0.0, min(seconds, 3600)))[0]:
            os.read(self._reader, 512)


def write(path: str, content: object) -> None:
    """A whole file or none, on disk when this returns; also its name."""
    draft = f"{path}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(folder)
    os.close(folder)


def due(step: dict[str, Any], begun: list[str], codes: dict[str, int], *, going: bool) -> bool:
    """Whether the step's turn has come: all is well, another one failed, or (a look at what is left) another one began."""
    match step["when"]:
        case "always":
            return step["of"] in begun
        case "failed":
            return going and codes.get(step["of"], 0) != 0
        case _:
            return going and not any(codes.values())


def spawn(command: list[str], out: str, errors: str, lock: int) -> int:
    """Start the program in a process group of its own, with the lock and nothing else of ours. Its number."""
    os.set_inheritable(lock, True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, out, flags, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, errors, flags, 0o600),
        ],
        setpgroup=0,
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ],
        setsigmask=[],
    )


def ended(child: int, bell: Bell, seconds: float, *, stoppable: bool) -> int | None:
    """Its exit status; None if it is late, or is to stop."""
    late = time.monotonic() + seconds
    while True:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        if (stoppable and bell.stop) or time.monotonic() >= late:
            return None
        bell.wait(late - time.monotonic())


def take(step: dict[str, Any], run: str, lock: int, bell: Bell, grace: float) -> tuple[int, str]:
    """The step's exit status, and a word for how it ended. What only looks is taken also after the stop was asked for."""
    stoppable, errors = step["when"] != "always", f"{run}/{step['name']}.err"
    try:
        child = spawn(step["command"], f"{run}/{step['name']}.out", errors, lock)
    except OSError as error:
        write(errors, f"{step['command'][0]}: {error.strerror}")
        return 127, "finished"
    code = ended(child, bell, step["seconds"], stoppable=stoppable)
    if code is not None:
        return code, "finished"
    word = "stopped" if stoppable and bell.stop else "late"
    os.kill(child, signal.SIGINT)  # it is not reaped yet: its number is still its own
    code = ended(child, bell, grace, stoppable=False)
    if code is None:
        os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code or 1, word


def main() -> None:
    run, lock = sys.argv[1], int(sys.argv[2])
    if os.fork():
        os._exit(0)  # so that init, not the service, is the parent: no zombie waits for the service
    os.setsid()
    os.umask(0o077)  # Terraform's state, its backup and its plan hold the start-up script
    bell = Bell()
    with open(f"{run}/steps.json", "rb") as file:
        work = json.load(file)
    begun: list[str] = []
    codes: dict[str, int] = {}
    result: dict[str, Any] = {"keeper": os.getpid(), "begun": begun, "codes": codes, "word": "finished", "ended": False}
    for step in work["steps"]:
        if bell.stop and result["word"] == "finished":
            result["word"] = "stopped"
        if not due(step, begun, codes, going=result["word"] == "finished"):
            continue
        if step["mark"]:
            write(step["mark"], {"run": run})
        begun.append(step["name"])
        write(f"{run}/result.json", result)
        codes[step["name"]], word = take(step, run, lock, bell, work["grace"])
        if step["when"] != "always" and result["word"] == "finished":
            result["word"] = word
        if step["keep"] and codes[step["name"]] == 0 and word == "finished":
            os.replace(*step["keep"])
        write(f"{run}/result.json", result)
    result["ended"] = True
    write(f"{run}/result.json", result)


if __name__ == "__main__":
    main()
