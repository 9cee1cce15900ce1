"""Draws the README's picture of the page: a digit that not every model reads, on a server that is running.

python tests/page_picture.py http://127.0.0.1:8000/ui docs/page.png
"""

from __future__ import annotations

import shutil
import sys
from typing import Final

from playwright.sync_api import expect, sync_playwright
from strokes import draw

# A 4 whose top nearly closes.
NEARLY_A_NINE: Final = ("130,60 100,100 92,135 112,150 150,142 176,118", "182,62 176,120 168,232")


def main(address: str, file: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 848}, device_scale_factor=1.5)
        page.goto(address)
        expect(page.locator("#body tr").first).to_be_visible()
        draw(page, NEARLY_A_NINE)
        expect(page.locator("#times")).to_contain_text("Round trip")
        expect(page.locator("#rows")).to_have_attribute("aria-busy", "false")
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)  # the bars move
        page.screenshot(path=file)
        print(page.locator("#verdict").inner_text())
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
