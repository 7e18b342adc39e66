"""`provider add`: a table at the end of the settings file, checked before a byte of it changes; no secret in it."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from app import provider_desk
from app.provider_desk import Unusable, Wanted, add
from tests.cli.conftest import Run

BEFORE = """# Our settings; keep this line.
public_url = "https://ci.acme.example"   # and this

[[provider]]
name = "mine"
kind = "local"

[[pool]]
labels = ["gpu", "rubin"]
mode = "bare"
signed = false
providers = ["mine"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a service, as only its own account may read them."""
    for name in [name for name in os.environ if name.startswith("SUBLET_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "sublet.toml"
    path.write_text(BEFORE, encoding="utf-8")
    path.chmod(0o600)
    return path


def wanted(file: Path, kind: str, *settings: str, name: str = "cloud", dry: bool = False) -> Wanted:
    return Wanted(kind, name, settings, file, dry)


def row(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text("utf-8"))["provider"][-1]


def test_the_table_goes_to_the_end_and_nothing_else_changes(file: Path) -> None:
    told = add(wanted(file, "docker", "slots=8", "pull=false", "gpu=h100", "price_per_hour=1.50", "hosts=a:1,b:2"))
    text = file.read_text("utf-8")
    assert text.startswith(BEFORE) and text.removeprefix(BEFORE) == f"\n{told['table']}"
    assert row(file) == {
        "name": "cloud", "kind": "docker", "slots": 8, "pull": False, "gpu": "h100", "price_per_hour": "1.50",
        "hosts": ["a:1", "b:2"],
    }  # fmt: skip
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and [path.name for path in file.parent.iterdir()] == ["sublet.toml"]
    with pytest.raises(Unusable, match="There is a provider cloud already") as no:
        add(wanted(file, "docker"))
    assert no.value.code == 5


def test_tables_lists_and_numbers_are_written_as_the_kind_takes_them(file: Path) -> None:
    add(
        wanted(
            file, "aws", "subnets.ap-southeast-3=subnet-0a1b2c3d,subnet-1a1b2c3d", "prices.p5.48xlarge=98.32", "spot=true",
            "secret_access_key=env:AWS_KEY", "access_key_id=AKIAIOSFODNN7EXAMPLE",
            "images.ap-southeast-3=ami-0123456789abcdef0",
        )
    )  # fmt: skip
    found = row(file)
    assert found["subnets"] == {"ap-southeast-3": ["subnet-0a1b2c3d", "subnet-1a1b2c3d"]} and found["spot"] is True
    assert found["prices"] == {"p5.48xlarge": "98.32"} and found["secret_access_key"] == "env:AWS_KEY"
    add(
        wanted(
            file,
            "ssh",
            'hosts.lab-1={address = "10.0.0.7", gpus = 8}',
            "known_hosts=known",
            "key=file:id",
            'groups=["video"]',
            name="lab",
        )
    )
    assert row(file)["hosts"] == {"lab-1": {"address": "10.0.0.7", "gpus": 8}} and row(file)["groups"] == ["video"]
    add(wanted(file, "kubernetes", "kubeconfig=k", "sizes=1,8", "prices.h100=2.10", name="pods"))
    assert row(file)["sizes"] == [1, 8]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("asw", (), "There is no kind asw. Did you mean aws?"),
        ("docker", ("slot=8",), "docker has no setting 'slot'. Did you mean 'slots'?"),
        ("docker", ("slots",), "'slots' is no setting: write KEY=VALUE."),
        ("docker", ("slots=many",), "slots cannot be read."),
        ("docker", ('slots="8"',), "slots is a whole number, not a text"),
        ("docker", ("slots=1", "slots=2"), "slots is said twice."),
        ("docker", ("slots.a=1",), "slots is no table: write slots=VALUE."),
        ("docker", ("gpu=a\x07b",), "characters that cannot be seen"),
        ("shadeform", (), "api_key is missing"),
        ("shadeform", ("api_key=sk-very-secret",), "api_key is a secret, and a secret is never written in place"),
        ("lambda", ("api_key=env:KEY", "ssh_key_name="), "ssh_key_name is the name of an SSH key"),
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(
    file: Path, kind: str, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(Unusable) as no:
        add(wanted(file, kind, *settings))
    assert said in str(no.value) and no.value.code == 2 and "sk-very-secret" not in f"{no.value} {no.value.hint}"
    assert file.read_text("utf-8") == BEFORE and len(list(file.parent.iterdir())) == 1
    if kind == "docker" and said.startswith("docker has"):
        assert "It may have host, tls_ca" in no.value.hint
    if kind == "shadeform":
        assert not settings or "env:NAME" in str(no.value)


def test_the_hint_names_what_a_kind_needs_and_what_is_a_secret(file: Path) -> None:
    with pytest.raises(Unusable) as no:
        add(wanted(file, "lambda"))
    assert no.value.hint.startswith("lambda needs api_key (secret), ssh_key_name") and "It may have" in no.value.hint


def test_a_file_that_is_wrong_already_stays_as_it_is(file: Path) -> None:
    for text, said in (
        (BEFORE.replace("[[pool]]", "[[pol]]"), "The settings could not be used with it"),
        ("provider = []\n", "has its providers in one line"),
        ("public_url = \n", "is no TOML"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(Unusable, match=said) as no:
            add(wanted(file, "docker"))
        assert file.read_text("utf-8") == text and str(file.parent / ".sublet") not in str(no.value)


def test_a_name_that_is_none_is_told_with_the_files_own_name(file: Path) -> None:
    with pytest.raises(Unusable, match="a name is made of a-z") as no:
        add(wanted(file, "docker", name="My Cloud"))
    assert f"{file}:" in str(no.value)


def test_line_ends_and_a_missing_last_one_are_kept(file: Path) -> None:
    file.write_bytes(BEFORE.replace("\n", "\r\n").encode())
    add(wanted(file, "docker"))
    assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n")
    file.write_text(BEFORE.rstrip("\n"), encoding="utf-8")
    add(wanted(file, "docker"))
    assert file.read_text("utf-8").startswith(f"{BEFORE}\n[[provider]]") and row(file)["name"] == "cloud"


def test_a_link_stays_a_link_and_a_dry_run_writes_nothing(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.toml"
    link.parent.mkdir()
    link.symlink_to(file)
    told = add(wanted(link, "docker", dry=True))
    assert not told["written"] and 'kind = "docker"' in told["table"] and file.read_text("utf-8") == BEFORE
    add(wanted(link, "docker"))
    assert link.is_symlink() and row(file)["kind"] == "docker" and len(list(link.parent.iterdir())) == 1


def test_whoever_writes_at_the_same_time_loses_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = provider_desk._check  # pyright: ignore[reportPrivateUsage]

    def slowly(*given: Any) -> None:
        check(*given)
        file.write_text(f"{BEFORE}# a hurried edit\n", encoding="utf-8")

    monkeypatch.setattr(provider_desk, "_check", slowly)
    with pytest.raises(Unusable, match="Somebody else changed the file") as no:
        add(wanted(file, "docker"))
    assert no.value.code == 5 and file.read_text("utf-8").endswith("# a hurried edit\n")


def test_the_command_prints_the_table_and_what_to_do_next(sublet: Run, file: Path) -> None:
    told = sublet("provider", "add", "shadeform", "sg", "api_key=file:/run/secrets/shade", "regions=sg-1")
    assert told.code == 0, told.err
    assert told.out == (
        '[[provider]]\nname = "sg"\nkind = "shadeform"\napi_key = "file:/run/secrets/shade"\nregions = ["sg-1"]\n'
    )
    assert "Restart the service, then: sublet provider test sg" in told.err and row(file)["name"] == "sg"
    again = sublet("provider", "add", "shadeform", "sg", "api_key=env:K", "--json")
    assert again.code == 5 and json.loads(again.out)["error"]["code"] == "conflict"


def test_the_command_needs_a_file(sublet: Run, tmp_path: Path) -> None:
    assert sublet("provider", "add", "docker", "cloud").code == 3
    with pytest.raises(Unusable, match="There is no file") as no:
        add(wanted(tmp_path / "none.toml", "docker"))
    assert no.value.code == 3
