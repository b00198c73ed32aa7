"""A case unlike the training cases is told by what is unlike about it; one of their kind is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.manifest import Case, Manifest, Structure
from mtl_med.report.case_page import Table
from mtl_med.report.unlike import TrainingRanges, measures, training_ranges, unlike_blocks, unlike_warnings
from tests.report.dose_study import texts

SHAPE = (40, 40, 20)


def _grid(spacing_mm=(4.0, 4.0, 3.0)):
    return Grid(SHAPE, np.diag([*spacing_mm, 1.0]))


def _ct(noise=0):
    """A trunk of 0 HU in air."""
    x, y = np.ogrid[:40, :40]
    ct = np.full(SHAPE, -1000, np.int16)
    ct[((x - 20) / 15) ** 2 + ((y - 22) / 11) ** 2 < 1] = noise
    return ct


def _case(
    folder, name="p", split="fit", ct=None, grid=None, targets=("PTV70",), prescriptions=None, status="contoured"
):
    grid = grid or _grid()
    write_nifti(folder / name / "ct.nii.gz", _ct() if ct is None else ct, grid)
    return Case(
        id=name,
        split=split,
        folder=folder / name,
        grid=grid,
        files={"ct": {"path": "ct.nii.gz", "sha256": ""}, "dose": {"path": "dose.nii.gz", "sha256": ""}},
        structures={target: Structure(target, "target", status) for target in targets},
        prescriptions_gy={"PTV70": 70.0} if prescriptions is None else prescriptions,
        spacing_mm=grid.spacing_mm,
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    cases = [_case(folder, f"p{n}", ct=_ct(5 * n), grid=_grid((4.0 + 0.1 * n, 4.0 + 0.1 * n, 3.0))) for n in range(4)]
    return training_ranges(Manifest.build("tiny", folder, cases), {})


def _warnings(training, case):
    return unlike_warnings(case, measures(case), training)


def test_one_of_their_kind(training, tmp_path):
    assert training.cases == training.with_ct == 4 and training.targets == {"PTV70": 100.0}
    assert _warnings(training, _case(tmp_path, split="test")) == []


def _couch():
    ct = _ct()
    ct[2:38, 2:5, :] = 100
    return ct


def _metal():
    ct = _ct()
    ct[18:22, 20:24, 5:10] = 3000
    return ct


UNLIKE = {
    "voxels": ({"grid": _grid((6.0, 6.0, 3.0))}, "voxel spacing x and y: 6.00 mm, in theirs 4.00 to 4.30 mm"),
    "slices": ({"grid": _grid((4.0, 4.0, 6.0))}, "field of view z: 120 mm, in theirs 60 to 60 mm"),
    "shifted HU": ({"ct": _ct(1024)}, "HU in the body, median: 1024 HU, in theirs 0 to 15 HU"),
    "couch": ({"ct": _couch()}, "couch or other things outside the body, above -500 HU: 104 cc, in theirs 0 to 0 cc"),
    "implant": ({"ct": _metal()}, "implants or metal, above 2500 HU in the body: 3.8 cc, in theirs 0.0 to 0.0 cc"),
    "no target": ({"targets": (), "prescriptions": {}}, "No target is contoured"),
    "other target": ({"targets": ("PTV60",), "prescriptions": {"PTV60": 60.0}}, "PTV60 60 Gy; theirs are 70 Gy"),
    "lacks the usual": ({"targets": ("PTV56",)}, "nearly all of which have it: no PTV70"),
    "empty target": ({"status": "empty"}, "Contoured but empty: PTV70"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_unlike_is_named(name, training, tmp_path):
    changes, words = UNLIKE[name]
    found = _warnings(training, _case(tmp_path, split="test", **changes))
    assert any(words in warning for warning in found), found


def test_the_table_marks_what_is_beyond(training, tmp_path):
    case = _case(tmp_path, split="test", ct=_metal())
    *_, table = unlike_blocks(case, measures(case), training)
    assert isinstance(table, Table) and "4 training cases" in table.caption
    marks = {row[0]: row[2].mark for row in table.rows}
    assert marks["implants or metal, above 2500 HU in the body"] == "warning" and marks["voxel spacing z"] == ""


def test_a_training_case_is_told_as_one(training, tmp_path):
    case = _case(tmp_path, split="tune")
    assert "one of the training cases itself" in texts(unlike_blocks(case, measures(case), training))


def test_without_training_cases_the_network_s_record_helps(tmp_path):
    case = _case(tmp_path, split="test", grid=_grid((1.0, 1.0, 3.0)))
    manifest = Manifest.build("tiny", tmp_path, [case])
    record = {"study": {"dataset": "other", "fingerprint": "f", "median_spacing_mm": [4.0, 4.0, 2.5]}}
    found = training_ranges(manifest, record)
    assert "voxels of 1 x 1 x 3 mm, the median of theirs is 4 x 4 x 2.5 mm" in _warnings(found, case)[0]
    told = texts(unlike_blocks(case, {}, found))
    assert "another version of a study ('other')" in told and "too few training cases" in told
    assert _warnings(TrainingRanges(), case) == []


def test_a_ct_that_cannot_be_read_is_left_out(tmp_path, training):
    case = _case(tmp_path, split="test")
    case.path("ct").write_bytes(b"nothing")
    assert "HU 50 %" not in measures(case) and "spacing x, mm" in measures(case)
    assert measures(replace(case, grid=None)) == {}
    assert measures(case, ct=np.full(SHAPE, -1000, np.int16))["body volume, l"] == 0
