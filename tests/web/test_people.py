"""Admins and the rest: roles, links for others, API tokens, and a new key under every sealed secret."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.states import State
from app.store import audit, beacons, lease_views, people, vault
from app.store.people import Role
from app.store.vault import Vault
from app.web.auth import hashed
from tests.store.nouns import a_lease, led_to
from tests.web.conftest import URL, Service

API = "/api/v1"
SECRET = b"the word that must not leak"
Call = tuple[str, str, dict[str, Any] | None]
ADMINS: dict[str, Call] = {
    "people": ("GET", "people", None),
    "a role": ("POST", "people", {"name": "ada", "role": "viewer"}),
    "a link for somebody": ("POST", "people/viewer/login-links", {}),
    "a token for somebody": ("POST", "tokens", {"label": "x", "person": "bob"}),
    "a new key": ("POST", "keys/rotate", {}),
}
EVERYBODYS: dict[str, Call] = {
    "tokens": ("GET", "tokens", None),
    "a token": ("POST", "tokens", {"label": "x"}),
}


def said(service: Service, object: str) -> list[tuple[str, str, str]]:
    """Actor, action and text of what is audited of an object, the newest first."""
    return [(row.actor, row.action, row.text) for row in audit.listing(service.db, object)]


async def asked(service: Service, role: Role | None, call: Call) -> int:
    async with service.client(role) as client:
        return (await client.request(call[0], f"{API}/{call[1]}", json=call[2])).status_code


@pytest.mark.parametrize("what", ADMINS)
async def test_only_an_admin_may_do_what_concerns_others(service: Service, what: str) -> None:
    people.ensure_person(service.db, "bob", Role.VIEWER, service.clock.now())
    codes = [await asked(service, role, ADMINS[what]) for role in (None, Role.VIEWER, Role.OPERATOR, Role.ADMIN)]
    assert codes == [401, 403, 403, 200]


@pytest.mark.parametrize("what", EVERYBODYS)
async def test_everybody_has_tokens_of_their_own(service: Service, what: str) -> None:
    codes = [await asked(service, role, EVERYBODYS[what]) for role in (None, Role.VIEWER, Role.OPERATOR, Role.ADMIN)]
    assert codes == [401, 200, 200, 200]


async def test_a_browser_needs_the_forms_token_for_each_of_these(service: Service) -> None:
    cookie, csrf = service.session()
    async with service.client() as client:
        client.cookies.set("sublet", cookie)
        for method, path, body in [*ADMINS.values(), *EVERYBODYS.values(), ("DELETE", "tokens/00000000", None)]:
            if method != "GET":
                assert (await client.request(method, f"{API}/{path}", json=body)).status_code == 403, path
        reply = await client.post(f"{API}/people", json=ADMINS["a role"][2], headers={"x-csrf-token": csrf})
    assert reply.status_code == 200


# --- people


async def test_a_person_is_made_and_changed_and_it_is_written_down_who_did_it(service: Service) -> None:
    async with service.client(Role.ADMIN) as client:
        made = await client.post(f"{API}/people", json={"name": "ada@acme.example", "role": "viewer"})
        await client.post(f"{API}/people", json={"name": "ada@acme.example", "role": "operator"})
        listed = (await client.get(f"{API}/people")).json()
    assert made.json() == {"schema_version": 1, "name": "ada@acme.example", "role": "viewer"}
    assert listed["schema_version"] == 1
    assert {person["name"]: person["role"] for person in listed["people"]} == {
        "ada@acme.example": "operator", "admin": "admin", "operator": "operator", "viewer": "viewer",
    }  # fmt: skip
    assert said(service, "person:ada@acme.example") == [
        ("admin", "person.role", "operator"), ("admin", "person.created", "viewer"),
    ]  # fmt: skip
    assert audit.listing(service.db, "person:ada@acme.example")[0].detail == {"was": "viewer"}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ü", "a\n", ".", "..", "a" * 121, "engine", "Service"])
async def test_a_name_is_plain_and_nobody_is_named_like_a_part_of_the_service(service: Service, name: str) -> None:
    async with service.client(Role.ADMIN) as client:
        reply = await client.post(f"{API}/people", json={"name": name, "role": "viewer"})
        odd = await client.post(f"{API}/people", json={"name": "ada", "role": "emperor"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["exit"]) == (422, "usage", 2) and error["message"].startswith("name: ")
    assert odd.status_code == 422 and len(people.listing(service.db)) == 3


async def test_a_role_counts_at_once_for_sessions_and_tokens_too(service: Service) -> None:
    cookie, _ = service.session(Role.OPERATOR)
    async with service.client(Role.ADMIN) as admin, service.client(Role.OPERATOR) as program, service.client() as browser:
        browser.cookies.set("sublet", cookie)
        for role in ("admin", "viewer"):
            await admin.post(f"{API}/people", json={"name": "operator", "role": role})
            for client in (program, browser):
                assert (await client.get(f"{API}/whoami")).json()["role"] == role
                assert (await client.get(f"{API}/people")).status_code == (200 if role == "admin" else 403)


async def test_the_last_admin_stays_one(service: Service) -> None:
    people.ensure_person(service.db, "ada", Role.ADMIN, service.clock.now())
    people.ensure_person(
        service.db, "admin", Role.VIEWER, service.clock.now()
    )  # as if the service's own account were not there
    async with service.client() as client:
        client.headers["authorization"] = f"Bearer {_token(service, 'ada')}"
        reply = await client.post(f"{API}/people", json={"name": "ada", "role": "viewer"})
        error = reply.json()["error"]
        assert (reply.status_code, error["exit"], error["message"]) == (409, 5, "ada is the only admin.")
        await client.post(f"{API}/people", json={"name": "bob", "role": "admin"})
        assert (await client.post(f"{API}/people", json={"name": "ada", "role": "viewer"})).status_code == 200
        assert (await client.get(f"{API}/people")).status_code == 403


async def test_the_services_own_account_stays_an_admin(service: Service) -> None:
    people.ensure_person(service.db, "ada", Role.ADMIN, service.clock.now())
    async with service.client(Role.ADMIN) as client:
        reply = await client.post(f"{API}/people", json={"name": "admin", "role": "viewer"})
    assert reply.status_code == 409 and "own account" in reply.json()["error"]["message"]
    assert people.get(service.db, "admin") == people.Person("admin", Role.ADMIN)


async def test_a_link_lets_somebody_else_in_once(service: Service) -> None:
    async with service.client(Role.ADMIN) as client:
        reply = (await client.post(f"{API}/people/viewer/login-links", json={})).json()
        nobody = await client.post(f"{API}/people/nobody/login-links", json={})
    assert nobody.status_code == 404 and nobody.json()["error"]["exit"] == 3
    assert reply["schema_version"] == 1 and reply["url"].startswith(f"{URL}/login?once=")
    assert reply["expires_at"] == "2026-11-21T12:31:05Z"
    assert said(service, "person:viewer")[0] == ("admin", "person.link", "")
    async with service.client(accept="text/html") as browser:
        assert (await browser.get(reply["url"])).status_code == 303
        assert (await browser.get(f"{API}/whoami")).json()["person"] == "viewer"
    async with service.client(accept="text/html") as browser:
        assert (await browser.get(reply["url"])).status_code == 403


async def test_a_link_for_oneself_is_written_down_as_ones_own(service: Service) -> None:
    async with service.client(Role.VIEWER) as client:
        await client.post(f"{API}/login-links", json={})
    assert said(service, "person:viewer")[0] == ("viewer", "person.link", "")


# --- tokens


def kept(url: str) -> bytes:
    """All that the database's files hold."""
    return b"".join(path.read_bytes() for path in Path(url.removeprefix("sqlite:///")).parent.glob("sublet.db*"))


def _token(service: Service, name: str) -> str:
    people.add_token(service.db, hashed(f"sbl_{name}"), name, "test", service.clock.now())
    return f"sbl_{name}"


async def test_a_token_is_shown_once_and_only_its_hash_is_kept(service: Service, sqlite_url: str) -> None:
    async with service.client(Role.VIEWER) as client:
        made = (await client.post(f"{API}/tokens", json={"label": "  nightly report  "})).json()
        listed = await client.get(f"{API}/tokens", params={"which": "all"})
    token = made.pop("token")
    assert token.startswith("sbl_") and len(token) == 47 and made["hash"] == hashed(token)
    assert (made["person"], made["label"], made["state"]) == ("viewer", "nightly report", "live")
    assert made["expires_at"] == (service.clock.now() + timedelta(days=90)).isoformat().replace("+00:00", "Z")
    assert made.pop("schema_version") == 1 and made in listed.json()["tokens"] and token not in listed.text
    assert token.encode() not in kept(sqlite_url) and hashed(token).encode() in kept(sqlite_url)
    assert said(service, "person:viewer")[0] == ("viewer", "token.created", "nightly report")
    async with service.client(authorization=f"Bearer {token}") as program:
        assert (await program.get(f"{API}/whoami")).json()["person"] == "viewer"


async def test_a_token_ends_on_its_day(service: Service) -> None:
    async with service.client(Role.ADMIN) as client:
        made = (await client.post(f"{API}/tokens", json={"label": "x", "person": "viewer", "days": 1})).json()
        async with service.client(authorization=f"Bearer {made['token']}") as program:
            service.clock.advance(86_399)
            assert (await program.get(f"{API}/whoami")).json()["person"] == "viewer"
            service.clock.advance(1)
            assert (await program.get(f"{API}/whoami")).status_code == 401
        live, every = [(await client.get(f"{API}/tokens", params={"which": which})).json() for which in ("live", "all")]
    states = {token["hash"]: token["state"] for token in every["tokens"]}
    assert states[made["hash"]] == "expired" and made["hash"] not in {token["hash"] for token in live["tokens"]}
    assert said(service, "person:viewer")[0] == ("admin", "token.created", "x")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"label": " "}, {"label": "x" * 201}, {"label": "x", "days": 0}, {"label": "x", "days": 366},
        {"label": "x", "person": "a b"},
    ],
)  # fmt: skip
async def test_a_token_has_a_label_and_an_end(service: Service, body: dict[str, Any]) -> None:
    async with service.client(Role.ADMIN) as client:
        assert (await client.post(f"{API}/tokens", json=body)).status_code == 422
        assert (await client.post(f"{API}/tokens", json={"label": "x", "person": "nobody"})).status_code == 404


async def test_an_admin_sees_all_tokens_and_anyone_else_their_own(service: Service) -> None:
    async with service.client(Role.ADMIN) as admin, service.client(Role.VIEWER) as viewer:
        every, own = (await admin.get(f"{API}/tokens")).json(), (await viewer.get(f"{API}/tokens")).json()
        service.clock.advance(60)
        await viewer.post(f"{API}/tokens", json={"label": "second"})
        first = (await viewer.get(f"{API}/tokens", params={"limit": 1})).json()
        rest = (await viewer.get(f"{API}/tokens", params={"limit": 1, "before": first["before"]})).json()
        naive = await viewer.get(f"{API}/tokens", params={"before": "2026-11-21T12:00:00"})
    assert {token["person"] for token in every["tokens"]} == {"admin", "operator", "viewer"}
    assert [token["person"] for token in own["tokens"]] == ["viewer"]
    assert [page["tokens"][0]["label"] for page in (first, rest)] == ["second", "test"]
    assert (first["more"], rest["more"], rest["before"]) == (True, False, None) and naive.status_code == 422


async def test_a_revoked_token_ends_at_once_and_it_is_written_down(service: Service) -> None:
    lost = hashed(service.tokens[Role.VIEWER])
    async with service.client(Role.ADMIN) as admin, service.client(Role.VIEWER) as viewer:
        assert (await viewer.get(f"{API}/whoami")).status_code == 200
        reply = await admin.delete(f"{API}/tokens/{lost[:8].upper()}")
        assert (await viewer.get(f"{API}/whoami")).status_code == 401
        again = await admin.delete(f"{API}/tokens/{lost}")
    assert (reply.json()["hash"], reply.json()["state"], reply.json()["schema_version"]) == (lost, "revoked", 1)
    assert (again.status_code, again.json()["error"]["exit"]) == (409, 5)
    assert said(service, "person:viewer")[0] == ("admin", "token.revoked", "test")
    assert audit.listing(service.db, "person:viewer")[0].detail == {"token": lost[:12]}


async def test_a_token_that_is_not_ones_own_is_not_there(service: Service) -> None:
    own, others = hashed(service.tokens[Role.OPERATOR]), hashed(service.tokens[Role.ADMIN])
    async with service.client(Role.OPERATOR) as client:
        for start, code in ((others, 404), ("0" * 8, 404), (others[:7], 422), ("%25" * 8, 422), (own[:8], 200)):
            assert (await client.delete(f"{API}/tokens/{start}")).status_code == code, start
        assert (await client.get(f"{API}/whoami")).status_code == 401
    async with service.client(Role.ADMIN) as client:
        assert (await client.get(f"{API}/whoami")).status_code == 200


async def test_a_beginning_that_two_tokens_share_names_neither(service: Service) -> None:
    for end in "ab":
        people.add_token(service.db, "c0ffee00" + end * 56, "viewer", end, service.clock.now())
    async with service.client(Role.ADMIN) as client:
        assert (await client.delete(f"{API}/tokens/c0ffee00")).status_code == 409
        assert (await client.delete(f"{API}/tokens/c0ffee00a")).json()["label"] == "a"


# --- the key


def sealed_secrets(service: Service, safe: Vault) -> dict[str, bytes]:
    """What each sealed column holds, opened; by the context it was sealed as."""
    one = a_lease(1)
    with service.db.read() as conn:
        credential = conn.exec_driver_sql(f"SELECT credential FROM lease WHERE id = '{one.id}'").scalar_one()
    lit = beacons.listing(service.db)[0].credential
    assert lit is not None
    found = {
        vault.join_context(one.id): lease_views.join_sealed(service.db, one.id),
        vault.credential_context(one.id): bytes(credential),
        vault.beacon_context("gitlab", "s"): lit,
    }
    return {context: safe.open(sealed, context) for context, sealed in found.items()}


def seal_everywhere(service: Service) -> None:
    safe, one = service.parts.vault, a_lease(1)
    values: dict[str, Any] = {
        "credential": safe.seal(SECRET, vault.credential_context(one.id)),
        "join_sealed": safe.seal(SECRET, vault.join_context(one.id)),
    }
    led_to(service.db, State.REGISTERING, lease=one, **values)
    lit = safe.seal(SECRET, vault.beacon_context("gitlab", "s"))
    beacons.put(service.db, "gitlab", "s", "l", "1", lit, service.clock.now())


async def test_a_new_key_keeps_every_secret_readable_and_needs_the_old_one_no_more(service: Service, tmp_path: Path) -> None:
    seal_everywhere(service)
    first, file = service.parts.vault.newest, tmp_path / "vault.keys"
    async with service.client(Role.ADMIN) as client:
        reply = (await client.post(f"{API}/keys/rotate", json={})).json()
    key = service.parts.vault.newest
    assert reply == {"schema_version": 1, "key": key, "resealed": 3, "failed": []} and key != first
    assert set(sealed_secrets(service, service.parts.vault).values()) == {SECRET}
    assert said(service, f"key:{key}") == [("admin", "keys.rotated", "sealed again: 3")]
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(first)))
    assert set(sealed_secrets(service, Vault(file)).values()) == {SECRET}


async def test_a_secret_that_no_key_opens_is_named_and_stops_no_other(service: Service) -> None:
    seal_everywhere(service)
    led_to(service.db, State.REGISTERING, lease=a_lease(2), credential=b"spoilt")
    async with service.client(Role.ADMIN) as client:
        reply = (await client.post(f"{API}/keys/rotate", json={})).json()
    assert (reply["resealed"], reply["failed"]) == (3, [vault.credential_context(a_lease(2).id)])
    assert set(sealed_secrets(service, service.parts.vault).values()) == {SECRET}


async def test_a_key_file_that_cannot_be_changed_leaves_everything_as_it_was(service: Service, tmp_path: Path) -> None:
    seal_everywhere(service)
    file = tmp_path / "vault.keys"
    keys = file.read_text()
    file.unlink()
    async with service.client(Role.ADMIN) as client:
        reply = await client.post(f"{API}/keys/rotate", json={})
        assert (reply.status_code, reply.json()["error"]["exit"]) == (500, 1)
    assert "key file" in reply.json()["error"]["message"] and not file.exists()
    file.write_text(keys)
    assert set(sealed_secrets(service, Vault(file)).values()) == {SECRET}
    assert not any(row.action == "keys.rotated" for row in audit.listing(service.db))
