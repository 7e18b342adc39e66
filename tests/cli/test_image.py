"""`sublet image`: a verdict as a person reads it, signing, and the words that stop an image; and the exit codes of each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from app import image_desk
from app.cli import desk as starts
from app.store import images
from app.store.db import Database, upgrade
from app.web.images import RevokedReply, RevokedView
from tests.cli import samples
from tests.cli.conftest import Run, Service
from tests.fakes.registry import FakeRegistry
from tests.fakes.served import served
from tests.fakes.signer import SigningKey

DIGEST = "sha256:" + "a" * 64
BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class Bench:
    """A registry on loopback, a key, and the settings that know both."""

    registry: FakeRegistry
    host: str
    key: SigningKey
    folder: Path

    @property
    def image(self) -> str:
        return f"{self.host}/ci/gpu:v3"

    def settings(self, *more: str, trust: bool = True) -> None:
        lines = [f'[[registry]]\nhost = "{self.host}"']
        lines += ['[trust]\nkeys = ["file:cosign.pub"]'] if trust else []
        (self.folder / "sublet.toml").write_text("\n".join([*lines, *more, ""]))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    registry, key = FakeRegistry(), SigningKey("cosign.pub")
    (tmp_path / "cosign.pub").write_text(key.public.pem)
    (tmp_path / "cosign.key").write_text(key.pem())
    with served(registry) as url:  # pyright: ignore[reportArgumentType]  an application like any other
        made = Bench(registry, url.removeprefix("http://"), key, tmp_path)
        made.settings(f'[[pool]]\nlabels = ["gpu"]\nimage = "{made.image}"')
        yield made


class Desk:
    """Where the service's own side runs: in this process, as the start of one of its own takes longer than all the rest."""

    def __init__(self) -> None:
        self.apart = False

    def run(
        self, command: list[str], *, env: Mapping[str, str], input: str | None, stdout: int, text: bool, check: bool
    ) -> subprocess.CompletedProcess[str]:
        if self.apart:
            return subprocess.run(command, env=env, input=input, stdout=stdout, text=text, check=check)
        assert command[:4] == [sys.executable, "-P", "-m", "app.image_desk"]
        assert {**env, "PYTHONPATH": ""} == {**os.environ, "PYTHONPATH": ""}
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = image_desk.main(command[4:])
        return subprocess.CompletedProcess(command, code, said.getvalue())


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    monkeypatch.setattr(starts, "subprocess", SimpleNamespace(run=made.run, PIPE=subprocess.PIPE))
    return made


# --- verify


def test_an_image_that_may_run_is_told_with_its_checks_and_who_signed_it(sublet: Run, bench: Bench) -> None:
    digest = bench.registry.image("ci/gpu", "v3")
    bench.registry.sign("ci/gpu", digest, bench.key)
    told = sublet("image", "verify", bench.image)
    assert told.code == 0
    first, why, reference, platforms = told.out.splitlines()[:4]
    assert first == f"ALLOWED  {bench.image}  for the pool gpu"
    assert why.startswith(f"{digest[:19]}… is signed by cosign.pub (SHA256:")
    assert (reference, platforms) == (f"reference  {bench.host}/ci/gpu@{digest}", "platforms  amd64")
    assert "CHECK" in told.out and "SIGNER" in told.out and "cosign tag" in told.out and "FAILED" not in told.out
    reply = sublet("image", "verify", bench.image, "--json").json
    assert reply["image"]["allowed"] and reply["image"]["digest"] == digest and (reply["pool"], reply["note"]) == ("gpu", "")
    assert "payload" not in json.dumps(reply) and "BEGIN PUBLIC KEY" not in json.dumps(reply)


def test_a_refusal_names_the_check_and_ends_with_1(sublet: Run, bench: Bench) -> None:
    digest = bench.registry.image("ci/gpu", "v3")
    bench.registry.sign("ci/gpu", digest, SigningKey("stranger.pub"))
    told = sublet("image", "verify", bench.image)
    assert told.code == 1 and told.out.startswith("REFUSED  ")
    failed = next(line for line in told.out.splitlines() if "FAILED" in line)
    assert failed.startswith("signature") and "does not count" in told.out
    reply = sublet("image", "verify", bench.image, "--json")
    assert (reply.code, reply.json["image"]["code"]) == (1, "wrong_key")


def test_an_image_that_is_not_there_ends_with_3_and_a_registry_that_is_away_with_10(sublet: Run, bench: Bench) -> None:
    assert sublet("image", "verify", bench.image).code == 3
    bench.registry.fault("/v2/", status=503)
    told = sublet("image", "verify", bench.image)
    assert told.code == 10 and told.err.startswith("Error: The registry does not say: ")
    assert sublet("image", "verify", bench.image, "--json").json["error"]["exit"] == 10


def test_a_registry_that_the_settings_do_not_name_is_never_asked(sublet: Run, bench: Bench) -> None:
    told = sublet("image", "verify", "registry.elsewhere.example/ci/gpu:v3")
    assert told.code == 1 and "is not among the registries of the settings" in told.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pool", "nobody"), "There is no pool nobody (there are: bare, gpu)."),
        (("--pool", "bare"), "The pool bare is bare: it has no image"),
        (("--config", "nowhere.toml"), "The settings cannot be used"),
    ],
)
def test_what_cannot_be_answered_ends_with_2(sublet: Run, bench: Bench, words: tuple[str, ...], said: str) -> None:
    pools = f'[[pool]]\nlabels = ["gpu"]\nimage = "{bench.image}"\n[[pool]]\nlabels = ["bare"]\nmode = "bare"\nsigned = false'
    bench.settings(pools)
    told = sublet("image", "verify", bench.image, *words)
    assert told.code == 2 and said in told.err, told


def test_settings_that_are_wrong_end_with_2_and_not_with_no(sublet: Run, bench: Bench) -> None:
    (bench.folder / "sublet.toml").write_text("[trst]\n")
    told = sublet("image", "verify", bench.image)
    assert told.code == 2 and "unknown key `trst`" in told.err
    bench.settings()
    (bench.folder / "cosign.pub").write_text("no key\n")
    told = sublet("image", "verify", bench.image)
    assert told.code == 2 and "cosign.pub is no public key" in told.err
    (bench.folder / "sublet.toml").write_text("")
    assert sublet("image", "verify", bench.image).code == 2


def test_each_pool_has_its_own_rule(sublet: Run, bench: Bench) -> None:
    other = SigningKey("other.pub", "ed25519")
    (bench.folder / "other.pub").write_text(other.public.pem)
    own = f'[[pool]]\nlabels = ["own"]\nimage = "{bench.host}/ci/own:v1"\nkeys = ["file:other.pub"]'
    pinned = f'[[pool]]\nlabels = ["pinned"]\nimage = "{bench.host}/ci/raw:v1"\nsigned = false'
    bench.settings(own, pinned)
    bench.registry.sign("ci/gpu", bench.registry.image("ci/gpu", "v3"), other)
    assert sublet("image", "verify", bench.image).code == 1, "[trust] counts for an image of no pool"
    assert sublet("image", "verify", bench.image, "--pool", "own").code == 0
    told = sublet("image", "verify", bench.image, "--pool", "pinned")
    assert told.code == 0 and "asks for no signature: nothing proves who made the image" in told.out
    bench.settings(own, pinned, trust=False)
    told = sublet("image", "verify", bench.image)
    assert told.code == 2 and "Name a pool with --pool." in told.err


def test_what_people_revoked_counts_here_too(sublet: Run, bench: Bench) -> None:
    digest = bench.registry.image("ci/gpu", "v3")
    bench.registry.sign("ci/gpu", digest, bench.key)
    (bench.folder / "sublet-data").mkdir()
    url = f"sqlite:///{bench.folder / 'sublet-data' / 'sublet.db'}"
    upgrade(url)
    database = Database(url)
    images.revoke(database, digest, "it leaks", "ada", BEGAN)
    database.close()
    told = sublet("image", "verify", bench.image)
    assert told.code == 1 and "is revoked" in told.out
    (bench.folder / "sublet-data" / "sublet.db").write_bytes(b"no database")
    told = sublet("image", "verify", bench.image)
    assert told.code == 0 and "could not be read, so only those of the settings count here" in told.err


def test_nothing_that_a_registry_says_steers_the_terminal(sublet: Run, bench: Bench) -> None:
    digest = bench.registry.image("ci/gpu", "v3", architecture="amd64")
    evil = {"creator": "\x1b[31mroot\x1b]0;x\x07"}
    bench.registry.sign("ci/gpu", digest, SigningKey("stranger.pub"), optional=evil)
    told = sublet("image", "verify", bench.image)
    assert "\x1b" not in told.out + told.err


# --- sign


def test_what_is_signed_here_passes_here(sublet: Run, bench: Bench, desk: Desk) -> None:
    """The first two commands in processes of their own, as people have them."""
    digest = bench.registry.image("ci/gpu", "v3")
    desk.apart = True
    assert sublet("image", "verify", bench.image).code == 1
    told = sublet("image", "sign", bench.image, "--key", "cosign.key")
    desk.apart = False
    assert (told.code, told.out) == (0, f"Signed {bench.host}/ci/gpu@{digest}.\n") and "1 signature under" in told.err
    assert sublet("image", "verify", bench.image).code == 0
    again = sublet("image", "sign", bench.image, "--key", "cosign.key", "--json").json
    assert (again["digest"], again["signatures"], again["fresh"]) == (digest, 1, False)


def test_the_password_of_a_key_comes_from_the_environment_and_is_shown_nowhere(
    sublet: Run, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.registry.image("ci/gpu", "v3")
    (bench.folder / "locked.key").write_text(bench.key.pem("hush-hush"))
    words = ("image", "sign", bench.image, "--key", "locked.key")
    assert sublet(*words).code == 1 and "has a password, and none was given" in sublet(*words).err
    assert sublet(*words, "--password-env", "KEY_PASSWORD").code == 2
    monkeypatch.setenv("KEY_PASSWORD", "hush-hush")
    told = sublet(*words, "--password-env", "KEY_PASSWORD")
    assert told.code == 0 and "hush-hush" not in told.out + told.err
    monkeypatch.setenv("KEY_PASSWORD", "wrong-one")
    told = sublet(*words, "--password-env", "KEY_PASSWORD")
    assert told.code == 1 and "wrong-one" not in told.out + told.err


@pytest.mark.parametrize(("key", "code"), [("nowhere.key", 2), ("cosign.pub", 1)])
def test_a_key_that_is_none_signs_nothing(sublet: Run, bench: Bench, key: str, code: int) -> None:
    bench.registry.image("ci/gpu", "v3")
    told = sublet("image", "sign", bench.image, "--key", key)
    assert told.code == code and told.err.startswith("Error: ")
    assert sublet("image", "sign", bench.image).code == 2, "a key must be named"


# --- revoke


def test_revoke_and_unrevoke_say_a_digest_and_why(sublet: Run, service: Service) -> None:
    service.says("POST images/revoke", {"schema_version": 1, "digest": DIGEST, "revoked": True})
    service.says("POST images/unrevoke", {"schema_version": 1, "digest": DIGEST, "revoked": False})
    told = sublet("image", "revoke", f"registry.acme.example/ci/gpu@{DIGEST}", "--why", "CVE-2026-1234")
    assert (told.code, told.out) == (0, f"{DIGEST} does not run any more.\n")
    assert service.asked[-1] == ("POST images/revoke", {"digest": DIGEST, "reason": "CVE-2026-1234"})
    assert sublet("image", "unrevoke", DIGEST, "--why", "another one").code == 2, "nobody is here to say yes"
    told = sublet("image", "unrevoke", DIGEST, "--why", "another one", "--yes")
    assert told.code == 0 and "may run again, if it passes" in told.out
    assert sublet("image", "revoke", DIGEST, "--why", "x", "--json").json["revoked"] is True


@pytest.mark.parametrize("words", [("registry.acme.example/ci/gpu:v3", "--why", "x"), (DIGEST,), ("sha256:12", "--why", "x")])
def test_a_tag_is_not_revoked(sublet: Run, service: Service, words: tuple[str, ...]) -> None:
    assert sublet("image", "revoke", *words).code == 2
    assert service.asked == []


def test_what_is_revoked_is_listed_with_who_and_why(sublet: Run, service: Service) -> None:
    rows = [
        RevokedView(digest=DIGEST, why="CVE-2026-1234", actor="ada", at=BEGAN),
        RevokedView(digest=DIGEST.replace("a", "b"), why="", actor="settings", at=None, pool="gpu"),
    ]
    service.says("GET images/revoked", RevokedReply(revoked=rows).model_dump(mode="json"))
    told = sublet("image", "list-revoked")
    lines = told.out.splitlines()
    assert lines[0].split() == ["DIGEST", "BY", "SINCE", "WHY"]
    assert "ada" in lines[1] and "2026-03-01" in lines[1] and "CVE-2026-1234" in lines[1]
    assert "settings of gpu" in lines[2]
    service.says("GET images/revoked", RevokedReply(revoked=[]).model_dump(mode="json"))
    assert "Nothing is revoked." in sublet("image", "list-revoked").err


# --- leases


def test_a_list_wears_the_red_mark_and_a_lease_shows_its_image(sublet: Run, service: Service) -> None:
    leases = [samples.lease(), samples.lease(name="calm-fox-01", mode="contained", signed=True),
              samples.lease(name="odd-puma-07", signed=True, revoked="The image was revoked: it leaks")]  # fmt: skip
    service.says("GET leases", {"schema_version": 1, "leases": leases})
    marks = [line.split()[2] for line in sublet("ps").out.splitlines()]
    assert marks == ["IMAGE", "UNSIGNED", "signed", "REVOKED"]
    image = {
        "asked": "registry.acme.example/ci/gpu:v3", "allowed": False, "code": "unsigned", "reference": "", "digest": DIGEST,
        "platforms": [], "why": "It is not signed.", "at": "2026-03-01T12:00:00Z", "evidence": [],
        "checks": [{"what": "signature", "asked": "cosign.pub", "seen": "no signature", "passed": False}],
    }  # fmt: skip
    whole = samples.gone(mode="contained", signed=True, reason="image_refused", reason_text="It is not signed.", job=None)
    whole |= {"image": image, "containers": [image], "decision": None}
    service.says("GET resolve", {"schema_version": 1, "id": samples.ID, "name": "brave-otter-41"})
    service.says(f"GET leases/{samples.ID}", whole)
    for command in (("lease", "show"), ("explain",)):
        told = sublet(*command, "brave-otter-41")
        assert told.code == 0 and "It is not signed." in told.out
        assert "signature  FAILED  cosign.pub  no signature" in told.out
    assert "contained · signed · registry.acme.example/ci/gpu:v3 · It is not signed." in sublet("lease", "show", "x").out
