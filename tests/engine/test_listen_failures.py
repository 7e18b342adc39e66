"""Places and jobs that never get a clear answer hide no others, and nothing is rented for ever on what nobody confirms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.model import Job, JobState, RepositoryRule
from app.forges.contract import ForgeDown, ForgeRefused
from app.store import reruns
from app.store.db import Database
from tests.world import World

LABELS = ["gpu", "rubin"]
BOTH = [RepositoryRule("acme/train"), RepositoryRule("acme/infer")]
HOUR = timedelta(hours=1)
FORGES = pytest.mark.parametrize("forge", ["github", "gitlab", "gitea", "forgejo"])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def failing(true: Callable[[Job], Any], key: str, error: Exception) -> Callable[[Job], Any]:
    """The forge's own answers, but for one job."""

    def ask(job: Job) -> Any:
        if job.key == key:
            raise error
        return true(job)

    return ask


@pytest.mark.parametrize("forge", ["github", "gitlab", "gitea"])
async def test_a_cancelled_job_is_found_out_though_its_repository_can_never_be_listed(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}, repositories=BOTH) as world:
        side = world.sides[forge]
        key, true = side.queue(LABELS), side.forge.open_jobs
        await world.run_until(lambda: bool(world.leases()))

        def listed(place: str, installation: str = "") -> Sequence[Job]:
            if place == "acme/train":
                raise ForgeDown("It shows 1,000 of 1,001 queued runs")
            return true(place, installation)

        monkeypatch.setattr(side.forge, "open_jobs", listed)
        side.cancel(key)
        await world.run_until(lambda: world.job(key, forge).state is JobState.COMPLETED, within=HOUR, stride=20)


async def test_a_job_without_an_answer_keeps_no_other_from_being_asked_for(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, forges=["github"], intake={"github": "webhook"}) as world:
        side, keys = world.github, list[str]()
        for _ in range(2):
            keys.append(side.queue(LABELS))
            await world.step()
        world.intercept = lambda _: []
        for key in keys:
            side.cancel(key)
        monkeypatch.setattr(side.forge, "fetch_job", failing(side.forge.fetch_job, keys[0], ForgeDown("502 for this job")))
        await world.run_until(lambda: world.job(keys[1]).state is JobState.COMPLETED, within=HOUR, stride=20)
        assert world.job(keys[0]).state is JobState.QUEUED


async def test_a_doubt_that_nobody_settles_stops_no_listing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, forges=["gitea"], intake={"gitea": "both"}) as world:
        side = world.gitea
        key = side.queue(LABELS)
        await world.run_until(lambda: side.conclusion(key) is not None and world.all_released(), stride=4)
        monkeypatch.setattr(side.forge, "fetch_job", failing(side.forge.fetch_job, key, ForgeDown("500 for this job")))
        reruns.doubt(database, f"gitea-{key}", world.clock.now())
        world.intercept = lambda _: []
        other = side.queue(LABELS, "acme/infer")
        await world.run_until(lambda: side.conclusion(other) == "success", within=HOUR, stride=20)


@FORGES
async def test_a_repository_that_moved_to_where_nobody_is_allowed_costs_nothing_more(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}) as world:
        side = world.sides[forge]
        key, true = side.queue(LABELS), side.forge.fetch_job
        await world.run_until(lambda: bool(world.leases()))

        def moved(job: Job) -> Job | None:
            found = true(job)
            return None if found is None else replace(found, state=JobState.QUEUED, conclusion="", repository="umbrella/train")

        monkeypatch.setattr(side.forge, "fetch_job", moved)
        side.cancel(key)  # the listing of the old place lacks it
        await world.run_until(lambda: bool(world.job(key, forge).not_ours), within=HOUR, stride=5)
        await world.run_until(world.all_released, within=HOUR, stride=5)
        rented = len(world.leases())
        await world.run(HOUR, stride=60)
        assert len(world.leases()) == rented
        assert world.job(key, forge).repository == "umbrella/train"


@pytest.mark.parametrize("to", ["acme/new", "acme/zoo", "umbrella/train"])
@pytest.mark.parametrize("end", ["runs", "is cancelled"])
async def test_a_renamed_repository(database: Database, tmp_path: Path, to: str, end: str) -> None:
    """Its jobs are jobs of the new path: served where that is allowed, over where they are, and never rented for in vain."""
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": "poll"}) as world:
        side = world.forgejo
        key = side.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()))
        side.server.rename_repository("acme/train", to)
        if end == "is cancelled":
            side.cancel(key)
        await world.run(2 * HOUR, stride=20)
        job = world.job(key, "forgejo")
        assert world.all_released()
        assert len(world.leases()) <= 3
        if end == "is cancelled":
            assert job.state is JobState.COMPLETED
        elif to.startswith("acme/"):
            assert side.conclusion(key) == "success"
        else:
            assert (job.state, job.repository) == (JobState.QUEUED, to)
            assert job.not_ours


@pytest.mark.parametrize("forge", ["github", "gitea"])
async def test_a_job_that_its_forge_refuses_to_tell_of_is_rented_for_no_more(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}) as world:
        side = world.sides[forge]
        key = side.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()))
        refusal = ForgeRefused("HTTP 403")
        monkeypatch.setattr(side.forge, "fetch_job", failing(side.forge.fetch_job, key, refusal))
        monkeypatch.setattr(side.forge, "fetch_run", failing(side.forge.fetch_run, key, refusal))
        side.cancel(key)
        await world.run_until(lambda: world.job(key, forge).cleared_at is None, within=HOUR, stride=10)
        await world.run_until(world.all_released, within=HOUR, stride=10)
        rented = len(world.leases())
        await world.run(HOUR, stride=60)
        assert len(world.leases()) == rented


@pytest.mark.parametrize("forge", ["gitlab", "forgejo"])
async def test_jobs_that_wait_for_a_person_cost_few_questions(
    database: Database, tmp_path: Path, forge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, forges=[forge], intake={forge: "both"}) as world:
        side, asked = world.sides[forge], list[str]()
        for _ in range(30):
            side.queue(LABELS, gated=True)
        await world.step()
        true = side.forge.fetch_job

        def ask(job: Job) -> Job | None:
            asked.append(job.key)
            return true(job)

        monkeypatch.setattr(side.forge, "fetch_job", ask)
        await world.run(HOUR, stride=15)
        assert len(asked) <= 30 * 3, "each every 20 minutes"


async def test_the_list_of_an_old_name_that_leads_to_the_new_one_moves_no_job(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub sends who asks for a renamed repository on to where it is; its list names no repository."""
    rules = [RepositoryRule("acme/train"), RepositoryRule("acme/old")]
    async with World(database, tmp_path, forges=["github"], intake={"github": "poll"}, repositories=rules) as world:
        side = world.github
        true = side.forge.open_jobs

        def listed(place: str, installation: str = "") -> Sequence[Job]:
            found = true("acme/train", installation)
            return [replace(job, repository=place) for job in found]

        monkeypatch.setattr(side.forge, "open_jobs", listed)
        key = side.queue(LABELS)
        await world.run_until(lambda: side.conclusion(key) == "success" and world.all_released(), stride=2)
        assert len(world.leases()) == 1
