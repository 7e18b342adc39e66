"""A short benchmark of the first GPU: bandwidth to it, from it and inside it, and how much it can calculate.

It runs in a process of its own, because a driver that hangs cannot be asked to stop. What it measures is a floor: one GPU,
one stream, a second or two.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable

from .benchmark_driver import MAJOR, MINOR, MULTIPROCESSORS, Driver, Failed, Memory, Watch

MIB = 1 << 20
HOST_BYTES = 64 * MIB
DEVICE_BYTES = 512 * MIB
COPIES = 8  # in one measurement
BEST_OF = 3
BLOCK = 256  # threads
BLOCKS_EACH = 8  # per multiprocessor: as many threads as it can hold
UNROLLED = 16  # times eight multiply-adds in one round of the loop
FLOPS_A_ROUND = UNROLLED * 8 * 2
FIRST_ROUNDS = 256
LONGEST_LAUNCH = 0.2  # seconds
MOST_ROUNDS = 1 << 22
EXACT = 8.0
"""What each thread writes: eight sums of x -> x/2 + 1/2, which comes to exactly 1 in single precision."""
TARGETS = (("7.0", "sm_75"), ("6.0", "sm_50"))
"""The PTX that drivers of today compile; old ones know only the second."""
ENTRY = b"sublet_multiply_add"


def measure(library: Any) -> dict[str, Any]:
    """Numbers as far as they could be had; `problem` is the first thing that could not. Raises `Failed` if nothing could."""
    driver = Driver(library)
    driver.call("cuInit", ctypes.c_uint(0))
    count = driver.number("cuDeviceGetCount")
    if count < 1:
        raise Failed("the driver shows no GPU")
    device = ctypes.c_int(driver.number("cuDeviceGet", ctypes.c_int(0)))
    told = _about(driver, device) | {"gpus": min(count, 64)}
    context = ctypes.c_void_p()
    driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        driver.call("cuCtxSetCurrent", context)
        free, whole = ctypes.c_size_t(), ctypes.c_size_t()
        driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(whole))
        told["free_mib"] = free.value // MIB
        units = driver.number("cuDeviceGetAttribute", ctypes.c_int(MULTIPROCESSORS), device)
        parts: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: _to_and_from(driver, min(HOST_BYTES, free.value // 4)),
            lambda: _inside(driver, min(DEVICE_BYTES, free.value // 4)),
            lambda: _calculate(driver, max(units, 1)),
        )
        for part in parts:
            try:
                told.update(part())
            except Failed as failed:
                told.setdefault("problem", str(failed)[:200])
    finally:
        driver.drop("cuDevicePrimaryCtxRelease_v2", device, failing=True)  # the process ends anyway
    return told


def _about(driver: Driver, device: ctypes.c_int) -> dict[str, Any]:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = (driver.number("cuDeviceGetAttribute", ctypes.c_int(which), device) for which in (MAJOR, MINOR))
    word = "".join(letter for letter in name.value.decode("utf-8", "replace") if letter.isprintable())
    return {"name": word[:120], "compute_capability": f"{major}.{minor}", "memory_mib": memory.value // MIB}


def _best(driver: Driver, work: Callable[[], None], watch: Watch) -> float:
    """Seconds of the fastest of a few, after one that counts for nothing: the first wakes clocks and tables."""
    work()
    driver.call("cuCtxSynchronize")
    took: list[float] = []
    for _ in range(BEST_OF):
        watch.start()
        work()
        took.append(watch.stop())
    return min(took)


def _to_and_from(driver: Driver, size: int) -> dict[str, Any]:
    """From memory that the GPU may read by itself, so that the bus is what is measured; and what went must come back."""
    nothing = ctypes.c_void_p()
    with Memory(driver, size, pinned=True) as here, Memory(driver, size) as there, Watch(driver) as watch:
        pattern = bytes(range(251)) * 16
        ctypes.memmove(here.place, pattern, min(len(pattern), size))

        def to_it() -> None:
            for _ in range(COPIES):
                driver.call("cuMemcpyHtoDAsync_v2", there.place, here.place, ctypes.c_size_t(size), nothing)

        def from_it() -> None:
            for _ in range(COPIES):
                driver.call("cuMemcpyDtoHAsync_v2", here.place, there.place, ctypes.c_size_t(size), nothing)

        to_device = _best(driver, to_it, watch)
        ctypes.memset(here.place, 0, min(len(pattern), size))
        from_device = _best(driver, from_it, watch)
        back = ctypes.string_at(here.place, min(len(pattern), size))
        if back != pattern[: len(back)]:
            raise Failed("the GPU's memory gave back other bytes than were written")
    return {"to_device_gbs": _gbs(size * COPIES, to_device), "from_device_gbs": _gbs(size * COPIES, from_device)}


def _inside(driver: Driver, size: int) -> dict[str, Any]:
    """Each byte of a copy is read and written: both count."""
    nothing = ctypes.c_void_p()
    with Memory(driver, size) as one, Memory(driver, size) as other, Watch(driver) as watch:

        def copy() -> None:
            for _ in range(COPIES):
                driver.call("cuMemcpyDtoDAsync_v2", other.place, one.place, ctypes.c_size_t(size), nothing)

        return {"memory_gbs": _gbs(2 * size * COPIES, _best(driver, copy, watch))}


def _calculate(driver: Driver, units: int) -> dict[str, Any]:
    """Single-precision multiply-adds on every multiprocessor at once, checked by what they come to."""
    module, function = _module(driver), ctypes.c_void_p()
    try:
        driver.call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(ENTRY))
        blocks = units * BLOCKS_EACH
        with Memory(driver, blocks * BLOCK * 4) as sums, Watch(driver) as watch:
            shape = [ctypes.c_uint(number) for number in (blocks, 1, 1, BLOCK, 1, 1, 0)]

            def launch(rounds: int) -> None:
                given = (ctypes.c_uint64(sums.place.value), ctypes.c_uint32(rounds))
                places = (ctypes.c_void_p * 2)(*(ctypes.addressof(one) for one in given))
                driver.call("cuLaunchKernel", function, *shape, ctypes.c_void_p(), places, ctypes.c_void_p())

            first = _best(driver, lambda: launch(FIRST_ROUNDS), watch)
            rounds = min(max(int(FIRST_ROUNDS * LONGEST_LAUNCH / first), FIRST_ROUNDS), MOST_ROUNDS)
            took = _best(driver, lambda: launch(rounds), watch)
            _check(driver, sums)
        return {"fp32_tflops": round(blocks * BLOCK * rounds * FLOPS_A_ROUND / took / 1e12, 2)}
    finally:
        driver.drop("cuModuleUnload", module, failing=True)


def _check(driver: Driver, sums: Memory) -> None:
    back = (ctypes.c_float * (sums.size // 4))()
    driver.call("cuMemcpyDtoH_v2", back, sums.place, ctypes.c_size_t(sums.size))
    wrong = sum(1 for value in back if value != EXACT)
    if wrong:
        raise Failed(f"{wrong} of {len(back)} threads calculated wrongly")


def _module(driver: Driver) -> ctypes.c_void_p:
    """Compiled by the driver for its own GPU. Raises `Failed` with what the newest form came to."""
    first: Failed | None = None
    for version, target in TARGETS:
        module = ctypes.c_void_p()
        try:
            driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(program(version, target)))
        except Failed as failed:
            first = first or failed
        else:
            return module
    raise first or Failed("nothing to compile")


def program(version: str, target: str) -> bytes:
    """The kernel as PTX text: thread n starts eight sums at n, n + 1, ... and halves their way to 1 in every step."""
    eight = range(8)
    steps = [f"fma.rn.f32 %a{number}, %a{number}, %half, %half;" for number in eight] * UNROLLED
    lines = [
        f".version {version}",
        f".target {target}",
        ".address_size 64",
        f".visible .entry {ENTRY.decode()}(.param .u64 sums, .param .u32 rounds)",
        "{",
        ".reg .pred %more; .reg .b32 %left, %block, %size, %thread, %all; .reg .b64 %out, %step;",
        ".reg .f32 %half, %first, %sum; .reg .f32 %a<8>;",
        "ld.param.u64 %out, [sums]; ld.param.u32 %left, [rounds];",
        "cvta.to.global.u64 %out, %out;",
        "mov.u32 %block, %ctaid.x; mov.u32 %size, %ntid.x; mov.u32 %thread, %tid.x;",
        "mad.lo.u32 %all, %block, %size, %thread;",
        "mul.wide.u32 %step, %all, 4; add.u64 %out, %out, %step;",
        "mov.f32 %half, 0f3F000000; cvt.rn.f32.u32 %first, %thread;",
        *(f"add.f32 %a{number}, %first, 0f{_hex(number)};" for number in eight),
        "again:",
        *steps,
        "sub.u32 %left, %left, 1; setp.ne.u32 %more, %left, 0;",
        "@%more bra again;",
        "add.f32 %sum, %a0, %a1;",
        *(f"add.f32 %sum, %sum, %a{number};" for number in eight[2:]),
        "st.global.f32 [%out], %sum;",
        "ret;",
        "}",
    ]
    return "\n".join(lines).encode() + b"\n"


def _hex(number: int) -> str:
    """A single-precision number as PTX writes it."""
    return ctypes.c_uint32.from_buffer(ctypes.c_float(number)).value.to_bytes(4, "big").hex().upper()


def _gbs(size: int, seconds: float) -> float:
    """10^9 bytes in a second, as vendors count."""
    return round(size / seconds / 1e9, 2)
