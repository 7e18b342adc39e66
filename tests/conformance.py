"""`make conformance`: every provider there is, ours and a stranger's, against every check, in one table.

The last line is one JSON object: {"wrappers": ..., "checks": ..., "failed": ..., "skipped": ...}. The exit status is 1 if
anything failed, and with REQUIRE=all also if anything was skipped. ARGS may name kinds: `make conformance ARGS="aws oci"`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from providers.conformance import main as conformance
from providers.registry import GROUP

TREE = Path(__file__).resolve().parents[1]
STRANGER = TREE / "tests" / "stranger"
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
    """Each kind that Sublet brings -> its bench, and the stranger's. A kind without one shows as failed."""
    kinds = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][GROUP]
    order = [*OWN_PLACE, *sorted(kind for kind in kinds if kind not in OWN_PLACE)]
    return {kind: OWN_PLACE.get(kind, f"tests.providers.{kind}_bench:bench") for kind in order} | {
        "stranger": "sublet_attic.bench:bench"
    }


def main(arguments: Sequence[str] | None = None) -> int:
    known = benches()
    parser = argparse.ArgumentParser(prog="make conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(known)}; none: all")
    kinds = parser.parse_args(arguments).kind or list(known)
    if unknown := sorted(set(kinds) - set(known)):
        parser.error(f"there is no kind {', '.join(unknown)}")
    required = "all" in {word.strip() for word in os.environ.get("REQUIRE", "").split(",")}
    with tempfile.TemporaryDirectory(prefix="sublet-stranger-") as folder:
        if "stranger" in kinds:
            install(STRANGER, Path(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, str(TREE), os.environ.get("PYTHONPATH", "")]))
        specs = [f"{kind}={known[kind]}" for kind in kinds]
        return conformance([*specs, "--jobs", str(AT_ONCE), *(["--all"] if required else [])])


if __name__ == "__main__":
    sys.exit(main())
