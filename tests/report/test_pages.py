"""The parts of a page: figures, tables, marks and scripts, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.report.case_page import Cell, Figure, Script, Section, Table, Text
from mtl_med.report.figures.boxes import box_plot, spread_in_words
from mtl_med.report.figures.curves import training_curves, training_in_words
from mtl_med.report.figures.drawing import new_figure, plain, png, styled, svg
from mtl_med.report.figures.scatters import Panel, rank_correlation, scatter_plot
from mtl_med.report.numbers import in_brackets, told
from mtl_med.report.page import Page, document, fragment
from mtl_med.report.training_file import Training
from tests.report.cohort_study import PageParser

NAN = float("nan")
SCORES = {"a": 1.0, "b": 3.0, "c": NAN, "<d$>": 2.0, "e": 9.0}
FIGURES: dict[str, Callable[[], bytes]] = {
    "boxes": lambda: box_plot({"first": {"Cord": SCORES, "$x_": {}}, "<b>$": {"Cord": SCORES}}, "Dice", zero=True),
    "scatter": lambda: scatter_plot(
        [Panel("volume, cc", SCORES), Panel("Gy", SCORES, steps=True)], {"$": SCORES}, "Gy"
    ),
    "curves": lambda: training_curves(COURSE, 2),
}
COURSE = Training(
    Path(), {"epoch": (1.0, 2.0), "loss/<oar>": (2.0, NAN), "weight/$": (1.0, 1.0), "score/x": (NAN, 0.5)}
)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_svg_without_text_of_names_or_addresses_and_always_the_same(name: str) -> None:
    data = FIGURES[name]()
    assert data.startswith(b"<svg") and b"<script" not in data and data == FIGURES[name]()
    assert set(re.findall(rb'"(https?://[^"]*)"', data)) <= {
        b"http://www.w3.org/2000/svg",
        b"http://www.w3.org/1999/xlink",
    }


def test_figures_in_words() -> None:
    words = spread_in_words({"Cord": SCORES, "empty": {"a": NAN}}, 1, "Gy")
    assert words == "Median and range, Gy: Cord 2.5 (1.0 to 9.0)."
    assert "2 epochs: loss of <oar> from 2 to 2" in training_in_words(COURSE)
    assert rank_correlation(SCORES, {key: -value for key, value in SCORES.items()}) == pytest.approx(-1)
    assert np.isnan(rank_correlation(SCORES, dict.fromkeys(SCORES, 1.0)))


def test_names_are_plain_text_in_figures() -> None:
    assert plain("$\\frac{") == r"\$\frac{" and plain("a\u202eb") == "a\ufffdb" and len(plain("L" * 300)) == 40


@styled()
def _with_title(save: Callable) -> bytes:
    figure = new_figure(2, 1)
    figure.suptitle(plain("靶区 $\\undefined"))
    return save(figure)


def test_a_letter_that_the_font_lacks_is_no_fault() -> None:
    assert _with_title(png).startswith(b"\x89PNG") and _with_title(svg).startswith(b"<svg")


def test_what_a_page_cannot_show_is_refused() -> None:
    with pytest.raises(UsageError, match="no alternative text"):
        Figure(" ", "caption", b"<svg/>")
    with pytest.raises(UsageError, match="expected PNG, JPEG or SVG"):
        Figure("alt", "caption", b"GIF89a")
    with pytest.raises(UsageError, match="unknown mark 'god' of a cell. Did you mean good"):
        Cell("x", mark="god")
    with pytest.raises(UsageError, match="a row has 1 cells, expected 2"):
        Table("caption", ("a", "b"), (("x",),))


def rendered(*blocks, scripts: tuple[Script, ...] = (), **where) -> tuple[str, PageParser]:
    part = fragment(Page("t", "l", "p"), [Section("s", "Heading", blocks, scripts)], up="../")
    text = "".join(document("t", [part.html], part.scripts, up="../", **where))
    return text, PageParser(text)


def test_marks_are_told_without_colour() -> None:
    cells = (Cell("x", "good"), Cell("y", "bad"), Cell("z", "warning"))
    _, page = rendered(Table("c", ("1", "2", "3"), (cells,)), Text("gap", "bad"))
    for words in ("✓ good: x", "✗ bad: y", "! warning: z", "✗ bad: gap"):
        assert words in page.text


def test_marks_at_the_top_of_a_page_are_told_without_colour() -> None:
    head = Page("t", "l", "p", [Cell("1", "bad", detail="missed")], [("warning", "look")])
    text = PageParser(fragment(head, []).html).text
    assert "✗ bad: 1 missed" in text and "! warning: look" in text


def test_tables_name_their_rows_and_columns() -> None:
    _, page = rendered(Table("c", ("a", "b"), (("row", Cell("1", number=True, value=1.0)),), sortable=True, shown=3))
    assert [row["scope"] for row in page.all("th")] == ["col", "col", "row"]
    assert page.all("table")[0] == {"class": "sortable", "data-shown": "3"}
    assert page.all("td")[0]["data-value"] == "1.0"


SCRIPTS = (
    Script("shared.js", "let a = 1;", place="report"),
    Script("own.js", "let b = 2;", place="case"),
    Script("inline.js", "let c = 3;", allows=("worker-src blob:",)),
    Script("volume", "QUJD", kind="application/octet-stream", place="case"),
)


def test_scripts_in_files_run_by_nonce_and_those_in_the_page_by_hash() -> None:
    text, page = rendered(scripts=SCRIPTS, case="p1")
    files = [row for row in page.all("script") if "src" in row]
    assert [row["src"] for row in files] == ["../viewer/shared.js", "../viewer/p1/own.js"]
    policy = next(row["content"] or "" for row in page.all("meta") if "http-equiv" in row)
    assert len({row["nonce"] for row in files}) == 1 and f"'nonce-{files[0]['nonce']}'" in policy
    assert "worker-src blob:" in policy and "let a" not in text and "let c = 3;" in text
    data = next(row for row in page.all("script") if row.get("type"))
    assert data == {"type": "application/octet-stream", "data-name": "volume"} and "QUJD" in text


def test_a_single_file_holds_its_scripts() -> None:
    text, page = rendered(scripts=SCRIPTS)
    assert not [row for row in page.all("script") if "src" in row] and "nonce" not in text
    assert "let a = 1;" in text and "let b = 2;" in text


@pytest.mark.parametrize("text", ["x = '</script>'", "x = '</SCRIPT >'", "<!-- x"])
def test_a_script_that_would_end_early_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="would end it in a page"):
        rendered(scripts=(Script("bad.js", text),))


def test_numbers() -> None:
    assert (told(1.005), told(NAN), told(-0.5, 1, signed=True)) == ("1.00", "-", "\N{MINUS SIGN}0.5")
    assert in_brackets(1, 2, 1) == "[1.0, 2.0]" and in_brackets(NAN, 2) == ""
