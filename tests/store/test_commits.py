"""Writers that gather behind one share its commit; each keeps, or loses, only what is its own."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from app.store.commits import SharedCommits

Block = Callable[[sa.Connection], object]


def _connected(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None


def _began(conn: sa.Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE")


class Shop:
    """One SQLite file with one table, and a count of the commits."""

    def __init__(self, folder: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{folder / 'x.db'}", pool_size=20)
        event.listen(self._engine, "connect", _connected)
        event.listen(self._engine, "begin", _began)
        event.listen(self._engine, "commit", self._committed)
        self.commits, self.line, self.full = 0, SharedCommits(self._engine.connect), False
        with self.line.transaction() as conn:
            conn.exec_driver_sql("CREATE TABLE word (word TEXT PRIMARY KEY)")
        self.commits = 0

    def _committed(self, _: sa.Connection) -> None:
        self.commits += 1
        if self.full:
            raise exc.OperationalError("COMMIT", {}, RuntimeError("the disk is full"))

    def words(self) -> str:
        with self._engine.connect() as conn:
            return "".join(sorted(conn.exec_driver_sql("SELECT word FROM word").scalars()))

    def gather(self, *blocks: Block) -> list[str]:
        """All the others stand in line when the first block runs; what each of them raised, in order."""
        raised = [""] * len(blocks)
        threads: list[threading.Thread] = []

        def work(place: int) -> None:
            try:
                with self.line.transaction() as conn:
                    if place == 0:
                        self._line_up(threads)
                    blocks[place](conn)
            except Exception as error:
                raised[place] = type(error).__name__

        threads = [threading.Thread(target=work, args=(place,)) for place in range(1, len(blocks))]
        work(0)
        for thread in threads:
            thread.join(10)
        return raised

    def _line_up(self, threads: list[threading.Thread]) -> None:
        for place, thread in enumerate(threads, start=1):
            thread.start()
            while self.line.waiting < place:
                threading.Event().wait(0.001)


def say(word: str) -> Block:
    return lambda conn: conn.execute(sa.text("INSERT INTO word VALUES (:word)"), {"word": word})


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_all_who_gathered_share_one_commit(shop: Shop) -> None:
    assert shop.gather(*(say(word) for word in "abcdefgh")) == [""] * 8
    assert shop.words() == "abcdefgh" and shop.commits == 1


def test_who_comes_alone_commits_alone(shop: Shop) -> None:
    shop.gather(say("a"))
    shop.gather(say("b"))
    assert shop.words() == "ab" and shop.commits == 2


@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_that_fails_takes_back_only_itself(shop: Shop, place: int) -> None:
    def stumble(conn: sa.Connection) -> None:
        say("x")(conn)
        say("x")(conn)

    blocks: list[Block] = [say(word) for word in "abcd"]
    blocks.insert(place, stumble)
    raised = shop.gather(*blocks)
    assert [text for text in raised if text] == ["IntegrityError"] and raised[place] == "IntegrityError"
    assert shop.words() == "abcd"


def test_a_commit_that_fails_is_told_to_all_who_are_in_it_and_to_nobody_after(shop: Shop) -> None:
    shop.full = True
    assert shop.gather(say("a"), say("b"), say("c")) == ["OperationalError"] * 3
    shop.full = False
    assert shop.gather(say("d")) == [""]
    assert shop.words() == "d"


def test_a_transaction_that_the_database_gives_up_is_lost_for_those_before_and_not_for_those_behind(shop: Shop) -> None:
    told: list[str] = []
    behind = threading.Thread(target=lambda: told.extend(shop.gather(say("c"))))

    def broken(conn: sa.Connection) -> None:
        behind.start()
        while not shop.line.waiting:
            threading.Event().wait(0.001)
        conn.exec_driver_sql("ROLLBACK")  # as SQLite does by itself when the disk is full

    assert shop.gather(say("a"), broken) == ["OperationalError", "OperationalError"]
    behind.join(10)
    assert told == [""]
    assert shop.words() == "c"
