"""Nothing is rented before the forge said where a run comes from and who set it going."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.model import Job, JobState, Reason, RepositoryRule, Run
from app.core.states import State
from app.demo.nouns import JobSpec
from app.demo.work import Order
from app.engine import enlist
from app.forges.contract import ForgeDown, ForgeRefused
from app.store import jobs
from app.store.db import Database
from tests.forge_sides import Delivery
from tests.world import NOON, Host, World

LABELS = ["gpu", "rubin"]
MONA = RepositoryRule("acme/*", actors=frozenset({"mona", "trusted-*"}))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough for these stories; where its words matter, tests/store tells them on both."""
    return sqlite_url


def counting(world: World, monkeypatch: pytest.MonkeyPatch, forge: str = "github") -> list[str]:
    """The runs that the forge is asked for, in order."""
    asked: list[str] = []
    real: Callable[[Job], Run | None] = world.sides[forge].forge.fetch_run

    def fetch(job: Job) -> Run | None:
        asked.append(job.run_id)
        return real(job)

    monkeypatch.setattr(world.sides[forge].forge, "fetch_run", fetch)
    return asked


def none(_: list[Delivery]) -> list[Delivery]:
    return []


def created(world: World) -> int:
    return sum(call.verb == "create" for call in world.cloud.calls)


async def test_the_run_is_asked_once_for_a_matrix_of_fifty(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        asked = counting(world, monkeypatch)
        specs = [JobSpec(f"cell-{number}", f"cell-{number}", LABELS) for number in range(50)]
        world.github.state.start(Order("acme/train", "c0ffee" + "0" * 34, specs), world.clock.now())
        await world.step()
        waiting = jobs.listing(database, "waiting", 100)
        assert (len(asked), len(waiting)) == (1, 50)
        assert all(job.cleared_at is not None for job in waiting)
        assert len(world.leases()) == 3, "as many as the pool's ceiling, in the same beat"


@pytest.mark.parametrize(
    ("order", "rules", "why"),
    [
        ({"event": "pull_request", "fork": "stranger/train"}, (RepositoryRule("acme/*"),), "comes from stranger/train"),
        ({"event": "pull_request", "fork": "x/y", "fork_deleted": True}, (RepositoryRule("acme/*"),), "comes from a fork"),
        ({"event": "pull_request_target"}, (RepositoryRule("acme/*"),), "event pull_request_target may not run here"),
        ({"event": "push", "actor": "eve"}, (MONA,), "eve set it going and is not among the `actors`"),
    ],
)
async def test_what_may_not_spend_never_leads_to_a_create_call(
    database: Database, tmp_path: Path, order: dict[str, Any], rules: Sequence[RepositoryRule], why: str
) -> None:
    async with World(database, tmp_path, repositories=rules) as world:
        key = world.github.queue(LABELS, **order)
        await world.run(timedelta(minutes=1))
        job = world.job(key)
        assert why in job.not_ours
        assert (job.pool, job.cleared_at, created(world), world.leases()) == (None, None, 0, [])


@pytest.mark.parametrize(
    ("order", "rules"),
    [
        ({"event": "pull_request"}, (RepositoryRule("acme/*"),)),
        ({"event": "pull_request", "fork": "stranger/train"}, (RepositoryRule("acme/*", forks=True),)),
        ({"event": "push", "actor": "Trusted-Bot"}, (MONA,)),
    ],
)
async def test_what_may_spend_is_rented_in_the_same_beat(
    database: Database, tmp_path: Path, order: dict[str, Any], rules: Sequence[RepositoryRule]
) -> None:
    async with World(database, tmp_path, repositories=rules) as world:
        key = world.github.queue(LABELS, **order)
        await world.step()
        assert created(world) == 1
        assert world.job(key).cleared_at is not None


async def test_a_merge_request_of_a_fork_never_leads_to_a_create_call(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, gitlab=True) as world:
        assert world.gitlab is not None
        ours, theirs = world.gitlab.lab.add_project("acme/train"), world.gitlab.lab.add_project("stranger/train")
        key = str(world.gitlab.lab.queue_job(ours, LABELS, merges=theirs).id)
        await world.run(timedelta(minutes=1))
        assert "forks = true" in world.job(key, "gitlab").not_ours
        assert created(world) == 0


async def test_a_job_that_waits_for_its_approval_is_no_question_yet(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        asked = counting(world, monkeypatch)
        key = world.github.queue(LABELS, needs_approval=True)
        await world.run(timedelta(minutes=1))
        assert (asked, created(world)) == ([], 0)
        world.github.state.approve(int(key), world.clock.now())
        await world.run_until(lambda: created(world) == 1, within=timedelta(seconds=10))
        assert len(asked) == 1


async def test_a_rerun_by_somebody_not_in_actors_is_refused(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, repositories=[MONA]) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        state = world.github.state
        state.book.runs[state.book.jobs[int(key)].run_id].actor = "eve"
        (again,) = state.rerun([int(key)], world.clock.now())
        await world.run(timedelta(minutes=1))
        assert "eve set it going" in world.job(str(again.id)).not_ours
        assert created(world) == 1


async def test_no_answer_is_no_machine_and_the_job_says_so_until_there_is_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        real, asked = world.github.forge.fetch_run, list[str]()

        def down(job: Job) -> Run | None:
            asked.append(job.run_id)
            raise ForgeDown("Out of reach.")

        monkeypatch.setattr(world.github.forge, "fetch_run", down)
        key = world.github.queue(LABELS)
        await world.run(timedelta(minutes=1), stride=1)
        late = world.github.queue(LABELS)
        await world.step()
        assert created(world) == 0
        assert len(asked) <= 5, "a forge that is down is left alone for a while"
        assert all("Out of reach. It is asked again." in world.job(one).wait for one in (key, late))
        monkeypatch.setattr(world.github.forge, "fetch_run", real)
        await world.run_until(lambda: created(world) == 2, within=timedelta(minutes=1))


async def test_a_run_that_the_forge_no_longer_has_is_not_ours(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:

        def gone(_: Job) -> Run | None:
            return None

        monkeypatch.setattr(world.github.forge, "fetch_run", gone)
        key = world.github.queue(LABELS)
        await world.step()
        assert world.job(key).not_ours == "github no longer has the run of this job."


async def test_a_run_of_another_repository_than_the_delivery_said_is_not_ours(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:

        def other(job: Job) -> Run:
            return Run(job.forge, "evil/train", job.run_id, event="push", head_repository="evil/train", fork=False)

        monkeypatch.setattr(world.github.forge, "fetch_run", other)
        key = world.github.queue(LABELS)
        await world.step()
        assert "github says evil/train" in world.job(key).not_ours


async def test_jobs_that_cannot_be_learned_keep_no_younger_one_waiting(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More GitLab jobs answered 403 than one round asks for: those that came later are learned all the same."""
    async with World(database, tmp_path, gitlab=True) as world:
        assert world.gitlab is not None
        real = world.gitlab.forge.fetch_job

        def fetch(job: Job) -> Job | None:
            if job.key.startswith("9000"):
                raise ForgeRefused("403 Forbidden.")
            return real(job)

        monkeypatch.setattr(world.gitlab.forge, "fetch_job", fetch)
        crowd = [
            Job(f"gitlab-9000{number}", "gitlab", f"9000{number}", "acme/shut", JobState.QUEUED)
            for number in range(enlist.GROUP + 20)
        ]
        jobs.record(database, [jobs.Record("gitlab", "", "Job Hook", "pending", one) for one in crowd], NOON)
        key = world.gitlab.queue(LABELS)
        await world.step()
        await world.step()
        assert world.job(key, "gitlab").cleared_at is not None
        assert "403 Forbidden." in world.job("90001", "gitlab").wait


async def test_new_rules_are_asked_of_runs_that_are_known_without_asking_the_forge_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        asked = counting(world, monkeypatch)
        key = world.github.queue(LABELS)
        await world.step()
        deps = world.service.deps
        for rules, cleared in (((RepositoryRule("acme/*", actors=frozenset({"ada"})),), False), (deps.repositories, True)):
            other = replace(deps, repositories=rules)
            assert enlist.reconsider(other) == 1
            await enlist.enlist(other)
            job = world.job(key)
            assert ((job.cleared_at is not None), bool(job.not_ours)) == (cleared, not cleared)
        assert len(asked) == 1


async def idle(world: World) -> Host:
    """A machine whose runner is online, and takes no job by itself."""
    world.github.queue(LABELS)
    await world.run_until(lambda: bool(world.living()))
    while not world.hosts:
        await world.step()
    (host,) = world.hosts.values()
    host.takes_jobs = False
    await world.run_until(lambda: world.lease().state is State.IDLE, stride=0.5)
    return host


async def test_at_its_start_a_job_is_judged_by_the_forges_word_and_not_by_its_own(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's job took our runner before anybody told us of it, and says that it is a push."""
    async with World(database, tmp_path) as world:
        asked = counting(world, monkeypatch)
        host = await idle(world)
        order = Order("acme/train", "bad" * 14, [JobSpec("x", "x", ["gpu"])], event="pull_request", fork="eve/train")
        run = world.github.state.start(order, world.clock.now())
        allowed, lines = await host.node.job_started(repository="acme/train", run_id=str(run.id), event="push")
        assert (allowed, "comes from eve/train" in lines[1], asked[1:]) == (False, True, [str(run.id)])
        again, lines = await host.node.job_started(repository="acme/train", run_id=str(run.id), event="push")
        assert (again, "takes no job" in lines[0], asked[2:]) == (False, True, [])
        await world.deliver()
        world.intercept = none
        await world.run_until(lambda: world.leases()[0].reason is Reason.JOB_REFUSED, within=timedelta(minutes=3))


async def test_at_its_start_a_job_that_nobody_can_vouch_for_is_refused(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        host = await idle(world)

        def down(_: Job) -> Run | None:
            raise ForgeDown("Out of reach.")

        monkeypatch.setattr(world.github.forge, "fetch_run", down)
        allowed, lines = await host.node.job_started(repository="acme/train", run_id="77", event="push")
        assert (allowed, lines[1]) == (False, "Nobody can say where it comes from: Out of reach. Run it again.")


async def test_a_lease_is_for_one_job_whichever_web_is_asked(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        host = await idle(world)
        key = next(iter(world.github.state.book.jobs))
        run = str(world.github.state.book.jobs[key].run_id)
        assert (await host.node.job_started(repository="acme/train", run_id=run, event="push"))[0]
        await world.restart()
        assert (await host.node.job_started(repository="acme/train", run_id=run, event="push"))[0], "the same may ask again"
        allowed, lines = await host.node.job_started(repository="acme/train", run_id=run, event="push", attempt=2)
        assert (allowed, "is for one job and has had it" in lines[0]) == (False, True)
