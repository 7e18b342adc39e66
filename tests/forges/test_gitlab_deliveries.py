"""GitLab's deliveries: by token or signed, deduplicated, and what each says of its job."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.model import JobState
from app.forges.contract import BadDelivery, BadSignature, Delivery, DeliveryKind
from app.forges.gitlab import GitLabForge
from providers.contract import Secret
from tests.fakes.gitlab import sign, signing_token
from tests.forges.conftest import GitLabSide

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TOKEN = "a token in clear"
SIGNING = signing_token()
BY_TOKEN = {"x-gitlab-event": "Job Hook", "x-gitlab-token": TOKEN, "idempotency-key": "k-1"}


def receiver(**changes: Any) -> GitLabForge:
    values: dict[str, Any] = {"url": "https://gitlab.test", "token": Secret("glpat-none"), "now": lambda: NOW}
    values["webhook_token"] = Secret(TOKEN)
    return GitLabForge(**{**values, **changes})


def both_forms() -> GitLabForge:
    return receiver(signing_token=Secret(SIGNING))


def sample(**changes: Any) -> dict[str, Any]:
    web = "https://gitlab.test/acme/research/train"
    return {
        "object_kind": "build",
        "ref": "main",
        "sha": "a" * 40,
        "build_id": 1977,
        "build_name": "train",
        "build_stage": "gpu",
        "build_status": "pending",
        "build_created_at": "2026-11-21T11:59:00Z",
        "pipeline_id": 2366,
        "project_id": 380,
        "project_name": "Acme / Research / Train",
        "runner": None,
        "user": {"username": "ann"},
        "project": {"id": 380, "web_url": web, "path_with_namespace": "acme/research/train"},
        **changes,
    }


def read(content: Any, **headers: str) -> Delivery:
    return receiver().parse({**BY_TOKEN, **headers}, json.dumps(content).encode())


def test_the_token_in_clear_is_enough_where_that_is_all() -> None:
    assert read(sample()).kind is DeliveryKind.JOB
    for token in ("", "a token in clea", "a token in clear ", "é"):
        with pytest.raises(BadSignature):
            read(sample(), **{"x-gitlab-token": token})
    with pytest.raises(BadSignature):
        receiver().parse({}, b"{}")


def test_a_signature_is_enough_and_its_id_is_the_dedupe_key() -> None:
    body = json.dumps(sample()).encode()
    headers = {
        "x-gitlab-event": "Job Hook",
        "idempotency-key": "not covered by the signature",
        **sign(SIGNING, "id-7", NOW, body),
    }
    for forge in (both_forms(), receiver(webhook_token=None, signing_token=Secret(SIGNING))):
        assert forge.parse(headers, body).guid == "id-7"


def test_a_bad_signature_is_refused_even_with_the_right_token() -> None:
    body = json.dumps(sample()).encode()
    good = {**BY_TOKEN, **sign(SIGNING, "id-7", NOW, body)}
    wrong: list[dict[str, str]] = [
        {"webhook-signature": "v1," + base64.b64encode(b"x" * 32).decode()},
        {"webhook-signature": ""},
        {"webhook-signature": good["webhook-signature"].removeprefix("v1,")},
        {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-id": "id-8"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(int(good["webhook-timestamp"]) + 1)},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": ""},
        {"webhook-signature": "é"},
    ]
    for change in wrong:
        with pytest.raises(BadSignature):
            both_forms().parse({**good, **change}, body)
    with pytest.raises(BadSignature):
        both_forms().parse(good, body + b" ")
    with pytest.raises(BadSignature):
        both_forms().parse({**good, **sign(signing_token("other"), "id-7", NOW, body)}, body)


def test_one_good_signature_among_several_is_enough() -> None:
    """Standard Webhooks sends one per key while a key is changed."""
    body = json.dumps(sample()).encode()
    headers = {**BY_TOKEN, **sign(SIGNING, "id-7", NOW, body)}
    headers["webhook-signature"] = (
        f"v1a,xx {sign(signing_token('old'), 'id-7', NOW, body)['webhook-signature']} " + headers["webhook-signature"]
    )
    assert both_forms().parse(headers, body).kind is DeliveryKind.JOB


@pytest.mark.parametrize(("late", "taken"), [(0, True), (299, True), (-299, True), (301, False), (-301, False), (10**7, False)])
def test_a_replay_outside_five_minutes_is_refused(late: int, taken: bool) -> None:
    body = json.dumps(sample()).encode()
    headers = {**BY_TOKEN, **sign(SIGNING, "id-7", NOW, body, late=timedelta(seconds=late))}
    if taken:
        assert both_forms().parse(headers, body).guid == "id-7"
    else:
        with pytest.raises(BadSignature, match="too old"):
            both_forms().parse(headers, body)


def test_without_a_signature_the_token_still_counts_if_there_is_one() -> None:
    """Older servers silently ignore a signing token."""
    body = json.dumps(sample()).encode()
    assert both_forms().parse(BY_TOKEN, body).guid == "k-1"
    with pytest.raises(BadSignature):
        receiver(webhook_token=None, signing_token=Secret(SIGNING)).parse(BY_TOKEN, body)


def test_a_signature_that_we_cannot_check_does_not_stand_in_the_way_of_the_token() -> None:
    body = json.dumps(sample()).encode()
    headers = {**BY_TOKEN, **sign(SIGNING, "id-7", NOW, body)}
    assert receiver().parse(headers, body).guid == "k-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook_token": Secret("")},
        {"webhook_token": Secret(" \n")},
        {"signing_token": Secret("")},
        {"signing_token": Secret("whsec_")},
        {"signing_token": Secret("whsec_not base64!")},
        {"signing_token": Secret("whsec_" + base64.b64encode(b"short").decode())},
        {"signing_token": Secret(SIGNING.removeprefix("whsec_"))},
        {"token": Secret("")},
        {"url": "gitlab.test"},
        {"url": "https://ann:hunter2@gitlab.test"},
    ],
)
def test_blank_or_malformed_secrets_are_refused_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GitLab") as caught:
        receiver(**changes)
    assert "hunter2" not in str(caught.value)


def test_with_neither_token_nothing_is_authentic() -> None:
    """GitLab is polled only."""
    forge = receiver(webhook_token=None)
    for headers in ({}, {"x-gitlab-token": ""}, {"x-gitlab-token": "None"}, {"webhook-signature": "v1,", "webhook-id": "a"}):
        with pytest.raises(BadSignature, match=r"No webhook is taken here: GitLab is polled\."):
            forge.parse(headers, b"{}")


def test_the_documented_example_is_read(payloads: Path) -> None:
    raw = (payloads / "gitlab" / "payloads" / "job_hook.created.docs-example.json").read_bytes()
    job = receiver().parse(BY_TOKEN, raw).job
    assert job is not None
    assert (job.id, job.state, job.labels) == ("gitlab-1977", JobState.WAITING, None)
    assert (job.repository, job.repository_id, job.run_id) == ("gitlab-org/gitlab-test", "380", "2366")
    assert job.url == "http://192.168.64.1:3005/gitlab-org/gitlab-test/-/jobs/1977"
    assert (job.runner_id, job.runner_name) == ("", ""), "a job that was only created has no runner, whatever the event shows"
    assert (job.attempt, job.actor, job.workflow, job.branch) == (3, "user", "test", "gitlab-script-trigger")
    assert job.queued_at == datetime(2021, 2, 23, 2, 41, 37, 886000, tzinfo=UTC)


def test_the_tags_of_the_runner_are_not_those_of_the_job() -> None:
    runner = {"id": 4, "description": "sublet-a", "tags": ["gpu", "secret-deploy"]}
    job = read(sample(build_status="running", runner=runner)).job
    assert job is not None
    assert job.labels is None
    assert (job.runner_id, job.runner_name) == ("4", "sublet-a")


@pytest.mark.parametrize(
    ("status", "state", "conclusion"),
    [
        ("created", JobState.WAITING, ""),
        ("pending", JobState.QUEUED, ""),
        ("running", JobState.IN_PROGRESS, ""),
        ("success", JobState.COMPLETED, "success"),
        ("failed", JobState.COMPLETED, "failure"),
        ("canceled", JobState.COMPLETED, "cancelled"),
    ],
)
def test_every_status_that_gitlab_sends_has_its_state(status: str, state: JobState, conclusion: str) -> None:
    delivery = read(sample(build_status=status, build_finished_at="2021-02-23 02:41:37 UTC"))
    assert delivery.job is not None
    assert (delivery.action, delivery.job.state, delivery.job.conclusion) == (status, state, conclusion)
    ended = datetime(2021, 2, 23, 2, 41, 37, tzinfo=UTC) if state is JobState.COMPLETED else None
    assert delivery.job.completed_at == ended


@pytest.mark.parametrize("status", ["manual", "skipped", "scheduled", "preparing", "waiting_for_resource", "brand_new"])
def test_every_other_status_is_ignored_with_a_note(status: str) -> None:
    delivery = read(sample(build_status=status))
    assert (delivery.kind, delivery.job, delivery.action) == (DeliveryKind.IGNORED, None, status)
    assert status in delivery.note


def test_other_events_are_ignored(payloads: Path) -> None:
    raw = (payloads / "gitlab" / "payloads" / "pipeline_hook.docs-example.json").read_bytes()
    assert receiver().parse({**BY_TOKEN, "x-gitlab-event": "Pipeline Hook"}, raw).kind is DeliveryKind.IGNORED
    assert read({"object_kind": "push"}, **{"x-gitlab-event": "Push Hook"}).kind is DeliveryKind.IGNORED
    assert read(sample(), **{"x-gitlab-event": "System Hook"}).kind is DeliveryKind.IGNORED
    with pytest.raises(BadDelivery, match="object_kind"):
        read({"object_kind": "push"})


def test_the_dedupe_key_is_the_idempotency_key_or_the_best_there_is() -> None:
    body = json.dumps(sample()).encode()
    plain = {"x-gitlab-event": "Job Hook", "x-gitlab-token": TOKEN}
    forge = receiver()
    assert forge.parse({**plain, "idempotency-key": "k", "webhook-id": "w"}, body).guid == "k"
    assert forge.parse({**plain, "webhook-id": "w"}, body).guid == "w"
    shared = {**plain, "x-gitlab-event-uuid": "u"}
    once, again = forge.parse(shared, body).guid, forge.parse(shared, body).guid
    other = forge.parse(shared, json.dumps(sample(build_status="running")).encode()).guid
    assert once == again != other, "recursive hooks share the event's UUID, so it is no key by itself"
    assert forge.parse(plain, body).guid == forge.parse(plain, body).guid != once
    assert len(forge.parse({**plain, "idempotency-key": "x" * 500}, body).guid) <= 200


@pytest.mark.parametrize(
    ("url", "project", "repository", "expected"),
    [
        ("https://gitlab.test", {"path_with_namespace": "a/b"}, {"homepage": "https://gitlab.test/x/y"}, "a/b"),
        ("https://gitlab.test", {"web_url": "https://gitlab.test/a/b/c"}, {}, "a/b/c"),
        ("https://gitlab.test", None, {"homepage": "http://inside:3005/a/b"}, "a/b"),
        ("https://host/gitlab", None, {"homepage": "https://host/gitlab/a/b"}, "a/b"),
        ("https://host/gitlab/", {"web_url": "https://host/gitlab/gitlab/b/"}, None, "gitlab/b"),
    ],
)
def test_the_projects_path_comes_from_paths_and_never_from_names(
    url: str, project: dict[str, str] | None, repository: dict[str, str] | None, expected: str
) -> None:
    """`project_name` is "Group / Project" for people: anybody may name a group like somebody else's path."""
    content = sample(project=project, repository=repository, project_name="acme/train")
    job = receiver(url=url).parse(BY_TOKEN, json.dumps(content).encode()).job
    assert job is not None
    assert job.repository == expected


HOSTILE: list[dict[str, Any]] = [
    {"build_id": None},
    {"build_id": "x"},
    {"build_id": [1]},
    {"build_id": True},
    {"build_status": ["pending"]},
    {"build_status": None},
    {"project_id": "../1"},
    {"project_id": 381},
    {"project": [], "repository": []},
    {"project": None, "repository": None},
    {"project": {"path_with_namespace": "../../x"}},
    {"project": {"path_with_namespace": "acme"}},
    {"project": {"path_with_namespace": "acme/" + "x" * 400}},
    {"project": {"web_url": "https://gitlab.test/../etc"}},
    {"project": {"web_url": "https://gitlab.test/a%2F..%2F../b"}},
    {"sha": "$(reboot)"},
    {"build_name": {"x": 1}},
    {"retries_count": "many"},
    {"runner": "x"},
    {"user": ["ann"]},
    {"pipeline_id": -1},
    {"build_created_at": 5},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_hostile_values_are_refused_with_a_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(BadDelivery, match=r"GitLab's delivery cannot be read: .*\."):
        read(sample(**changes))


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"null", b"\xff", b"[" * 100_000], ids=range(6))
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadDelivery):
        receiver().parse(BY_TOKEN, body)


def test_the_fakes_deliveries_are_authentic_and_readable(any_gitlab: GitLabSide) -> None:
    """Both forms at once, from a server of its own or under a path, through a job's whole life."""
    server = any_gitlab.server
    server.signing_token = SIGNING
    forge = any_gitlab.forge(signing_token=Secret(SIGNING))
    job = server.queue_job(server.add_project("acme/research/train"), ["gpu"], status="created")
    server.enqueue(job)
    server.start_job(job, 9)
    server.finish_job(job, "failed")
    again = server.retry_job(job)
    read_back = [forge.parse(*pair) for pair in server.take_outbox()]
    assert [one.action for one in read_back] == ["created", "pending", "running", "failed", "created", "pending"]
    jobs = [one.job for one in read_back if one.job]
    assert {one.repository for one in jobs} == {"acme/research/train"}
    assert [one.key for one in jobs] == [str(job.id)] * 4 + [str(again.id)] * 2
    assert forge.parse(*server.deliver(again)).guid == read_back[-1].guid, "sent again, the key is the same"


FIELDS = ("build_id", "build_status", "build_name", "project_id", "project", "repository", "runner", "user", "commit", "sha")
HEADERS = ("x-gitlab-event", "idempotency-key", "x-gitlab-event-uuid")
MORE = ("pipeline_id", "retries_count", "build_created_at", "build_started_at", "ref", "object_kind", "build_stage")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def judge(headers: dict[str, str], body: bytes) -> None:
    """Whatever comes: a delivery, or one of the two errors that intake answers."""
    try:
        delivery = both_forms().parse(headers, body)
    except (BadSignature, BadDelivery) as error:
        assert 0 < len(str(error)) < 500
        return
    assert 0 < len(delivery.guid) <= 200
    repr(delivery).encode()


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), header=st.text(max_size=90), name=st.sampled_from(["webhook-signature", "x-gitlab-token"]))
def test_noise_is_never_anything_else(body: bytes, header: str, name: str) -> None:
    judge({**BY_TOKEN, name: header, "webhook-id": header, "webhook-timestamp": header}, body)
    judge(BY_TOKEN, body)


@settings(max_examples=200, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS + MORE), VALUES, max_size=5),
    headers=st.dictionaries(
        st.sampled_from(["x-gitlab-event", "idempotency-key", "x-gitlab-event-uuid"]), st.text(), max_size=2
    ),
)
def test_any_value_anywhere_is_never_anything_else(changes: dict[str, Any], headers: dict[str, str]) -> None:
    judge({**BY_TOKEN, **headers}, json.dumps(sample(**changes)).encode())
