"""What the pages share: their style, how figures are written in them, and how a page gets onto the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from comparison.words import format_ms, format_percent, format_ratio
from digits.errors import ReportError
from digits.network import in_words, network_of

NOT_MEASURED: Final = "-"


def render(template: str, **values: Any) -> str:
    """The template of that name, a path from this folder, filled with `values`."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: resources.files("comparison").joinpath(name).read_text(encoding="utf-8")),
    )
    environment.filters |= {
        "ms": _or_dash(format_ms),
        "percent": _or_dash(format_percent),
        "points": _or_dash(_points),
        "count": _or_dash("{:,.0f}".format),
        "seconds": _or_dash("{:,.1f}".format),
        "ratio": _or_dash(format_ratio),
        "decimals": lambda number, places: NOT_MEASURED if number is None else f"{number:,.{places}f}",
        "kilobytes": _or_dash(lambda size: f"{size / 1000:,.0f}"),
        "interval": _or_dash(lambda interval: f"{format_percent(interval[0])} to {format_percent(interval[1])}"),
        "points_interval": _or_dash(lambda interval: f"{_points(interval[0])} to {_points(interval[1])}"),
        "figure": _or_dash(lambda number: f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"),
        "p": _or_dash(lambda p: "<0.001" if p < 0.001 else f"{p:.3f}"),
        "day": day,
    }
    return environment.get_template(template).render(values)


def write(text: str, target: Path) -> None:
    """Writes `target` whole or not at all.

    Raises:
        ReportError: it cannot be written.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(
            f"The report cannot be written to {target}: {error.strerror}. Make that possible, or name another file."
        ) from error


def day(moment: str) -> str:
    """Of an ISO 8601 time in UTC."""
    return f"{moment[:10]}, {moment[11:16]} UTC"


def value(field: Any) -> str:
    """A field of a recipe."""
    if field is None:
        return NOT_MEASURED
    if isinstance(field, list | tuple):
        return ", ".join(value(item) for item in field)
    return f"{field:g}" if isinstance(field, float) else str(field)


def recipe_value(recipe: Mapping[str, Any], field: str) -> str:
    """A field of `recipe`, with a network and augmentations as one says them."""
    if field == "network":
        return in_words(network_of(recipe))
    if field == "augmentation":
        return ", ".join(one["augmentation"] for one in recipe.get(field) or ()) or "none"
    return value(recipe.get(field))


def _points(fraction: float) -> str:
    """In points of a percent, with the sign; never -0.00."""
    return f"{round(100 * fraction, 2) + 0:+.2f}"


def _or_dash(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda number: NOT_MEASURED if number is None else text(number)
