"""People, and what they log in with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from app.store import audit, people
from app.store.db import Database
from app.store.people import Person, Role
from tests.store.nouns import NOW, SECOND
from tests.store.test_leases import together

HOUR = timedelta(hours=1)


def test_a_person_is_made_once_and_their_role_is_what_was_said_last(database: Database) -> None:
    assert people.ensure_person(database, "ada", "viewer", NOW) == Person("ada", Role.VIEWER)
    assert people.ensure_person(database, "ada", Role.ADMIN, NOW) == Person("ada", Role.ADMIN)
    assert people.ensure_person(database, "ada", Role.ADMIN, NOW) == people.get(database, "ada")
    assert people.listing(database) == [Person("ada", Role.ADMIN)]
    assert [entry.action for entry in audit.listing(database, "person:ada")] == ["person.role", "person.created"]
    assert people.get(database, "bob") is None
    with pytest.raises(ValueError, match="emperor"):
        people.ensure_person(database, "bob", "emperor", NOW)


def test_the_last_admin_keeps_the_role(database: Database) -> None:
    people.ensure_person(database, "ada", Role.ADMIN, NOW)
    with pytest.raises(people.LastAdmin, match="ada"):
        people.ensure_person(database, "ada", Role.OPERATOR, NOW)
    people.ensure_person(database, "bob", Role.ADMIN, NOW, actor="ada")
    people.ensure_person(database, "ada", Role.OPERATOR, NOW, actor="bob")
    told = [(entry.actor, entry.text, entry.detail) for entry in audit.listing(database, limit=2)]
    assert told == [("bob", "operator", {"was": "admin"}), ("ada", "admin", None)]


def test_of_admins_who_demote_each_other_at_once_one_is_left(database: Database) -> None:
    for number in range(6):
        people.ensure_person(database, f"p{number}", Role.ADMIN, NOW)

    def demote(number: int) -> bool:
        try:
            people.ensure_person(database, f"p{number}", Role.VIEWER, NOW, actor=f"p{(number + 1) % 6}")
        except people.LastAdmin:
            return False
        return True

    assert sorted(map(bool, together(6, demote))) == [False, True, True, True, True, True]
    assert [person.role for person in people.listing(database)].count(Role.ADMIN) == 1


def test_a_login_link_works_once_and_in_time(database: Database) -> None:
    people.ensure_person(database, "ada", Role.ADMIN, NOW)
    people.add_link(database, "link", "ada", NOW)
    people.add_link(database, "late", "ada", NOW)
    session = people.redeem_link(database, "link", "session", "csrf", NOW + SECOND)
    assert session is not None
    assert (session.person.name, session.csrf) == ("ada", "csrf")
    assert people.redeem_link(database, "link", "second", "csrf", NOW + SECOND) is None
    assert people.redeem_link(database, "late", "third", "csrf", NOW + people.LINK_LIFETIME) is None
    assert people.redeem_link(database, "none", "fourth", "csrf", NOW) is None
    assert people.session(database, "second", NOW) is None


def test_of_eight_that_race_for_one_link_one_is_logged_in(database: Database) -> None:
    people.ensure_person(database, "ada", Role.ADMIN, NOW)
    people.add_link(database, "link", "ada", NOW)
    answers = together(8, lambda number: people.redeem_link(database, "link", f"session-{number}", "csrf", NOW))
    assert sum(answer is not None for answer in answers) == 1


def test_a_session_ends_by_the_clock_or_by_logging_out(database: Database) -> None:
    people.ensure_person(database, "ada", Role.OPERATOR, NOW)
    for name in ("one", "two"):
        people.add_link(database, name, "ada", NOW)
        people.redeem_link(database, name, name, "csrf", NOW)
    found = people.session(database, "one", NOW + people.SESSION_LIFETIME - SECOND)
    assert found is not None
    assert found.person == Person("ada", Role.OPERATOR)
    assert people.session(database, "one", NOW + people.SESSION_LIFETIME) is None
    people.close_session(database, "two")
    people.close_session(database, "two")
    assert people.session(database, "two", NOW) is None


def test_a_token_speaks_for_its_person_until_it_expires_or_is_revoked(database: Database) -> None:
    ada = people.ensure_person(database, "ada", Role.OPERATOR, NOW)
    people.add_token(database, "ci", "ada", "CI", NOW, NOW + HOUR)
    people.add_token(database, "own", "ada", "laptop", NOW)
    assert people.token_person(database, "ci", NOW + HOUR - SECOND) == ada
    assert people.token_person(database, "ci", NOW + HOUR) is None
    assert people.token_person(database, "none", NOW) is None
    assert people.token_person(database, "own", NOW + HOUR) == ada
    assert people.revoke_token(database, "own", NOW + HOUR, "root")
    assert not people.revoke_token(database, "own", NOW + HOUR, "root")
    assert people.token_person(database, "own", NOW + HOUR) is None
    assert {token.label: token.used_at for token in people.tokens(database, "ada")} == {
        "CI": NOW + HOUR - SECOND,
        "laptop": NOW + HOUR,
    }
    assert [entry.action for entry in audit.listing(database, "person:ada", limit=2)] == ["token.revoked", "token.created"]
    assert people.tokens(database, "bob") == []


def test_tokens_are_found_by_person_life_and_the_beginning_of_their_hash(database: Database) -> None:
    for name in ("ada", "bob"):
        people.ensure_person(database, name, Role.OPERATOR, NOW)
    people.add_token(database, "aa11", "ada", "old", NOW, NOW + HOUR)
    people.add_token(database, "aa22", "bob", "bobs", NOW + SECOND)
    people.add_token(database, "bb33", "ada", "gone", NOW + 2 * SECOND, actor="bob")
    people.revoke_token(database, "bb33", NOW, "bob")

    def found(*name: str, **which: Any) -> list[str]:
        return [token.hash for token in people.tokens(database, *name, **which)]

    assert found() == ["bb33", "aa22", "aa11"]
    assert found(alive_at=NOW) == ["aa22", "aa11"] and found(alive_at=NOW + HOUR) == ["aa22"]
    assert found("ada", starts="aa") == ["aa11"] and found(starts="a%") == [] and found(starts="aa") == ["aa22", "aa11"]
    assert found(limit=1) == ["bb33"] and found(before=NOW + SECOND, limit=5) == ["aa11"]
    assert audit.listing(database, limit=1)[0].detail == {"token": "bb33"}


def test_a_tokens_last_use_is_written_at_most_once_a_minute(database: Database) -> None:
    people.ensure_person(database, "ada", Role.OPERATOR, NOW)
    people.add_token(database, "t", "ada", "x", NOW)
    for seconds in (0, 59, 60, 61):
        people.token_person(database, "t", NOW + seconds * SECOND)
    assert people.tokens(database)[0].used_at == NOW + 60 * SECOND


def test_the_tokens_of_one_label_end_together(database: Database) -> None:
    people.ensure_person(database, "ada", Role.OPERATOR, NOW)
    for name in ("a", "b"):
        people.add_token(database, name, "ada", "cli", NOW)
    people.add_token(database, "c", "ada", "other", NOW)
    assert people.revoke_labelled(database, "ada", "cli", NOW) == 2
    assert [people.token_person(database, name, NOW) is None for name in "abc"] == [True, True, False]


def test_nobody_has_a_link_or_a_token_who_is_not_known(database: Database) -> None:
    with pytest.raises(IntegrityError):
        people.add_link(database, "link", "nobody", NOW)
    with pytest.raises(IntegrityError):
        people.add_token(database, "token", "nobody", "x", NOW)
