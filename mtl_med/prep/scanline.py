"""Even-odd filling of polygons at pixel centres, one scanline per row of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill", "rising_edges"]

Edges = NDArray[np.float64]

# Corners are known to far less than this; it only makes "exactly on a centre" mean the same on every machine.
_DECIMALS = 8  # of a corner in pixels
_NOISE_PIXELS = 1e-9  # of a crossing between two corners
_CROSSINGS_AT_ONCE = 1 << 20  # bounds the memory for a contour that runs to and fro over the whole image


def rising_edges(loop: NDArray) -> Edges:
    """Sides of a closed polygon that cross rows.

    Args:
        loop: (N, 2) corners x, y in pixel indices (0 is the centre of the first pixel), closed or not.

    Returns:
        (M, 4) rows x0, y0, x1, y1 with y0 < y1. Sides along a row are left out: they bound nothing there. Neighbours
        that share a side get the same numbers for it, whichever way round they run, so that no pixel is in both.
    """
    corners = np.round(np.asarray(loop, dtype=np.float64), _DECIMALS) + 0.0  # + 0.0: no negative zero
    edges = np.hstack([corners, np.roll(corners, -1, axis=0)])
    falling = edges[:, 1] > edges[:, 3]
    edges[falling] = edges[falling][:, [2, 3, 0, 1]]
    return edges[edges[:, 1] < edges[:, 3]]


def fill(loops: Sequence[Edges], image: NDArray[np.uint8]) -> None:
    """Set to 1 the pixels whose centre lies inside an odd number of `loops`; the image must be zero before.

    A centre exactly on a side belongs to the inside to its right (greater x) and below it (greater y): intervals are
    closed at the lower and open at the upper end in both directions.

    Args:
        loops: sides of each polygon, as `rising_edges` gives them.
        image: (rows, columns), C-contiguous, changed in place.
    """
    edges = np.concatenate([*loops, np.empty((0, 4))])
    rows, columns = image.shape
    first = _ceil(edges[:, 1], rows)
    count = _ceil(edges[:, 3], rows) - first
    crossing = count > 0
    edges, first, count = edges[crossing], first[crossing], count[crossing]
    if not len(edges):
        return
    for part in _parts(count):
        _toggle(image, edges[part], first[part], count[part])
    left = _ceil(edges[:, [0, 2]].min() - 1.0, columns)
    right = _ceil(edges[:, [0, 2]].max() + 1.0, columns)
    box = image[first.min() : (first + count).max(), left:right]
    # From left to right each toggle turns inside into outside or back.
    np.bitwise_xor.accumulate(box, axis=1, out=box)


def _ceil(position: NDArray | float, limit: int) -> NDArray[np.int64]:
    """First pixel at or behind a position, from 0 to `limit`."""
    return np.clip(np.ceil(np.asarray(position) - _NOISE_PIXELS), 0, limit).astype(np.int64)


def _parts(count: NDArray[np.int64]) -> list[slice]:
    """Runs of edges with a bounded number of crossings together."""
    number = np.cumsum(count) // _CROSSINGS_AT_ONCE
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(count)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def _toggle(image: NDArray[np.uint8], edges: Edges, first: NDArray[np.int64], count: NDArray[np.int64]) -> None:
    """Flip, for each edge and each row that it crosses, the first pixel at or behind the crossing."""
    of_edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(of_edge)) + np.repeat(first - (np.cumsum(count) - count), count)
    x0, y0, x1, y1 = edges.T
    slope = (x1 - x0) / (y1 - y0)
    column = _ceil(x0[of_edge] + (row - y0[of_edge]) * slope[of_edge], image.shape[1])
    inside = column < image.shape[1]  # what begins right of the image flips nothing in it
    at = row[inside] * image.shape[1] + column[inside]
    np.bitwise_xor.at(image.reshape(-1), at, np.uint8(1))
