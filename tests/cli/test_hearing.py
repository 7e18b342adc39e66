"""The command line tells how late a job was heard of and by what, which job a lease is for, and why a runner did not start."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from app.web.schema import LeaseDetail
from tests.cli import samples
from tests.cli.conftest import Run, Service

ONE = f"leases/{samples.ID}"
POLLED: dict[str, Any] = {
    "heard_by": "poll", "heard_after_seconds": 9.0, "heard": "heard of after 9 s, by polling every 15 s",
}  # fmt: skip
MADE = "Made for acme/train · gpu-eval alone: Forgejo pins a runner to its job."
TOO_OLD = "forgejo-runner 12.1.0 is too old."


def a_lease(service: Service, **changed: Any) -> None:
    assert set(changed) <= set(LeaseDetail.model_fields)
    service.says("GET resolve", {"schema_version": 1, "id": samples.ID, "name": "brave-otter-41"})
    service.says(f"GET {ONE}", samples.lease() | changed)


def test_queue_has_a_column_for_the_delay(sublet: Run, service: Service) -> None:
    webhook = {"heard_by": "webhook", "heard_after_seconds": None, "heard": "heard of by webhook"}
    service.says("GET queue", {"schema_version": 1, "jobs": [samples.waiting(**POLLED), samples.waiting(**webhook)]})
    rows = list(csv.DictReader(io.StringIO(sublet("queue", "-o", "csv").out)))
    assert [row["heard"] for row in rows] == ["9 s poll", "webhook"]
    assert "HEARD" in sublet("queue").out


def test_queue_of_an_older_service_says_nothing_of_it(sublet: Run, service: Service) -> None:
    old = {key: value for key, value in samples.waiting().items() if not key.startswith("heard")}
    service.says("GET queue", {"schema_version": 1, "jobs": [old]})
    (row,) = csv.DictReader(io.StringIO(sublet("queue", "-o", "csv").out))
    assert row["heard"] == ""


def test_explain_of_a_waiting_job_tells_the_delay(sublet: Run, service: Service) -> None:
    service.says("GET queue", {"schema_version": 1, "jobs": [samples.waiting(**POLLED)]})
    told = sublet("explain", "https://github.com/acme/train/actions/runs/9/job/30021")
    assert told.out.splitlines()[2] == "Heard of after 9 s, by polling every 15 s."


def test_explain_of_a_lease_tells_the_delay_and_whose_it_is(sublet: Run, service: Service) -> None:
    a_lease(service, job=samples.job(**POLLED).model_dump(mode="json"), for_job="forgejo-8c4f", serves=MADE)
    lines = sublet("explain", "brave-otter-41").out.splitlines()
    assert MADE in lines and "Heard of after 9 s, by polling every 15 s." in lines
    view = sublet("explain", "brave-otter-41", "--json").json
    assert view["lease"]["for_job"] == "forgejo-8c4f" and view["lease"]["serves"] == MADE
    assert view["job"] == POLLED


@pytest.mark.parametrize("reason_text", [TOO_OLD, "The node gave up."])
def test_explain_tells_once_why_no_runner_started(sublet: Run, service: Service, reason_text: str) -> None:
    a_lease(service, reason="runner_failed", reason_text=reason_text, note=reason_text, runner_why=TOO_OLD)
    out = sublet("explain", "brave-otter-41").out
    assert out.count(TOO_OLD) == 1
    assert ("The node could not start its runner" in out) is (reason_text != TOO_OLD)
    assert sublet("explain", "brave-otter-41", "--json").json["lease"]["runner_why"] == TOO_OLD


def test_show_tells_all_of_it(sublet: Run, service: Service) -> None:
    a_lease(service, job=samples.job(**POLLED).model_dump(mode="json"), serves=MADE, runner_why=TOO_OLD)
    out = sublet("lease", "show", "brave-otter-41").out
    for line in ("heard     after 9 s, by polling every 15 s", f"serves    {MADE}", f"no runner {TOO_OLD}"):
        assert line in out.splitlines(), out
