"""Fixtures of the report's tests: a real browser, and pages to open in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mtl_med.report.case_page import Section
from tests.report.browser import Browser


@pytest.fixture(scope="session")
def browser(require_judge: Callable[[str], str]) -> Iterator[Browser]:
    """Debian's Chromium without a window: `page = browser.open(path)`, `page.run(script)`, `page.requests`."""
    opened = Browser(require_judge("chromium"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def write_page() -> Callable[..., Path]:
    """`write_page(section, folder)` writes a case's page of one section, as a report does, and gives its path.

    `single=True` puts all into the page, as `--single-file` does, with the section twice as if there were two cases.
    """

    def write(section: Section, folder: Path, *, single: bool = False) -> Path:
        from mtl_med.report.page import Page, document, fragment, place_of

        parts = [
            fragment(Page("Case", "A page of a test.", anchor), [section], up="../", single=single)
            for anchor in (("case-1", "case-2") if single else ("case-1",))
        ]
        part = parts[0]
        case = "" if single else "case"
        for script in part.scripts:
            place = folder / place_of(script, "case")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(script.text, encoding="utf-8")
        page = folder / "cases" / "case.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            "".join(document("Case", [item.html for item in parts], part.scripts, up="../", case=case)),
            encoding="utf-8",
        )
        return page

    return write
