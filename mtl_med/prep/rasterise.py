"""Closed contours to a voxel mask: a voxel belongs to a structure when its centre lies inside, by the even-odd rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid
from mtl_med.prep.contour_planes import Plane, Spread, planes_of, slice_height_mm, spread
from mtl_med.prep.scanline import fill

__all__ = ["Raster", "rasterise"]

_GAPS_TOLD = 2  # more are told in one sentence
_ODD = {
    "repeated": "{} contours repeat another one exactly and were dropped",
    "tilted": "{} contours are not parallel to the slices and were left out",
    "outside": "{} contours lie outside the image and were left out",
    "cut": "{} contours reach beyond the image and were cut",
}
_ODD_ON_DRAWN_SLICES = {  # and a matter of course on a grid with other slices
    "beaten": "{} contours were left out, as another plane is nearer to their slice",
    "between_slices": "{} contours lie between slices and were put on the nearest",
}


@dataclass(frozen=True, eq=False)
class Raster:
    """A structure as voxels.

    Args:
        mask: (X, Y, Z) uint8, 0 or 1, in Fortran order (axis 0 runs fastest, as in NIfTI files).
        counts: what became of the contours -> how many; only what happened at all. "contours" were given. Of these
            "repeated" (another one of the same plane once more), "tilted" (not parallel to the slices), "outside"
            (beyond the slices or beside the image) and "beaten" (another plane is nearer to the slice) were left out;
            "cut" ones reach beyond the image, "between_slices" ones went to the nearest slice. "missing_slices" have
            no contour though slices on both sides have, "interpolated_slices" were filled for that.
        notes: the same as sentences, where somebody should look.
    """

    mask: NDArray[np.uint8]
    counts: dict[str, int]
    notes: tuple[str, ...]


def rasterise(
    contours: Sequence[NDArray],
    grid: Grid,
    *,
    plane_pitch_mm: float | None = None,
    interpolate_gaps: bool = False,
    where: str | Path = "",
) -> Raster:
    """Mask of one structure.

    Nothing is rounded to pixels: corners stay where they are, and pixel centres are tested. Contours are grouped by
    their plane, and within a plane the even-odd rule makes holes, islands and keyholes. A centre exactly on a side
    belongs to the inside towards greater indices (see `mtl_med.prep.scanline.fill`). Each slice takes the nearest plane
    within half a pitch, the slice's own or that of the planes, whichever is larger; planes are never mixed.

    Args:
        contours: (N, 3) corners of each closed contour, RAS mm.
        grid: grid of the mask; its axis 2 runs across the contours' planes. Its slices need not lie on the planes.
        plane_pitch_mm: distance between the slices that the structure was drawn on, if known. Else it is the median
            distance between its planes (which is wrong for a structure drawn on every other slice, as its gaps are
            then filled).
        interpolate_gaps: fill slices without contour between others by interpolating shapes; else they stay empty.
        where: the file or case, for errors.

    Raises:
        GeometryError: a contour is no finite (N, 3) array of three points or more.

    Source: DICOM PS3.3 C.8.8.6.3 (inner and outer contours of one plane).
    """
    points = [np.asarray(contour, dtype=np.float64) for contour in contours]
    for contour in points:
        if contour.ndim != 2 or contour.shape[1] != 3 or len(contour) < 3 or not np.isfinite(contour).all():
            raise GeometryError(f"a contour needs three finite points or more, found {contour.shape}", where=where)
    volume = np.zeros(grid.shape[::-1], dtype=np.uint8)  # (Z, Y, X), so that a slice is one piece of memory
    counts = Counter[str]()
    planes = planes_of(points, grid, counts)
    layout = spread(planes, grid, plane_pitch_mm, counts)
    _draw(planes, layout, volume)
    notes = _notes(layout, counts, grid, plane_pitch_mm is None)
    if interpolate_gaps:
        for below, above in layout.gaps:
            counts["interpolated_slices"] += _interpolate(volume, planes, layout, below, above, grid)
    return Raster(volume.T, {"contours": len(points), **+counts}, tuple(notes))


def _draw(planes: Sequence[Plane], layout: Spread, volume: NDArray[np.uint8]) -> None:
    """Fill each plane once, and copy it where a finer grid has several slices for it."""
    drawn: dict[int, int] = {}
    for slice_index, plane_index in layout.plane_of_slice.items():
        if plane_index in drawn:
            volume[slice_index] = volume[drawn[plane_index]]
            continue
        fill(planes[plane_index].loops, volume[slice_index])
        drawn[plane_index] = slice_index


def _interpolate(
    volume: NDArray[np.uint8], planes: Sequence[Plane], layout: Spread, below: int, above: int, grid: Grid
) -> int:
    """Fill the slices between two drawn ones where the blend of their signed distances is inside; number of slices.

    Source: Raya and Udupa 1990, shape-based interpolation of multidimensional objects.
    """
    either = volume[below] | volume[above]
    if not volume[below].any() or not volume[above].any():
        return 0
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    box = np.s_[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]
    row_column_mm = grid.spacing_mm[1::-1]
    low, high = (_signed_distance_mm(volume[index][box], row_column_mm) for index in (below, above))
    start, stop = (planes[layout.plane_of_slice[index]].position for index in (below, above))
    for index in range(below + 1, above):
        share = np.clip((index - start) / (stop - start), 0.0, 1.0)
        volume[index][box] = (1.0 - share) * low + share * high > 0
    return above - below - 1


def _signed_distance_mm(mask: NDArray[np.uint8], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Distance to the outline, mm: positive inside, negative outside."""
    from scipy.ndimage import distance_transform_edt

    ringed = np.pad(mask, 1)  # else a mask that fills its box has no outside
    distance = distance_transform_edt(ringed, sampling=spacing_mm) - distance_transform_edt(1 - ringed, spacing_mm)
    return distance[1:-1, 1:-1]


def _notes(layout: Spread, counts: Counter[str], grid: Grid, estimated: bool) -> list[str]:
    """Sentences for what a person should look at."""
    slice_mm, plane_mm = layout.slice_pitch_mm, layout.plane_pitch_mm
    on_drawn_slices = not plane_mm or abs(plane_mm - slice_mm) < 0.01 * slice_mm
    looked_at = {**_ODD, **(_ODD_ON_DRAWN_SLICES if on_drawn_slices else {})}
    notes = [sentence.format(counts[key]) for key, sentence in looked_at.items() if counts[key]]
    if estimated and plane_mm > 1.5 * slice_mm:
        notes.append(f"contours are {plane_mm:.4g} mm apart, slices {slice_mm:.4g} mm; each contour fills its share")
    together = len(layout.gaps) > _GAPS_TOLD
    for gaps in [layout.gaps] if together else [(gap,) for gap in layout.gaps]:
        missing = sum(above - below - 1 for below, above in gaps)
        where = f"in {len(gaps)} gaps between" if together else "between"
        notes.append(
            f"no contour on {missing} slice{'s' * (missing > 1)} {where} {slice_height_mm(gaps[0][0], grid):.1f} and "
            f"{slice_height_mm(gaps[-1][1], grid):.1f} mm (slices are {slice_mm:.4g} mm apart)"
        )
    return notes
