"""What a benchmark found, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from digits.errors import LoadTestError


def write_results(document: dict[str, Any], file: Path) -> None:
    """Writes beside, then renames.

    Raises:
        LoadTestError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(document, indent=1))
        beside.replace(file)
    except OSError as error:
        raise LoadTestError(f"{file} cannot be written: {error.strerror}. Give another file: --json") from error
