"""What Forgejo refuses, cannot do or does not answer: old servers, labels, rights, faults; each is a sentence or a wait."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from app.core.model import Scope, ScopeKind
from app.forges.contract import ForgeDown, ForgeRefused
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.test_forgejo_deliveries import ForgejoSide, serve
from tests.forges.test_forgejo_runners import HANDLE, PATH, REPOSITORY, order


@pytest.fixture
def forgejo(clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock)


@pytest.fixture(params=["", "/git"], ids=["own-host", "under-a-path"])
def any_forgejo(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock, request.param)


@pytest.mark.parametrize("version", ["14.0.9+gitea-1.22.0", "1.24.2", "11.0", "unknown", ""])
def test_a_server_that_is_too_old_is_refused_with_a_sentence(forgejo: ForgejoSide, version: str) -> None:
    forgejo.server.add_repository(PATH)
    forgejo.server.api.version = version
    for ask in (forgejo.forge().check, lambda: forgejo.forge().mint_runner(order())):
        with pytest.raises(ForgeRefused, match="Forgejo 15 or later"):
            ask()
    assert forgejo.server.runners == {}


@pytest.mark.parametrize("version", ["15.0.0", "v15.0.7+gitea-1.22.0", "16.0.0-dev-465-4b83448b7d+gitea-1.22.0", "17.1"])
def test_newer_ones_serve_and_are_asked_for_their_version_once_an_hour(forgejo: ForgejoSide, version: str) -> None:
    forgejo.server.add_repository(PATH)
    forgejo.server.api.version = version
    forge = forgejo.forge()
    for _ in range(3):
        forge.mint_runner(order())
    assert len([one for one in forgejo.server.requests if one.path.endswith("/version")]) == 1
    forgejo.clock.forward(timedelta(hours=1))
    forge.mint_runner(order())
    assert len([one for one in forgejo.server.requests if one.path.endswith("/version")]) == 2


@pytest.mark.parametrize("job", ["", "982", "--config=x", "a b c d e f g h"])
def test_without_a_handle_nothing_is_made(forgejo: ForgejoSide, job: str) -> None:
    with pytest.raises(ForgeRefused, match="handle"):
        forgejo.forge().mint_runner(order(job=job))
    assert forgejo.server.requests == []


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ((), "1 to 100"),
        (tuple(map(str, range(101))), "1 to 100"),
        (("gpu,admin",), "comma"),
        (("gpu", " "), "blank"),
        (("gpu", "gpus:4"), "'gpus:4'"),
        (("gpu:docker://evil",), "colon"),
    ],
)
def test_labels_that_no_runner_can_have(forgejo: ForgejoSide, labels: tuple[str, ...], why: str) -> None:
    assert why in forgejo.forge().unfit(labels)
    with pytest.raises(ForgeRefused, match=why):
        forgejo.forge().mint_runner(order(labels=labels))
    assert forgejo.server.requests == []


def test_other_labels_fit(forgejo: ForgejoSide) -> None:
    for labels in (["gpu"], ["gpu", "Rubin", "gpus-4"], ["-x"], list(map(str, range(100)))):
        assert forgejo.forge().unfit(labels) == ""


def test_a_place_that_is_not_there_or_a_person_is_a_sentence(forgejo: ForgejoSide) -> None:
    forgejo.server.add_owner("ann", person=True)
    for scope in (REPOSITORY, Scope(ScopeKind.ORGANIZATION, "ann")):
        with pytest.raises(ForgeRefused, match=f"Forgejo has no {scope.kind} {scope.path}"):
            forgejo.forge().mint_runner(order(scope))
        with pytest.raises(ForgeRefused, match=f"Forgejo has no {scope.kind} {scope.path}"):
            forgejo.forge().runners(scope, "")


@pytest.mark.parametrize("path", ["acme", "acme/..", "../acme", "acme/tr ain", "a/b?c", "a/b/c", ""])
def test_what_is_no_path_never_reaches_a_url(forgejo: ForgejoSide, path: str) -> None:
    scopes = [Scope(ScopeKind.REPOSITORY, path)] + ([Scope(ScopeKind.ORGANIZATION, path)] if "/" in path else [])
    for scope in scopes:
        with pytest.raises(ForgeRefused):
            forgejo.forge().mint_runner(order(scope))
        with pytest.raises(ForgeRefused):
            forgejo.forge().runners(scope, "")
    with pytest.raises(ForgeRefused):
        forgejo.forge().runner(REPOSITORY, "../5")
    assert forgejo.server.requests == []


def test_nothing_is_ever_asked_twice(forgejo: ForgejoSide) -> None:
    forgejo.server.add_repository(PATH)
    for kind, wait in (("429", 60), ("500", 15), ("503", 15)):
        forgejo.server.fault("/actions/runners", kind, times=9)
        before = len(forgejo.server.requests)
        with pytest.raises(ForgeDown) as caught:
            forgejo.forge().mint_runner(order())
        assert caught.value.wait == timedelta(seconds=wait)
        assert len(forgejo.server.requests) == before + 2
        forgejo.server.loopback.faults.clear()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, {"message": "token has expired"}), "token has expired"),
        (Reply(403, {"message": "Must be an organization owner"}), "organization owner"),
        (Reply(422, None, {}, b"<html>"), "HTTP 422"),
        (Reply(307, None, {"Location": "http://127.0.0.2:9/sign_in"}), "sends us elsewhere"),
    ],
)
def test_a_definite_no_is_for_a_person_in_forgejos_words(forgejo: ForgejoSide, reply: Reply, words: str) -> None:
    forgejo.server.add_repository(PATH)
    forgejo.server.loopback.faults.append(Fault(path="/actions/runners", reply=reply))
    with pytest.raises(ForgeRefused, match=words):
        forgejo.forge().mint_runner(order())


@pytest.mark.parametrize("body", [{}, [], {"id": 5, "uuid": HANDLE}, {"id": 5, "uuid": "--x", "token": "t" * 40}, {"id": "x"}])
def test_a_success_that_cannot_be_read_is_no_clear_answer(forgejo: ForgejoSide, body: object) -> None:
    forgejo.server.add_repository(PATH)
    forgejo.server.loopback.faults.append(Fault("POST", "/actions/runners", reply=Reply(201, body)))
    with pytest.raises(ForgeDown, match="unreadable"):
        forgejo.forge().mint_runner(order())


def test_a_forge_that_hangs_or_is_not_there_is_no_clear_answer(forgejo: ForgejoSide) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        forge = forgejo.forge(url=f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout=timedelta(seconds=0.2))
        with pytest.raises(ForgeDown, match="ReadTimeout"):
            forge.runner(REPOSITORY, "3")
    gone = forgejo.forge()
    forgejo.server.loopback.stop()
    with pytest.raises(ForgeDown, match="gave no answer"):
        gone.runner(REPOSITORY, "3")


def test_the_check_tells_version_and_owner_of_the_token(any_forgejo: ForgejoSide) -> None:
    forge, api = any_forgejo.forge(), any_forgejo.server.api
    assert forge.check() == "forgejo: Forgejo 16.0.1, and the token of sublet-bot is good."
    api.scopes = {"write:repository"}
    assert "lacks read:user" in forge.check()
    api.expired = True
    with pytest.raises(ForgeRefused, match="HTTP 401"):
        forge.check()
    any_forgejo.server.age()
    api.expired, api.scopes = False, {"read:user"}
    assert "16 does" in any_forgejo.forge().check()


def test_a_token_without_the_right_is_refused_in_forgejos_words(forgejo: ForgejoSide) -> None:
    forgejo.server.add_repository(PATH)
    forgejo.server.api.scopes = {"read:repository"}
    with pytest.raises(ForgeRefused, match=r"required scope\(s\): \[write:repository\]"):
        forgejo.forge().mint_runner(order())
    assert list(forgejo.forge().runners(REPOSITORY, "")) == []
