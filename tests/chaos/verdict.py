"""What must hold when all is quiet again. Pure: facts in, one sentence for each violation out."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from app.core.model import Reason
from app.core.states import RULES, State
from tests.chaos.facts import Facts, LeaseFacts

BROKEN = frozenset({Reason.INSTANCE_LOST, Reason.NODE_SILENT, Reason.RUNNER_FAILED, Reason.JOB_TIMEOUT})
"""Reasons of a lease that agree with a job which the forge gave up."""
RUNNER = re.compile(r"sublet-[a-z0-9]{6}-.+-([0-9a-f]{8})-\d+")
"""A runner's name ends with eight digits of its lease's id and the number of the try."""

SKEW = timedelta(milliseconds=200)
"""Two processes agree on the time only so far."""


class Verdict:
    """The violations, and how each job ended."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.violations: list[str] = []
        self.ran_once = 0
        self.explained = 0
        self._by_runner = {one.id.replace("-", "")[:8]: one for one in facts.leases}
        marks = Counter(facts.effects)
        for job in facts.forge_jobs.values():
            self._job(job, {word: marks[word, str(job["runner_name"])] for word in ("begin", "end", "doomed")})
        self._effects()
        self._known_jobs()
        for lease in facts.leases:
            self._lease(lease)
            self._books(lease)
        self._ceiling()
        self._leftovers()

    def lease_of(self, runner: str | None) -> LeaseFacts | None:
        found = RUNNER.fullmatch(runner or "")
        return self._by_runner.get(found[1]) if found else None

    def _say(self, text: str) -> None:
        self.violations.append(text)

    # --- jobs

    def _job(self, job: Mapping[str, Any], marks: Mapping[str, int]) -> None:
        lease = self.lease_of(job["runner_name"])
        who = f"job {job['id']}" + (f" on lease {lease.name}" if lease is not None else "")
        if job["status"] != "completed":
            self._say(f"{who} is {job['status']} for ever")
            return
        if job["runner_name"] and lease is None:
            self._say(f"{who} ran on {job['runner_name']}, which no lease knows")
        if max(marks.values()) > 1:
            self._say(f"{who} ran more than once: {dict(marks)}")
        elif job["conclusion"] == "success" or (job["conclusion"] == "failure" and marks["doomed"]):
            whole = marks["begin"] == 1 and marks["end"] + marks["doomed"] == 1
            good = whole and (marks["end"] == 1) == (job["conclusion"] == "success")
            if good:
                self.ran_once += 1
            else:
                self._say(f"{who} ended with {job['conclusion']}, but did this: {dict(marks)}")
        elif why := self._unexplained(job, lease):
            self._say(f"{who} ended with {job['conclusion']}: {why}")
        else:
            self.explained += 1

    def _unexplained(self, job: Mapping[str, Any], lease: LeaseFacts | None) -> str:
        """Why nobody can say how this job came to its end; empty if somebody can."""
        if job["conclusion"] == "cancelled" and int(job["id"]) in self.facts.cancelled:
            return ""
        if lease is None:
            return "it never had a lease"
        if lease.tag not in self.facts.struck:  # a runner whose machine is ended says "cancelled", too
            return f"nobody asked for that or hurt its machine; the lease ended for {lease.reason}"
        broken = lease.reason in BROKEN or (lease.reason == Reason.JOB_DONE and lease.runner_exit not in (0, None))
        told = lease.reason == Reason.JOB_DONE and self.facts.jobs.get(int(job["id"]), ("", ""))[1] == job["conclusion"]
        return "" if broken or told else f"its lease ended for {lease.reason}, which does not agree"

    def _effects(self) -> None:
        known = {str(job["runner_name"]) for job in self.facts.forge_jobs.values()}
        for runner in sorted({runner for _, runner in self.facts.effects} - known):
            self._say(f"something ran on {runner}, which the forge gave no job")

    def _known_jobs(self) -> None:
        for key, (state, conclusion) in sorted(self.facts.jobs.items()):
            there = self.facts.forge_jobs.get(key)
            if there is None:
                self._say(f"the service knows a job {key} that the forge does not")
            elif (state, conclusion) != (there["status"], there["conclusion"] or ""):
                self._say(
                    f"the service has job {key} as {state} {conclusion}, the forge as {there['status']} {there['conclusion']}"
                )

    # --- leases

    def _lease(self, lease: LeaseFacts) -> None:
        who = f"lease {lease.name}"
        if lease.state != State.RELEASED:
            self._say(f"{who} is {lease.state}, not released")
            return
        states = [state for state, _, _ in lease.spans]
        if any(later not in RULES[earlier].next for earlier, later in itertools.pairwise(states)):
            self._say(f"{who} took a way that the table has not: {', '.join(states)}")
        if any(left != then for (_, _, left), (_, then, _) in itertools.pairwise(lease.spans)):
            self._say(f"{who} was in two states at once, or in none")
        if any(left is not None and left < entered - SKEW for _, entered, left in lease.spans):
            self._say(f"{who} left a state long before it came: {lease.spans}")
        wanted = [f"lease.{state}" for state in states] + (["lease.booked"] if lease.booked else [])
        written = [action for _, action in lease.audit if action in {f"lease.{state}" for state in State} | {"lease.booked"}]
        if written != wanted:
            self._say(f"{who}: the audit has {', '.join(written)}; it went {', '.join(wanted)}")

    def _books(self, lease: LeaseFacts) -> None:
        who = f"lease {lease.name}"
        if lease.booked != lease.asked:
            self._say(f"{who} was {'' if lease.asked else 'not '}asked for and is {'' if lease.booked else 'not '}booked")
        if len({booked for *_, booked in lease.charges}) > 1:
            self._say(f"{who} was booked more than once")
        if lease.charges and not lease.booked:
            self._say(f"{who} has charges and open books")
        if any(amount < 0 for _, _, amount, _ in lease.charges):
            self._say(f"{who} has a charge below zero")
        if any(until != since for (_, until, _, _), (since, *_) in itertools.pairwise(lease.charges)):
            self._say(f"{who} is charged twice for a time, or not at all: {lease.charges}")
        if lease.booked and any(state is State.BOOTING for state, _, _ in lease.spans) and not lease.charges:
            self._say(f"{who} had a machine and was charged nothing")

    def _ceiling(self) -> None:
        """By the numbers of the audit's rows: a moment is noted before its transaction gets its turn, a number within it."""
        change = {"lease.planned": 1, "lease.released": -1}
        steps = sorted((seq, change[action]) for one in self.facts.leases for seq, action in one.audit if action in change)
        most = max(itertools.accumulate(step for _, step in steps), default=0)
        if most > self.facts.ceiling:
            self._say(f"{most} leases lived at once, and the ceiling is {self.facts.ceiling}")

    # --- what is left

    def _leftovers(self) -> None:
        facts = self.facts
        self._each("the forge still knows the runner", facts.runners)
        self._each("the provider still has", facts.instances)
        self._each("a process is left:", facts.processes)
        self._each("a file is left:", facts.files)
        for one in facts.exits:
            if one.served:
                self._say(f"{one.name} ended by itself with {one.code} after {one.lived:.0f} s")

    def _each(self, text: str, things: Iterable[str]) -> None:
        for thing in things:
            self._say(f"{text} {thing}")
