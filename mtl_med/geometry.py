"""Voxel grids in RAS millimetres. Besides `io/`, this is the only place that knows LPS from RAS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "INDEX_TOLERANCE",
    "Grid",
    "covered",
    "lies_inside",
    "lps_from_ras",
    "picture_grid",
    "reorient",
    "require_same_grid",
    "resample",
    "same_grid",
]

INDEX_TOLERANCE = 1e-3  # of a voxel, by which a point may lie outside the outermost voxel centres

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array lie.

    Args:
        shape: number of voxels along each array axis.
        affine: (4, 4) matrix from voxel indices to the centre of the voxel in RAS, mm.

    Raises:
        GeometryError: the affine is not 4x4, not finite or singular, or an axis is empty.
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        shape = tuple(int(size) for size in self.shape)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"affine must be a finite 4x4 matrix, found shape {affine.shape}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("affine is singular: a voxel has no volume", fix="Check the voxel spacing")
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"a grid needs three axes of at least one voxel, found {shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each array axis, mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def axis_codes(self) -> str:
        """Direction towards which each array axis runs, such as "RAS" or "PLI"."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    def points_ras(self, indices: NDArray) -> NDArray[np.float64]:
        """RAS mm of voxel indices (N, 3)."""
        return np.asarray(indices, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def centroid_ras(self, mask: NDArray) -> NDArray[np.float64]:
        """RAS mm of the centre of gravity of a mask of this shape; NaN when it is empty."""
        indices = np.argwhere(mask)
        return self.points_ras(indices).mean(axis=0) if len(indices) else np.full(3, np.nan)

    def to_dict(self) -> dict[str, list]:
        """Plain JSON form: shape and affine_ras."""
        return {"shape": list(self.shape), "affine_ras": self.affine.tolist()}

    @classmethod
    def from_dict(cls, fields: dict) -> Grid:
        """Grid from its plain JSON form."""
        return cls(tuple(fields["shape"]), np.asarray(fields["affine_ras"]))


def picture_grid(width: int, height: int) -> Grid:
    """Grid of a picture as a volume of one slice: axis 0 runs to its right, axis 1 down.

    A photograph has no size in mm: one mm stands for one pixel. Viewers that show axial slices seen from the feet, as
    3D Slicer does, show such a volume the same way up as the picture.

    Args:
        width: pixels in a row.
        height: rows.
    """
    return Grid((width, height, 1), np.diag([-1.0, -1.0, 1.0, 1.0]))


def lps_from_ras(points: NDArray) -> NDArray[np.float64]:
    """Points (N, 3) in LPS from RAS, or back: x and y change sign."""
    return np.asarray(points, dtype=np.float64) * np.array([-1.0, -1.0, 1.0])


def same_grid(first: Grid, second: Grid, tolerance_mm: float = 1e-3) -> bool:
    """Whether two grids put every voxel at the same place, within `tolerance_mm` at the farthest corner."""
    if first.shape != second.shape:
        return False
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in first.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    return bool(np.abs(first.points_ras(corners) - second.points_ras(corners)).max() <= tolerance_mm)


def require_same_grid(first: Grid, second: Grid, *, where: str = "", tolerance_mm: float = 1e-3) -> None:
    """Raise a GeometryError that shows both grids unless they are the same."""
    if same_grid(first, second, tolerance_mm):
        return
    raise GeometryError(
        f"grids differ: {_describe(first)} against {_describe(second)}",
        where=where,
        fix="Resample one onto the other first (mtl_med.geometry.resample)",
    )


def _describe(grid: Grid) -> str:
    size = "x".join(str(n) for n in grid.shape)
    spacing = "x".join(f"{mm:.4g}" for mm in grid.spacing_mm)
    origin = ", ".join(f"{mm:.2f}" for mm in grid.affine[:3, 3])
    return f"{size} voxels of {spacing} mm {grid.axis_codes} from ({origin})"


def reorient(array: NDArray, grid: Grid, axis_codes: str = "RAS") -> tuple[NDArray, Grid]:
    """Flip and permute axes so that they run towards `axis_codes`; no voxel value changes.

    Args:
        array: (X, Y, Z) on `grid`.
        grid: its grid.
        axis_codes: three letters, such as "RAS".
    """
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        io_orientation,
        ornt_transform,
    )

    transform = ornt_transform(io_orientation(grid.affine), axcodes2ornt(tuple(axis_codes)))
    turned = np.ascontiguousarray(apply_orientation(array, transform))
    return turned, Grid(turned.shape, grid.affine @ inv_ornt_aff(transform, grid.shape))


def lies_inside(to_source: NDArray, box: Sequence[slice], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels of a box that lie between the outermost voxel centres of another grid, slice by slice.

    Args:
        to_source: (4, 4) from the indices of the box's grid to those of the other one.
        box: three ranges of voxels.
        shape: of the other grid.
    """
    x, y, slices = (np.arange(side.start, side.stop, dtype=np.float64) for side in box)
    inside = np.ones((len(slices), len(y), len(x)), dtype=bool).T
    for axis, size in enumerate(shape):
        in_plane = to_source[axis, 0] * x[:, None] + to_source[axis, 1] * y[None, :] + to_source[axis, 3]
        for number, z in enumerate(slices):
            index = in_plane + to_source[axis, 2] * z
            inside[:, :, number] &= (index >= -INDEX_TOLERANCE) & (index <= size - 1 + INDEX_TOLERANCE)
    return inside


def covered(source: Grid, target: Grid) -> NDArray[np.bool_]:
    """Voxels of a grid that lie between the outermost voxel centres of another, where its values are known.

    Args:
        source: the grid that has values.
        target: the grid that is asked about.

    Returns:
        (X, Y, Z) of the target.
    """
    box = [slice(0, size) for size in target.shape]
    return lies_inside(np.linalg.inv(source.affine) @ target.affine, box, source.shape)


def resample(
    array: NDArray, source: Grid, target: Grid, *, order: str = "linear", outside: float = 0.0
) -> NDArray[np.float32]:
    """Values of `array` at the voxel centres of `target`, by SimpleITK.

    Args:
        array: (X, Y, Z) on `source`.
        source: grid of the array.
        target: grid of the result.
        order: "linear" or "nearest".
        outside: value where the target leaves the source's voxels. Between the outermost centres and the outer faces
            of their voxels, half a voxel farther, the nearest values hold; who knows nothing there has to say so.

    Returns:
        float32 array of the target's shape.
    """
    import SimpleITK as sitk

    interpolators = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}
    image = _to_sitk(np.asarray(array, dtype=np.float32), source)
    reference = _to_sitk(np.zeros(target.shape, dtype=np.uint8), target)
    result = sitk.Resample(image, reference, sitk.Transform(), interpolators[order], outside, sitk.sitkFloat32)
    return np.ascontiguousarray(sitk.GetArrayFromImage(result).T)


def _to_sitk(array: NDArray, grid: Grid) -> sitk.Image:
    import SimpleITK as sitk

    spacing = np.array(grid.spacing_mm)
    direction = np.diag([-1.0, -1.0, 1.0]) @ (grid.affine[:3, :3] / spacing)
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
        raise GeometryError("the grid is sheared, which ITK cannot hold", fix="Resample it to an orthogonal grid")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing([float(mm) for mm in spacing])
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(_origin_lps(grid))
    return image


def _origin_lps(grid: Grid) -> Sequence[float]:
    return [float(mm) for mm in lps_from_ras(grid.affine[None, :3, 3])[0]]
