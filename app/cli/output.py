"""What a command prints: data on standard output as table, JSON, NDJSON or CSV; hints and progress on standard error."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from app.cli.exits import Exit, Failure
from app.cli.words import NONE, clean

FORMS = ("table", "json", "ndjson", "csv")
View = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, how to read its cell from a view, and on which side it is aligned."""

    title: str
    cell: Callable[[Any], object]
    right: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """The form that was asked for, and whether colour is wanted."""

    form: str = "table"
    colour: bool = True

    @property
    def is_json(self) -> bool:
        return self.form in ("json", "ndjson")

    @property
    def is_text(self) -> bool:
        return self.form == "table"

    def rows(self, reply: View, items: Sequence[View], columns: Sequence[Column], empty: str) -> None:
        """A list: the whole reply as JSON, or its items one by one. `empty` is said on standard error if there are none."""
        match self.form:
            case "json":
                self.value(reply)
            case "ndjson":
                for item in items:
                    click.echo(json.dumps(item))
            case "csv":
                writer = csv.writer(sys.stdout)
                writer.writerow([column.title.lower().replace(" ", "_") for column in columns])
                writer.writerows([[inert(clean(column.cell(item))) for column in columns] for item in items])
            case _:
                if items:
                    self.table(columns, items)
                else:
                    hint(empty)

    def table(self, columns: Sequence[Column], items: Iterable[Any]) -> None:
        """Aligned columns without boxes; lines are cut at the terminal's width, and never in a file or a pipe."""
        cells = [[clean(column.cell(item)) or NONE for column in columns] for item in items]
        widths = [max([len(column.title), *(len(row[place]) for row in cells)]) for place, column in enumerate(columns)]
        terminal = sys.stdout.isatty()
        room = shutil.get_terminal_size().columns if terminal else None
        for number, row in enumerate([[column.title.upper() for column in columns], *cells]):
            padded = [
                cell.rjust(width) if column.right else cell.ljust(width)
                for cell, width, column in zip(row, widths, columns, strict=True)
            ]
            line = "  ".join(padded).rstrip()
            if room is not None and len(line) > room:
                line = line[: max(room - 1, 1)] + "…"
            click.echo(click.style(line, bold=True) if number == 0 and self.coloured else line)

    def value(self, view: View) -> None:
        """One object, as JSON whatever the terminal."""
        click.echo(json.dumps(view, indent=2 if self.form == "json" else None))

    @property
    def coloured(self) -> bool:
        return self.colour and not os.environ.get("NO_COLOR") and sys.stdout.isatty()

    def only_objects(self, command: str) -> None:
        """Refuse CSV where there is no list. Raises Failure."""
        if self.form == "csv":
            raise Failure(Exit.USAGE, f"`{command}` is no list and has no CSV.", "Take -o json.")


def inert(cell: str) -> str:
    """A cell that a spreadsheet takes for text: job names are strangers' words, and `=` begins a formula there."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") and cell != "-" else cell


def hint(text: str) -> None:
    """A line for people, on standard error."""
    if text:
        click.echo(text, err=True)
