"""Numbers as the report shows them."""

from __future__ import annotations

import math

from mtl_med.report.case_page import Cell

__all__ = ["ABSENT", "in_brackets", "number_cell", "told", "unit_in_words"]

ABSENT = "-"
"""What stands where a number is not defined."""


def told(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """A number with so many digits; `ABSENT` for NaN."""
    if math.isnan(value):
        return ABSENT
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def number_cell(
    value: float, digits: int = 2, *, signed: bool = False, mark: str = "", link: str = "", detail: str = ""
) -> Cell:
    """A cell with a number, sorted by it; faint where it is not defined."""
    mark = "none" if math.isnan(value) else mark
    return Cell(told(value, digits, signed=signed), mark, number=True, value=value, link=link, detail=detail)


def in_brackets(low: float, high: float, digits: int = 2, *, signed: bool = False) -> str:
    """An interval; "" where it is not defined."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{told(low, digits, signed=signed)}, {told(high, digits, signed=signed)}]"


def unit_in_words(unit: str) -> str:
    """A unit behind a comma; nothing for shares and ratios."""
    return "" if unit in ("", "1") else f", {unit}"
