"""Gitea's webhook deliveries: genuine and forged, in any order, and what a job's words mean in either generation."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.core.model import Job, JobState
from app.forges.contract import BadDelivery, BadSignature, Delivery, DeliveryKind, Forge
from app.forges.gitea import GiteaForge
from app.store.jobs import join
from providers.contract import Secret
from tests.forges.conftest import HOOK_SECRET, ManualClock
from tests.forges.gitea_side import REPOSITORY, GiteaSide, serve


@pytest.fixture
def gitea(clock: ManualClock) -> Iterator[GiteaSide]:
    yield from serve(clock)


def job_of(delivery: Delivery) -> Job:
    assert delivery.kind is DeliveryKind.JOB
    assert delivery.job is not None
    return delivery.job


def signed(gitea: GiteaSide, content: object, event: str = "workflow_job") -> tuple[dict[str, str], bytes]:
    """A genuine delivery of whatever the test likes."""
    return gitea.server.send(event, content)  # pyright: ignore[reportArgumentType]


def test_it_is_a_forge(gitea: GiteaSide) -> None:
    forge: Forge = gitea.forge()
    assert (forge.name, forge.kind, forge.always_2xx, forge.single_use) == ("gitea", "gitea", False, True)
    assert (forge.pinned, forge.wide, forge.reruns_in_place) == (False, True, True)


def test_a_job_is_read_whole(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu", "Rubin"], actor="zoe")
    pair = gitea.server.take_outbox()[0]
    delivery = gitea.forge().parse(*pair)
    home = next(iter(gitea.server.repositories.values()))
    assert (delivery.forge, delivery.event, delivery.action) == ("gitea", "workflow_job", "queued")
    assert job_of(delivery) == Job(
        id=f"gitea-{job.id}",
        forge="gitea",
        key=str(job.id),
        repository=REPOSITORY,
        repository_id=str(home.id),
        state=JobState.QUEUED,
        run_id=str(job.run_id),
        attempt=1,
        labels=("gpu", "Rubin"),
        name="train",
        url=f"{gitea.server.url}/{REPOSITORY}/actions/runs/{job.run_id}/jobs/{job.id}",
        branch="main",
        sha="c" * 40,
        actor="zoe",
        queued_at=gitea.clock.now(),
    )


def test_the_life_of_two_jobs_one_of_which_needs_the_other(gitea: GiteaSide) -> None:
    """In the order of Gitea's own test (tests/integration/repo_webhook_test.go)."""
    server, forge = gitea.server, gitea.forge()
    first = server.queue_job(REPOSITORY, ["gpu"])
    second = server.queue_job(REPOSITORY, ["gpu"], needs=first)
    server.start_job(first, 77)
    server.finish_task(first)
    told = [job_of(forge.parse(*pair)) for pair in server.take_outbox()]
    one, two = f"gitea-{first.id}", f"gitea-{second.id}"
    assert [(job.id, job.state) for job in told] == [
        (one, JobState.QUEUED),
        (two, JobState.WAITING),
        (one, JobState.IN_PROGRESS),
        (one, JobState.COMPLETED),
        (two, JobState.QUEUED),
    ]
    assert [job.conclusion for job in told] == ["", "", "", "success", ""]
    assert [job.runner_id for job in told] == ["", "", "77", "77", ""]
    assert [job.started_at is None for job in told] == [True, True, False, False, True], "1970 is no time"


@pytest.mark.parametrize(
    ("version", "gated", "word"), [("1.24.0", False, "waiting"), ("1.27.0", False, "pending"), ("1.27.0", True, "waiting")]
)
def test_what_waits_is_no_demand_in_either_generation(clock: ManualClock, version: str, gated: bool, word: str) -> None:
    for gitea in serve(clock, version=version):
        first = gitea.server.queue_job(REPOSITORY, ["gpu"])
        gitea.server.queue_job(REPOSITORY, ["gpu"], needs=() if gated else first, gated=gated)
        delivery = gitea.forge().parse(*gitea.server.take_outbox()[-1])
        assert (delivery.action, job_of(delivery).state) == (word, JobState.WAITING)
        assert job_of(delivery).started_at is None
        assert job_of(delivery).completed_at is None


def test_a_queued_jobs_runner_means_nothing(gitea: GiteaSide) -> None:
    """A job that is run again may still carry the runner of the time before."""
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    content = json.loads(gitea.server.take_outbox()[0][1])
    content["workflow_job"] |= {"runner_id": 5, "runner_name": "old", "started_at": "2026-11-20T00:00:00Z"}
    job = job_of(gitea.forge().parse(*signed(gitea, content)))
    assert (job.runner_id, job.runner_name, job.started_at) == ("", "", None)


def test_any_order_ends_in_the_same_place(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"])
    gitea.server.start_job(job, 77)
    gitea.server.finish_task(job, "failure")
    told = [job_of(gitea.forge().parse(*pair)) for pair in gitea.server.take_outbox()]
    forwards, backwards = told[0], told[-1]
    for one in told[1:]:
        forwards = join(forwards, one)
    for one in reversed(told[:-1]):
        backwards = join(backwards, one)
    assert forwards == backwards
    assert (forwards.state, forwards.conclusion) == (JobState.COMPLETED, "failure")


def test_what_gitea_sends_again_after_a_restart_has_the_same_key(gitea: GiteaSide) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    pair = gitea.server.take_outbox()[0]
    key = gitea.forge().parse(*pair).guid
    assert key.startswith("sha256-")
    assert gitea.forge().parse(*gitea.server.again(pair)).guid == key
    by_hand = gitea.server.redeliver(pair)
    assert by_hand[1] == pair[1]
    assert gitea.forge().parse(*by_hand).guid != key


def test_a_job_that_was_cancelled_before_it_began_and_is_run_again_is_no_repeat(gitea: GiteaSide) -> None:
    """Not one value differs between the two deliveries: no runner had it, so that not even an attempt was counted."""
    job = gitea.server.queue_job(REPOSITORY, ["gpu"])
    gitea.server.cancel_job(job)
    gitea.server.rerun_job(job)
    first, ended, again = gitea.server.take_outbox()
    assert first[1] == again[1]
    keys = [gitea.forge().parse(*pair).guid for pair in (first, ended, again)]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("delivery", ["", "x" * 5000, "\udcff", "\x00"])
def test_a_delivery_id_that_is_none_does_no_harm(gitea: GiteaSide, delivery: str) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    headers, body = gitea.server.take_outbox()[0]
    found = gitea.forge().parse({**headers, "x-gitea-delivery": delivery}, body)
    assert (found.kind, len(found.guid)) == (DeliveryKind.JOB, 71)


def test_a_job_run_again_keeps_its_id_until_1_26_and_is_another_delivery(gitea: GiteaSide) -> None:
    server, forge = gitea.server, gitea.forge()
    job = server.queue_job(REPOSITORY, ["gpu"])
    server.start_job(job, 77)
    server.finish_task(job)
    assert server.rerun_job(job) is job
    server.start_job(job, 78)
    told = [forge.parse(*pair) for pair in server.take_outbox()]
    assert len({one.guid for one in told}) == 5
    assert {job_of(one).key for one in told} == {str(job.id)}
    assert [job_of(one).attempt for one in told] == [1, 1, 1, 1, 2], "it counts when a runner takes the job"


def test_a_job_run_again_is_a_new_one_from_1_27(clock: ManualClock) -> None:
    for gitea in serve(clock, version="1.27.0"):
        job = gitea.server.queue_job(REPOSITORY, ["gpu"])
        again = gitea.server.rerun_job(job)
        told = [job_of(gitea.forge().parse(*pair)) for pair in gitea.server.take_outbox()]
        assert [(one.key, one.attempt) for one in told] == [(str(job.id), 1), (str(again.id), 2)]


def test_the_secret_before_is_good_too(gitea: GiteaSide) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    pair = gitea.server.take_outbox()[0]
    changed = gitea.forge(webhook_secret=Secret("new"), webhook_secret_previous=Secret(HOOK_SECRET))
    assert changed.parse(*pair).kind is DeliveryKind.JOB
    with pytest.raises(BadSignature):
        gitea.forge(webhook_secret=Secret("new")).parse(*pair)


def test_a_forged_delivery_is_refused(gitea: GiteaSide) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    headers, body = gitea.server.take_outbox()[0]
    forge, good = gitea.forge(), headers["x-hub-signature-256"]
    for signature in ("", "sha256=", "sha1=" + "0" * 40, good[:-1], good.upper(), good + " ", "sha256=" + "0" * 64, "\udcff"):
        with pytest.raises(BadSignature):
            forge.parse({**headers, "x-hub-signature-256": signature}, body)
    with pytest.raises(BadSignature):
        forge.parse(headers, body + b" ")
    without = {name: value for name, value in headers.items() if name != "x-hub-signature-256"}
    with pytest.raises(BadSignature, match="has the webhook a secret"):
        forge.parse(without, body)


def test_a_webhook_without_a_secret_sends_empty_signatures_which_prove_nothing(gitea: GiteaSide) -> None:
    gitea.server.webhook_secret = ""
    job = gitea.server.queue_job(REPOSITORY, ["gpu"])
    headers, body = gitea.server.deliver(job)
    assert (headers["x-hub-signature-256"], headers["x-gitea-signature"]) == ("sha256=", "")
    with pytest.raises(BadSignature, match="has the webhook a secret"):
        gitea.forge().parse(headers, body)


def test_without_a_secret_of_ours_nothing_is_taken(gitea: GiteaSide) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    with pytest.raises(BadSignature, match="Gitea is polled"):
        gitea.forge(webhook_secret=None).parse(*gitea.server.take_outbox()[0])
    for blank in ("", "  "):
        with pytest.raises(ValueError, match="blank"):
            gitea.forge(webhook_secret=Secret(blank))
        with pytest.raises(ValueError, match="blank"):
            gitea.forge(webhook_secret_previous=Secret(blank))


def test_other_events_and_actions_are_noted_and_left(gitea: GiteaSide) -> None:
    forge: GiteaForge = gitea.forge()
    push = forge.parse(*signed(gitea, {"ref": "refs/heads/main"}, "push"))
    assert (push.kind, push.event) == (DeliveryKind.IGNORED, "push")
    assert "push" in push.note
    odd = forge.parse(*signed(gitea, {"action": "renamed"}))
    assert (odd.kind, odd.action) == (DeliveryKind.IGNORED, "renamed")


@pytest.mark.parametrize("family", ["x-gitea-event-type", "x-gitea-event", "x-github-event"])
def test_the_event_is_told_by_any_of_three_headers(gitea: GiteaSide, family: str) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    headers, body = gitea.server.take_outbox()[0]
    kept = {name: value for name, value in headers.items() if "-event" not in name or name == family}
    assert gitea.forge().parse(kept, body).kind is DeliveryKind.JOB
    with pytest.raises(BadDelivery, match="X-Gitea-Event"):
        gitea.forge().parse({name: value for name, value in kept.items() if name != family}, body)


@pytest.mark.parametrize(
    "change",
    [
        {"workflow_job": None},
        {"workflow_job": {"id": "x"}},
        {"workflow_job": {"labels": "gpu"}},
        {"workflow_job": {"labels": [1]}},
        {"workflow_job": {"run_attempt": -1}},
        {"workflow_job": {"run_attempt": 10**9}},
        {"workflow_job": {"head_sha": "; rm"}},
        {"workflow_job": {"created_at": 5}},
        {"repository": None},
        {"repository": {"full_name": "../admin"}},
        {"repository": {"full_name": "acme"}},
        {"sender": []},
    ],
)
def test_what_is_signed_may_still_be_unreadable(gitea: GiteaSide, change: dict[str, Any]) -> None:
    gitea.server.queue_job(REPOSITORY, ["gpu"])
    content = json.loads(gitea.server.take_outbox()[0][1])
    for name, value in change.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    with pytest.raises(BadDelivery, match="cannot be read"):
        gitea.forge().parse(*signed(gitea, content))


def test_a_body_that_is_no_json(gitea: GiteaSide) -> None:
    forge = gitea.forge()
    for content in (None, "text", 5, ["a"]):
        with pytest.raises(BadDelivery):
            forge.parse(*signed(gitea, content))


def test_a_webhook_that_sends_forms_is_told_what_to_do(gitea: GiteaSide) -> None:
    body = b"payload=%7B%7D"
    made = hmac.new(HOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": f"sha256={made}", "x-gitea-event": "workflow_job"}
    with pytest.raises(BadDelivery, match="application/json"):
        gitea.forge().parse(headers, body)
