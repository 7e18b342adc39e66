"""Who may call what: App JWT, installation tokens narrowed as asked, a person's token; and nobody from elsewhere."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from app.demo import keys as forge_keys
from app.demo.state import ForgeState
from tests.demo.callers import Caller
from tests.demo.conftest import NOON, StillClock, queue


async def test_nobody_gets_nothing(caller: Caller) -> None:
    for header in ({}, {"Authorization": "Basic bW9uYQ=="}, {"Authorization": "Bearer "}):
        answer = await caller.client.get("/api/v3/repos/acme/train/actions/runners", headers=header)
        assert (answer.status_code, answer.json()["message"]) == (401, "Requires authentication")
    for wrong in ("ghp_" + "x" * 36, "ghs_1204771_no.jwt.here", "ghs_", "no.jwt.here"):
        assert (await caller.call("GET", "/app", token=wrong)).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [{"issuer": "99"}, {"ends": -1}, {"ends": 3600}, {"issued": 120, "ends": 540}, {"pem": "another"}],
    ids=["another App", "over", "too long", "from the future", "another key"],
)
async def test_a_json_web_token_that_github_would_not_take(caller: Caller, claims: dict[str, str | float]) -> None:
    if claims.get("pem"):
        claims = {"pem": forge_keys.fresh().app_pem}
    assert (await caller.call("GET", "/app", token=caller.app_token(**claims))).status_code == 401  # pyright: ignore[reportArgumentType]  one case at a time
    assert (await caller.call("GET", "/app", token=caller.app_token())).status_code == 200


async def test_an_installation_token_is_long_and_lasts_an_hour(caller: Caller, clock: StillClock) -> None:
    token = await caller.installed()
    assert token.startswith("ghs_1204771_ey") and len(token) > 200
    assert (await caller.call("GET", "/repos/acme/train/actions/runners", token=token)).status_code == 200
    clock.advance(3601)
    assert (await caller.call("GET", "/repos/acme/train/actions/runners", token=token)).status_code == 401


async def test_a_token_sees_what_it_was_narrowed_to(caller: Caller, state: ForgeState) -> None:
    state.repository("acme/eval", NOON)
    state.repository("umbrella/lab", NOON)
    narrow = await caller.installed(repositories=["train"], permissions={"administration": "write"})
    assert (await caller.jit(token=narrow)).status_code == 201
    assert (await caller.jit(where="repos/acme/eval", token=narrow)).status_code == 404
    assert (await caller.jit(where="repos/umbrella/lab", token=narrow)).status_code == 404
    assert (await caller.jit(where="orgs/acme", token=narrow)).status_code == 403
    run = queue(state)
    assert (await caller.call("GET", f"/repos/acme/train/actions/runs/{run.id}", token=narrow)).status_code == 403
    reader = await caller.installed(permissions={"administration": "read", "actions": "read"})
    assert (await caller.call("GET", "/repos/acme/train/actions/runners", token=reader)).status_code == 200
    assert (await caller.jit(name="fox-2", token=reader)).status_code == 403
    by_number = await caller.installed(repository_ids=[state.book.repositories["acme/eval"].id])
    assert (await caller.jit(name="fox-3", where="repos/acme/eval", token=by_number)).status_code == 201


async def test_a_token_is_never_wider_than_the_app(caller: Caller) -> None:
    path = f"/app/installations/{await caller.installation()}/access_tokens"
    app = caller.app_token()
    assert (await caller.call("POST", path, {"permissions": {"contents": "write"}}, token=app)).status_code == 422
    assert (await caller.call("POST", path, {"repositories": ["nowhere"]}, token=app)).status_code == 422
    assert (await caller.call("POST", "/app/installations/1/access_tokens", {}, token=app)).status_code == 404
    assert (await caller.call("POST", path, {}, token=await caller.installed())).status_code == 401


async def test_an_app_manages_no_enterprise_and_calls_nothing_as_itself(caller: Caller) -> None:
    assert (await caller.jit(where="enterprises/acme-inc", token=await caller.installed())).status_code == 403
    assert (await caller.jit(token=caller.app_token())).status_code == 403
    assert (await caller.jit(where="enterprises/acme-inc")).status_code == 201  # a person with the right scope may
    assert (await caller.call("GET", "/app/hook/deliveries")).status_code == 401  # and is no App


async def test_only_a_person_turns_the_wheels(caller: Caller) -> None:
    token = await caller.installed()
    for verb, path in (("POST", "push"), ("POST", "jobs"), ("POST", "faults"), ("POST", "hook"), ("GET", "state")):
        answer = await caller.client.request(verb, f"/_demo/{path}", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 403
        assert (await caller.client.request(verb, f"/_demo/{path}")).status_code == 401


async def test_a_web_page_that_calls_itself_loopback_is_turned_away(caller: Caller) -> None:
    for host in ("evil.example", "evil.example:40123", "127.0.0.1.evil.example", "", "[::2]:1"):
        answer = await caller.client.get("/acme/train", headers={"Host": host})
        assert answer.status_code == 421, host
    assert (await caller.client.get("/acme/train", headers={"Host": "localhost:40123"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nowhere", None, 404),
        ("/repos/acme/train/actions/runners/abc", None, 404),
        ("/repos/acme/other", None, 404),
        ("/repos/acme/train/actions/runners/generate-jitconfig", "{", 400),
        ("/repos/acme/train/actions/runners/generate-jitconfig", "[]", 400),
        ("/repos/acme/train/actions/runners/generate-jitconfig", "{}", 422),
        ("/repos/acme/train/actions/runners/generate-jitconfig", '{"name":"a","runner_group_id":1,"labels":"gpu"}', 422),
    ],
)
async def test_bad_questions_get_githubs_kind_of_answer(caller: Caller, path: str, body: str | None, status: int) -> None:
    verb = "GET" if body is None else "POST"
    headers = {"Authorization": f"token {caller.keys.token}"}
    answer = await caller.client.request(verb, f"/api/v3{path}", content=body, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) >= {"message", "documentation_url", "status"}


def test_secrets_are_files_for_their_owner_alone_and_stay_the_same(tmp_path: Path) -> None:
    made = forge_keys.load(tmp_path / "demo")
    assert forge_keys.load(tmp_path / "demo") == made
    for name in (forge_keys.APP_KEY, forge_keys.TOKEN, forge_keys.WEBHOOK_SECRET, forge_keys.SIGNING):
        assert stat.S_IMODE((tmp_path / "demo" / name).stat().st_mode) == 0o600
    for secret in (made.token, made.webhook_secret, made.signing, made.app_pem):
        assert secret not in repr(made)


async def test_who_is_told_of_which_repositories(caller: Caller, state: ForgeState) -> None:
    """An organisation's go to its people, a person's private ones to that person alone; the App is installed on both."""
    state.repository("acme/eval", NOON)
    state.repository("mona/train", NOON, parent="acme/train")
    state.repository("mona/notes", NOON, parent="acme/train", private=False)

    async def names(path: str) -> list[str]:
        return [one["full_name"] for one in (await caller.call("GET", path)).json()]

    assert await names("/orgs/acme/repos") == ["acme/train", "acme/eval"]
    assert await names("/users/mona/repos") == ["mona/notes"]
    assert await names("/user/repos?affiliation=owner") == ["mona/train", "mona/notes"]
    assert (await caller.call("GET", "/orgs/mona/repos")).status_code == 404
    assert (await caller.call("GET", "/users/nobody/repos")).status_code == 404
    assert (await caller.call("GET", "/orgs/acme/repos", token=await caller.installed())).status_code == 403
    found = await caller.call("GET", "/users/mona/installation", token=caller.app_token())
    assert found.json()["id"] == state.book.accounts["mona"].installation_id
    assert (await caller.call("GET", "/users/nobody/installation", token=caller.app_token())).status_code == 404
