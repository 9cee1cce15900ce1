"""Reading what a measurement left in a folder of results: a file of JSON, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from digits.errors import ResultsMissing

Row = TypeVar("Row")


def read_json(path: Path, again: str) -> Any:
    """What the file holds; None if there is none.

    Args:
        again: a sentence that says how to make the file, for the error.

    Raises:
        ResultsMissing: it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsMissing(f"{path} cannot be read: {error.strerror}. {again}") from error
    except ValueError as error:
        raise ResultsMissing(f"{path} is not valid JSON: {error}. {again}") from error


@contextmanager
def of_this_version(path: Path, again: str) -> Iterator[None]:
    """What is missing in what was read, or of another kind, becomes ResultsMissing."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsMissing(
            f"{path} lacks {error}: it was written by another version of Samedigit. {again}"
        ) from error


def row_of(kind: type[Row], data: dict[str, Any]) -> Row:
    """A dataclass from its fields in `data`, which may hold more."""
    return kind(**{field.name: data[field.name] for field in fields(kind)})  # type: ignore[arg-type]
