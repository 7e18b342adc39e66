"""Secrets: each form is read at the moment of use, and no error holds a value."""

import sys
from pathlib import Path

import pytest

from app.settings import SecretError, SecretPlace


def test_a_variable_a_file_and_a_command_give_their_value_without_the_last_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush\n", encoding="utf-8")
    assert SecretPlace("env:TOKEN").read({"TOKEN": "hush"}).reveal() == "hush"
    assert SecretPlace("file:token", folder=tmp_path).read().reveal() == "hush"
    assert SecretPlace(f"cmd:{sys.executable} -c 'print(\"hush\")'").read().reveal() == "hush"


def test_a_command_is_never_given_to_a_shell(tmp_path: Path) -> None:
    written = tmp_path / "written"
    place = SecretPlace(f"cmd:{sys.executable} -c 'import sys; print(sys.argv[1])' $(touch {written})")
    assert place.read().reveal() == "$(touch"
    assert not written.exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("env:NOT_SET", "env:NOT_SET: the variable is not set, or empty"),
        ("file:not-there", "file:not-there: No such file or directory"),
        ("cmd:not-a-program-anywhere x", "cmd:not-a-program-anywhere ...: No such file or directory"),
        (f'cmd:{sys.executable} -c \'print("hush"); raise SystemExit("hush")\'', "the command ended with 1"),
        (f"cmd:{sys.executable} -c ''", "the command printed nothing"),
        (f"cmd:{sys.executable} -c 'print(\"hush\" * 99999)'", "larger than 65536 bytes"),
        (f"cmd:{sys.executable} -c 'import time; time.sleep(60)'", "no answer within 0.5 s"),
    ],
)
def test_what_cannot_be_read_says_where_it_should_be(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SecretError) as caught:
        SecretPlace(text, folder=tmp_path, timeout=0.5 if "sleep" in text else 10).read({})
    assert sentence in str(caught.value)
    assert "hush" not in str(caught.value).replace(text, "")


@pytest.mark.parametrize("text", ["hush", "env:", "file: ", "cmd:say 'hush"])
def test_what_is_no_address_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"secret|nothing|quote") as caught:
        SecretPlace(text)
    assert "hush" not in str(caught.value)


def test_only_a_file_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hush", encoding="utf-8")
    file.chmod(0o600)
    assert SecretPlace("file:token", folder=tmp_path).warning() == ""
    file.chmod(0o604)
    assert "chmod 600" in SecretPlace("file:token", folder=tmp_path).warning()
    assert SecretPlace("env:TOKEN").warning() == ""
