"""Makes `.venv` with hash-pinned requirements, or leaves it alone if it is up to date. Standard library only.

python3 requirements/install.py runtime              what the service needs
python3 requirements/install.py runtime aws nebius   the same, and the SDKs of these kinds of providers (requirements/extras)
python3 requirements/install.py dev                  all of that, and what tests and checks need
"""

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

LEAST = (3, 11)
TREE = Path(__file__).resolve().parent.parent
VENV = TREE / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "sublet-installed.json"
EXTRAS = TREE / "requirements" / "extras"


def main(arguments: "list[str]") -> int:
    """Exit code: 0 if `.venv` is ready, 1 with a sentence if it cannot be made."""
    if sys.version_info < LEAST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        return say(
            f"Sublet needs Python {LEAST[0]}.{LEAST[1]} or newer; `{sys.executable}` is {found}. Try: make PYTHON=python3.11"
        )
    kinds = list(dict.fromkeys(arguments)) or ["runtime"]
    for kind in kinds:
        if not lists(kind):
            known = ", ".join(sorted(path.stem for path in EXTRAS.glob("*.in")))
            return say(f"There is nothing to install under the name {kind!r}; the providers' own are: {known}.")
    done = installed()
    if done.get("dev") == fingerprint("dev") or all(done.get(kind) == fingerprint(kind) for kind in kinds):
        return 0
    if not usable():
        print("Making .venv ...", flush=True)
        try:
            venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(VENV)
        except (OSError, subprocess.CalledProcessError) as error:
            return say(f"Python could not make .venv ({error}). On Debian and Ubuntu: apt install python3-venv")
        done = {}
    STAMP.unlink(missing_ok=True)  # half-done work must not look done
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    for kind in kinds:
        print(f"Installing the packages of {' and '.join(place(path) for path in lists(kind))} into .venv ...", flush=True)
        words = [["--require-hashes", *(["--no-deps"] if is_alone(path) else []), "-r", str(path)] for path in lists(kind)]
        for line in (*words, ["--no-deps", "--no-build-isolation", "--editable", str(TREE)]):
            # setuptools would warn of every editable install
            if subprocess.run([*pip, *line], env={**os.environ, "PYTHONWARNINGS": "ignore"}, check=False).returncode != 0:  # noqa: S603
                return say("pip could not install them; what it says stands above. `make install` goes on where it stopped.")
        done[kind] = fingerprint(kind)
    STAMP.write_text(json.dumps(done), encoding="utf-8")
    return 0


def lists(kind: str) -> "list[Path]":
    """The files that pin what this kind needs, in the order in which they are installed. Empty: there is no such kind."""
    if kind in ("runtime", "dev"):
        return [TREE / "requirements" / f"{kind}.txt", *(sorted(EXTRAS.glob("*.alone.txt")) if kind == "dev" else ())]
    if not (EXTRAS / f"{kind}.in").is_file():
        return []
    return [path for path in (EXTRAS / f"{kind}.txt", EXTRAS / f"{kind}.alone.txt") if path.is_file()]


def is_alone(path: Path) -> bool:
    """Whether its packages come without their own requirements, which another file has with better versions."""
    return path.name.endswith(".alone.txt")


def place(path: Path) -> str:
    return str(path.relative_to(TREE))


def fingerprint(kind: str) -> str:
    """Changes when an install would: with Python, the place of the tree, the pinned packages or our own entry points."""
    parts = [sys.version.encode(), str(TREE).encode()]
    files = [*lists(kind), TREE / "pyproject.toml", TREE / "requirements" / "install.py"]
    parts += [path.read_bytes() for path in files]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def installed() -> "dict[str, str]":
    """What `.venv` was last filled with; nothing if it is not whole."""
    try:
        stamp: dict[str, str] = dict(json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    return stamp if PYTHON.exists() and (VENV / "bin" / "sublet").exists() else {}


def usable() -> bool:
    """Whether `.venv` has a working pip and this very Python; a half-made one is made anew."""
    if not PYTHON.exists():
        return False
    ask = "import pip, sys; print(sys.version)"
    try:
        answer = subprocess.run([str(PYTHON), "-c", ask], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == sys.version.strip()


def say(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
