"""The agent's one file: the same bytes everywhere, for Python 3.8 on, and nothing in it but the standard library."""

import ast
import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.node.package import agent
from tests.node.agents import pack

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "app/node/agent").glob("*.py"))
TOO_NEW = re.compile(
    r"\.removeprefix|\.removesuffix|\.is_relative_to|\.with_stem|\.readlink\(|\.hardlink_to|\.pairwise|\.batched|math\.lcm"
    r"|functools\.cache\b|zip\([^)]*strict=|datetime\.UTC|TaskGroup|ExceptionGroup|\.bit_count|anext\(|\.waitstatus_to_exitcode"
    r"|\b(?:list|dict|set|tuple|frozenset|deque)\[[\w\[\], .|]*\]\("  # a class with its parameter can be called from 3.9 on
)
NEW_MODULES = {"tomllib", "zoneinfo", "graphlib"}


@functools.cache
def pythons() -> list[str]:
    """Every Python from 3.8 on that this machine has: on PATH, and those of pyenv."""
    found = [sys.executable]
    for minor in range(8, 15):
        places = [shutil.which(f"python3.{minor}"), *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}")]
        for place in places:
            if place and subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
                found.append(str(place))
                break
    return found


def test_the_hash_is_of_the_bytes_and_the_bytes_run(tmp_path: Path) -> None:
    """What is served is what is pinned."""
    content, sha256 = agent()
    assert hashlib.sha256(content).hexdigest() == sha256
    ended = subprocess.run([sys.executable, "-I", pack(tmp_path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "usage: agent.pyz run\n")


def test_nothing_in_it_depends_on_where_and_when_it_was_packed() -> None:
    """Sorted, stored, with one old time and no owner."""
    content, _ = agent()
    assert content.startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(2020, 1, 1, 0, 0, 0)}
    assert {(entry.compress_type, entry.create_system, entry.external_attr) for entry in entries} == {(0, 3, 0o100644 << 16)}
    assert {entry.filename for entry in entries} == {"__main__.py", *(f"sublet_agent/{path.name}" for path in SOURCES)}


def test_another_process_in_another_place_packs_the_same_bytes(tmp_path: Path) -> None:
    """Other working folder, other time zone, other hash seed, and every Python from 3.11 on that is here."""
    for python in pythons():
        version = subprocess.run(
            [python, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, text=True, check=True
        )
        if version.stdout.strip() != "True":
            continue
        told = subprocess.run(
            [python, "-c", "from app.node.package import agent; print(agent()[1])"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TZ": "Asia/Singapore", "PYTHONHASHSEED": "7"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == agent()[1], python


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_is_python_3_8_and_imports_only_the_standard_library(path: Path) -> None:
    """Read as Python 3.8 reads it; its own modules by relative import only; no annotation is evaluated."""
    text = path.read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            module = name.partition(".")[0]
            assert module in sys.stdlib_module_names and module not in NEW_MODULES, f"{path.name} imports {name}"
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
    assert not TOO_NEW.search(text), TOO_NEW.search(text)
    if path.name != "__init__.py":
        assert "from __future__ import annotations" in text


def test_every_python_of_this_machine_can_start_it(tmp_path: Path) -> None:
    """Its three verbs import all of its modules, so that a name which an old Python lacks would show."""
    packed = pack(tmp_path)
    everything = "; ".join(f"import sublet_agent.{path.stem}" for path in SOURCES if path.stem != "__main__")
    for python in pythons():
        script = f"import sys; sys.path.insert(0, {str(packed)!r}); {everything}; print('fine')"
        told = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=False)
        assert (told.stdout, told.stderr) == ("fine\n", ""), python
