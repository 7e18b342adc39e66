"""What a pilot's agent measures: a GPU through its driver, here one that needs no GPU, and the network."""

from __future__ import annotations

import ctypes
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from app.node.agent import benchmark, benchmark_gpu
from app.node.agent.benchmark_driver import Driver, Failed, load
from app.node.agent.wire import Wire
from tests import parts
from tests.node.agents import pack, running
from tests.node.service import Service

SOURCE = Path(__file__).with_name("fake_cuda.c")
NUMBERS = {"to_device_gbs": 25.0, "from_device_gbs": 20.0, "memory_gbs": 3000.0, "fp32_tflops": 50.0}
ABOUT = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "memory_mib": 81559, "gpus": 2, "free_mib": 64}
FIRST = ("cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute")
CONTEXT = ("cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuMemGetInfo_v2")
PARTS = {
    "cuMemAllocHost_v2": {"to_device_gbs", "from_device_gbs"},
    "cuMemcpyHtoDAsync_v2": {"to_device_gbs", "from_device_gbs"},
    "cuMemcpyDtoHAsync_v2": {"to_device_gbs", "from_device_gbs"},
    "cuMemcpyDtoDAsync_v2": {"memory_gbs"},
    "cuModuleLoadData": {"fp32_tflops"},
    "cuModuleGetFunction": {"fp32_tflops"},
    "cuLaunchKernel": {"fp32_tflops"},
    "cuMemcpyDtoH_v2": {"fp32_tflops"},
    "cuMemAlloc_v2": set(NUMBERS),
    "cuEventCreate": set(NUMBERS),
    "cuEventRecord": set(NUMBERS),
    "cuEventSynchronize": set(NUMBERS),
    "cuEventElapsedTime": set(NUMBERS),
    "cuCtxSynchronize": set(NUMBERS),
}
"""A call that fails, and the numbers that cannot be had then."""
GIVING_BACK = ("cuMemFree_v2", "cuMemFreeHost", "cuEventDestroy_v2", "cuModuleUnload", "cuDevicePrimaryCtxRelease_v2")


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that needs no GPU."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        parts.lacks("C compiler", "install gcc and the C library's headers: a driver without a GPU is built of one file")
    folder = tmp_path_factory.mktemp("driver")
    words = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", SOURCE]
    subprocess.run([compiler, *words], check=True)
    return folder


class Fake:
    """The driver in this process, with its troubles."""

    def __init__(self, folder: Path) -> None:
        self.library: Any = load(str(folder / "libcuda.so.1"))

    def trouble(self, fail: str = "", lie: str = "") -> None:
        self.library.fake_trouble(fail.encode(), b"", lie.encode())

    @property
    def taken(self) -> int:
        """What was asked for and not given back."""
        return int(self.library.fake_taken())

    def measure(self) -> dict[str, Any]:
        return benchmark_gpu.measure(self.library)


@pytest.fixture
def fake(driver_folder: Path) -> Generator[Fake]:
    made = Fake(driver_folder)
    yield made
    made.trouble()


def test_bandwidths_and_speed_are_work_by_time(fake: Fake) -> None:
    before = fake.taken
    assert fake.measure() == {**ABOUT, **NUMBERS}
    assert fake.taken == before, "everything is given back"


@pytest.mark.parametrize("call", [*FIRST, *CONTEXT])
def test_without_a_context_there_is_a_sentence_and_no_number(fake: Fake, call: str) -> None:
    before = fake.taken
    fake.trouble(fail=call)
    with pytest.raises(Failed, match=rf"^{call}: CUDA_ERROR_LAUNCH_FAILED \(719\)$"):
        fake.measure()
    assert fake.taken == before


@pytest.mark.parametrize("call", PARTS)
def test_a_call_that_fails_costs_its_own_numbers_and_says_so(fake: Fake, call: str) -> None:
    before = fake.taken
    fake.trouble(fail=call)
    told = fake.measure()
    assert told.pop("problem") == f"{call}: CUDA_ERROR_LAUNCH_FAILED (719)"
    assert told == {**ABOUT, **{name: number for name, number in NUMBERS.items() if name not in PARTS[call]}}
    assert fake.taken == before, "what was had before it failed is given back"


@pytest.mark.parametrize("call", GIVING_BACK)
def test_what_cannot_be_given_back_ends_with_the_process(fake: Fake, call: str) -> None:
    fake.trouble(fail=call)
    told = fake.measure()
    assert told["name"] == ABOUT["name"] and told.get("problem", call).startswith(call)


@pytest.mark.parametrize(
    ("lie", "sentence", "missing"),
    [
        ("cuMemcpyDtoHAsync_v2", "the GPU's memory gave back other bytes than were written", PARTS["cuMemcpyDtoHAsync_v2"]),
        ("cuLaunchKernel", "8192 of 8192 threads calculated wrongly", {"fp32_tflops"}),
        ("cuEventElapsedTime", "an event took -1.0 ms", set(NUMBERS)),
    ],
)
def test_a_gpu_that_works_wrongly_has_no_speed(fake: Fake, lie: str, sentence: str, missing: set[str]) -> None:
    fake.trouble(lie=lie)
    told = fake.measure()
    assert told["problem"] == sentence and not missing & set(told)


def test_an_old_driver_gets_the_old_text_and_no_gpu_is_a_sentence(fake: Fake) -> None:
    fake.trouble(lie="cuModuleLoadData")
    assert fake.measure()["fp32_tflops"] == 50.0
    fake.trouble(lie="cuDeviceGetName")
    assert fake.measure()["name"] == "NVIDIA H100 80GB HBM3[31m\ufffd"
    fake.trouble(lie="cuDeviceGetCount")
    with pytest.raises(Failed, match="the driver shows no GPU"):
        fake.measure()
    with pytest.raises(Failed, match=r"^cuCtxSetCurrent: an unknown error \(1\)$"):
        Driver(fake.library).call("cuCtxSetCurrent", ctypes.c_void_p())


def test_a_library_that_is_none_or_another() -> None:
    with pytest.raises(Failed, match="cannot be loaded"):
        load("libcuda-of-nobody.so.1")
    with pytest.raises(Failed, match="the driver has no cuInit"):
        benchmark_gpu.measure(ctypes.CDLL(None))


def test_the_kernel_does_as_many_steps_as_are_counted() -> None:
    text = benchmark_gpu.program("7.0", "sm_75").decode()
    inside = text.partition("again:")[2].partition("setp.ne")[0]
    assert inside.count("fma.rn.f32") * 2 == benchmark_gpu.FLOPS_A_ROUND and text.isascii()
    assert "add.f32 %a7, %first, 0f40E00000;" in text
    value = 262.0
    for _ in range(benchmark_gpu.FIRST_ROUNDS * benchmark_gpu.UNROLLED):
        value = ctypes.c_float(value * 0.5 + 0.5).value
    assert value * 8 == benchmark_gpu.EXACT


def test_the_driver_is_met_in_a_process_of_its_own(
    driver_folder: Path, tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (sys.executable, "-I", str(pack(machine)))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver_folder))
    assert benchmark.gpu(program) == {**ABOUT, **NUMBERS}
    other = tmp_path / "other"
    shutil.copytree(driver_folder, other)
    (other / "hang").write_text("cuDevicePrimaryCtxRetain")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(other))
    assert benchmark.gpu(program, 1.5) == {"problem": "the GPU's benchmark gave no answer in 1.5 s"}
    (other / "libcuda.so.1").write_bytes(b"no library")
    assert "cannot be loaded" in benchmark.gpu(program)["problem"]
    assert "cannot be started" in benchmark.gpu((str(tmp_path / "nothing"),))["problem"]
    assert benchmark.gpu(("/bin/echo", "no json:"))["problem"] == "the GPU's benchmark said nothing that can be read"
    assert benchmark.gpu(("/bin/true",))["problem"] == "the GPU's benchmark said nothing that can be read"


def test_the_agent_of_a_pilot_measures_and_runs_nothing(driver_folder: Path, service: Service, machine: Path) -> None:
    there = service.url.removeprefix("http://")
    service.script.measure = {"bytes": 1_000_000, "hosts": [there, "localhost:notaport", 7]}
    service.script.sample = b"x" * 1_000_000
    with running(service.url, machine, LD_LIBRARY_PATH=str(driver_folder)) as started:
        told = service.wait_for("/node/measured").body
        service.wait_for("/node/heartbeat", lambda body: body["phase"] == "measured")
        service.script.stop = True
        assert started.end() == 0
    assert told["gpu"] == {**ABOUT, **NUMBERS}
    network = told["network"]
    assert network["download_bytes"] == 1_000_000 and network["download_mbps"] > 0 and 0 < network["connect_ms"] < 5000
    assert [host["host"] for host in network["hosts"]] == [there, "localhost:notaport"]
    assert network["hosts"][0]["connect_ms"] > 0 and network["hosts"][1]["problem"] == "no connection: ValueError"
    assert service.bodies("/node/credential") == [], "it never asks for a runner"
    assert any("measured: NVIDIA H100" in line for line in service.lines("agent"))
    assert json.dumps(told).isascii()


def test_a_machine_without_a_driver_says_so_and_ends_as_well(service: Service, machine: Path, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    service.script.measure = {"bytes": 10, "hosts": []}
    service.script.refuse["/node/sample"] = (409, {"error": {"code": "no_sample", "message": "no"}})
    with running(service.url, machine, LD_LIBRARY_PATH=str(tmp_path)) as started:
        told = service.wait_for("/node/measured").body
        service.script.stop = True
        assert started.end() == 0
    assert "cannot be loaded" in told["gpu"]["problem"]
    assert told["network"]["problem"] == "the sample could not be fetched: the service answers 409"


def test_what_the_service_asks_for_is_read_with_care() -> None:
    assert benchmark.asked(None) is None and benchmark.asked([]) is None and benchmark.asked({}) is None
    assert benchmark.asked({"bytes": "many", "hosts": "forge:443"}) == benchmark.Asked(0, [])
    greedy = benchmark.asked({"bytes": 1 << 40, "hosts": ["a:1", "b:2", "c:3", "d:4", "e:5"]})
    assert greedy is not None and (greedy.size, len(greedy.hosts)) == (benchmark.MOST_BYTES, benchmark.MOST_HOSTS)


def test_a_service_that_is_gone_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    told = benchmark.network(benchmark.Asked(10, [f"127.0.0.1:{port}"]), Wire(f"http://127.0.0.1:{port}"))
    assert told["problem"] == "no connection to the service: ConnectionRefusedError"
    assert told["hosts"] == [{"host": f"127.0.0.1:{port}", "problem": "no connection: ConnectionRefusedError"}]


def test_a_slow_or_short_sample_is_measured_by_what_came(service: Service) -> None:
    service.script.sample = b"x" * 5000
    wire = Wire(service.url)
    size, seconds = wire.fetch("/node/sample", 1 << 20, 15.0)
    assert size == 5000 and 0 <= seconds < 15
    assert wire.fetch("/node/sample", 1000, 15.0)[0] == 1000
    assert wire.fetch("/node/sample", 1 << 20, 0.0)[0] == 0
