"""The whole report in a real browser: from disk, with nothing loaded, every figure drawn, and names that do nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mtl_med.report import build_report
from mtl_med.report.case_page import Options, Part
from mtl_med.report.kinds import REPORTS
from tests.report.browser import Browser
from tests.report.cohort_study import write_cohort, write_predictions
from tests.report.test_hostile_names import IDS, NAMES, NOTE

QUIET = "document.title === 'broken' || document.querySelector('[onerror], [onload], [onmouseover]') !== null"
ALL_DRAWN = "Promise.all([...document.images].map((image) => image.decode())).then(() => document.images.length)"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and a single file of a study whose every name tries to get out of a page."""
    folder = tmp_path_factory.mktemp("browser")
    study = write_cohort(folder, IDS, NAMES, dataset=f"<i>{NOTE}", notes=(NOTE,))
    predictions = [
        write_predictions(folder / name, IDS, NAMES, factor=factor)
        for name, factor in (("<svg onload=1>", 1), ("b", 2))
    ]
    build_report(study, predictions, folder / "pages", Options(viewer=False), limit=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REPORTS, "regression", replace(REPORTS["regression"], case=lambda _: Part()))
        build_report(study, predictions, folder / "single", Options(viewer=False, single_file=True), limit=1)
    return folder


def opened(browser: Browser, path: Path, **how: bool):
    page = browser.open(path, **how)
    page.run(ALL_DRAWN)
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_cohort_page_opens_from_disk_and_shows_everything(browser: Browser, hostile: Path, dark: bool) -> None:
    page = opened(browser, hostile / "pages" / "index.html", dark=dark)
    assert page.run(ALL_DRAWN) >= 6
    assert (page.errors, page.left_the_machine) == ([], [])
    assert page.run("document.body.textContent.includes('Research use only, not a medical device')")
    assert not page.run(QUIET)
    dimmed = page.run("getComputedStyle(document.querySelector('img.line-art')).filter !== 'none'")
    assert dimmed == dark
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth"), "a long name makes the page wider"
    page.close()


def test_every_link_of_the_list_opens_a_page_without_a_fault(browser: Browser, hostile: Path) -> None:
    page = opened(browser, hostile / "pages" / "index.html")
    links = page.run("[...document.querySelectorAll('#index-cases a')].map((link) => decodeURI(link.pathname))")
    page.close()
    assert len(links) == 2
    for link in links:
        case = opened(browser, Path(link))
        assert (case.errors, case.left_the_machine) == ([], []) and not case.run(QUIET)
        assert case.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert case.run("document.querySelector('h1').textContent") in {"".join(name) for name in IDS}
        case.close()


@pytest.mark.parametrize("name", ["index.html", "cases/*.html"])
def test_a_narrow_window_scrolls_tables_and_not_the_page(browser: Browser, hostile: Path, name: str) -> None:
    page = browser.open(next((hostile / "pages").glob(name)), width=390)
    page.run(ALL_DRAWN)
    assert page.run("[...document.querySelectorAll('.scroll')].some((item) => item.scrollWidth > item.clientWidth)")
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_headings_sort_by_keyboard_and_mouse(browser: Browser, hostile: Path) -> None:
    page = opened(browser, hostile / "pages" / "index.html")
    values = (
        "[...document.querySelectorAll('#index-cases tbody tr')].map((row) => parseFloat(row.cells[1].dataset.value))"
    )
    before = page.run(values)
    assert before == sorted(before, reverse=True) == pytest.approx([4, 2, 1, 0.5], abs=1e-3), "the worst case is first"
    page.run("document.querySelectorAll('#index-cases thead button')[1].focus()")
    page.run("document.activeElement.click()")
    assert page.run(values) == sorted(before)
    assert page.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    page.run("document.activeElement.click()")
    assert page.run(values) == before
    page.close()


def test_a_single_file_opens_alone_and_its_links_open_cases(browser: Browser, hostile: Path, tmp_path: Path) -> None:
    alone = tmp_path / "mailed.html"
    alone.write_bytes((hostile / "single" / "report.html").read_bytes())
    page = opened(browser, alone)
    assert (page.errors, page.left_the_machine) == ([], []) and not page.run(QUIET)
    assert page.run(
        "document.querySelectorAll('details.case').length === 1 && !document.querySelector('details.case').open"
    )
    page.run("document.querySelector('#index-cases a').click()")
    page.wait("document.querySelector('details.case').open")
    assert page.run("document.querySelector('details.case').contains(document.querySelector('details.case h1'))")
    assert page.errors == []
    page.close()


def test_print_shows_every_row_and_opens_what_is_closed(browser: Browser, hostile: Path) -> None:
    page = opened(browser, hostile / "single" / "report.html")
    page.call("Emulation.setEmulatedMedia", media="print")
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.run("[...document.querySelectorAll('details')].every((item) => item.open)")
    assert page.run("[...document.querySelectorAll('tbody tr')].every((row) => row.getClientRects().length > 0)")
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    page.close()
