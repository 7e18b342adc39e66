"""Finds strangers' forges by the entry-point group `sublet.forges`, and builds them.

A stranger's package says in its own pyproject.toml:

    [project.entry-points."sublet.forges"]
    acme = "sublet_acme:AcmeForge"

and from then on a `[[forge]]` table may say `kind = "acme"`. The class implements `app.forges.contract.Forge`, says
`contract = 1`, has a frozen dataclass `Settings` whose fields are the table's other keys (of the types that
`providers.fit` knows), and is built as `AcmeForge(name, settings, around)` with the contract's `Surroundings`.

Sublet's own four forges have tables of their own, and no package can take their places.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from app.forges.contract import CONTRACT_VERSION, Forge, Surroundings
from providers.fit import Installed, Kind, Misfit, find, kind_of, no_such_kind, settled, without

GROUP = "sublet.forges"
BUILT_IN = ("github", "gitlab", "gitea", "forgejo")
RESERVED = frozenset({"name", "kind", "webhook_secret", "webhook_secret_previous", "scope", "intake", "poll_seconds"})
"""What every `[[forge]]` table has already."""
VERBS = (
    "parse", "unfit", "fetch_job", "fetch_run", "open_jobs", "repositories", "missed", "redeliver", "pace", "mint_runner",
    "runner", "runners", "job_started", "remove_runner", "light_beacon", "check",
)  # fmt: skip
TRAITS = ("always_2xx", "single_use", "pinned", "wide", "reruns_in_place")


class ForgeTrouble(ValueError):
    """A `[[forge]]` table cannot be used. The message holds every problem and no secret."""


def installed(points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Installed:
    """Every stranger's kind there is. Loads the plugins' modules; `points` is for tests."""
    return find(GROUP, _load, points)


def build(kind: str, name: str, values: Mapping[str, Any], around: Surroundings, known: Installed | None = None) -> Forge:
    """The forge of one `[[forge]]` table; `values` are the keys that its kind adds. Secret values come as `Secret`.

    Raises `ForgeTrouble`."""
    known = known or installed()
    where, settings = _where(kind, name), settings_of(kind, name, values, known)
    plugin = known.kinds[kind]
    hidden = {**values, "1": around.webhook_secret, "2": around.webhook_secret_previous}
    try:
        forge: Any = plugin.build(name, settings, around)
    except Exception as error:  # noqa: BLE001  a stranger's class may raise anything
        raise ForgeTrouble(without(hidden, f"{where}: {type(error).__name__}: {error}")) from None
    wrong = [word for word in TRAITS if not isinstance(getattr(forge, word, None), bool)]
    if wrong:
        raise ForgeTrouble(f"{where}: {plugin.package} does not say whether it is {', '.join(wrong)}")
    if (getattr(forge, "name", None), getattr(forge, "kind", None)) != (name, kind):
        raise ForgeTrouble(f"{where}: {plugin.package} built something of another name or kind")
    return forge


def settings_of(kind: str, name: str, values: Mapping[str, Any], known: Installed | None = None) -> Any:
    """The `Settings` of one `[[forge]]` table, checked; nothing is built, and nobody is asked. Raises `ForgeTrouble`."""
    known, where = known or installed(), _where(kind, name)
    if kind in BUILT_IN:
        raise ForgeTrouble(f"{where}: `{kind}` has a table of its own: [{kind}]")
    if kind in known.broken:
        raise ForgeTrouble(f"{where}: {known.broken[kind]}")
    if kind not in known.kinds:
        raise ForgeTrouble(f"{where}: {no_such_kind(kind, known.kinds)}")
    try:
        return settled(where, known.kinds[kind], values)
    except Misfit as error:
        raise ForgeTrouble(str(error)) from None


def _where(kind: str, name: str) -> str:
    return f'forge "{name}" of kind "{kind}"'


def _load(point: importlib.metadata.EntryPoint) -> Kind:
    if point.name in BUILT_IN:
        raise TypeError(f"`{point.name}` is a forge of Sublet's own")
    loaded: Any = point.load()
    kind = kind_of(point, loaded, VERBS, RESERVED, "[[forge]]")
    contract = getattr(loaded, "contract", None)
    if contract != CONTRACT_VERSION:
        raise TypeError(f"it was written for contract {contract}, and this is contract {CONTRACT_VERSION}")
    return kind
