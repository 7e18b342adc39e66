"""The desk of the attic: who has which machine, in one SQLite file. This is the vendor, not the provider."""

import contextlib
import sqlite3
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

SCHEMA = """
create table if not exists booking (
    id text primary key, tag text unique, owner text, key text, script text, state text,
    made_at text, ends_at text, ended_at text
)
"""
COLUMNS = "id, tag, owner, key, script, state, made_at, ended_at"


class Full(Exception):
    """No machine is free."""


class BadKey(Exception):
    """The desk does not know the key."""


@dataclass(frozen=True)
class Row:
    id: str
    tag: str
    owner: str
    key: str
    script: str
    state: str
    made_at: datetime
    ended_at: datetime | None


class Desk:
    """Every call opens the book, does one thing, and closes it."""

    def __init__(self, book: Path, machines: int) -> None:
        self._book, self._machines = book, machines

    def free(self, key: str) -> int:
        with self._open(key) as book:
            return self._machines - self._taken(book)

    def book(self, key: str, tag: str, owner: str, order: str, script: str, now: datetime, ends_at: datetime) -> Row:
        """The booking of that name; a new one, switched on, if there is none."""
        with self._open(key) as book:
            found = self._one(book, "tag = ? and ended_at is null", tag)
            if found is not None:
                return found
            if self._taken(book) >= self._machines:
                raise Full
            count = int(book.execute("select count(*) from booking").fetchone()[0])
            book.execute("update booking set tag = id where tag = ?", (tag,))  # its name is free again
            values = (f"attic-{count + 1:04}", tag, owner, order, script, "on", now.isoformat(), ends_at.isoformat())
            book.execute("insert into booking values (?, ?, ?, ?, ?, ?, ?, ?, null)", values)
            made = self._one(book, "tag = ?", tag)
            assert made is not None
            return made

    def find(self, key: str, number: str) -> Row | None:
        with self._open(key) as book:
            return self._one(book, "id = ? and ended_at is null", number)

    def of(self, key: str, owner: str) -> list[Row]:
        with self._open(key) as book:
            rows = book.execute(f"select {COLUMNS} from booking where owner = ? and ended_at is null", (owner,))
            return [_row(row) for row in rows]

    def give_back(self, key: str, number: str, now: datetime) -> None:
        with self._open(key) as book:
            book.execute("update booking set ended_at = ? where id = ? and ended_at is null", (now.isoformat(), number))

    def switch(self, number: str, state: str) -> None:
        """Somebody goes up and turns a machine on or off, or it breaks."""
        with self._open() as book:
            book.execute("update booking set state = ? where id = ?", (state, number))

    def everything(self) -> list[Row]:
        """All bookings there ever were, the oldest first: what the bill is made of."""
        with self._open() as book:
            return [_row(row) for row in book.execute(f"select {COLUMNS} from booking order by id")]

    @contextlib.contextmanager
    def _open(self, key: str | None = None) -> Generator[sqlite3.Connection, None, None]:
        """The first key that the desk ever saw is the right one; without a key, somebody of the house opens it."""
        book = sqlite3.connect(self._book, timeout=10, isolation_level=None)
        try:
            book.execute("begin immediate")
            book.execute(SCHEMA)
            book.execute("create table if not exists lock (key text)")
            right = book.execute("select key from lock").fetchone()
            if right is None and key is not None:
                book.execute("insert into lock values (?)", (key,))
            elif right is not None and key not in (None, right[0]):
                raise BadKey
            yield book
            book.execute("commit")
        finally:
            book.close()

    def _taken(self, book: sqlite3.Connection) -> int:
        return int(book.execute("select count(*) from booking where ended_at is null").fetchone()[0])

    def _one(self, book: sqlite3.Connection, where: str, value: str) -> Row | None:
        row = book.execute(f"select {COLUMNS} from booking where {where}", (value,)).fetchone()
        return None if row is None else _row(row)


def _row(values: tuple[str, str, str, str, str, str, str, str | None]) -> Row:
    *words, made_at, ended_at = values
    number, tag, owner, key, script, state = (str(word) for word in words)
    ended = None if ended_at is None else datetime.fromisoformat(ended_at)
    return Row(number, tag, owner, key, script, state, datetime.fromisoformat(str(made_at)), ended)
