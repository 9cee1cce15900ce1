"""The pages that a person reads: their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import PROJECT

PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "benchmarks" / "README.md",
    *(PROJECT / "docs").glob("*.md"),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)


def links_of(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in links_of(page):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_led_to_from_the_readme() -> None:
    linked = {(PROJECT / link.partition("#")[0]).resolve() for link in links_of(PROJECT / "README.md")}
    assert {page for page in PAGES if page.parent.name == "docs"} <= linked
