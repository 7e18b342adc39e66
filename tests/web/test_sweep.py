"""What costs money and should not: on the overview, the Health page and /metrics; and a person's word on strays."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.store import audit, leaks, strays, surveys
from app.store.db import Database
from app.store.people import Role
from tests.web.conftest import Service
from tests.web.story import NOW, strangers, stuck

PAGE = {"accept": "text/html"}
MINUTE = timedelta(minutes=1)


async def test_a_stuck_destroy_is_a_red_line_with_its_money_and_what_to_run(service: Service) -> None:
    stuck(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/")).text
        (item,) = (await client.get("/overview.json")).json()["attention"]
        health = (await client.get("/health-page")).text
        metrics = (await client.get("/metrics")).text
    assert "grim-boar-13 is not proven gone" in page and "so far</strong>" in page
    assert 'data-copy="sublet lease show grim-boar-13"' in page
    assert (item["urgent"], item["cost"]["amount"]) == (True, "0.7665")
    assert "Not proven gone: grim-boar-13 on cloud-a for 20 min, $0.77 so far." in health
    assert 'sublet_leak_cost{provider="cloud-a"} 0.7665' in metrics
    assert 'sublet_destroy_pending_seconds{provider="cloud-a"} 1200.0' in metrics


def test_a_stuck_destroy_is_told_of_once_and_not_before_its_time(db: Database) -> None:
    stuck(db)
    assert leaks.alarm(db, NOW - 6 * MINUTE) == []
    (told,) = leaks.alarm(db, NOW)
    assert told.name == "grim-boar-13" and leaks.alarm(db, NOW + MINUTE) == []
    (entry,) = [one for one in audit.listing(db, f"lease:{told.id}") if one.action == leaks.ALARM]
    assert "it has cost 0.766500 USD so far" in entry.text


async def test_a_stray_is_shown_with_its_cost_where_a_lease_had_its_tag(service: Service) -> None:
    stuck(service.db, since=MINUTE)
    strangers(service.db, 2)
    async with service.client(Role.VIEWER, **PAGE) as client:
        items = (await client.get("/overview.json")).json()["attention"]
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
    assert [(one["kind"], one["cost"] and one["cost"]["amount"]) for one in items] == [("stray", "1.0950"), ("stray", None)]
    assert checks["sweep cloud-a"]["status"] == "warn" and checks["destroys"]["status"] == "ok"


async def test_a_sweep_that_stopped_goes_on_by_a_persons_word_on_exactly_what_was_shown(service: Service) -> None:
    names = strangers(service.db, 6)
    async with service.client(Role.OPERATOR) as client:
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
        assert checks["sweep cloud-a"]["status"] == "fail" and "sublet sweep confirm cloud-a" in checks["sweep cloud-a"]["fix"]
        (told,) = (await client.get("/api/v1/sweep")).json()["providers"]
        assert (told["listed"], told["held"], [one["waits"] for one in told["strays"]]) == (20, 6, [True] * 6)
        assert 'sublet_sweep_held_instances{provider="cloud-a"} 6.0' in (await client.get("/metrics")).text
        body = {"instances": [*names[:5], "i-unknown"], "reason": "left over from the old backup"}
        assert (await client.post("/api/v1/sweep/cloud-a/confirm", json=body)).json()["confirmed"] == 5
        assert (await client.post("/api/v1/sweep/cloud-a/confirm", json=body)).status_code == 409
    waiting = [one.instance_id for one in strays.open_ones(service.db) if one.waits(NOW)]
    assert waiting == ["i-5"]
    assert all(one.waits(NOW + timedelta(hours=1)) for one in strays.open_ones(service.db)), "the word does not count for ever"
    entries = audit.listing(service.db, "instance:i-0")
    assert (entries[0].actor, entries[0].action) == ("operator", "instance.confirmed")
    assert "left over from the old backup" in entries[0].text


@pytest.mark.parametrize("body", [{"instances": [], "reason": "x"}, {"instances": ["i"]}, {"instances": "all", "reason": "x"}])
async def test_a_word_names_what_it_is_about(service: Service, body: dict[str, object]) -> None:
    async with service.client(Role.OPERATOR) as client:
        assert (await client.post("/api/v1/sweep/cloud-a/confirm", json=body)).status_code == 422


async def test_the_health_page_shows_what_waits_and_takes_the_word(service: Service) -> None:
    strangers(service.db, 5)
    cookie, csrf = service.session(Role.OPERATOR)
    async with service.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        page = (await client.get("/health-page")).text
        assert "sublet-nobody-i-4" in page and "Let these 5 go" in page
        form = {"csrf": csrf, "reason": "checked with the team", "instance": [f"i-{number}" for number in range(5)]}
        answer = await client.post("/sweep/cloud-a/confirm", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/health-page?asked=sweep")
        assert "Let these" not in (await client.get("/health-page")).text


async def test_a_viewer_sees_what_waits_and_whom_it_waits_for(service: Service) -> None:
    strangers(service.db, 5)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/health-page")).text
        assert "Let these" not in page and "needs the role operator; you are viewer" in page
        assert (await client.post("/sweep/cloud-a/confirm", data={"instance": "i-0"})).status_code == 403


def test_an_episode_is_audited_once(db: Database) -> None:
    for second in range(3):
        surveys.note(db, "cloud-a", listed=9, owned=4, held=5, now=NOW + timedelta(seconds=second))
    surveys.fail(db, "cloud-a", "cloud-a: no answer", NOW + MINUTE)
    surveys.note(db, "cloud-a", listed=4, owned=4, held=0, now=NOW + 2 * MINUTE)
    surveys.note(db, "cloud-a", listed=9, owned=4, held=5, now=NOW + 3 * MINUTE)
    told = [entry.action for entry in reversed(audit.listing(db, "provider:cloud-a"))]
    assert told == ["sweep.stopped", "sweep.goes_on", "sweep.stopped"]


def test_a_list_that_fails_keeps_the_numbers_and_their_time(db: Database) -> None:
    surveys.note(db, "cloud-a", listed=9, owned=4, held=5, now=NOW)
    surveys.fail(db, "cloud-a", "cloud-a: a page failed", NOW + MINUTE)
    told = surveys.listing(db)["cloud-a"]
    assert (told.at, told.listed, told.held, told.stopped_at, told.trouble) == (NOW, 9, 5, NOW, "cloud-a: a page failed")
