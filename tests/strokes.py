"""Digits as a hand draws them, stroke by stroke: what tests draw on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from playwright.sync_api import Page

SHEET: Final = 280  # the sheet's side, in the units of its points

Points = list[tuple[float, float]]

# Of each digit two ways to write it: its strokes, each the points x,y on a sheet of 280 x 280 in the order in which the pen
# meets them.
DRAWN: Final[dict[int, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    0: (
        ("150,50 110,62 85,105 80,150 92,200 125,228 162,222 190,185 198,140 190,95 170,62 145,52",),
        ("165,48 128,70 105,120 98,170 110,215 135,232 160,212 180,165 186,115 180,70 158,46",),
    ),
    1: (
        ("140,50 138,100 136,150 134,200 132,232",),
        ("108,92 130,72 150,50 150,100 148,150 147,200 146,230",),
    ),
    2: (
        ("85,95 95,65 130,48 168,58 182,90 172,125 140,160 105,195 80,225 120,222 160,222 200,222",),
        ("90,80 120,52 160,55 178,88 165,130 130,175 95,212 85,205 105,198 130,212 160,224 195,212",),
    ),
    3: (
        ("88,70 115,50 155,50 178,75 165,110 130,130 168,142 190,175 175,212 135,230 90,215",),
        ("85,55 130,55 180,55 155,90 125,125 165,132 188,165 180,205 145,230 95,220",),
    ),
    4: (
        (
            "120,50 105,90 88,135 85,150 130,150 200,146",
            "165,80 162,130 158,180 155,232",
        ),
        (
            "165,50 130,95 90,145 80,160 130,160 205,158",
            "168,52 168,110 166,170 164,232",
        ),
    ),
    5: (
        (
            "110,55 105,90 100,125 140,115 178,135 188,170 170,210 130,230 88,218",
            "110,55 150,54 192,52",
        ),
        ("190,55 150,57 112,60 106,95 102,125 145,118 180,140 186,180 162,215 125,228 90,214",),
    ),
    6: (
        ("170,50 130,80 100,130 90,180 108,220 145,230 178,205 176,168 148,152 112,165 95,190",),
        ("150,45 120,90 104,140 102,190 125,228 160,222 178,190 160,162 128,170 108,198",),
    ),
    7: (
        ("80,65 130,64 195,62 175,105 150,155 130,200 120,232",),
        (
            "78,72 95,62 140,66 196,58 172,110 150,160 138,230",
            "112,148 150,143 188,140",
        ),
    ),
    8: (
        ("170,70 140,50 105,65 105,100 140,130 178,165 180,205 145,230 105,215 100,178 135,140 172,105 172,75",),
        (
            "140,48 110,62 108,100 140,122 172,98 168,60 140,48",
            "140,122 104,148 98,195 140,230 182,195 176,148 140,122",
        ),
    ),
    9: (
        ("178,85 155,55 115,60 95,95 108,130 145,135 175,110 180,80 180,130 176,185 172,232",),
        ("175,80 140,52 102,72 98,110 130,132 165,115 178,80 182,130 170,190 140,225 105,222",),
    ),
}


def curve(stroke: str, *, between: int = 3) -> Points:
    """The points of a stroke with `between` more between two of them, on a curve through all of them (Catmull and Rom 1974)."""
    points = [(float(x), float(y)) for x, y in (point.split(",") for point in stroke.split())]
    through = [points[0], *points, points[-1]]
    curved = [points[0]]
    for before, here, there, after in zip(through, through[1:], through[2:], through[3:], strict=False):
        for step in range(1, between + 2):
            t = step / (between + 1)
            x, y = (
                (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3) / 2
                for a, b, c, d in zip(before, here, there, after, strict=True)
            )
            curved.append((x, y))
    return curved


def draw(page: Page, strokes: Sequence[str]) -> None:
    """Draws with the mouse on the page's sheet."""
    for stroke in strokes:
        (x, y), *rest = on_screen(page, curve(stroke))
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y)
        page.mouse.up()


def on_screen(page: Page, points: Points) -> Points:
    """Where points of the sheet are in the window, in CSS pixels."""
    box = page.locator("#paper").bounding_box()
    assert box is not None
    scale = box["width"] / SHEET
    return [(box["x"] + x * scale, box["y"] + y * scale) for x, y in points]
