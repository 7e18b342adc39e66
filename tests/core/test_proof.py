"""What the node measured against what was asked."""

from dataclasses import replace

import pytest

from app.core.model import NodeFacts, NodeImage
from app.core.proof import failed, prove
from app.core.verdicts import Wanted
from providers.contract import Need

H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559, "architecture": "Hopper", "mig": False}
RUBIN = {"name": "NVIDIA R100", "memory_mib": 294912, "architecture": "Rubin", "mig": False}


def test_a_pool_that_asks_for_no_gpu_is_content_with_any_node() -> None:
    assert prove(Need(), NodeFacts()) == ()


def test_an_h100_with_its_usual_memory_passes_for_80_gib() -> None:
    need = Need(gpu="h100", gpus=1, gpu_memory_gib=80, min_driver="570.86", min_cuda="12.8")
    assert failed(prove(need, NodeFacts(gpus=(H100,), driver="570.124.06", cuda="12.8"))) == ""


def test_rubin_is_told_by_its_architecture_not_by_its_name() -> None:
    need = Need(gpu="rubin", gpus=1, gpu_architecture="rubin")
    assert failed(prove(need, NodeFacts(gpus=(RUBIN,)))) == ""
    fake = {**H100, "name": "NVIDIA Rubin (honest)"}
    assert "GPU 0 architecture: asked rubin, seen Hopper" in failed(prove(need, NodeFacts(gpus=(fake,))))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    need = Need(gpu="h100", gpus=2, gpu_memory_gib=80, min_driver="580", architecture="arm64")
    said = failed(
        prove(need, NodeFacts(gpus=({**H100, "memory_mib": 40000, "mig": True},), driver="570", architecture="amd64"))
    )
    for part in ("CPU architecture", "GPU count: asked 2, seen 1", "memory: asked 80 GiB, seen 39 GiB", "driver", "MIG is on"):
        assert part in said


def test_a_node_that_cannot_ask_its_gpu_says_why() -> None:
    said = failed(prove(Need(gpu="h100", gpus=1), NodeFacts(problem="nvidia-smi: driver/library version mismatch")))
    assert "driver/library version mismatch" in said


def test_a_lying_node_cannot_crash_the_proof() -> None:
    need = Need(gpu="h100", gpus=1, gpu_memory_gib=80, min_driver="1")
    facts = NodeFacts(gpus=({"name": ["x"], "memory_mib": "many", "architecture": None},), driver="9" * 50 + ".x")
    assert failed(prove(need, facts)) != ""


DIGEST, AMD64, ARM64, CONFIG = (f"sha256:{letter * 64}" for letter in "abcd")
SIGNED = Wanted(DIGEST, frozenset({DIGEST, AMD64, ARM64}), "contained", signed=True)
GOOD = NodeImage(AMD64, "contained", checked=True, openssl="OpenSSL 3.5.4", keys=("SHA256:key",))


def of_image(image: NodeImage | None, wanted: Wanted = SIGNED) -> str:
    return failed(prove(Need(), NodeFacts(image=image), wanted))


def test_a_node_that_checked_the_signature_of_what_it_runs_passes() -> None:
    assert of_image(GOOD) == ""
    assert [check.seen for check in prove(Need(), NodeFacts(image=GOOD), SIGNED)][1] == "OpenSSL 3.5.4: SHA256:key"
    assert of_image(replace(GOOD, digest=DIGEST)) == ""


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "image: asked sha256:aaaaaaaaaaaa…, seen not reported"),
        (replace(GOOD, checked=False, problem="no openssl on this machine"), "seen no openssl on this machine"),
        (replace(GOOD, checked=False), "image signature: asked checked by the machine's own openssl, seen not checked"),
        (replace(GOOD, digest=CONFIG), "image: asked sha256:aaaaaaaaaaaa…, seen sha256:dddddddddddd…"),
        (replace(GOOD, digest=""), "image: asked"),
        (replace(GOOD, mode="bare"), "mode: asked contained, seen bare"),
        (replace(GOOD, problem="the payload names another digest"), "seen the payload names another digest"),
    ],
)
def test_a_node_that_did_not_check_or_runs_something_else_does_not(image: NodeImage | None, said: str) -> None:
    assert said in of_image(image)


def test_an_image_that_needs_no_signature_is_still_the_one_that_was_named() -> None:
    unsigned = replace(SIGNED, signed=False)
    assert of_image(replace(GOOD, checked=False, keys=(), openssl=""), unsigned) == ""
    assert of_image(replace(GOOD, digest=CONFIG), unsigned) != ""
