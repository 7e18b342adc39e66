"""What hearing of a job cost is told wherever its story is: in words, on pages, in JSON, in the doctor's lines and a metric."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from app.core.listening import Listening
from app.core.model import Job, JobState
from app.core.states import State
from app.engine import listen
from app.forges.contract import Pace
from app.settings.forges import BUILT_IN
from app.store import hearing, jobs, reruns
from app.store.hearing import Lately, heard_after
from app.store.people import Role
from app.web.hearing import FIND, SLOWER, TITLES, news_of, told_of, ways
from tests.web.conftest import Rebuilt, Service
from tests.web.polled_story import LISTENING, PARTS, TOO_OLD, forges, heard, noticed, pinned, polled_job, quiet_network, refused
from tests.web.story import NOW, afternoon
from tests.web.test_pages import PAGE, words

POLLED = Listening(webhooks=False, poll=timedelta(seconds=15))
BOTH = Listening(poll=timedelta(minutes=5))
HOOKED = Listening(poll=None)


@pytest.fixture
def polled(rebuilt: Rebuilt) -> Service:
    """A service that polls Forgejo and takes Gitea's webhooks."""
    service: Service = rebuilt(**PARTS)
    return service


def seen(by: str, after: float | None, forge: str = "forgejo") -> Job:
    queued = None if after is None else NOW - timedelta(seconds=after)
    return replace(polled_job(1), forge=forge, queued_at=queued, seen_at=NOW, heard_by=by)


# --- the delay


@pytest.mark.parametrize(
    ("by", "after", "seconds"),
    [("poll", 9, 9.0), ("webhook", 0.5, 0.5), ("poll", -3, 0.0), ("webhook", 0, 0.0), ("poll", None, None), ("", 9, None)],
)
def test_the_delay_is_never_negative_and_none_where_nobody_knows(by: str, after: float | None, seconds: float | None) -> None:
    assert heard_after(seen(by, after)) == seconds


def test_a_job_that_is_run_again_in_place_has_no_delay(service: Service) -> None:
    """Its queue time is ours: the forge tells none."""
    job = heard(service.db, polled_job(1, queued_at=NOW - timedelta(seconds=20)), 5)
    noticed(service.db, replace(job, state=JobState.COMPLETED, conclusion="failure"), -10)
    assert reruns.reopen(service.db, [polled_job(1)], NOW + timedelta(seconds=50), NOW + timedelta(seconds=60)) == 1
    again = jobs.get(service.db, job.id)
    assert again is not None and again.queued_at is not None and heard_after(again) is None
    assert hearing.between(service.db, NOW, NOW + timedelta(hours=1)) == []


@pytest.mark.parametrize(
    ("job", "hears", "said"),
    [
        (seen("poll", 9), POLLED, "heard of after 9 s, by polling every 15 s"),
        (seen("poll", None), POLLED, "heard of by polling every 15 s; its forge does not say when it was queued"),
        (seen("poll", 250), BOTH, "heard of after 4 min 10 s, by polling every 5 min; no webhook came"),
        (seen("poll", 250), HOOKED, "heard of after 4 min 10 s, by polling; no webhook came"),
        (seen("webhook", 1.2), BOTH, "heard of after 1.2 s, by webhook"),
        (seen("webhook", None), BOTH, "heard of by webhook"),
        (seen("", 9), POLLED, ""),
    ],
)
def test_how_a_job_was_heard_of_in_words(job: Job, hears: Listening, said: str) -> None:
    assert told_of(job, {"forgejo": hears}).words == said


def test_of_the_last_polled_jobs_only_the_last_fifty_and_this_week_s_count(service: Service) -> None:
    for number in range(60):
        queued = NOW - timedelta(minutes=90 - number)
        heard(service.db, polled_job(number, queued_at=queued), 100 if number < 8 else 6 + number % 3)
    heard(service.db, polled_job(100, queued_at=NOW - timedelta(minutes=1)), 0.5, guid="a")
    noticed(service.db, replace(polled_job(101), id="mute-1", forge="mute"), -1)
    old = replace(polled_job(1), id="gitea-1", forge="gitea", queued_at=NOW - timedelta(days=8))
    heard(service.db, old, 9)
    told = hearing.lately(service.db, ["forgejo", "gitea", "none", "mute"], NOW)
    assert told.keys() == {"forgejo", "mute"} and told["mute"].count == 0
    assert (told["forgejo"].count, told["forgejo"].longest) == (50, 8.0)
    assert round(told["forgejo"].average, 2) == 7.02


# --- one line on a forge


@pytest.mark.parametrize(
    ("hears", "pace", "lately", "said"),
    [
        (BOTH, Pace.FREE, None, "Webhooks, and a listing every 5 min for what they miss."),
        (HOOKED, Pace.FREE, None, "Webhooks only: nothing is listed."),
        (
            POLLED, Pace.FREE, Lately(50, 7.0, 14.2),
            'No webhooks (`intake = "poll"`): its open jobs are listed every 15 s, so a job is heard of up to 15 s late; '
            "the last 50 jobs: 7 s on average, 14 s at most.",
        ),
        (
            POLLED, Pace.FREE, Lately(1, 7.0, 7.0),
            'No webhooks (`intake = "poll"`): its open jobs are listed every 15 s, so a job is heard of up to 15 s late; '
            "the last job: 7 s.",
        ),
        (
            POLLED, Pace.FREE, Lately(0),
            'No webhooks (`intake = "poll"`): its open jobs are listed every 15 s, so a job is heard of up to 15 s late; '
            "it does not say when a job was queued, so how late the last ones were heard of is not known.",
        ),
        (
            POLLED, Pace.SLOW, None,
            'No webhooks (`intake = "poll"`): its open jobs are listed every 45 s, so a job is heard of up to 45 s late. '
            "Less than half of its quota is left, so that is 3 times slower than set.",
        ),
        (
            BOTH, Pace.SLOW, None,
            "Webhooks, and a listing every 15 min for what they miss. "
            "Less than half of its quota is left, so that is 3 times slower than set.",
        ),
        (Listening(webhooks=False, poll=None), Pace.FREE, None, "Neither webhooks nor listings: no job is heard of."),
    ],
)  # fmt: skip
def test_how_the_news_of_a_forge_come_in_one_line(hears: Listening, pace: Pace, lately: Lately | None, said: str) -> None:
    assert news_of(hears, pace, lately) == said


def test_the_periods_are_the_engine_s() -> None:
    assert (SLOWER, FIND) == (listen.SLOWER, listen.FIND)


def test_every_forge_of_the_settings_has_its_name() -> None:
    assert set(TITLES) == set(BUILT_IN)


def test_the_ways_of_each_forge() -> None:
    found = ways(forges(), LISTENING, "https://ci.example")
    assert [(way.forge, way.hook, way.polled) for way in found] == [
        ("Forgejo", "", "every 15 s"), ("Gitea", "https://ci.example/hooks/gitea", "every 5 min"),
    ]  # fmt: skip


# --- pages and JSON


async def test_the_queue_tells_the_delay_of_each_job(polled: Service) -> None:
    quiet_network(polled.db)
    async with polled.client(Role.VIEWER, **PAGE) as client:
        page = words(await client.get("/queue"))
        view = (await client.get("/api/v1/queue")).json()
    told = {job["name"]: (job["heard_by"], job["heard_after_seconds"]) for job in view["jobs"]}
    assert told == {
        "lint": ("poll", 260.0), "release": ("poll", 4.0), "gpu-tests": ("webhook", 1.0), "nightly": ("poll", 14.0),
    }  # fmt: skip
    for piece in (
        "heard of after 14 s, by polling every 15 s", "heard of after 1 s, by webhook",
        "heard of after 4 min 20 s, by polling every 5 min; no webhook came",
    ):  # fmt: skip
        assert piece in page, piece


async def test_a_job_whose_forge_says_no_time_has_no_delay(polled: Service) -> None:
    noticed(polled.db, polled_job(1), -5)
    async with polled.client(Role.VIEWER, **PAGE) as client:
        (job,) = (await client.get("/api/v1/queue")).json()["jobs"]
        page = words(await client.get("/queue"))
    assert (job["heard_by"], job["heard_after_seconds"], job["queued_at"]) == ("poll", None, None)
    assert "heard of by polling every 15 s" in page and "heard of after" not in page


async def test_the_lease_s_timeline_begins_with_the_delay(polled: Service) -> None:
    quiet_network(polled.db)
    async with polled.client(Role.VIEWER, **PAGE) as client:
        page = words(await client.get("/leases/brave-otter-41"))
        view = (await client.get("/api/v1/leases/brave-otter-41")).json()
    assert re.search(r"queued 15 s .{0,40}heard of after 9 s, by polling every 15 s", page)
    assert view["phases"][0]["phase"] == "queued"
    assert view["phases"][0]["note"] == "heard of after 9 s, by polling every 15 s"
    assert view["job"]["heard_after_seconds"] == 9.0


async def test_an_empty_queue_says_how_jobs_find_their_way(polled: Service) -> None:
    async with polled.client(Role.VIEWER, **PAGE) as client:
        queue, overview = [words(await client.get(path)) for path in ("/queue", "/")]
    assert "Forgejo is polled every 15 s, no webhook needed" in queue
    assert "Gitea tells of jobs by webhook: http://127.0.0.1:8080/hooks/gitea" in queue and "/hooks/forgejo" not in queue
    assert "Forgejo: runs-on: [gpu, …] (polled every 15 s)" in overview and "GitHub" not in overview


# --- leases for one job, and runners that did not start


async def test_a_lease_for_one_job_says_for_which(polled: Service) -> None:
    job = heard(polled.db, polled_job(1, queued_at=NOW - timedelta(seconds=170)), 9)
    pinned(polled.db, 1, "brave-otter-41", job, State.BOOTING, -155)
    async with polled.client(Role.VIEWER, **PAGE) as client:
        page = words(await client.get("/leases/brave-otter-41"))
        view = (await client.get("/api/v1/leases/brave-otter-41")).json()
        (listed,) = (await client.get("/api/v1/leases")).json()["leases"]
    said = "Made for acme/train · gpu-eval alone: Forgejo pins a runner to its job."
    assert view["for_job"] == listed["for_job"] == job.id and view["job"] is None
    assert view["serves"] == said and said in page


async def test_other_leases_say_what_they_may_take(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        booting, done = [(await client.get(f"/api/v1/leases/{name}")).json() for name in ("swift-hare-02", "calm-heron-07")]
        page = words(await client.get("/leases/swift-hare-02"))
    assert (booting["for_job"], done["for_job"]) == ("", "")
    assert (
        booting["serves"] == "It may take any waiting job in acme/train with the labels gpu, rubin."
        and booting["serves"] in page
    )
    assert done["serves"] == "It could take any waiting job in acme/train with the labels gpu, rubin."


@pytest.mark.parametrize("own_words", [True, False])
async def test_why_a_runner_could_not_be_started_is_told_once(polled: Service, own_words: bool) -> None:
    job = heard(polled.db, polled_job(1, queued_at=NOW - timedelta(seconds=230)), 9)
    refused(polled.db, 1, "dull-crow-90", job, TOO_OLD, own_words=own_words)
    async with polled.client(Role.VIEWER, **PAGE) as client:
        page = words(await client.get("/leases/dull-crow-90"))
        view = (await client.get("/api/v1/leases/dull-crow-90")).json()
    assert view["runner_why"] == TOO_OLD
    head = page[: page.index("Timeline")]
    assert head.count(TOO_OLD) == 1 and ("The node could not start its runner" in head) is not own_words


# --- the metric


async def test_every_job_s_delay_is_counted_once(polled: Service) -> None:
    async with polled.client() as client:
        await client.get("/metrics")
        heard(polled.db, polled_job(1, queued_at=NOW), 9)
        heard(polled.db, replace(polled_job(2), id="gitea-2", forge="gitea", queued_at=NOW), 1, guid="a")
        heard(polled.db, replace(polled_job(3), id="attic-3", forge="attic", queued_at=NOW), 2)
        noticed(polled.db, polled_job(4), 5)
        polled.clock.advance(60)
        await client.get("/metrics")
        polled.clock.advance(60)
        lines = (await client.get("/metrics")).text.splitlines()
    name = "sublet_job_heard_duration_seconds"
    for line in (
        f'{name}_count{{by="poll",forge="other"}} 2.0', f'{name}_sum{{by="poll",forge="other"}} 11.0',
        f'{name}_sum{{by="webhook",forge="other"}} 1.0',
    ):  # fmt: skip
        assert line in lines, [one for one in lines if one.startswith(name) and "bucket" not in one]
