"""Settings: what a good file gives, what a bad one says, and which source wins."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from app.settings import Loaded, SettingsError, load

GOOD = """
public_url = "https://ci.acme.example"

[github]
app_id = 123456
private_key = "file:app.pem"
webhook_secret = "env:SUBLET_GITHUB_WEBHOOK_SECRET"

[[provider]]
name = "mine"
kind = "local"
api_key = "env:KEY"
folder = "instances"

[[pool]]
labels = ["gpu", "Rubin"]
gpu = "rubin"
max_price_per_hour = "9.50"
providers = ["mine"]
image = "registry.acme.example/ci/gpu:v3"

[trust]
keys = ["file:cosign.pub"]

[[registry]]
host = "registry.acme.example"

[[repository]]
match = "acme/*"
"""


BARE = 'mode = "bare"\nsigned = false\n'
"""What a pool without an image has to say."""


def read(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None, **flags: object) -> Loaded:
    path = tmp_path / "sublet.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, flags, environment or {})


def problems(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text, environment)
    return [problem.removeprefix(f"{tmp_path / 'sublet.toml'}: ") for problem in caught.value.problems]


def test_a_good_file_is_typed_and_frozen(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD).settings
    (pool,) = settings.pool
    assert (pool.name, pool.labels, pool.gpus) == ("gpu-rubin", ("gpu", "rubin"), 1)
    assert pool.max_price_per_hour == Decimal("9.50")
    assert settings.github is not None
    assert settings.github.api_url is None
    with pytest.raises(ValueError, match="frozen"):
        settings.public_url = "https://other.example"


def test_without_a_file_everything_has_a_default() -> None:
    settings = load(None, {}, {}).settings
    assert (settings.server.host, settings.server.port, settings.data) == ("127.0.0.1", 8080, Path("sublet-data"))
    assert (settings.github, settings.gitlab, settings.pool) == (None, None, ())


def test_a_forgotten_price_rents_nothing_that_costs(tmp_path: Path) -> None:
    (pool,) = read(tmp_path, f'[[pool]]\nlabels = ["gpu"]\n{BARE}').settings.pool
    assert pool.max_price_per_hour == 0


def test_all_that_is_wrong_is_said_at_once_with_file_and_key(tmp_path: Path) -> None:
    text = """
    public_url = "http://ci.acme.example"
    [server]
    prot = 80
    port = "x"
    [[pool]]
    labels = ["gpu"]
    max_prce_per_hour = "1"
    ceiling = 0
    """
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert all(problem.startswith(f"{tmp_path}/sublet.toml: ") for problem in caught.value.problems)
    said = "\n".join(caught.value.problems)
    assert "`public_url`: must begin with https://" in said
    assert "`port` in [server]: should be a valid integer" in said
    assert "unknown key `prot` in [server]; did you mean `port`?" in said
    assert "unknown key `max_prce_per_hour` in [[pool]] #1; did you mean `max_price_per_hour`?" in said
    assert "`ceiling` in [[pool]] #1: should be greater than or equal to 1" in said


@pytest.mark.parametrize(
    "text",
    [
        '[github]\napp_id = 1\nprivate_key = "hush-hush"\nwebhook_secret = "env:A"',
        '[github]\ntoken = "hush-hush"\nwebhook_secret = ["hush-hush"]',
        '[gitlab]\ntoken = "hush-hush"\nwebhook_token = "env:A"',
        '[[github.app]]\napp_id = 1\nprivate_key = "hush-hush"',
        '[database]\nurl = "postgresql://sublet:hush-hush@db/sublet"',
        '[[provider]]\nname = "a"\nkind = "local"\napi_key = "hush-hush"',
        'public_url = "https://me:hush-hush@ci.acme.example"',
    ],
)
def test_a_secret_in_place_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    said = "\n".join(problems(tmp_path, text))
    assert "hush-hush" not in said
    assert "env:NAME" in said or "no password" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_price_per_hour = 9.5", 'a price is written as text, for example "9.50"'),
        ('max_price_per_hour = "dear"', "a plain number in quotes"),
        ('max_price_per_hour = "-1"', "between 0 and 100000"),
        ('max_price_per_hour = "NaN"', "between 0 and 100000"),
        ('may_add = ["gpus:many"]', "a job may add"),
        ('labels = ["gpu", "GPU"]', "names a label twice"),
        ("labels = []", "`labels` in [[pool]] #1: is empty"),
        ("boot_minutes = 61", "longer than `max_minutes`"),
        ('providers = ["nobody"]', "no [[provider]] is named `nobody` (there are: none)"),
        ('forges = ["gitlab"]', "there is no [gitlab] table"),
        ('min_cuda = "new"', 'a version such as "12.8"'),
        ('scope_path = "acme"', "`scope_path` needs `scope"),
        ('scope = "enterprise"', "needs `scope_path`"),
        ('gpu = "h100"\ngpus = 0', "`gpu` is set and `gpus` is 0"),
    ],
)
def test_a_pool_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    labels = "" if text.startswith("labels") else 'labels = ["gpu"]\n'
    assert sentence in "\n".join(problems(tmp_path, f"[[pool]]\n{labels}{BARE}{text}\n"))


def test_two_pools_may_share_neither_name_nor_labels(tmp_path: Path) -> None:
    text = f'[[pool]]\nlabels = ["gpu", "a"]\n{BARE}[[pool]]\nlabels = ["A", "gpu"]\nname = "gpu-a"\n{BARE}'
    assert problems(tmp_path, text) == [
        "[[pool]]: two are named `gpu-a`",
        "[[pool]] #2 `labels`: the same as those of #1 (`gpu-a`)",
    ]


def test_further_apps_need_a_first_one_and_ids_of_their_own(tmp_path: Path) -> None:
    first = '[github]\napp_id = 7\nprivate_key = "env:A"\nwebhook_secret = "env:B"\n'
    token = '[github]\ntoken = "env:A"\nwebhook_secret = "env:B"\n'
    more = '[[github.app]]\napp_id = {}\nprivate_key = "env:C"\n'
    github = read(tmp_path, first + more.format(8) + more.format(9)).settings.github
    assert github is not None and [app.app_id for app in github.app] == [8, 9]
    assert "two of the Apps have the same `app_id`" in problems(tmp_path, first + more.format(7))[0]
    assert "[[github.app]] needs `app_id`" in problems(tmp_path, token + more.format(8))[0]


def test_an_address_for_others_needs_a_public_url(tmp_path: Path) -> None:
    assert "`public_url`: is needed" in problems(tmp_path, '[server]\nhost = "0.0.0.0"')[0]
    assert read(tmp_path, 'public_url = "http://127.0.0.1:8080/"\n[server]\nhost = "0.0.0.0"').settings.public_url == (
        "http://127.0.0.1:8080"
    )


def test_what_is_not_toml_is_said_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in problems(tmp_path, "\n= 1")[0]


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = '[server]\nhost = "127.0.0.2"\nport = 1\n[engine]\nbeat_seconds = 3\n'
    environment = {"SUBLET_SERVER__PORT": "2", "SUBLET_SERVER__HOST": "127.0.0.3", "SUBLET_URL": "for the CLI"}
    loaded = read(tmp_path, text, environment, server={"host": "127.0.0.4"})
    assert (loaded.settings.server.host, loaded.settings.server.port) == ("127.0.0.4", 2)
    origins = [loaded.source(f"{key}") for key in ("server.host", "server.port", "engine.beat_seconds", "log.level")]
    assert origins == ["flag", "SUBLET_SERVER__PORT", str(tmp_path / "sublet.toml"), "default"]


def test_a_list_in_the_environment_replaces_the_files(tmp_path: Path) -> None:
    loaded = read(tmp_path, GOOD, {"SUBLET_POOL": '[{"labels": ["cpu"], "mode": "bare", "signed": false}]'})
    assert [pool.name for pool in loaded.settings.pool] == ["cpu"]
    assert loaded.source("pool[0].labels") == "SUBLET_POOL"
    assert loaded.source("pool[0].gpu") == "default"


def test_a_typing_error_in_a_variable_does_not_pass_in_silence(tmp_path: Path) -> None:
    said = problems(tmp_path, "", {"SUBLET_SEVER__PORT": "1", "SUBLET_SERVER__PROT": "hush-hush"})
    assert said == [
        "SUBLET_SEVER__PORT: there is no table [sever]; did you mean [server]?",
        "SUBLET_SERVER__PROT: unknown key `prot` in [server]; did you mean `port`?",
    ]


def test_relative_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "app.pem").write_text("the key\n", encoding="utf-8")
    loaded = read(tmp_path, GOOD + '[server]\ntls_certificate = "a.pem"\ntls_key = "b.pem"\n')
    assert loaded.settings.server.tls_certificate == tmp_path / "a.pem"
    assert loaded.settings.github is not None and loaded.settings.github.private_key is not None
    assert loaded.settings.github.private_key.read().reveal() == "the key"


def test_a_provider_keeps_its_own_keys_and_its_secrets_stay_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (provider,) = read(tmp_path, GOOD).settings.provider
    monkeypatch.setenv("KEY", "hush-hush")
    own = provider.own()
    assert own["folder"] == "instances"
    assert own["api_key"].reveal() == "hush-hush"
    assert "hush-hush" not in repr(own) + repr(provider)


def test_what_is_odd_but_not_wrong_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "app.pem").write_text("the key\n", encoding="utf-8")
    (tmp_path / "app.pem").chmod(0o644)
    text = GOOD.partition("[[repository]]")[0]
    first, second = read(tmp_path, text).warnings
    assert "file:app.pem can be read by everybody" in first
    assert "no [[repository]] is named" in second


def test_a_table_of_a_providers_own_may_hold_references_and_no_secret_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_KEY", "hush-hush")
    text = '[[provider]]\nname = "p"\nkind = "command"\nprogram = ["portal"]\n[provider.secrets]\nportal = "env:PORTAL_KEY"\n'
    (provider,) = read(tmp_path, text).settings.provider
    own = provider.own()
    assert own["secrets"]["portal"].reveal() == "hush-hush" and "hush" not in repr(own) + repr(provider)
    with pytest.raises(SettingsError, match="a secret is never written in place") as refused:
        read(tmp_path, text.replace("portal =", "api_key =").replace("env:PORTAL_KEY", "hush-hush"))
    assert "hush-hush" not in str(refused.value)
