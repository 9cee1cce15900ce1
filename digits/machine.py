"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
KERNELS = "OPENBLAS_CORETYPE"  # whose kernels OpenBLAS, and so NumPy, multiplies matrices with, if not this processor's


def machine() -> str:
    """Its system, processor and number of cores."""
    return f"{platform.system()} {platform.machine()}, {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """This machine's, as `describe` says it; where the system does not tell, what Python knows of it.

    And what NumPy is held to: with another processor's kernels its products may take twice as long.
    """
    try:
        told = _CPUINFO.read_text()
    except OSError:
        told = ""
    found = describe(told) or platform.processor() or platform.machine() or "unknown processor"
    return f"{found}, {KERNELS}={held}" if (held := os.environ.get(KERNELS)) else found


def describe(cpuinfo: str) -> str:
    """The first processor of /proc/cpuinfo: its name, and whether it has AVX-512, on which much depends.

    Some virtual machines call several generations by one name without a number, such as AMD EPYC, of which one is twice as
    fast as the other: then its family and model follow. Empty: nothing was told.
    """
    first = cpuinfo.split("\n\n", 1)[0].splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
    name = said.get("model name", "")
    if not name:
        return ""
    parts = [name]
    if not any(letter.isdigit() for letter in name):
        parts += [
            f"{key} {said[whole]}" for key, whole in (("family", "cpu family"), ("model", "model")) if whole in said
        ]
    if "flags" in said:
        parts.append("with AVX-512" if "avx512f" in said["flags"].split() else "without AVX-512")
    return ", ".join(parts)
