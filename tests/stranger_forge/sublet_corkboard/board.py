"""The cork board in the hall: jobs on slips of paper, and who works on which, in one SQLite file. This is the forge itself."""

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
create table if not exists slip (
    id integer primary key, project text, run integer, labels text, state text, outcome text, runner text, author text,
    own integer
);
create table if not exists runner (
    id integer primary key, project text, name text, labels text, token text, slip integer, used integer
);
create table if not exists note (id integer primary key, slip integer, body text);
create table if not exists setting (name text primary key, value text);
"""


class Away(Exception):
    """The caretaker has locked the hall."""


class BadPass(Exception):
    """The board does not know the pass."""


class Taken(Exception):
    """The name or the runner is taken."""


@dataclass(frozen=True)
class Slip:
    id: int
    project: str
    run: int
    labels: tuple[str, ...]
    state: str  # "held", "open", "taken", "done"
    outcome: str  # "good", "bad", "torn_down"
    runner: str
    author: str
    own: bool  # the project's own code; else somebody sent it in


@dataclass(frozen=True)
class Desk:
    """A runner's place at the board."""

    id: int
    name: str
    labels: tuple[str, ...]
    token: str
    slip: int | None


class Board:
    """Every call opens the file, does one thing, and closes it. `door` is called first, and may raise."""

    def __init__(self, file: Path, hall_pass: str) -> None:
        self._file, self._pass = file, hall_pass

    def door(self, verb: str) -> None:
        """Who stands in the door may keep us out."""

    # What the service asks, with its pass

    def slips(self, project: str) -> list[Slip]:
        with self._asked("slips") as board:
            rows = board.execute("select * from slip where project = ? and state != 'done' order by id", (project,))
            return [_slip(row) for row in rows]

    def projects(self, house: str) -> list[str]:
        with self._asked("projects") as board:
            rows = board.execute("select distinct project from slip where project like ? order by project", (f"{house}/%",))
            return [str(row[0]) for row in rows]

    def slip(self, number: int) -> Slip | None:
        with self._asked("slip") as board:
            return _one(board, number)

    def register(self, project: str, name: str, labels: Sequence[str]) -> Desk:
        """Raises Taken for a name that is there already."""
        with self._asked("register") as board:
            if board.execute("select 1 from runner where name = ?", (name,)).fetchone():
                raise Taken(name)
            token = secrets.token_hex(16)
            values = (project, name, json.dumps(list(labels)), token)
            made = board.execute("insert into runner values (null, ?, ?, ?, ?, null, 0)", values)
            return Desk(int(made.lastrowid or 0), name, tuple(labels), token, None)

    def desks(self, project: str) -> list[Desk]:
        with self._asked("desks") as board:
            return [_desk(row) for row in board.execute("select * from runner where project = ? order by id", (project,))]

    def desk(self, number: int) -> Desk | None:
        with self._asked("desk") as board:
            row = board.execute("select * from runner where id = ?", (number,)).fetchone()
            return None if row is None else _desk(row)

    def clear(self, number: int) -> None:
        """Raises Taken while somebody works at it."""
        with self._asked("clear") as board:
            row = board.execute("select slip from runner where id = ?", (number,)).fetchone()
            if row is not None and row[0] is not None:
                raise Taken(str(number))
            board.execute("delete from runner where id = ?", (number,))

    def greet(self) -> str:
        with self._asked("greet") as board:
            return f"{board.execute('select count(*) from slip').fetchone()[0]} slips hang here"

    # What a runner asks, with its token

    def work(self, token: str) -> Slip | None:
        """The oldest open slip of its project whose labels it has; a place at the board is good for one slip."""
        with self._open() as board:
            row = board.execute("select * from runner where token = ? and used = 0", (token,)).fetchone()
            if row is None:
                return None
            for slip in [_slip(one) for one in board.execute("select * from slip where state = 'open' order by id")]:
                if slip.project == row[1] and set(slip.labels) <= set(json.loads(row[3])):
                    board.execute("update runner set slip = ?, used = 1 where id = ?", (slip.id, row[0]))
                    board.execute("update slip set state = 'taken', runner = ? where id = ?", (row[2], slip.id))
                    self._note(board, slip.id)
                    return _one(board, slip.id)
            return None

    def done(self, token: str, outcome: str) -> None:
        with self._open() as board:
            row = board.execute("select slip from runner where token = ?", (token,)).fetchone()
            board.execute("update slip set state = 'done', outcome = ? where id = ?", (outcome, row[0]))
            self._note(board, row[0])
            board.execute("delete from runner where token = ?", (token,))

    # What people do

    def pin(self, project: str, labels: Sequence[str], *, held: bool = False, own: bool = True) -> int:
        with self._open() as board:
            run = 100 + int(board.execute("select count(*) from slip").fetchone()[0])
            state = "held" if held else "open"
            values = (project, run, json.dumps(list(labels)), state, "", "", "ida", int(own))
            made = board.execute("insert into slip values (null, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._note(board, int(made.lastrowid or 0))
            return int(made.lastrowid or 0)

    def tear_down(self, number: int) -> None:
        with self._open() as board:
            board.execute("update slip set state = 'done', outcome = 'torn_down' where id = ?", (number,))
            self._note(board, number)

    def notes(self, after: int) -> list[tuple[int, str]]:
        """What the board told whoever listens, after the note of that number: (number, body)."""
        with self._open() as board:
            rows = board.execute("select id, body from note where id > ? order by id", (after,))
            return [(int(row[0]), str(row[1])) for row in rows]

    def _note(self, board: sqlite3.Connection, number: int) -> None:
        row = board.execute("select * from slip where id = ?", (number,)).fetchone()
        board.execute("insert into note values (null, ?, ?)", (number, json.dumps(told(_slip(row)))))

    @contextlib.contextmanager
    def _asked(self, verb: str) -> Generator[sqlite3.Connection]:
        """The first pass that the board ever saw is the right one."""
        self.door(verb)
        with self._open() as board:
            board.execute("insert or ignore into setting values ('pass', ?)", (self._pass,))
            if board.execute("select value from setting where name = 'pass'").fetchone()[0] != self._pass:
                raise BadPass
            yield board

    @contextlib.contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        board = sqlite3.connect(self._file, timeout=10, isolation_level=None)
        board.execute("pragma synchronous = off")
        try:
            board.executescript(SCHEMA)
            board.execute("begin immediate")
            yield board
            board.execute("commit")
        finally:
            board.close()


def told(slip: Slip) -> dict[str, Any]:
    """The slip as the board tells of it."""
    return {
        "slip": slip.id,
        "project": slip.project,
        "run": slip.run,
        "labels": list(slip.labels),
        "state": slip.state,
        "outcome": slip.outcome,
        "runner": slip.runner,
    }


def _slip(row: Any) -> Slip:
    return Slip(row[0], row[1], row[2], tuple(json.loads(row[3])), row[4], row[5], row[6], row[7], bool(row[8]))


def _desk(row: Any) -> Desk:
    return Desk(row[0], row[2], tuple(json.loads(row[3])), row[4], row[5])


def _one(board: sqlite3.Connection, number: int) -> Slip | None:
    row = board.execute("select * from slip where id = ?", (number,)).fetchone()
    return None if row is None else _slip(row)
