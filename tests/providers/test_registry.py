"""The door: who is found, who is turned away and why, and how a table of settings becomes a provider."""

import ast
import importlib
import subprocess
import sys
import tomllib
from datetime import timedelta
from decimal import Decimal
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from providers.contract import Provider, Secret
from providers.registry import GROUP, ProviderTrouble, build, installed
from tests.providers.strangers import Acme, Tier

TOKEN = Secret("sk-live-0123456789")
HERE = "tests.providers.strangers"


def points(**values: str) -> EntryPoints:
    return EntryPoints(EntryPoint(name, value, GROUP) for name, value in values.items())


def built_in() -> EntryPoints:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    return points(**project["project"]["entry-points"][GROUP])


ACME = installed(points(acme=f"{HERE}:Acme"))
GOOD: dict[str, Any] = {"token": TOKEN, "region": "sg"}


def trouble(kind: str, values: dict[str, Any]) -> str:
    with pytest.raises(ProviderTrouble) as caught:
        build(kind, "rack", values, ACME)
    assert TOKEN.reveal() not in str(caught.value)
    return str(caught.value)


BUILT_IN = {
    "aws", "command", "docker", "fake", "kubernetes", "lambda", "local", "nebius", "oci", "openstack", "runpod", "shadeform",
    "ssh", "terraform", "vast",
}  # fmt: skip


def test_a_kind_whose_sdk_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "boto3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ProviderTrouble, match=r"needs boto3.*EXTRAS=aws.*sublet\[aws\]"):
        build("aws", "mine", {"subnets": {"ap-southeast-3": ["subnet-0123456789abcdef0"]}, "images": {}}, installed(built_in()))


def test_loading_every_kind_loads_no_sdk() -> None:
    """A service that rents at one place must not start slower for the SDKs of all the others."""
    program = (
        "import sys; from providers.registry import installed; assert not installed().broken;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    sdks = {"boto3", "botocore", "nebius", "grpc", "oci", "openstack", "kubernetes_asyncio", "asyncssh", "vastai", "aiohttp"}
    assert not sdks & set(ast.literal_eval(told))


def test_the_built_in_ones_come_through_the_same_door(tmp_path: Path) -> None:
    known = installed(built_in())
    assert set(known.kinds) == BUILT_IN
    assert not known.broken
    for kind, values in (("fake", {"seed": 3}), ("local", {"root": str(tmp_path)}), ("docker", {"slots": 2})):
        provider = build(kind, "mine", values, known)
        assert isinstance(provider, Provider)
        assert provider.name == "mine"


def test_a_stranger_is_found_by_being_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "sublet_acme-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sublet-acme\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nacme = {HERE}:Acme\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    kind = installed().kinds["acme"]
    assert kind.package == "sublet-acme 1.2"
    assert kind.secrets == {"token"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no.such.module:Thing", "ModuleNotFoundError"),
        (f"{HERE}:NoSuchClass", "AttributeError"),
        (f"{HERE}:TOKEN", "AttributeError"),
        (f"{HERE}:NoSettings", "it lacks offers"),
        (f"{HERE}:NotFrozen", "not frozen"),
        (f"{HERE}:Greedy", "has a field 'name'"),
        (f"{HERE}:FromTheFuture", "written for contract 2, and this is contract 1"),
        ("tests.providers.benches:plain_offer", "not a class"),
    ],
)
def test_a_broken_plugin_is_named_and_stops_nobody(value: str, why: str) -> None:
    known = installed(points(acme=f"{HERE}:Acme", broken=value))
    assert set(known.kinds) == {"acme"}
    assert why in known.broken["broken"]
    with pytest.raises(ProviderTrouble, match=r'provider "rack" of kind "broken": .* cannot be loaded'):
        build("broken", "rack", {}, known)
    build("acme", "rack", GOOD, known)


def test_a_kind_that_two_packages_claim_is_nobodys() -> None:
    known = installed([EntryPoint("acme", f"{HERE}:Acme", GROUP), EntryPoint("acme", f"{HERE}:NotFrozen", GROUP)])
    assert not known.kinds
    assert "two packages claim it" in known.broken["acme"]


def test_another_contract_that_shows_only_when_built_is_refused_too() -> None:
    known = installed(points(late=f"{HERE}:QuietlyFromTheFuture"))
    with pytest.raises(ProviderTrouble, match="contract 2"):
        build("late", "rack", GOOD, known)


def test_settings_take_what_toml_can_say() -> None:
    values = {
        **GOOD,
        "zones": ["a", "b"],
        "price_cap": "2.50",
        "patience": "5 min",
        "ca": "~/ca.pem",
        "share": 1,
        "tier": "spot",
        "tags": {"team": "vision"},
    }
    provider = build("acme", "rack", values, ACME)
    assert isinstance(provider, Acme)
    settings = provider.settings
    assert (settings.zones, settings.price_cap, settings.patience) == (("a", "b"), Decimal("2.50"), timedelta(minutes=5))
    assert (settings.ca, settings.share, settings.tier) == (Path("~/ca.pem").expanduser(), 1.0, Tier.SPOT)
    assert (settings.token, settings.tags, settings.retries) == (TOKEN, {"team": "vision"}, 3)


@pytest.mark.parametrize(("told", "seconds"), [(90, 90), (0.5, 0.5), ("90", 90), ("250ms", 0.25), ("2h", 7200), ("1 d", 86400)])
def test_durations_are_seconds_or_texts_with_a_unit(told: object, seconds: float) -> None:
    provider = build("acme", "rack", {**GOOD, "patience": told}, ACME)
    assert isinstance(provider, Acme)
    assert provider.settings.patience == timedelta(seconds=seconds)


def test_a_plain_setting_may_come_by_reference() -> None:
    provider = build("acme", "rack", {**GOOD, "region": Secret("sg")}, ACME)
    assert isinstance(provider, Acme)
    assert provider.settings.region == "sg"


def test_an_unknown_kind_gets_a_suggestion_and_the_list() -> None:
    assert (
        trouble("acne", {}) == 'provider "rack" of kind "acne": there is no such kind (did you mean \'acme\'?). Installed: acme'
    )


def test_every_problem_of_a_table_is_told_at_once() -> None:
    text = trouble("acme", {"regoin": "sg", "retries": "many", "token": TOKEN, "zones": "a"})
    assert "unknown setting 'regoin' (did you mean 'region'?); it knows ca, patience," in text
    assert "retries is a whole number, not a text" in text
    assert "zones is a list, not a text" in text
    assert "region is missing" in text


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("token", "sk-live-0123456789", "token is a secret: say env:NAME"),
        ("region", 3, "region is a text, not a whole number"),
        ("retries", True, "retries is a whole number, not true or false"),
        ("retries", 1.5, "retries is a whole number, not a number"),
        ("verify", 1, "verify is true or false"),
        ("share", "1", "share is a number, not a text"),
        ("price_cap", "cheap", "price_cap is not a number"),
        ("price_cap", "NaN", "price_cap is not a finite number"),
        ("price_cap", True, "price_cap is a number"),
        ("patience", "soon", "patience is a duration"),
        ("patience", -3, "patience is a duration"),
        ("patience", True, "patience is a duration"),
        ("tier", "sopt", "tier is one of spot, firm (did you mean 'spot'?)"),
        ("tags", ["a"], "tags is a table, not a list"),
        ("zones", [1], "zones is a text"),
        ("ca", 1, "ca is a path"),
        ("region", "moon", "no region moon for ***"),
        ("region", "mars", "RuntimeError: mars does not like ***"),
    ],
)
def test_a_value_that_does_not_fit_is_told_without_being_shown(key: str, value: object, sentence: str) -> None:
    assert sentence in trouble("acme", {**GOOD, key: value})


def test_what_is_built_must_be_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Acme, "aclose")
    with pytest.raises(ProviderTrouble, match="no provider"):
        build("acme", "rack", GOOD, ACME)
