"""What an image weighs and costs: its size and layers, how soon it is ready, and the memory of its processes.

    PYTHONPATH=. .venv/bin/python docker/measure_image.py samedigit:onnx [--starts 5]

It runs as its user with a read-only root. The time is from the engine's start to the first 200 of /readyz, the median of some
starts after one that is not counted and reads its files from disk. Memory is what would come back if its processes ended (USS),
once it is ready. Where there is buildah alone, tests/in_image runs it, as root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from typing import Final

from loadtests.server import Start, free_ports, started

NAME: Final = "samedigit-measured"
# Of every process of the container but this one.
_MEMORY: Final = """
import os, pathlib
kilobytes = 0
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if int(process.name) != os.getpid() and (process / "exe").is_symlink():
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
print(kilobytes * 1024)
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("image")
    options.add_argument("--starts", type=int, default=5)
    given = options.parse_args()
    engine = _engine(given.image)
    print(f"{given.image}, by {' '.join(engine)}")
    for line in _layers(engine, given.image):
        print(f"    {line}")
    measured = _measure(engine, given.image, given.starts)
    seconds, megabytes = [one[0] for one in measured], [one[1] / 1e6 for one in measured]
    print(f"    ready after {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"    memory {statistics.median(megabytes):.0f} MB ({min(megabytes):.0f} to {max(megabytes):.0f})")


def _engine(image: str) -> list[str]:
    """The first that has the image, or ENGINE."""
    for engine in (["docker"], ["podman"], ["buildah"], ["buildah", "--storage-driver", "vfs"]):
        if os.environ.get("ENGINE", engine[0]) != engine[0]:
            continue
        kind = ["--type", "image"] if engine[0] == "buildah" else []
        noun = [] if kind else ["image"]
        if shutil.which(engine[0]) and _runs([*engine, *noun, "inspect", *kind, image]):
            return engine
    sys.exit(f"measure_image: no engine has {image}. docker/build-image makes it.")


def _layers(engine: list[str], image: str) -> list[str]:
    if engine[0] == "buildah":
        (found,) = json.loads(_said([*engine, "images", "--json", image]))
        details = json.loads(_said([*engine, "inspect", "--type", "image", image]))
        return [f"{found['size']} in {len(details['OCIv1']['rootfs']['diff_ids'])} layers"]
    size = int(_said([*engine, "image", "inspect", "--format", "{{.Size}}", image]))
    layers = _said([*engine, "history", "--format", "{{.Size}}\t{{.CreatedBy}}", image]).splitlines()
    return [
        f"{size / 1e6:.0f} MB in these layers",
        *(f"    {line[:100]}" for line in layers if not line.startswith("0B")),
    ]


def _measure(engine: list[str], image: str, starts: int) -> list[tuple[float, int]]:
    """Seconds until it is ready, and bytes, of each start but the first."""
    measured = []
    container = root = ""
    if engine[0] == "buildah":
        container = _said([*engine, "from", "--pull-never", image])
        root = _said([*engine, "mount", container])
    try:
        for number in range(starts + 1):
            port, data_port = free_ports(2)
            start = _in_root(engine, image, root, port, data_port) if root else _in_engine(engine, image, port)
            with started(start) as server:
                used = (
                    server.memory().unique_bytes
                    if root
                    else int(_said([*engine, "exec", NAME, "python", "-c", _MEMORY]))
                )
                if number:
                    measured.append((server.ready_seconds, used))
    finally:
        if container:
            _said([*engine, "rm", container])
    return measured


def _in_engine(engine: list[str], image: str, port: int) -> Start:
    hardened = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    command = [*engine, "run", "--rm", "--init", "--name", NAME, *hardened, "-p", f"127.0.0.1:{port}:3000", image]
    return Start(command=command, environment=os.environ, ready=[f"http://127.0.0.1:{port}/readyz"])


def _in_root(engine: list[str], image: str, root: str, port: int, data_port: int) -> Start:
    config = json.loads(_said([*engine, "inspect", "--type", "image", image]))["OCIv1"]["config"]
    variables = dict(line.split("=", 1) for line in config["Env"])
    return Start(
        command=["tests/in_image", root, "-m", "serving", "--host", "127.0.0.1", "--port", str(port)],
        environment={**os.environ, **variables, "PATH": os.environ["PATH"], "SAMEDIGIT_DATA_PORT": str(data_port)},
        ready=[f"http://127.0.0.1:{port}/readyz"],
    )


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _said(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    main()
