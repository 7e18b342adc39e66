"""SQLite's one writer: transactions that wait for each other share one commit, and each is durable when its own block ends.

A commit waits for the disk, and everything else that would write waits with it. Those who gathered meanwhile run one after
the other in one transaction, each from the second on behind a savepoint, so that one which fails takes back only itself.
Nobody ever waits for more to come: the last in the row commits for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc

MOST = 64  # in one commit: nobody waits long for those behind


class _Shared:
    """One transaction on the disk, for whoever is in it."""

    def __init__(self, conn: sa.Connection) -> None:
        self.conn, self._whole = conn, conn.begin()
        self.members = 0
        self.ended = threading.Event()
        self.failure: BaseException | None = None

    def lives(self) -> bool:
        """Some errors (a full disk, a broken file) end a whole transaction in SQLite, savepoints and all."""
        raw = self.conn.connection.driver_connection
        return self.failure is None and bool(getattr(raw, "in_transaction", False))

    def end(self) -> None:
        """Commit, unless it has failed; whatever becomes of it, the connection goes back clean."""
        with self.conn:
            if self.failure is None:
                try:
                    self._whole.commit()
                except BaseException as error:  # noqa: BLE001  told to everybody who is in it, each in its own thread
                    self.failure = error
            if self.failure is not None:
                try:
                    self._whole.rollback()
                except exc.DBAPIError:
                    self.conn.invalidate()


class SharedCommits:
    """`with commits.transaction() as conn`: durable when the block ends, undone when it raises."""

    def __init__(self, connect: Callable[[], sa.Connection]) -> None:
        """`connect` gives a connection whose next transaction takes the lock at once."""
        self._connect = connect
        self._turn = threading.Lock()
        self._count = threading.Lock()
        self._waiting = 0
        self._open: _Shared | None = None  # left open between two turns, for the next

    @property
    def waiting(self) -> int:
        """How many stand in line for their turn."""
        return self._waiting

    @contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        """Raises what the block raises, and what the database says to the commit."""
        with self._count:
            self._waiting += 1
        with self._turn:
            with self._count:
                self._waiting -= 1
            shared = self._join()
            try:
                yield shared.conn
                if shared.members > 1 and shared.lives():
                    shared.conn.exec_driver_sql("RELEASE member")
            except BaseException as error:
                self._take_back(shared, error)
                raise
            finally:
                self._leave(shared)
        shared.ended.wait()
        if shared.failure is not None:
            raise shared.failure

    def _join(self) -> _Shared:
        shared = self._open
        if shared is None:
            conn = self._connect()
            try:
                shared = self._open = _Shared(conn)
            except BaseException:
                conn.close()
                raise
        else:
            try:
                shared.conn.exec_driver_sql("SAVEPOINT member")
            except BaseException as error:
                shared.failure = error
                self._leave(shared)
                raise
        shared.members += 1
        return shared

    def _take_back(self, shared: _Shared, error: BaseException) -> None:
        """Undo what this member did, and nothing of the others; if that cannot be done, nobody's work is kept."""
        if shared.members == 1:
            shared.failure = error  # it is alone: the whole transaction is its own
            return
        try:
            if shared.lives():
                shared.conn.exec_driver_sql("ROLLBACK TO member")
                shared.conn.exec_driver_sql("RELEASE member")
        except exc.DBAPIError as trouble:
            shared.failure = trouble

    def _leave(self, shared: _Shared) -> None:
        """The last of those who wait commits; a transaction that is lost ends at once, for all who are in it."""
        if not shared.lives() and shared.failure is None:
            shared.failure = exc.OperationalError("COMMIT", {}, RuntimeError("the database gave up the transaction"))
        if shared.failure is None and self._waiting and shared.members < MOST:
            return
        self._open = None
        try:
            shared.end()
        finally:
            shared.ended.set()
