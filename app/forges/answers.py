"""What a forge's HTTP answer means for whoever asked: a definite no, or come back later.

Both forges say "slow down" in the same few ways: `Retry-After`, or a remaining count of 0 with the
time of its reset (GitHub `x-ratelimit-*`, GitLab `ratelimit-*`; both in seconds since 1970).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from app.forges.contract import ForgeDown, ForgeError, ForgeRefused
from app.forges.payload import quoted

OnRate = Callable[[str, int], None]
"""Told the forge's name and how many calls it still allows, after every answer that says so."""

LONGEST_WAIT = timedelta(hours=1)  # no forge's window is longer; a larger number is a mistake
UNTOLD_WAIT = timedelta(minutes=1)  # GitHub: "otherwise wait at least one minute" (rate-limits-for-the-rest-api)
_SECONDS = re.compile(r"[0-9]{1,12}")
_PREFIXES = ("x-ratelimit-", "ratelimit-")
_LATER = frozenset({408, 425})


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """One HTTP answer. It may hold a token, so its repr shows the status only."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: object = None  # parsed JSON; None if there is none
    said: str = ""  # the forge's own message, made fit to show
    broken: bool = False  # there was content, and it was not JSON

    def __repr__(self) -> str:
        return f"Answer({self.status})"


def count_of(headers: Mapping[str, str], what: str) -> int | None:
    """The number in a rate limit's header (`limit`, `remaining`, `reset`), if the forge gives it."""
    for prefix in _PREFIXES:
        value = headers.get(prefix + what, "")
        if _SECONDS.fullmatch(value):
            return int(value)
    return None


def remaining(headers: Mapping[str, str]) -> int | None:
    """How many more calls the forge allows in its current window, if it says so."""
    return count_of(headers, "remaining")


def reset_in(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long until the forge counts anew, if it says so. At least a second, at most an hour."""
    reset = count_of(headers, "reset")
    return None if reset is None else _bounded(timedelta(seconds=min(reset - now.timestamp(), 10**6)))


def asked_wait(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long the forge asks us to stay away; None if it does not. At least a second, at most an hour."""
    after = headers.get("retry-after", "").strip()
    wait: timedelta | None = None
    if _SECONDS.fullmatch(after):
        wait = timedelta(seconds=min(int(after), 10**6))
    elif after:
        try:
            until = parsedate_to_datetime(after)
            wait = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
        except (ValueError, OverflowError):
            wait = UNTOLD_WAIT
    elif remaining(headers) == 0:
        wait = reset_in(headers, now) or UNTOLD_WAIT
    return None if wait is None else _bounded(wait)


def stay_away(answer: Answer, now: datetime) -> tuple[bool, timedelta] | None:
    """Whether the answer means that nothing more is to be asked for a while: (did it say for how long, for how long)."""
    wait = asked_wait(answer.headers, now)
    status, said = answer.status, answer.said.lower()
    if status in (403, 429) or (status >= 400 and "retry-after" in answer.headers):
        if wait is not None:
            return True, wait
        if status == 429 or "rate limit" in said or "abuse" in said:
            return False, UNTOLD_WAIT
    return None


def _bounded(wait: timedelta) -> timedelta:
    return min(max(wait, timedelta(seconds=1)), LONGEST_WAIT)


def failure(forge: str, deed: str, answer: Answer, now: datetime) -> ForgeError:
    """The error for an answer that is no success. `deed` completes "would not ...": "remove the runner"."""
    status, said = answer.status, answer.said
    because = f": {said}" if said else ""
    asked = stay_away(answer, now)
    if asked is not None and status < 500:
        return ForgeDown(f"{forge} asks us to slow down (HTTP {status}){because}", wait=asked[1])
    if status in _LATER:
        return ForgeDown(f"{forge} asks us to come back later (HTTP {status}){because}", wait=UNTOLD_WAIT)
    if status >= 500:
        wait = asked[1] if asked else asked_wait(answer.headers, now)
        message = f"{forge} is in trouble (HTTP {status}){because}"
        return ForgeDown(message, wait=wait) if wait else ForgeDown(message)
    if 300 <= status < 400:
        return ForgeRefused(f"{forge} sends us elsewhere (HTTP {status}) when asked to {deed}: check its address and the path")
    if status == 401:
        return ForgeRefused(
            f"{forge} does not take our token or key (HTTP 401){because}: it is wrong, expired or revoked; set a new one"
        )
    return ForgeRefused(f"{forge} would not {deed} (HTTP {status}){because}")


def silence(forge: str, deed: str, error: BaseException) -> ForgeDown:
    """The error for a request without an answer; what was asked may have happened.

    Only the kind of the error is told: its text may quote a header."""
    return ForgeDown(f"{forge} gave no answer when asked to {deed} ({type(error).__name__})")


def unreadable(forge: str, deed: str, why: object) -> ForgeDown:
    """The error for a success whose content is not what the forge documents."""
    return ForgeDown(f"{forge} answered something unreadable when asked to {deed}: {quoted(str(why), 120)}")
