"""Where the planes of an RTDOSE lie: the Grid Frame Offset Vector in all its forms, and planes made evenly spaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError

__all__ = ["ascending_planes", "plane_offsets_mm"]

SAME_PLACE_MM = 0.01  # decimal strings keep at most 16 characters, and planning systems write fewer
WIDEST_GAP = 10.0  # times the narrowest one; a linear course of dose over more would be invented


def plane_offsets_mm(
    vector: NDArray[np.float64], position_z: float, normal_z: float, path: str | Path
) -> NDArray[np.float64]:
    """Distances of the planes from Image Position (Patient) along row x column direction.

    Args:
        vector: (frames,) Grid Frame Offset Vector, mm.
        position_z: third element of Image Position (Patient), mm.
        normal_z: third element of row x column direction.
        path: the file, for errors.

    Returns:
        (frames,) mm, ascending or descending.

    Raises:
        GeometryError: the offsets are neither relative nor absolute, or do not run in one direction.

    Source: DICOM PS3.3 C.8.8.3.2. The absolute form is defined for row (1,0,0) and column (0,1,0) only; all transverse
        planes are read here, for which it is just as unambiguous (prone and feet-first patients).
    """
    steps = np.diff(vector)
    if not (np.all(steps > SAME_PLACE_MM) or np.all(steps < -SAME_PLACE_MM)):
        raise GeometryError(
            "its dose planes do not run in one direction (Grid Frame Offset Vector)", where=path, fix="Export it again"
        )
    if abs(vector[0]) <= SAME_PLACE_MM / 10:  # asked first: where z is 0 too, both forms mean the same on a supine grid
        return vector - vector[0]
    if abs(vector[0] - position_z) <= SAME_PLACE_MM and abs(normal_z) > 1 - 1e-6:
        return (vector - vector[0]) / normal_z
    raise GeometryError(
        f"its first grid frame offset is {vector[0]:g} mm, expected 0 (relative), or on transverse planes the z of its"
        f" position, {position_z:g} mm (absolute)",
        where=path,
        fix="Export it again, or correct the Grid Frame Offset Vector",
    )


def ascending_planes(
    planes: NDArray[np.float32], offsets: NDArray[np.float64], path: str | Path
) -> tuple[NDArray[np.float32], float, float, str]:
    """Planes in ascending order and evenly spaced, resampled linearly where they are not.

    Args:
        planes: (frames, rows, columns) values.
        offsets: (frames,) where they lie along the normal, mm, ascending or descending.
        path: the file, for errors.

    Returns:
        (planes, rows, columns) values, offset of the first plane in mm, distance between planes in mm, and a sentence
        if they were resampled ("" otherwise). First and last plane stay where they were.

    Raises:
        GeometryError: the widest gap is more than ten times the narrowest one.
    """
    if offsets[0] > offsets[-1]:
        planes, offsets = np.ascontiguousarray(planes[::-1]), offsets[::-1]
    first, count = float(offsets[0]), len(offsets)
    span, gaps = float(offsets[-1]) - first, np.diff(offsets)
    even = np.linspace(first, offsets[-1], count)
    if np.abs(even - offsets).max() <= SAME_PLACE_MM:
        return planes, first, span / (count - 1), ""
    if gaps.max() > WIDEST_GAP * gaps.min():
        raise GeometryError(
            f"has a gap of {gaps.max():g} mm between two dose planes, others are {gaps.min():g} mm apart",
            where=path,
            why="What the dose is in between is unknown",
            fix="Export the whole dose grid",
        )
    wanted = int(np.ceil(span / gaps.min() - 1e-6)) + 1
    note = f"dose planes {gaps.min():g} to {gaps.max():g} mm apart were resampled to {span / (wanted - 1):.4g} mm"
    return _between(planes, offsets, np.linspace(first, offsets[-1], wanted)), first, span / (wanted - 1), note


def _between(
    planes: NDArray[np.float32], offsets: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Linear interpolation along the first axis; a plane that is there already comes back unchanged."""
    below = np.clip(np.searchsorted(offsets, wanted, side="right") - 1, 0, len(offsets) - 2)
    weight = np.clip((wanted - offsets[below]) / (offsets[below + 1] - offsets[below]), 0, 1).astype(np.float32)
    result = np.empty((len(wanted), *planes.shape[1:]), dtype=np.float32)
    for out, lower, share in zip(result, below, weight, strict=True):
        np.multiply(planes[lower], 1 - share, out=out)
        out += planes[lower + 1] * share
    return result
