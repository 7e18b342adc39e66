"""The page of each vendor: its table has every setting, and its example is built as it stands."""

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from providers.contract import Provider, Secret
from providers.registry import build, installed

FOLDER = Path(__file__).parents[2] / "docs/how-to/providers"
KINDS = ("aws", "lambda", "nebius", "oci", "openstack", "runpod", "shadeform", "vast")


def page(kind: str) -> str:
    return (FOLDER / f"{kind}.md").read_text("utf-8")


def secret(kind: str) -> str:
    """Oracle's SDK wants a real key."""
    if kind != "oci":
        return "a secret of the vendor's"
    key, form = rsa.generate_private_key(65537, 2048), serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def example(kind: str) -> Provider:
    """What the page's `[[provider]]` builds; where it names a secret, there is one."""
    (values,) = tomllib.loads(page(kind).partition("```toml")[2].partition("```")[0])["provider"]
    name, said, secrets = values.pop("name"), values.pop("kind"), installed().kinds[kind].secrets
    assert said == kind
    given: dict[str, Any] = {key: Secret(secret(kind)) if key in secrets else value for key, value in values.items()}
    return build(kind, name, given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_has_every_setting_and_no_other(kind: str) -> None:
    rows = page(kind).partition("## Settings")[2].partition("```")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", rows, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(installed().kinds[kind].fields)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_example_is_built(kind: str) -> None:
    provider = example(kind)
    assert provider.traits.profile.source or kind == "openstack"
    await provider.aclose()


async def test_a_cloud_that_bills_by_the_hour_is_said_to() -> None:
    provider = example("openstack")
    assert provider.traits.billing_granularity == timedelta(hours=1)
    await provider.aclose()
