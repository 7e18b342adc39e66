"""What is asked of a forge by webhooks, by listings, or both: owners, discovery, places that rest, and jobs run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.core.model import JobState, RepositoryRule
from app.engine.listen import owners_of
from app.engine.step import Timing
from app.forges.contract import Forge
from app.store import polls, reruns
from app.store.db import Database
from providers.fake import FakeSettings
from tests.world import NOON, POLL_SECONDS, World

LABELS = ["gpu", "rubin"]
MINUTE = timedelta(minutes=1)
FORGES = pytest.mark.parametrize("forge", ["github", "gitlab", "gitea", "forgejo"])
NARROW = pytest.mark.parametrize("forge", ["github", "gitlab"])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


class Asked(list[str]):
    """The first argument of each call of one method, which goes on to do what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, forge: Forge, method: str) -> None:
        super().__init__()
        true: Callable[..., Any] = getattr(forge, method)

        def noting(*given: Any) -> Any:
            self.append(str(given[0]))
            return true(*given)

        monkeypatch.setattr(forge, method, noting)


def rules(*patterns: str) -> list[RepositoryRule]:
    return [RepositoryRule(pattern) for pattern in patterns]


# --- owners


@pytest.mark.parametrize(
    ("patterns", "owners"),
    [
        (["acme/*"], ["acme"]),
        (["acme/tr?in"], ["acme"]),
        (["acme/[a-m]*"], ["acme"]),
        (["acme/vision/**"], ["acme/vision"]),
        (["acme/*/models"], ["acme"]),
        (["acme/a*", "acme/b*", "other/*"], ["acme", "other"]),
        (["acme/train"], []),  # a name is no pattern
        (["*/train"], []),  # whose?
        (["ac*/train"], []),
        (["*"], []),
        ([], []),
    ],
)
def test_the_owners_that_patterns_name(patterns: Sequence[str], owners: Sequence[str]) -> None:
    assert owners_of(rules(*patterns)) == owners


# --- discovery


@NARROW
async def test_an_owner_is_asked_for_its_repositories_every_ten_minutes_where_nobody_else_tells(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = rules("acme/*", "acme/named")
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}, repositories=patterns) as world:
        world.sides[forge].queue(["other"], "acme/train")
        asked = Asked(monkeypatch, world.sides[forge].forge, "repositories")
        await world.run(timedelta(minutes=29), stride=60)
        assert asked == ["acme"] * 3


@FORGES
async def test_webhooks_alone_list_nothing(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a job that its webhooks fell silent about is asked for."""
    async with World(database, tmp_path, forges=[forge], intake={forge: "webhook"}) as world:
        side = world.sides[forge]
        key = side.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()))
        world.intercept = lambda _: []
        listed = Asked(monkeypatch, side.forge, "open_jobs")
        found = Asked(monkeypatch, side.forge, "repositories")
        await world.run_until(lambda: world.job(key, forge).state is JobState.COMPLETED, within=timedelta(hours=1), stride=20)
        assert (listed, found) == ([], [])
        assert world.job(key, forge).conclusion == "success"


# --- places


@pytest.mark.parametrize("forge", ["gitea", "forgejo"])
async def test_one_listing_of_an_owner_stands_for_all_of_its_repositories(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = rules("acme/*", "acme/train", "other/one")
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}, repositories=patterns) as world:
        side = world.sides[forge]
        listed = Asked(monkeypatch, side.forge, "open_jobs")
        keys = [side.queue(LABELS, path) for path in ("acme/train", "acme/infer", "other/one")]
        strange = side.queue(LABELS, "other/two")
        await world.run_until(lambda: all(side.conclusion(key) for key in keys) and world.all_released(), stride=5)
        assert set(listed) == {"acme", "other/one"}
        assert side.conclusion(strange) is None


def test_an_owner_covers_its_repositories_whatever_their_case(database: Database) -> None:
    polls.found(database, "gitea", "acme", ["Acme/Train", "else/where"], NOON)
    found = polls.places(database, "gitea", NOON, ["ACME/infer", "other/one"], NOON + MINUTE, owners=["acme"])
    assert sorted(place.path for place in found) == ["acme", "else/where", "other/one"]


@pytest.mark.parametrize("forge", ["gitlab", "gitea", "forgejo"])
async def test_a_refused_owner_rests_an_hour_and_hides_no_other(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where owners are listed, the listing; where their repositories are looked for, that."""
    patterns = rules("acme/*", "other/*")
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}, repositories=patterns) as world:
        side = world.sides[forge]
        refused, served = side.queue(LABELS, "acme/train"), side.queue(LABELS, "other/one")
        match forge:
            case "gitlab":
                world.gitlab.lab.fault("groups/acme/projects", "403")
            case "gitea":
                world.gitea.server.fault("orgs/acme/actions/jobs", "403")
            case _:
                world.forgejo.server.api.closed.add("acme")
        asked = Asked(monkeypatch, side.forge, "open_jobs" if side.forge.wide else "repositories")
        await world.run_until(lambda: bool(side.conclusion(served)), stride=5)
        await world.run(timedelta(minutes=50), stride=60)
        if forge == "forgejo":
            world.forgejo.server.api.closed.clear()
        assert asked.count("acme") == 1
        assert side.conclusion(refused) is None
        await world.run_until(lambda: bool(side.conclusion(refused)), within=timedelta(minutes=20), stride=15)


async def test_a_list_that_is_the_forges_own_database_is_believed_sooner(database: Database, tmp_path: Path) -> None:
    """A job that a listing lacks is asked for; GitHub's lists lag: beside webhooks only after a minute without a word of it."""
    names, dear = ["github", "gitea"], {"cloud": FakeSettings(price_per_hour=Decimal("9.51"))}
    often = Timing(poll=timedelta(seconds=POLL_SECONDS))
    async with World(database, tmp_path, forges=names, clouds=dear, timing=often) as world:
        world.intercept = lambda _: []  # whatever they send is lost
        keys = {name: world.sides[name].queue(LABELS) for name in names}
        await world.run(timedelta(seconds=POLL_SECONDS + 5))
        for name, key in keys.items():
            assert world.job(key, name).pool == "gpu"
            world.sides[name].cancel(key)

        def is_over(name: str) -> bool:
            return world.job(keys[name], name).state is JobState.COMPLETED

        await world.run_until(lambda: is_over("gitea"), within=timedelta(seconds=POLL_SECONDS + 5))
        assert not is_over("github")
        await world.run_until(lambda: is_over("github"), within=timedelta(seconds=90))


# --- jobs that are run again under their old id: Gitea until 1.26


def ended(world: World, key: str) -> Callable[[], bool]:
    def is_over() -> bool:
        return bool(world.leases()) and world.all_released() and world.job(key, "gitea").state is JobState.COMPLETED

    return is_over


@pytest.mark.parametrize("intake", ["webhook", "both"])
async def test_a_late_first_delivery_of_a_job_that_has_ended_rents_nothing(
    database: Database, tmp_path: Path, intake: str
) -> None:
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": intake}) as world:
        key = world.gitea.queue(LABELS)
        (first,) = world.gitea.deliveries()
        world.gitea.server.outbox.append(first)
        await world.run_until(ended(world, key), stride=4)
        world.gitea.server.outbox.append(world.gitea.server.again(first))
        await world.step()
        assert [job.key for job in reruns.doubted(database, "gitea", world.clock.now(), 9)] in ([], [key])
        await world.run(2 * MINUTE)
        assert (len(world.leases()), world.job(key, "gitea").state) == (1, JobState.COMPLETED)
        assert reruns.doubted(database, "gitea", world.clock.now(), 9) == [], "the forge itself has settled it"


@pytest.mark.parametrize("intake", ["webhook", "both"])
async def test_no_delivery_begins_a_job_anew_only_the_forges_own_answer_does_and_soon(
    database: Database, tmp_path: Path, intake: str
) -> None:
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": intake}) as world:
        key = world.gitea.queue(LABELS)
        await world.run_until(ended(world, key), stride=4)
        world.gitea.down(True)
        world.gitea.rerun(key)
        await world.run(timedelta(seconds=30))
        assert (len(world.leases()), world.job(key, "gitea").state) == (1, JobState.COMPLETED)
        world.gitea.down(False)
        await world.run_until(lambda: len(world.leases()) == 2, within=6 * MINUTE, stride=5)
        await world.run_until(ended(world, key), stride=4)
        third = world.gitea.rerun(key)
        await world.run_until(lambda: len(world.leases()) == 3, within=timedelta(seconds=12))  # hastened: no round was due
        await world.run_until(ended(world, key), stride=4)
        assert {lease.job_id for lease in world.leases()} == {f"gitea-{third}"}
        assert world.job(key, "gitea").lease_id == world.leases()[-1].id
        world.assert_clean()


@pytest.mark.parametrize("intake", ["webhook", "poll"])
async def test_who_runs_a_job_again_counts(database: Database, tmp_path: Path, intake: str) -> None:
    ann = [RepositoryRule("acme/train", actors=frozenset({"ann"}))]
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": intake}, repositories=ann) as world:
        key = world.gitea.queue(LABELS)
        await world.run_until(ended(world, key), stride=4)
        world.gitea.rerun(key, "mallory")
        await world.run(2 * MINUTE)
        assert len(world.leases()) == 1
        job = world.job(key, "gitea")
        assert job.state is JobState.QUEUED
        assert "mallory set it going and is not among the `actors`" in job.not_ours
        if intake == "webhook":
            world.gitea.cancel(key)
            await world.run_until(ended(world, key), within=MINUTE)
            world.gitea.rerun(key, "ann")
            await world.run_until(lambda: len(world.leases()) == 2, within=2 * MINUTE)
            await world.run_until(ended(world, key), stride=4)
            assert world.gitea.conclusion(key) == "success"


async def test_who_runs_a_job_again_counts_though_nobody_saw_that_it_was_cancelled(database: Database, tmp_path: Path) -> None:
    """It is queued before and after, and no runner has taken it: only its run tells who set it going."""
    ann = [RepositoryRule("acme/train", actors=frozenset({"ann"}))]
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": "poll"}, repositories=ann) as world:
        key = world.gitea.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()))
        world.gitea.cancel(key)
        world.gitea.rerun(key, "mallory")
        await world.run_until(ended(world, key), stride=4)
        assert world.gitea.conclusion(key) == "failure", "its runner asked, and was told no"


async def test_a_late_word_of_a_cancel_does_not_end_the_job_that_is_run_again(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": "webhook"}) as world:
        key, held = world.gitea.queue(LABELS), list[Any]()
        await world.run_until(lambda: bool(world.leases()))

        def hold_back(sent: Sequence[Any]) -> list[Any]:
            late = [one for one in sent if b'"completed"' in one[1][:40]]
            held.extend(late)
            return [one for one in sent if one not in late]

        world.intercept = hold_back
        world.gitea.cancel(key)
        await world.step()
        world.gitea.rerun(key)
        await world.step()
        world.intercept = lambda sent: [*(held.pop() for _ in list(held)), *sent]
        await world.run_until(lambda: world.gitea.conclusion(key) == "success", stride=4)


@pytest.mark.parametrize("intake", ["webhook", "poll"])
async def test_a_job_run_again_before_its_end_was_heard_of_is_not_taken_for_one_that_still_runs(
    database: Database, tmp_path: Path, intake: str
) -> None:
    """By webhook, the word of the end is lost; by polls, both fall between two listings."""
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": intake}) as world:
        key = world.gitea.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.job(key, "gitea").state is JobState.IN_PROGRESS)
        world.intercept = lambda sent: [one for one in sent if b'"completed"' not in one[1][:40]]
        await world.run_until(lambda: world.gitea.conclusion(key) is not None, stride=1)
        world.gitea.rerun(key)
        await world.run_until(lambda: len(world.leases()) == 2, within=2 * MINUTE)
        world.intercept = lambda sent: sent
        await world.run_until(ended(world, key), stride=4)
        assert world.job(key, "gitea").lease_id == world.leases()[1].id
        assert (world.gitea.conclusion(key), len(world.leases())) == ("success", 2)
        world.assert_clean()


async def test_a_listing_that_was_asked_for_before_the_end_was_heard_opens_nothing(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": "webhook"}) as world:
        key = world.gitea.queue(LABELS)
        await world.run_until(ended(world, key), stride=4)
        job, now = world.job(key, "gitea"), world.clock.now()
        assert job.heard_at is not None
        told = replace(job, state=JobState.QUEUED, conclusion="")
        assert reruns.reopen(database, [told], job.heard_at - timedelta(seconds=1), now) == 0
        assert reruns.reopen(database, [job], now, now) == 0, "it has ended, says the listing, too"
        assert world.job(key, "gitea") == job
        assert reruns.reopen(database, [told], job.heard_at + timedelta(seconds=1), now) == 1
        anew = world.job(key, "gitea")
        assert (anew.state, anew.conclusion, anew.lease_id, anew.pool) == (JobState.QUEUED, "", "", None)


def test_hastening_never_puts_a_round_off(database: Database) -> None:
    def due() -> datetime:
        return next(one.due for one in polls.rounds(database) if one.name == "poll gitea")

    assert polls.take(database, "poll gitea", NOON, 5 * MINUTE, NOON) is not None
    polls.hasten(database, "poll gitea", NOON + MINUTE)
    assert due() == NOON + MINUTE
    polls.hasten(database, "poll gitea", NOON + 2 * MINUTE)
    assert due() == NOON + MINUTE
    assert polls.take(database, "poll gitea", NOON + MINUTE, 5 * MINUTE, NOON) is not None
    assert due() == NOON + 6 * MINUTE
    polls.hasten(database, "poll forgejo", NOON)  # never asked yet: nothing to hasten
    assert [one.name for one in polls.rounds(database)] == ["poll gitea"]
