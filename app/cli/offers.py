"""`offers`: what could be rented now, by which pool, and why not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import click

from app.cli.client import Json
from app.cli.exits import Exit
from app.cli.options import Call, asking
from app.cli.output import Column, hint
from app.cli.words import NONE, clean, duration, money


@click.command()
@click.option("--gpu", metavar="NAME", help="Only this GPU, as we or a vendor call it.")
@click.option("--provider", metavar="NAME", help="Only this provider.")
@click.option("--pool", metavar="NAME", help="Only what this pool makes of them.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that pass no pool.")
@click.option(
    "--why", is_flag=True, help="A line for each offer and pool: the rule that it breaks, with the values. Implies --all."
)
@click.option("--limit", type=click.IntRange(1, 5_000), default=200, show_default=True, help="Most offers to show.")
@asking
def offers(call: Call, gpu: str | None, provider: str | None, pool: str | None, everything: bool, why: bool, limit: int) -> int:
    """What could be rented now: those that pass a pool, the cheapest first. Rents nothing.

    From what the providers were last asked. Ends with 6 if none of them passes.
    """
    everything = everything or why
    words = {"gpu": gpu, "provider": provider, "pool": pool}
    with call.client() as api:
        reply = api.get("offers", **words, all="true" if everything else None, limit=limit)
    shown: list[Json] = reply["offers"]
    if why and not call.output.is_json:
        rows = [{**one, "verdict": verdict} for one in shown for verdict in one["pools"]]
        call.output.rows(reply, rows, _WHY, _none(reply))
    else:
        call.output.rows(reply, shown, _OFFERS, _none(reply))
    if call.output.is_text:
        if not reply["passing"] and shown:
            hint(_none(reply))
        if reply["more"]:
            again = [f"--{name} {shlex.quote(value)}" for name, value in words.items() if value]
            again += ["--why"] if why else ["--all"] if everything else []
            hint(" ".join([f"Shown {limit}; for more: sublet offers", *again, f"--limit {min(limit * 4, 5_000)}"]))
    return Exit.OK if reply["passing"] else Exit.NO_OFFER


def _none(reply: Json) -> str:
    """Why nothing passes, and what to look at next."""
    if not reply["seen"]:
        return "No offer is known: `sublet provider list` says when each provider was last asked."
    rules = ", ".join(f"{count} {clean(rule)}" for rule, count in reply["rejected"].items())
    return f"None of the {reply['seen']} offers passes ({rules}). For the values: sublet offers --why"


def _machine(one: Json) -> str:
    """`2 x h100 80 GB`."""
    if not one["gpu"]:
        return "no GPU"
    memory = f" {one['gpu_memory_gib']} GB" if one["gpu_memory_gib"] else ""
    return f"{one['gpus'] or 1} x {one['gpu']}{memory}"


def _place(one: Json) -> str:
    return " ".join(part for part in (one["region"], one["country"]) if part) or NONE


def _passes(one: Json) -> str:
    return ", ".join(verdict["pool"] for verdict in one["pools"] if verdict["passes"])


def _verdict(row: Json) -> str:
    told = row["verdict"]
    return f"passes, number {told['place']}" if told["passes"] else str(told["rule"])


def _because(row: Json) -> str:
    told: dict[str, Any] = row["verdict"]
    return f"{money(told['expected'], digits=2)} for a usual job" if told["passes"] else str(told["detail"])


_OFFERS: Sequence[Column] = (
    Column("offer", lambda one: one["title"]),
    Column("provider", lambda one: one["provider"]),
    Column("machine", _machine),
    Column("region", _place),
    Column("arch", lambda one: one["architecture"]),
    Column("price/h", lambda one: money(one["price_per_hour"]), right=True),
    Column("kind", lambda one: "own" if one["own"] else "spot" if one["spot"] else "on demand"),
    Column("stock", lambda one: one["availability"]),
    Column("seen", lambda one: f"{duration(one['age_seconds'])} ago", right=True),
    Column("passes", _passes),
)
_WHY: Sequence[Column] = (
    Column("offer", lambda row: row["title"]),
    Column("provider", lambda row: row["provider"]),
    Column("region", _place),
    Column("price/h", lambda row: money(row["price_per_hour"]), right=True),
    Column("pool", lambda row: row["verdict"]["pool"]),
    Column("verdict", _verdict),
    Column("because", _because),
)
