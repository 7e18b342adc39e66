"""`python -m app.demo`: the demo forge as a process on loopback, with its state in a folder."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import uvicorn

from app.demo import keys
from app.demo.forge import build
from app.demo.keep import Shelf
from app.demo.launch import ADDRESS, FOLDER, LOCK
from app.demo.nouns import Book, Faults
from app.demo.office import Office
from app.demo.state import ForgeState
from app.kit.clock import SystemClock

HOST = "127.0.0.1"  # never anything else: this forge gives machines to whoever has its token


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m app.demo", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder; the forge keeps to its subfolder `demo`")
    parser.add_argument("--port", type=int, default=0, help="0: the last one if free, else any")
    parser.add_argument("--idle-minutes", type=float, default=15.0, help="ends itself after so long without a call; 0: never")
    parser.add_argument("--detach", action="store_true", help="live on in the background; return once it can be called")
    parser.add_argument("--jit-idle-seconds", type=float, help="removes connected runners that find no job for so long")
    faults = parser.add_argument_group("faults", "shares from 0 to 1 of all events")
    faults.add_argument("--lose", type=float, help="never delivered")
    faults.add_argument("--fail", type=float, help="logged as failed, never delivered")
    faults.add_argument("--repeat", type=float, help="delivered twice")
    faults.add_argument("--delay", type=float, help="delivered late")
    faults.add_argument("--delay-seconds", type=float, nargs=2, metavar=("FROM", "TO"), help="how late")
    faults.add_argument("--reorder", type=float, help="overtaken by later ones")
    faults.add_argument("--fault-seed", type=int, help="the same seed spoils the same events")
    return parser.parse_args(given)


def faults_of(options: argparse.Namespace, kept: Faults) -> Faults:
    """The faults that the flags ask for; without any flag, those that were set before."""
    names = ("lose", "fail", "repeat", "delay", "delay_seconds", "reorder")
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.fault_seed is not None:
        asked["seed"] = options.fault_seed
    return Faults(**asked) if asked else kept


def bound(port: int) -> socket.socket:
    """A listening socket on loopback: on this port if it is free, else on any."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that no answer is delayed
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.bind((HOST, 0))
    return listener


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: long polls must be woken before it may wait for them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(options: argparse.Namespace, folder: Path, ready: Callable[[], None]) -> None:
    shelf, clock = Shelf(folder / "book.json"), SystemClock()
    book = shelf.load() or Book(origin="")
    listener = bound(options.port or int(book.origin.rpartition(":")[2] or 0))
    listener.listen(256)
    book.origin = f"http://{HOST}:{listener.getsockname()[1]}"
    book.faults = faults_of(options, book.faults)
    if options.jit_idle_seconds is not None:
        book.limits.jit_idle = type(book.limits.jit_idle)(seconds=options.jit_idle_seconds)
    state = ForgeState(book, random.SystemRandom())
    state.wake(clock.now())
    state.repository("acme/train", clock.now())
    shelf.save(book)
    app = build(
        state,
        keys.load(folder),
        clock=clock,
        folder=folder,
        posting=True,
        ticking=True,
        keep=lambda: shelf.save(book),
    )
    office: Office = app.state.office
    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=5))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, office.stopping.set)
    serving = asyncio.create_task(server.serve([listener]))
    address = {"url": book.origin, "pid": os.getpid(), "app_id": book.app_id}
    keys.private_file(folder / ADDRESS, json.dumps(address))
    ready()
    watching = asyncio.create_task(until_over(office, options.idle_minutes * 60))
    await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    office.stopping.set()
    office.bell.ring()
    server.should_exit = True
    await serving
    office.keep_now()
    (folder / ADDRESS).unlink(missing_ok=True)


async def until_over(office: Office, seconds: float) -> None:
    """Returns when it is to stop, or nobody has called for so long. A runner that works or waits calls all the time."""
    while not office.stopping.is_set():
        left = seconds - (time.monotonic() - office.called_at) if seconds > 0 else None
        if left is not None and left <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await office.stopping.wait()


def live(options: argparse.Namespace, folder: Path, ready: Callable[[], None] = lambda: None) -> int:
    """The forge's whole life, unless another one lives in this folder. The lock is never closed by us: it stands for the
    process, and who waits for it to be free waits for the process to have ended."""
    lock = os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        sys.stderr.write(f"a demo forge already lives in {folder}\n")
        return 0
    asyncio.run(serve(options, folder, ready))
    return 0


def detached(options: argparse.Namespace, folder: Path) -> int:
    """A forge that is nobody's child and in nobody's session. Returns once it can be called (0), or failed (1)."""
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return 0 if os.read(told, 1) == b"." else 1
    os.close(told)
    os.setsid()
    try:
        os._exit(live(options, folder, lambda: (os.write(tell, b"."), os.close(tell))[1]))
    except BaseException:  # noqa: BLE001  the child of a fork must not run on into its parent's code
        traceback.print_exc()
        os._exit(1)


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    folder: Path = (options.data / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return detached(options, folder) if options.detach else live(options, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
