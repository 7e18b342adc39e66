"""Adds a `[[provider]]` table to the settings file, for `sublet provider add`: checked before a byte of the file changes.

Reads one JSON object, prints one."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import re
import sys
import tempfile
import tomllib
import types
import typing
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from app.kit.one_line import refusal, say
from app.settings import SecretPlace, SettingsError, load
from app.settings.secrets import FORMS, HOW
from providers import registry
from providers.contract import Secret

FAILED, USAGE, NOT_FOUND, CONFLICT = 1, 2, 3, 5
"""The exit codes of the command line (app.cli.exits)."""
BARE = re.compile(r"[A-Za-z0-9_-]+")


class Unusable(Exception):
    """The table cannot be added: a sentence, what to do, and the exit code."""

    def __init__(self, message: str, hint: str = "", code: int = USAGE) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants added, and where."""

    kind: str
    name: str
    settings: tuple[str, ...]  # KEY=VALUE
    config: Path
    dry: bool  # only say what would be written


def main() -> int:
    """Exit code 0 once it is written; 1 for a file that cannot be, 2 for settings that cannot be used, 3 for a file that is not
    there, 5 for a name that is taken."""
    try:
        asked: dict[str, Any] = json.loads(sys.stdin.read())
        wanted = Wanted(asked["kind"], asked["name"], tuple(asked["settings"]), Path(asked["config"]), bool(asked["dry"]))
        return say(add(wanted))
    except Unusable as no:
        return say(refusal(str(no), no.hint), no.code)
    except OSError as error:
        return say(refusal(f"{error.filename or 'The settings'}: {error.strerror or type(error).__name__}"), FAILED)


def add(wanted: Wanted) -> dict[str, Any]:
    """What was written, and where. Raises Unusable and OSError; then the file is as it was."""
    known = registry.installed()
    plugin = known.kinds.get(wanted.kind)
    if plugin is None:
        raise _no_kind(wanted.kind, known)
    path = wanted.config.resolve()  # what a link means is replaced, not the link
    if not path.is_file():
        raise Unusable(f"There is no file {wanted.config}.", "Name the settings file with --config.", NOT_FOUND)
    before, table = path.read_bytes(), _table(wanted, _values(wanted.settings, plugin))
    after = _appended(before, table, wanted)
    _check(after, path, wanted, known)
    if not wanted.dry:
        _replace(path, before, after)
    return {
        "schema_version": 1,
        "path": str(wanted.config),
        "provider": wanted.name,
        "kind": wanted.kind,
        "table": table,
        "written": not wanted.dry,
    }


def _no_kind(kind: str, known: registry.Installed) -> Unusable:
    near = difflib.get_close_matches(kind, list(known.kinds), n=1)
    why = known.broken.get(kind)
    text = f"The kind {kind} cannot be used: {why}" if why else f"There is no kind {kind}."
    return Unusable(f"{text} Did you mean {near[0]}?" if near else text, f"Installed: {', '.join(sorted(known.kinds))}.")


# --- what was said -> values


def _values(settings: Sequence[str], plugin: registry.Kind) -> dict[str, Any]:
    """KEY=VALUE and TABLE.KEY=VALUE as the tables of the file have them. Raises Unusable."""
    given: dict[str, Any] = {}
    for pair in settings:
        name, equals, text = pair.partition("=")
        field, dot, entry = name.strip().partition(".")
        if not equals:
            raise Unusable(f"{name[:60]!r} is no setting: write KEY=VALUE.", told(plugin))
        if field not in plugin.fields:
            near = difflib.get_close_matches(field, list(plugin.fields), n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise Unusable(f"{plugin.kind} has no setting {field[:60]!r}.{guess}", told(plugin))
        hint = plugin.fields[field]
        if not dot:
            value = _value(field, text, hint)
        else:  # the rest is one key, whatever is in it: prices.p5.48xlarge
            inner = _entries(hint)
            if inner is None or not entry:
                raise Unusable(f"{field} is no table: write {field}=VALUE.", told(plugin))
            value = {**given.get(field, {}), entry: _value(name, text, inner)}
        if field in given and not dot:
            raise Unusable(f"{field} is said twice.")
        given[field] = value
    return given


def _value(name: str, text: str, hint: Any) -> Any:
    """A value as TOML has it. Raises Unusable, which never repeats a secret's text."""
    kinds = _kinds(hint)
    text = text.strip()
    if Secret in kinds:
        if not text.startswith(FORMS):
            raise Unusable(f"{name} is a secret, and a secret is never written in place: {HOW}.")
        return text
    if text.startswith(FORMS):
        return text  # a plain setting may come by reference too
    if any(typing.get_origin(kind) in (tuple, list) for kind in kinds) and not text.startswith("["):
        return [_item(part.strip(), kinds) for part in text.split(",") if part.strip()]
    if str in kinds or not (kinds & {bool, int, float, Any} or any(_is_whole(kind) for kind in kinds)):
        return text
    try:
        return _toml(name, text)
    except Unusable:
        if Any in kinds:
            return text
        raise


def _item(text: str, kinds: frozenset[Any]) -> Any:
    """One of a list that was written with commas."""
    inner = next(typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) in (tuple, list))
    return _toml("a list", text) if inner in (int, float, bool) else text


def _toml(name: str, text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise Unusable(
            f"{name} cannot be read.", 'Write it as in TOML: true, 8, ["a", "b"], {name = "value"}; quoted for your shell.'
        ) from None


def _kinds(hint: Any) -> frozenset[Any]:
    """The types that a setting may have, without None."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return frozenset(kind for kind in arguments if kind is not types.NoneType)


def _is_whole(kind: Any) -> bool:
    """Whether it is written as a list or a table."""
    return typing.get_origin(kind) in (tuple, list, dict, Mapping)


def _entries(hint: Any) -> Any:
    """The type of a table's values; None for what is no table."""
    return next((typing.get_args(kind)[1] for kind in _kinds(hint) if typing.get_origin(kind) in (dict, Mapping)), None)


def told(plugin: registry.Kind) -> str:
    """The settings of a kind, as one sentence: those that it needs first."""
    words = {name: f"{name} (secret)" if name in plugin.secrets else name for name in plugin.fields}
    needed = [words[name] for name in plugin.required]
    others = [word for name, word in words.items() if name not in plugin.required]
    sentences = [f"{plugin.kind} needs {', '.join(needed)}."] if needed else []
    return " ".join([*sentences, f"It may have {', '.join(others)}." if others else ""]).strip()


# --- values -> the file


def _table(wanted: Wanted, values: Mapping[str, Any]) -> str:
    rows = {"name": wanted.name, "kind": wanted.kind, **values}
    return "\n".join(["[[provider]]", *(f"{_key(key)} = {_written(value)}" for key, value in rows.items())]) + "\n"


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else _written(key)


def _written(value: Any) -> str:
    """A value as TOML. Raises Unusable for what no settings file should hold."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            if not value.isprintable():
                raise Unusable("A setting holds characters that cannot be seen.")
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(_written(item) for item in cast('list[Any]', value))}]"
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return f"{{ {', '.join(f'{_key(key)} = {_written(item)}' for key, item in pairs)} }}" if pairs else "{}"
        case _:
            raise Unusable("A setting is a text, a number, true, false, a list or a table.")


def _appended(before: bytes, table: str, wanted: Wanted) -> bytes:
    """The file with the table at its end; every byte that was there stays where it was."""
    try:
        text = before.decode("utf-8")
        old: dict[str, Any] = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise Unusable(f"{wanted.config} is no TOML.", "See `sublet config check`.") from None
    rows: Any = old.get("provider", []) if isinstance(old.get("provider"), list) else []
    tables = [cast("dict[str, Any]", row) for row in cast("list[Any]", rows) if isinstance(row, dict)]
    if wanted.name in [row.get("name") for row in tables]:
        raise Unusable(f"There is a provider {wanted.name} already.", f"Change it in {wanted.config}.", CONFLICT)
    end = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text else end if text.endswith("\n") else 2 * end
    after = f"{text}{gap}{table.replace(chr(10), end)}"
    try:
        new: dict[str, Any] = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        raise Unusable(f"{wanted.config} has its providers in one line.", "Write them as [[provider]] tables first.") from None
    if {**new, "provider": new["provider"][:-1]} != {**old, "provider": old.get("provider", [])}:
        raise Unusable(f"{wanted.config} would mean something else.", "Add the table by hand.", FAILED)
    return after.encode()


def _check(after: bytes, path: Path, wanted: Wanted, known: registry.Installed) -> None:
    """Whether the whole file can be used, and the provider's own settings with it. No secret is read. Raises Unusable."""
    with _beside(path, after) as file:
        try:
            loaded = load(file).settings
        except SettingsError as error:
            problems = str(error).replace(str(file), str(wanted.config))
            raise Unusable(f"The settings could not be used with it:\n{problems}", "Nothing was written.") from None
    table = next((one for one in loaded.provider if one.name == wanted.name), None)
    if table is None:
        raise Unusable("A variable of the environment says what the providers are: SUBLET_PROVIDER.", "Nothing was written.")
    own, plugin = {key: _unread(value) for key, value in (table.model_extra or {}).items()}, known.kinds[wanted.kind]
    if any(isinstance(value, Secret) and key not in plugin.secrets for key, value in own.items()):
        return  # what comes by reference can only be judged once it is read
    if wanted.kind in ("local", "terraform"):
        own.setdefault("root", "instances")  # the service fills it in, below its data folder
    try:
        registry.settings_of(wanted.kind, wanted.name, own, known)
    except registry.ProviderTrouble as no:
        raise Unusable(str(no), told(plugin)) from None


def _unread(value: Any) -> Any:
    """With a stand-in for each secret that is named."""
    if isinstance(value, dict):
        return {key: _unread(item) for key, item in cast("dict[str, Any]", value).items()}
    return Secret("not read") if isinstance(value, SecretPlace) else value


@contextlib.contextmanager
def _beside(path: Path, content: bytes) -> Generator[Path]:
    """A file of this content in the same folder, with the same rights; taken away again if it is still there."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    file = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            like = path.stat()
            if (os.geteuid(), os.getegid()) != (like.st_uid, like.st_gid):
                os.fchown(stream.fileno(), like.st_uid, like.st_gid)
            os.fchmod(stream.fileno(), like.st_mode & 0o7777)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        yield file
    finally:
        file.unlink(missing_ok=True)


def _replace(path: Path, before: bytes, after: bytes) -> None:
    """At once and for good: a crash leaves the old file or the new one. Raises Unusable if somebody else wrote meanwhile."""
    with _beside(path, after) as file:
        if path.read_bytes() != before:
            raise Unusable("Somebody else changed the file just now.", "Try again.", CONFLICT)
        file.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


if __name__ == "__main__":
    sys.exit(main())
