"""The documents: generated pages are fresh, links resolve, settings shown in them load, commands shown in them exist."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from app.cli.root import sublet
from app.core.model import Reason
from app.core.states import State
from app.settings import load
from app.settings.keys import every_key
from docs.generate import PAGES, REFERENCE
from providers.docker import DockerProvider
from providers.local import LocalProvider

TREE = Path(__file__).resolve().parent.parent.parent
LATER = re.compile(r"docs/images/lease-(light|dark)\.png")
"""Taken by the browser tests, which are skipped where there is no browser."""


@cache
def documents() -> tuple[Path, ...]:
    folders = (*sorted((TREE / "docs").rglob("*.md")), *sorted((TREE / "images").rglob("*.md")))
    return (TREE / "README.md", TREE / "CHANGELOG.md", *folders)


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """(page, text) of every code block in these languages."""
    for path in documents():
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            if language in languages:
                yield path.relative_to(TREE).as_posix(), text


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    assert (REFERENCE / name).read_text("utf-8") == PAGES[name](), "run `make docs`"


def test_every_setting_and_every_command_has_its_place() -> None:
    page = (REFERENCE / "config.md").read_text("utf-8")
    for key in every_key():
        assert key.meaning, f"{key.name} has no docstring"
        assert f"| `{key.name.rpartition('.')[2]}` |" in page
    page = (REFERENCE / "cli.md").read_text("utf-8")
    for path in _paths(sublet, ("sublet",)):
        assert f"## `{' '.join(path)}`" in page


def _paths(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _paths(below, (*path, name))


def _anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_resolve() -> None:
    broken: list[str] = []
    for path in documents():
        text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
        for target in targets:
            place, _, anchor = target.partition("#")
            if "://" in target or LATER.search(target):
                continue
            file = (path.parent / place).resolve() if place else path
            headings = (
                re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
                if file.suffix == ".md" and file.exists()
                else []
            )
            if not file.exists() or (anchor and anchor not in {_anchor(heading) for heading in headings}):
                broken.append(f"{path.relative_to(TREE)}: {target}")
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {TREE / "README.md"}
    ahead = list(reached)
    while ahead:
        path = ahead.pop()
        for target in re.findall(r"\]\(([^)#\s]+\.md)", path.read_text("utf-8")):
            file = (path.parent / target).resolve()
            if "://" not in target and file.exists() and file not in reached:
                reached.add(file)
                ahead.append(file)
    assert set(documents()) - reached == set()


@pytest.mark.parametrize(("page", "text"), [block for block in blocks("toml") if block[1].startswith("# sublet.toml")])
def test_settings_that_are_shown_can_be_used(page: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "sublet.toml"
    path.write_text(text, encoding="utf-8")
    load(path, {}, {})


def _commands() -> Iterator[tuple[str, list[str]]]:
    for page, text in blocks("console"):
        for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE):
            yield page, shlex.split(line, comments=True)


def test_commands_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TREE / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page, words in _commands():
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, f"{page}: {words}"
        elif words[0].endswith("sublet"):
            command: click.Command = sublet
            rest = words[1:]
            while isinstance(command, click.Group) and rest and rest[0] in command.commands:
                command = command.commands[rest.pop(0)]
            with click.Context(command, resilient_parsing=True) as context:
                command.make_parser(context).parse_args(rest)
            assert command is not sublet, f"{page}: {words}"


def test_phases_tell_every_state_and_every_reason() -> None:
    page = (REFERENCE / "phases.md").read_text("utf-8")
    for word in (*State, *Reason):
        assert f"`{word}`" in page


def test_providers_tell_every_key() -> None:
    page = (REFERENCE / "providers.md").read_text("utf-8")
    for kind, provider in (("local", LocalProvider), ("docker", DockerProvider)):
        told = page.partition(f'## `kind = "{kind}"`')[2].partition("\n## ")[0]
        for field in dataclasses.fields(provider.Settings):
            assert f"`{field.name}`" in told, f"{kind}: {field.name}"


def test_the_terms_are_the_whole_licence() -> None:
    text = (TREE / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_shell_scripts_can_be_read() -> None:
    for script in (TREE / ".ci/run",):
        subprocess.run(
            ["sh", "-c", "command -v bash >/dev/null || exit 0; exec bash -n " + shlex.quote(str(script))], check=True
        )
