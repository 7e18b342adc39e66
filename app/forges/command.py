"""The runner's command as a template: a pool may name its own program, and the forge fills in what only it knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.forges.contract import ForgeRefused, RunnerOrder
from app.kit.template import fill, names


def command_of(order: RunnerOrder, usual: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The pool's own words, or the usual ones, with `{name}` and the like filled in. No value may be a secret: this is argv.

    Raises ForgeRefused for a place that this forge has nothing for: it says which ones it has."""
    template = tuple(order.command or usual)
    strange = sorted(names(template) - set(values))
    if strange:
        known = ", ".join(f"{{{name}}}" for name in sorted(values))
        raise ForgeRefused(
            f"The pool's `runner_command` has {{{strange[0]}}}, which this forge does not fill in. It fills in {known}."
        )
    return fill(template, values)
