"""What one seed makes of the world: workload, settings, provider traits, and how often each thing goes wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

RATES: Mapping[str, tuple[float, float]] = {
    # provider, share of calls
    "lost_reply": (0.03, 0.4),
    "broken_off": (0.01, 0.2),
    "late_create": (0.02, 0.4),
    "half_create": (0.01, 0.15),
    "doubled_create": (0.05, 0.4),
    "throttled": (0.01, 0.2),
    "no_capacity": (0.02, 0.3),
    "stalled": (0.005, 0.05),
    "stuck": (0.05, 0.5),
    "ignored_destroy": (0.02, 0.3),
    "blind_get": (0.05, 0.5),
    "list_hole": (0.05, 0.4),
    # machines, share of them
    "preempted": (0.05, 0.4),
    "stopped": (0.02, 0.2),
    "node_silent": (0.03, 0.25),
    "node_mute_later": (0.15, 0.7),
    "node_boots_twice": (0.03, 0.2),
    "node_lies": (0.03, 0.2),
    "node_clock": (0.1, 1.0),
    "runner_dies": (0.03, 0.25),
    "old_token": (0.05, 0.3),
    # forges, share of requests
    "forge_lost_reply": (0.005, 0.1),
    "forge_unreachable": (0.005, 0.1),
    "forge_error": (0.005, 0.1),
    "jit_conflict": (0.02, 0.2),
    # webhooks, share of them
    "webhook_lost": (0.02, 1.0),
    "webhook_refused": (0.02, 0.5),
    "webhook_repeated": (0.02, 0.5),
    "webhook_replayed": (0.02, 0.3),
    "webhook_late": (0.02, 0.6),
    # jobs, share of them
    "cancelled": (0.03, 0.3),
    "rerun": (0.05, 0.7),
    "fork_pr": (0.03, 0.3),
    "approval_gated": (0.03, 0.3),
    "stolen_runner": (0.03, 0.3),
    "not_ours": (0.02, 0.2),
    "operator": (0.02, 0.15),
    # the service, share of steps while nothing is in flight; ten times that while something is
    "crash": (0.00003, 0.002),
    "engine_paused": (0.00003, 0.001),
    "yield": (0.02, 0.5),
}
"""Each is off for most seeds, else somewhere in this range: a fault that is always a bit there hides what it does alone."""

WINDOWS = ("capacity_gone", "destroy_refused", "forge_down", "forge_rate_limited", "list_lag", "service_away")
"""Faults that last for a while, once or twice in a seed."""


@dataclass(frozen=True, slots=True)
class Window:
    """From and until, in virtual seconds."""

    kind: str
    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Vendor:
    """One provider: what it promises, and how it bills."""

    name: str
    boot: timedelta
    ending: timedelta
    price: str
    currency: str
    granularity: timedelta
    minimum: timedelta
    keys: bool
    names: bool
    window: timedelta
    dead_man: bool
    records: bool  # it shows ended machines, and when their bill ended
    capacity: int


@dataclass(frozen=True, slots=True)
class Intake:
    """How the news of one forge reach the service, as its settings say."""

    mode: str = "both"  # "both", "poll", "webhook"
    poll: float = 300.0  # seconds

    @property
    def webhooks(self) -> bool:
        return self.mode != "poll"

    @property
    def sure(self) -> bool:
        """Nothing but webhooks tells of a job: one that is lost for good loses the job."""
        return self.mode == "webhook"


@dataclass(frozen=True, slots=True)
class Conditions:
    """All of it. Two of the same seed are equal."""

    seed: int
    hours: float
    jobs: int
    servers: int
    forges: Mapping[str, Intake]  # by name; GitHub is always there
    gitea: str  # its version
    gitea_hook: bool  # its runner is new enough to ask us before a job begins
    forgejo: str  # what its webhooks tell: "development", of each job; "released", only that a run has ended
    app: bool  # GitHub by App, or by personal token
    organization: bool  # where runners are registered
    globs: bool  # repositories are allowed by a pattern, not one by one
    ceiling: int
    beat: float
    nap: float  # the least pause between two rounds of a chore
    hold: float
    silent: float
    sweep: float
    forge_sweep: float
    idle: float  # minutes
    longest: float  # minutes
    boot_limit: float  # minutes
    heartbeat: float
    skew: float  # seconds that one host's clock jumps by
    burst: bool
    quota: int
    vendors: tuple[Vendor, ...]
    windows: tuple[Window, ...]
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    deaf: bool = False  # every webhook of every forge is lost, those that are sent again, too

    def rate(self, name: str) -> float:
        return self.rates.get(name, 0.0)

    def kept(self, forge: str) -> bool:
        """The site has put something in front of the service that keeps a delivery until it was taken.

        It does so where nobody polls the forge, and none can be sent again: by GitHub only to an App (ours shows no webhooks
        of repositories), by GitLab where the settings name the projects."""
        again = {"github": self.app, "gitlab": not self.globs}.get(forge, False)
        return self.forges[forge].sure and not again

    def quiet(self) -> Conditions:
        """The same world without any fault."""
        return replace(self, rates={}, windows=(), skew=0.0)

    def without_webhooks(self) -> Conditions:
        """The same world where no webhook ever arrives: a forge that was to tell by webhooks alone is polled, too."""
        forges = {name: replace(one, mode="both") if one.sure else one for name, one in self.forges.items()}
        return replace(self, forges=forges, deaf=True)


def conditions(seed: int, *, deaf: bool = False) -> Conditions:
    """The seed's world; `deaf`: no webhook arrives in it."""
    drawn = _draw(seed)
    return drawn.without_webhooks() if deaf else drawn


def _draw(seed: int) -> Conditions:
    dice = random.Random(f"conditions {seed}")
    hours = dice.choice((0.2, 0.25, 0.3, 0.4, 0.5, 0.8))
    share = dice.choice((0.0, 0.08, 0.15, 0.25, 0.4))  # of faults that are on in this world
    rates = {name: _between(dice, *RATES[name]) for name in RATES if dice.random() < share}
    rates |= {name: RATES[name][1] for name in dice.sample(list(RATES), dice.choice((0, 1, 1, 2)))}  # loud ones
    rates.setdefault("yield", 0.05)
    servers = dice.choice((1, 1, 1, 2))
    if servers > 1 and dice.random() < 0.6:  # what two do to each other shows when one of them stands still
        rates["engine_paused"] = _between(dice, 0.001, 0.02)
    windows = [_window(dice, kind, hours * 3600.0) for kind in WINDOWS for _ in range(2) if dice.random() < share * 0.6]
    window = timedelta(seconds=dice.choice((30, 60, 120)))
    vendors = tuple(_vendor(dice, name, window) for name in ("cloud", "other")[: dice.choice((1, 1, 1, 2))])
    forges = _forges(dice)
    if "gitea" in forges:
        rates.setdefault("rerun", 0.3)  # the one forge where a job comes again under its old id
    sure = "forgejo" in forges and forges["forgejo"].sure
    return Conditions(
        seed=seed,
        hours=hours,
        jobs=dice.choice((1, 1, 1, 2, 2, 2, 3, 5)),
        servers=servers,
        forges=forges,
        gitea=dice.choice(("1.24.7", "1.26.1", "1.26.1", "1.27.0")),
        gitea_hook=dice.random() < 0.7,
        forgejo="development" if dice.random() < 0.6 or sure else "released",
        app=dice.random() < 0.3,
        organization=dice.random() < 0.3,
        globs=dice.random() < 0.3,
        ceiling=dice.choice((1, 2, 3, 4)),
        beat=dice.choice((120.0, 300.0)),
        nap=dice.choice((120.0, 180.0, 240.0)),
        hold=dice.choice((20.0, 30.0, 90.0, 180.0)),
        silent=dice.choice((240.0, 240.0, 400.0)),
        sweep=dice.choice((100.0, 200.0)),
        forge_sweep=dice.choice((300.0, 600.0)),
        idle=dice.choice((1.0, 2.0, 5.0)),
        longest=dice.choice((15.0, 40.0, 60.0, 90.0)),
        boot_limit=dice.choice((3.0, 5.0, 10.0)),
        heartbeat=dice.choice((55.0, 75.0)),
        skew=dice.choice((0.0, 0.0, 0.0, -7200.0, -600.0, 600.0, 7200.0)),
        burst=dice.random() < 0.4,
        quota=dice.choice((5000, 5000, 5000, 300, 150)),
        vendors=vendors,
        windows=tuple(sorted(windows, key=lambda one: (one.begins, one.kind))),
        rates=rates,
    )


def _forges(dice: random.Random) -> dict[str, Intake]:
    """GitHub, and at most two of the others."""
    others = [name for name, share in (("gitlab", 0.22), ("gitea", 0.3), ("forgejo", 0.3)) if dice.random() < share]
    if len(others) > 2:
        others.remove(dice.choice(others))
    modes = ("both",) * 14 + ("poll",) * 5 + ("webhook",)
    return {name: Intake(dice.choice(modes), dice.choice((15.0, 60.0, 120.0, 300.0))) for name in ("github", *others)}


def _between(dice: random.Random, low: float, high: float) -> float:
    """As likely between 1 and 2 as between 10 and 20."""
    return low * (high / low) ** dice.random()


def _window(dice: random.Random, kind: str, length: float) -> Window:
    begins = dice.uniform(0.0, length * 0.8)
    lasts = 3600.0 if kind == "destroy_refused" else dice.choice((30.0, 120.0, 600.0, 1800.0))
    return Window(kind, begins, begins + lasts)


def _vendor(dice: random.Random, name: str, window: timedelta) -> Vendor:
    promise = dice.choice(("both", "keys", "names", "neither", "neither"))
    return Vendor(
        name=name,
        boot=timedelta(seconds=dice.choice((2, 20, 60, 150))),
        ending=timedelta(seconds=dice.choice((0, 0, 5, 60))),
        price=dice.choice(("3.60", "2.99", "0.77", "7.313")),
        currency=dice.choice(("USD", "USD", "EUR")),
        granularity=timedelta(seconds=dice.choice((1, 1, 60, 3600))),
        minimum=timedelta(seconds=dice.choice((0, 0, 60, 600))),
        keys=promise in ("both", "keys"),
        names=promise in ("both", "names"),
        window=window,
        dead_man=dice.random() < 0.3,
        records=dice.random() < 0.3,
        capacity=dice.choice((0, 0, 0, 1, 2)),
    )
