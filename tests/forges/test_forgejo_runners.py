"""Runner records on Forgejo: made for one job and good for no other, removed; labels; everything that can go wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from app.core.model import Scope, ScopeKind
from app.forges.contract import Forge, ForgeDown, ForgeRefused, Minted, Missed, Pace, RunnerBusy, RunnerOrder
from providers.contract import Secret
from tests.fakes.forgejo import TOKEN, FakeForgejo, OneJob
from tests.fakes.forgejo_state import FakeJob, Unauthenticated
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import HOOK_SECRET, ManualClock
from tests.forges.test_forgejo_deliveries import PATH, ForgejoSide, serve

REPOSITORY = Scope(ScopeKind.REPOSITORY, PATH)
ORGANIZATION = Scope(ScopeKind.ORGANIZATION, "acme")
INSTANCE = Scope(ScopeKind.ENTERPRISE, "forgejo")
HANDLE = "33ba7d51-59c6-44f8-9d2b-1b94f4033973"
NAME = "sublet-brave-owl-12-1"


@pytest.fixture
def forgejo(clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock)


@pytest.fixture(params=["", "/git"], ids=["own-host", "under-a-path"])
def any_forgejo(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock, request.param)


def order(scope: Scope = REPOSITORY, job: str = HANDLE, **changes: Any) -> RunnerOrder:
    values: dict[str, Any] = {"name": NAME, "labels": ("gpu", "Rubin"), "idle_limit": timedelta(minutes=3)}
    return RunnerOrder(scope=scope, job=job, **{**values, **changes})


def program(server: FakeForgejo, minted: Minted) -> OneJob:
    """What the machine starts."""
    files = {name: content.reveal() for name, content in minted.credential.files.items()}
    return OneJob(server, minted.credential.command, files)


def serving(side: ForgejoSide, job: FakeJob, scope: Scope = REPOSITORY) -> tuple[Minted, OneJob]:
    minted = side.forge().mint_runner(order(scope, job.handle, labels=job.labels))
    return minted, program(side.server, minted)


def test_it_is_a_forge(forgejo: ForgejoSide) -> None:
    forge: Forge = forgejo.forge()
    assert (forge.name, forge.kind, forge.always_2xx, forge.single_use) == ("forgejo", "forgejo", False, True)
    assert (forge.pinned, forge.wide, forge.reruns_in_place) == (True, True, False)
    assert forge.pace() is Pace.FREE


def test_a_record_is_made_for_a_repository_an_organisation_and_the_instance(any_forgejo: ForgejoSide) -> None:
    server, forge = any_forgejo.server, any_forgejo.forge()
    repository = server.add_repository(PATH)
    for scope, place in ((REPOSITORY, repository), (ORGANIZATION, repository.owner), (INSTANCE, None)):
        minted = forge.mint_runner(order(scope, description="Sublet lease brave-owl"))
        assert server.requests[-1].body == {"name": NAME, "description": "Sublet lease brave-owl", "ephemeral": True}
        assert server.runners[int(minted.runner_id)].place is place
        view = forge.runner(scope, minted.runner_id)
        assert view is not None
        assert (view.name, view.online, view.busy) == (NAME, False, False)


def test_the_command_asks_for_this_job_and_the_token_is_in_its_file_only(forgejo: ForgejoSide) -> None:
    forgejo.server.add_repository(PATH)
    minted = forgejo.forge().mint_runner(order())
    credential, record = minted.credential, forgejo.server.runners[int(minted.runner_id)]
    told = (
        f"forgejo-runner one-job --url {forgejo.server.url} --uuid {record.uuid} "
        f"--token-url file:///proc/self/cwd/runner-token --label gpu:host --label Rubin:host --handle {HANDLE} --wait"
    )
    assert list(credential.command) == told.split()
    assert {name: secret.reveal() for name, secret in credential.files.items()} == {"runner-token": record.token}
    assert dict(credential.environment) == {}
    assert record.token not in repr(minted) + " ".join(credential.command)
    assert credential.least is not None
    assert (credential.least.command, credential.least.version) == (("forgejo-runner", "--version"), "12.8.0")


def test_what_the_program_prints_says_ready_and_begun_in_this_order(forgejo: ForgejoSide) -> None:
    minted, one = serving(forgejo, forgejo.server.queue_job(PATH, ["gpu"]))
    ready, begun = minted.credential.ready, minted.credential.begun
    assert ready in "\n".join(one.output)
    assert begun not in "\n".join(one.output)
    assert one.take() is not None
    assert begun in "\n".join(one.output)


def test_a_runner_made_for_one_job_never_takes_another(any_forgejo: ForgejoSide) -> None:
    """The match is one to one, whichever waits longer and wherever the record was made."""
    server = any_forgejo.server
    for scope in (REPOSITORY, ORGANIZATION, INSTANCE):
        older, meant = server.queue_job(PATH, ["gpu"]), server.queue_job(PATH, ["gpu"])
        _, one = serving(any_forgejo, meant, scope)
        taken = one.take()
        assert taken is meant
        assert older.status == "waiting"
        assert one.take() is None, "nor a second one"
        one.finish(meant)
        with pytest.raises(Unauthenticated):
            server.fetch_any(one.uuid, one.token)
        assert older.status == "waiting"


def test_a_job_that_is_gone_stolen_or_run_again_leaves_its_runner_without_one(forgejo: ForgejoSide) -> None:
    server = forgejo.server
    gone, stolen, again = (server.queue_job(PATH, ["gpu"]) for _ in range(3))
    ours = [serving(forgejo, job)[1] for job in (gone, stolen, again)]
    server.cancel_job(gone)
    server.cancel_job(again)
    server.rerun_job(again)
    thief = server.create_runner("thief", None)
    server.declare(thief.uuid, thief.token, ["gpu"])
    assert server.fetch_any(thief.uuid, thief.token) is stolen
    server.queue_job(PATH, ["gpu"])
    assert [one.take() for one in ours] == [None, None, None]
    assert [one.ended for one in ours] == [None, None, None], "it waits: our idle limit ends it"


def test_a_runners_whole_life(any_forgejo: ForgejoSide) -> None:
    server, forge = any_forgejo.server, any_forgejo.forge()
    job = server.queue_job(PATH, ["gpu"])
    minted, one = serving(any_forgejo, job)
    view = forge.runner(REPOSITORY, minted.runner_id)
    assert view is not None
    assert (view.online, view.busy) == (True, False)
    assert one.take() is job
    forge.job_started(REPOSITORY, minted.runner_id)
    view = forge.runner(REPOSITORY, minted.runner_id)
    assert view is not None
    assert (view.online, view.busy) == (True, True)
    with pytest.raises(RunnerBusy):
        forge.remove_runner(REPOSITORY, minted.runner_id)
    assert job.status == "running"
    one.finish(job)
    assert forge.runner(REPOSITORY, minted.runner_id) is None, "Forgejo forgets it by itself"
    forge.remove_runner(REPOSITORY, minted.runner_id)
    idle, _ = serving(any_forgejo, server.queue_job(PATH, ["gpu"]))
    forge.remove_runner(REPOSITORY, idle.runner_id)
    forge.remove_runner(REPOSITORY, idle.runner_id)
    assert server.runners == {}


def test_a_word_that_nobody_knows_is_no_state(forgejo: ForgejoSide) -> None:
    record = {"id": 5, "name": NAME, "status": "resting"}
    forgejo.server.loopback.faults.append(Fault("GET", "/runners/5", reply=Reply(200, record)))
    view = forgejo.forge().runner(REPOSITORY, "5")
    assert view is not None
    assert (view.online, view.busy) == (None, None)


def test_a_machine_that_is_gone_is_noticed_by_forgejo_after_ten_minutes(forgejo: ForgejoSide) -> None:
    server = forgejo.server
    job, untaken = server.queue_job(PATH, ["gpu"]), server.queue_job(PATH, ["gpu"])
    _, one = serving(forgejo, job)
    assert one.take() is job
    server.fall_silent(job)
    for minutes, status in ((9, "running"), (1, "failure")):
        forgejo.clock.forward(timedelta(minutes=minutes))
        server.tick()
        assert job.status == status
    forgejo.clock.forward(timedelta(hours=24))
    server.tick()
    assert untaken.status == "cancelled"


def test_a_lost_answer_leaves_a_record_that_its_name_finds(forgejo: ForgejoSide) -> None:
    forgejo.server.add_repository(PATH)
    forge = forgejo.forge()
    forgejo.server.fault("/actions/runners", "lose answer", verb="POST")
    with pytest.raises(ForgeDown, match="gave no answer"):
        forge.mint_runner(order())
    (left,) = forge.runners(REPOSITORY, NAME)
    forge.remove_runner(REPOSITORY, left.runner_id)
    assert forge.mint_runner(order()).runner_id != left.runner_id
    assert len(forge.runners(REPOSITORY, NAME)) == 1


def test_a_listing_is_whole_and_of_its_scope_only(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    server.add_repository(PATH)
    assert list(forge.runners(REPOSITORY, "")) == []
    server.api.most = 2
    for number in range(5):
        forge.mint_runner(order(name=f"sublet-{number}"))
    forge.mint_runner(order(name="somebody-else"))
    forge.mint_runner(order(ORGANIZATION, name="sublet-of-the-owner"))
    assert [one.name for one in forge.runners(REPOSITORY, "sublet-")] == [f"sublet-{number}" for number in range(5)]
    assert [one.name for one in forge.runners(ORGANIZATION, "sublet-")] == ["sublet-of-the-owner"]
    server.loopback.faults += [Fault("GET", "/runners", effect=True), Fault("GET", "/runners", reply=Reply(500))]
    with pytest.raises(ForgeDown):
        forge.runners(REPOSITORY, "sublet-")
    for body in (None, {"runners": [{"id": 1, "name": "sublet-x", "status": "idle"}], "total_count": 1}):
        server.loopback.faults.append(Fault("GET", "/runners", reply=Reply(200, body, raw=b"null" if body is None else None)))
        assert len(forge.runners(REPOSITORY, "sublet-")) == (0 if body is None else 1)


def test_a_pools_own_command_is_filled_in(forgejo: ForgejoSide) -> None:
    forgejo.server.add_repository(PATH)
    own = (
        "/opt/runner-13",
        "one-job",
        "--uuid",
        "{uuid}",
        "--token-url={token_url}",
        "{url}|{handle}|{name}|{labels}|{idle_seconds}",
    )
    minted = forgejo.forge().mint_runner(order(command=own))
    url, uuid = forgejo.server.url, forgejo.server.runners[int(minted.runner_id)].uuid
    assert minted.credential.command == (
        "/opt/runner-13",
        "one-job",
        "--uuid",
        uuid,
        "--token-url=file:///proc/self/cwd/runner-token",
        f"{url}|{HANDLE}|{NAME}|gpu:host,Rubin:host|180",
    )
    assert minted.credential.least is not None
    assert minted.credential.least.command == ("/opt/runner-13", "--version")
    with pytest.raises(ForgeRefused, match=r"\{token\}"):
        forgejo.forge().mint_runner(order(command=("run", "{token}")))
    assert len(forgejo.server.runners) == 1, "refused before anything was made"


def test_what_forgejo_does_not_have_is_said_so(forgejo: ForgejoSide) -> None:
    forge = forgejo.forge()
    assert forge.missed(forgejo.clock.now()) is None
    with pytest.raises(ForgeRefused, match="cannot send a delivery again"):
        forge.redeliver(Missed("1", "g", forgejo.clock.now()))
    assert forge.light_beacon(REPOSITORY, ("gpu",), None, "") is None
    assert forgejo.server.requests == []


def test_no_secret_shows_anywhere(forgejo: ForgejoSide, all_logs: Callable[[], str]) -> None:
    """Not in logs, not in reprs, not in errors with their whole chain of causes."""
    forgejo.server.add_repository(PATH)
    forge = forgejo.forge()
    minted = forge.mint_runner(order())
    told = [repr(forge), repr(vars(forge)), repr(minted)]
    forgejo.server.fault("/runners", "hang up")
    with pytest.raises(ForgeDown) as caught:
        forge.runners(REPOSITORY, "")
    told.append("".join(traceback.format_exception(caught.value)))
    careless = Secret("bad\ntoken-of-a-careless-person")
    with pytest.raises(ValueError, match="no header can carry") as refused:
        forgejo.forge(token=careless)
    told.append("".join(traceback.format_exception(refused.value)))
    told.append(all_logs())
    tokens = [runner.token for runner in forgejo.server.runners.values()]
    for secret in [*tokens, TOKEN, HOOK_SECRET, "token-of-a-careless-person"]:
        assert not [text for text in told if secret in text]
    assert all("token" not in one.query and TOKEN not in one.path for one in forgejo.server.requests)
