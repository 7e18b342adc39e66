"""A service that kills itself with SIGKILL at a chosen point of a `local` create or destroy. Run by test_local_crash.py.

python -m tests.providers.crash ROOT TAG KEY OWNER POINT, the start-up script on standard input
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from providers import local_folders
from providers.clock import SYSTEM
from providers.contract import Offer, Order
from providers.local import LocalProvider, LocalSettings


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around_rename(match: Callable[[Path], bool], *, before: bool) -> None:
    real = Path.rename

    def rename(self: Path, target: Any) -> Path:
        if not match(Path(target)):
            return real(self, target)
        if before:
            die()
        result = real(self, target)
        die()
        return result

    Path.rename = rename


def after_spawn(meanwhile: Callable[[int], None]) -> None:
    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **rest: Any) -> None:
            super().__init__(*arguments, **rest)
            meanwhile(self.pid)
            die()

    subprocess.Popen = Popen


def freeze(pid: int) -> None:
    """Stop the keeper before it has done anything, and tell who it is."""
    os.kill(pid, signal.SIGSTOP)
    os.write(1, str(pid).encode())


def after(name: str) -> None:
    real: Any = getattr(local_folders.Folders, name)

    def step(*arguments: Any) -> Any:
        real(*arguments)
        die()

    setattr(local_folders.Folders, name, step)


async def main(root: str, tag: str, key: str, owner: str, point: str) -> None:
    now = SYSTEM.now()
    offer = Offer("slot-1", "local", "local", Decimal(0), "USD", now)
    order = Order(offer, key, tag, owner, sys.stdin.read(), now + timedelta(hours=1))
    provider = LocalProvider("local", LocalSettings(Path(root)))
    match point:
        case "drafted":
            around_rename(lambda target: target.name == tag, before=True)
        case "placed":
            around_rename(lambda target: target.name == tag, before=False)
        case "spawned":
            after_spawn(lambda pid: None)
        case "frozen":
            after_spawn(freeze)
        case _:
            pass
    await provider.create(order)
    match point:
        case "started":
            die()
        case "asked to end":
            after("ask_to_end")
        case "emptied":
            around_rename(lambda target: target.name.startswith(".gone-"), before=True)
        case "renamed":
            around_rename(lambda target: target.name.startswith(".gone-"), before=False)
        case _:
            raise AssertionError(f"lived past {point}")
    await provider.destroy(tag)
    raise AssertionError(f"lived past {point}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
