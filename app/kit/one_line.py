"""What a program of ours that another one starts has to say: one line of JSON on its output, and an exit code."""

from __future__ import annotations

import json
import sys
from typing import Any


def refusal(message: str, hint: str = "") -> dict[str, Any]:
    """Why it was not done, and what to do instead."""
    return {"error": {"message": message, "hint": hint}}


def say(told: dict[str, Any], code: int = 0) -> int:
    """Writes the line; returns the exit code, to end with."""
    sys.stdout.write(f"{json.dumps(told)}\n")
    return code
