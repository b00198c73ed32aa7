"""The proof of geometry finds what lies elsewhere, however the axes run, and nothing where nothing does."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.io.seg_nrrd import write_seg_nrrd
from mtl_med.report.case_page import Table
from mtl_med.report.geometry_proof import geometry_blocks, prove
from tests.report.dose_study import GRID, doses, inputs, make_case, predict, texts

TURN = np.deg2rad(20)
OBLIQUE = Grid(
    GRID.shape,
    np.array(
        [
            [3 * np.cos(TURN), -3 * np.sin(TURN), 0, -510.25],
            [3 * np.sin(TURN), 3 * np.cos(TURN), 0, 220.5],
            [0, 0, 2.5, -1017.75],
            [0, 0, 0, 1],
        ]
    ),
)


@pytest.mark.parametrize("grid", [GRID, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("name", ["dose.nii.gz", "dose.nii", "s.seg.nrrd"])
def test_what_lies_there_is_proved(tmp_path, grid, name):
    path = tmp_path / name
    if name.endswith("nrrd"):
        overlapping = {"A": np.ones(grid.shape, bool), "B": np.ones(grid.shape, bool)}  # two layers: a 4D file
        write_seg_nrrd(path, overlapping, grid)
    else:
        write_nifti(path, np.zeros(grid.shape, np.float32), grid)
    proof = prove(name, path, grid)
    assert proof.fault == "" and proof.off_mm < 1e-3 and proof.grid.shape == grid.shape
    assert np.isnan(proof.round_trip_mm) if name.endswith("nrrd") else proof.round_trip_mm < 1e-3


def test_half_a_voxel_is_seen(tmp_path):
    affine = GRID.affine.copy()
    affine[:3, 3] += (1.5, 0, 0)
    write_nifti(tmp_path / "d.nii.gz", np.zeros(GRID.shape, np.float32), Grid(GRID.shape, affine))
    assert prove("d", tmp_path / "d.nii.gz", GRID).off_mm == pytest.approx(1.5, abs=1e-4)


def test_other_axis_order_is_no_fault_of_the_readers(tmp_path):
    # The same places, told by voxels that run to the left: the first voxel is another one.
    affine = GRID.affine @ np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = GRID.affine[0, 3] + 3 * (GRID.shape[0] - 1)
    write_nifti(tmp_path / "d.nii.gz", np.zeros(GRID.shape, np.float32), Grid(GRID.shape, affine))
    proof = prove("d", tmp_path / "d.nii.gz", GRID)
    assert proof.grid.axis_codes == "LAS" and proof.round_trip_mm < 1e-3 and proof.off_mm == pytest.approx(69, abs=1e-3)


def test_readers_that_disagree_are_seen(tmp_path):
    # SimpleITK and nibabel prefer different ones of the two affines that a file may hold.
    image = nib.Nifti1Image(np.zeros(GRID.shape, np.float32), GRID.affine)
    shifted = GRID.affine.copy()
    shifted[1, 3] += 4
    image.set_sform(GRID.affine, code=2)
    image.set_qform(shifted, code=1)
    nib.save(image, tmp_path / "d.nii.gz")
    proof = prove("d", tmp_path / "d.nii.gz", GRID)
    assert proof.off_mm < 1e-3 and proof.round_trip_mm == pytest.approx(4, abs=1e-3)


def test_the_page_tells_every_file(tmp_path):
    case = make_case(tmp_path / "study")
    folder = predict(tmp_path / "out", doses()[1], masks={"Larynx": np.ones(GRID.shape, bool)})
    blocks = geometry_blocks(inputs(case, folder))
    table = next(block for block in blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == [
        "study: ct.nii.gz",
        "study: dose.nii.gz",
        "study: mask_dose.nii.gz",
        "study: structures/PTV70.nii.gz",
        "ctan: dose.nii.gz",
        "ctan: structures.seg.nrrd",
        "ctan: structures.nii.gz",
    ]
    assert {row[3] for row in table.rows} == {"RAS"} and {row[5].mark for row in table.rows} == {"good"}
    assert "All 7 files lie on the study's grid" in texts(blocks)


def test_other_voxels_and_damage_are_marked(tmp_path):
    case = make_case(tmp_path / "study")
    small = Grid((8, 8, 8), GRID.affine)
    folder = predict(tmp_path / "out", np.zeros(small.shape, np.float32), small)
    (folder / "ct.nii.gz").write_bytes(b"nothing")
    blocks = geometry_blocks(inputs(case, folder))
    assert "ctan: dose.nii.gz: has another number of voxels" in texts(blocks)
    assert "ctan: ct.nii.gz: " in texts(blocks) and "All 7" not in texts(blocks)
