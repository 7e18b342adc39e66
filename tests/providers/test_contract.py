"""What the contract itself promises: secrets that do not show, orders that are vetted, surprises that are unclear."""

import pickle
import traceback
from dataclasses import replace

import pytest

from providers.contract import BootsFrom, NoCapacity, Refused, Secret, Traits, Unclear, guarded, vet
from tests.providers.benches import ManualClock, Orders, plain_offer

CLOCK = ManualClock()
ORDER = Orders(plain_offer("any", CLOCK.now()), now=CLOCK.now())()


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hush")
    assert secret.reveal() == "hush"
    assert "hush" not in f"{secret} {secret!r} {secret!s:>20} {[secret]} {{}}".format(secret)
    assert (secret == Secret("hush"), secret == Secret("other"), bool(Secret(""))) == (True, False, False)
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_a_good_order_passes() -> None:
    vet(ORDER, Traits(user_data_limit=len(ORDER.user_data), tag_limit=63))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tag": "Upper"}, "instance name"),
        ({"tag": "x" * 64}, "instance name"),
        ({"owner": "a-b"}, "owner tag"),
        ({"owner": ""}, "owner tag"),
        ({"key": ""}, "idempotency key"),
        ({"key": "k" * 129}, "idempotency key"),
        ({"key": "line\n"}, "idempotency key"),
        ({"user_data": "x" * 101}, "101 bytes"),
        ({"user_data": "a\0b"}, "NUL"),
    ],
)
def test_a_bad_order_is_refused_with_a_sentence(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        vet(replace(ORDER, **change), Traits(user_data_limit=100))  # pyright: ignore[reportArgumentType]  texts all


def test_a_vendors_shorter_tag_limit_counts() -> None:
    with pytest.raises(Refused, match="at most 10"):
        vet(replace(ORDER, tag="a" * 11), Traits(tag_limit=10))


def test_a_container_needs_an_image() -> None:
    with pytest.raises(Refused, match="image"):
        vet(ORDER, Traits(boots_from=BootsFrom.CONTAINER_IMAGE))
    vet(replace(ORDER, image="trainer:1"), Traits(boots_from=BootsFrom.CONTAINER_IMAGE))


def test_a_surprise_is_unclear_and_quotes_nothing() -> None:
    with pytest.raises(Unclear) as caught, guarded("acme create", maybe_created=True):
        raise KeyError("sk-live-0123456789")
    assert str(caught.value) == "acme create: unexpected KeyError"
    assert caught.value.maybe_created
    assert traceback.format_exception_only(caught.value)


def test_a_sorted_error_passes_as_it_is() -> None:
    with pytest.raises(NoCapacity, match="none left"), guarded("acme create"):
        raise NoCapacity("none left")
