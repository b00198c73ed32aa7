"""How every figure of the report is made: without global state, equal input giving equal bytes, names as plain text."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mtl_med.html import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HATCHES", "INK", "LINES", "MARKERS", "PALETTE", "new_figure", "plain", "png", "styled", "svg"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#444444")
"""Colours that stay apart for every kind of colour vision and in grey; after Okabe and Ito."""

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")
"""Always together with the colours, which no figure tells by alone."""

INK = "#1c2128"
_LONGEST = 40
_TOLD_BY_MATPLOTLIB = ("Creator", "Date", "Format", "Type")  # left out: a time, a version, and addresses
_MANNER: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#667080",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.hashsalt": "mtl_med",
    "svg.fonttype": "path",
    "text.usetex": False,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's manner; stands as `@styled()` above every function that draws."""
    from matplotlib import rc_context

    with rc_context(dict(_MANNER)), _any_letter():
        yield


@contextlib.contextmanager
def _any_letter() -> Iterator[None]:
    """Show a letter that the font lacks as a box, without a warning; the page tells the same names as text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(width: float, height: float, *, facecolor: str = "white") -> Figure:
    """An empty figure of so many inches, which lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=facecolor, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(text: str, longest: int = _LONGEST) -> str:
    """A name as matplotlib should show it: no formula in it, nothing unseen, and not longer than a label can be."""
    text = str(visible(text)).replace("\n", " ")
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return text.replace("$", r"\$")


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    with _any_letter():
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG with its letters as outlines."""
    stream = io.BytesIO()
    with _any_letter():
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(_TOLD_BY_MATPLOTLIB))
    data = stream.getvalue()
    return data[data.index(b"<svg") :]  # without the document type, which names an address
