"""Settings of images: what must be written down, what is refused before the start, and what becomes a pool's rule."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from app.core.images import Identity, Mode, Provenance
from app.image_rules import registries_of, trust_of
from app.kit.clock import SystemClock
from app.settings import SecretError, SettingsError, load
from app.wiring import pool_of
from tests.fakes.signer import SigningKey
from tests.settings.test_load import problems, read

IMAGE = 'image = "registry.acme.example/ci/gpu:v3"\n'
POOL = f'[[pool]]\nlabels = ["gpu"]\n{IMAGE}'
TRUST = '[trust]\nkeys = ["file:cosign.pub"]\n'
REGISTRY = '[[registry]]\nhost = "registry.acme.example"\n'
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_a_pool_without_an_image_is_told_the_very_lines_to_write(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, '[[pool]]\nlabels = ["gpu"]\n')
    assert said.endswith('write these two lines, and every lease wears a red mark:\n    mode = "bare"\n    signed = false')
    _, *lines = said.split("\n")
    good = "\n".join(['[[pool]]\nlabels = ["gpu"]', *lines])
    (pool,) = read(tmp_path, good).settings.pool
    assert (pool.mode, pool.signed, pool.image) == ("bare", False, None)


@pytest.mark.parametrize("lines", ['mode = "bare"\n', "signed = false\n", 'mode = "guarded"\nsigned = false\n'])
def test_half_of_those_lines_will_not_do(tmp_path: Path, lines: str) -> None:
    assert "no `image` is named" in problems(tmp_path, f'[[pool]]\nlabels = ["gpu"]\n{lines}')[0]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (f'{IMAGE}mode = "bare"\nsigned = false\n', "a `bare` pool runs in no `image`"),
        (f"{IMAGE}allow_build = true\n", '`allow_build` is for `mode = "guarded"`'),
        (f"{IMAGE}signed = false\nprovenance = {{}}\n", "`signed` is false, so `provenance` would be for nothing"),
        (f'{IMAGE}keys = ["-----BEGIN PUBLIC KEY-----"]\n', "a public key is named as file:PATH"),
        (f'{IMAGE}revoked = ["latest"]\n', "`revoked` in [[pool]] #1: a digest reads sha256:"),
        (f'{IMAGE}image_repositories = ["ci"]\n', "a pattern over registry and repository"),
        (f"{IMAGE}oldest_signature_days = 0\n", "should be greater than 0"),
        (f'{IMAGE}identity = [{{issuer = "https://accounts.example"}}]\n', "`subject` in [[identity]] #1 is missing"),
        ('image = "ubuntu:24.04"\n', "an image is written in full, its registry first"),
        ('image = "registry.acme.example/ci/gpu"\n', "an image ends with a tag or with @sha256:"),
        ('image = "registry.acme.example/ci/gpu@sha256:12"\n', "an image ends with a tag or with @sha256:"),
        ('image = "registry.acme.example/CI/gpu:v3"\n', "an image is written in full"),
    ],
)
def test_an_image_that_cannot_be_meant_is_refused(tmp_path: Path, lines: str, sentence: str) -> None:
    said = problems(tmp_path, f'{TRUST}{REGISTRY}[[pool]]\nlabels = ["gpu"]\n{lines}')
    assert sentence in "\n".join(said)


def test_a_registry_that_no_table_names_is_never_asked(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, TRUST + POOL)
    assert said.endswith('Write:\n    [[registry]]\n    host = "registry.acme.example"')


def test_an_image_that_nobody_may_sign_is_no_image(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, REGISTRY + POOL)
    assert "nothing says whose signature on it counts" in said and '    keys = ["file:cosign.pub"]' in said
    keyless = POOL + 'identity = [{issuer = "https://accounts.example", subject = "ana@acme.example"}]\n'
    assert "need `trusted_root` in [trust]" in problems(tmp_path, REGISTRY + keyless)[0]
    read(tmp_path, f'[trust]\ntrusted_root = "trusted_root.json"\n{REGISTRY}{keyless}')


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('username = "ci"\n', "`username` and `password` go together"),
        ('username = "ci"\npassword = "hush-hush"\n', "a secret is never written in place"),
        ('mirrors = ["https://mirror.example"]\n', "`mirrors` are host names"),
    ],
)
def test_a_registry_is_named_whole_and_without_its_password(tmp_path: Path, lines: str, sentence: str) -> None:
    said = "\n".join(problems(tmp_path, f"{REGISTRY}{lines}"))
    assert sentence in said and "hush-hush" not in said
    assert "two have the host" in problems(tmp_path, REGISTRY + REGISTRY)[0]


@pytest.mark.parametrize("host", ["https://registry.example", "registry.example/ci", "", "a b"])
def test_a_registry_is_a_host(tmp_path: Path, host: str) -> None:
    assert "a registry is a host name" in problems(tmp_path, f'[[registry]]\nhost = "{host}"\n')[0]


def test_only_this_machines_own_registry_is_asked_without_tls(tmp_path: Path) -> None:
    hosts = ("127.0.0.1:5000", "[::1]:5000", "localhost:5000", "registry.acme.example:5000", "127.0.0.1.example")
    rows = read(tmp_path, "".join(f'[[registry]]\nhost = "{host}"\n' for host in hosts)).settings.registry
    assert [row.plain for row in rows] == [True, True, True, False, False]
    (row,) = read(tmp_path, '[[registry]]\nhost = "127.0.0.1:5000"\nca = "ca.pem"\n').settings.registry
    assert row.plain is False, "whoever names an authority wants TLS"


def test_a_pool_that_needs_no_signature_is_a_warning(tmp_path: Path) -> None:
    warnings = read(tmp_path, '[[pool]]\nlabels = ["gpu"]\nmode = "bare"\nsigned = false\n').warnings
    assert "pool gpu: `signed = false`, so nothing proves what its jobs run in" in warnings[0]
    assert "red mark" not in "".join(read(tmp_path, TRUST + REGISTRY + POOL).warnings)


def test_that_everybody_may_read_a_public_key_is_no_warning(tmp_path: Path) -> None:
    (tmp_path / "cosign.pub").write_text("the key\n")
    (tmp_path / "cosign.pub").chmod(0o644)
    assert "cosign.pub" not in "".join(read(tmp_path, TRUST + REGISTRY + POOL).warnings)


def test_the_settings_become_the_pools_rule(tmp_path: Path) -> None:
    team, mine = SigningKey("cosign.pub").public, SigningKey("own.pub", "ed25519").public
    (tmp_path / "cosign.pub").write_text(team.pem)
    (tmp_path / "own.pub").write_text(mine.pem)
    trust = f'[trust]\nkeys = ["file:cosign.pub"]\nrevoked = ["{DIGEST}"]\ntrusted_root = "root.json"\n'
    own = f"""
[[pool]]
labels = ["own"]
{IMAGE}mode = "guarded"
keys = ["file:own.pub"]
sign_by = "all"
provenance = {{source = "https://github.com/acme/*"}}
oldest_signature_days = 45
image_repositories = ["registry.acme.example/ci/*"]
revoked = ["{OTHER}"]
allow_build = true
machine_image = "ubuntu-24.04"
identity = [{{issuer = "https://token.example", subject = "https://github.com/acme/*"}}]
"""
    pinned = f'[[pool]]\nlabels = ["pinned"]\n{IMAGE}signed = false\n'
    bare = '[[pool]]\nlabels = ["bare"]\nmode = "bare"\nsigned = false\nmachine_image = "old"\n'
    settings = read(tmp_path, trust + REGISTRY + POOL + own + pinned + bare).settings
    usual, special, only_pinned, nothing = (pool_of(pool, settings) for pool in settings.pool)
    assert (usual.mode, usual.signed) == (Mode.CONTAINED, True)
    assert usual.trust is not None and [(key.name, key.pem.strip()) for key in usual.trust.keys] == [
        ("cosign.pub", team.pem.strip())
    ]
    assert usual.trust.revoked == {DIGEST}
    rule = special.trust
    assert rule is not None and [key.pem.strip() for key in rule.keys] == [mine.pem.strip()] and rule.need_all
    assert rule.identities == (Identity("https://token.example", "https://github.com/acme/*"),)
    assert (rule.provenance, rule.oldest) == (Provenance("", "https://github.com/acme/*"), timedelta(days=45))
    assert rule.repositories == {"registry.acme.example/ci/*"} and rule.revoked == {DIGEST, OTHER}
    assert (special.mode, special.allow_build, special.machine_image) == (Mode.GUARDED, True, "ubuntu-24.04")
    assert only_pinned.trust is not None and not only_pinned.signed and only_pinned.trust.keys == ()
    assert (nothing.trust, nothing.mode, nothing.signed, nothing.machine_image) == (None, Mode.BARE, False, "old")


def test_a_key_that_is_not_there_stops_the_start_with_its_place(tmp_path: Path) -> None:
    settings = read(tmp_path, TRUST + REGISTRY + POOL).settings
    with pytest.raises(SecretError, match=r"file:cosign\.pub"):
        pool_of(settings.pool[0], settings)


@pytest.mark.parametrize("text", ["no key\n", SigningKey().pem()])
def test_what_is_no_public_key_stops_the_start_and_is_not_repeated(tmp_path: Path, text: str) -> None:
    (tmp_path / "cosign.pub").write_text(text)
    settings = read(tmp_path, TRUST + REGISTRY + POOL).settings
    with pytest.raises(SettingsError, match=r"cosign\.pub is (no public key|a private key)") as caught:
        pool_of(settings.pool[0], settings)
    assert text.strip() not in str(caught.value)


def test_registries_are_reached_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULL", "hush-hush")
    login = 'username = "ci"\npassword = "env:PULL"\nmirrors = ["eu-*=near.example"]\n'
    rows = f'[[registry]]\nhost = "registry.acme.example:5000"\n{login}'
    local = '[[registry]]\nhost = "127.0.0.1:5000"\n'
    found = registries_of(read(tmp_path, rows + local).settings)
    own = found["registry.acme.example:5000"]
    assert (
        own.login == ("ci", "hush-hush") and own.mirrors_for("eu-north-1") == ("near.example",) and own.mirrors_for("us") == ()
    )
    assert (own.base, found["127.0.0.1:5000"].base) == ("https://registry.acme.example:5000", "http://127.0.0.1:5000")
    assert "hush-hush" not in repr(found)
    bad = '[[registry]]\nhost = "registry.acme.example"\nca = "nowhere.pem"\n'
    with pytest.raises(SettingsError, match=r"`ca` of the registry registry\.acme\.example cannot be used"):
        registries_of(read(tmp_path, bad).settings)


def test_a_trusted_root_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    for name in ("root.json", "nowhere.json"):
        settings = read(tmp_path, f'[trust]\ntrusted_root = "{name}"\n').settings
        with pytest.raises(SettingsError, match="`trusted_root` in \\[trust\\] cannot be used"):
            trust_of(settings, {}, SystemClock())


def test_docker_hub_is_one_registry_under_all_its_names(tmp_path: Path) -> None:
    pool = '[[pool]]\nlabels = ["gpu"]\nimage = "index.docker.io/acme/gpu:v3"\n'
    (row,) = read(tmp_path, f'{TRUST}[[registry]]\nhost = "registry-1.docker.io"\n{pool}').settings.registry
    assert row.host == "docker.io"


def test_keys_can_be_set_by_the_environment(tmp_path: Path) -> None:
    loaded = load(None, {}, {"SUBLET_TRUST__KEYS": '["env:KEY"]', "SUBLET_TRUST__CACHE_MINUTES": "5"})
    assert [str(key) for key in loaded.settings.trust.keys] == ["env:KEY"] and loaded.settings.trust.cache_minutes == 5
    with pytest.raises(SettingsError):
        load(None, {}, {"SUBLET_TRUST__KEYS": '["cosign.pub"]'})
