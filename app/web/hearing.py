"""How we hear of jobs, in words: of one job, and of a forge as a whole. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from app.core.listening import Listening
from app.core.model import Job
from app.forges.contract import Forge, Pace
from app.settings.forges import BUILT_IN
from app.store.hearing import Lately, heard_after
from app.web.words import duration

SLOWER = 3
"""Times: the period of a forge of which less than half of the quota is left (app.engine.listen)."""


FIND = timedelta(minutes=10)
"""How often a polled owner is asked which repositories there are (the same)."""
TITLES: Mapping[str, str] = {"github": "GitHub", "gitlab": "GitLab", "gitea": "Gitea", "forgejo": "Forgejo"}
RUNS_ON = "runs-on: [gpu, …]"
LABELS: Mapping[str, str] = {"github": RUNS_ON, "gitlab": "tags: [gpu, …]", "gitea": RUNS_ON, "forgejo": RUNS_ON}
"""How a job asks for a machine, by the forge's kind."""


@dataclass(frozen=True, slots=True)
class Told:
    """How one job was heard of."""

    by: str
    after: float | None  # seconds from the forge's queue time; None: the forge says no time
    words: str  # "heard of after 9 s, by polling every 15 s"; empty: nobody wrote down how


def told_of(job: Job, listening: Mapping[str, Listening]) -> Told:
    """The delay that hearing of this job cost. `listening` is as the settings have it now."""
    after = heard_after(job)
    return Told(job.heard_by, after, _words(job.heard_by, after, listening.get(job.forge)))


def _words(by: str, after: float | None, hears: Listening | None) -> str:
    if not by:
        return ""
    late = "heard of" if after is None else f"heard of after {duration(after)},"
    if by == "webhook":
        return f"{late} by webhook"
    every = "" if hears is None or hears.poll is None else f" every {duration(hears.poll)}"
    missed = "" if hears is not None and hears.polled_only else "; no webhook came"
    unknown = "; its forge does not say when it was queued" if after is None else ""
    return f"{late} by polling{every}{missed}{unknown}"


def table_of(forge: str) -> str:
    """The settings of a forge as a person looks for them: `[gitea]`, or `[[forge]]` of a plugin's."""
    return f"[{forge}]" if forge in BUILT_IN else f'[[forge]] (name = "{forge}")'


def secret_of(forge: str) -> str:
    """What the settings call its webhook secret."""
    return "`webhook_token`" if forge == "gitlab" else "`webhook_secret`"


def news_of(hears: Listening, pace: Pace, lately: Lately | None, *, found_in: timedelta | None = None) -> str:
    """One line on how a forge's news come, and what that costs.

    `found_in`: how long a new repository may stay unknown where only patterns name it; None: it does not."""
    if hears.poll is None:
        return "Webhooks only: nothing is listed." if hears.webhooks else "Neither webhooks nor listings: no job is heard of."
    period = hears.poll * (SLOWER if pace is Pace.SLOW else 1)
    slow = f" Less than half of its quota is left, so that is {SLOWER} times slower than set." if pace is Pace.SLOW else ""
    if pace is Pace.STOP:
        slow = " Most of its quota is gone, so nothing is listed until more is there."
    if hears.webhooks:
        return f"Webhooks, and a listing every {duration(period)} for what they miss.{slow}"
    line = f'No webhooks (`intake = "poll"`): its open jobs are listed every {duration(period)}, '
    line += f"so a job is heard of up to {duration(period)} late"
    if lately is not None and not lately.count:
        line += "; it does not say when a job was queued, so how late the last ones were heard of is not known"
    elif lately is not None:
        jobs = "job" if lately.count == 1 else f"{lately.count} jobs"
        waits = duration(lately.longest)
        if lately.count > 1:
            waits = f"{duration(lately.average)} on average, {waits} at most"
        line += f"; the last {jobs}: {waits}"
    new = "" if found_in is None else f" A new repository is found within {duration(found_in)}."
    return f"{line}.{slow}{new}"


@dataclass(frozen=True, slots=True)
class Way:
    """How the jobs of one forge find their way here, for pages that have none to show yet."""

    forge: str  # as people write it: "Gitea", or a plugin's own name
    hook: str  # the address of its webhook; empty: none is taken
    polled: str  # "every 15 s"; empty: nothing is listed
    labels: str  # how a job asks for a machine there


def ways(forges: Mapping[str, Forge], listening: Mapping[str, Listening], public_url: str) -> tuple[Way, ...]:
    """Of each forge, by name."""
    found: list[Way] = []
    for name, forge in sorted(forges.items()):
        hears = listening.get(name) or Listening()
        polled = "" if hears.poll is None else f"every {duration(hears.poll)}"
        hook = f"{public_url}/hooks/{name}" if hears.webhooks else ""
        found.append(Way(TITLES.get(name, name), hook, polled, LABELS.get(forge.kind, "the labels of a pool")))
    return tuple(found)
