"""Doses laid over the CT on three planes through a point, with outlines of the structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid
from mtl_med.io.colours import colour
from mtl_med.planes import PLANE_AXES, PLANES, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MANNERS", "Manner", "Wash", "draw_planes"]

Cuts = dict[str, NDArray[np.bool_]]
_LETTERS = {"axial": "RA", "coronal": "RS", "sagittal": "AS"}  # what lies on the left and at the top
_GREY_HU = (-200.0, 400.0)
_BAR_IN, _HEAD_IN, _SIDE_IN, _GAP_IN, _LEGEND_IN = 1.0, 0.5, 0.42, 0.06, 0.24


@dataclass(frozen=True)
class Manner:
    """How values are laid over the CT.

    Args:
        colours: name of matplotlib's colour map.
        label: of the colour bar.
        low: of the colours, in units of the scale.
        high: of the colours, in units of the scale.
        hidden: values whose size is below this, in units of the scale, are not shown.
        strength: opacity.
    """

    colours: str
    label: str
    low: float
    high: float
    hidden: float
    strength: float = 0.5


MANNERS: Mapping[str, Manner] = {
    "dose": Manner("turbo", "dose, Gy", 0.0, 1.0, 0.1),
    "difference": Manner("RdBu_r", "difference, Gy", -0.25, 0.25, 0.02, 0.6),
    "gamma": Manner("RdBu_r", "gamma", 0.5, 1.5, 0.0, 0.7),
}
"""Name -> how it is shown; the scale of doses and differences is the highest dose, that of gamma is 1."""


@dataclass(frozen=True, eq=False)
class Wash:
    """A column of pictures: values over the CT.

    Args:
        title: above it.
        values: (X, Y, Z); NaN is not shown.
        manner: a key of `MANNERS`.
        outlines: name -> (X, Y, Z) mask, each asked for once, drawn along the edges of its voxels.
        dotted: name -> mask, drawn as dots at the same edges.
    """

    title: str
    values: NDArray
    manner: str = "dose"
    outlines: Mapping[str, NDArray] = field(default_factory=dict)
    dotted: Mapping[str, NDArray] = field(default_factory=dict)


def draw_planes(
    ct: NDArray | None,
    grid: Grid,
    washes: Sequence[Wash],
    centre: Sequence[int],
    box: tuple[slice, ...],
    *,
    title: str,
    scales: Mapping[str, float],
    width_in: float = 10.5,
    rows_are_planes: bool = True,
) -> Figure:
    """Three planes through a voxel, all on one scale in mm, patient's right on the left.

    Args:
        ct: (X, Y, Z) HU; None leaves the ground black.
        grid: of everything, in RAS order.
        washes: what is laid over it, side by side.
        centre: voxel (x, y, z) within the box that the planes go through; it is marked by a cross.
        box: part of the grid that is shown.
        title: above the figure.
        scales: manner -> what its limits are multiplied with.
        width_in: width of the figure, inches.
        rows_are_planes: one column per wash; else one row per wash.

    Returns:
        The figure, not yet drawn; structures that the planes go through are numbered in the first wash and named below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across_mm = [(side.stop - side.start) * mm for side, mm in zip(box, grid.spacing_mm, strict=True)]
    sizes = {plane: (across_mm[PLANE_AXES[plane][0]], across_mm[PLANE_AXES[plane][1]]) for plane in PLANES}
    # Masks are asked for once, one after the other: a mapping may unpack them, and all of a large CT are gigabytes.
    different = {id(masks): masks for wash in washes for masks in (wash.outlines, wash.dotted)}
    known = {key: _cuts(masks, centre, box) for key, masks in different.items()}
    names = list(dict.fromkeys(name for cuts in known.values() for name in cuts))
    legend_in = _LEGEND_IN * -(-len(names) // 7) + 0.08
    widths = [max(w for w, _ in sizes.values())] * len(washes) if rows_are_planes else [w for w, _ in sizes.values()]
    heights = [h for _, h in sizes.values()] if rows_are_planes else [max(h for _, h in sizes.values())] * len(washes)
    per_mm = (width_in - _SIDE_IN - _BAR_IN - _GAP_IN * len(widths)) / sum(widths)
    height_in = sum(heights) * per_mm + _HEAD_IN + legend_in + _GAP_IN * len(heights)
    figure = Figure(figsize=(width_in, height_in), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(_SIDE_IN / width_in, 1 - 0.06 / height_in, title, fontsize=11, va="top", parse_math=False)
    drawn = {name for wash in washes for name in known[id(wash.outlines)]}
    numbers = {name: str(number) if name in drawn else "" for number, name in enumerate(names, start=1)}
    for index, wash in enumerate(washes):
        for place, plane in enumerate(PLANES):
            row, column = (place, index) if rows_are_planes else (index, place)
            width, height = (side * per_mm for side in sizes[plane])
            left = _SIDE_IN + sum(widths[:column]) * per_mm + _GAP_IN * column + (widths[column] * per_mm - width) / 2
            top = height_in - _HEAD_IN - sum(heights[:row]) * per_mm - _GAP_IN * row
            axis = figure.add_axes(
                (left / width_in, (top - height) / height_in, width / width_in, height / height_in),
                xticks=[],
                yticks=[],
            )
            lines = [(known[id(masks)], dotted) for masks, dotted in ((wash.outlines, False), (wash.dotted, True))]
            _draw(axis, plane, ct, wash, lines, centre, box, scales[wash.manner], numbers if index == 0 else {})
            if (column if rows_are_planes else row) == 0:
                along = PLANE_AXES[plane][2]
                told = f"{plane}, {'xyz'[along]} {grid.points_ras(np.array([centre]))[0, along]:.0f} mm"
                axis.set_ylabel(told, fontsize=9) if rows_are_planes else axis.set_title(told, fontsize=9, pad=3)
            if (row if rows_are_planes else column) == 0:
                axis.set_title(wash.title, fontsize=10, pad=3) if rows_are_planes else axis.set_ylabel(wash.title)
    _bars(figure, list(dict.fromkeys(wash.manner for wash in washes)), scales, (width_in, height_in), legend_in)
    _legend(figure, numbers)
    return figure


def _cuts(masks: Mapping[str, NDArray], centre: Sequence[int], box: tuple[slice, ...]) -> dict[str, Cuts]:
    """Name -> plane -> slice, of the masks that one of the planes goes through."""
    found = {}
    for name, mask in masks.items():
        cuts = {plane: _part(mask, plane, centre, box) > 0 for plane in PLANES}
        if any(shape.any() for shape in cuts.values()):
            found[name] = cuts
    return found


def _part(volume: NDArray, plane: str, centre: Sequence[int], box: tuple[slice, ...]) -> NDArray:
    return cut(volume[box], plane, [index - side.start for index, side in zip(centre, box, strict=True)])


def _draw(
    axis: Axes,
    plane: str,
    ct: NDArray | None,
    wash: Wash,
    lines: Sequence[tuple[Mapping[str, Cuts], bool]],
    centre: Sequence[int],
    box: tuple[slice, ...],
    scale: float,
    numbers: Mapping[str, str],
) -> None:
    ground = None if ct is None else _part(ct, plane, centre, box)
    picture = _laid_over(ground, _part(wash.values, plane, centre, box), MANNERS[wash.manner], scale)
    axis.imshow(picture, aspect="auto", interpolation="nearest")
    for cuts, dotted in lines:
        for name, shapes in cuts.items():
            shape = shapes[plane]
            if shape.any():
                _outline(axis, shape, name, dotted=dotted)
                if name in numbers and not dotted:
                    _number(axis, shape, numbers[name])
    across, up, _ = PLANE_AXES[plane]
    rows, columns = picture.shape[:2]
    cross = (columns - 1 - centre[across] + box[across].start, rows - 1 - centre[up] + box[up].start)
    axis.plot(*cross, marker="+", markersize=13, markeredgecolor="white", markeredgewidth=1.0)
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)
    letters = _LETTERS[plane]
    axis.text(0.01, 0.5, letters[0], color="white", fontsize=8, transform=axis.transAxes, va="center")
    axis.text(0.5, 0.985, letters[1], color="white", fontsize=8, transform=axis.transAxes, va="top", ha="center")


def _laid_over(ct: NDArray | None, values: NDArray, manner: Manner, scale: float) -> NDArray[np.uint8]:
    """(rows, columns, 3): grey CT with colours over it."""
    from matplotlib import colormaps

    low, high = _GREY_HU
    grey = np.zeros(values.shape) if ct is None else np.clip((ct - low) / (high - low), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    seen = np.isfinite(values) & (np.abs(np.nan_to_num(values)) >= manner.hidden * scale)
    span = (manner.high - manner.low) * scale
    wash = colormaps[manner.colours](np.clip((values[seen] - manner.low * scale) / span, 0, 1))[:, :3]
    picture[seen] = (1 - manner.strength) * picture[seen] + manner.strength * wash
    return np.rint(picture * 255).astype(np.uint8)


def _outline(axis: Axes, shape: NDArray[np.bool_], name: str, *, dotted: bool) -> None:
    """The edges of a mask's pixels, all in one path."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    padded = np.pad(shape, 1)
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])[:, ::-1] - 0.5  # (x, y) where each edge starts
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])[:, ::-1] - 0.5
    near, far = (0.25, 0.75) if dotted else (0.0, 1.0)
    ends = [
        np.stack([starts + near * way, starts + far * way], axis=1)
        for starts, way in ((upright, np.array([0.0, 1.0])), (level, np.array([1.0, 0.0])))
    ]
    points = np.concatenate(ends).reshape(-1, 2)
    line = Line(points, np.tile([Line.MOVETO, Line.LINETO], len(points) // 2))
    style: dict[str, Any] = {"edgecolor": _rgb(name), "linewidth": 1.4, "capstyle": "projecting"}
    if dotted:
        style |= {"linewidth": 1.8, "capstyle": "butt"}
    axis.add_patch(PathPatch(line, fill=False, **style))


def _number(axis: Axes, shape: NDArray[np.bool_], number: str) -> None:
    rows, columns = np.nonzero(shape)
    # A pixel of the structure itself: the middle of a ring lies outside of it.
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    style: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center", "color": "white", "fontweight": "bold"}
    axis.text(columns[nearest], rows[nearest], number, **style)


def _bars(
    figure: Figure, manners: Sequence[str], scales: Mapping[str, float], size_in: tuple[float, float], low_in: float
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    width, height = size_in
    room = (height - _HEAD_IN - low_in) / len(manners)
    for index, name in enumerate(manners):
        manner, scale = MANNERS[name], scales[name]
        high = height - _HEAD_IN - room * index - 0.1 * room
        place = ((width - _BAR_IN + 0.1) / width, (high - 0.8 * room) / height, 0.16 / width, 0.8 * room / height)
        norm = Normalize(manner.low * scale, manner.high * scale)
        bar = figure.colorbar(ScalarMappable(norm, manner.colours), cax=figure.add_axes(place), label=manner.label)
        bar.ax.tick_params(labelsize=8)


def _legend(figure: Figure, numbers: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    from mtl_med.html import visible

    handles = [
        Line2D([], [], color=_rgb(name), linewidth=2.5, label=f"{number} {_short(str(visible(name)))}".strip())
        for name, number in numbers.items()
    ]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=min(7, len(handles)), fontsize=8.5, frameon=False)


def _short(name: str, longest: int = 24) -> str:
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return name.replace("$", r"\$")


def _rgb(name: str) -> tuple[float, float, float]:
    red, green, blue = colour(name)
    return red / 255, green / 255, blue / 255
