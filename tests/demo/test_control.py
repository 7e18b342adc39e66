"""What drives the forge: pushes of real commits, jobs as tests want them, and the pages that links lead to."""

from __future__ import annotations

import io
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest

from app.demo import workflows
from app.demo.archive import WORKFLOW, Archive, sample, scripted
from app.demo.joblogs import LINES, JobLogs
from app.demo.protocol import message
from app.demo.state import ForgeState
from app.demo.work import Refusal
from tests.demo.callers import Caller
from tests.demo.conftest import NOON, only_job, queue


async def test_a_push_is_a_commit_and_its_workflows_jobs(caller: Caller, state: ForgeState) -> None:
    first = await caller.control("push", repository="acme/train", message="One")
    second = await caller.control("push", repository="acme/train", workflow="gpu-eval.yml", actor="hubot")
    assert first["sha"] != second["sha"]
    run = state.book.runs[second["runs"][0]]
    assert (run.workflow, run.event, run.number, run.actor) == ("gpu-eval", "push", 2, "hubot")
    assert [state.book.jobs[one["id"]].labels for one in second["jobs"]] == [["gpu", "rubin"]]
    page = await caller.client.get("/acme/train")
    assert "#2 gpu-eval" in page.text and "#1 gpu-eval: One" in page.text
    for link in (
        second["jobs"][0]["url"],
        second["jobs"][0]["url"] + "/logs",
        f"http://127.0.0.1:40123/acme/train/actions/runs/{run.id}",
    ):
        answer = await caller.client.get(link)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["x-content-type-options"] == "nosniff"
    missing = await caller.client.post(
        "/_demo/push", json={"workflow": "none.yml"}, headers={"Authorization": f"Bearer {caller.keys.token}"}
    )
    assert missing.status_code == 422


async def test_the_archive_is_the_very_commit(caller: Caller) -> None:
    pushed = await caller.control("push")
    answer = await caller.call("GET", f"/repos/acme/train/tarball/{pushed['sha']}")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert tar.pax_headers["comment"] == pushed["sha"]
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {WORKFLOW, "evaluate.py", "README.md"} <= names
    for nowhere in ("main", "0" * 40, "x" * 40):
        assert (await caller.call("GET", f"/repos/acme/train/tarball/{nowhere}")).status_code == 404


async def test_jobs_of_any_kind(caller: Caller, state: ForgeState) -> None:
    made = await caller.control(
        "jobs", repository="umbrella/lab", labels=["a100"], count=3, event="pull_request", fork="mallory/lab", private=False
    )
    assert [one["status"] for one in made["jobs"]] == ["queued"] * 3
    run = state.book.runs[made["runs"][0]]
    assert (run.event, run.head_repository, state.book.repositories["umbrella/lab"].private) == (
        "pull_request",
        "mallory/lab",
        False,
    )
    held = await caller.control("jobs", labels=["gpu"], needs_approval=True, workflow="deploy")
    number = held["jobs"][0]["id"]
    assert held["jobs"][0]["status"] == "waiting"
    await caller.control("approve", job=number)
    await caller.control("cancel", job=number)
    again = await caller.control("rerun", job=number)
    assert (again["jobs"][0]["status"], again["jobs"][0]["id"] != number) == ("queued", True)
    await caller.control("cancel", run=made["runs"][0])
    assert {state.book.jobs[one["id"]].conclusion for one in made["jobs"]} == {"cancelled"}
    for wrong in ({"count": 0}, {"labels": "gpu"}, {"repository": "../x"}, {"repository": "a/.."}):
        answer = await caller.client.post("/_demo/jobs", json=wrong, headers={"Authorization": f"Bearer {caller.keys.token}"})
        assert answer.status_code == 422, wrong


async def test_groups_and_limits(caller: Caller, state: ForgeState) -> None:
    made = await caller.control("groups", scope="orgs/acme", name="gpus", repositories=["acme/train"])
    listed = (await caller.call("GET", "/orgs/acme/actions/runner-groups")).json()["runner_groups"]
    assert [(one["name"], one["visibility"]) for one in listed] == [("Default", "all"), ("gpus", "selected")]
    assert (await caller.call("GET", f"/orgs/acme/actions/runner-groups/{made['id']}")).json()["name"] == "gpus"
    assert (await caller.jit(where="orgs/acme", group=made["id"])).status_code == 201
    assert (await caller.control("limits", jit_idle=2.5))["jit_idle"] == "PT2.5S"
    assert state.book.limits.jit_idle == timedelta(seconds=2.5)
    assert state.book.limits.queue == timedelta(hours=24)


async def test_cancel_and_rerun_by_githubs_own_paths(caller: Caller, state: ForgeState) -> None:
    run = queue(state)
    where = f"/repos/acme/train/actions/runs/{run.id}"
    assert (await caller.call("POST", f"{where}/rerun")).status_code == 403
    assert (await caller.call("POST", f"{where}/cancel")).status_code == 202
    assert (await caller.call("POST", f"{where}/cancel")).status_code == 409
    assert (await caller.call("POST", f"{where}/rerun-failed-jobs")).status_code == 201
    latest = (await caller.call("GET", f"{where}/jobs")).json()["jobs"]
    every = (await caller.call("GET", f"{where}/jobs?filter=all")).json()["jobs"]
    assert (len(latest), len(every), latest[0]["run_attempt"]) == (1, 2, 2)
    state.cancel(latest[0]["id"], NOON)
    assert (await caller.call("POST", f"/repos/acme/train/actions/jobs/{latest[0]['id']}/rerun")).status_code == 201


def test_a_job_is_told_all_it_must_know(caller: Caller, state: ForgeState) -> None:
    run = queue(state, event="pull_request", fork="mallory/train", branch="faster")
    minted = state.register("repos/acme/train", "fox", ["gpu", "rubin"], 1, NOON)
    job = state.take(state.connect(minted.token, "s" * 64, "2", NOON), NOON)
    assert job is not None and job.id == only_job(state, run)
    told = message(caller.office, minted.runner, job)
    variables = told["environment"]
    assert (variables["GITHUB_REF"], variables["GITHUB_HEAD_REF"]) == (f"refs/pull/{run.number}/merge", "faster")
    assert told["event"]["pull_request"]["head"]["repo"]["full_name"] == "mallory/train"
    assert told["token"].startswith("ghs_")
    assert all(isinstance(value, str) for value in variables.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobs: [", "Invalid workflow file"),
        ("- a list", "no mapping"),
        ("on: push\njobs: {}", "no jobs"),
        ("on: push\njobs: {a: {steps: []}}", "no runs-on"),
        ("on: push\njobs: {a: {runs-on: x, needs: b}}", "`needs`"),
        ("on: push\njobs: {a: {runs-on: x, strategy: {matrix: {n: [1]}}}}", "`strategy`"),
        ("on: push\njobs: {a: {runs-on: ['${{ inputs.label }}']}}", "expression"),
    ],
)
def test_a_workflow_that_this_forge_cannot_run_is_refused(text: str, words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        workflows.read(text, WORKFLOW)
    assert refused.value.status == 422


def test_a_workflow_file_is_read_as_github_reads_it() -> None:
    text = """
        on: {push: {branches: [main]}, workflow_dispatch: {}}
        jobs:
          one: {runs-on: self-hosted, steps: [{uses: actions/checkout@v4}, {name: Look, run: ls}, {run: "a\\nb"}]}
          two: {name: Second, runs-on: {group: gpus, labels: [gpu, 4]}, environment: production}
    """
    found = workflows.read(text, WORKFLOW)
    assert found.events == {"push", "workflow_dispatch"} and found.name == WORKFLOW
    one, two = found.jobs
    assert (one.labels, one.needs_approval, one.steps) == (["self-hosted"], False, ["actions/checkout@v4", "Look", "a"])
    assert (two.name, two.labels, two.group, two.needs_approval) == ("Second", ["gpu", "4"], "gpus", True)


def test_a_script_becomes_a_workflow() -> None:
    found = workflows.read(scripted(["gpu", "it's"], "echo one\nexit 1")[WORKFLOW].decode(), WORKFLOW)
    assert found.jobs[0].labels == ["gpu", "it's"]


def test_commits_are_real_and_repeatable(tmp_path: Path) -> None:
    first, second = Archive(tmp_path / "a"), Archive(tmp_path / "b")
    ids = {one.commit("acme/train", "main", "Same", "mona", NOON, sample()) for one in (first, second)}
    assert len(ids) == 1, "content, author and time alone name a commit"
    next_one = first.commit("acme/train", "main", "Next", "mona", NOON)
    assert next_one not in ids
    assert first.file("acme/train", next_one, "README.md").startswith("# acme/train")
    for nowhere in ("none.txt", "README.md/x", ".github"):
        with pytest.raises(Refusal):
            first.file("acme/train", next_one, nowhere)
    with pytest.raises(Refusal):
        second.commit("acme/other", "main", "No files", "mona", NOON)


def test_logs_keep_their_count_through_repeats_gaps_and_restarts(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path)
    assert logs.append(7, 0, ["one", "two\u2028half"]) == 2
    assert logs.append(7, 1, ["two again", "three"]) == 3
    again = JobLogs(tmp_path)
    assert again.lines(7) == ["one", "two half", "three"]
    assert again.append(7, 5, ["six"]) == 6
    assert JobLogs(tmp_path).lines(7)[3:] == ["(lost)", "(lost)", "six"]
    assert again.append(7, 6, ["x"] * (LINES + 10)) == LINES
