"""What the pages say, without any script: sentences, twins, filters, tastes, and forms that work by themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from markupsafe import escape

from app.core.states import State
from app.store import lease_views
from app.store.people import Role
from tests.web.conftest import Rebuilt, Service, pool
from tests.web.story import NOW, a_job, afternoon, live_to, record

PAGE = {"accept": "text/html"}


def words(reply: httpx.Response) -> str:
    """The text of the page as one line."""
    inside = re.sub(r"(?s)<(script|style|svg)\b.*?</\1>", " ", reply.text)
    return " ".join(re.sub(r"<[^>]+>", " ", inside).replace("&#39;", "'").split())


async def test_a_new_service_says_what_to_do_first(service: Service) -> None:
    async with service.client(Role.VIEWER, **PAGE) as client:
        overview, queue, leases = [words(await client.get(path)) for path in ("/", "/queue", "/leases")]
    assert "No lease yet." in overview and "runs-on: [gpu, …]" in overview and "Nothing: every lease is on time" in overview
    assert "No job waits." in queue and "http://127.0.0.1:8080/hooks/github" in queue
    assert "No lease is live, and nothing is billed." in leases


async def test_the_lease_page_tells_the_whole_story(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.OPERATOR, **PAGE) as client:
        page = words(await client.get("/leases/brave-otter-41"))
    for piece in (
        "1 min 59 s from queued to job start", "14 min 2 s in the job so far", "$0.5791", "estimate until the books are closed",
        "$2.18 if it runs to its hard end", "$0.0669 (12%)", "The best of 2 offers that passed every rule.",
        "9 offers looked at, 7 rejected.", "cloud-c 1R100.80S", "region: is in fi-01, allowed: eu-north-1, eu-west-4",
        "Rejected: 3 region · 2 price · 1 gpu memory", "Everything that was asked for was seen.", "NVIDIA Rubin R100",
        "Running job: gpu-eval", "planned : brave-otter-41", "ends by 13:00:04 UTC (43 min 59 s left)",
        "sublet lease show brave-otter-41", "Ends the job gpu-eval now; the forge shows it as failed.",
        "About $0.01 more will be billed.",
    ):  # fmt: skip
        assert piece in page, piece


async def test_a_gone_lease_says_so_with_its_time(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.OPERATOR, **PAGE) as client:
        done = words(await client.get("/leases/calm-heron-07"))
        failed = words(await client.get("/leases/dull-crow-90"))
    assert (
        "Confirmed gone at 07:28:59 UTC . The provider no longer lists it; nothing more is billed. Why it ended: job ended."
        in done
    )
    assert "job succeeded" in done and "proven gone 15 s later" in done and "Destroy" not in done
    assert "the machine did not boot in time" in failed and "The node said nothing for 20 min." in failed
    assert "Ended after 20 min 30 s without a job." in failed and "▲" not in failed and "slow" in failed


async def test_a_viewer_sees_and_is_told_why_nothing_can_be_pressed(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        reply = await client.get("/leases/brave-otter-41")
        refused = await client.post("/leases/brave-otter-41/destroy", data={"reason": "x"})
    assert "needs the role operator; you are viewer" in words(reply) and "<form class" not in reply.text
    assert refused.status_code == 403 and "This needs the role operator" in refused.text


async def test_a_form_without_script_drains_and_comes_back(service: Service) -> None:
    afternoon(service.db)
    cookie, _ = service.session(Role.OPERATOR)
    async with service.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        page = await client.get("/leases/brave-otter-41")
        form = re.search(r'action="(/leases/brave-otter-41/drain)".*?name="csrf" value="([^"]+)"', page.text, re.DOTALL)
        assert form is not None
        reply = await client.post(
            form[1], data={"csrf": form[2], "reason": "flaky download"}, headers={"origin": "http://127.0.0.1:8080"}
        )
        assert (reply.status_code, reply.headers["location"]) == (303, "/leases/brave-otter-41?asked=drain")
        after = words(await client.get(reply.headers["location"]))
        again = await client.post(form[1], data={"csrf": form[2], "reason": "again"})
    assert "Asked to drain; the engine does it now." in after and "Draining was asked for: flaky download" in after
    assert "asked for already" in after and again.status_code == 409
    lease = lease_views.find(service.db, "brave-otter-41")
    assert lease is not None and lease.asked_text == "flaky download"


async def test_every_page_has_its_json_twin(service: Service) -> None:
    afternoon(service.db)
    api: Mapping[str, str] = {
        "/overview.json": "/api/v1/overview",
        "/queue.json?tab=started": "/api/v1/queue?tab=started&limit=50",
        "/leases.json?which=all": "/api/v1/leases?which=all&limit=50",
        "/leases/brave-otter-41.json": "/api/v1/leases/brave-otter-41",
        "/health-page.json": "/api/v1/doctor",
    }
    async with service.client(Role.VIEWER) as client:
        for twin, path in api.items():
            assert (await client.get(twin)).json() == (await client.get(path)).json(), twin
        for page in ("/", "/queue", "/leases", "/leases/brave-otter-41", "/health-page"):
            linked = re.search(r'<a href="([^"]+)">This page as JSON', (await client.get(page)).text)
            assert linked is not None and (await client.get(linked[1].replace("&amp;", "&"))).status_code == 200


@pytest.mark.parametrize("path", ["/leases", "/queue", "/leases?which=past"])
async def test_a_list_that_did_not_change_is_304(service: Service, path: str) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        first = await client.get(path)
        etag = {"if-none-match": first.headers["etag"]}
        assert (await client.get(path, headers=etag)).status_code == 304
        service.clock.advance(4)
        assert (await client.get(path, headers=etag)).status_code == 304
        service.clock.advance(15)
        assert (await client.get(path, headers=etag)).status_code == 200  # ages and costs went on
        etag = {"if-none-match": (await client.get(path)).headers["etag"]}
        live_to(service.db, 99, "new-wren-01", State.RELEASED if "past" in path else State.BUSY, NOW, job=41_000)
        record(service.db, a_job(41_001), NOW)
        assert (await client.get(path, headers=etag)).status_code == 200
        other = {**etag, "cookie": "times=relative"}
        assert (await client.get(path, headers=other)).status_code == 200  # another taste is another page


async def test_the_filter_is_in_the_address_and_can_be_cleared(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        found = await client.get("/leases?which=all&text=crow")
        none = await client.get("/leases?which=all&text=<b>nobody")
    assert "dull-crow-90" in found.text and "brave-otter-41" not in found.text and 'value="crow"' in found.text
    assert "No lease matches “&lt;b&gt;nobody”." in none.text and "Clear the filter" in none.text


@pytest.mark.parametrize(
    ("cookies", "shown"),
    [
        ({}, ">13:00:04 UTC</time>"),
        ({"times": "relative"}, ">in 43 min</time>"),
        ({"times": "local", "zone": "Europe%2FBerlin"}, ">14:00:04 CET</time>"),
        ({"times": "local", "zone": "Not/AZone"}, ">13:00:04 UTC</time>"),
        ({"times": "nonsense"}, ">13:00:04 UTC</time>"),
    ],
)
async def test_times_are_written_as_the_reader_likes(service: Service, cookies: dict[str, str], shown: str) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        client.headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        page = (await client.get("/leases/brave-otter-41")).text
    assert '<time datetime="2026-11-21T13:00:04Z" title="' in page and shown in page


async def test_the_theme_is_set_by_the_server(service: Service) -> None:
    async with service.client(Role.VIEWER, **PAGE) as client:
        plain = (await client.get("/")).text
        dark = (await client.get("/", headers={"cookie": "theme=dark"})).text
    assert '<html lang="en">' in plain and '<html lang="en" data-theme="dark">' in dark


async def test_the_demo_wears_its_badge_on_every_row(service: Service, rebuilt: Rebuilt) -> None:
    afternoon(service.db)
    note = "This pool asks for no GPU."
    demo = rebuilt(settings=replace(service.parts.settings, demo=True), pools={"rubin": pool(note=note)})
    async with demo.client(Role.VIEWER, **PAGE) as client:
        leases, lease = await client.get("/leases"), await client.get("/leases/brave-otter-41")
        view = (await client.get("/leases/brave-otter-41.json")).json()
    assert leases.text.count(">DEMO</span>") == 3 and ">DEMO</span>" in lease.text and note in lease.text
    assert view["demo"] is True and view["pool_note"] == note


async def test_a_lease_has_one_address(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        reply = await client.get("/leases/000c5eed0000beef")
    assert (reply.status_code, reply.headers["location"]) == (303, "/leases/brave-otter-41")


async def test_sentences_link_the_leases_they_name(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/queue")).text
    assert 'Lease <a href="/leases/swift-hare-02">swift-hare-02</a> is booting.' in page
    assert "raise <code>ceiling</code> of the pool rubin" in page


async def test_static_files_are_ours_and_kept_for_good(service: Service) -> None:
    async with service.client(**PAGE) as client:
        page = (await client.get("/login")).text
        for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
            reply = await client.get(path)
            assert reply.status_code == 200 and "immutable" in reply.headers["cache-control"] and "?v=" in path
        assert (await client.get("/static/nothing.js")).status_code == 404
        assert (await client.get("/static/..%2Fapp.py")).status_code == 404


async def test_a_relative_time_stands_in_its_sentence(service: Service) -> None:
    live_to(service.db, 1, "brave-otter-41", State.RELEASED, NOW - timedelta(minutes=30), job=1)
    async with service.client(Role.VIEWER, **PAGE, cookie="times=relative") as client:
        page = words(await client.get("/leases/brave-otter-41"))
    assert re.search(r"Confirmed gone \d+ min ago", page)


async def test_the_command_of_a_list_carries_its_filter(service: Service) -> None:
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/leases", params={"which": "past", "text": "it's; $(id)"})).text
    wanted = "sublet lease list --which past --text='it'\"'\"'s; $(id)'"
    assert f"<code>{escape(wanted)}</code>" in page
