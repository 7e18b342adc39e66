"""`make conformance`: every provider and every forge there is, ours and strangers', against every check.

The last line is one JSON object: {"wrappers": ..., "forges": ..., "checks": ..., "failed": ..., "skipped": ...}. The exit
status is 1 if anything failed, and with REQUIRE=all also if anything was skipped. ARGS may name kinds of both:
`make conformance ARGS="aws gitea"`.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.forges.conformance import main as of_forges
from app.forges.registry import BUILT_IN
from providers.conformance import main as of_providers
from providers.registry import GROUP

TREE = Path(__file__).resolve().parents[1]
STRANGER = TREE / "tests" / "stranger"
STRANGER_FORGE = TREE / "tests" / "stranger_forge"
OWN_PLACE: Mapping[str, str] = {kind: f"tests.providers.benches:{kind}" for kind in ("fake", "local", "docker")}
"""Where the bench is not tests/providers/KIND_bench.py, with the factory `bench`."""
AT_ONCE = 2  # benches; most wait for processes rather than work


def install(package: Path, into: Path) -> None:
    """Build and install a package as its users would, without any index: what it needs is here already."""
    with tempfile.TemporaryDirectory(prefix="sublet-build-") as folder:
        source = shutil.copytree(package, Path(folder) / package.name)  # building leaves files beside the sources
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(into), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{package.name} cannot be installed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def benches() -> dict[str, str]:
    """Each kind of provider that Sublet brings -> its bench, and the stranger's. A kind without one shows as failed."""
    kinds = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][GROUP]
    order = [*OWN_PLACE, *sorted(kind for kind in kinds if kind not in OWN_PLACE)]
    return {kind: OWN_PLACE.get(kind, f"tests.providers.{kind}_bench:bench") for kind in order} | {
        "stranger": "sublet_attic.bench:bench"
    }


def forges() -> dict[str, str]:
    """Each kind of forge -> its bench, and the stranger's. A kind without one shows as failed."""
    return {kind: f"tests.forges.benches:{kind}" for kind in BUILT_IN} | {"stranger-forge": "sublet_corkboard.bench:bench"}


def told(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> tuple[int, dict[str, int]]:
    """The exit status and the counts of one of the two kits; what it printed before them is shown."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(arguments)
    *lines, last = printed.getvalue().splitlines()
    sys.stdout.write("\n".join([*lines, "", ""]))
    sys.stdout.flush()
    return status, json.loads(last)


def main(arguments: Sequence[str] | None = None) -> int:
    wrappers, others = benches(), forges()
    known = [*wrappers, *others]
    parser = argparse.ArgumentParser(prog="make conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(known)}; none: all")
    kinds = parser.parse_args(arguments).kind or known
    if unknown := sorted(set(kinds) - set(known)):
        parser.error(f"there is no kind {', '.join(unknown)}")
    more = ["--jobs", str(AT_ONCE)]
    more += ["--all"] if "all" in {word.strip() for word in os.environ.get("REQUIRE", "").split(",")} else []
    counts: dict[str, int] = dict.fromkeys(("wrappers", "forges", "checks", "failed", "skipped"), 0)
    status = 0
    with tempfile.TemporaryDirectory(prefix="sublet-stranger-") as folder:
        for name, package in (("stranger", STRANGER), ("stranger-forge", STRANGER_FORGE)):
            if name in kinds:
                install(package, Path(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, str(TREE), os.environ.get("PYTHONPATH", "")]))
        for kit, places in ((of_providers, wrappers), (of_forges, others)):
            specs = [f"{kind}={places[kind]}" for kind in kinds if kind in places]
            if specs:
                ended, found = told(kit, [*specs, *more])
                status = max(status, ended)
                counts |= {word: counts[word] + count for word, count in found.items()}
    sys.stdout.write(f"{json.dumps(counts)}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
