"""Programs of ours that the command line starts for what needs no service: they answer with one line of JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from app.cli.exits import Exit, Failure
from app.cli.up import own_command, service_environment


def desk(module: str, words: Sequence[str], given: str | None = None) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it says; `given` is what it reads. Raises Failure for a refusal."""
    done = subprocess.run(  # noqa: S603  our own program, no shell
        own_command(module, words), env=service_environment(), input=given, stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise Failure(Exit.FAILED, "It ended without an answer.", "What is above says why.") from None
    if "error" in told:
        raise Failure(done.returncode, told["error"]["message"], told["error"]["hint"])
    return done.returncode, told
