"""A page in a real browser that has no network, and what the page did wrong there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import CHROMIUM

LOCAL = ("file:", "data:", "http://127.0.0.1:")


@contextmanager
def opened(
    source: Path | str, width: int = 1280, scheme: str = "light", drawn: str = "#figures svg"
) -> Iterator[Any]:
    """Yield a page whose figures are drawn.

    When the block ends, the page must have had no error, have asked nothing of another machine, and
    be no wider than the window.

    Args:
        source: a file, or an address on this machine.
        width: of the window, in pixels.
        scheme: light | dark.
        drawn: what is waited for, as a CSS selector.
    """
    from playwright.sync_api import sync_playwright

    address = source.as_uri() if isinstance(source, Path) else source
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: _note_foreign(request.url, wrong))
        page.goto(address)
        page.wait_for_selector(drawn)
        yield page

        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert wrong == []


def _note_foreign(url: str, wrong: list[str]) -> None:
    if not url.startswith(LOCAL):
        wrong.append(f"asked for {url}")
