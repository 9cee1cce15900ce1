"""Writes build/image/TARGET.txt, the packages of an image: those of its lock, without what no server imports.

`docker/build-image` runs it as `stage_packages.py TARGET`. Versions and hashes are the lock's. Where TORCH_INDEX names an
index with CPU builds of torch, torch comes from there, and without CUDA's libraries: then its hash is what that index says now,
which no file of this repository vouches for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

LOCKS: Final = {"onnx": "onnx.txt", "all": "serve-all.txt", "gpu": "gpu.txt"}  # by target
# Declared by what is served with, and imported by none of it.
NEVER_IMPORTED: Final = {
    "libclang": "tensorflow: for its own build",
}
# Of torch's build for CUDA, on a CPU. What it loads all the same, leave_out.py leaves.
ONLY_ON_A_GPU: Final = {
    "cuda-bindings": "CUDA from Python",
    "cuda-pathfinder": "where its libraries are",
    "cuda-toolkit": "a name for several packages",
    "nvidia-cuda-cccl": "headers",
    "nvidia-cusolver": "loaded for linear algebra on a GPU",
    "nvidia-nvjitlink": "loaded by that",
    "nvidia-nvtx": "headers",
    "triton": "compiles for a GPU",
}
UV: Final = Path(sys.executable).with_name("uv")


def main(target: str, index: str, version: str) -> None:
    found = packages(Path("requirements") / LOCKS[target])
    left_out = set(NEVER_IMPORTED)
    if target == "all":
        left_out |= set(ONLY_ON_A_GPU)
        if index:
            locked = found["torch"].split()[0].removeprefix("torch==")
            left_out |= {name for name in found if re.match(r"nvidia-(?!ml-py)|cuda-|triton$", name)}
            found["torch"] = of_index(index, f"torch=={version or locked + '+cpu'}")
            print(f"build-image: torch is {found['torch'].split()[0]} of {index}; its hash is what that index says now")
    destination = Path("build/image") / f"{target}.txt"
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_text("".join(text for name, text in found.items() if name not in left_out))


def packages(lock: Path) -> dict[str, str]:
    """Package -> its lines in a file of requirements, several versions of one together."""
    found: dict[str, str] = {}
    for block in re.split(r"^(?=\S)", lock.read_text(), flags=re.MULTILINE):
        if block:
            name = block.partition("==")[0]
            found[name] = found.get(name, "") + block
    return found


def of_index(index: str, requirement: str) -> str:
    """The lines of a package, with the hashes that `index` gives for it."""
    if not UV.exists():
        sys.exit(f"build-image: TORCH_INDEX needs {UV} to ask for hashes; 'make image' makes .venv first.")
    command = [str(UV), "pip", "compile", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    process = subprocess.run(
        [*command, "--no-config", "--default-index", index, "-"], input=requirement, capture_output=True, text=True
    )
    if process.returncode != 0 or "--hash=" not in process.stdout:
        sys.exit(f"build-image: {index} gives no {requirement}. Set TORCH to a version that it has.\n{process.stderr}")
    return "".join(f"{line}\n" for line in process.stdout.splitlines() if not line.startswith("--"))


if __name__ == "__main__":
    main(sys.argv[1], os.environ.get("TORCH_INDEX", ""), os.environ.get("TORCH", ""))
