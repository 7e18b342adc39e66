"""Where a secret lies: `env:NAME`, `file:PATH` or `cmd:PROGRAM ...`; read only at the moment of use."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from providers.contract import Secret

FORMS: Final = ("env:", "file:", "cmd:")
HOW: Final = "write env:NAME, file:PATH or cmd:PROGRAM, so that the value itself never stands in the settings"
LARGEST: Final = 65_536
"""Bytes. A secret is a key or a token; anything larger is a mistake in the path."""


class SecretError(Exception):
    """The secret cannot be read. The message names the place, never the value."""


class SecretPlace:
    """A secret's address. `repr` and `str` show the address; the value is read anew by every `read`."""

    __slots__ = ("_folder", "_form", "_target", "_timeout")

    def __init__(self, text: str, *, folder: Path | None = None, timeout: float = 10.0) -> None:
        """`folder` is where a relative `file:` starts (default: the working folder); `timeout` is for `cmd:`, in seconds.

        Raises ValueError for a text that is no address; the message does not repeat it.
        """
        form = next((form for form in FORMS if text.startswith(form)), None)
        if form is None:
            raise ValueError(f"a secret is never written in place: {HOW}")
        target = text.removeprefix(form).strip()
        if not target:
            raise ValueError(f"`{form}` is followed by nothing: {HOW}")
        if form == "cmd:":
            try:
                shlex.split(target)
            except ValueError:
                raise ValueError("the command after `cmd:` has an unclosed quote") from None
        self._form, self._target = form, target
        self._folder, self._timeout = folder or Path(), timeout

    def __str__(self) -> str:
        # Arguments of a command may be private: only its program is shown.
        return f"{self._form}{self._program} ..." if self._form == "cmd:" and self._is_long else f"{self._form}{self._target}"

    def __repr__(self) -> str:
        return f"SecretPlace({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretPlace) and (self._form, self._target) == (other._form, other._target)

    def __hash__(self) -> int:
        return hash((self._form, self._target))

    @property
    def _is_long(self) -> bool:
        return len(shlex.split(self._target)) > 1

    @property
    def _program(self) -> str:
        return shlex.split(self._target)[0]

    @property
    def path(self) -> Path | None:
        """The file of a `file:` secret; None for the other forms."""
        return self._folder / Path(self._target).expanduser() if self._form == "file:" else None

    def warning(self) -> str:
        """A sentence if others on this machine can read the file, else an empty string. Does not read it."""
        if self.path is None:
            return ""
        try:
            mode = self.path.stat().st_mode
        except OSError:
            return ""
        return f"{self} can be read by everybody on this machine: chmod 600 {self.path}" if mode & stat.S_IROTH else ""

    def read(self, environment: Mapping[str, str] = os.environ) -> Secret:
        """The value, without the newline at its end. May block for the time limit of a command. Raises SecretError."""
        match self._form:
            case "env:":
                value = environment.get(self._target, "")
                problem = "the variable is not set, or empty"
            case "file:":
                value, problem = self._read_file(), "the file is empty"
            case _:
                value, problem = self._read_command(), "the command printed nothing"
        value = value.rstrip("\r\n")
        if not value:
            raise SecretError(f"{self}: {problem}")
        return Secret(value)

    def _read_file(self) -> str:
        assert self.path is not None
        try:
            with self.path.open("rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            raise SecretError(f"{self}: {error.strerror or type(error).__name__}") from None
        return self._text(content)

    def _read_command(self) -> str:
        try:
            done = subprocess.run(  # noqa: S603  the operator's own command; split into words, never given to a shell
                shlex.split(self._target),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a tool may print the value there
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SecretError(f"{self}: no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise SecretError(f"{self}: {error.strerror or type(error).__name__}") from None
        if done.returncode != 0:
            raise SecretError(f"{self}: the command ended with {done.returncode}")
        return self._text(done.stdout)

    def _text(self, content: bytes) -> str:
        if len(content) > LARGEST:
            raise SecretError(f"{self}: larger than {LARGEST} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise SecretError(f"{self}: not UTF-8 text") from None


class PublicPlace(SecretPlace):
    """The address of a public key: read like a secret, but anybody may see what is there."""

    __slots__ = ()

    def __init__(self, text: str, *, folder: Path | None = None, timeout: float = 10.0) -> None:
        """Raises ValueError for a text that is no address."""
        if not text.startswith(FORMS):
            raise ValueError("a public key is named as file:PATH, env:NAME or cmd:PROGRAM")
        super().__init__(text, folder=folder, timeout=timeout)

    @property
    def name(self) -> str:
        """What people call the key: the file, the variable or the program that it comes from."""
        return self.path.name if self.path is not None else str(self).partition(":")[2]

    def warning(self) -> str:
        return ""
