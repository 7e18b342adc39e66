"""The how-to page on signing is played against a real registry: its commands run, and print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fakes.registry import FakeRegistry
from tests.parts.registry import RealRegistry

TREE = Path(__file__).resolve().parent.parent.parent
PAGE = "docs/how-to/sign-and-verify-images.md"
HOST = "registry.acme.example"
CHANGING = (
    (r"sha256[:-][0-9a-f]{12,64}…?", "DIGEST"),
    (r"SHA256:[A-Za-z0-9+/]{12,43}…?", "KEY"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\d+ bytes", "SIZE"),
)


def steps(*headings: str) -> list[tuple[str, list[str]]]:
    """(command, the lines that the page shows below it) under these headings."""
    page = (TREE / PAGE).read_text("utf-8")
    found: list[tuple[str, list[str]]] = []
    for heading in headings:
        chapter = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        for block in re.findall(r"^```console\n(.*?)^```$", chapter, re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                if line.startswith("$ "):
                    found.append((line[2:], []))
                else:
                    found[-1][1].append(line)
    return found


def plain(text: str) -> list[str]:
    """Lines without what is another one each time, nor the width of columns."""
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_page_is_true(docker_registry: RealRegistry, tmp_path: Path) -> None:
    memory = FakeRegistry()
    memory.index("ci/gpu", "v3")
    memory.image("ci/gpu", "oops", seed="nobody has signed this")
    docker_registry.take(memory)
    page = (TREE / PAGE).read_text("utf-8")
    settings = re.findall(r"^```toml\n(# sublet.toml\n.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
    settings = re.sub(r"^(username|password) = .*\n", "", settings, flags=re.MULTILINE)  # this registry is open
    (tmp_path / "sublet.toml").write_text(settings.replace(HOST, docker_registry.host), "utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sublet").write_text(f'#!/bin/sh\nexec {sys.executable} -m app.cli "$@"\n', "utf-8")
    (tmp_path / "bin/sublet").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(TREE),
        "SIGNING_PASSWORD": "correct horse",
        "HOME": str(tmp_path),
        "COLUMNS": "250",
    }
    codes: list[int] = []
    for command, shown in steps("Without cosign", "Verify", "See a refusal"):
        if command.startswith("docker "):
            continue  # the image is there already
        done = subprocess.run(
            ["sh", "-c", command.replace(HOST, docker_registry.host)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        codes.append(done.returncode)
        assert plain(done.stdout.replace(docker_registry.host, HOST)) == plain("\n".join(shown)), command
    assert codes == [0, 0, 0, 0, 1]
