"""How a score is spread over the cases, structure by structure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_med.report.figures.drawing import HATCHES, INK, MARKERS, PALETTE, new_figure, plain, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Series", "box_plot", "spread_in_words"]

Series = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Name of the predictions -> row of the plot (a structure) -> case -> value; NaN is left out."""

_FEWEST_TO_NAME = 4  # values of a row, from which on the worst one is named
_PALE = 0.18
_ROW, _BOX = 0.34, 0.17  # inches of a row of one box, and of every further box


@styled()
def box_plot(series: Series, label: str, *, worst: str = "low", zero: bool = False) -> bytes:
    """Draw a box with all its points per row and predictions; the worst case of each row is named.

    Args:
        series: what to draw; its first predictions give the rows and their order.
        label: of the values, with their unit.
        worst: "low", "high", or "far" for values that are best at zero.
        zero: draw a line at zero.

    Returns:
        SVG.
    """
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(row for table in series.values() for row in table))
    count = len(series)
    figure = new_figure(8.6, 0.9 + (0.3 if count > 1 else 0) + len(names) * (_ROW + _BOX * (count - 1)))
    axis = figure.subplots()
    width = 0.78 / count
    for place, table in enumerate(series.values()):
        for row, structure in enumerate(names):
            centre = row + width * (place - (count - 1) / 2)
            values = {case: value for case, value in table.get(structure, {}).items() if math.isfinite(value)}
            _box(axis, values, centre, width, place)
            if place == 0:
                _name_worst(axis, values, centre, worst)
    axis.set_yticks(range(len(names)), [plain(name, 28) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(plain(label, 120))
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    if zero:
        axis.axvline(0, color=INK, linewidth=1, zorder=1)
    if count > 1:
        handles = [Patch(label=plain(name), **_box_look(place)) for place, name in enumerate(series)]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(4, count), frameon=False)
    return svg(figure)


def _box_look(place: int) -> dict[str, Any]:
    colour, hatch = PALETTE[place % len(PALETTE)], HATCHES[place % len(HATCHES)]
    return {"facecolor": _face(place), "edgecolor": colour, "hatch": hatch}


def _face(place: int) -> tuple[float, ...]:
    """The colour, pale; opaque, since the hatch of an SVG takes its own background's opacity."""
    from matplotlib.colors import to_rgb

    return tuple(1 - _PALE * (1 - part) for part in to_rgb(PALETTE[place % len(PALETTE)]))


def _box(axis: Axes, values: Mapping[str, float], centre: float, width: float, place: int) -> None:
    if not values:
        return
    colour = PALETTE[place % len(PALETTE)]
    found = np.array(list(values.values()))
    axis.boxplot(
        [found],
        positions=[centre],
        widths=0.8 * width,
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops=_box_look(place),
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": colour},
        capprops={"color": colour},
    )
    # Spread by rank, so that equal values do not hide each other and the same data give the same picture.
    shift = 0.5 * width * (np.arange(found.size) * 0.618 % 1 - 0.5)
    axis.plot(
        found, centre + shift, MARKERS[place % len(MARKERS)], color=colour, markersize=2.6, alpha=0.55, linewidth=0
    )


def _name_worst(axis: Axes, values: Mapping[str, float], centre: float, worst: str) -> None:
    if len(values) < _FEWEST_TO_NAME:
        return
    badness = {"low": lambda value: -value, "high": lambda value: value, "far": abs}[worst]
    case = max(values, key=lambda key: badness(values[key]))
    axis.annotate(
        plain(case, 18),
        (values[case], centre),
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=6.5,
        ha="center",
        color="#667080",
        annotation_clip=False,
    )


def spread_in_words(table: Mapping[str, Mapping[str, float]], digits: int, unit: str) -> str:
    """The medians and ranges of a plot's rows, for those who cannot see it."""
    told = []
    for name, values in table.items():
        found = [value for value in values.values() if math.isfinite(value)]
        if found:
            low, middle, high = (f"{value:.{digits}f}" for value in np.percentile(found, [0, 50, 100]))
            told.append(f"{name} {middle} ({low} to {high})")
    return f"Median and range, {unit}: {'; '.join(told) or 'nothing to show'}."
