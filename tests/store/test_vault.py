"""Secrets at rest: bound to their row, rotated, and gone with their key."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from app.core.states import State
from app.store import audit, beacons, lease_views, sweep, vault
from app.store.db import Database
from app.store.vault import Vault, VaultError, reseal
from tests.store.nouns import NOW, a_lease, led_to
from tests.store.test_leases import together

WORD = b"the word that must not leak"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "vault.keys"


def test_what_was_sealed_opens_with_its_own_context_only(key_file: Path) -> None:
    safe = Vault(key_file)
    sealed = safe.seal(WORD, "credential:1")
    assert safe.open(sealed, "credential:1") == WORD
    assert WORD not in sealed
    assert safe.seal(WORD, "credential:1") != sealed
    with pytest.raises(VaultError, match="credential:2"):
        safe.open(sealed, "credential:2")


def test_the_key_file_is_made_once_and_for_its_owner_only(key_file: Path) -> None:
    sealed = Vault(key_file).seal(WORD, "x")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert Vault(key_file).open(sealed, "x") == WORD
    assert [path.name for path in key_file.parent.iterdir()] == ["vault.keys"], "no half-written file stays behind"
    key = key_file.read_text().strip().partition(":")[2]
    assert key not in repr(Vault(key_file)) + str(vars(Vault(key_file)).get("_file"))


def test_services_that_start_at_once_agree_on_one_key(key_file: Path) -> None:
    vaults = together(6, lambda _: Vault(key_file))
    assert len({safe.newest for safe in vaults if isinstance(safe, Vault)}) == 1


def test_after_a_rotation_old_secrets_open_and_new_ones_use_the_new_key(key_file: Path) -> None:
    here, there = Vault(key_file), Vault(key_file)
    old = here.seal(WORD, "x")
    first, second = here.newest, here.rotate()
    assert (here.newest, here.newest != first) == (second, True)
    new = here.seal(WORD, "x")
    assert [here.open(sealed, "x") for sealed in (old, new)] == [WORD, WORD]
    assert [here.is_newest(sealed) for sealed in (old, new)] == [False, True]
    assert there.open(new, "x") == WORD, "a service that runs on reads the file again"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


@given(place=st.integers(0, 80), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, place: int, flip: int) -> None:
    safe = Vault(tmp_path_factory.getbasetemp() / "flip.keys")
    sealed = bytearray(safe.seal(WORD, "x"))
    sealed[place % len(sealed)] ^= flip
    with pytest.raises(VaultError):
        safe.open(bytes(sealed), "x")


@given(junk=st.binary(max_size=120))
def test_junk_does_not_open(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    safe = Vault(tmp_path_factory.getbasetemp() / "junk.keys")
    for sealed in (junk, vault.MARK + junk, vault.MARK + b"\x08" + junk):
        with pytest.raises(VaultError):
            safe.open(sealed, "x")


@pytest.mark.parametrize("text", ["", "abc", "a:AAAA", "a:not base64!", ":" + "A" * 43 + "=", "ü:x"])
def test_a_file_that_is_no_key_file_is_refused(key_file: Path, text: str) -> None:
    key_file.parent.mkdir()
    key_file.write_text(text)
    with pytest.raises(VaultError):
        Vault(key_file)


def test_resealing_moves_every_secret_to_the_newest_key(database: Database, key_file: Path) -> None:
    safe = Vault(key_file)
    one = a_lease(1)
    sealed: dict[str, Any] = {
        "credential": safe.seal(WORD, vault.credential_context(one.id)),
        "join_sealed": safe.seal(WORD, f"join:{one.id}"),
    }
    led_to(database, State.REGISTERING, lease=one, **sealed)
    led_to(database, State.REGISTERING, lease=a_lease(2), credential=b"spoilt")
    beacons.put(database, "gitlab", "s", "l", "1", safe.seal(WORD, vault.beacon_context("gitlab", "s")), NOW)
    first = key_file.read_text()
    safe.rotate()
    assert reseal(database, safe) == vault.Resealed(3, (vault.credential_context(a_lease(2).id),))
    assert reseal(database, safe).moved == 0
    key_file.write_text("".join(line for line in key_file.read_text().splitlines(True) if line not in first))
    alone = Vault(key_file)
    assert alone.open(lease_views.join_sealed(database, one.id), vault.join_context(one.id)) == WORD
    with database.read() as conn:
        credential = conn.scalar(sa.text(f"SELECT credential FROM lease WHERE id = '{one.id}'"))
    assert alone.open(bytes(credential), vault.credential_context(one.id)) == WORD
    lit = beacons.listing(database)[0].credential
    assert lit is not None
    assert alone.open(lit, "beacon:gitlab:s") == WORD


def test_a_new_key_is_audited_and_takes_every_secret_with_it(database: Database, key_file: Path) -> None:
    safe, one = Vault(key_file), a_lease(1)
    led_to(database, State.REGISTERING, lease=one, join_sealed=safe.seal(WORD, vault.join_context(one.id)))
    first = safe.newest
    key, done = vault.change_key(database, safe, "ada", NOW)
    assert (key, done) == (safe.newest, vault.Resealed(1)) and key != first
    sealed = lease_views.join_sealed(database, one.id)
    assert safe.is_newest(sealed) and safe.open(sealed, vault.join_context(one.id)) == WORD
    (entry,) = audit.listing(database, f"key:{key}")
    assert (entry.actor, entry.action, entry.text) == ("ada", "keys.rotated", "sealed again: 1")


def test_of_rotations_at_once_by_several_services_none_loses_a_key(database: Database, key_file: Path) -> None:
    safe, one = Vault(key_file), a_lease(1)
    led_to(database, State.REGISTERING, lease=one, join_sealed=safe.seal(WORD, vault.join_context(one.id)))
    others = [Vault(key_file) for _ in range(4)]
    together(4, lambda number: vault.change_key(database, others[number], "ada", NOW))
    assert len(key_file.read_text().splitlines()) == 5
    assert Vault(key_file).open(lease_views.join_sealed(database, one.id), vault.join_context(one.id)) == WORD


def test_the_first_process_marks_the_database_as_its_keys_and_others_must_have_the_same(
    database: Database, key_file: Path, tmp_path: Path
) -> None:
    ours, others = Vault(key_file), Vault(tmp_path / "other.keys")
    sweep.installation(database, NOW)
    vault.check_keys(database, ours)
    vault.check_keys(database, ours)
    with pytest.raises(VaultError):
        vault.check_keys(database, others)
    vault.change_key(database, ours, "ada", NOW)
    newest = key_file.read_text().splitlines()[0]
    key_file.write_text(newest + "\n")
    vault.check_keys(database, Vault(key_file))  # the mark moved to the new key with everything else
    vault.check_keys(database, others, anew=True)
    with pytest.raises(VaultError):
        vault.check_keys(database, Vault(key_file))


def test_a_database_older_than_the_mark_shows_by_its_secrets_whose_it_is(
    database: Database, key_file: Path, tmp_path: Path
) -> None:
    ours, one = Vault(key_file), a_lease(1)
    sweep.installation(database, NOW)
    led_to(database, State.REGISTERING, lease=one, join_sealed=ours.seal(WORD, vault.join_context(one.id)))
    with pytest.raises(VaultError, match="none of 1"):
        vault.check_keys(database, Vault(tmp_path / "other.keys"))
    vault.check_keys(database, ours)
