"""The house itself: line budgets, import rules, the state table, and documents that agree with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from app.core.model import LATE_REASON
from app.core.states import LIVE, ORDER, RULES, State, judge, mermaid, way_out

TREE = Path(__file__).resolve().parent.parent
OURS = ("app", "providers", "migrations", "tests", "requirements", "docs")
LONGEST = 400
"""Lines. A longer file is a sign that a room wants a wall."""


@cache
def tracked() -> tuple[Path, ...]:
    """The files of the project; a copy without git is looked through folder by folder."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=TREE, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        found = [path for folder in OURS for path in (TREE / folder).rglob("*") if "__pycache__" not in path.parts]
        return tuple(path for path in [*found, *TREE.glob("*")] if path.is_file() and path.name != "sublet.toml")
    names = listed.stdout.decode().split("\0")
    return tuple(TREE / name for name in names if name and (TREE / name).is_file())


def modules() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(TREE).parts[0] in OURS]


def named(path: Path) -> str:
    return str(path.relative_to(TREE))


def test_no_file_outgrows_its_room() -> None:
    long = {named(path): count for path in modules() if (count := len(path.read_text("utf-8").splitlines())) > LONGEST}
    assert long == {}


def test_every_module_opens_with_one_sentence() -> None:
    silent: list[str] = []
    for path in modules():
        text = path.read_text("utf-8")
        if text.strip() and not (ast.get_docstring(ast.parse(text)) or "").strip():
            silent.append(named(path))
    assert silent == []


def test_who_may_import_what() -> None:
    checker = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([checker, "--no-cache"], cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def _touches(code: str) -> bool:
    """Whether a piece of code inserts into or updates the lease table."""
    return bool(re.search(r"(update|insert)\((tables\.)?lease\b|\blease\.(update|insert)\(", code))


def _writes_state(piece: ast.AST) -> bool:
    """Whether it writes a value named `state`: as a keyword of `.values()`, or as a key of a dict."""
    for node in ast.walk(piece):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values":
            if any(word.arg == "state" for word in node.keywords):
                return True
        elif isinstance(node, ast.Dict) and any(isinstance(key, ast.Constant) and key.value == "state" for key in node.keys):
            return True
    return False


def test_one_file_alone_writes_the_state_of_a_lease() -> None:
    writers: set[str] = set()
    for path in (TREE / "app").rglob("*.py"):
        for piece in ast.parse(path.read_text("utf-8")).body:
            code = ast.unparse(piece)
            if (_touches(code) and _writes_state(piece)) or re.search(r"(?i)update\s+lease\s+set", code):
                writers.add(named(path))
    assert writers == {"app/store/leases.py"}


# The life of a lease, as data


def test_nothing_goes_back() -> None:
    for origin in State:
        for to in RULES[origin].next:
            assert ORDER[to] > ORDER[origin]
        for earlier in State:
            if ORDER[earlier] <= ORDER[origin]:
                assert judge(origin, earlier) is False


def _roads(origin: State) -> list[list[State]]:
    """Every way from a state to the end."""
    if not RULES[origin].next:
        return [[origin]]
    return [[origin, *rest] for to in RULES[origin].next for rest in _roads(to)]


def test_whatever_could_be_owed_passes_through_destroying() -> None:
    for road in _roads(State.PLANNED):
        if any(RULES[state].owed for state in road):
            assert State.DESTROYING in road


def test_whatever_met_the_forge_passes_through_draining() -> None:
    for road in _roads(State.PLANNED):
        if {State.REGISTERING, State.IDLE, State.BUSY} & set(road):
            assert State.DRAINING in road


def test_every_state_has_a_deadline_and_a_way_when_late_but_one_that_never_gives_up() -> None:
    for state in LIVE - {State.DESTROYING}:
        rule = RULES[state]
        assert rule.within is not None
        assert rule.late in rule.next
        assert way_out(state) in rule.next
    assert RULES[State.DESTROYING].late is None
    assert RULES[State.DESTROYING].next == {State.RELEASED}
    assert set(LATE_REASON) == LIVE - {State.DRAINING, State.DESTROYING}


def test_only_the_end_is_the_end() -> None:
    assert [state for state in State if not RULES[state].next] == [State.RELEASED]
    assert not RULES[State.RELEASED].owed and not RULES[State.PLANNED].owed


def test_the_picture_in_the_documents_is_the_table() -> None:
    page = (TREE / "docs/architecture.md").read_text("utf-8")
    pictures = re.findall(r"```mermaid\n(stateDiagram-v2\n.*?)\n```", page, re.DOTALL)
    assert pictures == [mermaid()]


# What must not stand in the tree

FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.<$}~-])/(work|farm|root)/"),
    "the host of a package registry": re.compile("|".join(("python" + "hosted", "pypi" + r"\.org", r"registry\.npm" + "js"))),
    "the host of a distribution": re.compile(r"deb\.debian" + r"\.org"),
    "a mark of unfinished work": re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b"),
    "a mock instead of a world": re.compile(r"unittest\." + "mock|Magic" + "Mock"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_must_not_stand_in_the_project(what: str) -> None:
    found: list[str] = []
    for path in tracked():
        if path.suffix in (".png", ".ico", ".woff2", ".gz", ".bin") or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if FORBIDDEN[what].search(line):
                found.append(f"{named(path)}:{number}")
    assert found == []


# Packaging


def _names(lines: list[str]) -> set[str]:
    found = [re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?", line.strip()) for line in lines if not line.startswith(("#", "-"))]
    return {name[0].lower() for name in found if name is not None}


def test_what_is_installed_is_what_the_package_asks_for() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = (TREE / "requirements/runtime.in").read_text("utf-8").splitlines()
    assert _names(wanted) - {"setuptools"} == _names(project["dependencies"])


def test_what_a_kind_needs_is_what_its_extra_asks_for() -> None:
    """`make install EXTRAS=aws` and `pip install 'sublet[aws]'` bring the same SDK; all of them are there for the tests."""
    extras = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    folder = TREE / "requirements/extras"
    assert {path.stem for path in folder.glob("*.in")} == set(extras)
    for kind, wanted in extras.items():
        alone = folder / f"{kind}.alone.txt"
        if alone.is_file():
            assert f"{wanted[0]}==" in alone.read_text("utf-8")
        else:
            assert _names((folder / f"{kind}.in").read_text("utf-8").splitlines()) == _names(wanted)
        assert f"-r extras/{kind}.in" in (TREE / "requirements/dev.in").read_text("utf-8")


@pytest.mark.parametrize(
    "kind", ["runtime", "dev", *(f"extras/{path.stem}" for path in sorted((TREE / "requirements/extras").glob("*.in")))]
)
def test_every_package_is_pinned_with_hashes_and_no_address(kind: str) -> None:
    text = (TREE / f"requirements/{kind}.txt").read_text("utf-8")
    assert "://" not in text and "--find-links" not in text and "--index-url" not in text
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 0
    wanted = (TREE / f"requirements/{kind}.in").read_text("utf-8").splitlines()
    assert {name.partition("[")[0].replace("_", "-") for name in _names(wanted)} <= {name for name, _ in pins}


def test_the_development_pins_hold_the_runtime_ones() -> None:
    runtime, dev = ((TREE / f"requirements/{kind}.txt").read_text("utf-8") for kind in ("runtime", "dev"))
    pins = re.compile(r"^[a-z0-9][a-z0-9._-]*==\S+", re.MULTILINE)
    assert set(pins.findall(runtime)) <= set(pins.findall(dev))


COMPILES = "cd requirements && $(COMPILE)"
ALLOWED_PROGRAMS = {"$(PYTHON)", "$(BIN)/", COMPILES, "cd requirements && $(foreach sdk,$(SDKS),$(COMPILE)", "$(info"}


def test_make_needs_no_other_program() -> None:
    lines = (TREE / "Makefile").read_text("utf-8").replace("\\\n", " ").splitlines()
    recipes = [line[1:].lstrip("@") for line in lines if line.startswith("\t")]
    assert recipes
    assert [line for line in recipes if not line.startswith(tuple(ALLOWED_PROGRAMS))] == []
