"""What the lease page says beside the bare view: bars, sentences and what each action would do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from app.core.states import ORDER, State
from app.kit.words import money
from app.store.people import Role
from app.web.auth import Visitor
from app.web.schema import LeaseDetail, Money, PhaseView
from app.web.words import LOOKS, PHASES, because, duration

BEFORE = ("queued", *(str(state) for state in State if ORDER[state] < ORDER[State.BUSY]))
AFTER = tuple(str(state) for state in State if ORDER[State.BUSY] <= ORDER[state] < ORDER[State.RELEASED])
SLOW = 1.5
"""A phase that took this many times its median is marked."""
LEAST_WIDTH = 0.8
"""Percent: a bar that happened can be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase on its scale, in percent."""

    name: str
    meaning: str
    tone: str
    x: float
    width: float  # 0: it has not begun
    seconds: float | None
    open: bool  # it goes on
    typical: float | None
    slow: bool
    of: float | None  # seconds it may take at most, where that is known
    told: str = ""  # of the wait at the forge: how late we heard of the job, and by what
    unheard: float = 0.0  # so much of its width passed before we heard of it


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that share one scale."""

    title: str
    rows: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    headline: tuple[tuple[bool, str], ...]  # (is it important, words)
    groups: tuple[Group, ...]
    typical: bool  # is there any median to show


@dataclass(frozen=True, slots=True)
class Proof:
    sentence: str
    tone: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Action:
    """A button, what it would do, and why it cannot be pressed, if so."""

    verb: str
    label: str
    effect: str
    danger: bool
    no: str


def timeline(lease: LeaseDetail, now: datetime) -> Timeline:
    """Two scales: before the job, and the job with the way out, so that a long run does not hide a slow start."""
    stays = {phase.phase: phase for phase in lease.phases}
    started = stays.get(str(State.BUSY))
    going_well = not lease.gone and lease.reason is None and not lease.asked
    groups: list[Group] = []
    first = [name for name in BEFORE if name in stays or (going_well and started is None and name != "queued")]
    if any(name in stays for name in first):
        begin = min(stays[name].started_at for name in first if name in stays)
        end = max(stays[name].ended_at or now for name in first if name in stays)
        typical = "; p50 = this pool and provider, 7 days" if lease.typical_seconds else ""
        title = f"Before the job; bars share one scale{typical}"
        groups.append(Group(title, tuple(_bar(name, stays.get(name), begin, end, lease, now) for name in first)))
    second = [name for name in AFTER if name in stays or not lease.gone]
    if second:
        present = [stays[name] for name in second if name in stays]
        begin = min((phase.started_at for phase in present), default=now)
        end = max((phase.ended_at or now for phase in present), default=now + timedelta(seconds=1))
        if started is not None and started.ended_at is None and lease.hard_end is not None:
            end = max(end, lease.hard_end)
        title = "The job and the way out" if started is not None or not lease.gone else "The way out"
        groups.append(Group(title, tuple(_bar(name, stays.get(name), begin, end, lease, now) for name in second)))
    return Timeline(_headline(lease, stays, started, now), tuple(groups), bool(lease.typical_seconds))


def _bar(name: str, stay: PhaseView | None, begin: datetime, end: datetime, lease: LeaseDetail, now: datetime) -> Bar:
    if name == "queued":
        word, meaning, tone = "queued", "waited at the forge, by its clock", "queue"
    else:
        word, meaning = PHASES[State(name)]
        tone = LOOKS[State(name)].tone
    typical = lease.typical_seconds.get(name)
    if stay is None:
        return Bar(word, meaning, tone, 0.0, 0.0, None, False, typical, False, None)
    length = max((end - begin).total_seconds(), 0.001)
    seconds = max(((stay.ended_at or now) - stay.started_at).total_seconds(), 0.0)
    width = min(max(100 * seconds / length, LEAST_WIDTH), 100.0)
    left = min(max(100 * (stay.started_at - begin).total_seconds() / length, 0.0), 100.0 - width)
    slow = typical is not None and name != str(State.BUSY) and seconds > SLOW * typical and seconds > typical + 1
    most = (lease.hard_end - stay.started_at).total_seconds() if name == str(State.BUSY) and lease.hard_end else None
    most = most // 60 * 60 if most is not None and most > 120 else most
    bar = Bar(word, meaning, tone, round(left, 2), round(width, 2), seconds, stay.ended_at is None, typical, slow, most)
    if name != "queued" or not stay.note:
        return bar
    late = (lease.job.heard_after_seconds if lease.job is not None else None) or 0.0
    return replace(bar, told=stay.note, unheard=round(width * min(late / seconds, 1.0), 2) if seconds else 0.0)


def _headline(
    lease: LeaseDetail, stays: Mapping[str, PhaseView], started: PhaseView | None, now: datetime
) -> tuple[tuple[bool, str], ...]:
    first = stays.get("queued") or (lease.phases[0] if lease.phases else None)
    origin = first.started_at if first is not None else lease.created_at
    since = "queued" if "queued" in stays else "planned"
    if started is None:
        if lease.gone:
            ended = lease.gone_at or lease.entered_at
            return ((False, "Ended after "), (True, duration(ended - origin)), (False, " without a job."))
        return ((True, duration(now - origin)), (False, f" since the job was {since}; it has not started." if since == "queued"
                else " since the lease was planned; no job has started."))  # fmt: skip
    words: list[tuple[bool, str]] = [
        (True, duration(started.started_at - origin)), (False, f" from {since} to job start · "),
        (True, duration((started.ended_at or now) - started.started_at)),
        (False, " in the job" if started.ended_at else " in the job so far"),
    ]  # fmt: skip
    if lease.gone and started.ended_at is not None:
        ended = lease.gone_at or lease.entered_at
        words += [(False, " · proven gone "), (True, duration(ended - started.ended_at)), (False, " later")]
    return tuple(words)


def proof(lease: LeaseDetail) -> Proof:
    """Whether the machine is what was asked for, and what else it showed of itself."""
    facts = lease.node.facts
    if facts is None:
        if lease.gone:
            return Proof("The node never reported." if lease.instance_id else "", "dim", ())
        return Proof("The node has not reported yet; no runner credential leaves before it did.", "dim", ())
    wrong = [check for check in lease.proof if not check.passed]
    if wrong:
        sentence, tone = "Not what was asked for: the node got no runner credential.", "bad"
    elif lease.proof:
        sentence, tone = "Everything that was asked for was seen.", "good"
    else:
        sentence, tone = "The pool asks for no GPU, memory or disk; nothing had to be proven.", "dim"
    cards = [str(card.get("name", "GPU")) for card in facts["gpus"]]
    shown = {
        "GPUs": ", ".join(cards[:8]) or "none seen",
        "Driver": facts["driver"],
        "CUDA": facts["cuda"],
        "CPU": " · ".join(part for part in (f"{facts['cpus']} cores" if facts["cpus"] else "", facts["architecture"]) if part),
        "Memory": f"{facts['memory_mib'] / 1024:.1f} GiB" if facts["memory_mib"] else "",
        "Free disk": f"{facts['disk_free_mib'] / 1024:.0f} GiB" if facts["disk_free_mib"] else "",
        "Kernel": facts["kernel"],
        "nvidia-smi": facts["problem"],
    }
    return Proof(sentence, tone, tuple((name, str(value)) for name, value in shown.items() if value))


def actions(lease: LeaseDetail, visitor: Visitor, now: datetime) -> tuple[Action, ...]:
    """Drain and destroy, each with the effect it would have now, or why it cannot be asked for; none once it is gone."""
    if lease.gone:
        return ()
    going = lease.state in (str(State.DRAINING), str(State.DESTROYING))
    running = lease.state == str(State.BUSY)
    job = lease.job.name or lease.job.key if lease.job is not None else ""
    blocked = "" if visitor.may(Role.OPERATOR) else f"needs the role operator; you are {visitor.role}"
    drain_no = blocked or ("it is on its way out" if going else "asked for already" if lease.asked else "")
    ending, asked = lease.state == str(State.DESTROYING), lease.asked == "destroy"
    destroy_no = blocked or ("it is being destroyed" if ending else "asked for already" if asked else "")
    more = _more(lease)
    if running:
        drain = f"The job {job} runs to its end, then the machine is destroyed. No other job starts on it."
        destroy = f"Ends the job {job} now; the forge shows it as failed. {more}".replace("  ", " ")
    elif lease.billing.since is None:
        drain = "It has no machine yet: it ends at once, and nothing is billed. A job that still waits gets another lease."
        destroy = drain
    else:
        drain = "Its runner is taken off the forge, then the machine is destroyed. A job that still waits gets another lease."
        destroy = f"The machine is destroyed now. {more} A job that still waits gets another lease."
    return (
        Action("drain", "Drain after job" if running else "Drain", drain, False, drain_no),
        Action("destroy", "Destroy", destroy, True, destroy_no),
    )


def _more(lease: LeaseDetail) -> str:
    """What the way out will still cost, roughly: the usual length of a destroy, in whole granules."""
    if lease.price_per_hour is None or Decimal(lease.price_per_hour.amount) == 0:
        return "It costs nothing more."
    usual = lease.typical_seconds.get(str(State.DESTROYING), 60.0)
    seconds = max(usual, lease.billing.granularity_seconds)
    amount = Decimal(lease.price_per_hour.amount) * Decimal(str(round(seconds, 3))) / 3600
    return f"About {money(amount, lease.price_per_hour.currency, 2)} more will be billed."


def forecast(lease: LeaseDetail) -> Money | None:
    """The cost if it runs to its hard end; None where nothing is owed or it is over."""
    if lease.gone or lease.hard_end is None or lease.billing.since is None or lease.price_per_hour is None:
        return None
    hours = Decimal(str((lease.hard_end - lease.billing.since).total_seconds())) / 3600
    amount = (Decimal(lease.price_per_hour.amount) * hours).quantize(Decimal("0.01"))
    return Money(amount=str(amount), currency=lease.price_per_hour.currency)


def before_job(lease: LeaseDetail) -> str:
    """What was spent before the job began, with its share; empty once the books say it exactly."""
    started = next((phase.started_at for phase in lease.phases if phase.phase == str(State.BUSY)), None)
    if lease.charges or started is None or lease.billing.since is None or lease.price_per_hour is None:
        return ""
    spent = Decimal(str((started - lease.billing.since).total_seconds())) / 3600 * Decimal(lease.price_per_hour.amount)
    total = Decimal(lease.cost.amount)
    share = f" ({spent / total:.0%})" if total > 0 and spent <= total else ""
    return money(max(spent, Decimal(0)), lease.price_per_hour.currency) + share


def told(lease: LeaseDetail) -> str:
    """One sentence for those who listen: said only when the phase changes."""
    if lease.gone:
        end = f": {because(lease.reason)}" if lease.reason else ""
        return f"{lease.name} is gone, confirmed{end}."
    return f"{lease.name} {LOOKS[State(lease.state)].doing}."
