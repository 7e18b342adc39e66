"""Reads a Dockerfile into its instructions, as far as ours go: stages, arguments, continued lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent.parent / "images"
NAMES = tuple(sorted(path.parent.name for path in IMAGES.glob("*/Dockerfile")))


@dataclass(frozen=True, slots=True)
class Line:
    verb: str
    words: str
    stage: int  # -1: before the first FROM


def read(name: str) -> list[Line]:
    """The instructions of images/NAME/Dockerfile."""
    text = (IMAGES / name / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    found: list[Line] = []
    stage = -1
    for whole in re.sub(r"\\\n", " ", text).splitlines():
        verb, _, words = whole.strip().partition(" ")
        if verb:
            stage += verb.upper() == "FROM"
            found.append(Line(verb.upper(), " ".join(words.split()), stage))
    return found
