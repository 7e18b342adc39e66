"""How a command ends: the exit codes, and the one exception that carries them."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import IO, Any

import click


class Exit(IntEnum):
    """Exit codes of every command (docs/reference/exit-codes.md)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    NO_OFFER = 6
    NEEDS_APPROVAL = 7
    OVER_BUDGET = 8
    TIMED_OUT = 9
    UNREACHABLE = 10
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "Done.",
    Exit.FAILED: "It failed, or the answer is no; the message says why.",
    Exit.USAGE: "The command, a setting or a value is not right.",
    Exit.NOT_FOUND: "There is no such lease, job, person, token, provider, pool, file or image.",
    Exit.NOT_ALLOWED: "No valid token, or its person may not do this.",
    Exit.CONFLICT: "It is in a state in which this cannot be done.",
    Exit.NO_OFFER: "No offer passes the limits of the pool, or of any pool.",
    Exit.NEEDS_APPROVAL: "It waits for a person's approval.",
    Exit.OVER_BUDGET: "It would go over the budget.",
    Exit.TIMED_OUT: "It did not happen within the time given (`--wait`, `--timeout`).",
    Exit.UNREACHABLE: "The service, or an image's registry, does not answer.",
    Exit.INTERRUPTED: "Interrupted with Ctrl-C.",
}


class Failure(click.ClickException):
    """The command could not do what was asked: a sentence, what to do next, and the exit code."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.exit = Exit(code)
        self.hint = hint
        self.as_json = False  # whether the command was asked for JSON

    @property
    def code(self) -> str:
        """The exit code as the API spells it: `not_found`."""
        return self.exit.name.lower()

    def view(self) -> dict[str, Any]:
        error = {"code": self.code, "exit": int(self.exit), "message": self.message, "hint": self.hint}
        return {"schema_version": 1, "error": error}

    def show(self, file: IO[Any] | None = None) -> None:
        """Asked for JSON, a program gets one object on standard output in any case; a person reads standard error."""
        if self.as_json:
            click.echo(json.dumps(self.view(), indent=2))
            return
        click.echo(f"Error: {self.message}", file=file, err=file is None)
        if self.hint:
            click.echo(self.hint, file=file, err=file is None)
