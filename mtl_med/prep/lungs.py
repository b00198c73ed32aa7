"""Where the lungs lie in a chest CT, by thresholds and connected components; no weights of a network are needed.

Air within the body that no way through air leads out of is lung, bowel gas or an airway. Lung is never as empty as gas,
and is large. What is found is the aerated lung with its vessels, small opacities and the airways in it. Consolidation
that fills a lobe has no border to be found by: it is not in the mask, but in the box, which is as wide to both sides of
the body's middle and at least so high and deep as lungs of its width are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.geometry import Grid
from mtl_med.prep.shrink import block_grid, block_mean, factors_for
from mtl_med.prep.turning import Box, bounding_box

__all__ = ["LungRegion", "find_lungs"]

WORKING_MM = 3.0  # voxels are made about so large first: walls of 5 mm stay, noise goes
SMOOTHING_MM = 1.5
AIR_BELOW_HU = -400.0  # ground glass up to half opaque counts as air
TISSUE_ABOVE_HU = -300.0
GAS_BELOW_HU = -955.0  # mean of a region: severe emphysema lies above, gas in bowel and folds of the skin below
THIN_MM = 6.0  # tissue thinner than this is no body: the plates of a table
SMALLEST_CC = 30.0  # of a region
LEAST_CC = 300.0  # of all regions: below, it is not lungs that were found
INSIDE_SHARE = 0.7  # of a region's voxels have tissue on all four sides
LOW_PART = 0.15  # of the height of the largest region: what lies below is bowel
AIRWAY_MM2 = 700.0  # slices with less lung, at the top, hold the windpipe alone
CLOSING_MM = 9.0  # half the width of the gaps that are closed: vessels, nodules, opacities at the wall
HOLE_MM2 = 1500.0  # largest hole of a slice that is filled
MARGIN_MM = 10.0
HEIGHT_OF_WIDTH, DEPTH_OF_WIDTH = 0.75, 0.6  # least height and depth of the lungs, of their width


@dataclass(frozen=True, eq=False)
class LungRegion:
    """Where the lungs are.

    Args:
        mask: (X, Y, Z) bool on `grid`, the lungs; empty where none were found.
        grid: a RAS grid that is about `WORKING_MM` wide, or that of the CT where this is wider.
        box: voxels of `grid` to crop to: lungs with a margin, else the body, else everything.
        remark: what was not found; empty where all is well.
    """

    mask: NDArray[np.bool_]
    grid: Grid
    box: Box
    remark: str = ""

    @property
    def found(self) -> bool:
        """Whether there are lungs."""
        return not self.remark


def find_lungs(ct_hu: NDArray, grid: Grid) -> LungRegion:
    """Find the lungs of a chest CT.

    Args:
        ct_hu: (X, Y, Z) HU, with axes towards R, A and S.
        grid: its grid.

    Returns:
        the lungs on a grid of their own, and what to crop to.
    """
    factors = factors_for(grid, WORKING_MM)
    coarse = block_grid(grid, factors)
    hu = block_mean(ct_hu, factors)
    hu = ndimage.gaussian_filter(hu, [SMOOTHING_MM / mm for mm in coarse.spacing_mm])
    body = _body(hu, coarse)
    air = hu < AIR_BELOW_HU
    seeds, outside = _seeds(hu, air, body, coarse)
    if seeds.any():
        mask = _filled(_grown(seeds, air), outside, coarse)
        if mask.sum() * coarse.voxel_volume_mm3 / 1000 >= LEAST_CC:
            return LungRegion(mask, coarse, _lung_box(mask, body, coarse))
    nothing = np.zeros(coarse.shape, dtype=bool)
    what = "the body" if body.any() else "nothing"
    remark = f"no lungs were found (no air within the body that is lung, {LEAST_CC:g} cc or more): cropped to {what}"
    box = _widened(bounding_box(body), coarse) if body.any() else _widened(bounding_box(~nothing), coarse)
    return LungRegion(nothing, coarse, box, remark)


def _body(hu: NDArray, grid: Grid) -> NDArray[np.bool_]:
    """The largest component of tissue, without what is thin: a table that touches the back parts from it."""
    tissue = hu > TISSUE_ABOVE_HU
    steps = round(THIN_MM / 2 / max(grid.spacing_mm))
    core = ndimage.binary_erosion(tissue, iterations=steps, border_value=1) if steps else tissue
    labels, count = ndimage.label(core)
    if not count:
        return core
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    largest: NDArray[np.bool_] = labels == sizes.argmax()
    return ndimage.binary_dilation(largest, iterations=steps, mask=tissue) if steps else largest


def _enclosed(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels with tissue to the right and left, in front and behind, in the same slice."""
    inside = np.ones(body.shape, dtype=bool)
    for axis in (0, 1):
        inside &= np.logical_or.accumulate(body, axis=axis)
        inside &= np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
    return inside


def _seeds(hu: NDArray, air: NDArray, body: NDArray, grid: Grid) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cores of the regions that are lung, and the air outside the body.

    Cores, as the air but for its outermost voxels, do not run together through a wall that is hardly seen. The slices
    at both ends are no way out: scans end within lungs.
    """
    core = ndimage.binary_erosion(air, border_value=1)
    labels, count = ndimage.label(core)
    border = np.zeros(count + 1, dtype=bool)
    for face in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        border[face] = True
    border[0] = False
    outside = border[labels]
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1).astype(np.float64)
    volumes_cc = sizes * grid.voxel_volume_mm3 / 1000
    candidates = [label for label in range(1, count + 1) if not border[label] and volumes_cc[label] >= SMALLEST_CC]
    if not candidates:
        return np.zeros_like(core), outside
    means_hu = np.bincount(labels.reshape(-1), weights=hu.reshape(-1), minlength=count + 1) / np.maximum(sizes, 1)
    inside = np.bincount(labels[_enclosed(body)], minlength=count + 1) / np.maximum(sizes, 1)
    lungs = [label for label in candidates if means_hu[label] >= GAS_BELOW_HU and inside[label] >= INSIDE_SHARE]
    kept = _not_below(labels, sorted(lungs, key=lambda label: -sizes[label]))
    return np.isin(labels, kept), outside


def _not_below(labels: NDArray, regions: list[int]) -> list[int]:
    """Of regions in order of size, the first and those whose middle is not below its lowest part."""
    if len(regions) < 2:
        return regions
    boxes = ndimage.find_objects(labels)
    first = boxes[regions[0] - 1][2]
    lowest = first.start + LOW_PART * (first.stop - first.start)
    return [label for label in regions if (boxes[label - 1][2].start + boxes[label - 1][2].stop) / 2 >= lowest]


def _grown(seeds: NDArray, air: NDArray) -> NDArray[np.bool_]:
    """The cores with the outermost voxels that they lost, as far as these are air."""
    return ndimage.binary_dilation(seeds, iterations=2, mask=air)


def _filled(lungs: NDArray, outside: NDArray, grid: Grid) -> NDArray[np.bool_]:
    """Lungs with what lies in them, without the windpipe above them."""
    areas = lungs.sum(axis=(0, 1)) * grid.spacing_mm[0] * grid.spacing_mm[1]
    top = int(np.flatnonzero(areas >= min(AIRWAY_MM2, areas.max())).max()) + 1
    mask = lungs.copy()
    mask[:, :, top:] = False
    box = _widened(bounding_box(mask), grid, CLOSING_MM + grid.spacing_mm[0])
    part = mask[box]
    near = ndimage.distance_transform_edt(~part, sampling=grid.spacing_mm) <= CLOSING_MM
    # Beyond the faces of the scan nothing tells that there is no lung: they close nothing and open nothing.
    closed = part | (ndimage.distance_transform_edt(near, sampling=grid.spacing_mm) > CLOSING_MM)
    for axis in range(3):
        sides = [mm for other, mm in enumerate(grid.spacing_mm) if other != axis]
        _fill_holes(closed, axis, HOLE_MM2 / (sides[0] * sides[1]))
    mask[box] = closed & ~outside[box]
    return mask


def _fill_holes(mask: NDArray[np.bool_], axis: int, most: float) -> None:
    """Fill holes of slices that have at most so many voxels."""
    for plane in np.moveaxis(mask, axis, 0):
        if plane.any():
            holes = ndimage.binary_fill_holes(plane) & ~plane
            labels, count = ndimage.label(holes)
            small = np.bincount(labels.reshape(-1), minlength=count + 1) <= most
            small[0] = False
            plane |= small[labels]


def _lung_box(mask: NDArray, body: NDArray, grid: Grid) -> Box:
    """The lungs with a margin, as wide to both sides of the body's middle.

    Where they are flatter than lungs of this width are, what lies at the back and below is without air.
    """
    x, y, z = bounding_box(mask)
    across = body[:, :, z].sum(axis=(1, 2)).cumsum()
    middle = int(np.searchsorted(across, across[-1] / 2)) if across[-1] else (x.start + x.stop) // 2
    half = max(middle - x.start, x.stop - middle)
    x = slice(max(0, middle - half), min(mask.shape[0], middle + half))
    width_mm = (x.stop - x.start) * grid.spacing_mm[0]
    y, z = (
        slice(max(0, min(side.start, side.stop - round(part * width_mm / mm))), side.stop)
        for side, part, mm in ((y, DEPTH_OF_WIDTH, grid.spacing_mm[1]), (z, HEIGHT_OF_WIDTH, grid.spacing_mm[2]))
    )
    return _widened((x, y, z), grid)


def _widened(box: Box, grid: Grid, margin_mm: float = MARGIN_MM) -> Box:
    x, y, z = (
        slice(max(0, side.start - (n := int(np.ceil(margin_mm / mm)))), min(size, side.stop + n))
        for side, mm, size in zip(box, grid.spacing_mm, grid.shape, strict=True)
    )
    return x, y, z
