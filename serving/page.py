"""The page to draw on: its files, read once at the start, and the examples that it shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from serving.errors import Kind, RequestError
from serving.messages import Answer
from serving.opening import Opened

PAGES: Final = Path(__file__).parent / "pages"
INDEX: Final = "index.html"
TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".json": b"application/json",
    ".webmanifest": b"application/manifest+json",
}
# Nothing but the page's own files and requests: a script that finds its way into it is not run, and can send nothing away.
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"media-src blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """Every file of a folder that a browser is given."""

    def __init__(self, folder: Path = PAGES) -> None:
        self._files = {
            path.name: Answer(
                200,
                path.read_bytes(),
                (
                    (b"content-type", TYPES[path.suffix]),
                    (b"content-security-policy", POLICY),
                    (b"referrer-policy", b"no-referrer"),
                ),
            )
            for path in sorted(folder.glob("*"))
            if path.suffix in TYPES and path.is_file()
        }

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def file(self, name: str) -> Answer:
        """One of its files.

        Raises:
            RequestError: UNKNOWN, there is none of that name.
        """
        found = self._files.get(name)
        if found is None:
            raise RequestError(Kind.UNKNOWN, f"The page has no file {name[:100]!r}; it is at /ui.")
        return found


def examples(served: Iterable[Opened]) -> list[dict[str, Any]]:
    """Test images that the served models disagree on."""
    return []
