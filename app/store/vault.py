"""Secrets at rest: AES-256-GCM under a key from a file, bound to the row they belong to; keys rotate, old ones still open."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.store import audit
from app.store.db import Database
from app.store.tables import beacon, installation, lease

MARK = b"SV1"  # the form of a sealed secret: mark, length of the key's id, the key's id, nonce, ciphertext with its tag
NONCE = 12  # bytes; random, so one key is good for 2**32 secrets (NIST SP 800-38D, 8.3)
KEY = 32  # bytes
CHECK = "installation:key_check"
ROTATE_LOCK = 7_283_003  # PostgreSQL advisory lock: of two rotations at once neither loses the other's key


class VaultError(Exception):
    """A secret could not be sealed or opened."""


def join_context(lease_id: str) -> str:
    return f"join:{lease_id}"


def credential_context(lease_id: str) -> str:
    return f"credential:{lease_id}"


def beacon_context(forge: str, scope: str) -> str:
    return f"beacon:{forge}:{scope}"


class Vault:
    """Seals with the newest key and opens with any. Safe to share between threads.

    The file holds one key a line, `kid:base64`, the newest first, mode 0600; it is made with one key if it is not there.
    Take a key's line out once `reseal` has moved everything off it."""

    def __init__(self, key_file: Path) -> None:
        """Raises VaultError if the file cannot be read as keys."""
        self._file = key_file
        self._lock = threading.Lock()
        if not key_file.exists():
            key_file.parent.mkdir(parents=True, exist_ok=True)
            self._write([_fresh()], only_new=True)
        self._keys = self._read()

    def __repr__(self) -> str:
        return f"Vault({str(self._file)!r})"

    @property
    def keys(self) -> frozenset[str]:
        """The ids of the keys that open."""
        return frozenset(self._keys)

    @property
    def newest(self) -> str:
        """The id of the key that seals."""
        return next(iter(self._keys))

    def seal(self, plain: bytes, context: str) -> bytes:
        """Ciphertext that opens only with the same context, for example "credential:LEASE"."""
        kid, key = next(iter(self._keys.items()))
        header = MARK + bytes([len(kid)]) + kid.encode()
        nonce = secrets.token_bytes(NONCE)
        return header + nonce + AESGCM(key).encrypt(nonce, plain, header + context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """The secret. Raises VaultError: not of this vault, of another context, or changed."""
        header, kid = _header(sealed)
        key = self._keys.get(kid)
        if key is None:  # another process may have rotated since
            self._keys = self._read()
            key = self._keys.get(kid)
        if key is None:
            raise VaultError(f"the key {kid} is not in {self._file}")
        rest = sealed[len(header) :]
        try:
            return AESGCM(key).decrypt(rest[:NONCE], rest[NONCE:], header + context.encode())
        except (InvalidTag, ValueError):
            raise VaultError(f"a secret does not open as {context}: it is another row's, or was changed") from None

    def is_newest(self, sealed: bytes) -> bool:
        """Whether it was sealed with the newest key. Raises VaultError if it was not sealed by any vault."""
        return key_of(sealed) == self.newest

    def rotate(self) -> str:
        """Add a key, which seals from now on; returns its id. Then call `reseal`."""
        with self._lock:
            fresh = _fresh()
            self._write([fresh, *self._read().items()])
            self._keys = self._read()
            return fresh[0]

    def _read(self) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        try:
            for line in self._file.read_text("ascii").split():
                kid, _, encoded = line.partition(":")
                keys[kid] = base64.b64decode(encoded, validate=True)
        except (OSError, UnicodeDecodeError, binascii.Error) as error:
            raise VaultError(f"{self._file} cannot be read as keys: {type(error).__name__}") from None
        if not keys or any(len(key) != KEY or not 0 < len(kid) < 256 for kid, key in keys.items()):
            raise VaultError(f"{self._file} must hold lines of kid:base64, each key {KEY} bytes long")
        return keys

    def _write(self, keys: list[tuple[str, bytes]], *, only_new: bool = False) -> None:
        """Whole or not at all, 0600 from the first byte. `only_new`: a file that another process just made is left alone."""
        fresh = self._file.with_name(f".{self._file.name}.{secrets.token_hex(6)}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.writelines(f"{kid}:{base64.b64encode(key).decode()}\n" for kid, key in keys)
                file.flush()
                os.fsync(file.fileno())
            if only_new:
                with contextlib.suppress(FileExistsError):
                    self._file.hardlink_to(fresh)
            else:
                fresh.replace(self._file)
        finally:
            fresh.unlink(missing_ok=True)
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name too outlives a power cut: what it seals does
        finally:
            os.close(folder)


def _fresh() -> tuple[str, bytes]:
    return secrets.token_hex(4), AESGCM.generate_key(bit_length=KEY * 8)


def key_of(sealed: bytes) -> str:
    """The id of the key that it was sealed with. Raises VaultError if it was not sealed by any vault."""
    return _header(sealed)[1]


def _header(sealed: bytes) -> tuple[bytes, str]:
    length = sealed[len(MARK)] if len(sealed) > len(MARK) and sealed.startswith(MARK) else 0
    header = sealed[: len(MARK) + 1 + length]
    if not length or len(sealed) < len(header) + NONCE + 16 or not header[len(MARK) + 1 :].isascii():
        raise VaultError("these bytes were not sealed by a vault")
    return header, header[len(MARK) + 1 :].decode("ascii")


def check_keys(db: Database, vault: Vault, *, anew: bool = False) -> None:
    """Whether these keys are those of the database, told by a mark that the first process seals and all others open.

    `anew`: seal it anew, whatever stands there; what only the old keys open is lost. The row of the installation is there.
    Raises VaultError: the key file is another one's."""
    with db.write() as conn:
        mark = conn.execute(sa.select(installation.c.key_check).with_for_update()).scalar_one()
        if mark is not None and not anew:
            vault.open(bytes(mark), CHECK)
            return
        if not anew:  # a database that is older than the mark shows by its secrets whose it is
            found = [(bytes(getattr(row, column.key)), context(row)) for _, column, context, row in _sealed_rows(conn)]
            if found and not any(_opens(vault, *one) for one in found):
                raise VaultError(f"none of {len(found)} secrets in the database opens")
        conn.execute(sa.update(installation).values(key_check=vault.seal(b"the keys of this database", CHECK)))


def _opens(vault: Vault, sealed: bytes, context: str) -> bool:
    try:
        vault.open(sealed, context)
    except VaultError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Resealed:
    moved: int
    failed: tuple[str, ...] = ()  # contexts of those that no key here opens; they are left as they are


def reseal(db: Database, vault: Vault) -> Resealed:
    """Seal every secret in the database again with the newest key. Repeatable; one that does not open stops no other."""
    with db.write() as conn:
        return _resealed(conn, vault)


def change_key(db: Database, vault: Vault, actor: str, now: datetime) -> tuple[str, Resealed]:
    """Add a key, whose id is returned, and seal every secret with it; audited.

    The key is written before the first secret needs it: if the rest fails, what is in the database still opens.
    Raises VaultError or OSError if the key file cannot be changed; then nothing is."""
    with db.write() as conn:
        if db.postgresql:
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(ROTATE_LOCK)))
        key = vault.rotate()
        done = _resealed(conn, vault)
        text = f"sealed again: {done.moved}" + (f"; do not open: {len(done.failed)}" if done.failed else "")
        audit.write(conn, at=now, actor=actor, action="keys.rotated", object=f"key:{key}", text=text)
    return key, done


def _resealed(conn: sa.Connection, vault: Vault) -> Resealed:
    moved = 0
    failed: list[str] = []
    for table, column, context, row in _sealed_rows(conn):
        sealed, own = bytes(getattr(row, column.key)), context(row)
        try:
            if vault.is_newest(sealed):
                continue
            again = vault.seal(vault.open(sealed, own), own)
        except VaultError:
            failed.append(own)
            continue
        same = [part == getattr(row, part.key) for part in table.primary_key]
        conn.execute(sa.update(table).where(*same).values({column.key: again}))
        moved += table is not installation  # the mark is no secret that anybody counts
    return Resealed(moved, tuple(failed))


def _sealed_rows(conn: sa.Connection) -> Iterator[tuple[sa.Table, sa.Column[Any], Callable[[Any], str], sa.Row[Any]]]:
    """Every row that holds a sealed secret, held against changes."""
    for table, column, context in _sealed_columns():
        for row in conn.execute(sa.select(table).where(column.is_not(None)).with_for_update()).all():
            yield table, column, context, row


def _sealed_columns() -> list[tuple[sa.Table, sa.Column[Any], Callable[[Any], str]]]:
    """Every column that holds a sealed secret, and what it was sealed as."""
    return [
        (lease, lease.c.join_sealed, lambda row: join_context(row.id)),
        (lease, lease.c.credential, lambda row: credential_context(row.id)),
        (beacon, beacon.c.credential, lambda row: beacon_context(row.forge, row.scope)),
        (installation, installation.c.key_check, lambda _: CHECK),
    ]
