"""Checks of orders: labels that a forge cannot have, commands of a pool's own, and runners that are too old."""

from __future__ import annotations

import re
from dataclasses import replace

from app.forges.conformance.bench import Bench, Failed, check, expect, order, queued, refusal, same_labels
from app.forges.contract import ForgeRefused

SETS: tuple[tuple[str, ...], ...] = (
    ("gpu",),
    ("self-hosted", "gpu", "rubin"),
    ("gpus:4", "gpu"),
    ("region:sg", "gpu:h100"),
    ("one,two",),
    ("two words",),
    ("Größe",),
    ("gpu:host", "gpu:docker://image"),
    tuple(f"label-{place}" for place in range(60)),
    tuple(f"label-{place}" for place in range(120)),
)
DOTTED = re.compile(r"[0-9]+(\.[0-9]+)*")


@check()
def labels_that_cannot_be_are_said_to_be_unfit(bench: Bench) -> None:
    """`unfit` and `mint_runner` agree: labels that are not unfit are had exactly, and unfit ones are refused"""
    forge = bench.forge()
    job = queued(bench, forge)
    for labels in SETS:
        wanted = replace(order(bench, job=job), labels=labels)
        why = forge.unfit(labels)
        if why:
            expect("\n" not in why and why.strip().endswith("."), f"{labels[:3]}: no sentence: {why!r}")
            refusal(lambda wanted=wanted: forge.mint_runner(wanted), ForgeRefused, what=f"A runner with {labels[:3]}, {why!r},")
            expect(wanted.name not in bench.registered(), f"{labels[:3]}: refused, and registered all the same")
            continue
        try:
            minted = forge.mint_runner(wanted)
        except ForgeRefused as error:
            raise Failed(f"{labels[:3]} ({len(labels)}) are not said to be unfit, and are refused: {error}") from error
        found = bench.labels_of(minted)
        expect(same_labels(list(found), labels), f"{labels[:3]} became {sorted(found)[:3]}")
    expect(not forge.unfit(bench.labels), "a job's usual labels are said to be unfit")


@check()
def a_pools_own_command_is_used(bench: Bench) -> None:
    """A pool's own command is used instead of the usual one, with its places filled in; an unknown place is refused"""
    forge = bench.forge()
    job = queued(bench, forge)
    wanted = order(bench, job=job, command=("/opt/runner-1.2.3/run", "as {name}", "{name}", "{}", "{X}"))
    made = forge.mint_runner(wanted).credential.command
    expect(made[:1] == ("/opt/runner-1.2.3/run",), f"it became {made}")
    expect(made[1:3] == (f"as {wanted.name}", wanted.name), f"{{name}} became {made[1:3]}")
    expect(made[3:5] == ("{}", "{X}"), f"braces that are no place became {made[3:]}")
    strange = order(bench, job=job, command=("run", "{no_such_place}"))
    error = refusal(lambda: forge.mint_runner(strange), ForgeRefused, what="A command with an unknown place")
    expect("no_such_place" in str(error) and "{name}" in str(error), f"it does not say what is filled in: {error}")
    expect(strange.name not in bench.registered(), "it was registered all the same")
    usual = forge.mint_runner(order(bench, job=job)).credential
    expect(bool(usual.command) and all(usual.command), f"the usual command is {usual.command}")
    expect(not any(re.search(r"\{[a-z_]+\}", word) for word in usual.command), f"a place is left in {usual.command}")


@check()
def how_old_a_runner_may_be_is_well_formed(bench: Bench) -> None:
    """Where the adapter knows how old a runner may be, it says how to ask, since when, and why"""
    forge = bench.forge()
    least = forge.mint_runner(order(bench, job=queued(bench, forge))).credential.least
    if least is None:
        return
    expect(bool(least.command) and all(least.command), f"it is asked by {least.command}")
    expect(DOTTED.fullmatch(least.version) is not None, f"the version is {least.version!r}")
    expect(len(least.why) > 20 and "\n" not in least.why, f"the reason is {least.why!r}")
