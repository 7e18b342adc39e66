"""What a Dockerfile of ours may not do: name a thing by a name that may move, fetch unchecked, or lend rights to a job."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.images.recipes import IMAGES, NAMES, read


def test_there_is_one_for_each_forge() -> None:
    assert NAMES == ("forgejo", "gitea", "github", "gitlab")


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


WHERE = {
    "forgejo": "https://code.forgejo.org/forgejo/runner/releases/download/v1.2.3/forgejo-runner-1.2.3-linux-arm64",
    "gitea": "https://dl.gitea.com/gitea-runner/1.2.3/gitea-runner-1.2.3-linux-arm64",
    "github": "https://github.com/actions/runner/releases/download/v1.2.3/actions-runner-linux-arm64-1.2.3.tar.gz",
    "gitlab": "https://s3.dualstack.us-east-1.amazonaws.com/gitlab-runner-downloads/v1.2.3/binaries/gitlab-runner-linux-arm64",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_runner_comes_from_its_makers(name: str) -> None:
    """As their release pages, and the recipes of others who fetch from there, have it."""
    lines = read(name)
    pairs = [line.words.partition("=") for line in lines if line.verb == "ARG"]
    known = {**{key: default for key, _, default in pairs}, "RUNNER_VERSION": "1.2.3", "machine": "arm64"}
    address = re.findall(r'curl \S+ -o \S+ "(\$RUNNER_FROM/[^"]+)"', " ".join(line.words for line in lines))
    assert [re.sub(r"\$(\w+)", lambda found: known[found.group(1)], one) for one in address] == [WHERE[name]]


@pytest.mark.parametrize("name", ["forgejo", "gitea"])
def test_javascript_actions_find_a_node_that_somebody_chose(name: str) -> None:
    """By its checksum, or else as the base has it: there is one in any case."""
    lines = read(name)
    last = " ".join(line.words for line in lines if line.stage == lines[-1].stage)
    assert "--from=fetched /opt/node /usr/local/bin" in last
    assert "node=$([ ! -e /usr/local/bin/node ] && echo nodejs || echo libatomic1 libstdc++6)" in last and "zstd $node " in last


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


def test_githubs_wrapper_tells_the_runners_version_and_starts_nothing(tmp_path: Path) -> None:
    """The script itself, with the runner in another folder; nothing is copied, whether or not there is a guarded socket."""
    runner, job = tmp_path / "actions-runner", tmp_path / "job"
    for file, says in (("run.sh", "echo started >>started"), ("bin/Runner.Listener", 'echo "2.340.0 asked with $*"')):
        (runner / file).parent.mkdir(parents=True, exist_ok=True)
        (runner / file).write_text(f"#!/bin/sh\n{says}\n")
        (runner / file).chmod(0o755)
    job.mkdir()
    guard, script = tmp_path / "guard.sock", tmp_path / "github-runner"
    text = (IMAGES / "github" / "github-runner").read_text("utf-8")
    script.write_text(text.replace("/opt/actions-runner", str(runner)).replace("/var/run/docker.sock", str(guard)))
    with socket.socket(socket.AF_UNIX) as bound:
        for _ in ("contained", "guarded"):
            told = subprocess.run(["sh", script, "--version"], cwd=job, capture_output=True, text=True, check=True)
            assert told.stdout == "2.340.0 asked with --version\n" and told.stderr == ""
            assert list(job.iterdir()) == [] and sorted(path.name for path in runner.iterdir()) == ["bin", "run.sh"]
            if not guard.exists():
                bound.bind(str(guard))
        subprocess.run(["sh", script], cwd=job, check=True)
    assert (job / "started").read_text() == "started\n", "without the word it starts, here beside the guarded socket"


@pytest.mark.parametrize("name", NAMES)
def test_the_page_tells_every_argument(name: str) -> None:
    page = (IMAGES / "README.md").read_text("utf-8")
    for line in read(name):
        if line.verb == "ARG":
            assert f"`{line.words.partition('=')[0]}`" in page
