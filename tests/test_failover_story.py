"""Three providers fail in three ways, the job runs on the fourth within one cycle, and pages and calls tell that story."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from app.core.states import State
from app.store.db import Database
from app.web.auth import issue_cli_token
from providers.contract import Why
from providers.fake import FakeSettings
from providers.fake_cloud import Trouble
from tests.world import URL, World

CLOUDS = {
    name: FakeSettings(seed=place, price_per_hour=Decimal(place), region=f"region-{name}")
    for place, name in enumerate(("full", "locked", "busy", "good"), 1)
}
SECOND = timedelta(seconds=1)


def words(reply: httpx.Response) -> str:
    """The text of the page as one line."""
    assert reply.status_code == 200, reply.text
    inside = re.sub(r"(?s)<(script|style|svg)\b.*?</\1>", " ", reply.text)
    return " ".join(re.sub(r"<[^>]+>", " ", inside).replace("&#39;", "'").split())


async def test_three_fail_the_fourth_runs_it_and_every_page_tells_it(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds=CLOUDS) as world:
        faults = {name: world.providers[name].cloud.faults for name in CLOUDS}
        faults["full"].script("create", Trouble.NO_CAPACITY, text="sold out in region-full")
        faults["locked"].script("create", Trouble.REFUSED, text="the key has expired", why=Why.CREDENTIALS)
        faults["busy"].script("create", Trouble.THROTTLED, wait=40 * SECOND)
        key = world.github.queue(["gpu", "rubin"])
        began = world.clock.now()
        await world.run_until(lambda: any(lease.state is State.BOOTING for lease in world.leases()))
        assert world.clock.now() - began < 5 * SECOND, "one beat of the engine at most"
        token = issue_cli_token(database, world.clock.now()).reveal()
        headers = {"authorization": f"Bearer {token}", "accept": "text/html"}
        transport = httpx.ASGITransport(world.service.web)
        async with httpx.AsyncClient(transport=transport, base_url=URL, headers=headers) as client:

            async def json(path: str) -> Any:
                return (await client.get(path)).json()

            (lease,) = world.leases()
            (job,) = (await json("/queue.json"))["jobs"]
            told = [(one["provider"], one["outcome"]) for one in job["tried"]]
            assert told == [("full", "no_capacity"), ("locked", "provider_refused"), ("busy", "throttled")]
            queue, page = words(await client.get("/queue")), words(await client.get(f"/leases/{lease.name}"))
            sentence = "3 said no first : full had no machine; locked refused us; busy asked us to slow down."
            assert lease.name in queue and sentence in queue
            for shown in (queue, page):
                assert "sold out in region-full" in shown and "Nothing is rented at locked : the key has expired" in shown
                assert re.search(
                    r"full / region-full, \S+ is left alone until .*? UTC : 1 failed lately, last: no capacity", shown
                )
            assert "3 offers said no first, in the same lease." in page and "refused us the key has expired" in page
            standings = {one["name"]: one["standing"]["state"] for one in (await json("/api/v1/providers"))["providers"]}
            assert standings == {"full": "well", "locked": "away", "busy": "away", "good": "well"}
            offers = {one["provider"]: one["pools"][0]["rule"] for one in (await json("/api/v1/offers?all=true"))["offers"]}
            assert offers == {"full": "cooling-down", "locked": "provider-away", "busy": "provider-away", "good": ""}
            attention = [one["text"] for one in (await json("/api/v1/overview"))["attention"] if one["kind"] == "provider"]
            assert "Nothing is rented at locked now: the key has expired" in attention
            await world.run_until(world.all_released)
            started = words(await client.get("/queue?tab=started"))
            assert "3 said no first" in started and "busy asked us to slow down; then good took it." in started
        assert world.github.conclusion(key) == "success"
        world.assert_clean()
