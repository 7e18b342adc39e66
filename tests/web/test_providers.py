"""Providers over HTTP and on their page: how each stands, what it can do, and what a person may do about it."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.core.breaker import Standing, failed
from app.store import audit, standings
from app.store.people import Role
from app.web import providers
from providers.contract import Health, Throttled
from tests.web.conftest import Rebuilt, Service
from tests.web.market_story import CHECKS, MAKES, MINUTE, TRAITS, market_place
from tests.web.story import NOW
from tests.web.test_pages import words

PAGE = {"accept": "text/html"}


@pytest.fixture
def trading(service: Service, rebuilt: Rebuilt) -> Service:
    """Four providers in four states."""
    market_place(service.db)
    return rebuilt(providers=CHECKS, traits=TRAITS, makes=MAKES)


async def told(service: Service, path: str) -> Any:
    async with service.client(Role.VIEWER) as client:
        reply = await client.get(f"/api/v1/providers{path}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_each_provider_says_how_it_stands(trading: Service) -> None:
    found = {one["name"]: one for one in (await told(trading, ""))["providers"]}
    assert {name: one["standing"]["state"] for name, one in found.items()} == {
        "cloud-a": "well", "cloud-b": "away", "cloud-c": "paused", "lab": "well",
    }  # fmt: skip
    away, paused = found["cloud-b"]["standing"], found["cloud-c"]["standing"]
    assert (away["sentence"], away["until"]) == ("the key has expired", "2026-11-21T12:20:05Z")
    assert (paused["sentence"], paused["by"], paused["since"]) == (
        "Paused by ana: prices went up; asking their sales", "ana", "2026-11-21T09:16:05Z",
    )  # fmt: skip
    (cold,) = found["cloud-a"]["cooldowns"]
    assert (cold["region"], cold["type"], cold["offer"], cold["failures"]) == ("ap-southeast-3", "r100-8x", "", 2)
    assert cold["until"] == "2026-11-21T12:17:35Z" and "no r100-8x in ap-southeast-3" in cold["why"]
    cloud, lab = found["cloud-a"], found["lab"]
    assert (cloud["kind"], cloud["package"], cloud["offers"], cloud["passing"]) == ("aws", "sublet 0.1.0", 5, 2)
    assert (cloud["cheapest"]["id"], cloud["live_leases"]) == ("r100-1x/spot", 2)
    assert (cloud["sweep"]["listed"], cloud["sweep"]["at"]) == (4, "2026-11-21T12:15:53Z")
    assert found["cloud-b"]["sweep"]["trouble"] == "cloud-b: the key has expired"
    assert (lab["own_hardware"], lab["offers_seen_at"], lab["cheapest"], lab["sweep"]) == (True, None, None, None)


async def test_the_matrix_says_what_is_known_and_unknown_for_the_rest(trading: Service) -> None:
    rows = {row["name"]: row["value"] for row in (await told(trading, "/cloud-a"))["matrix"]}
    assert rows["audit_logs"] == "unknown" and rows["own_keys"].startswith("yes")
    assert rows["pricing"] == "by the vendor's price list; billed in steps of 1 min, at least 10 min, in USD"
    assert rows["notice"] == "2 min" and rows["idempotent_create"] == "one machine: the vendor honours our key"
    assert rows["dead_man_switch"].startswith("no:") and rows["creates"] == "20"
    assert rows["note_public_address"] == "none, unless the settings ask for one"
    rows = {row["name"]: row["value"] for row in (await told(trading, "/cloud-b"))["matrix"]}
    assert {rows[name] for name in ("hardware", "footprint", "residency", "notice", "proven_against", "user_data")} == {
        "unknown"
    }
    assert rows["dead_man_switch"].startswith("yes:") and rows["idempotent_create"].startswith("the vendor would make two")
    rows = {row["name"]: row["value"] for row in (await told(trading, "/lab"))["matrix"]}
    assert rows["pricing"] == "nothing is rented" and rows["notice"] == "no spot machines are offered"


async def test_a_provider_tells_its_noes_its_prices_and_its_pilots(trading: Service) -> None:
    one = await told(trading, "/cloud-a?days=2")
    assert [(no["reason"], no["reach"]) for no in one["setbacks"]] == [("no_capacity", "region")] * 2
    spot = next(line for line in one["prices"] if line["spot"])
    assert [step["price"]["amount"] for step in spot["steps"]] == ["0.9800", "1.6400", "1.3100"] and one["days"] == 2.0
    assert [(pilot["lease"], pilot["outcome"] == "usable") for pilot in one["pilots"]] == [
        ("wise-ibex-13", True), ("calm-wren-12", False), ("keen-mole-11", True),
    ]  # fmt: skip
    regions = [(one["region"], one["pilots"], one["usable"], one["usable_p50_seconds"]) for one in one["pilot_regions"]]
    assert regions == [("ap-southeast-3", 2, 2, 71.0), ("me-central-1", 1, 0, None)]
    assert [entry["action"] for entry in one["audit"]] == ["provider.pilot_asked"] * 3
    other = await told(trading, "/cloud-c")
    assert other["pilots"] == [] and other["setbacks"] == [] and [entry["actor"] for entry in other["audit"]] == ["ana"]


async def test_a_longer_history_than_one_answer_holds_is_cut_from_its_far_end(
    trading: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.offers.MOST_PRICES", 8)
    one = await told(trading, "/cloud-a?days=64")
    assert one["days"] < 2 and one["prices"], "the newest are told, and since when"
    first = min(step["since"] for line in one["prices"] for step in line["steps"])
    assert first >= (NOW - timedelta(days=one["days"], minutes=1)).isoformat().replace("+00:00", "Z")


async def test_an_unknown_provider_is_not_found(trading: Service) -> None:
    async with trading.client(Role.OPERATOR) as client:
        for path in ("", "/pause", "/resume", "/test"):
            method, body = ("POST", {"reason": "x"}) if path else ("GET", None)
            reply = await client.request(method, f"/api/v1/providers/nobody{path}", json=body)
            assert reply.status_code == 404, path
            assert reply.json()["error"]["hint"] == "There are: cloud-a, cloud-b, cloud-c, lab."
        assert (await client.get("/providers/nobody", headers=PAGE)).status_code == 404


async def test_a_test_costs_nothing_and_tells_what_the_provider_says(trading: Service, rebuilt: Rebuilt) -> None:
    async with trading.client(Role.OPERATOR) as client:
        good = (await client.post("/api/v1/providers/cloud-a/test")).json()
        bad = (await client.post("/api/v1/providers/cloud-b/test")).json()
    assert (good["ok"], good["summary"], good["facts"]["quota"]) == (True, "The key is good; 41 offers now.", "8 of 16 GPUs")
    assert (bad["ok"], bad["summary"], bad["seconds"]) == (False, "The key has expired.", 0.0)

    async def breaks() -> Health:
        raise Throttled("Bearer abcdefgh: slow down")

    async with rebuilt(providers={"cloud-a": breaks}).client(Role.OPERATOR) as client:
        broken = (await client.post("/api/v1/providers/cloud-a/test")).json()
    assert (broken["ok"], broken["summary"]) == (False, "Throttled; the log has the cause.")


async def test_a_provider_that_never_answers_is_waited_for_a_while(
    trading: Service, rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs() -> Health:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(providers, "PATIENCE", 0.01)
    async with rebuilt(providers={"cloud-a": hangs}).client(Role.OPERATOR) as client:
        late = (await client.post("/api/v1/providers/cloud-a/test")).json()
    assert (late["ok"], late["summary"]) == (False, "No answer within 0 s.")


async def test_a_person_pauses_and_resumes_and_the_audit_knows(trading: Service) -> None:
    path = "/api/v1/providers/cloud-a"
    async with trading.client(Role.OPERATOR) as client:
        paused = await client.post(f"{path}/pause", json={"reason": " quarter's end "})
        assert paused.json()["standing"]["sentence"] == "Paused by operator: quarter's end"
        assert (await client.post(f"{path}/pause", json={"reason": "again"})).status_code == 409
        offers = (await client.get("/api/v1/offers?provider=cloud-a&all=true")).json()
        assert offers["passing"] == 0 and {one["pools"][0]["rule"] for one in offers["offers"]} == {"paused"}
        resumed = await client.post(f"{path}/resume")
        assert resumed.json()["standing"]["state"] == "well"
        again = await client.post(f"{path}/resume")
        assert again.status_code == 409 and "nothing to resume" in again.json()["error"]["message"]
        assert (await client.post(f"{path}/pause", json={"reason": ""})).status_code == 422
    told_of = [(entry.action, entry.actor, entry.text) for entry in audit.listing(trading.db, "provider:cloud-a", 2)]
    assert told_of == [("provider.resumed", "operator", ""), ("provider.paused", "operator", "quarter's end")]
    assert standings.standings(trading.db)["cloud-a"] == Standing("cloud-a")


async def test_a_resume_ends_a_breaker_too(trading: Service) -> None:
    async with trading.client(Role.OPERATOR) as client:
        assert (await client.post("/api/v1/providers/cloud-b/resume")).json()["standing"]["state"] == "well"
    assert standings.standings(trading.db)["cloud-b"].no(NOW) is None


async def test_a_viewer_sees_why_nothing_can_be_pressed(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        page = await client.get("/providers/cloud-a")
        assert (await client.post("/providers/cloud-a/pause", data={"reason": "x"})).status_code == 403
    assert (
        "needs the role operator; you are viewer" in words(page)
        and 'class="sheet" method="post" action="/prov' not in page.text
    )


async def test_the_forms_pause_resume_and_test_without_script(trading: Service) -> None:
    cookie, csrf = trading.session(Role.OPERATOR)
    async with trading.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        page = (await client.get("/providers/cloud-a")).text
        assert "Nothing new is rented at cloud-a until somebody resumes it. What lives there now (2) goes on" in page
        form = re.search(r'action="(/providers/cloud-a/pause)".*?name="csrf" value="([^"]+)"', page, re.DOTALL)
        assert form is not None and form[2] == csrf
        assert (await client.post(form[1], data={"csrf": "guessed", "reason": "x"})).status_code == 403
        reply = await client.post(form[1], data={"csrf": csrf, "reason": "sales call"})
        assert (reply.status_code, reply.headers["location"]) == (303, "/providers/cloud-a?asked=pause")
        after = words(await client.get(reply.headers["location"]))
        assert "Paused: nothing new is rented here." in after and "Paused by operator: sales call" in after
        reply = await client.post("/providers/cloud-a/resume", data={"csrf": csrf})
        assert reply.headers["location"] == "/providers/cloud-a?asked=resume"
        probe = words(await client.post("/providers/cloud-a/test", data={"csrf": csrf}))
        assert "The key is good; 41 offers now." in probe and "balance 812.40 USD" in probe


async def test_the_page_tells_all_of_it_and_has_a_twin(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        page = await client.get("/providers/cloud-a")
        assert (await client.get("/providers/cloud-a.json")).json() == await told(trading, "/cloud-a")
        again = await client.get("/providers/cloud-a", headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304
        only = words(await client.get("/providers/cloud-a?gpu=h100&days=1"))
        file = await client.get("/providers/cloud-a/prices.csv?days=2")
    shown = words(page)
    for piece in (
        "cloud-a / ap-southeast-3, r100-8x is left alone until 12:17:35 UTC : 2 failed lately", "Audit logs unknown",
        "Hardware freshness R100 and GB300", "7900.4 GB/s · 96.5 TFLOPS · 940 Mbit/s · 41.2 ms",
        "not usable boot timeout: The node said nothing",
        "2 noes of the last half hour", "pilot asked : how fast is it there?", "rubin spot $1.31/h $0.98/h to $1.64/h",
        "sublet provider test cloud-a",
    ):  # fmt: skip
        assert piece in shown, piece
    assert "h100 on demand" in only and "rubin spot" not in only
    assert file.headers["content-disposition"] == 'attachment; filename="prices-cloud-a.csv"'
    assert file.headers["content-type"].startswith("text/csv") and len(file.text.splitlines()) == 1 + 5 + 3


async def test_a_provider_that_is_away_is_worth_a_look(trading: Service) -> None:
    def providers_of(reply: httpx.Response) -> list[tuple[str, str]]:
        return [(one["text"], one["command"]) for one in reply.json()["attention"] if one["kind"] == "provider"]

    async with trading.client(Role.VIEWER) as client:
        away = ("Nothing is rented at cloud-b now: the key has expired", "sublet provider test cloud-b")
        assert providers_of(await client.get("/api/v1/overview")) == [away]
        trading.clock.advance(600)
        assert providers_of(await client.get("/api/v1/overview")) == [], "it is asked again"
    slow = Throttled("429", wait=MINUTE)
    standings.told(trading.db, "lab", lambda standing: failed(standing, slow, trading.clock.now()))
    one = await told(trading, "/lab")
    assert (one["standing"]["state"], one["standing"]["trouble"]) == ("away", "429")


async def test_queue_and_lease_tell_who_said_no(trading: Service) -> None:
    async with trading.client(Role.VIEWER, **PAGE) as client:
        waiting = (await client.get("/queue.json")).json()
        started = (await client.get("/queue.json?tab=started")).json()
        page, queue = words(await client.get("/leases/proud-lynx-20")), words(await client.get("/queue"))
        running = words(await client.get("/queue?tab=started"))
    (job,) = waiting["jobs"]
    outcomes = [(one["provider"], one["outcome"]) for one in job["tried"]]
    assert outcomes == [("cloud-a", "no_capacity"), ("cloud-b", "provider_refused"), ("cloud-c", "throttled")]
    assert job["tried"][0]["price_per_hour"] == {"amount": "1.9800", "currency": "USD"} and job["provider"] == ""
    assert [(one["provider"], one["rule"]) for one in waiting["closed"]] == [
        ("cloud-b", "provider-away"),
        ("cloud-c", "paused"),
    ]
    assert [one["type"] for one in waiting["cooldowns"]] == ["r100-8x"]
    assert (len(started["jobs"][0]["tried"]), started["jobs"][0]["provider"], started["closed"]) == (3, "cloud-a", [])
    sentence = "3 said no first : cloud-a had no machine; cloud-b refused us; cloud-c asked us to slow down"
    assert f"{sentence}." in queue and f"{sentence}; then cloud-a took it." in running
    assert "429: slow down &lt;b&gt;now&lt;/b&gt;" in queue, "a vendor's words are not ours"
    for piece in (
        "3 offers said no first, in the same lease. The best of 2 offers", "InsufficientInstanceCapacity: no r100-8x left",
        "Ranked by what a job of 34 min 30 s costs.", "Nothing is rented at cloud-b : the key has expired; asked again",
        "cloud-a / ap-southeast-3, r100-8x is left alone until", "Provider lab: 2 of 3 hosts do not answer", "$1.26 a job",
    ):  # fmt: skip
        assert piece in page, piece
