"""The pages that connect a forge: their commands load, their versions and addresses are those of the code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.listening import Listening
from app.forge_wiring import listening_of
from app.forges import forgejo, gitea, github_command, gitlab_command
from app.forges.contract import Pace
from app.kit.template import names
from app.settings import load
from app.settings.forges import BUILT_IN
from app.store.hearing import Lately
from app.web.hearing import FIND, news_of

HOW_TO = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to"
WHOLE = "# sublet.toml"
FILLED_IN = {"url", "name", "labels", "idle_seconds"}
MORE: Mapping[str, set[str]] = {"forgejo": {"uuid", "handle", "token_url"}}
OLDEST: Mapping[str, tuple[str, ...]] = {
    "github": (github_command.LEAST, ".".join(map(str, github_command.LEAST_SERVER))),
    "gitlab": (gitlab_command.LEAST.removesuffix(".0"), ".".join(map(str, gitlab_command.LEAST_SERVER))),
    "gitea": (gitea.OLDEST_RUNNER, ".".join(map(str, gitea.OLDEST))),
    "forgejo": (forgejo.OLDEST_RUNNER.removesuffix(".0"), str(forgejo.OLDEST)),
}


def _page(forge: str) -> str:
    return (HOW_TO / f"connect-{forge}.md").read_text("utf-8")


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("forge", BUILT_IN)
def test_a_command_that_is_shown_fits_its_forge(forge: str, tmp_path: Path) -> None:
    whole = next(block for block in _blocks(_page(forge)) if block.startswith(WHOLE))
    (shown,) = (block for block in _blocks(_page(forge)) if block.startswith("runner_command"))
    words = tomllib.loads(shown)["runner_command"]
    assert names(words) <= FILLED_IN | MORE.get(forge, set())
    without = re.sub(r"^runner_command = .*\n", "", whole, flags=re.MULTILINE)
    path = tmp_path / "sublet.toml"
    path.write_text(without.replace("[[pool]]\n", f"[[pool]]\n{shown}"), "utf-8")
    (pool,) = load(path, {}, {}).settings.pool
    assert list(pool.runner_command) == words


@pytest.mark.parametrize("forge", BUILT_IN)
def test_versions_and_the_webhooks_address_are_those_of_the_code(forge: str) -> None:
    page = _page(forge)
    for version in OLDEST[forge]:
        assert f"**{version}**" in page
    assert f"https://ci.acme.example/hooks/{forge}`" in page


def test_a_runner_that_is_too_old_is_told_in_the_words_of_the_page() -> None:
    assert f"{forgejo.OLDEST_RUNNER} or later: install a newer one there." in _page("forgejo")
    assert f"gitea-runner or act_runner {gitea.OLDEST_RUNNER} or later: install a newer one there." in _page("gitea")


def test_the_page_on_polling_takes_no_webhook_of_any_forge(tmp_path: Path) -> None:
    (shown,) = (block for block in _blocks((HOW_TO / "work-without-webhooks.md").read_text("utf-8")) if WHOLE in block)
    path = tmp_path / "sublet.toml"
    path.write_text(shown, "utf-8")
    hears = listening_of(load(path, {}, {}).settings)
    assert sorted(hears) == sorted(BUILT_IN)
    assert all(one.polled_only and one.poll is not None for one in hears.values())


def test_the_doctors_line_of_a_polled_forge_is_the_pages() -> None:
    page = " ".join((HOW_TO / "work-without-webhooks.md").read_text("utf-8").split())
    hears = Listening(webhooks=False, poll=timedelta(seconds=15))
    assert news_of(hears, Pace.FREE, Lately(12, 7.2, 14.8), found_in=FIND) in page
