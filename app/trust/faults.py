"""The two ways in which a look at an image ends without a yes: it fails a check, or it cannot be looked at now."""

from __future__ import annotations

from datetime import timedelta

from app.core.images import Refusal


class RegistryAway(Exception):
    """The registry does not say: it is down, throttles, answers 5xx, or refuses our login. It means wait, never allow."""

    def __init__(self, why: str, wait: timedelta = timedelta(seconds=30)) -> None:
        super().__init__(why)
        self.wait = wait


class Refused(Exception):
    """The image fails a check; the message is the sentence for people."""

    def __init__(self, code: Refusal, why: str, *, what: str = "content", asked: str = "", seen: str = "") -> None:
        """`what`, `asked` and `seen` are the line of the verdict's checks."""
        super().__init__(why)
        self.code, self.why = code, why
        self.what, self.asked, self.seen = what, asked, seen


def unreadable(why: str, *, what: str = "content", asked: str = "a form that is understood") -> Refused:
    """What cannot be read is refused: the exception to raise."""
    return Refused(Refusal.UNREADABLE, why, what=what, asked=asked, seen="unreadable")


def brief(digest: str) -> str:
    """The digest as sentences show it: sha256:0123456789ab…"""
    return digest if len(digest) <= 19 else f"{digest[:19]}…"
