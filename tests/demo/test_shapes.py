"""The forge's answers and deliveries have GitHub's own shapes. Every call in these stories is checked by `Caller.call`."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest

from app.demo import shapes
from app.demo.nouns import JobSpec
from app.demo.state import ForgeState
from app.demo.work import Order
from tests import parts
from tests.demo.callers import Caller
from tests.demo.conftest import NOON, SHA, StillClock, only_job, queue
from tests.fakes.openapi import DATA

FOLDER = DATA / "github"


@cache
def webhooks() -> dict[str, Any]:
    if not FOLDER.is_dir():
        parts.lacks("shared data", "put GitHub's API description into ../shared/data")
    found: dict[str, Any] = json.loads((FOLDER / "openapi-webhooks-workflow_job-subset.json").read_text("utf-8"))
    return found


def complaints(schema: str, payload: Any) -> list[str]:
    """What GitHub's webhook description has against a payload."""
    root = {"$ref": f"#/components/schemas/{schema}", "components": webhooks()["components"]}
    found = jsonschema.Draft202012Validator(root).iter_errors(payload)  # pyright: ignore[reportUnknownMemberType]
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message[:200]}" for one in found]


def places(value: Any, at: str = "") -> set[str]:
    """Every named place in a JSON value."""
    if isinstance(value, dict):
        found: set[str] = set()
        for name, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            here = f"{at}.{name}".strip(".")
            found |= {here} | places(inner, here)
        return found
    return {place for one in value for place in places(one, at)} if isinstance(value, list) else set()  # pyright: ignore[reportUnknownVariableType]


def recorded(action: str) -> list[Any]:
    webhooks()
    return [json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "payloads").glob(f"workflow_job.{action}.*.json"))]


def live(state: ForgeState) -> dict[str, Any]:
    """One payload of each action, from the life of two jobs."""
    waiting = state.start(Order("acme/train", SHA, [JobSpec("eval", "eval", ["gpu"], needs_approval=True)]), NOON)
    state.approve(only_job(state, waiting), NOON)
    minted = state.register("repos/acme/train", "calm-fox-01", ["gpu"], 1, NOON)
    runner = state.connect(minted.token, "s" * 64, "2.336.0", NOON)
    job = state.take(runner, NOON)
    assert job is not None
    state.finish(minted.token, "s" * 64, job.id, "success", NOON)
    return {str(one.action): one.payload for one in state.outbox.due(NOON)}


@pytest.mark.parametrize("action", ["queued", "in_progress", "completed", "waiting"])
def test_a_delivery_is_what_github_describes_and_has_what_github_sent(state: ForgeState, action: str) -> None:
    payload = live(state)[action]
    assert complaints(f"webhook-workflow-job-{action.replace('_', '-')}", payload) == []
    for example in recorded(action):
        missing = places(example) - places(payload)
        rest = ("deployment", "workflow_job.steps", "repository.license.")  # what one recording has and others have not
        assert {place for place in missing if not place.startswith(rest)} == set()


def test_a_ping_comes_first_when_a_webhook_is_set(state: ForgeState) -> None:
    state.hook("http://127.0.0.1:9/other", NOON)
    payload = state.outbox.due(NOON)[-1].payload
    assert complaints("webhook-ping", payload) == []


def test_a_queued_payload_hides_fork_and_event(state: ForgeState) -> None:
    """The trap is real here, too: who wants to know must ask for the run."""
    queue(state, event="pull_request", fork="mallory/train")
    payload = state.outbox.due(NOON)[-1].payload
    assert "event" not in payload["workflow_job"]
    assert payload["workflow_job"]["runner_id"] is None
    assert payload["repository"]["full_name"] == "acme/train"


async def test_runs_and_jobs(caller: Caller, state: ForgeState) -> None:
    run = queue(state, event="pull_request", fork="mallory/train", branch="faster")
    told = (await caller.call("GET", f"/repos/acme/train/actions/runs/{run.id}")).json()
    assert (told["event"], told["head_repository"]["full_name"]) == ("pull_request", "mallory/train")
    assert told["head_repository"]["id"] != told["repository"]["id"]
    assert told["pull_requests"] == []
    gone = state.start(Order("acme/train", SHA, [], event="pull_request", fork_deleted=True), NOON)
    assert (await caller.call("GET", f"/repos/acme/train/actions/runs/{gone.id}")).json()["head_repository"] is None
    jobs = (await caller.call("GET", f"/repos/acme/train/actions/runs/{run.id}/jobs?filter=latest")).json()
    job_id = jobs["jobs"][0]["id"]
    assert (await caller.call("GET", f"/repos/acme/train/actions/jobs/{job_id}")).json()["labels"] == ["gpu", "rubin"]
    assert (await caller.call("GET", f"/repos/acme/train/actions/jobs/{job_id}/logs")).status_code == 302
    for status, many in {"queued": 1, "in_progress": 0, "completed": 1}.items():
        found = (await caller.call("GET", f"/repos/acme/train/actions/runs?status={status}")).json()
        assert found["total_count"] == many


@pytest.mark.parametrize("where", ["repos/acme/train", "orgs/acme", "enterprises/acme-inc"])
async def test_runners_of_every_scope(caller: Caller, where: str) -> None:
    made = await caller.jit(where=where)
    assert made.status_code == 201
    runner = made.json()["runner"]
    assert (runner["status"], runner["busy"], [one["name"] for one in runner["labels"]]) == ("offline", False, ["gpu", "rubin"])
    listed = (await caller.call("GET", f"/{where}/actions/runners?name=CALM-FOX-01")).json()
    assert [one["id"] for one in listed["runners"]] == [runner["id"]]
    assert (await caller.call("GET", f"/{where}/actions/runners/{runner['id']}")).status_code == 200
    assert (await caller.jit(where=where)).status_code == 409
    assert (await caller.call("DELETE", f"/{where}/actions/runners/{runner['id']}")).status_code == 204
    assert (await caller.call("GET", f"/{where}/actions/runners/{runner['id']}")).status_code == 404
    if where != "repos/acme/train":
        groups = (await caller.call("GET", f"/{where}/actions/runner-groups")).json()["runner_groups"]
        assert [(one["id"], one["default"]) for one in groups] == [(1, True)]


async def test_lists_come_in_pages(caller: Caller, state: ForgeState) -> None:
    for number in range(7):
        state.register("repos/acme/train", f"fox-{number}", ["gpu"], 1, NOON)
    first = await caller.call("GET", "/repos/acme/train/actions/runners?per_page=3")
    assert (first.json()["total_count"], len(first.json()["runners"])) == (7, 3)
    assert 'page=2>; rel="next"' in first.headers["link"] and 'page=3>; rel="last"' in first.headers["link"]
    last = await caller.call("GET", "/repos/acme/train/actions/runners?per_page=3&page=3")
    assert len(last.json()["runners"]) == 1 and 'rel="next"' not in last.headers["link"]


async def test_the_app_and_its_installations(caller: Caller, state: ForgeState) -> None:
    app = caller.app_token()
    assert (await caller.call("GET", "/app", token=app)).json()["events"] == ["workflow_job"]
    listed = (await caller.call("GET", "/app/installations", token=app)).json()
    number = (await caller.call("GET", "/repos/acme/train/installation", token=app)).json()["id"]
    assert [one["id"] for one in listed] == [number] == [await caller.installation()]
    assert (await caller.call("GET", f"/app/installations/{number}", token=app)).json()["account"]["login"] == "acme"
    state.repository("acme/eval", NOON)
    narrow = await caller.installed(repositories=["eval"], permissions={"actions": "read"})
    seen = (await caller.call("GET", "/installation/repositories", token=narrow)).json()
    assert [one["full_name"] for one in seen["repositories"]] == ["acme/eval"]
    assert (await caller.call("GET", "/app/hook/config", token=app)).json()["url"].endswith("/hooks/github")


async def test_the_rate_limit_is_told_and_kept(caller: Caller, state: ForgeState, clock: StillClock) -> None:
    state.book.limits.requests_per_hour = 3
    assert (await caller.call("GET", "/rate_limit")).json()["resources"]["core"]["remaining"] == 3
    left = [(await caller.call("GET", "/repos/acme/train")).headers["x-ratelimit-remaining"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    over = await caller.call("GET", "/repos/acme/train")
    assert (over.status_code, over.headers["x-ratelimit-remaining"]) == (403, "0")
    assert int(over.headers["x-ratelimit-reset"]) == int(clock.now().timestamp()) + 3600
    clock.advance(3600)
    assert (await caller.call("GET", "/repos/acme/train")).status_code == 200


async def test_who_asks_again_for_the_same_pays_nothing(caller: Caller, state: ForgeState) -> None:
    queue(state)
    path, headers = "/api/v3/repos/acme/train/actions/runs", {"Authorization": f"Bearer {caller.keys.token}"}
    first = await caller.client.get(path, headers=headers)
    again = await caller.client.get(path, headers=headers | {"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-ratelimit-remaining"] == first.headers["x-ratelimit-remaining"]
    other = headers | {"Authorization": f"Bearer {await caller.installed()}", "If-None-Match": first.headers["etag"]}
    assert (await caller.client.get(path, headers=other)).status_code == 200
    queue(state)
    changed = await caller.client.get(path, headers=headers | {"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.json()["total_count"]) == (200, 2)


async def test_quota_can_be_short_and_lists_stale_on_purpose(caller: Caller, state: ForgeState) -> None:
    await caller.control("faults", quota_taken=0.99, stale_lists=True)
    path = "/repos/acme/train/actions/runs"
    told = await caller.call("GET", path)
    assert (told.headers["x-ratelimit-remaining"], told.json()["total_count"]) == ("49", 0)
    queue(state)
    assert (await caller.call("GET", path)).json()["total_count"] == 0
    await caller.control("faults", quota_taken=1.0)
    assert (await caller.call("GET", path)).status_code == 403
    await caller.control("faults")
    assert (await caller.call("GET", path)).json()["total_count"] == 1


def test_a_run_is_what_its_jobs_are(state: ForgeState) -> None:
    specs = [JobSpec(name, name, ["gpu"]) for name in ("one", "two")]
    run = state.start(Order("acme/train", SHA, specs), NOON)
    jobs = shapes.latest_jobs(state.book, run.id)
    assert shapes.verdict(jobs) == ("queued", None)
    state.cancel(jobs[0].id, NOON)
    assert shapes.verdict(jobs) == ("in_progress", None)
    state.cancel(jobs[1].id, NOON)
    assert shapes.verdict(jobs) == ("completed", "cancelled")
