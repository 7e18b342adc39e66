"""Finds provider classes by the entry-point group `sublet.providers`, built-in ones and strangers' alike, and builds them.

A stranger's package says in its own pyproject.toml:

    [project.entry-points."sublet.providers"]
    acme = "sublet_acme:AcmeProvider"

and from then on a `[[provider]]` table may say `kind = "acme"`. The table's other keys are the fields of
`AcmeProvider.Settings`, a frozen dataclass of str, bool, int, float, Decimal, timedelta, Path, Secret, a StrEnum,
a tuple of these or a Mapping from str to them, each perhaps `| None`.

A plugin that cannot be loaded is named, with its reason, and stops nobody else.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from providers.contract import CONTRACT_VERSION, Provider, Traits
from providers.fit import Installed, Kind, Misfit, find, kind_of, no_such_kind, settled, without

GROUP = "sublet.providers"
RESERVED = frozenset({"name", "kind"})
VERBS = ("offers", "create", "get", "owned", "destroy", "check", "aclose")


class ProviderTrouble(ValueError):
    """A `[[provider]]` table cannot be used. The message holds every problem and no secret."""


def installed(points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Installed:
    """Every kind there is. Loads the plugins' modules; `points` is for tests."""
    return find(GROUP, _load, points)


def build(kind: str, name: str, values: Mapping[str, Any], known: Installed | None = None) -> Provider:
    """The provider of one `[[provider]]` table; `values` are its keys besides `name` and `kind`.

    Secret values come as `Secret`. Raises `ProviderTrouble`.
    """
    known = known or installed()
    where, settings = _where(kind, name), settings_of(kind, name, values, known)
    plugin = known.kinds[kind]
    try:
        provider = plugin.build(name, settings)
    except Exception as error:  # noqa: BLE001  a stranger's class may raise anything
        raise ProviderTrouble(without(values, f"{where}: {type(error).__name__}: {error}")) from None
    traits = getattr(provider, "traits", None)
    if not isinstance(provider, Provider) or not isinstance(traits, Traits):
        raise ProviderTrouble(f"{where}: {plugin.package} built something that is no provider")
    if traits.contract != CONTRACT_VERSION:
        raise ProviderTrouble(f"{where}: {_other_version(traits)}")
    return provider


def settings_of(kind: str, name: str, values: Mapping[str, Any], known: Installed | None = None) -> Any:
    """The `Settings` of one `[[provider]]` table, checked; nothing is built, and nobody is asked. Raises `ProviderTrouble`."""
    known, where = known or installed(), _where(kind, name)
    if kind in known.kinds:
        try:
            return settled(where, known.kinds[kind], values)
        except Misfit as error:
            raise ProviderTrouble(str(error)) from None
    if kind in known.broken:
        raise ProviderTrouble(f"{where}: {known.broken[kind]}")
    raise ProviderTrouble(f"{where}: {no_such_kind(kind, known.kinds)}")


def _where(kind: str, name: str) -> str:
    return f'provider "{name}" of kind "{kind}"'


def _load(point: importlib.metadata.EntryPoint) -> Kind:
    loaded: Any = point.load()
    kind = kind_of(point, loaded, VERBS, RESERVED, "[[provider]]")
    traits: Any = getattr(loaded, "traits", None)
    if isinstance(traits, Traits) and traits.contract != CONTRACT_VERSION:
        raise TypeError(_other_version(traits))
    return kind


def _other_version(traits: Traits) -> str:
    return f"it was written for contract {traits.contract}, and this is contract {CONTRACT_VERSION}"
