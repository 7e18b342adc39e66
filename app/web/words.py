"""Values -> the words that people read: durations, money, times, and what each state and reason means."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, available_timezones

from app.core.model import Reason
from app.core.states import State
from app.kit import words
from app.kit.words import money

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control codes and turns of the reading direction: with them a name can look like another one."""


def visible(text: str) -> str:
    """The text with a box for each character that hides or turns round the others."""
    return UNSEEN.sub("\u25a1", text)


def duration(span: timedelta | float | None) -> str:
    """`1.4 s`, `1 min 59 s`, `2 h 3 min`; `–` for none."""
    if span is None:
        return "–"
    return words.duration(span.total_seconds() if isinstance(span, timedelta) else span)


def plain(amount: Decimal, least: int = 4) -> str:
    """A Decimal as JSON text: exact to a millionth, at least `least` digits after the point."""
    text = format(amount.quantize(Decimal("0.000001")), "f")
    whole, _, digits = text.partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(least, '0')}"


def rate(per_hour: Decimal | None, currency: str) -> str:
    """`$2.19/h`; `–` before a price is known."""
    if per_hour is None:
        return "–"
    digits = 2 if per_hour == per_hour.quantize(Decimal("0.01")) else 4
    return f"{money(per_hour, currency, digits)}/h"


@dataclass(frozen=True, slots=True)
class TimeStyle:
    """How one reader wants times written."""

    form: str = "utc"  # "utc", "local" or "relative"
    zone: str = ""  # the browser's own time zone, as far as it told us

    def text(self, at: datetime, now: datetime) -> str:
        """As the reader chose: `12:00:04 UTC`, `14:00:04 CEST` or `4 min ago`; another day is named."""
        if self.form == "relative":
            return relative(at, now)
        return stamped(at, now, self._local() if self.form == "local" else UTC)

    def hint(self, at: datetime, now: datetime) -> str:
        """The other ways to say it, for the pointer that rests on it."""
        local = self._local()
        ways = {
            "utc": f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "local": "" if local is UTC else f"{at.astimezone(local):%Y-%m-%d %H:%M:%S %Z}",
            "relative": relative(at, now),
        }
        return " · ".join(text for form, text in ways.items() if text and form != self.form)

    def _local(self) -> tzinfo:
        return known_zone(self.zone) or UTC


@functools.lru_cache(maxsize=600)
def known_zone(name: str) -> tzinfo | None:
    """The zone of this name, or None if it is not in the list; the name comes out of a cookie."""
    if name not in _zones():
        return None
    return ZoneInfo(name)


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def stamped(at: datetime, now: datetime, zone: tzinfo) -> str:
    """`12:00:04 UTC`; with the day if it is not today's, and with the year if it is not this one."""
    there, today = at.astimezone(zone), now.astimezone(zone)
    clock = f"{there:%H:%M:%S} {there.tzname()}"
    if there.date() == today.date():
        return clock
    year = "" if there.year == today.year else f" {there.year}"
    return f"{there.day} {there:%b}{year} {clock}"


def relative(at: datetime, now: datetime) -> str:
    """`4 min ago`, `in 44 min`, `now`; coarse from a minute on."""
    away = at - now
    size = abs(away)
    if size < timedelta(seconds=1):
        return "now"
    coarse = (
        timedelta(minutes=1)
        if size < timedelta(hours=1)
        else timedelta(hours=1)
        if size < timedelta(days=1)
        else timedelta(days=1)
    )
    if size >= timedelta(minutes=1):
        size = size // coarse * coarse
    text = duration(timedelta(seconds=int(size.total_seconds())))
    return f"in {text}" if away > timedelta(0) else f"{text} ago"


@dataclass(frozen=True, slots=True)
class Look:
    """How a state shows itself: never by colour alone."""

    word: str
    icon: str  # a symbol of templates/icons.html
    tone: str  # "queue", "start", "good", "warn", "bad" or "calm"
    doing: str  # what the lease is doing, after its name: "brave-otter-41 is booting"


LOOKS: Mapping[State, Look] = {
    State.PLANNED: Look("planned", "ring", "queue", "is looking for an offer"),
    State.LAUNCHING: Look("creating", "quarter", "start", "is being created at the provider"),
    State.BOOTING: Look("booting", "half", "start", "is booting"),
    State.PROVING: Look("checking", "half", "start", "is having its machine checked"),
    State.REGISTERING: Look("registering", "most", "start", "is registering its runner"),
    State.IDLE: Look("ready", "most", "start", "has its runner online"),
    State.BUSY: Look("running", "dot", "good", "is running its job"),
    State.DRAINING: Look("draining", "down", "warn", "is being taken off the forge"),
    State.DESTROYING: Look("destroying", "down", "warn", "is being destroyed"),
    State.RELEASED: Look("gone", "check", "calm", "is gone"),
}

PHASES: Mapping[State, tuple[str, str]] = {
    State.PLANNED: ("placed", "looking for an offer that passes every rule"),
    State.LAUNCHING: ("created", "the provider accepts the machine"),
    State.BOOTING: ("booted", "until the first signed call from the node"),
    State.PROVING: ("checked", "image, GPU, driver and memory against what was asked"),
    State.REGISTERING: ("registered", "the runner goes online at the forge"),
    State.IDLE: ("ready", "runner online, until the job starts"),
    State.BUSY: ("running", "the job"),
    State.DRAINING: ("drained", "runner taken off the forge"),
    State.DESTROYING: ("destroyed", "until the provider no longer lists it"),
}
"""What one stay in a state is called in the timeline, and what is measured."""

REASONS: Mapping[Reason, str] = {
    Reason.JOB_DONE: "job ended",
    Reason.JOB_GONE: "no job waits for it any more",
    Reason.JOB_REFUSED: "the job that came may not run on it",
    Reason.IDLE_TIMEOUT: "no job came in time",
    Reason.NO_OFFER: "no offer passes the pool's limits",
    Reason.NO_CAPACITY: "the provider had no machine",
    Reason.PROVIDER_REFUSED: "the provider refused us",
    Reason.PLAN_TIMEOUT: "no offer was found in time",
    Reason.LAUNCH_TIMEOUT: "the provider did not create it in time",
    Reason.BOOT_TIMEOUT: "the machine did not boot in time",
    Reason.PROVE_TIMEOUT: "the machine was not checked in time",
    Reason.REGISTER_TIMEOUT: "the runner did not register in time",
    Reason.JOB_TIMEOUT: "the hard end time came",
    Reason.IMAGE_REFUSED: "its image may not run",
    Reason.BAD_NODE: "the machine is not what was asked for",
    Reason.JOIN_REUSED: "somebody used its join token a second time",
    Reason.INSTANCE_LOST: "the provider no longer has it",
    Reason.NODE_SILENT: "the node fell silent",
    Reason.RUNNER_REFUSED: "the forge would not register its runner",
    Reason.RUNNER_FAILED: "the runner ended without a job",
    Reason.OPERATOR: "a person ended it",
    Reason.SHUTDOWN: "the demo ended",
    Reason.PILOT_DONE: "the pilot has measured it",
}


def because(reason: Reason | str | None) -> str:
    """A reason as people say it; an unknown one is shown as its bare word."""
    if reason is None or reason == "":
        return ""
    try:
        return REASONS[Reason(reason)]
    except (ValueError, KeyError):
        return str(reason).replace("_", " ")
