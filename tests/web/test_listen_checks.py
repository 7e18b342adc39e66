"""The doctor says how each forge's news come and how late, when it was last asked, what came of it, and what each needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.listening import Listening
from app.core.model import RepositoryRule
from app.forges.contract import Forge, Pace
from app.store import polls
from app.store.db import Database
from app.store.people import Role
from app.web.listen_checks import listen_checks
from app.web.schema import Check
from providers.contract import Health
from tests.web.conftest import Rebuilt, Service, forges
from tests.web.polled_story import LISTENING, PARTS, heard, polled_job
from tests.web.story import NOW
from tests.world import World


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


async def told(world: World, name: str = "listening github") -> Check:
    (found,) = [one for one in await listen_checks(world.service.parts) if one.name == name]
    return found


async def test_the_last_rounds_are_told_with_their_age(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        assert (await told(world)).status == "skip"
        await world.step()
        world.clock.advance(timedelta(minutes=2))
        found = await told(world)
        assert found.status == "ok"
        assert "Open jobs: looked for 2 min" in found.text and "Lost deliveries: looked for 2 min" in found.text
        world.clock.advance(timedelta(hours=1))
        assert (await told(world)).status == "warn"


@pytest.mark.parametrize("said", ["Refused: 403.", "Broken off: no answer.", "Failed: KeyError."])
async def test_a_round_that_came_to_nothing_is_a_warning(database: Database, tmp_path: Path, said: str) -> None:
    async with World(database, tmp_path) as world:
        last = polls.take(database, "poll github", world.clock.now(), timedelta(minutes=5), world.clock.now())
        assert last is not None
        polls.finish(database, last, said, None)
        found = await told(world)
        assert (found.status, said in found.text, bool(found.fix)) == ("warn", True, True)


async def test_a_pace_that_is_not_free_is_told(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(database, tmp_path) as world:
        await world.step()
        monkeypatch.setattr(world.github.forge, "pace", lambda: Pace.SLOW)
        assert "a third as often" in (await told(world)).text
        monkeypatch.setattr(world.github.forge, "pace", lambda: Pace.STOP)
        assert (await told(world)).status == "warn"


async def checks(service: Service) -> dict[str, Check]:
    """Of the whole doctor, by name."""
    async with service.client(Role.VIEWER) as client:
        return {one["name"]: Check(**one) for one in (await client.get("/api/v1/doctor")).json()["checks"]}


def round_of(service: Service, name: str, ago: timedelta, said: str = "1 places listed, 0 jobs moved on.") -> None:
    """A round was made so long ago."""
    at = NOW - ago
    last = polls.take(service.db, name, at, timedelta(seconds=15), at - timedelta(days=1))
    assert last is not None
    polls.finish(service.db, last, said, None)


async def test_each_forge_has_a_line_on_how_its_news_come(rebuilt: Rebuilt) -> None:
    service: Service = rebuilt(**PARTS)
    for number, after in enumerate((4, 6, 11)):
        heard(service.db, polled_job(number, queued_at=NOW - timedelta(minutes=5)), after)
    found = await checks(service)
    line = 'No webhooks (`intake = "poll"`): its open jobs are listed every 15 s, so a job is heard of up to 15 s late'
    assert found["intake forgejo"].text == f"{line}; the last 3 jobs: 7 s on average, 11 s at most."
    assert found["intake gitea"].text == "Webhooks, and a listing every 5 min for what they miss."
    assert found["intake forgejo"].status == found["intake gitea"].status == "ok"


async def test_what_is_asked_of_a_person_names_the_forge_s_own_table(rebuilt: Rebuilt) -> None:
    plain = forges()
    stranger: dict[str, Forge] = {"gitlab": plain["gitlab"], "forge-x": plain["github"]}
    service: Service = rebuilt(forges=stranger, forge_checks={"gitlab": broken, "forge-x": broken})
    found = await checks(service)
    assert found["forge gitlab"].fix == "Compare its settings, [gitlab], with what the forge shows."
    assert found["forge forge-x"].fix == 'Compare its settings, [[forge]] (name = "forge-x"), with what the forge shows.'
    none: Service = rebuilt(forges={}, forge_checks={})
    assert (await checks(none))["forge"].fix == (
        "Add [github], [gitlab], [gitea], [forgejo] or a plugin's [[forge]] to sublet.toml."
    )


async def broken() -> Health:
    return Health(False, "401.")


async def test_only_forges_whose_webhooks_are_taken_need_a_secret(rebuilt: Rebuilt, service: Service) -> None:
    both: Service = rebuilt(**PARTS)
    secret = (await checks(both))["webhook secret"]
    assert secret.status == "ok" and secret.text.startswith("Set for gitea;")
    assert secret.text.endswith("Not needed for forgejo: it is polled.")
    forgejo = PARTS["forges"]["forgejo"]
    polled: Service = rebuilt(forges={"forgejo": forgejo}, listening=LISTENING)
    told = await checks(polled)
    assert (told["webhook secret"].status, told["webhook secret"].text) == ("skip", "Not needed for forgejo: it is polled.")
    assert "that rented machines can reach" in told["public_url"].fix
    without = replace(service.parts.settings, secure_hooks={"forgejo": False, "gitea": False})
    bare: Service = rebuilt(**PARTS, settings=without)
    missing = (await checks(bare))["webhook secret"]
    assert missing.status == "fail" and missing.fix == "Set `webhook_secret` in [gitea], and the same at the forge."


@pytest.mark.parametrize(("ago", "status"), [(100, "ok"), (150, "warn")])
async def test_a_forge_that_is_polled_often_is_late_soon(rebuilt: Rebuilt, ago: int, status: str) -> None:
    """Three rounds at a third of 15 s: 135 s."""
    service: Service = rebuilt(**PARTS)
    round_of(service, "poll forgejo", timedelta(seconds=ago))
    round_of(service, "poll gitea", timedelta(minutes=40))
    round_of(service, "redeliver gitea", timedelta(minutes=40))
    found = await checks(service)
    assert found["listening forgejo"].status == status and found["listening gitea"].status == "ok"
    assert "deliveries" not in found["listening forgejo"].text and "Lost deliveries" in found["listening gitea"].text


async def test_a_short_period_makes_no_alarm_of_a_pause(rebuilt: Rebuilt) -> None:
    quick = {"forgejo": Listening(webhooks=False, poll=timedelta(seconds=5))}
    service: Service = rebuilt(**{**PARTS, "listening": quick})
    round_of(service, "poll forgejo", timedelta(seconds=110))
    assert (await checks(service))["listening forgejo"].status == "ok"


async def test_where_no_webhook_is_taken_an_old_redelivery_round_is_no_news(rebuilt: Rebuilt) -> None:
    """It was made before the setting changed, and failed."""
    service: Service = rebuilt(**PARTS)
    round_of(service, "redeliver forgejo", timedelta(days=2), "Refused: 403.")
    round_of(service, "poll forgejo", timedelta(seconds=10))
    assert (await checks(service))["listening forgejo"].status == "ok"


async def test_a_polled_forge_that_refuses_or_is_out_of_quota_is_deaf(
    rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = rebuilt(**PARTS)
    round_of(service, "poll forgejo", timedelta(seconds=10), "Refused: 403.")
    assert "until then no job of it is heard of" in (await checks(service))["listening forgejo"].fix
    monkeypatch.setattr(service.parts.forges["forgejo"], "pace", lambda: Pace.SLOW)
    slow = (await checks(service))["intake forgejo"]
    assert slow.status == "ok" and "every 45 s" in slow.text and "3 times slower" in slow.text
    monkeypatch.setattr(service.parts.forges["forgejo"], "pace", lambda: Pace.STOP)
    stopped = (await checks(service))["intake forgejo"]
    assert stopped.status == "warn" and "nothing is listed until more is there" in stopped.text and stopped.fix


async def test_new_repositories_of_a_pattern_come_later_where_no_owner_can_be_listed(rebuilt: Rebuilt) -> None:
    github = {"github": forges()["github"]}
    given = {"forges": github, "listening": {"github": Listening(webhooks=False, poll=timedelta(seconds=15))}}
    service: Service = rebuilt(**given)
    assert (await checks(service))["intake github"].text.endswith("A new repository is found within 10 min.")
    exact: Service = rebuilt(**given, repositories=(RepositoryRule("acme/train"),))
    assert "new repository" not in (await checks(exact))["intake github"].text
