"""People, tokens and keys on the command line: what is sent, what is printed where, and what is asked first."""

from __future__ import annotations

import json

import pytest

from app.web.people_api import NewTokenReply, PeopleReply, PersonReply, PersonView, RotatedReply, TokenReply, TokensReply
from app.web.schema import LoginLinkReply
from tests.cli.conftest import Run, Service
from tests.cli.samples import BEGAN, Json, written

HASH = "c0ffee00" * 8
TOKEN = "sbl_of-a-test"


def a_token(kind: type[TokenReply] = TokenReply, **changed: object) -> Json:
    """A token as the API shows it."""
    values: Json = {
        "schema_version": 1, "hash": HASH, "person": "ada", "label": "laptop", "state": "live", "created_at": BEGAN,
        "expires_at": BEGAN.replace(month=5, day=30), "used_at": None, "revoked_at": None,
    }  # fmt: skip
    return written(kind, values | changed)


@pytest.fixture
def people(service: Service) -> Json:
    reply = written(PeopleReply, {"schema_version": 1, "people": [PersonView(name="ada", role="operator")]})
    service.says("GET people", reply)
    return reply


def test_people_are_listed_with_what_they_may_do(sublet: Run, people: Json) -> None:
    assert [line.split() for line in sublet("people", "list").out.splitlines()] == [["NAME", "ROLE"], ["ada", "operator"]]
    assert sublet("people", "list", "--json").json == people
    assert sublet("people", "list", "-o", "csv").out.splitlines() == ["name,role", "ada,operator"]


def test_a_role_is_set(sublet: Run, service: Service) -> None:
    service.says("POST people", written(PersonReply, {"schema_version": 1, "name": "ada", "role": "operator"}))
    assert sublet("people", "set", "ada", "--role", "operator").out == "ada is operator.\n"
    assert service.asked == [("POST people", {"name": "ada", "role": "operator"})]
    assert sublet("people", "set", "ada", "--role", "operator", "--json").json["role"] == "operator"
    assert sublet("people", "set", "ada", "--role", "emperor").code == 2
    assert sublet("people", "set", "ada").code == 2


def test_the_last_admin_is_refused_with_5(sublet: Run, service: Service) -> None:
    service.refuses("POST people", 409, "conflict", 5)
    assert sublet("people", "set", "ada", "--role", "viewer").code == 5


def test_a_link_for_somebody_stands_alone_on_standard_output(sublet: Run, service: Service) -> None:
    link = f"{service.url}/login?once=abc"
    reply = written(LoginLinkReply, {"schema_version": 1, "url": link, "expires_at": BEGAN})
    service.says("POST people/ada%40acme.example/login-links", reply)
    told = sublet("people", "link", "ada@acme.example")
    assert told.out == f"{link}\n" and "until 12:00:00 UTC" in told.err
    assert sublet("people", "link", "ada@acme.example", "--json").json == reply


def test_tokens_are_listed_by_the_beginning_of_their_hash(sublet: Run, service: Service) -> None:
    kept = a_token()
    del kept["schema_version"]
    reply = written(TokensReply, {"schema_version": 1, "tokens": [], "more": True, "before": BEGAN}) | {"tokens": [kept]}
    service.says("GET tokens", reply)
    told = sublet("token", "list", "--limit", "1")
    assert told.out.splitlines()[1].split() == ["c0ffee00c0ff", "ada", "laptop", "live", "2026-03-01", "-", "2026-05-30"]
    assert "sublet token list --limit 4" in told.err
    assert sublet("token", "list", "--all", "-o", "ndjson").json == kept
    assert [words for _, words in service.asked] == [{"which": "live", "limit": "1"}, {"which": "all", "limit": "50"}]


def test_a_new_token_stands_alone_on_standard_output(sublet: Run, service: Service) -> None:
    reply = a_token(NewTokenReply, token=TOKEN)
    service.says("POST tokens", reply)
    told = sublet("token", "create", "--label", "laptop", "--person", "ada", "--days", "30")
    assert told.out == f"{TOKEN}\n"
    assert "ada until 2026-05-30" in told.err and "SUBLET_TOKEN" in told.err and TOKEN not in told.err
    assert sublet("token", "create", "--json").json == reply
    assert [words for _, words in service.asked] == [
        {"label": "laptop", "days": 30, "person": "ada"}, {"label": "made on the command line", "days": 90},
    ]  # fmt: skip
    assert sublet("token", "create", "--days", "366").code == 2
    assert sublet("token", "create", "-o", "csv").code == 2 and len(service.asked) == 2


def test_a_token_is_revoked_by_its_hash(sublet: Run, service: Service) -> None:
    service.says("DELETE tokens/c0ffee00", a_token(state="revoked", revoked_at=BEGAN))
    assert sublet("token", "revoke", "c0ffee00").out == 'Revoked c0ffee00c0ff, ada\'s token "laptop".\n'
    assert sublet("token", "revoke", "c0ffee00", "--json").json["state"] == "revoked"
    assert sublet("token", "revoke", "deadbeef").code == 3


def test_a_new_key_needs_a_yes(sublet: Run, service: Service) -> None:
    done: Json = {"schema_version": 1, "key": "0a1b2c3d", "resealed": 1, "failed": ["credential:\x1b[2J"]}
    service.says("POST keys/rotate", written(RotatedReply, done))
    told = sublet("keys", "rotate")
    assert told.code == 2 and "--yes" in told.err and service.asked == []
    told = sublet("keys", "rotate", "--yes")
    assert told.out == "The key 0a1b2c3d seals from now on; 1 secret sealed again.\n"
    assert "credential:" in told.err and "\x1b" not in told.err
    assert sublet("keys", "rotate", "--yes", "--json").json == done


def test_what_others_wrote_cannot_steer_the_terminal(sublet: Run, service: Service) -> None:
    service.says("DELETE tokens/c0ffee00", a_token(label="\x1b]0;owned\x07", state="revoked"))
    out = sublet("token", "revoke", "c0ffee00").out
    assert "\x1b" not in out and "\x07" not in out


def test_help_names_them(sublet: Run) -> None:
    told = sublet("--help").out
    for name in ("people", "token", "keys"):
        assert f"\n  {name} " in told
    assert json.loads(sublet("people", "list", "--server", "http://127.0.0.1:1", "--json").out)["error"]["exit"] == 10
