"""What a machine says about itself: true where nvidia-smi is true, and never a crash where it is not."""

import platform
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.proof import failed, prove
from app.node.agent import facts, gpus
from app.store.rows import facts_of
from app.web.node_bodies import Facts
from providers.contract import Need
from tests.node.agents import nvidia_smi

H100 = "NVIDIA H100 80GB HBM3, 81559, GPU-6e1f, 570.86.15, Disabled, 9.0\n"
RUBIN = """NVIDIA R200, 294912, GPU-a, 595.10, Disabled, 12.0
NVIDIA R200, 294912, GPU-b, 595.10, Disabled, 12.0
"""


def xml(cuda: str, **architectures: str) -> str:
    """As `nvidia-smi -q -x` prints it, shortened to what matters and some of what does not."""
    cards = "".join(
        f"""<gpu id="00000000:18:00.0"><product_name>a GPU</product_name>
        <product_architecture>{architecture}</product_architecture><uuid>GPU-{uuid}</uuid>
        <mig_mode><current_mig>Disabled</current_mig></mig_mode></gpu>"""
        for uuid, architecture in architectures.items()
    )
    return f"""<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log><driver_version>570.86.15</driver_version><cuda_version>{cuda}</cuda_version>{cards}</nvidia_smi_log>"""


def test_a_good_h100_is_told_whole(tmp_path: Path) -> None:
    """Name, memory, driver, CUDA, architecture and compute capability."""
    path = nvidia_smi(tmp_path / "bin", query=H100, xml=xml("12.8", **{"6e1f": "Hopper"}))
    found = gpus.find(path)
    assert (found.driver, found.cuda, found.problem) == ("570.86.15", "12.8", "")
    assert found.gpus == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "memory_mib": 81559,
            "architecture": "Hopper",
            "uuid": "GPU-6e1f",
            "mig": False,
            "compute_capability": "9.0",
        }
    ]


def test_two_rubins_pass_the_proof_of_a_pool_that_asks_for_them(tmp_path: Path) -> None:
    """From nvidia-smi's text, through the service's own reading of it, to the verdict."""
    path = nvidia_smi(tmp_path / "bin", query=RUBIN, xml=xml("13.2", a="Rubin", b="Rubin"))
    told = Facts.model_validate(facts.collect(tmp_path, path))
    found = facts_of(told.model_dump())
    need = Need(gpu="rubin", gpus=2, gpu_memory_gib=288, min_driver="590", min_cuda="13.0", gpu_architecture="Rubin")
    assert failed(prove(need, found)) == ""


def test_mig_is_told_with_its_slices(tmp_path: Path) -> None:
    """Only `nvidia-smi -L` knows the slices."""
    listing = """GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-m)
  MIG 1g.10gb     Device  0: (UUID: MIG-11111111-2222)
  MIG 3g.40gb     Device  1: (UUID: MIG-11111111-3333)
"""
    query = "NVIDIA A100-SXM4-80GB, 81920, GPU-m, 550.1, Enabled, 8.0\n"
    found = gpus.find(nvidia_smi(tmp_path / "bin", query=query, listing=listing))
    assert found.gpus[0]["mig"] is True
    assert (found.gpus[0]["mig_devices"], found.gpus[0]["mig_profiles"]) == (2, "1g.10gb 3g.40gb")


def test_an_old_driver_that_does_not_know_every_field_is_asked_for_less(tmp_path: Path) -> None:
    """It refuses the whole question because of one unknown field."""
    script = """#!/bin/sh
case "$1" in
  *compute_cap*|*mig*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2 ;;
  --query-gpu*) echo 'Tesla T4, 15109, GPU-t, 418.67' ;;
esac
"""
    found = gpus.find(nvidia_smi(tmp_path / "bin", script=script))
    assert (found.gpus[0]["name"], found.gpus[0]["mig"], found.driver) == ("Tesla T4", False, "418.67")


def test_unified_memory_is_not_an_error(tmp_path: Path) -> None:
    """A superchip says [N/A] for the memory of its GPU."""
    found = gpus.find(nvidia_smi(tmp_path / "bin", query="NVIDIA GB10, [N/A], GPU-u, 580.95.05, [N/A], 12.1\n"))
    assert (found.gpus[0]["memory_mib"], found.gpus[0]["mig"]) == (0, False)


def test_no_nvidia_smi_is_a_fact(tmp_path: Path) -> None:
    """A machine without a GPU is a machine like any other."""
    told = facts.collect(tmp_path, str(tmp_path))
    assert told["gpus"] == []
    assert told["problem"] == "nvidia-smi is not on this machine"
    assert told["cpus"] >= 1 and told["memory_mib"] > 0 and told["disk_free_mib"] > 0
    assert told["architecture"] == {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    Facts.model_validate(told)


@pytest.mark.parametrize(
    "output",
    [
        "No devices were found\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "\x00\x1b[31m" * 1000,
        '"' * 5000,
        "a, b, c, d, e, f\n" * 10_000,
        "NVIDIA H100, -5, GPU-x, 1, Disabled, 9.0\n",
        "NVIDIA H100, 99999999999999999999, GPU-x, 1, Disabled, 9.0\n",
        ",,,,,\n",
    ],
)
def test_garbage_is_no_gpu_and_no_crash(tmp_path: Path, output: str) -> None:
    """Whatever it prints, the answer has the shape that the service takes."""
    path = nvidia_smi(tmp_path / "bin", query=output, xml=output, listing=output)
    found = gpus.find(path, patience=10)
    assert found.gpus == [] and found.problem
    Facts.model_validate(facts.collect(tmp_path, path))


def test_an_endless_nvidia_smi_fills_no_memory(tmp_path: Path) -> None:
    """It is read to a limit and ended."""
    path = nvidia_smi(tmp_path / "bin", script="#!/bin/sh\nexec yes 'NVIDIA H100, 1, GPU-x, 1, Disabled, 9.0'\n")
    found = gpus.find(path, patience=0.3)
    assert len(found.gpus) <= gpus.MOST_GPUS


def test_a_hanging_nvidia_smi_is_given_up(tmp_path: Path) -> None:
    """Bounded, with its whole process group, though it ignores every polite signal."""
    path = nvidia_smi(tmp_path / "bin", script="#!/bin/sh\ntrap '' TERM INT HUP\nsleep 600 & wait\n")
    before = time.monotonic()
    found = gpus.find(path, patience=0.3)
    assert time.monotonic() - before < 10
    assert found.problem == "nvidia-smi gave no answer in 0.3 s"


@given(st.text(max_size=400), st.text(max_size=400))
def test_no_text_at_all_breaks_the_readers(query: str, listing: str) -> None:
    """The parsers themselves, on anything."""
    rows = gpus._table(query, gpus.FIELDS)  # pyright: ignore[reportPrivateUsage]  the parser alone, without a process
    found = [{"uuid": row["uuid"]} for row in rows]
    gpus._describe(listing, found)  # pyright: ignore[reportPrivateUsage]
    gpus._slices(listing, found)  # pyright: ignore[reportPrivateUsage]


def test_a_containers_limit_counts_where_it_is_less_than_the_machines_memory(tmp_path: Path) -> None:
    """cgroup v2 says a number or "max"."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       65536000 kB\nMemFree: 1 kB\n")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert facts.memory_mib(tmp_path) == 64000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{8 << 30}\n")
    assert facts.memory_mib(tmp_path) == 8192
