"""Patterns of the settings: * is any text, ? is any one character, everything else is itself."""

from __future__ import annotations


def fits(pattern: str, text: str) -> bool:
    """Whether the whole text fits the pattern; case matters.

    Not `fnmatch`: there `[bot]` is a class of characters, and certificates of GitHub's own robots have exactly that in
    their subject. A `*` also runs over `/`: `https://github.com/acme*` lets `acme-evil` in, `.../acme/*` does not.
    Goes back to the last `*` only, so no pattern takes more than len(pattern) * len(text) steps.
    """
    at = star = -1
    place = kept = 0
    at = 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, kept = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at += 1
            place += 1
        elif star >= 0:
            kept += 1
            at, place = star + 1, kept
        else:
            return False
    return all(one == "*" for one in pattern[at:])
