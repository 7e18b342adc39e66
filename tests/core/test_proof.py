"""What the node measured against what was asked."""

from app.core.model import NodeFacts
from app.core.proof import failed, prove
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
