"""The page to draw on: its files, read once at the start, and the examples that it shows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from digits.errors import ModelDamaged
from digits.store import StoredModel
from serving.errors import Kind, RequestError
from serving.messages import Answer

PAGES: Final = Path(__file__).parent / "pages"
INDEX: Final = "index.html"
EXAMPLES: Final = 24
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

log = logging.getLogger("samedigit")


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


def find_examples(models: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """Test images that these models read differently, those first on which they are the most divided.

    Of one model alone, what it misreads. A model that was stored without its mistakes is not asked.
    """
    mistakes: dict[str, dict[int, int]] = {}  # model -> test image -> what was read
    shown: dict[int, tuple[Any, int]] = {}  # test image -> itself [28, 28], and its label
    for model in models:
        try:
            misread = model.misread()
        except ModelDamaged as error:
            log.warning("What %s misreads is not shown: %s", model.tag, error)
            continue
        if misread is None:
            continue
        mistakes[model.tag] = dict(zip(misread.places.tolist(), misread.digits.tolist(), strict=True))
        shown.update(
            zip(misread.places.tolist(), zip(misread.images, misread.labels.tolist(), strict=True), strict=True)
        )
    found = []
    for place, (image, label) in shown.items():
        read = {tag: digits.get(place, label) for tag, digits in mistakes.items()}
        most = max(Counter(read.values()).values())
        if most < len(read) or len(read) == 1:
            found.append((most, place, {"image": image.tolist(), "label": label, "read": read}))
    return [example for _, _, example in sorted(found, key=lambda one: one[:2])[:EXAMPLES]]
