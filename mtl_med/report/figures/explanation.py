"""Where a network looks, and where its tasks disagree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.report.figures.drawing import HATCHES, INK, PALETTE, new_figure, plain, styled
from mtl_med.report.numbers import told

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Tile", "attention_sheet", "conflict_figure"]

_HEAT, _STRENGTH = "turbo", 0.45
_HIGHEST = 90.0  # percentile of a map; what lies above is outlined
_TILE, _COLUMNS = 2.2, 5  # inches; maps beside each other
_CONFLICT = "#B00020"


@dataclass(frozen=True)
class Tile:
    """One map in the sheet.

    Args:
        title: above it.
        values: (H, W), NaN where nothing is shown.
        low, high: of the whole map, the ends of its colours.
        unit: of the values, behind their range; "" for a share.
    """

    title: str
    values: NDArray[np.floating]
    low: float
    high: float
    unit: str = ""


@styled()
def attention_sheet(
    background: NDArray, rows: Mapping[str, Sequence[Tile]], title: str, *, aspect: float = 1.0
) -> Figure:
    """Draw all maps of one image side by side, each from its own lowest to its own highest value.

    The highest tenth of what is shown of each map is outlined too, so that nothing is told by colour alone.

    Args:
        background: (H, W, 3), or (H, W) from 0 to 1.
        rows: task -> its maps, in order.
        title: of the whole.
        aspect: height of a pixel over its width.
    """
    most = max(len(tiles) for tiles in rows.values())
    beside = math.ceil(most / math.ceil(most / _COLUMNS))
    lines = [
        (task if start == 0 else "", tiles[start : start + beside])
        for task, tiles in rows.items()
        for start in range(0, len(tiles), beside)
    ]
    columns = 1 + max(len(tiles) for _, tiles in lines)
    height = _TILE * aspect * background.shape[0] / background.shape[1]
    figure = new_figure(_TILE * columns, (height + 0.4) * len(lines) + 0.35)
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for places, (task, tiles) in zip(axes, lines, strict=True):
        for axis in places:
            axis.set_axis_off()
        if task:
            _image(places[0], background, aspect)
            places[0].set_title(plain(task), fontsize=10, fontweight="bold")
        for axis, tile in zip(places[1:], tiles, strict=False):
            _tile(axis, background, tile, aspect)
    figure.suptitle(f"{plain(title, 120)}   (research use only)", fontsize=11)
    return figure


def _image(axis: Axes, background: NDArray, aspect: float) -> None:
    axis.imshow(background, cmap="gray", vmin=0, vmax=1, aspect=aspect)


def _tile(axis: Axes, background: NDArray, tile: Tile, aspect: float) -> None:
    _image(axis, background, aspect)
    unit = f" {tile.unit}" if tile.unit else ""
    axis.set_title(f"{plain(tile.title)}\n{tile.low:.3g} to {tile.high:.3g}{unit}", fontsize=8)
    heat = np.ma.masked_invalid(tile.values)
    highest = max(tile.high, tile.low + 1e-6)
    axis.imshow(heat, cmap=_HEAT, alpha=_STRENGTH, vmin=tile.low, vmax=highest, aspect=aspect)
    known = heat.compressed()
    level = float(np.percentile(known, _HIGHEST)) if known.size else tile.low
    if known.size and known.min() < level < known.max():
        axis.contour(heat.filled(tile.low), levels=[level], colors="white", linewidths=1.6)
        axis.contour(heat.filled(tile.low), levels=[level], colors="black", linewidths=0.7)


@styled()
def conflict_figure(parts: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the cosine between the tasks' gradients, a bar per part of the network and pair of tasks.

    Args:
        parts: part -> pair of tasks in words -> cosine; NaN where they share nothing.
    """
    pairs = list(dict.fromkeys(pair for table in parts.values() for pair in table))
    figure = new_figure(7.2, 1.1 + 0.3 * len(parts) * max(1, 0.6 * len(pairs) + 0.4))
    axis = figure.subplots()
    width = 0.8 / max(1, len(pairs))
    for place, pair in enumerate(pairs):
        for row, table in enumerate(parts.values()):
            value = table.get(pair, math.nan)
            centre = row + width * (place - (len(pairs) - 1) / 2)
            if math.isnan(value):
                axis.text(0.02, centre, "nothing shared", va="center", fontsize=7.5, color="#667080")
                continue
            colour = PALETTE[place % len(PALETTE)]
            axis.barh(centre, value, 0.85 * width, color=colour, hatch=HATCHES[place % len(HATCHES)], edgecolor="white")
            text, side = told(value, 2, signed=True), "left" if value >= 0 else "right"
            axis.annotate(
                f"{text} conflict" if value < 0 else text,
                (value, centre),
                xytext=(3 if value >= 0 else -3, 0),
                textcoords="offset points",
                va="center",
                ha=side,
                fontsize=8,
                color=_CONFLICT if value < 0 else INK,
            )
        axis.bar(0, 0, color=PALETTE[place % len(PALETTE)], hatch=HATCHES[place % len(HATCHES)], label=plain(pair, 60))
    axis.set_yticks(range(len(parts)), [plain(part) for part in parts])
    axis.set_ylim(len(parts) - 0.5, -0.5)
    axis.set_xlim(-1.25, 1.25)
    axis.set_xticks([-1, -0.5, 0, 0.5, 1])
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_xlabel("cosine between the tasks' gradients: below 0 what helps one hurts the other")
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    if pairs:
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure
