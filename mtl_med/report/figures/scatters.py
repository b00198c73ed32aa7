"""A score of every case against what the case is like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtl_med.report.figures.drawing import MARKERS, PALETTE, new_figure, plain, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "rank_correlation", "scatter_plot"]

_FEWEST = 4  # points, from which on an order can be told
_NAMED = 3
_TICKS = 8


@dataclass(frozen=True)
class Panel:
    """One axis.

    Args:
        label: of the values across, with their unit.
        values: case -> value; NaN or absent is left out.
        steps: the values are a few steps, such as prescriptions: points are spread a little.
    """

    label: str
    values: Mapping[str, float]
    steps: bool = False


@styled()
def scatter_plot(panels: list[Panel], scores: Mapping[str, Mapping[str, float]], label: str) -> bytes:
    """Draw the scores of one or more predictions against the values of each panel; the worst cases are named.

    Args:
        panels: side by side.
        scores: name of the predictions -> case -> score.
        label: of the scores, with their unit.

    Returns:
        SVG.
    """
    figure = new_figure(min(10.0, 1.2 + 4.2 * len(panels)), 3.6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for place, (name, table) in enumerate(scores.items()):
            _points(axis, panel, table, place, plain(name))
        axis.set_xlabel(plain(panel.label, 80))
        if panel.steps:
            steps = sorted({value for value in panel.values.values() if math.isfinite(value)})
            axis.set_xticks(steps if len(steps) <= _TICKS else steps[:: -(-len(steps) // _TICKS)])
        axis.grid()
    axes[0].set_ylabel(plain(label, 80))
    if len(scores) > 1:
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(4, len(scores)), frameon=False
        )
    return svg(figure)


def _points(axis: Axes, panel: Panel, scores: Mapping[str, float], place: int, name: str) -> None:
    cases = [case for case in scores if math.isfinite(scores[case] + panel.values.get(case, math.nan))]
    across = np.array([panel.values[case] for case in cases], dtype=np.float64)
    if panel.steps and across.size:
        apart = np.diff(np.unique(across))
        step = float(apart.min()) if apart.size else 1.0
        across = across + 0.25 * step * (np.arange(across.size) * 0.618 % 1 - 0.5)
    up = [scores[case] for case in cases]
    marker, colour = MARKERS[place % len(MARKERS)], PALETTE[place % len(PALETTE)]
    axis.plot(across, up, marker, color=colour, markersize=4.5, alpha=0.75, linewidth=0, label=name)
    if place == 0 and len(cases) >= _FEWEST:
        for index in sorted(range(len(cases)), key=lambda item: -up[item])[:_NAMED]:
            axis.annotate(
                plain(cases[index], 18),
                (across[index], up[index]),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
                color="#667080",
            )


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Spearman's correlation over the cases that both have; NaN with too few of them or without any difference."""
    from scipy.stats import rankdata

    cases = [case for case in first if math.isfinite(first[case] + second.get(case, math.nan))]
    if len(cases) < _FEWEST:
        return math.nan
    ranks = [rankdata([table[case] for case in cases]) for table in (first, second)]
    if any(np.ptp(item) == 0 for item in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])
