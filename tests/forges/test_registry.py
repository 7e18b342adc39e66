"""Strangers' forges: who is found, who is turned away and why, and how a `[[forge]]` table becomes a forge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from app.forges.contract import Surroundings
from app.forges.registry import BUILT_IN, GROUP, VERBS, ForgeTrouble, build, installed, settings_of
from providers.contract import Secret

HERE = __name__
TOKEN, HOOK = Secret("sk-live-0123456789"), Secret("what the bell says")
AROUND = Surroundings(lambda: datetime(2027, 3, 1, tzinfo=UTC), "https://sublet.example/hooks/lab", webhook_secret=HOOK)


@dataclass(frozen=True)
class AcmeSettings:
    token: Secret
    url: str
    patience: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.url == "moon":
            raise ValueError(f"no board on the moon for {self.token.reveal()}")


class Acme:
    """The shape of a forge, and nothing behind it."""

    Settings = AcmeSettings
    contract = 1
    kind = "acme"
    always_2xx = single_use = pinned = wide = reruns_in_place = False

    def __init__(self, name: str, settings: AcmeSettings, around: Surroundings) -> None:
        if settings.url == "mars" and around.webhook_secret is not None:
            raise RuntimeError(f"mars does not like {settings.token.reveal()} and {around.webhook_secret.reveal()}")
        self.name, self.settings, self.around = name, settings, around


for _verb in VERBS:
    setattr(Acme, _verb, lambda self, *_: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


class FromTheFuture(Acme):
    contract = 2


class Silent(Acme):
    contract = None


class Undecided(Acme):
    wide = None  # pyright: ignore[reportAssignmentType]


class Renamed(Acme):
    kind = "acne"


@dataclass(frozen=True)
class GreedySettings:
    intake: str


class Greedy(Acme):
    Settings = GreedySettings  # pyright: ignore[reportAssignmentType]


class Mute(Acme):
    parse = None


class NoSettings(Acme):
    Settings = None  # pyright: ignore[reportAssignmentType]


def points(**values: str) -> EntryPoints:
    return EntryPoints(EntryPoint(name, value, GROUP) for name, value in values.items())


ACME = installed(points(acme=f"{HERE}:Acme"))
GOOD: dict[str, Any] = {"token": TOKEN, "url": "https://acme.example"}


def trouble(kind: str, values: dict[str, Any]) -> str:
    with pytest.raises(ForgeTrouble) as caught:
        build(kind, "lab", values, AROUND, ACME)
    assert TOKEN.reveal() not in str(caught.value) and HOOK.reveal() not in str(caught.value)
    return str(caught.value)


def test_a_table_becomes_a_forge_with_its_settings_and_surroundings() -> None:
    assert not ACME.broken
    made: Any = build("acme", "lab", {**GOOD, "patience": "90 s"}, AROUND, ACME)
    assert (made.name, made.settings.patience, made.around) == ("lab", timedelta(seconds=90), AROUND)
    assert ACME.kinds["acme"].secrets == {"token"}
    assert settings_of("acme", "lab", GOOD, ACME).url == "https://acme.example"


def test_surroundings_hide_their_secrets() -> None:
    assert HOOK.reveal() not in repr(AROUND)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no.such.module:Thing", "ModuleNotFoundError"),
        (f"{HERE}:points", "it is not a class"),
        (f"{HERE}:Mute", "it lacks parse"),
        (f"{HERE}:NoSettings", "its Settings is not a dataclass"),
        (f"{HERE}:Greedy", "has a field 'intake', which every [[forge]] table has already"),
        (f"{HERE}:FromTheFuture", "written for contract 2, and this is contract 1"),
        (f"{HERE}:Silent", "written for contract None"),
    ],
)
def test_a_broken_plugin_is_named_and_stops_nobody(value: str, why: str) -> None:
    known = installed(points(acme=f"{HERE}:Acme", broken=value))
    assert set(known.kinds) == {"acme"}
    assert why in known.broken["broken"]
    with pytest.raises(ForgeTrouble, match=r'forge "lab" of kind "broken": .* cannot be loaded'):
        build("broken", "lab", {}, AROUND, known)
    build("acme", "lab", GOOD, AROUND, known)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_our_own_four_have_tables_of_their_own_and_nobody_takes_their_place(kind: str) -> None:
    assert trouble(kind, {}) == f'forge "lab" of kind "{kind}": `{kind}` has a table of its own: [{kind}]'
    known = installed(points(**{kind: f"{HERE}:Acme"}))
    assert not known.kinds and "a forge of Sublet's own" in known.broken[kind]


def test_a_kind_that_two_packages_claim_is_nobodys() -> None:
    known = installed([EntryPoint("acme", f"{HERE}:Acme", GROUP), EntryPoint("acme", f"{HERE}:Renamed", GROUP)])
    assert not known.kinds and "two packages claim it" in known.broken["acme"]


def test_an_unknown_kind_gets_a_suggestion_and_the_list() -> None:
    assert trouble("acne", {}) == 'forge "lab" of kind "acne": there is no such kind (did you mean \'acme\'?). Installed: acme'


def test_every_problem_of_a_table_is_told_at_once() -> None:
    text = trouble("acme", {"ulr": "x", "patience": "soon", "token": "sk-live-0123456789"})
    assert "unknown setting 'ulr' (did you mean 'url'?); it knows patience, token, url" in text
    assert "patience is a duration" in text
    assert "token is a secret: say env:NAME" in text
    assert "url is missing" in text


@pytest.mark.parametrize(("url", "why"), [("moon", "no board on the moon for ***"), ("mars", "mars does not like *** and ***")])
def test_a_plugins_own_words_lose_their_secrets(url: str, why: str) -> None:
    assert why in trouble("acme", {**GOOD, "url": url})


def test_what_is_built_says_what_it_is() -> None:
    known = installed(points(acme=f"{HERE}:Undecided"))
    with pytest.raises(ForgeTrouble, match="does not say whether it is wide"):
        build("acme", "lab", GOOD, AROUND, known)
    known = installed(points(acme=f"{HERE}:Renamed"))
    with pytest.raises(ForgeTrouble, match="of another name or kind"):
        build("acme", "lab", GOOD, AROUND, known)


def test_without_a_package_there_is_no_stranger() -> None:
    assert not installed().kinds and not installed().broken
