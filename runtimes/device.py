"""Which processor a model runs on."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Literal

from digits.errors import DeviceError, SettingError


@dataclass(frozen=True)
class Device:
    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"


CPU = Device("cpu")


def choose_device(wish: str) -> Device:
    """`cpu`; `cuda` or `cuda:i`, the GPU of that index; or `auto`, the first GPU if there is one, else the CPU.

    Raises:
        SettingError: not one of these.
        DeviceError: that GPU is not there.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", wish)
    if match is None:
        raise SettingError(f"The device must be auto, cpu, cuda or cuda:INDEX; got {wish!r}.")
    if wish == "cpu":
        return CPU
    gpus = count_gpus()
    if wish == "auto":
        return Device("cuda") if gpus else CPU
    index = int(match[1] or 0)
    if index >= gpus:
        there = f"CUDA sees {gpus} GPU{'s' if gpus > 1 else ''} here" if gpus else "CUDA sees no GPU here"
        raise DeviceError(f"The device {wish} was asked for, but {there}. Use auto or cpu, or check the driver.")
    return Device("cuda", index)


def count_gpus() -> int:
    """How many GPUs the CUDA driver offers; asks the driver itself, so that no framework is imported for it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
