"""CT and dose on the grid of the case: that of the CT, that of the dose, or one of a wanted spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import INDEX_TOLERANCE, Grid, lies_inside, resample, same_grid
from mtl_med.parallel import in_threads
from mtl_med.prep.turning import Box, bounding_box, part_of

__all__ = ["Coverage", "PlacedDose", "extent", "parallel", "place_ct", "place_dose", "spacing_grid"]

AIR_HU = -1000.0
MOST_VOXELS = 1 << 30
_PARALLEL = 1e-4  # sine of the angle up to which axes count as parallel


class Coverage:
    """What share of structures a dose grid covers, measured on the grid that they were drawn on.

    A case on the grid of the dose holds no voxel beyond it, so that its masks cannot tell. Takes masks as
    `PackedMasks` does.

    Args:
        dose: grid of the dose.

    Attributes:
        voxels: name -> number of voxels.
        percent: name -> share of them between the dose's outermost voxel centres.
        extents: name -> where the structure lies, RAS mm.
    """

    def __init__(self, dose: Grid) -> None:
        self.dose = dose
        self.voxels: dict[str, int] = {}
        self.percent: dict[str, float] = {}
        self.extents: dict[str, str] = {}

    def add(self, name: str, mask: NDArray[np.uint8], grid: Grid) -> None:
        """Measure a mask.

        Args:
            name: of the structure.
            mask: (X, Y, Z), 0 or 1.
            grid: its grid.
        """
        self.voxels[name] = int(np.count_nonzero(mask))
        if not self.voxels[name]:
            return
        box = bounding_box(mask)
        part = part_of(grid, box)
        inside = lies_inside(np.linalg.inv(self.dose.affine) @ part.affine, _whole(part.shape), self.dose.shape)
        self.percent[name] = 100.0 * float(np.count_nonzero(inside & (mask[box] != 0))) / self.voxels[name]
        self.extents[name] = extent(part)


@dataclass(frozen=True, eq=False)
class PlacedDose:
    """A dose on the grid of the case.

    Args:
        dose_gy: (X, Y, Z) float32 Gy; 0 where nothing is known.
        box: box of voxels outside of which nothing is known.
        known: what of the box lies between the voxel centres of the dose's own grid.
    """

    dose_gy: NDArray[np.float32]
    box: Box
    known: NDArray[np.bool_]

    def keep_known(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask without what lies where no dose is known; it is changed in place."""
        for axis, side in enumerate(self.box):
            beside = [slice(None)] * 3
            for beyond in (slice(0, side.start), slice(side.stop, None)):
                beside[axis] = beyond
                mask[tuple(beside)] = 0
        if not self.known.all():
            mask[self.box][~self.known] = 0
        return mask

    def known_percent(self, part: NDArray[np.uint8], box: Box) -> float:
        """Share of a mask's voxels whose dose is known; 100 where it has none.

        Args:
            part: the mask within a box that holds all of it.
            box: where that box lies.
        """
        voxels = np.count_nonzero(part)
        starts = [max(a.start, b.start) for a, b in zip(box, self.box, strict=True)]
        stops = [max(start, min(a.stop, b.stop)) for start, a, b in zip(starts, box, self.box, strict=True)]
        here, there = (
            tuple(slice(i - side.start, j - side.start) for i, j, side in zip(starts, stops, sides, strict=True))
            for sides in (box, self.box)
        )
        return 100.0 * np.count_nonzero((part[here] != 0) & self.known[there]) / voxels if voxels else 100.0


def spacing_grid(grid: Grid, spacing_mm: float) -> Grid:
    """Grid of cubic voxels that has the axes and the middle of another and just covers it.

    Args:
        grid: the grid to cover.
        spacing_mm: wanted distance between voxel centres, mm.

    Raises:
        GeometryError: the spacing is not positive, or gives more than 2^30 voxels.
    """
    if not (np.isfinite(spacing_mm) and spacing_mm > 0):
        raise GeometryError(f"a spacing of {spacing_mm} mm is none", fix="Give a number of mm, such as 2.5")
    old_mm, shape = np.array(grid.spacing_mm), np.array(grid.shape)
    wanted = np.maximum(np.ceil(shape * old_mm / spacing_mm - 1e-6), 1)
    if wanted.prod() > MOST_VOXELS:
        size = " x ".join(f"{count:.0f}" for count in wanted)
        raise GeometryError(f"{spacing_mm:g} mm would make a grid of {size} voxels", fix="Use a wider spacing")
    affine = grid.affine.copy()
    affine[:3, :3] *= spacing_mm / old_mm
    middle = grid.points_ras((shape[None] - 1) / 2)[0]
    affine[:3, 3] = middle - affine[:3, :3] @ ((wanted - 1) / 2)
    return Grid((int(wanted[0]), int(wanted[1]), int(wanted[2])), affine)


def parallel(first: Grid, second: Grid) -> bool:
    """Whether the slices (axis 2) of two grids are parallel."""
    a, b = (np.cross(grid.affine[:3, 0], grid.affine[:3, 1]) for grid in (first, second))
    return bool(np.linalg.norm(np.cross(a, b)) <= _PARALLEL * np.linalg.norm(a) * np.linalg.norm(b))


def place_ct(hu: NDArray, source: Grid, target: Grid) -> tuple[NDArray, float]:
    """A CT on another grid, interpolated linearly; air beyond its edge.

    Args:
        hu: (X, Y, Z) HU, int16 or float32; the result has the same type.
        source: its grid.
        target: the wanted grid.

    Returns:
        the CT on the target grid, and how much of it lies beyond the CT, percent.
    """
    if same_grid(source, target):
        return hu, 0.0
    values = resample(hu, source, target, outside=np.nan)
    beyond = np.isnan(values)
    values[beyond] = AIR_HU
    return np.rint(values).astype(hu.dtype) if hu.dtype.kind == "i" else values, 100.0 * float(beyond.mean())


def place_dose(dose_gy: NDArray[np.float32], source: Grid, target: Grid) -> PlacedDose:
    """A dose on another grid, interpolated linearly; unknown beyond the centres of its outermost voxels.

    Args:
        dose_gy: (X, Y, Z) Gy.
        source: its grid.
        target: the wanted grid.

    Raises:
        CaseError: the grids do not meet.
    """
    if same_grid(source, target):
        return PlacedDose(dose_gy, _whole(target.shape), np.ones(target.shape, dtype=bool))
    to_source = np.linalg.inv(source.affine) @ target.affine
    box = _box(source, target)
    shape = tuple(side.stop - side.start for side in box)
    aligned = _aligned(to_source, target.shape)
    corner = (slice(box[0].start, box[0].start + 1), slice(box[1].start, box[1].start + 1), box[2])
    meet = lies_inside(to_source, corner, source.shape) if aligned else lies_inside(to_source, box, source.shape)
    if not meet.any():
        raise CaseError(
            "the dose grid lies outside the CT", why=f"{extent(source)} against {extent(target)}", fix="Check both"
        )
    known = np.broadcast_to(np.True_, shape) if aligned else meet  # an aligned box is known throughout
    placed = np.zeros(target.shape[::-1], dtype=np.float32).T
    if aligned:
        _interpolate(dose_gy, to_source, box, placed[box])
    else:
        placed[box] = resample(dose_gy, source, part_of(target, box))
        placed[box][~known] = 0
    return PlacedDose(placed, box, known)


def _whole(shape: tuple[int, int, int]) -> Box:
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def _aligned(to_source: NDArray, shape: tuple[int, int, int]) -> bool:
    """Whether each axis of the target runs along the same axis of the source, as far as the target reaches."""
    across = to_source[:3, :3] - np.diag(np.diag(to_source)[:3])
    return bool(np.abs(across @ np.array(shape)).max() < INDEX_TOLERANCE and np.abs(across).max() < INDEX_TOLERANCE)


def _interpolate(dose_gy: NDArray[np.float32], to_source: NDArray, box: Box, out: NDArray[np.float32]) -> None:
    """Linear interpolation, one axis after the other, plane by plane; ITK would hold everything three times.

    Args:
        dose_gy: (X, Y, Z) values of the source.
        to_source: (4, 4) from target to source indices, axis by axis.
        box: voxels of the target.
        out: (X, Y, Z) values of the box, written to.
    """
    planes = dose_gy.transpose(2, 1, 0)  # (Z, Y, X)
    (x, wx), (y, wy), (z, wz) = (
        _neighbours(to_source[axis, axis] * np.arange(side.start, side.stop) + to_source[axis, 3], size)
        for axis, (side, size) in enumerate(zip(box, dose_gy.shape, strict=True))
    )
    next_x, next_y = np.minimum(x + 1, planes.shape[2] - 1), np.minimum(y + 1, planes.shape[1] - 1)

    def fill(number: int) -> None:
        plane = _between(planes, z[number], wz[number])
        wide = plane[:, x] * (1 - wx) + plane[:, next_x] * wx
        full = wide[y] * (1 - wy[:, None]) + wide[next_y] * wy[:, None]
        out[:, :, number] = full.T

    in_threads(fill, range(len(z)))


def _neighbours(index: NDArray[np.float64], size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Lower neighbour of each place along an axis, and the share of the one above."""
    index = np.clip(index, 0, size - 1)
    low = np.floor(index + 1e-6).astype(np.intp)
    return low, np.clip(index - low, 0, 1).astype(np.float32)


def _between(planes: NDArray[np.float32], low: int, share: float) -> NDArray[np.float32]:
    if share == 0:
        return planes[low]
    return planes[low] * np.float32(1 - share) + planes[low + 1] * np.float32(share)


def _box(source: Grid, target: Grid) -> Box:
    """Smallest box of target voxels that holds every one between the source's voxel centres; a voxel at least."""
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in source.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    indices = (source.points_ras(corners) - target.affine[:3, 3]) @ np.linalg.inv(target.affine[:3, :3]).T
    last = np.array(target.shape) - 1
    low = np.clip(np.ceil(indices.min(axis=0) - INDEX_TOLERANCE), 0, last).astype(int)
    high = np.clip(np.floor(indices.max(axis=0) + INDEX_TOLERANCE), low, last).astype(int)
    return slice(low[0], high[0] + 1), slice(low[1], high[1] + 1), slice(low[2], high[2] + 1)


def extent(grid: Grid) -> str:
    """`x -120..130, y -90..80, z 0..40 mm`: where the outermost voxel centres of a grid lie, RAS."""
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    points = grid.points_ras(corners)
    sides = zip("xyz", points.min(axis=0), points.max(axis=0), strict=True)
    return ", ".join(f"{axis} {low:.0f}..{high:.0f}" for axis, low, high in sides) + " mm"
