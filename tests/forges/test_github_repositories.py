"""The repositories of one owner on GitHub: those that an App is installed on, or that a personal token is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.forges.contract import ForgeDown, ForgeRefused, HeldBack
from app.forges.github import GitHubForge
from providers.contract import Secret
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import GitHubSide
from tests.forges.hub import Hub, a_hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with a_hub() as found:
        for name in ("acme/eval", "acme/infer", "umbrella/lab"):
            found.state.repository(name, found.clock.now())
        found.state.repository("mona/own", found.clock.now(), parent="acme/train")
        found.state.repository("mona/shown", found.clock.now(), private=False)
        yield found


def personal(hub: Hub) -> GitHubForge:
    return hub.forge(app_id="", private_key=None, token=Secret(hub.keys.token))


ACME = ["acme/eval", "acme/infer", "acme/train"]


@pytest.mark.parametrize("page", [100, 2, 3, 1])
def test_an_app_and_a_personal_token_are_told_every_repository_of_the_owner(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("app.forges.github_repositories.PAGE", page)
    installation = str(hub.state.book.accounts["acme"].installation_id)
    assert hub.forge().repositories("acme", installation) == ACME
    assert hub.forge().repositories("Acme") == ACME
    assert personal(hub).repositories("acme") == ACME
    assert hub.asked("/installation/repositories") == 2 * -(-3 // page)
    assert hub.asked("/orgs/acme/repos") == 3 // page + 1


def test_a_persons_repositories_are_found_too(hub: Hub) -> None:
    """An App's as any; a token sees what is public, and what is its own person's."""
    assert hub.forge().repositories("mona") == ["mona/own", "mona/shown"]
    assert personal(hub).repositories("mona") == ["mona/own", "mona/shown"]
    hub.state.repository("mallory/train", hub.clock.now(), parent="acme/train")
    assert personal(hub).repositories("mallory") == []


def test_an_unchanged_listing_costs_no_quota_and_a_changed_one_is_read_anew(hub: Hub) -> None:
    for forge in (hub.forge(), personal(hub)):
        known = forge.repositories("acme")
        left, before = hub.left[-1], len(hub.calls)
        assert forge.repositories("acme") == known
        assert [status for _, _, status in hub.calls[before:]] == [304]
        assert hub.left[-1] == left
    hub.state.repository("acme/new", hub.clock.now())
    assert forge.repositories("acme") == [*ACME[:2], "acme/new", "acme/train"]


def test_two_owners_that_share_an_address_do_not_share_what_is_remembered(hub: Hub) -> None:
    forge = hub.forge()
    for _ in range(2):
        assert forge.repositories("acme") == ACME
        assert forge.repositories("umbrella") == ["umbrella/lab"]
    assert hub.asked("/installation/repositories") == 2


def test_an_owner_that_is_not_there_is_a_refusal(hub: Hub) -> None:
    with pytest.raises(ForgeRefused, match="no organisation or person nobody"):
        personal(hub).repositories("nobody")
    with pytest.raises(ForgeRefused, match="not installed on nobody"):
        hub.forge().repositories("nobody")
    asked = len(hub.calls)
    for strange in ("", "acme/train", "..", "acme?x=1", "a/../b"):
        with pytest.raises(ForgeRefused):
            hub.forge().repositories(strange)
    assert len(hub.calls) == asked


def test_it_is_a_poll(hub: Hub) -> None:
    forge = hub.forge()
    forge.repositories("acme")
    hub.state.book.faults.quota_taken = 0.94
    forge.repositories("acme")
    with pytest.raises(HeldBack):
        forge.repositories("acme")


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"id": 1, "full_name": name, "archived": False, "disabled": False, **more}


def test_what_runs_no_workflows_and_what_is_anothers_is_left_out(github: GitHubSide) -> None:
    told = [row("acme/train"), row("acme/old", archived=True), row("acme/bad", disabled=True), row("umbrella/lab")]
    github.server.fault(Fault("GET", "/orgs/acme/repos", reply=Reply(200, told)))
    assert github.personal().repositories("acme") == ["acme/train"]
    counted = {"total_count": 4, "repositories": told}
    github.server.fault(Fault("GET", "/installation/repositories", reply=Reply(200, counted)))
    assert github.forge().repositories("acme", "77") == ["acme/train"]


def test_half_a_listing_is_none(github: GitHubSide) -> None:
    onward = {"Link": f'<{github.server.url}/organizations/5/repos?page=2>; rel="next"'}
    for second in (Reply(500), Reply(200, [{"id": 3}]), Reply(200, {"message": "?"})):
        github.server.fault(Fault("GET", "/orgs/acme/repos", reply=Reply(200, [row("acme/train")], onward)))
        github.server.fault(Fault("GET", "/orgs/acme/repos", reply=second))
        with pytest.raises(ForgeDown):
            github.personal().repositories("acme")
    for left in ([row("acme/train")], []):
        github.server.fault(
            Fault("GET", "/installation/repositories", reply=Reply(200, {"total_count": 2, "repositories": left}))
        )
        github.server.fault(
            Fault("GET", "/installation/repositories", reply=Reply(200, {"total_count": 2, "repositories": []}))
        )
        with pytest.raises(ForgeDown, match="changed while"):
            github.forge().repositories("acme", "77")
        github.server.loopback.faults.clear()
