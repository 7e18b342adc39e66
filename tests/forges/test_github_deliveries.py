"""GitHub's deliveries: authentic or not, readable or not, and what each says of its job."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.model import JobState
from app.forges.contract import BadDelivery, BadSignature, Delivery, DeliveryKind
from app.forges.github import GitHubForge
from providers.contract import Secret
from tests.forges.conftest import HOOK_SECRET

VECTOR = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
"""Of `Hello, World!` under the secret above: GitHub's own, validating-webhook-deliveries.md."""


def receiver(**changes: Any) -> GitHubForge:
    values: dict[str, Any] = {
        "webhook_secret": Secret(HOOK_SECRET),
        "token": Secret("ghp_none"),
        "now": lambda: datetime(2026, 11, 21, tzinfo=UTC),
        "timeout": timedelta(seconds=1),
    }
    return GitHubForge(**{**values, **changes})


def signed(body: bytes, event: str = "workflow_job", secret: str = HOOK_SECRET, guid: str = "g-1") -> dict[str, str]:
    made = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-github-event": event, "x-github-delivery": guid, "x-hub-signature-256": f"sha256={made}"}


def read(content: Any, event: str = "workflow_job") -> Delivery:
    body = json.dumps(content).encode()
    return receiver().parse(signed(body, event), body)


def sample(action: str = "queued", **job: Any) -> dict[str, Any]:
    base = {"id": 5, "run_id": 9, "labels": ["gpu"], "name": "train", "head_sha": "a" * 40, "status": "queued"}
    return {
        "action": action,
        "workflow_job": {**base, **job},
        "repository": {"id": 3, "full_name": "acme/train"},
        "sender": {"login": "ann"},
        "installation": {"id": 77},
    }


def test_without_a_webhook_secret_nothing_is_authentic() -> None:
    """GitHub is polled only; a blank secret is still a mistake."""
    body = json.dumps(sample()).encode()
    for headers in ({}, signed(body), signed(body, secret="")):
        with pytest.raises(BadSignature, match=r"No webhook is taken here: GitHub is polled\."):
            receiver(webhook_secret=None).parse(headers, body)
    for blank in ("", " \n"):
        with pytest.raises(ValueError, match="blank"):
            receiver(webhook_secret=Secret(blank))


def test_githubs_own_signature_vector() -> None:
    headers = {"x-github-event": "ping", "x-github-delivery": "g", "x-hub-signature-256": VECTOR}
    assert receiver().parse(headers, b"Hello, World!").kind is DeliveryKind.PING


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        VECTOR[:-1],
        VECTOR + "0",
        VECTOR[7:],
        VECTOR.upper(),
        VECTOR.replace("7", "8"),
        "sha1=" + "0" * 40,
        "sha256=é",
    ],
)
def test_anything_but_the_whole_signature_is_refused(signature: str) -> None:
    headers = {"x-github-event": "ping", "x-github-delivery": "g", "x-hub-signature-256": signature}
    with pytest.raises(BadSignature):
        receiver().parse(headers, b"Hello, World!")
    with pytest.raises(BadSignature):
        receiver().parse({}, b"Hello, World!")


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(BadSignature):
        receiver().parse(signed(b'{"a": 1}'), b'{"a":1}')


def test_during_a_rotation_both_secrets_count_and_after_it_one() -> None:
    body = json.dumps(sample()).encode()
    both = receiver(webhook_secret=Secret("new"), webhook_secret_previous=Secret("old"))
    for secret in ("new", "old"):
        assert both.parse(signed(body, secret=secret), body).kind is DeliveryKind.JOB
    with pytest.raises(BadSignature):
        both.parse(signed(body, secret=""), body)
    with pytest.raises(BadSignature):
        receiver(webhook_secret=Secret("new")).parse(signed(body, secret="old"), body)


RECORDED: Mapping[str, tuple[str, JobState, str, str]] = {
    "workflow_job.queued.1": ("289782451", JobState.QUEUED, "Codertocat/Hello-World", ""),
    "workflow_job.waiting.1": ("12877621891", JobState.WAITING, "lineville/elastic-machines-testing", ""),
    "workflow_job.in_progress.2": ("289782451", JobState.IN_PROGRESS, "Codertocat/Hello-World", "GitHub Actions 5"),
    "workflow_job.in_progress.3": ("14541957942", JobState.IN_PROGRESS, "wolfy1339/github-events-schemas", "GitHub Actions 6"),
    "workflow_job.completed.1": ("289782451", JobState.COMPLETED, "Codertocat/Hello-World", "GitHub Actions 5"),
    "workflow_job.completed.2": ("289782451", JobState.COMPLETED, "Codertocat/Hello-World", "GitHub Actions 5"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_job_delivery_is_read(payloads: Path, name: str) -> None:
    key, state, repository, runner = RECORDED[name]
    content = json.loads((payloads / "github" / "payloads" / f"{name}.json").read_text())
    delivery = read(content)
    job = delivery.job
    assert (delivery.forge, delivery.guid, delivery.kind, delivery.action) == (
        "github",
        "g-1",
        DeliveryKind.JOB,
        content["action"],
    )
    assert job is not None
    assert (job.id, job.key, job.state, job.repository) == (f"github-{key}", key, state, repository)
    assert job.runner_name == runner
    assert job.scope is None
    assert job.labels == tuple(content["workflow_job"]["labels"])
    assert job.url == content["workflow_job"]["html_url"]
    assert job.conclusion == (content["workflow_job"]["conclusion"] or "")
    assert job.installation == str(content.get("installation", {}).get("id", ""))
    assert (job.started_at is None) == (state in (JobState.WAITING, JobState.QUEUED))
    assert job.queued_at is not None


def test_a_queued_job_keeps_githubs_own_runner_out(payloads: Path) -> None:
    """The recorded `queued` delivery carries runner 5, of GitHub itself."""
    content = json.loads((payloads / "github" / "payloads" / "workflow_job.queued.1.json").read_text())
    assert content["workflow_job"]["runner_id"] == 5
    job = read(content).job
    assert job is not None
    assert (job.runner_id, job.runner_name, job.started_at) == ("", "", None)


def test_every_other_recorded_event_is_ignored_and_a_ping_is_a_ping(payloads: Path) -> None:
    seen = 0
    for path in sorted((payloads / "github" / "payloads").glob("*.json")):
        event = path.name.split(".")[0]
        if event == "workflow_job":
            continue
        delivery = read(json.loads(path.read_text()), event)
        assert delivery.kind is (DeliveryKind.PING if event == "ping" else DeliveryKind.IGNORED)
        assert delivery.job is None
        seen += 1
    assert seen >= 15


def test_the_action_decides_and_not_the_status() -> None:
    """A recorded payload has action `queued` with `workflow_job.status: waiting`."""
    job = read(sample("queued", status="waiting")).job
    assert job is not None
    assert job.state is JobState.QUEUED


def test_the_oldest_payloads_lack_three_fields() -> None:
    job = read(sample("queued", started_at="2021-09-13T02:21:13Z")).job
    assert job is not None
    assert (job.branch, job.workflow, job.attempt) == ("", "", 1)
    assert job.queued_at == datetime(2021, 9, 13, 2, 21, 13, tzinfo=UTC)


def test_a_job_cancelled_before_it_ran_names_no_runner() -> None:
    job = read(
        sample("completed", conclusion="cancelled", runner_id=0, runner_name="", completed_at="0001-01-01T00:00:00Z")
    ).job
    assert job is not None
    assert (job.conclusion, job.runner_id, job.runner_name, job.completed_at) == ("cancelled", "", "", None)


def test_an_action_that_we_do_not_know_is_ignored_with_a_note() -> None:
    delivery = read(sample("reticulated"))
    assert (delivery.kind, delivery.action, bool(delivery.note)) == (DeliveryKind.IGNORED, "reticulated", True)


def test_a_job_that_runs_again_is_another_job() -> None:
    first, again = read(sample(run_attempt=1)).job, read(sample(id=6, run_attempt=2)).job
    assert first is not None
    assert again is not None
    assert first.id != again.id
    assert again.attempt == 2


HOSTILE: list[dict[str, Any]] = [
    {"id": None},
    {"id": "five"},
    {"id": True},
    {"id": 5.5},
    {"id": -5},
    {"id": 2**70},
    {"id": [5]},
    {"labels": "gpu"},
    {"labels": [["gpu"]]},
    {"labels": [5]},
    {"labels": {"gpu": True}},
    {"name": ["train"]},
    {"head_sha": "; rm -rf /"},
    {"head_sha": 7},
    {"run_attempt": "one"},
    {"run_attempt": 10**9},
    {"run_id": "nine"},
    {"created_at": 5},
    {"html_url": {}},
]


@pytest.mark.parametrize("job", HOSTILE, ids=str)
def test_hostile_values_are_refused_with_a_sentence(job: dict[str, Any]) -> None:
    with pytest.raises(BadDelivery, match=r"GitHub's workflow_job delivery cannot be read: .*\."):
        read(sample(**job))


NAMES = ["acme", "acme/", "/train", "acme/train/x", "acme/..", "../train", "acme/tr\u0000ain", "a/b c", "a" * 300 + "/b"]


@pytest.mark.parametrize("name", [*NAMES, 5, None, []])
def test_a_repository_that_cannot_be_is_refused(name: object) -> None:
    content = sample()
    content["repository"]["full_name"] = name
    with pytest.raises(BadDelivery):
        read(content)


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b"null", b'"x"', b"5", b"\xff\xfe", b"{", b"[" * 100_000, b"9" * 5000]
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadDelivery):
        receiver().parse(signed(body), body)


def test_a_form_body_says_what_to_change() -> None:
    body = b"payload=%7B%7D"
    with pytest.raises(BadDelivery, match="content type to application/json"):
        receiver().parse(signed(body), body)


@pytest.mark.parametrize("missing", ["workflow_job", "repository"])
@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_a_part_that_is_none_is_refused(missing: str, value: object) -> None:
    with pytest.raises(BadDelivery):
        read({**sample(), missing: value})


def test_headers_that_say_nothing_are_refused() -> None:
    body = json.dumps(sample()).encode()
    headers = signed(body)
    for name, value in (
        ("x-github-event", "Work Flow"),
        ("x-github-event", ""),
        ("x-github-delivery", ""),
        ("x-github-delivery", "a" * 201),
    ):
        with pytest.raises(BadDelivery):
            receiver().parse({**headers, name: value}, body)


def test_text_for_people_is_cut_and_made_harmless() -> None:
    job = read(sample(name="a\u202eb\x00c\ud800" + "x" * 10_000, html_url="javascript:alert(1)", head_branch="m\nain")).job
    assert job is not None
    assert job.name.startswith("a\ufffdb\ufffdc\ufffdxxx") and len(job.name) == 200
    assert job.url == ""
    assert job.branch == "m\ufffdain"
    job.name.encode()


def test_labels_stay_as_they_were_written() -> None:
    job = read(sample(labels=["Self-Hosted", "GPU", "gpu:h100"])).job
    assert job is not None
    assert job.labels == ("Self-Hosted", "GPU", "gpu:h100")


FIELDS = ("id", "run_id", "run_attempt", "labels", "name", "head_sha", "head_branch", "status", "created_at", "started_at")
MORE = ("completed_at", "conclusion", "runner_id", "runner_name", "html_url", "workflow_name")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def judge(headers: dict[str, str], body: bytes) -> None:
    """Whatever comes: a delivery, or one of the two errors that intake answers."""
    try:
        delivery = receiver().parse(headers, body)
    except (BadSignature, BadDelivery) as error:
        assert 0 < len(str(error)) < 500
        return
    if delivery.job is not None:
        assert delivery.kind is DeliveryKind.JOB
        repr(delivery).encode()


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), signature=st.text(max_size=90))
def test_noise_is_never_anything_else(body: bytes, signature: str) -> None:
    judge({"x-hub-signature-256": signature, "x-github-event": "workflow_job", "x-github-delivery": "g"}, body)
    judge(signed(body), body)


@settings(max_examples=200, deadline=None)
@given(
    action=st.sampled_from(["queued", "in_progress", "completed", "waiting"]) | VALUES,
    job=st.dictionaries(st.sampled_from(FIELDS + MORE), VALUES, max_size=6),
    around=st.dictionaries(st.sampled_from(["repository", "sender", "installation", "workflow_job"]), VALUES, max_size=1),
)
def test_any_value_anywhere_is_never_anything_else(action: object, job: dict[str, Any], around: dict[str, Any]) -> None:
    body = json.dumps({**sample(), "action": action, "workflow_job": {**sample()["workflow_job"], **job}, **around}).encode()
    judge(signed(body), body)
