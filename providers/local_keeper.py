"""The keeper of one `local` instance: on while the start-up script runs; when that ends, all it started ends too.

Run by `providers.local` as `python -I local_keeper.py STATUS_FD SECONDS` in the instance's folder. It is the
instance's "machine": the service may die and come back without the keeper noticing.

- Exactly one: it writes its own pid record under a name that only the first can take, before the script starts.
  A second keeper, left over from a service that was killed at the wrong moment, sees the record and goes.
- Nothing escapes: as a subreaper (Linux) it inherits every process that double-forks or starts its own session,
  so those stay its descendants, and are ended with the script.
- Dead-man switch: at the hard end, SECONDS from now, it powers off whether or not a service is alive.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def adopt_orphans() -> None:
    """Ask the kernel to give us our descendants' orphans. Elsewhere than Linux there is no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def write(name: str, content: dict[str, object], *, only_first: bool = False) -> bool:
    """Write a whole file at once, or (only_first) not at all if the name is taken."""
    draft = f"{name}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, json.dumps(content).encode())
    os.close(descriptor)
    if not only_first:
        os.replace(draft, name)  # noqa: PTH105  plain calls: this file starts fast
        return True
    try:
        os.link(draft, name)  # unlike a rename, it never replaces
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)  # noqa: PTH108
    return True


def reap(script: int) -> int | None:
    """Collect every child that ended; the script's exit code if it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == script:
            code = os.waitstatus_to_exitcode(status)


def wake(number: int, frame: object) -> None:
    """Nothing: that a signal came is told through the wakeup descriptor."""


def watch(script: int, seconds: float) -> int | None:
    """Wait for the script's end, or for the hard end (None)."""
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, wake)
    end = time.monotonic() + seconds
    while (code := reap(script)) is None:
        left = end - time.monotonic()
        if left <= 0:
            return None
        if select.select([bell], [], [], min(left, 3600))[0]:
            os.read(bell, 512)
    return code


def power_off(script: int) -> None:
    """End all that descends from here, however often it forks."""
    keeper = psutil.Process()
    while left := keeper.children(recursive=True):
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        time.sleep(0.01)
        reap(script)


def main() -> None:
    status, seconds = int(sys.argv[1]), float(sys.argv[2])
    if os.fork():
        os._exit(0)  # so that init, not the service, is the parent: no zombie waits for the service
    os.setsid()
    os.set_inheritable(status, False)
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it ends by its script, by its time, or by SIGKILL
    if not write("process.json", {"pid": os.getpid(), "created": psutil.Process().create_time()}, only_first=True):
        os._exit(0)
    os.umask(0o022)
    usual = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ]
    script = os.posix_spawn(
        "/bin/sh", ["sh", "start.sh"], os.environ, setpgroup=0, setsigdef=usual, setsigmask=[], resetids=True
    )
    with contextlib.suppress(OSError):  # nobody listens if the service was killed meanwhile
        os.write(status, b"on")
    os.close(status)
    code = watch(script, seconds)
    write("ended.json", {"code": code})
    power_off(script)


if __name__ == "__main__":
    main()
