"""Forgejo's deliveries: signed, told apart from what their headers claim, and what each says of its job."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.model import JobState
from app.forges.contract import BadDelivery, BadSignature, DeliveryKind
from app.forges.forgejo import ForgejoForge
from providers.contract import Secret
from tests.fakes.forgejo import RELEASED, TOKEN, FakeForgejo
from tests.forges.conftest import HOOK_SECRET, ManualClock

PATH = "acme/train"
EVENT = "x-forgejo-event"


@dataclass
class ForgejoSide:
    """The server, and a maker of forges that speak to it."""

    server: FakeForgejo
    clock: ManualClock
    rates: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def forge(self, **changes: Any) -> ForgejoForge:
        values: dict[str, Any] = {
            "url": self.server.url,
            "token": Secret(TOKEN),
            "now": self.clock.now,
            "webhook_secret": Secret(HOOK_SECRET),
            "timeout": timedelta(seconds=2),
            "on_rate": self._note,
        }
        return ForgejoForge(**{**values, **changes})

    def _note(self, name: str, left: int) -> None:
        self.rates.append((name, left))


def serve(clock: ManualClock, prefix: str = "") -> Iterator[ForgejoSide]:
    """A Forgejo for as long as a test takes; its complaints fail the test."""
    server = FakeForgejo(clock.now, webhook_secret=HOOK_SECRET, prefix=prefix)
    server.start()
    try:
        yield ForgejoSide(server, clock)
    finally:
        server.stop()


@pytest.fixture
def forgejo(clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock)


def receiver(**changes: Any) -> ForgejoForge:
    values: dict[str, Any] = {"url": "https://forgejo.test", "token": Secret(TOKEN), "webhook_secret": Secret(HOOK_SECRET)}
    values["now"] = lambda: datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    return ForgejoForge(**{**values, **changes})


def sign(body: bytes, secret: str = HOOK_SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def sample(**changes: Any) -> dict[str, Any]:
    job = {"id": 9, "attempt": 1, "handle": "51ddf9d1-2649-4b08-9fde-6867275a4b28", "repo_id": 3, "run_id": 8, "name": "build"}
    return {
        "action": "new_attempt",
        "job": {**job, "needs": None, "runs_on": ["gpu", "Rubin"], "status": "waiting"},
        "run": {"id": 8, "prettyref": "main", "commit_sha": "a" * 40, "trigger_user": {"login": "ann"}},
        "repository": {"id": 3, "full_name": PATH},
        **changes,
    }


def pair(content: Any, event: str = "workflow_job_waiting") -> tuple[dict[str, str], bytes]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {EVENT: event, "x-forgejo-event-type": event, "x-forgejo-signature": sign(body)}, body


def test_a_jobs_whole_life_as_deliveries(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    first = server.queue_job(PATH, ["gpu", "Rubin"], actor="bob")
    second = server.queue_job(PATH, ["gpu"], needs=[first])
    server.cancel_job(first)
    told = [forge.parse(*delivery) for delivery in server.take_outbox()]
    jobs = [one.job for one in told if one.job is not None]
    assert [(job.key, job.state, job.conclusion) for job in jobs] == [
        (first.handle, JobState.QUEUED, ""),
        (second.handle, JobState.WAITING, ""),
        (first.handle, JobState.COMPLETED, "cancelled"),
        (second.handle, JobState.COMPLETED, "skipped"),
    ]
    assert [one.event for one in told][:2] == ["workflow_job_waiting", "workflow_job_blocked"]
    job = jobs[0]
    assert (job.id, job.repository, job.repository_id) == (f"forgejo-{first.handle}", PATH, str(first.run.repository.id))
    assert (job.run_id, job.attempt, job.labels) == (str(first.run.id), 1, ("gpu", "Rubin"))
    assert (job.name, job.workflow, job.branch, job.sha, job.actor) == ("train", "train.yml", "main", "c" * 40, "bob")
    assert job.url.startswith(f"{server.url}/{PATH}/actions/runs/")
    assert (job.queued_at, job.started_at) == (forgejo.clock.now(), None)


def test_a_rerun_is_another_job_with_a_key_of_its_own(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    first = server.queue_job(PATH, ["gpu"])
    server.cancel_job(first)
    server.rerun_job(first)
    jobs = [forge.parse(*delivery).job for delivery in server.take_outbox()]
    assert [job.attempt for job in jobs if job] == [1, 1, 2]
    assert len({job.key for job in jobs if job}) == 2
    again = jobs[-1]
    assert again is not None
    assert again.queued_at is None, "the run tells when its first attempt began, not this one"


def test_released_versions_tell_of_ended_runs_only_and_that_is_ignored(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    server.webhooks = RELEASED
    job = server.queue_job(PATH, ["gpu"])
    server.finish(job, "failure")
    (told,) = [forge.parse(*delivery) for delivery in server.take_outbox()]
    assert (told.kind, told.event, told.job) == (DeliveryKind.IGNORED, "action_run_failure", None)
    assert "released versions" in told.note
    push = forge.parse(*server.signed("push", {"ref": "refs/heads/main"}))
    assert (push.kind, push.event) == (DeliveryKind.IGNORED, "push")


def test_a_delivery_that_comes_again_has_the_same_key_and_every_state_its_own(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    job = server.queue_job(PATH, ["gpu"])
    (first,) = server.take_outbox()
    assert forge.parse(*first).guid == forge.parse(*server.deliver(job)).guid
    server.cancel_job(job)
    (later,) = server.take_outbox()
    assert len({forge.parse(*first).guid, forge.parse(*later).guid}) == 2
    assert forge.parse(*first).guid.startswith("sha256-")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-forgejo-signature": ""},
        {"x-forgejo-signature": "", "x-hub-signature-256": "right"},
        {"x-forgejo-signature": "0" * 64, "x-hub-signature-256": "right"},
        {"x-hub-signature-256": "sha256="},
        {"x-gitea-signature": "right"},
        {"x-forgejo-signature": "sha256=" + "0" * 64},
        {"x-forgejo-signature": "ü" * 64},
    ],
)
def test_what_is_not_signed_is_nobodys(headers: dict[str, str]) -> None:
    body = json.dumps(sample()).encode()
    right = {name: value.replace("right", sign(body)) for name, value in headers.items()}
    with pytest.raises(BadSignature):
        receiver().parse({EVENT: "workflow_job_waiting", **right}, body)


def test_the_twin_of_the_signature_counts_where_the_first_is_absent() -> None:
    body = json.dumps(sample()).encode()
    delivery = receiver().parse({EVENT: "workflow_job_waiting", "x-hub-signature-256": "sha256=" + sign(body)}, body)
    assert delivery.kind is DeliveryKind.JOB


def test_another_secret_or_another_body_does_not_fit_and_the_previous_secret_does() -> None:
    headers, body = pair(sample())
    with pytest.raises(BadSignature):
        receiver(webhook_secret=Secret("another")).parse(headers, body)
    with pytest.raises(BadSignature):
        receiver().parse(headers, body + b" ")
    for now, before in (("another", HOOK_SECRET), (HOOK_SECRET, "another")):
        both = receiver(webhook_secret=Secret(now), webhook_secret_previous=Secret(before))
        assert both.parse(headers, body).kind is DeliveryKind.JOB


def test_without_a_secret_nothing_is_taken_and_a_blank_one_is_refused_at_once() -> None:
    headers, body = pair(sample())
    with pytest.raises(BadSignature, match="polled"):
        receiver(webhook_secret=None).parse(headers, body)
    empty = {**headers, "x-forgejo-signature": sign(body, "")}
    with pytest.raises(BadSignature, match="polled"):
        receiver(webhook_secret=None).parse(empty, body)
    for blank in ({"webhook_secret": Secret(" ")}, {"webhook_secret_previous": Secret("")}, {"token": Secret(" ")}):
        with pytest.raises(ValueError, match="blank"):
            receiver(**blank)


def test_headers_are_not_signed_so_the_body_alone_says_what_came() -> None:
    """Whoever repeats a delivery may write any event over it."""
    headers, body = pair(sample())
    for event in ("push", "workflow_job_success", "", "Ü"):
        told = receiver().parse({**headers, EVENT: event, "x-forgejo-event-type": event}, body)
        assert told.job is not None
        assert told.job.state is JobState.QUEUED


@pytest.mark.parametrize(
    ("status", "state", "conclusion"),
    [
        ("unknown", JobState.WAITING, ""),
        ("blocked", JobState.WAITING, ""),
        ("something_new", JobState.WAITING, ""),
        ("waiting", JobState.QUEUED, ""),
        ("running", JobState.IN_PROGRESS, ""),
        *((word, JobState.COMPLETED, word) for word in ("success", "failure", "cancelled", "skipped")),
    ],
)
def test_every_status_has_its_place(status: str, state: JobState, conclusion: str) -> None:
    job = receiver().parse(*pair(sample(job={**sample()["job"], "status": status}))).job
    assert job is not None
    assert (job.state, job.conclusion) == (state, conclusion)


def job_with(**changes: Any) -> dict[str, Any]:
    return sample(job={**sample()["job"], **changes})


@pytest.mark.parametrize(
    "content",
    [
        b"payload=%7B%7D",
        b"[]",
        {"action": "waiting"},
        sample(repository=None),
        sample(repository={"id": 3, "full_name": "acme/.."}),
        sample(repository={"id": 4, "full_name": "mallory/train"}),
        sample(repository={"full_name": PATH}),
        sample(run={"id": 7}),
        job_with(run_id=None, handle="--config=/etc/passwd"),
        job_with(handle=None),
        job_with(handle="short"),
        job_with(handle="a" * 200),
        job_with(status=None),
        job_with(id="x"),
        job_with(runs_on="gpu", name=7),
    ],
)
def test_what_forgejo_would_not_send_is_refused_with_a_sentence(content: Any) -> None:
    with pytest.raises(BadDelivery, match="cannot be read"):
        receiver().parse(*pair(content))


def test_labels_that_are_too_many_or_too_long_are_none() -> None:
    """Whoever writes a workflow writes them, and one job must not keep a listing from being read."""
    for runs_on in (["x"] * 101, ["x" * 300], None):
        job = receiver().parse(*pair(job_with(runs_on=runs_on))).job
        assert job is not None
        assert job.labels == ()


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.dictionaries(
            st.sampled_from(["job", "run", "repository", "id", "handle", "status"]), inner, max_size=4
        ),
        max_leaves=12,
    )
)
def test_no_body_breaks_the_parser(content: Any) -> None:
    try:
        told = receiver().parse(*pair(content))
    except BadDelivery:
        return
    assert told.kind is DeliveryKind.IGNORED or told.job is not None
