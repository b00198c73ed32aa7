"""Where slices lie: sorted along their normal, tilted or uneven ones brought onto an orthogonal, even grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid

__all__ = ["AIR_HU", "SAME_PLACE_MM", "Layout", "lay_out", "straighten"]

SAME_PLACE_MM = 1e-3
TOLERANCE_MM = 0.06
"""Positions may be off from a straight, even course by this much: some writers round them to 0.1 mm."""
_HALVINGS = 80
_UNEVEN = 0.25  # of the pitch, by which rounding alone changes no gap
MOST_TILT_DEGREES = 45.0
MOST_GROWTH = 4  # of the number of slices by resampling
AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class Layout:
    """Slices on their way to an even, orthogonal grid.

    Args:
        grid: the grid that results; axes along rows, down columns and along the normal, ascending.
        shifts: (slices, 2) where each slice starts on it, in pixels along axis 0 and 1; None where all start at 0.
        below: (planes,) for each plane of the grid the slice below it; None where slices are planes.
        weight: (planes,) share of the slice above.
        notes: sentences about what was done.
    """

    grid: Grid
    shifts: NDArray[np.float64] | None
    below: NDArray[np.intp] | None
    weight: NDArray[np.float64] | None
    notes: tuple[str, ...]


def lay_out(
    positions: NDArray[np.float64],
    axes: NDArray[np.float64],
    spacing: tuple[float, float],
    shape: tuple[int, int],
    *,
    thickness: float | None = None,
    resample: bool = False,
    where: str = "",
) -> Layout:
    """Grid of slices in ascending order along the normal.

    Args:
        positions: (slices, 3) RAS mm of the first pixel of each, no two in one place.
        axes: (3, 3) directions along a row, down a column and along the normal, RAS.
        spacing: distance between rows and between columns, mm.
        shape: number of rows and of columns.
        thickness: of a slice, mm; the pitch of a series of one slice.
        resample: whether missing or unevenly spaced slices are interpolated instead of refused.
        where: the series, for errors.

    Raises:
        GeometryError: slices are missing or unevenly spaced and `resample` is not set; or they shift sideways in
            another way than by gantry tilt; or a single slice does not tell its thickness.
    """
    along = (positions - positions[0]) @ axes[2]
    notes: list[str] = []
    sideways, tilt_note = _sideways((positions - positions[0]) @ axes[:2].T, along, where)
    start, pitch, planes, even_note = _pitch(along, thickness, resample, where)
    notes += filter(None, (tilt_note, even_note))
    steps = np.array([spacing[1], spacing[0]])
    size = np.array([shape[1], shape[0]])
    low = sideways.min(axis=0)
    shifts = (sideways - low) / steps if tilt_note else None
    if shifts is None:
        low = np.median(sideways, axis=0)
    else:
        size = size + np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes.T * [*steps, pitch]
    affine[:3, 3] = positions[0] + low @ axes[:2] + start * axes[2]
    affine += 0.0  # no -0
    below = weight = None
    if even_note:
        wanted = pitch * np.arange(planes)
        below = np.clip(np.searchsorted(along, wanted, side="right") - 1, 0, len(along) - 2)
        weight = np.clip((wanted - along[below]) / (along[below + 1] - along[below]), 0, 1)
    return Layout(Grid((int(size[0]), int(size[1]), planes), affine), shifts, below, weight, tuple(notes))


def _sideways(offsets: NDArray[np.float64], along: NDArray[np.float64], where: str) -> tuple[NDArray[np.float64], str]:
    """In-plane offsets (slices, 2), mm, smoothed where slices were shifted by gantry tilt; and a note if they were."""
    straight = offsets - np.median(offsets, axis=0)
    if np.abs(straight).max() <= TOLERANCE_MM:
        return offsets, ""
    course = np.stack([np.ones_like(along), along], axis=1)
    fit, *_ = np.linalg.lstsq(course, offsets, rcond=None)
    degrees = float(np.degrees(np.arctan(np.linalg.norm(fit[1]))))
    worst = float(np.abs(offsets - course @ fit).max())
    if len(along) < 3 or worst > TOLERANCE_MM or degrees > MOST_TILT_DEGREES:
        raise GeometryError(
            f"slices are shifted sideways by up to {np.abs(straight).max():.3g} mm, and not evenly as by gantry tilt",
            where=where,
            fix="Check that all files belong to one series, and export it again",
        )
    return course @ fit, f"slices tilted by {degrees:.1f} degrees were shifted onto an orthogonal grid"


def _pitch(
    along: NDArray[np.float64], thickness: float | None, resample: bool, where: str
) -> tuple[float, float, int, str]:
    """Height of the first plane above the first slice and distance between planes in mm, their number, and a note.

    The note is "" where slices are planes already.
    """
    if len(along) == 1:
        if thickness is None:
            raise GeometryError("is a single slice that does not tell its thickness", where=where)
        return 0.0, thickness, 1, ""
    gaps, span = np.diff(along), float(along[-1])
    even = np.linspace(0, span, len(along))
    if np.abs(along - even).max() <= TOLERANCE_MM:
        return 0.0, span / (len(along) - 1), len(along), ""
    start, pitch, worst = _nearest_line(along)
    if worst <= TOLERANCE_MM and np.abs(gaps - pitch).max() <= _UNEVEN * pitch:
        return start, pitch, len(along), ""
    usual = float(np.median(gaps))
    widest = int(gaps.argmax())
    planes = int(np.floor(span / usual + 1e-3)) + 1
    if not resample or planes > MOST_GROWTH * len(along):
        raise GeometryError(
            f"slices are missing or unevenly spaced: {gaps.min():.3g} to {gaps.max():.3g} mm apart, mostly"
            f" {usual:.3g} mm; the widest gap is {gaps[widest]:.3g} mm, behind slice {widest + 1} of {len(along)}",
            where=where,
            fix="Add the missing slices, or pass --resample to interpolate between those that are there"
            if planes <= MOST_GROWTH * len(along)
            else "Add the missing slices",
        )
    note = (
        f"{len(along)} slices {gaps.min():.3g} to {gaps.max():.3g} mm apart were resampled to {planes}, {usual:.4g} mm"
        " apart"
    )
    return 0.0, usual, planes, note


def _nearest_line(along: NDArray[np.float64]) -> tuple[float, float, float]:
    """Start, pitch and largest deviation of the even course that strays least from the slices.

    Where positions were rounded, those of the first and the last slice were too, and a course through them strays
    twice as far.
    """
    number = np.arange(len(along))
    low, high = float(np.diff(along).min()), float(np.diff(along).max())
    for _ in range(_HALVINGS):  # the width of the stripe is convex in the pitch
        third = (high - low) / 3
        if np.ptp(along - (low + third) * number) < np.ptp(along - (high - third) * number):
            high -= third
        else:
            low += third
    rest = along - (low + high) / 2 * number
    return float(rest.max() + rest.min()) / 2, (low + high) / 2, float(np.ptp(rest)) / 2


def straighten(slices: NDArray, layout: Layout) -> NDArray:
    """Slices on the grid of their layout, by linear interpolation; AIR_HU where no slice reaches.

    Args:
        slices: (slices, rows, columns) HU.
        layout: where they lie.

    Returns:
        (planes, rows, columns) HU of the same type, whole numbers rounded.
    """
    if layout.shifts is not None:
        columns, rows, _ = layout.grid.shape
        shifted = np.empty((len(slices), rows, columns), dtype=slices.dtype)
        for image, (right, down), out in zip(slices, layout.shifts, shifted, strict=True):
            moved = _shifted(_shifted(image.astype(np.float32), float(down), rows).T, float(right), columns).T
            out[...] = _like(moved, out.dtype)
        slices = shifted
    if layout.below is None or layout.weight is None:
        return slices
    planes = np.empty((len(layout.below), *slices.shape[1:]), dtype=slices.dtype)
    for out, below, weight in zip(planes, layout.below, layout.weight, strict=True):
        lower, upper = slices[below].astype(np.float32), slices[below + 1].astype(np.float32)
        out[...] = _like(lower + np.float32(weight) * (upper - lower), out.dtype)
    return planes


def _shifted(image: NDArray[np.float32], shift: float, size: int) -> NDArray[np.float32]:
    """Image moved down its first axis by a number of pixels that need not be whole, on `size` rows."""
    whole = int(np.floor(shift))
    part = np.float32(shift - whole)
    moved = np.full((size + 1, *image.shape[1:]), AIR_HU, dtype=np.float32)
    stop = min(whole + len(image), size)
    moved[whole:stop] += (1 - part) * (image[: stop - whole] - np.float32(AIR_HU))
    stop = min(whole + 1 + len(image), size + 1)
    moved[whole + 1 : stop] += part * (image[: stop - whole - 1] - np.float32(AIR_HU))
    return moved[:size]


def _like(values: NDArray[np.float32], dtype: np.dtype) -> NDArray:
    return np.rint(values) if dtype.kind == "i" else values
