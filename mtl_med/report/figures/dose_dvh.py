"""Cumulative DVHs of several doses in one figure, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mtl_med.io.colours import colour
from mtl_med.metrics.dvh import StructureDoses, dvh_curve
from mtl_med.report.figures.drawing import INK, MARKERS, new_figure, plain, png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["SIDE_LINES", "DvhPanel", "dvh_plot"]

SIDE_LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
"""Of the plan, of the prediction in question, and of others."""

_STEP_GY = 0.2
_MARKED_PERCENT = (96, 80, 64, 48, 32, 16, 5)
_DARKEST = 0.45  # relative luminance, above which a line is hard to see on white
_NEAR = 0.35  # sum of the differences of red, green and blue
Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class DvhPanel:
    """Structures that share an axis.

    Args:
        title: above it.
        names: of the structures.
        prescriptions_gy: drawn as thin lines.
    """

    title: str
    names: Sequence[str]
    prescriptions_gy: Sequence[float] = ()


@styled()
def dvh_plot(panels: Sequence[DvhPanel], sides: Mapping[str, Mapping[str, StructureDoses]]) -> bytes:
    """Draw the DVHs: a marker and a colour per structure, a line style per dose.

    Args:
        panels: two side by side, then the next row.
        sides: name of the dose -> structure -> its doses; a structure without voxels has no line.

    Returns:
        PNG.
    """
    rows = -(-len(panels) // 2)
    figure = new_figure(10.5, 3.7 * rows + 0.3)
    axes = figure.subplots(rows, min(2, len(panels)), squeeze=False, sharey=True)
    highest = max((d.ascending_gy[-1] for s in sides.values() for d in s.values() if len(d.ascending_gy)), default=1.0)
    for axis, panel in zip(axes.flat, panels, strict=False):
        colours = _apart(panel.names)
        for place, name in enumerate(panel.names):
            for index, doses in enumerate(sides.values()):
                if name in doses:
                    _line(axis, doses[name], colours[place], place, index)
        for gy in dict.fromkeys(panel.prescriptions_gy):
            axis.axvline(gy, color="#98a2b0", linewidth=0.8)
        axis.set(xlim=(0, 1.03 * highest), ylim=(0, 102), xlabel="dose, Gy")
        axis.set_title(panel.title, loc="left")
        axis.grid()
        axis.legend(
            handles=[_sample(name, colours[place], place) for place, name in enumerate(panel.names)],
            loc="lower left" if panel.prescriptions_gy else "upper right",
            fontsize=8,
            handlelength=2.2,
            framealpha=0.85,
            edgecolor="none",
        )
    for axis in axes[:, 0]:
        axis.set_ylabel("volume, %")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.legend(
        handles=[_sample_of_side(name, index) for index, name in enumerate(sides)],
        loc="outside upper right",
        ncols=len(sides),
        frameon=False,
        handlelength=4,
    )
    return png(figure, 100)


def _line(axis: Axes, doses: StructureDoses, rgb: Rgb, place: int, side: int) -> None:
    across, up = dvh_curve(doses, _STEP_GY)
    if not len(across):
        return
    # Where the curve passes so many percent, a little apart from structure to structure.
    wanted = [percent - 2 * (place % 5) for percent in _MARKED_PERCENT]
    marked = sorted({int(np.argmin(np.abs(up - percent))) for percent in wanted})
    axis.plot(
        across,
        up,
        linestyle=SIDE_LINES[side % len(SIDE_LINES)],
        linewidth=1.5,
        color=rgb,
        marker=MARKERS[place % len(MARKERS)],
        markevery=marked if side < 2 else [],
        markersize=4.5,
        markerfacecolor=rgb if side == 0 else "white",
        markeredgecolor=rgb,
    )


def _apart(names: Sequence[str]) -> list[Rgb]:
    """The structures' colours; those that come too near to another's are made darker."""
    found: list[Rgb] = []
    for name in names:
        rgb = _dark(name)
        while max(rgb) > 0.3 and any(
            sum(abs(a - b) for a, b in zip(rgb, other, strict=True)) < _NEAR for other in found
        ):
            rgb = (0.7 * rgb[0], 0.7 * rgb[1], 0.7 * rgb[2])
        found.append(rgb)
    return found


def _dark(name: str) -> Rgb:
    """The structure's colour, dark enough to be seen on white."""
    red, green, blue = (value / 255 for value in colour(name))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    factor = min(1.0, _DARKEST / luminance) if luminance else 1.0
    return red * factor, green * factor, blue * factor


def _sample(name: str, rgb: Rgb, place: int) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=rgb, marker=MARKERS[place % len(MARKERS)], markersize=5, label=plain(name, 26))


def _sample_of_side(name: str, index: int) -> Line2D:
    from matplotlib.lines import Line2D

    line = Line2D([], [], color=INK, linestyle=SIDE_LINES[index % len(SIDE_LINES)], label=plain(name, 26))
    if index < 2:
        line.set(marker="o", markerfacecolor=("black", "white")[index], markersize=4.5)
    return line
