"""Fuzzes the parsers with atheris, from the corpus on, and keeps what reached new code.

    python tests/fuzz/run.py --seconds 600

Ends with 1 where an input was found that a target fails on; it is printed, to be made a test.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]
MAX_BYTES = 8192  # of an input
GRACE_SECONDS = 120  # to start, to end, and to merge


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="in all")
    parser.add_argument("--target", help="only that one")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.child:
        fuzz(arguments.child, rest)
    names = [arguments.target] if arguments.target else sorted(path.name for path in (HERE / "corpus").iterdir())
    failed = [name for name in names if not run(name, arguments.seconds // len(names))]
    return 1 if failed else 0


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzzes one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["serving", "digits.picture", "PIL"]):
        from fuzz.targets import TARGETS

    # Where it merges, libFuzzer runs itself again: what it takes for its own name is a line for a shell.
    atheris.Setup([f"{sys.executable} {__file__} --child {name}", *arguments], TARGETS[name])
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Fuzzes one target from its corpus on, and adds what reached more than that. Whether nothing was found."""
    corpus = HERE / "corpus" / name
    child = [sys.executable, __file__, "--child", name]
    limits = [f"-max_len={MAX_BYTES}", f"-dict={HERE / 'words.dict'}", "-timeout=10", "-rss_limit_mb=2048"]
    with tempfile.TemporaryDirectory() as folder:
        grown, found = Path(folder) / "grown", Path(folder) / "found"
        grown.mkdir()
        found.mkdir()
        fuzzed = subprocess.run(
            [*child, f"-max_total_time={seconds}", f"-artifact_prefix={found}/", *limits, str(grown), str(corpus)],
            stderr=subprocess.PIPE,
            text=True,
            timeout=seconds + GRACE_SECONDS,
        )
        print(f"{name}: {fuzzed.stderr.splitlines()[-1]}", flush=True)
        for path in found.iterdir():
            print(f"{name} fails on {path.read_bytes()!r}\n{fuzzed.stderr[-3000:]}", flush=True)
        if fuzzed.returncode == 0:
            merge = [*child, "-merge=1", *limits, str(corpus), str(grown)]
            subprocess.run(merge, capture_output=True, check=True, timeout=GRACE_SECONDS)
    return fuzzed.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
