"""Databases opened again and again: SQLAlchemy keeps compiled statements by engine, and each test asks for hundreds."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from app.store.db import Database


class Reopened(Database):
    """One engine for many SQLite files, one after the other; of a PostgreSQL, for one database."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._file = sa.make_url(url).database or ""
        if self.dialect == "sqlite":  # not by a listener: a dialect with one asks it again for each statement
            setattr(self._engine.dialect, "connect", self._connect)  # noqa: B010  what the dialect is there for

    def move(self, url: str) -> None:
        """To another file. Every connection to the last one is closed."""
        self._file = sa.make_url(url).database or ""

    def _connect(self, _first: str, **settings: Any) -> sqlite3.Connection:
        return sqlite3.connect(self._file, **settings)


D = TypeVar("D", bound=Reopened)
_KEPT: dict[tuple[type[Reopened], str], list[Reopened]] = {}


def lend(url: str, kind: type[D]) -> D:
    """A database of this kind at this address, perhaps one that was elsewhere before."""
    kept = _KEPT.setdefault(_place(url, kind), [])
    database = kept.pop() if kept else kind(url)
    assert isinstance(database, kind)
    database.move(url)
    return database


def give_back(database: Reopened, url: str) -> None:
    """It is closed, and opened again some day."""
    database.close()
    _KEPT[_place(url, type(database))].append(database)


@contextmanager
def reopened(url: str) -> Generator[Database]:
    """Lent for a block."""
    database = lend(url, Reopened)
    yield database
    give_back(database, url)


def _place(url: str, kind: type[Reopened]) -> tuple[type[Reopened], str]:
    return kind, "" if url.startswith("sqlite") else url
