"""One process at a time on a folder: a lock of the kernel's, which ends with the process however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Raises BlockingIOError while another process is in such a block for the same folder, which is made if need be."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / "service.lock", os.O_RDWR | os.O_CREAT, 0o600), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
