"""Contours grouped by their plane, and the slices of a grid that each plane stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid
from mtl_med.prep.scanline import Edges, rising_edges

__all__ = ["Plane", "Spread", "drawn_pitch_mm", "planes_of", "slice_height_mm", "spread"]

SAME_PLANE_MM = 0.05  # contours nearer than this lie in one plane: coordinates are often rounded to 0.01 mm
WIDEST_PITCH_MM = 10.0  # of slices that anybody draws on: planes farther apart have slices missing between them
_TILTED_SLICES = 0.25  # a contour that leaves its plane by more than this share of the pitch is not parallel to it
_ON_SLICE = 0.02  # of the pitch: nearer planes count as lying on the slice
_PITCH_SLACK_MM = 0.12  # by which neighbouring slices may be farther apart where positions are rounded to 0.1 mm
_TIE_MM = 0.01  # a slice as near as this to the middle between two planes goes to the upper one
_SAME_CORNER_DECIMALS = 4  # of a pixel, when contours are compared


@dataclass(frozen=True, eq=False)
class Plane:
    """Contours that bound one cross section.

    Args:
        position: along axis 2 of the grid, in slices (0 is the first).
        loops: sides of each contour, in pixels, as `rising_edges` gives them.
    """

    position: float
    loops: tuple[Edges, ...]


@dataclass(frozen=True, eq=False)
class Spread:
    """Which plane each slice takes.

    Args:
        plane_of_slice: index of the slice -> index of the plane, ascending; slices without a plane are left out.
        gaps: pairs of drawn slices between which there are others, none of them drawn.
        slice_pitch_mm: distance between the grid's slices.
        plane_pitch_mm: distance between the slices that were drawn on, given or estimated; 0 if unknown.
    """

    plane_of_slice: dict[int, int]
    gaps: tuple[tuple[int, int], ...]
    slice_pitch_mm: float
    plane_pitch_mm: float


def planes_of(contours: Sequence[NDArray], grid: Grid, counts: Counter[str]) -> list[Plane]:
    """Planes in ascending order; contours that cannot be used are counted.

    Args:
        contours: (N, 3) RAS mm each.
        grid: its axis 2 runs across the planes.
        counts: gets "tilted", "outside" (beside the image), "cut" and "repeated".
    """
    groups: list[tuple[float, list[NDArray]]] = []
    last = -np.inf
    apart = SAME_PLANE_MM / _slice_pitch_mm(grid)
    for position, corners in sorted(_flat(contours, grid, counts), key=lambda pair: pair[0]):
        if position - last > apart:
            groups.append((position, []))
        groups[-1][1].append(corners)
        last = position
    return [Plane(position, _loops(group, counts)) for position, group in groups]


def _flat(contours: Sequence[NDArray], grid: Grid, counts: Counter[str]) -> list[tuple[float, NDArray]]:
    """Position in slices and corners (N, 2) in pixels of the contours that lie in a plane and meet the image."""
    if not contours:
        return []
    indices = (np.concatenate(contours) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    starts = np.cumsum([0, *map(len, contours)])
    lowest, highest = (extreme.reduceat(indices, starts[:-1]) for extreme in (np.minimum, np.maximum))
    last = np.array(grid.shape[:2]) - 0.5
    tilted = (highest - lowest)[:, 2] > 2 * _TILTED_SLICES
    beside = ((highest[:, :2] < -0.5) | (lowest[:, :2] > last)).any(axis=1) & ~tilted
    cut = ((lowest[:, :2] < -0.5) | (highest[:, :2] > last)).any(axis=1) & ~tilted & ~beside
    counts.update(tilted=int(tilted.sum()), outside=int(beside.sum()), cut=int(cut.sum()))
    middle = (lowest[:, 2] + highest[:, 2]) / 2
    return [
        (float(middle[number]), indices[starts[number] : starts[number + 1], :2])
        for number in np.flatnonzero(~tilted & ~beside)
    ]


def _loops(group: Sequence[NDArray], counts: Counter[str]) -> tuple[Edges, ...]:
    """Sides of the contours of one plane; a contour that is there twice would cancel itself and is kept once.

    Two contours are the same when they have the same sides, from whichever corner and whichever way round they run.
    """
    loops = [rising_edges(corners) for corners in group]
    if len(loops) == 1:
        return tuple(loops)
    kept: dict[bytes, Edges] = {}
    for loop in loops:
        rounded = np.round(loop, _SAME_CORNER_DECIMALS) + 0.0
        key = rounded[np.lexsort(rounded.T)].tobytes()
        counts["repeated"] += key in kept
        kept.setdefault(key, loop)
    return tuple(kept.values())


def spread(planes: Sequence[Plane], grid: Grid, plane_pitch_mm: float | None, counts: Counter[str]) -> Spread:
    """Give each slice the nearest plane within half a pitch.

    A plane stands for the half-open stretch from half a pitch below it to half a pitch above, so that its thickness is
    the pitch wherever the slices lie. Planes a little farther apart than the pitch, as rounded positions are, share
    what lies between them.

    Args:
        planes: in ascending order.
        grid: the grid whose slices are asked for.
        plane_pitch_mm: distance between the slices that were drawn on; by default the planes' median distance.
        counts: gets "outside" (beyond the slices), "beaten", "between_slices" and "missing_slices".
    """
    slice_mm = _slice_pitch_mm(grid)
    positions = np.array([plane.position for plane in planes])
    if plane_pitch_mm is None:
        plane_pitch_mm = _median_step(positions) * slice_mm
        plane_pitch_mm = plane_pitch_mm if plane_pitch_mm <= WIDEST_PITCH_MM else 0.0
    if not planes:
        return Spread({}, (), slice_mm, plane_pitch_mm)
    half, tie = max(slice_mm, plane_pitch_mm) / slice_mm / 2, _TIE_MM / slice_mm
    slices = np.arange(grid.shape[2]) + tie
    nearest = np.searchsorted((positions[1:] + positions[:-1]) / 2, slices, side="right")
    distance = slices - positions[nearest]
    between = np.searchsorted(positions, slices, side="right")  # of as many planes lie below a slice
    steps = np.concatenate([[np.inf], np.diff(positions), [np.inf]])
    together = steps[between] <= 2 * half + _PITCH_SLACK_MM / slice_mm
    taken = np.flatnonzero(together | ((distance >= -half) & (distance < half)))
    reached = (positions - half <= slices[-1]) & (slices[0] < positions + half)
    used = np.isin(np.arange(len(planes)), nearest[taken])
    off_slice = np.abs(positions - np.round(positions)) > _ON_SLICE
    loops = np.array([len(plane.loops) for plane in planes])
    after = np.flatnonzero(np.diff(taken) > 1)
    gaps = tuple((int(taken[at]), int(taken[at + 1])) for at in after)
    counts.update(
        outside=int(loops[~reached].sum()),
        beaten=int(loops[reached & ~used].sum()),
        between_slices=int(loops[used & off_slice].sum()),
        missing_slices=sum(above - below - 1 for below, above in gaps),
    )
    return Spread({int(index): int(nearest[index]) for index in taken}, gaps, slice_mm, plane_pitch_mm)


def drawn_pitch_mm(rois: Sequence[Sequence[NDArray]], grid: Grid) -> float:
    """Distance between the slices of a CT that is not here: the most frequent one between planes of a structure.

    Args:
        rois: contours of each structure, (N, 3) RAS mm.
        grid: drawn on; its slices run parallel to the contours, and have the distance that is taken without planes.
    """
    normal = _normal(grid)
    steps: list[float] = []
    for contours in rois:
        heights = np.sort([float(contour.mean(axis=0) @ normal) for contour in contours])
        apart = np.diff(heights)
        steps += apart[(apart > SAME_PLANE_MM) & (apart <= WIDEST_PITCH_MM)].tolist()
    found = np.array(steps)
    tenths = Counter(found.round(1).tolist())
    most = max(tenths.values(), default=0)
    if most < 2:
        return grid.spacing_mm[2]
    usual = min(step for step, count in tenths.items() if count == most)
    return float(np.median(found[np.abs(found - usual) < 0.1]))


def _median_step(positions: NDArray[np.float64]) -> float:
    """Median distance of neighbouring planes (of an even number the lower one); 0 where there is none to tell by."""
    steps = np.sort(np.diff(positions))
    return float(steps[(len(steps) - 1) // 2]) if len(steps) else 0.0


def slice_height_mm(index: int, grid: Grid) -> float:
    """Where a slice lies across the slices, RAS mm: for an axial grid its z."""
    normal = _normal(grid)
    upwards = np.sign(normal[np.abs(normal).argmax()])
    return float(upwards * normal @ (grid.affine[:3, 3] + index * grid.affine[:3, 2]))


def _normal(grid: Grid) -> NDArray[np.float64]:
    """Unit normal of the slices, towards greater indices."""
    normal = np.cross(grid.affine[:3, 0], grid.affine[:3, 1])
    return normal / np.linalg.norm(normal) * np.sign(normal @ grid.affine[:3, 2])


def _slice_pitch_mm(grid: Grid) -> float:
    """Distance between neighbouring slices along their normal."""
    return float(_normal(grid) @ grid.affine[:3, 2])
