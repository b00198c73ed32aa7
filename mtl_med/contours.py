"""Masks as polygons that run along the edges of voxels, so that drawing them again gives the very same mask.

A polygon through voxel centres loses half a voxel on every side. Along the edges its area is the area of its voxels,
and no voxel centre lies on it, so that any reader that asks for centres inside finds each voxel, whatever its rule for
edges.

Diagonal neighbours do not belong together: they end in polygons that share a corner. Every polygon is simple (it never
meets itself); outer ones run counter-clockwise and those around holes clockwise, seen along the third array axis.

A hole is told in one of two ways:

- `keyhole`: a cut without width, along voxel edges, leads from the outer polygon to the hole, and back. This is the
  technique that DICOM PS3.3 C.8.8.6.3 shows, and every way to read it (even-odd, winding number, union of filled
  contours) leaves the hole open.
- `separate`: the hole is a polygon of its own. Readers that count crossings (even-odd, XOR) leave it open, readers that
  unite contours fill it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError, UsageError, nearest
from mtl_med.geometry import Grid

__all__ = ["HOLES", "Contour", "edge_polygons", "mask_contours"]

HOLES = ("keyhole", "separate")

Polygon = NDArray[np.int64]
"""(N, 2) corners of voxels, the last joined to the first: corner (i, j) is the one at indices (i - 0.5, j - 0.5)."""


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed polygon in one slice.

    Args:
        slice: index along the third array axis.
        points: (N, 3) corners in RAS mm, the last joined to the first.
    """

    slice: int
    points: NDArray[np.float64]


def mask_contours(mask: NDArray, grid: Grid, *, holes: str = "keyhole") -> list[Contour]:
    """Polygons around the voxels of a mask, slice by slice along the third array axis.

    Args:
        mask: (X, Y, Z) on `grid`.
        grid: its grid, RAS mm.
        holes: "keyhole" or "separate".

    Returns:
        Contours in the order of the slices; none for an empty mask.

    Raises:
        GeometryError: the mask has another shape than the grid.
        UsageError: `holes` is neither of the two.
    """
    if mask.shape != grid.shape:
        raise GeometryError(f"mask of shape {mask.shape} on a grid of shape {grid.shape}")
    contours = []
    for number, polygon in edge_polygons(mask, holes=holes):
        indices = np.column_stack([polygon - 0.5, np.full(len(polygon), number)])
        contours.append(Contour(number, grid.points_ras(indices)))
    return contours


def edge_polygons(mask: NDArray, *, holes: str = "keyhole") -> Iterator[tuple[int, Polygon]]:
    """Index of the slice and corners of each polygon; see `mask_contours`."""
    if holes not in HOLES:
        raise UsageError(f"unknown way to tell holes '{holes}'", fix=nearest(holes, HOLES))
    low, box = _crop(np.asarray(mask, dtype=bool))
    if box.size == 0:
        return
    for number, outer, inner in _polygons_by_slice(box):
        polygons = [*outer, *inner] if holes == "separate" else _with_keyholes(outer, inner)
        for polygon in polygons:
            yield number + int(low[2]), polygon + low[:2]


def _crop(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """First index along each axis and the box that holds all voxels; an empty box for an empty mask."""
    low, high = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(used):
            low[axis], high[axis] = used[0], used[-1] + 1
    return low, mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]


def _polygons_by_slice(box: NDArray[np.bool_]) -> Iterator[tuple[int, list[Polygon], list[Polygon]]]:
    """Slice, polygons around voxels, polygons around holes."""
    corners, links = _corners(box)
    slices: dict[int, tuple[list[Polygon], list[Polygon]]] = {}
    for loop in _loops(*links):
        points = corners[loop]
        number, polygon = int(points[0, 2]), points[:, :2]
        first = polygon[np.lexsort((polygon[:, 1], polygon[:, 0]))[0]]
        # The voxel that lies in the first corner of a simple polygon is inside it.
        is_outer = bool(_voxel(box, first[0], first[1], number))
        if (_doubled_area(polygon) > 0) != is_outer:
            polygon = polygon[::-1]
        slices.setdefault(number, ([], []))[0 if is_outer else 1].append(polygon)
    for number in sorted(slices):
        yield number, *slices[number]


def _voxel(box: NDArray[np.bool_], i: int, j: int, k: int) -> bool:
    return i < box.shape[0] and j < box.shape[1] and bool(box[i, j, k])


def _doubled_area(polygon: Polygon) -> int:
    x, y = polygon.T
    return int(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _corners(box: NDArray[np.bool_]) -> tuple[NDArray[np.int64], tuple[list[int], list[int], list[int]]]:
    """Where edges of voxels turn, and how these corners are joined.

    Returns:
        (N, 3) corners (i, j, slice), and three lists: the corner at the other end of the edge along the first axis, of
        that along the second, and the other corner at the same place (-1 where there is none). Where two voxels touch
        diagonally, two corners lie at one place: each belongs to one of the voxels.
    """
    padded = np.pad(box, ((1, 1), (1, 1), (0, 0)))
    west_south, east_south = padded[:-1, :-1], padded[1:, :-1]
    west_north, east_north = padded[:-1, 1:], padded[1:, 1:]
    turning = np.argwhere(west_south ^ east_south ^ west_north ^ east_north)
    touching = (west_south == east_north) & (east_south == west_north) & (west_south != west_north)
    double = np.argwhere(touching)
    rising = east_north[touching]  # the voxels lie south-west and north-east of the corner
    count, extra = len(turning), len(double)
    corners = np.concatenate([turning, double, double])
    # Of two corners at one place the first ends the edge from the west, the second that to the east. The first also
    # ends the edge from the south where its voxel is the south-western one, else that to the north.
    along_x = np.concatenate([np.zeros(count + extra, dtype=bool), np.ones(extra, dtype=bool)])
    along_y = np.concatenate([np.zeros(count, dtype=bool), ~rising, rising])
    i, j, k = corners.T
    twin = np.full(len(corners), -1)
    twin[count : count + extra] = np.arange(count + extra, count + 2 * extra)
    twin[count + extra :] = np.arange(count, count + extra)
    east_west = _pairs(np.lexsort((along_x, i, j, k)))
    north_south = _pairs(np.lexsort((along_y, j, i, k)))
    return corners, (east_west, north_south, twin.tolist())


def _pairs(order: NDArray[np.int64]) -> list[int]:
    """Partner of each corner: along a line of the grid the corners are the ends of edges, two by two."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner.tolist()


def _loops(east_west: list[int], north_south: list[int], twin: list[int]) -> Iterator[list[int]]:
    """Corners of each simple polygon, in the order in which it runs."""
    seen = bytearray(len(twin))
    for start in range(len(twin)):
        if seen[start]:
            continue
        path: list[int] = []
        doubles, at = 0, start
        while not seen[at]:
            across = east_west[at]
            path += (at, across)
            seen[at] = seen[across] = 1
            doubles += (twin[at] >= 0) + (twin[across] >= 0)
            at = north_south[across]
        yield from _cut_where_it_meets_itself(path, twin) if doubles > 1 else (path,)


def _cut_where_it_meets_itself(path: list[int], twin: list[int]) -> Iterator[list[int]]:
    rest: list[int] = []
    place: dict[int, int] = {}
    for corner in path:
        if twin[corner] in place:
            start = place[twin[corner]]
            loop = rest[start:]
            yield loop
            del rest[start:]
            for gone in loop:
                place.pop(gone, None)
        if twin[corner] >= 0:
            place[corner] = len(rest)
        rest.append(corner)
    yield rest


def _with_keyholes(outer: list[Polygon], inner: list[Polygon]) -> list[Polygon]:
    """Each hole joined to the polygon west of its westernmost corner, which surrounds it or is one of its other holes.

    From that corner the cut runs west through voxels of the same island until it meets a polygon. That one begins
    farther west than the hole, so that it is an outer polygon or has been joined before.
    """
    polygons = list(outer)
    for hole in sorted(inner, key=lambda polygon: polygon[:, 0].min()):
        first = np.lexsort((hole[:, 1], hole[:, 0]))[0]
        start = hole[first]
        number, at, meeting = _first_to_the_west(polygons, start)
        way = np.concatenate([meeting[None], np.roll(hole, -first, axis=0), start[None], meeting[None]])
        polygon = polygons[number]
        polygons[number] = _without_repeats(np.concatenate([polygon[: at + 1], way, polygon[at + 1 :]]))
    return polygons


def _first_to_the_west(polygons: list[Polygon], start: NDArray[np.int64]) -> tuple[int, int, NDArray[np.int64]]:
    """Polygon, the edge of it (by its first corner) and the point in which a line from `start` to the west meets it."""
    best: tuple[tuple[int, bool], int, int] | None = None
    for number, polygon in enumerate(polygons):
        (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
        low, high = np.minimum(y, next_y), np.maximum(y, next_y)
        met = np.flatnonzero((x == next_x) & (x <= start[0]) & (low <= start[1]) & (start[1] <= high))
        if not len(met):
            continue
        # Where two islands share the corner that is met, the edge that goes on to the north is that of our own.
        northern = low[met] == start[1]
        nearest_edge = np.lexsort((northern, x[met]))[-1]
        key = (int(x[met[nearest_edge]]), bool(northern[nearest_edge]))
        if best is None or key > best[0]:
            best = (key, number, int(met[nearest_edge]))
    if best is None:
        raise GeometryError("a hole without voxels around it")
    return best[1], best[2], np.array([best[0][0], start[1]])


def _without_repeats(polygon: Polygon) -> Polygon:
    return polygon[(polygon != np.roll(polygon, 1, axis=0)).any(axis=1)]
