"""Grids in RAS millimetres, judged by nibabel and SimpleITK."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid, lps_from_ras, reorient, require_same_grid, resample, same_grid

CODES = ["".join(code) for axes in itertools.permutations(["RL", "AP", "SI"]) for code in itertools.product(*axes)]
TOWARDS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def grid_of(codes: str, shape: tuple[int, int, int] = (3, 4, 5)) -> Grid:
    """A grid whose axes run towards `codes`, with spacings 1.5, 2, 3 mm along the array axes."""
    affine = np.eye(4)
    for axis, (code, mm) in enumerate(zip(codes, (1.5, 2.0, 3.0), strict=True)):
        affine[:3, axis] = np.array(TOWARDS[code]) * mm
    affine[:3, 3] = (-11.0, 7.0, 100.0)
    return Grid(shape, affine)


def turned_grid(shape: tuple[int, int, int], degrees: float = 20.0) -> Grid:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([2.0, 2.5, 3.0])
    affine[:3, 3] = (5, -20, 30)
    return Grid(shape, affine)


def labelled(shape: tuple[int, int, int]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("codes", CODES)
def test_axis_codes_and_spacing(codes: str) -> None:
    grid = grid_of(codes)
    assert grid.axis_codes == codes
    assert grid.spacing_mm == (1.5, 2.0, 3.0)
    assert grid.voxel_volume_mm3 == pytest.approx(9.0, abs=1e-12)


def test_points_and_centroid() -> None:
    grid = grid_of("PLI")
    assert grid.points_ras(np.array([[0, 0, 0], [1, 2, 3]])).tolist() == [[-11, 7, 100], [-15, 5.5, 91]]
    mask = np.zeros(grid.shape)
    mask[1, 2, 3] = mask[0, 0, 0] = 1
    assert grid.centroid_ras(mask).tolist() == [-13, 6.25, 95.5]
    assert np.isnan(grid.centroid_ras(np.zeros(grid.shape))).all()


def test_plain_form_and_back() -> None:
    grid = turned_grid((3, 4, 5))
    again = Grid.from_dict(grid.to_dict())
    assert again.shape == grid.shape
    assert np.array_equal(again.affine, grid.affine)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("target", ["RAS", "PLI"])
def test_reorient_moves_no_value(codes: str, target: str) -> None:
    """Every value lies at the same RAS point afterwards; nibabel's own conversion gives the same array and affine."""
    import nibabel as nib

    grid = grid_of(codes)
    array = labelled(grid.shape)
    turned, turned_to = reorient(array, grid, target)
    assert turned_to.axis_codes == target and turned_to.shape == turned.shape
    places = {value: grid.points_ras(np.argwhere(array == value))[0] for value in (0, 7, array.max())}
    for value, point in places.items():
        assert np.abs(turned_to.points_ras(np.argwhere(turned == value))[0] - point).max() < 1e-12
    if target == "RAS":
        judge = nib.as_closest_canonical(nib.Nifti1Image(array, grid.affine))
        assert np.array_equal(np.asanyarray(judge.dataobj), turned)
        assert np.abs(judge.affine - turned_to.affine).max() < 1e-12
    back, back_to = reorient(turned, turned_to, codes)
    assert np.array_equal(back, array) and same_grid(back_to, grid)


def test_reorient_keeps_type_and_rotation() -> None:
    grid = turned_grid((3, 4, 5))
    flipped, flipped_to = reorient(np.ones(grid.shape, np.int16), grid, "LAS")
    assert flipped.dtype == np.int16 and flipped.flags.c_contiguous
    assert flipped_to.axis_codes == "LAS"
    assert np.allclose(flipped_to.points_ras(np.array([[2, 0, 0]])), grid.points_ras(np.array([[0, 0, 0]])))


def test_lps_from_ras_is_its_own_inverse() -> None:
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 0.5, -6.0]])
    assert lps_from_ras(points).tolist() == [[-1, -2, 3], [4, -0.5, -6]]
    assert np.array_equal(lps_from_ras(lps_from_ras(points)), points)


@pytest.mark.parametrize("codes", ["RAS", "PLI", "LPS", "SAR"])
def test_simpleitk_sees_the_same_points(tmp_path, codes: str) -> None:
    """A file written by nibabel with our affine: SimpleITK's points are ours with x and y negated."""
    import nibabel as nib
    import SimpleITK as sitk

    grid = grid_of(codes)
    nib.save(nib.Nifti1Image(labelled(grid.shape), grid.affine), tmp_path / "a.nii")
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    for index in [(0, 0, 0), (2, 3, 4), (1, 0, 3)]:
        ours = lps_from_ras(grid.points_ras(np.array([index])))[0]
        assert np.abs(np.array(image.TransformIndexToPhysicalPoint(index)) - ours).max() < 1e-3


def test_resample_onto_itself_changes_nothing() -> None:
    grid = turned_grid((4, 5, 6))
    array = labelled(grid.shape)
    assert np.abs(resample(array, grid, grid) - array).max() < 1e-3
    assert np.array_equal(resample(array, grid, grid, order="nearest"), array)


def test_resample_reproduces_a_linear_field() -> None:
    """Linear interpolation is exact for values that are linear in RAS mm, on any pair of grids."""
    source = turned_grid((24, 24, 20))
    target = Grid((5, 4, 6), np.array([[0, -1.7, 0, 8], [1.3, 0, 0, 5], [0, 0, 2.1, 40], [0, 0, 0, 1.0]]))
    field = np.array([0.5, -2.0, 3.0])

    def values(grid: Grid) -> np.ndarray:
        return (grid.points_ras(np.argwhere(np.ones(grid.shape))) @ field + 10).reshape(grid.shape)

    result = resample(values(source), source, target, outside=-1e6)
    assert result.dtype == np.float32
    assert np.abs(result - values(target)).max() < 1e-2


def test_resample_outside() -> None:
    grid = grid_of("RAS")
    shifted = Grid(grid.shape, grid.affine + np.array([[0, 0, 0, 1e3], [0] * 4, [0] * 4, [0] * 4]))
    assert (resample(labelled(grid.shape), grid, shifted, outside=-7) == -7).all()


@pytest.mark.parametrize("order", ["linear", "nearest"])
def test_resample_ends_at_the_faces_of_the_outermost_voxels(order: str) -> None:
    values = np.broadcast_to(np.float32([1, 2, 3])[:, None, None], (3, 2, 2))
    source = Grid(values.shape, np.diag([2.0, 2.0, 2.0, 1.0]))

    def at(x_mm: float) -> float:
        point = np.diag([2.0, 2.0, 2.0, 1.0])
        point[0, 3] = x_mm
        return float(resample(values, source, Grid((1, 1, 1), point), order=order, outside=-7)[0, 0, 0])

    assert [at(x_mm) for x_mm in (-1.01, -0.99, 0, 4, 4.99, 5.01)] == [-7, 1, 1, 3, 3, -7]


def test_sheared_grid_is_refused() -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    with pytest.raises(GeometryError, match="sheared"):
        resample(np.zeros((2, 2, 2)), Grid((2, 2, 2), affine), grid_of("RAS"))


@pytest.mark.parametrize(("shift_mm", "same"), [(0.0, True), (0.9e-3, True), (1.1e-3, False)])
def test_same_grid_has_a_tolerance(shift_mm: float, same: bool) -> None:
    grid = grid_of("PLI")
    moved = grid.affine.copy()
    moved[1, 3] += shift_mm
    assert same_grid(grid, Grid(grid.shape, moved)) == same


def test_same_grid_looks_at_the_far_corner() -> None:
    """1e-5 of the spacing is nothing at the origin and a millimetre after 50,000 voxels."""
    near, far = Grid((10, 1, 1), np.eye(4)), Grid((50_000, 1, 1), np.eye(4))
    stretched = np.diag([1 + 2e-5, 1, 1, 1])
    assert same_grid(near, Grid(near.shape, stretched))
    assert not same_grid(far, Grid(far.shape, stretched))


def test_other_shape_is_another_grid() -> None:
    with pytest.raises(GeometryError, match=r"case_7: grids differ: 3x4x5 voxels of 1\.5x2x3 mm RAS .* 3x4x6"):
        require_same_grid(grid_of("RAS"), grid_of("RAS", (3, 4, 6)), where="case_7")
    require_same_grid(grid_of("RAS"), grid_of("RAS"))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((2, 2, 2), np.eye(3), "4x4 matrix"),
        ((2, 2, 2), np.full((4, 4), np.nan), "finite"),
        ((2, 2, 2), np.diag([1, 0, 1, 1]), "singular"),
        ((2, 0, 2), np.eye(4), "at least one voxel"),
        ((2, 2), np.eye(4), "three axes"),
    ],
    ids=["3x3", "nan", "flat", "empty", "2d"],
)
def test_impossible_grids_are_refused(shape: tuple, affine: np.ndarray, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Grid(shape, affine)


def test_a_grid_cannot_be_changed() -> None:
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 9
