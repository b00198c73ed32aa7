"""The raw layout that phantoms are written in equals the published one, and the reader gives the phantom back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import OutputError, UsageError
from mtl_med.phantoms import NOTE_NAME, make_phantom, write_openkbp_cohort, write_openkbp_patient

NUMBER_LINE = r"-?\d+\.\d{18}e[+-]\d{2}"


def first_patient(source: Path) -> Path:
    return sorted((source / "train-pats").iterdir())[0]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_openkbp_cohort(folder, train=2, validation=1, seed=4, workers=2)
    return folder


def lines_of(path: Path) -> list[str]:
    return path.read_bytes().decode("ascii").splitlines()


def test_folders_and_note(cohort):
    assert sorted(path.name for path in cohort.iterdir()) == [NOTE_NAME, "train-pats", "validation-pats"]
    assert [path.name for path in sorted(cohort.glob("*-pats/*"))] == [
        "pt_phantom001",
        "pt_phantom002",
        "pt_phantom201",
    ]
    assert "not patients" in (cohort / NOTE_NAME).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ct.csv", "dose.csv", "possible_dose_mask.csv", "PTV70.csv"])
def test_files_have_the_published_form(cohort, name):
    first, second, *_ = lines = lines_of(cohort / "train-pats" / "pt_phantom001" / name)
    assert first == ",data"
    form = {"ct.csv": r"\d+,\d+\.0", "dose.csv": r"\d+,\d+\.\d{1,3}"}.get(name, r"\d+,")
    assert re.fullmatch(form, second) and re.fullmatch(form, lines[-1])
    indices = np.array([int(line.split(",")[0]) for line in lines[1:]])
    assert np.all(np.diff(indices) > 0) and indices[0] >= 0 and indices[-1] < 128**3


def test_voxel_dimensions_have_the_published_form(cohort):
    lines = lines_of(cohort / "train-pats" / "pt_phantom001" / "voxel_dimensions.csv")
    assert len(lines) == 3 and all(re.fullmatch(NUMBER_LINE, line) for line in lines)


def test_layout_equals_that_of_a_real_patient(cohort, openkbp_source):
    real, phantom = first_patient(openkbp_source), first_patient(cohort)
    for name in ("ct.csv", "dose.csv", "possible_dose_mask.csv", "PTV70.csv", "voxel_dimensions.csv"):
        shapes = [re.sub(r"\d+", "9", (patient / name).read_text().splitlines()[1]) for patient in (real, phantom)]
        assert shapes[0] == shapes[1], name
        assert (real / name).read_bytes()[:6] == (phantom / name).read_bytes()[:6] or name == "voxel_dimensions.csv"
    known = {path.name for patient in openkbp_source.glob("*-pats/*") for path in patient.iterdir()}
    assert {path.name for path in cohort.glob("*-pats/*/*.csv")} <= known


def test_number_of_workers_changes_no_byte(cohort, tmp_path):
    write_openkbp_cohort(tmp_path, train=1, validation=0, seed=4, workers=1)
    for path in sorted((tmp_path / "train-pats" / "pt_phantom001").iterdir()):
        assert path.read_bytes() == (cohort / "train-pats" / "pt_phantom001" / path.name).read_bytes(), path.name


def test_flat_indices_run_backwards_left_and_down(tmp_path):
    """By hand, without the package's own orientation code."""
    phantom = make_phantom((9, 9), all_contours=True)
    folder = write_openkbp_patient(phantom, tmp_path / "pt_9")
    flat = np.array([int(line[:-1]) for line in lines_of(folder / "LeftParotid.csv")[1:]])
    back, left, down = np.unravel_index(flat, (128, 128, 128))
    mask = np.zeros((128, 128, 128), dtype=bool)
    mask[127 - left, 127 - back, 127 - down] = True  # RAS
    assert np.array_equal(mask, phantom.structures["LeftParotid"])
    assert left.mean() > 63.5
    spacing = [float(line) for line in lines_of(folder / "voxel_dimensions.csv")]
    assert spacing == [phantom.grid.spacing_mm[1], phantom.grid.spacing_mm[0], phantom.grid.spacing_mm[2]]


def test_the_reader_gives_the_phantom_back(tmp_path):
    from mtl_med.prep.readers import openkbp
    from mtl_med.prep.recipe import load_recipe

    phantom = make_phantom((9, 8), all_contours=True)
    write_openkbp_patient(phantom, tmp_path / "train-pats" / "pt_8")
    case = openkbp.read(openkbp.scan(tmp_path, load_recipe("openkbp"))[0], load_recipe("openkbp"))
    np.testing.assert_allclose(case.grid.affine, phantom.grid.affine, atol=1e-9)
    assert np.array_equal(case.volumes["ct"], phantom.ct_hu)
    assert np.array_equal(case.volumes["mask_dose"] > 0, phantom.possible_dose_mask)
    np.testing.assert_allclose(case.volumes["dose"], phantom.dose_gy, atol=5.1e-4)
    originals = {case.facts[name].original: mask > 0 for name, mask in case.masks.items()}
    assert originals.keys() == phantom.structures.keys()
    for name, mask in originals.items():
        assert np.array_equal(mask, phantom.structures[name]), name
    assert (
        case.grid.centroid_ras(originals["LeftParotid"])[0] < 0 < case.grid.centroid_ras(originals["RightParotid"])[0]
    )


def test_a_second_run_replaces_phantoms(cohort, tmp_path):
    write_openkbp_cohort(tmp_path, train=1, validation=0, seed=1, workers=1)
    before = (tmp_path / "train-pats" / "pt_phantom001" / "ct.csv").read_bytes()
    write_openkbp_cohort(tmp_path, train=1, validation=0, seed=4, workers=1)
    after = (tmp_path / "train-pats" / "pt_phantom001" / "ct.csv").read_bytes()
    assert after != before, "the seed of the cohort changes the patient"
    assert after == (cohort / "train-pats" / "pt_phantom001" / "ct.csv").read_bytes()
    assert not list(tmp_path.glob("**/.tmp-*"))


def test_patients_that_are_no_phantoms_are_never_touched(tmp_path):
    (tmp_path / "train-pats" / "pt_phantom001").mkdir(parents=True)
    (tmp_path / "train-pats" / "pt_phantom001" / "ct.csv").write_text("real")
    with pytest.raises(UsageError, match="not phantoms"):
        write_openkbp_cohort(tmp_path, train=1, validation=0, workers=1)
    assert (tmp_path / "train-pats" / "pt_phantom001" / "ct.csv").read_text() == "real"


@pytest.mark.parametrize(
    "numbers",
    [{"train": -1}, {"train": 201}, {"train": 0, "validation": 0}, {"validation": 41}, {"workers": 0}],
    ids=["negative", "too-many", "none", "too-many-validation", "no-worker"],
)
def test_impossible_cohorts_are_refused(tmp_path, numbers):
    with pytest.raises(UsageError):
        write_openkbp_cohort(tmp_path / "new", **numbers)
    assert not (tmp_path / "new").exists()


def test_a_path_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_openkbp_cohort(tmp_path / "file" / "cohort", train=1, validation=0, workers=1)
