"""How probable each class of an image was called, and the image with its outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid, reorient
from mtl_med.io.colours import colour
from mtl_med.planes import PLANES, aspect_of, cut
from mtl_med.report.figures.drawing import HATCHES, INK, LINES, PALETTE, new_figure, plain, png, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["outlined_picture", "probability_bars", "three_planes"]

_LONGEST = 900  # pixels of a photograph that is drawn
_WIDTH = 6.0  # inches
_GREY_PERCENT = (1.0, 99.5)
Masks = Mapping[str, NDArray]


@styled()
def probability_bars(
    names: Sequence[str],
    probabilities: Mapping[str, Sequence[float]],
    decided: Mapping[str, str],
    true: str = "",
) -> bytes:
    """Draw a bar per class and predictions; the decision and the truth are named in words.

    Args:
        names: of the classes.
        probabilities: name of the predictions -> probability of each class.
        decided: name of the predictions -> decided class.
        true: the true class; "" where there is no label.

    Returns:
        SVG.
    """
    count = len(probabilities)
    figure = new_figure(6.4, 0.9 + len(names) * (0.22 + 0.17 * count) + (0.25 if count > 1 else 0))
    axis = figure.subplots()
    width = 0.8 / count
    for place, (name, values) in enumerate(probabilities.items()):
        centres = np.arange(len(names)) + width * (place - (count - 1) / 2)
        bars = axis.barh(centres, values, 0.9 * width, label=plain(name), color=PALETTE[place % len(PALETTE)])
        for bar in bars:
            bar.set(hatch=HATCHES[place % len(HATCHES)], edgecolor="white")
        for row, (centre, value) in enumerate(zip(centres, values, strict=True)):
            words = f"{value:.3f}" + ("  ◀ decided" if decided.get(name) == names[row] else "")
            axis.annotate(words, (value, centre), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    labels = [f"{plain(name, 28)} (true)" if name == true else plain(name, 28) for name in names]
    for label, name in zip(axis.set_yticks(range(len(names)), labels), names, strict=True):
        if name == true:
            label.label1.set_fontweight("bold")
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.22)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.spines["bottom"].set_bounds(0, 1)
    axis.set_xlabel("probability")
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    if count > 1:
        figure.legend(loc="outside upper left", ncols=min(4, count), frameon=False)
    return svg(figure)


@styled()
def outlined_picture(picture: NDArray[np.uint8], true: Masks, predicted: Mapping[str, Masks]) -> bytes:
    """Draw a photograph with its outlines: true ones solid, predicted ones dashed, further ones dotted.

    Args:
        picture: (H, W, 3), rows from the top.
        true: structure -> mask (H, W).
        predicted: name of the predictions -> structure -> mask (H, W).

    Returns:
        PNG.
    """
    height, width = picture.shape[:2]
    step = max(1, -(-max(height, width) // _LONGEST))
    figure = new_figure(_WIDTH, _WIDTH * height / width + 0.6)
    axis = figure.subplots()
    axis.imshow(picture[::step, ::step])
    axis.set_axis_off()
    for name, mask in true.items():
        _outline(axis, mask[::step, ::step], name, "-", f"{name}, true")
    for place, (who, masks) in enumerate(predicted.items()):
        beside = f" ({who})" if len(predicted) > 1 else ""
        for name, mask in masks.items():
            style = LINES[1 + place % (len(LINES) - 1)]
            _outline(axis, mask[::step, ::step], name, style, f"{name}, predicted{beside}")
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=3.5)
    return png(figure)


def _outline(axis: Axes, mask: NDArray, name: str, style: str | tuple, label: str) -> None:
    """A line with a dark and a light edge, seen on any skin."""
    part = np.asarray(mask, dtype=float)
    tone = tuple(value / 255 for value in colour(name))
    if part.any():
        if style == "-":
            axis.contour(part, levels=[0.5], colors="black", linewidths=3.0)
            axis.contour(part, levels=[0.5], colors=[tone], linewidths=1.6)
        else:
            axis.contour(part, levels=[0.5], colors="black", linewidths=1.6)
            axis.contour(part, levels=[0.5], colors="white", linewidths=1.6, linestyles=[style])
    solid = {"color": tone, "linestyle": "-"} if style == "-" else {"color": INK, "linestyle": style}
    empty = "" if part.any() else ": empty"
    axis.plot([], [], label=f"{plain(label, 50)}{empty}", linewidth=1.6, **solid)


@styled()
def three_planes(volume: NDArray, grid: Grid, inside: NDArray) -> bytes:
    """Draw the planes through the middle of the body.

    Args:
        volume: (X, Y, Z), shown in grey.
        grid: its grid, any orientation.
        inside: (X, Y, Z), the body.

    Returns:
        PNG.
    """
    turned, ras = reorient(volume, grid)
    body, _ = reorient(np.asarray(inside, dtype=bool), grid)
    found = np.nonzero(body) if body.any() else np.nonzero(np.ones_like(body))
    centre = [int(np.median(axis)) for axis in found]
    dark, bright = np.percentile(turned, _GREY_PERCENT)
    figure = new_figure(9.0, 3.4, facecolor="white")
    for axis, plane in zip(figure.subplots(1, 3), PLANES, strict=True):
        axis.imshow(cut(turned, plane, centre), cmap="gray", vmin=dark, vmax=bright, aspect=aspect_of(ras, plane))
        axis.set_title(plane)
        axis.set_axis_off()
    return png(figure)
