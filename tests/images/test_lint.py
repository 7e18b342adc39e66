"""What a Dockerfile of ours may not do: name a thing by a name that may move, fetch unchecked, or lend rights to a job."""

from __future__ import annotations

import os
import re

import pytest

from tests.images.recipes import IMAGES, NAMES, read


def test_there_is_one_for_each_forge() -> None:
    assert NAMES == ("github", "gitlab")


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_the_builders_choice_by_its_digest(name: str) -> None:
    lines = read(name)
    assert {line.words.split()[0] for line in lines if line.verb == "FROM"} == {"${BASE}"}
    assert [line.words for line in lines if line.verb == "ARG" and line.stage == -1] == ["BASE"], "and it has no default"
    assert any(line.verb == "RUN" and "*@sha256:*" in line.words and "exit 1" in line.words for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_no_version_and_no_checksum_has_a_default_that_grows_old(name: str) -> None:
    pairs = [line.words.partition("=") for line in read(name) if line.verb == "ARG"]
    arguments = {key: default for key, _, default in pairs}
    for key in ("RUNNER_VERSION", "RUNNER_SHA256_AMD64", "RUNNER_SHA256_ARM64"):
        assert arguments[key] == ""
    assert [key for key, default in arguments.items() if default and not key.endswith("_FROM")] == []


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_fetched_is_held_against_a_checksum_before_it_is_used(name: str) -> None:
    lines = read(name)
    assert not any(line.verb == "ADD" for line in lines)
    for line in lines:
        fetched = re.findall(r"curl \S+ -o (\S+)", line.words) if line.verb == "RUN" else []
        assert len(re.findall(r"\b(curl|wget) -", line.words)) == len(fetched)
        for file in fetched:
            checked = line.words.index(f'echo "$sha256 {file}" | sha256sum -c -')
            assert line.words.count(file, 0, checked) == 1, "nothing touches it before it is checked"
            assert line.words.startswith("set -eu;"), "a checksum that differs ends the build"


@pytest.mark.parametrize("name", NAMES)
def test_both_machines_are_known_and_no_other(name: str) -> None:
    chosen = [line.words for line in read(name) if "$(uname -m)" in line.words]
    assert chosen and all("x86_64)" in words and "SHA256_ARM64" in words for words in chosen)
    assert "*) echo" in chosen[0] and "exit 1" in chosen[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_job_gets_a_user_without_a_way_to_more(name: str) -> None:
    last = [line for line in read(name) if line.stage == max(one.stage for one in read(name))]
    told = " ".join(line.words for line in last)
    assert "useradd --uid 1001" in told and "sublet-runner" in told
    assert "chmod a-s" in told and "-perm /6000" in told
    assert not re.search(r"\b(sudo|su-exec|gosu|tini|usermod|docker\.io|openssh-server)\b", told)
    assert not any(line.verb in ("VOLUME", "EXPOSE", "ENTRYPOINT", "ENV") for line in last)
    places = [place for place, line in enumerate(last) if "chmod a-s" in line.words]
    assert not any("apt-get" in line.words for line in last[places[0] + 1 :]), "nothing is installed after the rights are gone"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_agent_needs_is_in_it(name: str) -> None:
    last = max(line.stage for line in read(name))
    told = " ".join(line.words for line in read(name) if line.stage == last)
    for package in ("python3", "openssl", "git", "ca-certificates"):
        assert re.search(rf"\b{package}\b", told), package


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_from_here_is_here(name: str) -> None:
    for line in read(name):
        if line.verb == "COPY" and "--from=" not in line.words:
            file = IMAGES / name / line.words.split()[0]
            assert file.is_file() and os.access(file, os.X_OK)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_tells_every_argument(name: str) -> None:
    page = (IMAGES / "README.md").read_text("utf-8")
    for line in read(name):
        if line.verb == "ARG":
            assert f"`{line.words.partition('=')[0]}`" in page
