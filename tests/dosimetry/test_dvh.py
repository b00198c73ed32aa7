"""`mtl-med dvh` as a user calls it: a study, NIfTI files, DICOM; and what is said of bad input."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from mtl_med.cli import main
from mtl_med.dosimetry.dvh import find_cases
from mtl_med.dosimetry.inputs import from_case
from mtl_med.dosimetry.plan_rows import structure_doses
from mtl_med.geometry import Grid
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.manifest import Manifest
from mtl_med.metrics.dose import dose_rows
from mtl_med.metrics.rows import read_rows
from mtl_med.phantoms import make_pelvis
from mtl_med.phantoms.dicom import write_dicom_study
from mtl_med.phantoms.dicom_style import DicomStyle
from mtl_med.prep.contour_planes import drawn_pitch_mm
from mtl_med.scoring import Wanted, score_case

GRID = Grid((12, 10, 8), np.diag([2.0, 2.0, 2.5, 1.0]))


def _value(rows, structure, metric, unit=None, task="dose"):
    found = [r for r in rows if (r.task, r.structure, r.metric) == (task, structure, metric) and unit in (None, r.unit)]
    (row,) = found
    return row.value


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dose of 10 Gy per slice, a target of the upper half and an organ of one slice; plain NIfTI files."""
    folder = tmp_path_factory.mktemp("files")
    dose = np.broadcast_to(np.arange(1, 9) * 10.0, GRID.shape).astype(np.float32)
    target, organ = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    target[..., 4:], organ[..., 1] = 1, 1
    write_nifti(folder / "dose.nii.gz", dose, GRID)
    write_nifti(folder / "masks" / "PTV70.nii.gz", target, GRID)
    write_nifti(folder / "masks" / "rectum.nii.gz", organ, GRID)
    write_nifti(folder / "masks" / "Empty.nii.gz", organ * 0, GRID)
    return folder


def _dvh(out, *words):
    code = main(["dvh", *map(str, words), "--out", str(out)])
    return code, read_rows(out) if code in (0, 4) else []


def test_files_give_values_that_can_be_worked_out_by_hand(files, tmp_path, capsys):
    goals = tmp_path / "goals.json"
    wish = {"structure": "Rectum", "metric": "mean", "comparison": "<=", "limit": 20, "source": "by hand"}
    goals.write_text(json.dumps({"schema": "mtl_med/goals/1", "goals": [wish]}))
    words = ["--dose", files / "dose.nii.gz", "--structures", files / "masks", "--metrics", "V60Gy[cc]", "D0.5cc"]
    words += ["--goals", goals, "--fractions", "35", "--curves", tmp_path / "curves.csv"]
    code, rows = _dvh(tmp_path / "dvh.csv", *words)
    assert code == 0
    # The target: 120 voxels of 0.01 cc each at 50, 60, 70 and 80 Gy; the name says 70 Gy, and becomes TG-263's.
    expected = {"volume": 4.8, "mean": 65.0, "min": 50.0, "max": 80.0, "D_98": 50.0, "D_95": 50.0, "D_50": 70.0}
    expected |= {"D_2": 80.0, "D_0.5cc": 80.0, "V_60Gy": 3.6, "V_95%": 50.0, "V_100%": 50.0, "dose_known": 100.0}
    # (80 - 50) / 70; 240 of 480 voxels reach 70 Gy, and no others; 5 of 8 slices reach 35 Gy.
    expected |= {"homogeneity_index": 3 / 7, "paddick_conformity": 0.5, "r50": 600 / 480}
    # BED of D at alpha/beta 10: D + D^2 / 350; EQD2: / 1.2.
    bed = np.mean([d + d * d / 350 for d in (50, 60, 70, 80)])
    expected |= {"prescription_per_fraction": 2.0, "bed_mean": bed, "eqd2_mean": bed / 1.2, "bed_D_50": 84.0}
    assert {name: _value(rows, "PTV_7000", name) for name in expected} == pytest.approx(expected, rel=1e-5)
    assert _value(rows, "Rectum", "mean") == 20.0 and _value(rows, "Rectum", "mean <= 20 Gy", task="goal") == 1.0
    assert _value(rows, "Rectum", "eqd2_mean") == pytest.approx((20 + 400 / 35 / 3) / (5 / 3))
    (empty,) = [row for row in rows if row.structure == "Empty"]
    assert math.isnan(empty.value) and empty.convention == "undefined: it is empty"
    told = capsys.readouterr().out
    assert "not a medical device" in told and "met      Rectum" in told
    with (tmp_path / "curves.csv").open() as stream:
        curve = [line for line in csv.DictReader(stream) if line["structure"] == "PTV_7000"]
    shares = {line["dose_gy"]: (float(line["volume_percent"]), float(line["volume_cc"])) for line in curve}
    assert (shares["0.0"], shares["50.0"], shares["50.1"], shares["80.1"]) == (
        (100, 4.8),
        (100, 4.8),
        (75, 3.6),
        (0, 0),
    )


def test_alpha_beta_of_the_command_counts_before_that_of_the_goals(files, tmp_path, capsys):
    words = ["--dose", files / "dose.nii.gz", "--structures", files / "masks", "--goals", "prostate"]
    words += ["--fractions", "5", "--alpha-beta-gy", "Rectum=4", "PTV*=8"]
    _, rows = _dvh(tmp_path / "dvh.csv", *words)
    told = {row.structure: row.convention for row in rows if row.metric == "eqd2_mean"}
    assert "alpha/beta 4 Gy" in told["Rectum"] and "alpha/beta 8 Gy" in told["PTV_7000"]
    assert _value(rows, "Rectum", "eqd2_mean") == pytest.approx((20 + 400 / 5 / 4) / 1.5)
    printed = capsys.readouterr().out
    assert "note: This case has 14.00 Gy per fraction: met or not met says little here." in printed


def test_a_study_gives_what_evaluate_counts(tiny_study, tmp_path):
    code, rows = _dvh(tmp_path / "dvh.csv", tiny_study, "--convention", "linear", "--metrics", "D99%", "D1%")
    assert code == 4, "one case of the study has no dose"
    cases = {case.id: case for case in Manifest.read(tiny_study)}
    assert {row.case for row in rows} == set(cases) - {"p2"}
    gaps = [(row.case, row.structure) for row in rows if row.convention == "undefined: not contoured"]
    assert gaps == [("p1", "Parotid_L")]
    case = cases["p0"]
    dose = read_nifti(case.path("dose"))[0]
    read = {name: read_nifti(case.path(f"structures/{name}"))[0] for name in case.structures}
    masks = {name: (case.structures[name].kind, mask) for name, mask in read.items()}
    theirs = dose_rows("p0", dose, dose, read_nifti(case.path("mask_dose"))[0], masks, voxel_mm3=22.5)
    ours = {(row.structure, row.metric): row.value for row in rows if row.case == "p0"}
    checked = 0
    for row in theirs:
        metric = row.metric.removesuffix("_true")
        if row.metric.endswith("_true") and row.convention in ("linear", ""):
            assert ours[row.structure, metric] == pytest.approx(row.value, rel=1e-9)
            checked += 1
    assert checked == 7 * 2 + 3


def test_another_dose_of_a_case(tiny_study, tmp_path):
    case = tiny_study / "cases" / "p0"
    dose, grid = read_nifti(case / "dose.nii.gz")
    write_nifti(tmp_path / "p0" / "dose.nii.gz", dose * np.float32(0.5), grid)
    _, planned = _dvh(tmp_path / "a.csv", case)
    for given in (tmp_path / "p0", tmp_path / "p0" / "dose.nii.gz"):
        _, half = _dvh(tmp_path / "b.csv", case, "--dose", given)
        for structure in ("PTV70", "SpinalCord"):
            assert _value(half, structure, "mean") == pytest.approx(_value(planned, structure, "mean") / 2, rel=1e-6)


def test_dose_beyond_its_own_grid_is_left_out_and_0_within_it_counts(files, tmp_path):
    """A study says where its dose was calculated; of one that does not, such as OpenKBP, all counts as it is stored."""
    from dataclasses import replace

    from mtl_med.manifest import Case, Structure

    dose, organ = read_nifti(files / "dose.nii.gz")[0].copy(), read_nifti(files / "masks" / "rectum.nii.gz")[0]
    dose[:3] = 0
    dose[3] = 0
    own = Grid((9, 10, 8), GRID.affine @ np.array([[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    arrays = {"dose": dose, "mask_dose": (dose > 0).astype(np.uint8)}
    arrays |= {"structures/Rectum": organ, "structures/Body": organ * 0 + 1}
    hashes = {key: write_nifti(tmp_path / f"{key}.nii.gz", array, GRID) for key, array in arrays.items()}
    paths = {key: {"path": f"{key}.nii.gz", "sha256": digest} for key, digest in hashes.items()}
    structures = {"Rectum": Structure("r", "oar", "contoured"), "Body": Structure("b", "external", "contoured")}
    case = Case("c", "fit", tmp_path, GRID, paths, structures=structures, dose_grid=own)
    (found,) = [item for name, item in structure_doses(from_case(case)) if name == "Rectum"]
    assert found.known_percent == 75.0 and np.mean(found.ascending_gy == 0) == pytest.approx(1 / 9)
    write_nifti(tmp_path / "predicted" / "dose.nii.gz", dose, GRID)
    bare = replace(case, dose_grid=None)
    for counted, mean in ((case, 20.0 * 8 / 9), (bare, 20.0 * 8 / 12)):
        rows = score_case(Wanted(True, {}), (counted, tmp_path / "predicted"))
        assert _value(rows, "Rectum", "mean_true") == pytest.approx(mean), "evaluate counts what dvh counts"
    (found,) = [item for name, item in structure_doses(from_case(bare)) if name == "Rectum"]
    assert found.known_percent == 100.0 and found.ascending_gy.min() == 0.0


def test_dicom_files_and_the_dvh_that_the_dose_file_holds(dicom_rt_data, tmp_path):
    folder = dicom_rt_data / "eclipse_prostate"
    dose = dcmread(folder / "RD.dcm")
    (roi,) = [item.ROINumber for item in dcmread(folder / "RS.dcm").StructureSetROISequence if item.ROIName == "PTV"]
    stored, referenced = Dataset(), Dataset()
    referenced.ReferencedROINumber, referenced.DVHROIContributionType = roi, "INCLUDED"
    stored.DVHReferencedROISequence = [referenced]
    stored.DVHType, stored.DoseUnits, stored.DVHVolumeUnits, stored.DVHDoseScaling = "CUMULATIVE", "GY", "CM3", "1"
    stored.DVHNumberOfBins, stored.DVHData = 3, ["44", "48.6", "2", "48.6", "1", "0"]
    dose.DVHSequence = [stored]
    dose.save_as(tmp_path / "RD.dcm")
    words = ["--dose", tmp_path / "RD.dcm", "--structures", folder / "RS.dcm", "--prescription-gy", "46"]
    code, rows = _dvh(tmp_path / "a.csv", *words)
    assert code == 0
    assert _value(rows, "PTV", "stored_volume") == pytest.approx(48.6) and _value(rows, "PTV", "stored_mean") == 45.0
    assert _value(rows, "PTV", "volume") == pytest.approx(49.09, abs=0.01)
    assert _value(rows, "PTV", "D_95") == pytest.approx(45.353, abs=0.001)
    assert not [row for row in rows if row.metric.startswith("stored") and row.structure != "PTV"]


def test_structures_beyond_the_dose_are_unknown_there_and_not_cut(dicom_rt_data, tmp_path, capsys):
    """Without a CT contours are drawn on the grid of the dose; here it ends in the middle of the organs."""
    folder = dicom_rt_data / "eclipse_prostate"
    dose = dcmread(folder / "RD.dcm")
    frames, kept = int(dose.NumberOfFrames), 30
    dose.PixelData = dose.PixelData[: len(dose.PixelData) * kept // frames]
    dose.NumberOfFrames, dose.GridFrameOffsetVector = kept, dose.GridFrameOffsetVector[:kept]
    dose.save_as(tmp_path / "RD.dcm")
    words = ["--structures", folder / "RS.dcm", "--goals", "prostate"]
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    shutil.copy(tmp_path / "RD.dcm", source / "RD.dcm")
    _, whole = _dvh(tmp_path / "whole.csv", "--dose", folder / "RD.dcm", *words)
    capsys.readouterr()
    _, half = _dvh(tmp_path / "half.csv", "--dose", tmp_path / "RD.dcm", *words)
    shares = {name: _value(half, name, "dose_known") for name in ("Rectum", "Bladder", "PTV")}
    assert all(_value(whole, name, "dose_known") == 100 for name in shares)
    assert 0 < shares["Bladder"] < shares["Rectum"] < shares["PTV"] == 100
    for name in shares:
        assert _value(half, name, "volume") == pytest.approx(_value(whole, name, "volume"), rel=1e-6)
    assert re.search(r"not told Bladder +V65Gy < 50 % .* of its voxels have a known dose", capsys.readouterr().out)
    prepared = tmp_path / "study"
    options = ["--grid", "dose", "--allow-partial-dose"]
    assert main(["prep", "dicom_rt", "--source", str(source), "--out", str(prepared), *options]) == 0
    _, cut = _dvh(tmp_path / "cut.csv", prepared)
    for name, share in shares.items():
        assert _value(cut, name, "dose_known") == pytest.approx(share, abs=1), "its masks end where the dose does"
        assert _value(cut, name, "volume") == pytest.approx(_value(whole, name, "volume"), rel=0.01)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([[0, 0.625, 1.25, 1.875], [5, 5.625]], 0.625),
        ([[0, 3, 6, 12, 15], [9, 12]], 3.0),
        ([[0, 40]], 2.5),  # that nobody drew on slices so thick
        ([[0, 3]], 2.5),  # once is no habit
        ([[], [1]], 2.5),
    ],
)
def test_without_a_ct_the_usual_distance_of_contours_tells_its_slices(heights, expected):
    rois = [[np.array([[0.0, 0, z], [1, 0, z], [1, 1, z]]) for z in planes] for planes in heights]
    assert drawn_pitch_mm(rois, GRID) == pytest.approx(expected, abs=1e-9)


def test_a_dose_of_a_part_of_the_treatment_says_so(dicom_rt_data, tmp_path, capsys):
    folder = dicom_rt_data / "eclipse_prostate"
    dose = dcmread(folder / "RD.dcm")
    dose.DoseSummationType = "BEAM"
    dose.save_as(tmp_path / "RD.dcm")
    assert _dvh(tmp_path / "a.csv", "--dose", tmp_path / "RD.dcm", "--structures", folder / "RS.dcm")[0] == 0
    assert "its summation type is BEAM: it may be a part of the treatment" in "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def pelvis():
    return make_pelvis(5, shape=(32, 32, 16))


def test_doses_of_two_plans_are_added_on_request(pelvis, tmp_path, capsys):
    write_dicom_study(pelvis, tmp_path / "raw", options=DicomStyle(dose="two-plans"))
    code, told = _fault(capsys, tmp_path / "raw", "--out", tmp_path / "x.csv")
    assert code == 5 and "2 PLAN doses, expected one" in told and "pass --doses PLAN_SUM" in told
    code, rows = _dvh(tmp_path / "a.csv", tmp_path / "raw", "--doses", "PLAN_SUM")
    assert code == 0 and "2 PLAN doses were added up" in capsys.readouterr().out
    assert _value(rows, "PTV", "mean") > 0


def test_another_frame_of_reference_is_passed_by_force_alone(pelvis, tmp_path, capsys):
    style = DicomStyle(foreign_frames=("rtdose",))
    write_dicom_study(pelvis, tmp_path / "raw", options=style)
    (dose,), (structures,) = (list((tmp_path / "raw").rglob(f"*{kind}*")) for kind in ("RD", "RS"))
    for words in ((tmp_path / "raw",), ("--dose", dose, "--structures", structures)):
        code, told = _fault(capsys, *words, "--out", tmp_path / "x.csv")
        assert code == 5 and "another frame of reference" in told and "--force" in told
        code, rows = _dvh(tmp_path / "a.csv", *words, "--force")
        assert code == 0 and _value(rows, "PTV", "mean") > 0


def _fault(capsys, *words) -> tuple[int, str]:
    code = main(["dvh", *map(str, words)])
    return code, capsys.readouterr().err


def test_bad_input_gets_one_clear_sentence(files, tiny_study, tmp_path, capsys):
    dose, masks, out = files / "dose.nii.gz", files / "masks", ["--out", tmp_path / "x.csv"]
    nan = np.full(GRID.shape, np.nan, np.float32)
    write_nifti(tmp_path / "nan.nii.gz", nan, GRID)
    write_nifti(tmp_path / "minus.nii.gz", np.full(GRID.shape, -5, np.float32), GRID)
    write_nifti(tmp_path / "half.nii.gz", np.full(GRID.shape, 0.5, np.float32), GRID)
    other = Grid(GRID.shape, np.diag([2.0, 2.0, 2.5, 1.0]) + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3))
    write_nifti(tmp_path / "moved.nii.gz", np.full(GRID.shape, 50, np.float32), other)
    (tmp_path / "none").mkdir()
    (tmp_path / "RS.dcm").touch()
    cases = {
        ("--dose", tmp_path / "nan.nii.gz", "--structures", masks): (5, "not finite in 960 voxels"),
        ("--dose", tmp_path / "minus.nii.gz", "--structures", masks): (5, "negative"),
        ("--dose", tmp_path / "moved.nii.gz", "--structures", masks): (5, "--resample"),
        ("--dose", tmp_path / "none.nii.gz", "--structures", masks): (5, "no such file"),
        ("--dose", dose, "--structures", tmp_path / "none"): (5, "no masks"),
        ("--dose", dose, "--structures", tmp_path / "half.nii.gz"): (5, "no mask"),
        ("--dose", dose, "--structures", masks, "--prescription-gy", "PTV=70"): (5, "Did you mean PTV_7000"),
        ("--dose", dose, "--structures", masks, "--prescription-gy", "x"): (2, "no dose in Gy"),
        ("--dose", dose, "--structures", masks, "--alpha-beta-gy", "3"): (2, "needs a name"),
        ("--dose", dose, "--structures", masks, "--alpha-beta-gy", "Rectm=3"): (2, "Did you mean Rectum"),
        ("--dose", dose, "--structures", masks, "--alpha-beta-gy", "Rectum=x"): (2, "Such as Rectum=3"),
        ("--dose", dose, "--structures", masks, "--metrics", "V20"): (2, "no DVH metric"),
        ("--dose", dose, "--structures", masks, "--goals", "prostat"): (2, "Did you mean prostate"),
        ("--dose", dose, "--structures", masks, "--fractions", "0"): (2, "--fractions"),
        ("--dose", dose, "--structures", masks, "--grid", "1"): (5, "voxel masks have a grid"),
        ("--dose", dose, "--structures", masks, "--force"): (5, "--doses and --force are for an RTSTRUCT"),
        ("--dose", dose, "--structures", masks, "--doses", "PLAN_SUM"): (5, "--doses and --force are for an RTSTRUCT"),
        ("--dose", dose, "--structures", tmp_path / "RS.dcm", "--doses", "PLAN_SUM"): (5, "--doses goes with --ct"),
        (tiny_study, "--force"): (2, "a study has its dose"),
        (tiny_study / "cases" / "p0", "--doses", "PLAN_SUM"): (2, "a study has its dose"),
        ("--dose", dose): (2, "--structures"),
        (): (2, "--dose and --structures"),
        (tiny_study, "--dose", dose): (2, "folder of that case"),
        (tiny_study, "--structures", masks): (2, "go with --dose"),
        (tiny_study / "cases" / "p2",): (5, "has no dose"),
        (tmp_path / "none",): (3, "holds no CT"),
    }
    for words, (code, sentence) in cases.items():
        found, told = _fault(capsys, *words, *out)
        assert found == code and sentence in told and "Traceback" not in told, (words, found, told)
        assert "unexpected" not in told
    assert not (tmp_path / "x.csv").exists()


def test_a_dose_of_another_grid_is_interpolated_on_request_and_said_so(files, tmp_path, capsys):
    moved = GRID.affine.copy()
    moved[2, 3] = 1.25  # half a slice up
    dose = np.broadcast_to(np.arange(1, 9) * 10.0, GRID.shape).astype(np.float32)
    write_nifti(tmp_path / "moved.nii.gz", dose, Grid(GRID.shape, moved))
    words = ["--dose", tmp_path / "moved.nii.gz", "--structures", files / "masks" / "rectum.nii.gz", "--resample"]
    code, rows = _dvh(tmp_path / "a.csv", *words)
    assert code == 0 and _value(rows, "Rectum", "mean") == pytest.approx(15.0)
    assert "interpolated linearly" in capsys.readouterr().out


def test_axes_that_run_otherwise_need_no_interpolation(files, tmp_path):
    dose, grid = read_nifti(files / "dose.nii.gz")
    flipped = np.diag([-2.0, 2.0, 2.5, 1.0])
    flipped[0, 3] = 22.0
    write_nifti(tmp_path / "flipped.nii.gz", np.ascontiguousarray(dose[::-1]), Grid(grid.shape, flipped))
    words = ["--dose", tmp_path / "flipped.nii.gz", "--structures", files / "masks"]
    assert _value(_dvh(tmp_path / "a.csv", *words)[1], "PTV_7000", "mean") == 65.0


def test_hostile_names_and_label_maps(files, tmp_path):
    organ = read_nifti(files / "masks" / "rectum.nii.gz")[0]
    folder = tmp_path / "masks"
    for name in ("=cmd|'x'!A1", "<script>alert(1)<", "a" * 200, 'quote"d', "rectum", "Rectum "):
        write_nifti(folder / f"{name}.nii.gz", organ, GRID)
    labels = organ.copy()
    labels[..., 5] = 3
    write_nifti(folder / "map.nii.gz", labels, GRID)
    code, rows = _dvh(tmp_path / "a.csv", "--dose", files / "dose.nii.gz", "--structures", folder)
    names = {row.structure for row in rows}
    assert code == 0 and {"map_1", "map_3", "Rectum"} <= names and len(names) == 8
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") for name in names)
    assert all(len(name) <= 64 and name[0] not in "=+-@" for name in names)


def test_a_prediction_folder_gives_its_structures(tiny_study, tmp_path):
    from mtl_med.io.results import write_prediction

    case = Manifest.read(tiny_study).cases[0]
    organ = read_nifti(case.path("structures/SpinalCord"))[0]
    dose = read_nifti(case.path("dose"))[0]
    write_prediction(tmp_path, "p0", case.grid, dose_gy=dose, structures={"SpinalCord": organ})
    folder = tmp_path / "p0"
    code, rows = _dvh(tmp_path / "a.csv", "--dose", folder, "--structures", folder)
    assert code == 0 and _value(rows, "SpinalCord", "mean") == pytest.approx(dose[organ > 0].mean(dtype=np.float64))


def test_the_command_needs_no_torch(tiny_study, tmp_path, run_python):
    script = (
        "import sys; from mtl_med.cli import main; "
        f"code = main(['dvh', {str(tiny_study / 'cases' / 'p0')!r}, '--out', {str(tmp_path / 'a.csv')!r}]); "
        "print('torch' in sys.modules, 'monai' in sys.modules, code)"
    )
    assert run_python("-c", script).stdout.splitlines()[-1] == "False False 0"


def test_find_cases_reads_nothing_before_it_is_asked(tiny_study, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(tiny_study, study)
    (study / "cases" / "p0" / "dose.nii.gz").write_bytes(b"damaged")
    assert list(find_cases(study)) == [f"p{number}" for number in range(6)]
    code, rows = _dvh(tmp_path / "a.csv", study)
    assert code == 4 and {row.case for row in rows} == {"p1", "p3", "p4", "p5"}
