"""Hints to and from the other processes of a PostgreSQL database, by LISTEN and NOTIFY on a connection of its own.

A hint carries nothing and may be lost: whoever waits for one also looks by the clock."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.store.db import Database

log = structlog.get_logger()

CHANNEL = "sublet_bell"
APART = 0.02
"""Seconds between two hints that are sent: the first goes at once, those that come meanwhile are one."""
LONGEST_PAUSE = 15.0


class Herald:
    """One thread: what is rung here is told to the others, and what they tell is given to `heard`.

    Without its connection it drops every hint and tries again, with pauses that grow to 15 s."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wake = self._waker = -1  # the two ends of a pipe, once it is started
        self._rung = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.connected = False

    def start(self, heard: Callable[[], None]) -> None:
        """`heard` is called in the herald's own thread, also once after each new connection: a hint may have been lost."""
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._live, args=(heard,), name="herald", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """Tell the others; costs nothing, never blocks, from any thread."""
        if not self._rung:
            self._rung = True
            self._poke()

    def close(self) -> None:
        """End the thread. The last hint is sent before."""
        self._closing.set()
        if self._thread is None:
            return
        self._poke()
        self._thread.join()
        wake, waker = self._wake, self._waker
        self._wake = self._waker = -1  # first: whoever still rings must not write into a file that comes to bear this number
        os.close(wake)
        os.close(waker)

    def _poke(self) -> None:
        if self._waker >= 0:
            with contextlib.suppress(OSError):  # it is full of pokes already, or was closed just now
                os.write(self._waker, b".")

    def _live(self, heard: Callable[[], None]) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                with self._database.own_connection() as conn:
                    conn.execute(f"LISTEN {CHANNEL}".encode())
                    conn.execute(b"SET synchronous_commit = off")  # a hint need not survive anything
                    self.connected, failures = True, 0
                    heard()
                    self._serve(conn, heard)
            except (psycopg.Error, SQLAlchemyError, OSError) as error:
                failures += 1
                log.warning("hints.interrupted", error=type(error).__name__, failures=failures)
            finally:
                self.connected = False
            self._closing.wait(min(0.25 * 2.0 ** min(failures, 10), LONGEST_PAUSE) if failures else 0.0)

    def _serve(self, conn: psycopg.Connection[Any], heard: Callable[[], None]) -> None:
        own, sent = conn.info.backend_pid, float("-inf")
        with selectors.DefaultSelector() as selector:
            selector.register(conn.fileno(), selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._closing.is_set() or self._rung:
                selector.select(max(sent + APART - time.monotonic(), 0.0) if self._rung else None)
                self._drain()
                if self._rung and (self._closing.is_set() or time.monotonic() >= sent + APART):
                    self._rung = False  # before it is sent: whoever rings from now on is told of by the next one
                    conn.execute(f"NOTIFY {CHANNEL}".encode())
                    sent = time.monotonic()
                if any(told.pid != own for told in list(conn.notifies(timeout=0))):
                    heard()

    def _drain(self) -> None:
        try:
            while os.read(self._wake, 4096):
                pass
        except BlockingIOError:
            return
