"""Masks of a real clinical structure set against independent judges, and volumes against exact polygon areas."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon

from mtl_med.geometry import Grid, reorient
from mtl_med.io.rtstruct import Roi, read_rtstruct
from mtl_med.prep.rasterise import rasterise

# Even-odd polygon area x slice pitch, cc, as NOTES.md of the data gives it.
EXACT_CC = {
    "BODY": 10697.2,
    "Bladder": 117.49,
    "Femoral Head Lt": 49.40,
    "Femoral Head RT": 50.34,
    "PTV": 49.18,
    "Rectum": 30.72,
}
# By chance a perfect centre rule itself is off by this much (standard deviation at a volume in cc).
CHANCE = {0.9: 0.0086, 2: 0.0058, 5: 0.0031, 10: 0.0020, 30: 0.0009, 100: 0.0004}


@pytest.fixture(scope="module")
def folder(dicom_rt_data: Path) -> Path:
    return dicom_rt_data / "eclipse_prostate"


@pytest.fixture(scope="module")
def grid(folder: Path) -> Grid:
    """Grid of the CT, straight from its headers: an axial head-first-supine scan."""
    slices = sorted(
        (pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("CT.*.dcm")),
        key=lambda ds: ds.ImagePositionPatient[2],
    )
    assert all(ds.ImageOrientationPatient == [1, 0, 0, 0, 1, 0] for ds in slices)
    x, y, z = map(float, slices[0].ImagePositionPatient)
    pitch = (float(slices[-1].ImagePositionPatient[2]) - z) / (len(slices) - 1)
    rows_mm, columns_mm = map(float, slices[0].PixelSpacing)
    affine = np.array([[-columns_mm, 0, 0, -x], [0, -rows_mm, 0, -y], [0, 0, pitch, z], [0, 0, 0, 1]])
    return Grid((slices[0].Columns, slices[0].Rows, len(slices)), affine)


@pytest.fixture(scope="module")
def structures(folder: Path, grid: Grid) -> dict[str, tuple[Roi, np.ndarray]]:
    return {roi.name: (roi, rasterise(roi.contours, grid).mask) for roi in read_rtstruct(folder / "RS.dcm").rois}


def disagreements(roi: Roi, mask: np.ndarray, grid: Grid, shift: tuple[float, float] = (0, 0)) -> tuple[int, int]:
    """Voxels in which the mask differs from matplotlib's point-in-polygon test: away from any edge, and on one.

    The judge works in millimetres of RAS, on the pixels around the contours of each slice; beyond them nothing may be
    set. `shift` moves its voxel centres, in voxels.
    """
    away = on_edge = 0
    left = mask.copy()
    heights = np.array([corners[0, 2] for corners in roi.contours])
    for height in np.unique(heights):
        loops = [corners[:, :2] for corners, z in zip(roi.contours, heights, strict=True) if z == height]
        index = round((height - grid.affine[2, 3]) / grid.affine[2, 2])
        centre_of = grid.affine[:2, 3] + np.diag(grid.affine)[:2] * shift
        pixels = (np.concatenate(loops) - centre_of) / np.diag(grid.affine)[:2]
        (x0, y0), (x1, y1) = np.floor(pixels.min(axis=0)).astype(int) - 1, np.ceil(pixels.max(axis=0)).astype(int) + 2
        here = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1), indexing="ij"), axis=-1)
        centres = (centre_of + np.diag(grid.affine)[:2] * here).reshape(-1, 2)
        inside = np.zeros(len(centres), dtype=bool)
        for loop in loops:
            inside ^= Polygon(loop).contains_points(centres)
        wrong = inside != left[x0:x1, y0:y1, index].reshape(-1)
        left[x0:x1, y0:y1, index] = 0
        near = [distance_to_edges_mm(centre, loops) < 1e-6 for centre in centres[wrong]]
        on_edge += sum(near)
        away += len(near) - sum(near)
    return away + int(left.sum()), on_edge


def distance_to_edges_mm(point: np.ndarray, loops: Sequence[np.ndarray]) -> float:
    start = np.concatenate(loops)
    along = np.concatenate([np.roll(loop, -1, axis=0) for loop in loops]) - start
    share = ((point - start) * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-30)
    nearest = start + np.clip(share, 0, 1)[:, None] * along
    return float(np.linalg.norm(nearest - point, axis=1).min())


ORGANS = [name for name in EXACT_CC if name != "BODY"]


@pytest.mark.parametrize("name", EXACT_CC)
def test_every_voxel_as_point_in_polygon_has_it(
    structures: dict[str, tuple[Roi, np.ndarray]], grid: Grid, name: str
) -> None:
    away, on_edge = disagreements(*structures[name], grid)
    assert away == 0
    assert on_edge <= 1e-4 * structures[name][1].sum()


@pytest.mark.parametrize("shift", [(0.5, 0), (0, -0.5)], ids=str)
@pytest.mark.parametrize("name", ORGANS)
def test_half_a_pixel_of_shift_fails_this_test(
    structures: dict[str, tuple[Roi, np.ndarray]], grid: Grid, name: str, shift: tuple[float, float]
) -> None:
    """The must-fail twin of the test above."""
    away, _ = disagreements(*structures[name], grid, shift)
    assert away > 0.01 * structures[name][1].sum()


@pytest.mark.parametrize("name", EXACT_CC)
def test_volumes_are_those_of_the_polygons(
    structures: dict[str, tuple[Roi, np.ndarray]], grid: Grid, name: str
) -> None:
    """Within 0.2 % above 40 cc; below, within three standard deviations of what chance does to a perfect rule."""
    roi, mask = structures[name]
    exact = polygon_cc(roi, grid)
    assert exact == pytest.approx(EXACT_CC[name], rel=2e-4)
    deviation = mask.sum() * grid.voxel_volume_mm3 / 1000 / exact - 1
    chance = np.interp(np.log(exact), np.log(list(CHANCE)), list(CHANCE.values()))
    assert abs(deviation) < (0.002 if exact > 40 else 3 * chance)


def polygon_cc(roi: Roi, grid: Grid) -> float:
    """Even-odd area of the contours times the slice pitch, where contours of a slice do not cross one another."""
    total = 0.0
    heights = np.array([corners[0, 2] for corners in roi.contours])
    for height in np.unique(heights):
        loops = [corners[:, :2] for corners, z in zip(roi.contours, heights, strict=True) if z == height]
        for loop in loops:
            around = sum(Polygon(other).contains_point(loop[0]) for other in loops if other is not loop)
            total += (-1) ** around * area_mm2(loop)
    return total * grid.spacing_mm[2] / 1000


def area_mm2(loop: np.ndarray) -> float:
    x, y = (loop - loop.mean(axis=0)).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def test_contours_between_slices_keep_the_structure(dicom_rt_data: Path, grid: Grid) -> None:
    """The PTV's contours lie just between slices: all of them are used once, one slice each."""
    found = read_rtstruct(dicom_rt_data / "one_defect_files" / "rs_contours_between_slices.dcm")
    ptv = next(roi for roi in found.rois if roi.name == "PTV")
    raster = rasterise(ptv.contours, grid)
    assert raster.counts["between_slices"] > 0 and "outside" not in raster.counts
    assert raster.mask.sum() * grid.voxel_volume_mm3 / 1000 == pytest.approx(EXACT_CC["PTV"], rel=0.06)
    assert any("between slices" in note for note in raster.notes)


@pytest.fixture(scope="module")
def plastimatch_masks(
    folder: Path, require_judge: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the masks that plastimatch makes of the study."""
    out = tmp_path_factory.mktemp("plastimatch")
    subprocess.run(
        [
            require_judge("plastimatch"),
            "convert",
            *("--input", str(folder / "RS.dcm")),
            *("--referenced-ct", str(folder)),
            *("--output-prefix", str(out)),
            *("--prefix-format", "nii"),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return out


@pytest.mark.parametrize("name", EXACT_CC)
def test_plastimatch_agrees(
    structures: dict[str, tuple[Roi, np.ndarray]], grid: Grid, plastimatch_masks: Path, name: str
) -> None:
    image = nib.load(plastimatch_masks / f"{name}.nii")
    theirs = np.asanyarray(image.dataobj).reshape(image.shape[:3]) > 0
    mask, turned = reorient(structures[name][1], grid)
    theirs, their_grid = reorient(theirs, Grid(theirs.shape, image.affine))
    np.testing.assert_allclose(their_grid.affine, turned.affine, atol=1e-4)
    assert int((mask.astype(bool) != theirs).sum()) <= max(1, 1e-4 * mask.sum())
