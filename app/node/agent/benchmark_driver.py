"""The CUDA driver through ctypes: every call's answer is looked at, and one that is not yes is a sentence.

Names and shapes as in the CUDA Driver API; the functions with `_v2` are those that a program compiled today calls. Nothing
but libcuda.so.1 is needed, which comes with the driver: no toolkit, no compiler.
"""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libcuda.so.1"
MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76  # CUdevice_attribute


class Failed(Exception):
    """The driver said no, or is not what we know; a few words."""


def load(name: str = LIBRARY) -> Any:
    """Raises `Failed` where there is none."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise Failed(f"{name} cannot be loaded: {error}"[:200]) from None


class Driver:
    """One loaded library."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Arguments are ctypes values. Raises `Failed` unless the answer is CUDA_SUCCESS."""
        code = self._function(name)(*arguments)
        if code:
            raise Failed(f"{name}: {self._word(code)}")

    def drop(self, name: str, *arguments: Any, failing: bool) -> None:
        """`call`, to give something back; while something else fails already, that is the trouble to be told."""
        try:
            self.call(name, *arguments)
        except Failed:
            if not failing:
                raise

    def number(self, name: str, *arguments: Any) -> int:
        """The whole number that a call writes to its first argument."""
        found = ctypes.c_int()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value

    def _function(self, name: str) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise Failed(f"the driver has no {name}") from None
        function.restype = ctypes.c_int
        return function

    def _word(self, code: int) -> str:
        """What the driver calls this error, as far as it says."""
        told = ctypes.c_char_p()
        try:
            known = self._function("cuGetErrorName")(ctypes.c_int(code), ctypes.byref(told)) == 0 and told.value
        except Failed:
            known = None
        word = told.value.decode("ascii", "replace")[:80] if known and told.value is not None else "an unknown error"
        return f"{word} ({code})"


class Memory:
    """Bytes on the GPU, or bytes of this machine that the GPU may read by itself; given back when the `with` ends."""

    def __init__(self, driver: Driver, size: int, *, pinned: bool = False) -> None:
        self._driver, self.size, self._pinned = driver, size, pinned
        self.place: Any = ctypes.c_void_p() if pinned else ctypes.c_uint64()

    def __enter__(self) -> Memory:
        name = "cuMemAllocHost_v2" if self._pinned else "cuMemAlloc_v2"
        self._driver.call(name, ctypes.byref(self.place), ctypes.c_size_t(self.size))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._driver.drop("cuMemFreeHost" if self._pinned else "cuMemFree_v2", self.place, failing=kind is not None)


class Watch:
    """Two events on the default stream: how long the GPU took for what was asked between them, by its own clock."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._first, self._last = ctypes.c_void_p(), ctypes.c_void_p()

    def __enter__(self) -> Watch:
        self._driver.call("cuEventCreate", ctypes.byref(self._first), ctypes.c_uint(0))
        self._driver.call("cuEventCreate", ctypes.byref(self._last), ctypes.c_uint(0))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for event in (self._first, self._last):
            self._driver.drop("cuEventDestroy_v2", event, failing=kind is not None)

    def start(self) -> None:
        self._driver.call("cuEventRecord", self._first, ctypes.c_void_p())

    def stop(self) -> float:
        """Waits for the GPU; seconds, never 0."""
        self._driver.call("cuEventRecord", self._last, ctypes.c_void_p())
        self._driver.call("cuEventSynchronize", self._last)
        took = ctypes.c_float()
        self._driver.call("cuEventElapsedTime", ctypes.byref(took), self._first, self._last)
        if not 0 <= took.value < 3_600_000:
            raise Failed(f"an event took {took.value} ms")
        return max(took.value / 1000, 1e-6)
