"""What the fuzzer found worth keeping, once more: tests/fuzz/run.py makes it, and needs atheris; this does not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from fuzz.targets import TARGETS

CORPUS: Final = Path(__file__).parent / "fuzz" / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_by_fuzzing_is_read_or_refused(name: str) -> None:
    kept = sorted((CORPUS / name).iterdir())
    assert len(kept) >= 5
    for path in kept:
        TARGETS[name](path.read_bytes())


def test_every_folder_of_the_corpus_has_its_target_and_all_of_it_is_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 500_000
