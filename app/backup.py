"""Backup and restore: copies of the database and of the key file, for `sublet backup` and `sublet restore`.

It works on the files and not over HTTP, because a restore is done while no service runs. Prints one JSON object."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.kit.alone import alone
from app.kit.clock import SystemClock
from app.kit.one_line import refusal, say
from app.settings import SecretError, SettingsError, load
from app.store import copies
from app.store.copies import Contents, CopyRefused
from app.store.vault import Vault, VaultError

KEYS = "vault.keys"
BESIDE = ("", "-wal", "-shm")
"""What an SQLite database is made of: a log that is left beside another database would be written into it."""
FAILED, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 if it was not done, 2 if the settings cannot be used or keep their rows in PostgreSQL."""
    parser = argparse.ArgumentParser(prog="python -m app.backup")
    parser.add_argument("what", choices=("backup", "restore"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args(arguments)
    try:
        settings = load(given.config, {} if given.data is None else {"data": given.data.absolute()}).settings
        data = Path(settings.data)
        url = settings.database.address() or f"sqlite:///{data.absolute() / 'sublet.db'}"
        database = copies.place(url)
        if database is None:
            return say(_postgresql(given.what, url, given.file, data), USAGE)
        if given.what == "backup":
            return say(backup(database, data / KEYS, given.file, given.keys))
        return say(restore(database, data, given.file, given.keys, replace=given.replace))
    except CopyRefused as error:
        return say(refusal(str(error)), FAILED)
    except BlockingIOError:
        return say(refusal("A Sublet works on this data folder.", "Stop it, restore, and start it again."), FAILED)
    except (SettingsError, SecretError, FileNotFoundError) as error:
        return say(refusal(f"The settings cannot be used: {error}", "See `sublet config check`."), USAGE)
    except (OSError, VaultError) as error:
        return say(refusal(f"It was not done: {error}"), FAILED)


def backup(database: Path, key_file: Path, target: Path, keys: Path | None) -> dict[str, Any]:
    """Copy the database and, where `keys` says so, the key file. Raises CopyRefused; a copy that was made stays."""
    if keys is not None and keys.absolute().parent.resolve() == target.absolute().parent.resolve():
        raise CopyRefused("The keys belong in another folder than the copy: whoever has both can read the secrets in it.")
    if keys is not None and keys.exists():
        raise CopyRefused(f"{keys} is there already, and nothing is ever written over.")
    copies.copy(database, target)
    if keys is not None:  # after the database, so that a key that was just added to the file is in the copy too
        with copies.fresh(keys) as unfinished:
            unfinished.write_bytes(key_file.read_bytes())
    return _told(copies.inspect(target), file=target, bytes=target.stat().st_size, keys=keys, key_file=key_file.absolute())


def restore(database: Path, data: Path, source: Path, keys: Path | None, *, replace: bool) -> dict[str, Any]:
    """Put a copy in the database's place. What was there is moved aside, and only if `replace` allows it.

    Raises CopyRefused, and BlockingIOError while a service runs."""
    found = copies.inspect(source)
    there = [path for path in (database.with_name(database.name + end) for end in BESIDE) if path.exists()]
    if there and not replace:
        raise CopyRefused(f"{there[0]} is there already. Say --replace to move it aside; it is not deleted.")
    if keys is not None and not keys.is_file():
        raise CopyRefused(f"There is no file {keys}.")
    key_file, replaced = data / KEYS, f"{database.name}.replaced-{SystemClock().now():%Y%m%d-%H%M%S}"
    with alone(data):
        if keys is not None and not _same(Vault(keys).keys, key_file):
            with copies.fresh(key_file) as unfinished:
                unfinished.write_bytes(keys.read_bytes())
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with copies.fresh(database) as unfinished:
            copies.fill(source, unfinished)
            for path in there:
                path.rename(path.with_name(replaced + path.name.removeprefix(database.name)))
    known = Vault(key_file).keys if key_file.exists() else frozenset[str]()
    missing = sorted(found.keys - known)
    aside = database.absolute().with_name(replaced) if there else None
    return _told(found, file=source, database=database.absolute(), replaced=aside, missing_keys=missing)


def _same(keys: frozenset[str], key_file: Path) -> bool:
    """Whether the key file that is there has these keys already; one that lacks some is refused by `fresh`."""
    return key_file.exists() and keys <= Vault(key_file).keys


def _told(found: Contents, **more: Any) -> dict[str, Any]:
    newest = None if found.newest is None else found.newest.isoformat().replace("+00:00", "Z")
    numbers = {"revision": found.revision, "newest_at": newest, "live_leases": found.live, "open_jobs": found.jobs}
    return {"schema_version": 1, **{key: str(one) if isinstance(one, Path) else one for key, one in more.items()}, **numbers}


def _postgresql(what: str, url: str, file: Path, data: Path) -> dict[str, Any]:
    """PostgreSQL's own tools know best: what to run, word for word."""
    where = copies.without_password(url)
    run = {
        "backup": f"pg_dump --format=custom --no-owner --no-privileges --dbname='{where}' --file='{file}'",
        "restore": f"pg_restore --no-owner --no-privileges --single-transaction --dbname='{where}' '{file}'",
    }[what]
    also = {
        "backup": f"Keep {data.absolute() / KEYS} too, apart from the dump.",
        "restore": "Stop every Sublet first, and restore into an empty database (`createdb`).",
    }[what]
    return refusal("The rows are in PostgreSQL, which has its own tools for this.", f"{run}\n{also}")


if __name__ == "__main__":
    sys.exit(main())
