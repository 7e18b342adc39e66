"""The API: the same views as the pages, errors with exit codes, and writes that are written down."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from app.core.model import Reason
from app.core.states import State
from app.kit.bell import Bell
from app.store import audit, lease_views, ledger, sweep
from app.store.people import Role
from providers.contract import Health
from tests.web.conftest import Rebuilt, Service
from tests.web.story import NOW, afternoon, failed, live_to


async def test_a_lease_whole(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        view = (await client.get("/api/v1/leases/brave-otter-41")).json()
    assert view["schema_version"] == 1
    assert (view["name"], view["state"], view["gone"]) == ("brave-otter-41", "busy", False)
    assert view["price_per_hour"] == {"amount": "2.1900", "currency": "USD"}
    assert view["cost"] == {"amount": "0.579133", "currency": "USD", "estimate": True}
    assert view["created_at"] == "2026-11-21T12:00:08Z" and view["hard_end"] == "2026-11-21T13:00:04Z"
    assert view["job"]["url"].endswith("/job/30021") and view["job"]["state"] == "in_progress"
    phases = [(phase["phase"], phase["measured_by"]) for phase in view["phases"]]
    assert phases[:3] == [("queued", "github"), ("planned", "sublet"), ("launching", "sublet")]
    assert view["phases"][-1]["ended_at"] is None
    assert [check["passed"] for check in view["proof"]] == [True] * 6
    assert [check["what"] for check in view["proof"]][:2] == ["image", "image signature"]
    assert (view["mode"], view["signed"], view["revoked"], view["containers"]) == ("contained", True, "", [])
    image = view["image"]
    assert image["allowed"] and image["digest"] == view["image_digest"] and image["evidence"][0]["log_index"] == 7_041_992
    assert "payload" not in str(image) and "key_pem" not in str(image)
    assert view["decision"]["chosen"] == {"provider": "cloud-a", "offer": "r100-1x"}
    assert view["audit"][0]["action"] == "lease.busy" and view["log_lines"] == 7


async def test_a_lease_that_is_gone_shows_what_was_booked(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        view = (await client.get("/api/v1/leases/keen-stoat-64")).json()
    assert view["gone"] is True and view["gone_at"] == "2026-11-21T11:48:59Z" and view["reason"] == "job_done"
    assert view["cost"]["estimate"] is False
    assert [charge["kind"] for charge in view["charges"]] == ["before_job", "job", "after_job"]
    assert view["job"]["conclusion"] == "failure"


async def test_lists_by_kind_page_by_page(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        live = (await client.get("/api/v1/leases")).json()
        first = (await client.get("/api/v1/leases", params={"which": "past", "limit": 3})).json()
        rest = (await client.get("/api/v1/leases", params={"which": "past", "limit": 3, "before": first["before"]})).json()
        found = (await client.get("/api/v1/leases", params={"which": "all", "text": "SWIFT"})).json()
    assert [view["name"] for view in live["leases"]] == ["bold-newt-55", "swift-hare-02", "brave-otter-41"]
    assert live["more"] is False and live["before"] is None and first["more"] is True
    names = [view["name"] for view in first["leases"] + rest["leases"]]
    assert names == ["keen-stoat-64", "dull-crow-90", "red-finch-33", "wise-lynx-12", "calm-heron-07"]
    assert [view["name"] for view in found["leases"]] == ["swift-hare-02"]


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("brave-otter-41", "brave-otter-41"),
        ("000c5eed0000beef", "brave-otter-41"),
        ("000c5", "brave-otter-41"),
        ("https://github.example/acme/train/actions/runs/9/job/30021", "brave-otter-41"),
        ("000", None),
        ("0", None),
        ("%", None),
        ("https://github.example/acme/train/actions/runs/9/job/1", None),
    ],
)
async def test_a_lease_goes_by_name_id_prefix_or_job_address(service: Service, ref: str, name: str | None) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        reply = await client.get("/api/v1/resolve", params={"ref": ref})
    if name is None:
        assert reply.status_code == 404 and reply.json()["error"]["exit"] == 3
    else:
        assert reply.json()["name"] == name


async def test_a_drain_is_written_down_audited_and_hinted(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.OPERATOR) as client:
        reply = await client.post("/api/v1/leases/brave-otter-41/drain", json={"reason": "  flaky download  "})
        again = await client.post("/api/v1/leases/brave-otter-41/drain", json={"reason": "twice"})
        destroy = await client.post("/api/v1/leases/brave-otter-41/destroy", json={"reason": "now"})
    assert reply.json()["asked"] == "drain" and destroy.status_code == 200
    assert again.status_code == 409 and again.json()["error"]["exit"] == 5
    lease = lease_views.find(service.db, "brave-otter-41")
    assert lease is not None
    assert (lease.asked_reason, lease.asked_text, lease.drain_asked_at) == (Reason.OPERATOR, "flaky download", NOW)
    rows = audit.listing(service.db, f"lease:{lease.id}")
    assert [(row.actor, row.action, row.text) for row in rows[:2]] == [
        ("operator", "lease.destroy_asked", "now"), ("operator", "lease.drain_asked", "flaky download"),
    ]  # fmt: skip
    assert isinstance(service.parts.bell, Bell) and service.parts.bell.rings


async def test_a_lease_that_is_gone_takes_no_wish(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.OPERATOR) as client:
        reply = await client.post("/api/v1/leases/keen-stoat-64/destroy", json={"reason": "x"})
        empty = await client.post("/api/v1/leases/brave-otter-41/destroy", json={"reason": ""})
        torn = await client.post(
            "/api/v1/leases/brave-otter-41/destroy", content=b"{", headers={"content-type": "application/json"}
        )
    assert reply.status_code == 409 and reply.json()["error"]["code"] == "conflict"
    assert [empty.status_code, torn.status_code] == [422, 422] and empty.json()["error"]["exit"] == 2


async def test_the_queue_says_why_each_job_waits(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        waiting = (await client.get("/api/v1/queue")).json()
        started = (await client.get("/api/v1/queue", params={"tab": "started", "limit": 2})).json()
        alien = (await client.get("/api/v1/queue", params={"tab": "not_ours"})).json()
    assert [job["name"] for job in waiting["jobs"]] == ["nightly", "deploy-model", "gpu-tests"]
    assert all(job["wait"] and job["next_step"] and job["waiting_seconds"] > 0 for job in waiting["jobs"])
    assert waiting["counts"] == {"waiting": 3, "started": 1, "not_ours": 1}
    assert started["jobs"][0]["lease"] == {"id": "000c5eed0000beef", "name": "brave-otter-41"} and started["more"] is True
    assert alien["jobs"][0]["not_ours"] == "No pool serves the label windows."


async def test_the_log_is_read_on_from_where_one_stopped(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        first = (await client.get("/api/v1/leases/brave-otter-41/logs", params={"limit": 3})).json()
        rest = (await client.get("/api/v1/leases/brave-otter-41/logs", params={"after": first["last"]})).json()
        whole = (await client.get("/leases/brave-otter-41/log.txt")).text
    assert [line["seq"] for line in first["lines"] + rest["lines"]] == list(range(7))
    assert rest["lines"][-1]["line"] == "2026-11-21 12:02:03Z: Running job: gpu-eval"
    assert len(whole.splitlines()) == 7 and "T12:02:0" in whole


async def test_the_overview_counts_what_is_there(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        board = (await client.get("/api/v1/overview")).json()
        twin = (await client.get("/overview.json")).json()
    assert board == twin
    assert board["spending"] == [{"amount": "4.3800", "currency": "USD"}]
    assert board["by_state"] == {"planned": 1, "booting": 1, "busy": 1}
    assert board["oldest_wait_seconds"] == 1080.0 and board["start_times"]["count"] == 2
    assert {item["kind"] for item in board["attention"]} == {"failed", "waiting"}


async def test_doctor_says_what_is_wrong_and_what_to_do(service: Service, rebuilt: Rebuilt) -> None:
    async with service.client(Role.VIEWER) as client:
        reply = (await client.get("/api/v1/doctor")).json()
    status = {check["name"]: check["status"] for check in reply["checks"]}
    assert reply["ok"] is True
    assert status == {
        "database": "ok", "engine": "ok", "public_url": "warn", "pools": "ok", "allow list": "ok", "webhook secret": "ok",
        "forge github": "ok", "provider cloud-a": "ok", "sweep cloud-a": "skip", "destroys": "ok",
        "intake github": "ok", "listening github": "skip", "intake gitlab": "ok", "listening gitlab": "skip",
        "signatures": "ok", "image keys": "ok", "image rubin": "ok",
    }  # fmt: skip


async def test_doctor_of_a_service_in_trouble(rebuilt: Rebuilt, service: Service) -> None:

    async def poor() -> Health:
        return Health(False, "The balance is $0.00.")

    async def broken() -> Health:
        raise ConnectionError("secret detail")

    sick: Service = rebuilt(
        providers={"cloud-a": poor, "cloud-b": broken}, repositories=(), pools={}, forges={}, engine_beat=lambda: None
    )
    async with sick.client(Role.VIEWER) as client:
        reply = (await client.get("/api/v1/doctor")).json()
        ready = await client.get("/readyz")
    checks = {check["name"]: check for check in reply["checks"]}
    assert reply["ok"] is False and ready.status_code == 503
    assert checks["provider cloud-a"]["text"] == "The balance is $0.00." and checks["provider cloud-a"]["fix"]
    assert checks["provider cloud-b"]["status"] == "fail" and "secret" not in checks["provider cloud-b"]["text"]
    assert [checks[name]["status"] for name in ("allow list", "pools", "engine", "webhook secret")] == [
        "fail", "fail", "warn", "skip",
    ]  # fmt: skip


async def test_readiness_wants_an_engine_that_keeps_looking(service: Service, rebuilt: Rebuilt) -> None:
    elsewhere: Service = rebuilt(engine_beat=None)
    async with service.client() as client, elsewhere.client() as other:
        assert (await client.get("/readyz")).json()["engine_beat_age_seconds"] == 2.0
        assert (await other.get("/readyz")).status_code == 200  # the engine runs in another process
    stuck: Service = rebuilt(engine_beat=lambda: NOW)
    stuck.clock.advance(200)
    async with stuck.client() as client:
        assert (await client.get("/readyz")).status_code == 503


async def test_metrics_show_the_rows_of_now_and_no_label_grows(service: Service) -> None:
    afternoon(service.db)
    async with service.client() as client:
        before = (await client.get("/metrics")).text
        for number in range(50):
            service.parts.telemetry.deliveries.add(forge=f"forge-{number}", result=f"result-{number}")
            service.parts.telemetry.jobs.add(pool=f"pool-{number}", result="success")
        after = (await client.get("/metrics")).text
    for line in (
        'sublet_leases{gpu="rubin",phase="busy",provider="cloud-a"} 1.0',
        'sublet_spend_rate_per_hour{gpu="rubin",provider="cloud-a"} 4.38',
        'sublet_jobs_waiting{pool="rubin"} 2.0',
        'sublet_jobs_oldest_wait_seconds{pool="rubin"} 1080.0',
        "sublet_database_up 1.0",
        "sublet_engine_beat_age_seconds 2.0",
    ):
        assert line in before.splitlines()
    assert len(after.splitlines()) - len(before.splitlines()) <= 2


async def test_counters_grow_by_what_ended_since_the_last_scrape(service: Service) -> None:
    live_to(service.db, 1, "brave-otter-41", State.RELEASED, NOW - timedelta(minutes=14), job=1)
    async with service.client() as client:
        await client.get("/metrics")  # what ended before the service started is not its to count
        live_to(service.db, 2, "swift-hare-02", State.RELEASED, NOW, job=2, conclusion="cancelled")
        failed(service.db, 3, "dull-crow-90", NOW)
        sweep.sight(service.db, "provider:cloud-a", {"i-lost"}, NOW, timedelta(0))
        service.clock.advance(1_300)
        text = (await client.get("/metrics")).text
        again = (await client.get("/metrics")).text
    for line in (
        'sublet_leases_total{gpu="rubin",outcome="completed",provider="cloud-a"} 1.0',
        'sublet_leases_total{gpu="rubin",outcome="boot_failed",provider="cloud-a"} 1.0',
        'sublet_jobs_total{pool="rubin",result="cancellation"} 1.0',
        'sublet_job_start_duration_seconds_count{pool="rubin",provider="cloud-a"} 1.0',
        'sublet_lease_phase_duration_seconds_sum{gpu="rubin",phase="busy",provider="cloud-a"} 640.0',
        'sublet_orphans{provider="cloud-a"} 1.0',
    ):
        assert line in text.splitlines(), line
    spent = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("sublet_spend_total{")]
    booked = ledger.total(service.db, NOW)["USD"]
    assert round(sum(spent), 6) == float(booked) and [line for line in again.splitlines() if "_total{" in line] == [
        line for line in text.splitlines() if "_total{" in line
    ]


async def test_metrics_may_be_closed(service: Service, rebuilt: Rebuilt) -> None:

    closed: Service = rebuilt(settings=replace(service.parts.settings, metrics_open=False))
    async with closed.client() as client, closed.client(Role.VIEWER) as scraper:
        assert (await client.get("/metrics")).status_code == 401
        assert (await scraper.get("/metrics")).status_code == 200
