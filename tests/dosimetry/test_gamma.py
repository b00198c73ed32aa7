"""`mtl-med gamma` as a user calls it: files, a case, a whole study; and what is said of bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.cli import main
from mtl_med.dosimetry.gamma import compare_doses
from mtl_med.geometry import Grid
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.manifest import Manifest
from mtl_med.metrics.gamma import NOT_EVALUATED, GammaOptions
from mtl_med.metrics.rows import read_rows

GRID = Grid((8, 7, 6), np.diag([2.0, 2.0, 2.5, 1.0]))
QUICK = ["--interp-fraction", "3", "--max-gamma", "1.1"]


@pytest.fixture(autouse=True)
def _pymedphys(require_judge):
    require_judge("pymedphys")


@pytest.fixture
def doses(tmp_path):
    dose = np.full(GRID.shape, 50.0, np.float32)
    dose[:2] = 1.0
    write_nifti(tmp_path / "plan.nii.gz", dose, GRID)
    write_nifti(tmp_path / "high.nii.gz", dose * np.float32(1.02), GRID)
    return tmp_path


def _values(path, case):
    return {row.metric: row.value for row in read_rows(path) if row.case == case}


def test_files(doses, capsys):
    words = ["gamma", str(doses / "plan.nii.gz"), str(doses / "high.nii.gz"), "--out", str(doses / "g.csv")]
    assert main([*words, "--maps", str(doses / "maps"), *QUICK]) == 0
    values = _values(doses / "g.csv", "high")
    assert values["gamma_pass_rate"] == 100.0 and values["gamma_max"] == pytest.approx(2 / 3, abs=0.02)
    assert values["gamma_voxels"] == 6 * 7 * 6 and values["signed_error_90-107%"] == pytest.approx(1.0, rel=1e-5)
    gamma, grid = read_nifti(doses / "maps" / "high" / "gamma.nii.gz")
    assert (gamma[:2] == NOT_EVALUATED).all() and gamma[2:].min() > 0.6 and grid.spacing_mm == GRID.spacing_mm
    told = capsys.readouterr().out
    for word in (
        "dose_percent 3.0",
        "distance_mm 3.0",
        "interp_fraction 3",
        "max_gamma 1.1",
        "pymedphys 0.",
        "not a medical",
    ):
        assert word in told
    mask = np.zeros(GRID.shape, np.uint8)
    mask[3, 3, 3] = 1
    write_nifti(doses / "mask.nii.gz", mask, GRID)
    assert main([*words, "--mask", str(doses / "mask.nii.gz"), *QUICK]) == 0
    assert _values(doses / "g.csv", "high")["gamma_voxels"] == 1.0


def test_voxels_beyond_the_judged_dose_are_told(doses, capsys):
    half = Grid((4, 7, 6), GRID.affine)
    write_nifti(doses / "half.nii.gz", np.full(half.shape, 50.0, np.float32), half)
    words = ["gamma", str(doses / "plan.nii.gz"), str(doses / "half.nii.gz"), "--out", str(doses / "g.csv"), *QUICK]
    assert main(words) == 0
    missed = int(_values(doses / "g.csv", "half")["gamma_voxels_out_of_reach"])
    assert missed and f"note: half: {missed} voxels above the cutoff lie beyond" in capsys.readouterr().out


def test_a_study_and_one_of_its_cases(tiny_study, tmp_path, capsys):
    for case in Manifest.read(tiny_study).cases[:2]:
        dose, grid = read_nifti(case.path("dose"))
        write_nifti(tmp_path / "predictions" / case.id / "dose.nii.gz", dose * np.float32(1.01), grid)
    out, quick = tmp_path / "g.csv", [*QUICK, "--random-subset", "40"]
    assert main(["gamma", str(tiny_study), str(tmp_path / "predictions"), "--out", str(out), *quick]) == 0
    whole = read_rows(out)
    assert {row.case for row in whole} == {"p0", "p1"} and _values(out, "p0")["gamma_voxels"] == 40.0
    assert "random_subset 40" in capsys.readouterr().out
    one = ["gamma", str(tiny_study / "cases" / "p0"), str(tmp_path / "predictions" / "p0"), "--out", str(out), *quick]
    assert main(one) == 0
    assert repr(read_rows(out)) == repr([row for row in whole if row.case == "p0"])  # NaN is not equal to itself
    (tmp_path / "predictions" / "p1" / "dose.nii.gz").write_bytes(b"damaged")
    assert main(["gamma", str(tiny_study), str(tmp_path / "predictions"), "--out", str(out), *quick]) == 4
    assert "failed: p1" in capsys.readouterr().err and {row.case for row in read_rows(out)} == {"p0"}


def test_signed_errors_on_another_grid_count_where_both_are_known():
    fine = Grid((8, 14, 6), np.diag([2.0, 1.0, 2.5, 1.0]))
    rows, gamma = compare_doses(
        "a", np.full(GRID.shape, 50.0), GRID, np.full(fine.shape, 49.0), fine, GammaOptions(interp_fraction=3)
    )
    values = {row.metric: row.value for row in rows}
    assert values["signed_error"] == pytest.approx(-1.0) and values["gamma_mean"] == pytest.approx(2 / 3, abs=0.02)
    assert gamma.outside == 0 and math.isnan(values["signed_error_10-30%"])


def test_doses_of_two_frames_of_reference_are_refused(dicom_rt_data, tmp_path, capsys):
    from pydicom import dcmread

    file = dicom_rt_data / "eclipse_prostate" / "RD.dcm"
    other = dcmread(file)
    other.FrameOfReferenceUID = "1.2.3"
    other.save_as(tmp_path / "RD.dcm")
    assert main(["gamma", str(file), str(tmp_path / "RD.dcm"), "--out", str(tmp_path / "g.csv"), *QUICK]) == 5
    assert "the doses belong to different frames of reference" in capsys.readouterr().err
    assert not (tmp_path / "g.csv").exists()


def test_bad_input_gets_one_clear_sentence(doses, tiny_study, capsys):
    plan, high, out = doses / "plan.nii.gz", doses / "high.nii.gz", ["--out", doses / "x.csv"]
    write_nifti(doses / "nan.nii.gz", np.full(GRID.shape, np.nan, np.float32), GRID)
    write_nifti(doses / "zero.nii.gz", np.zeros(GRID.shape, np.float32), GRID)
    turned = Grid(GRID.shape, np.array([[1.6, -1.2, 0, 0], [1.2, 1.6, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1.0]]))
    write_nifti(doses / "turned.nii.gz", np.ones(GRID.shape, np.float32), turned)
    write_nifti(doses / "small.nii.gz", np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)))
    cases = {
        (plan, doses / "nan.nii.gz"): (5, "not finite"),
        (doses / "zero.nii.gz", high): (5, "0 everywhere"),
        (plan, doses / "turned.nii.gz"): (5, "not parallel"),
        (plan, doses / "gone.nii.gz"): (2, "no such file"),
        (plan, high, "--mask", doses / "small.nii.gz"): (5, "grids differ"),
        (plan, high, "--dose-percent", "0"): (2, "dose_percent"),
        (plan, high, "--cutoff-percent", "100"): (2, "cutoff_percent"),
        (tiny_study, doses): (3, "no predicted dose"),
        (tiny_study, doses, "--mask", plan): (2, "of one case"),
        (tiny_study / "cases" / "p2", high): (5, "has no dose"),
    }
    for words, (code, sentence) in cases.items():
        found = main(["gamma", *map(str, [*words, *out])])
        told = capsys.readouterr().err
        assert (found, sentence in told, "unexpected" in told) == (code, True, False), (words, found, told)
    assert not (doses / "x.csv").exists()
