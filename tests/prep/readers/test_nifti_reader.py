"""NIfTI studies of other programs: found by patterns, checked for what a mask, a dose and a CT can be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mtl_med.errors import CaseError, GeometryError, NothingFoundError, UsageError
from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.prep.convert import Job, prepare_case
from mtl_med.prep.file_patterns import FilePatterns, Found
from mtl_med.prep.raw import RawCase
from mtl_med.prep.readers.nifti import read, scan
from mtl_med.prep.recipe import ReaderOptions, Recipe, load_recipe

GRID = Grid((12, 10, 8), np.array([[-3.0, 0, 0, 17], [0, -4.0, 0, 18], [0, 0, 5.0, -20], [0, 0, 0, 1]]))  # LPS order
Changed = Callable[..., Recipe]


@pytest.fixture(scope="module")
def nifti_recipe() -> Recipe:
    return load_recipe("nifti")


@pytest.fixture
def changed(nifti_recipe: Recipe) -> Changed:
    """`changed({"labels": {...}}, resample=True)`: other fields of the recipe, and the user's decisions."""

    def make(facts: dict | None = None, **decisions: object) -> Recipe:
        recipe = dataclasses.replace(nifti_recipe, facts={**nifti_recipe.facts, **(facts or {})})
        return recipe.with_options(ReaderOptions(**decisions))

    return make


def box(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


BODY, BLADDER, PTV = box((1, 1, 0), (11, 9, 8)), box((2, 2, 2), (5, 6, 5)), box((6, 3, 2), (10, 7, 6))


def write_case(folder: Path, structures: str = "structures/{}.nii.gz") -> Path:
    ct = np.where(BODY, 20, -1000).astype(np.int16)
    write_nifti(folder / "ct.nii.gz", ct, GRID)
    write_nifti(folder / "dose.nii.gz", np.full(GRID.shape, 50, dtype=np.float32), GRID)
    for name, mask in {"BODY": BODY, "Blase": BLADDER, "PTV 50.4Gy": PTV}.items():
        write_nifti(folder / structures.format(name), mask, GRID)
    return folder


def read_only(folder: Path, recipe: Recipe) -> RawCase:
    (source,) = scan(folder, recipe)
    assert not source.fault, source.fault
    return read(source, recipe)


@pytest.mark.parametrize("layout", ["structures/{}.nii.gz", "mask_{}.nii.gz", "segmentations/{}.nii"])
def test_usual_layouts_are_read(tmp_path: Path, changed: Changed, layout: str) -> None:
    write_case(tmp_path / "any" / "where" / "p1", layout)
    (source,) = scan(tmp_path, changed())
    assert source.id == source.patient == "p1" and source.group == "all"
    assert source.account["found"] == ("ct", "dose", "3 structures")
    case = read(source, changed())
    assert case.grid.axis_codes == "RAS" and case.volumes["ct"].dtype == np.int16
    assert set(case.masks) == {"Body", "Bladder", "PTV_5040"}
    assert case.facts["Bladder"].original == "Blase" and case.facts["PTV_5040"].prescription_gy == 50.4
    assert np.array_equal(case.masks["Bladder"], BLADDER[::-1, ::-1])
    assert np.array_equal(case.volumes["mask_dose"], BODY[::-1, ::-1])
    assert np.all(case.volumes["dose"] == 50) and case.measures["PTV_5040.dose_coverage_percent"] == 100


def test_our_own_study_comes_back_as_it_was(tmp_path: Path, changed: Changed) -> None:
    source = tmp_path / "study" / "cases" / "p1"
    write_case(source)
    write_nifti(source / "mask_dose.nii.gz", BLADDER, GRID)
    (source / "case.json").write_text("{}")
    case = read_only(tmp_path / "study", changed())
    assert np.array_equal(case.volumes["mask_dose"], BLADDER[::-1, ::-1])
    assert np.array_equal(case.volumes["ct"][::-1, ::-1], np.where(BODY, 20, -1000))


def test_a_layout_of_ones_own(tmp_path: Path, changed: Changed) -> None:
    write_case(tmp_path / "x", "{}.nii.gz")
    (tmp_path / "doses").mkdir()
    (tmp_path / "x" / "ct.nii.gz").rename(tmp_path / "scan-007-ct.nii.gz")
    (tmp_path / "x" / "dose.nii.gz").rename(tmp_path / "doses" / "007_total.nii.gz")
    for name in ("BODY", "Blase"):
        (tmp_path / "x" / f"{name}.nii.gz").rename(tmp_path / f"007.{name}.nii.gz")
    files = {
        "ct": "scan-{case}-ct.nii.gz",
        "dose": "doses/{case}_*.nii.gz",
        "structure": ["{case}.{structure}.nii.gz"],
    }
    (source,) = scan(tmp_path, changed({"files": files}))
    assert source.id == "007" and set(read(source, changed({"files": files})).masks) == {"Body", "Bladder"}


def test_label_maps_by_their_names(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1", "other/{}.nii.gz")
    write_nifti(folder / "labels.nii.gz", (BLADDER + 3 * PTV).astype(np.uint8), GRID)
    with pytest.raises(UsageError, match="what labels are called"):
        read_only(tmp_path, changed())
    case = read_only(tmp_path, changed({"labels": {"1": "Bladder", "3": "PTV_5040", "4": "Rectum"}}))
    assert np.array_equal(case.masks["PTV_5040"], PTV[::-1, ::-1]) and not case.masks["Rectum"].any()
    assert case.masks["Bladder"].sum() == BLADDER.sum()
    assert not [remark for remark in case.remarks if "label map" in remark]
    case = read_only(tmp_path, changed({"labels": {"1": "Bladder"}}))
    assert "values of the label map that the recipe does not name are left out: 3" in case.remarks


def test_dose_in_another_unit_and_on_its_own_grid(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1")
    own = Grid((30, 25, 30), np.array([[2.0, 0, 0, -22], [0, 2, 0, -24], [0, 0, 2, -26], [0, 0, 0, 1]]))
    write_nifti(folder / "dose.nii.gz", np.full(own.shape, 4500, dtype=np.int16), own)
    case = read_only(tmp_path, changed({"dose_gy": 0.01}))
    assert np.allclose(case.volumes["dose"][case.volumes["mask_dose"] > 0], 45)
    assert case.measures["dose.own_grid_max_gy"] == pytest.approx(45)
    case = read_only(tmp_path, changed({"dose_gy": 0.01}, grid="dose"))
    assert case.grid.shape == own.shape and np.allclose(case.volumes["dose"], 45)
    volume = case.masks["Bladder"].sum() * case.grid.voxel_volume_mm3
    assert volume == pytest.approx(BLADDER.sum() * 60, rel=0.2)


def test_a_dose_that_leaves_a_target_is_refused(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1")
    short = Grid((12, 10, 4), GRID.affine)
    write_nifti(folder / "dose.nii.gz", np.full(short.shape, 50, dtype=np.float32), short)
    for grid in ("ct", "dose"):
        with pytest.raises(GeometryError, match="covers 50 % of PTV_5040"):
            read_only(tmp_path, changed(grid=grid))
    case = read_only(tmp_path, changed(allow_partial_dose=True))
    assert case.measures["PTV_5040.dose_coverage_percent"] == 50
    assert case.volumes["mask_dose"].sum() == BODY[:, :, :4].sum()


def test_masks_of_another_grid_need_the_users_word(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1")
    shifted = GRID.affine.copy()
    shifted[0, 3] += 1.0
    write_nifti(folder / "structures" / "Blase.nii.gz", BLADDER, Grid(GRID.shape, shifted))
    with pytest.raises(GeometryError, match="grids differ.*--resample"):
        read_only(tmp_path, changed())
    case = read_only(tmp_path, changed(resample=True))
    assert np.array_equal(case.masks["Bladder"], BLADDER[::-1, ::-1]), "a third of a voxel away: the nearest is itself"


def test_a_spacing_resamples_everything(tmp_path: Path, changed: Changed) -> None:
    write_case(tmp_path / "p1")
    case = read_only(tmp_path, changed(grid=2.0))
    assert np.allclose(case.grid.spacing_mm, 2) and case.volumes["ct"].shape == case.masks["Bladder"].shape
    volume = case.masks["PTV_5040"].sum() * case.grid.voxel_volume_mm3
    assert volume == pytest.approx(PTV.sum() * 60, rel=0.15)


def save(path: Path, array: np.ndarray) -> None:
    nibabel.Nifti1Image(array, GRID.affine).to_filename(path)


BAD = {
    "mask-of-probabilities": (
        "structures/Blase.nii.gz",
        np.linspace(0, 1, 960).reshape(GRID.shape),
        "more than one value",
    ),
    "mask-of-labels": ("structures/Blase.nii.gz", (BLADDER + 2 * PTV).astype(np.uint8), "from 1 to 2"),
    "dose-negative": ("dose.nii.gz", np.full(GRID.shape, -1.0, dtype=np.float32), "negative dose"),
    "dose-nan": ("dose.nii.gz", np.full(GRID.shape, np.nan, dtype=np.float32), "no numbers"),
    "ct-nan": ("ct.nii.gz", np.full(GRID.shape, np.nan, dtype=np.float32), "no numbers"),
    "ct-4d": ("ct.nii.gz", np.zeros((*GRID.shape, 2), dtype=np.int16), "expected one 3D volume"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_is_refused_with_the_file(tmp_path: Path, changed: Changed, name: str) -> None:
    folder = write_case(tmp_path / "p1")
    file, array, message = BAD[name]
    save(folder / file, array)
    with pytest.raises(CaseError, match=message) as caught:
        read_only(tmp_path, changed())
    assert file in str(caught.value)


@pytest.mark.parametrize("file", ["ct.nii.gz", "dose.nii.gz", "structures/PTV 50.4Gy.nii.gz"])
def test_damaged_files_fail_their_case_only(tmp_path: Path, changed: Changed, file: str) -> None:
    write_case(tmp_path / "p1")
    write_case(tmp_path / "p2")
    data = (tmp_path / "p1" / file).read_bytes()
    (tmp_path / "p1" / file).write_bytes(data[: len(data) // 2])
    first, second = scan(tmp_path, changed())
    with pytest.raises(CaseError):
        read(first, changed())
    assert set(read(second, changed()).masks) == {"Body", "Bladder", "PTV_5040"}


def test_float_ct_stays_float(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1")
    write_nifti(folder / "ct.nii.gz", np.full(GRID.shape, -12.5, dtype=np.float32), GRID)
    case = read_only(tmp_path, changed())
    assert case.volumes["ct"].dtype == np.float32 and np.all(case.volumes["ct"] == -12.5)


def test_masks_of_255_are_masks(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1")
    save(folder / "structures" / "Blase.nii.gz", BLADDER * np.uint8(255))
    assert np.array_equal(read_only(tmp_path, changed()).masks["Bladder"], BLADDER[::-1, ::-1])


def test_faults_show_before_reading(tmp_path: Path, changed: Changed) -> None:
    write_case(tmp_path / "a" / "p1")
    write_case(tmp_path / "b" / "p1")
    write_case(tmp_path / "a" / "p2")
    (tmp_path / "a" / "p2" / "ct.nii.gz").unlink()
    faults = {source.id: source.fault for source in scan(tmp_path, changed())}
    assert faults["p2"] == "has no CT by the recipe's patterns"
    assert faults["p1"].startswith("has two files for ct, dose, structure BODY")


def test_names_with_spaces_get_safe_ids_of_their_own(tmp_path: Path, changed: Changed) -> None:
    for name in ("Müller Zoë", "Muller Zoe", "Muller_Zoe"):
        write_case(tmp_path / name)
    ids = [source.id for source in scan(tmp_path, changed())]
    assert len(set(ids)) == 3 and "Muller_Zoe" in ids and all(name.isascii() and " " not in name for name in ids)


def test_pseudonyms_hide_the_names_of_files(tmp_path: Path, changed: Changed, key: Path) -> None:
    folder = write_case(tmp_path / "src" / "Doe JANE")
    write_nifti(folder / "structures" / "boost Doe.nii.gz", PTV, GRID)
    recipe = changed(key=key)
    (source,) = scan(tmp_path / "src", recipe)
    case = read(source, recipe)
    shown = repr(
        (source.id, source.patient, source.account, case.facts, case.remarks, case.unmatched, list(case.masks))
    )
    assert "Doe" not in shown and "JANE" not in shown and len(case.masks) == 4
    (folder / "ct.nii.gz").write_bytes(b"broken")
    with pytest.raises(CaseError) as caught:
        prepare_case(recipe, tmp_path, False, Job(source, "fit"))
    assert "JANE" not in str(caught.value)


def test_two_names_for_one_organ_are_remarked(tmp_path: Path, changed: Changed) -> None:
    folder = write_case(tmp_path / "p1")
    write_nifti(folder / "structures" / "Bladder.nii.gz", PTV, GRID)
    case = read_only(tmp_path, changed())
    assert case.masks["Bladder"].sum() == PTV.sum() and case.masks["Bladder_2"].sum() == BLADDER.sum()
    assert (case.facts["Bladder"].kind, case.facts["Bladder_2"].kind) == ("oar", "other")
    assert case.remarks == ["'Blase' is called Bladder_2, as another structure is Bladder, and is of kind other"]
    assert case.unmatched == {}


def test_nothing_found_is_told(tmp_path: Path, changed: Changed) -> None:
    (tmp_path / "a.mha").write_bytes(b"x")
    with pytest.raises(NothingFoundError, match=r"no file is a CT by the recipe's patterns.*1 x \.mha"):
        scan(tmp_path, changed())
    with pytest.raises(NothingFoundError, match="no such folder"):
        scan(tmp_path / "missing", changed())


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a/ct.nii.gz", Found("ct", "a")),
        ("x/y/a/ct.nii", Found("ct", "a")),
        ("ct.nii.gz", None),
        ("imagesTr/lung_001_0000.nii.gz", Found("ct", "lung_001")),
        ("labelsTr/lung_001.nii.gz", Found("labels", "lung_001")),
        ("p1/mask_dose.nii.gz", Found("mask_dose", "p1")),
        ("p1/mask_Heart.nii.gz", Found("structure", "p1", "Heart")),
        ("p1/structures/Parotid_L.nii.gz", Found("structure", "p1", "Parotid_L")),
        ("p1/structures/a.b.nii.gz", Found("structure", "p1", "a.b")),
        ("p1/notes.txt", None),
        ("p1/other/ct.nii.gz.bak", None),
    ],
)
def test_paths_mean_what_the_shipped_patterns_say(nifti_recipe: Recipe, path: str, found: Found | None) -> None:
    assert FilePatterns(nifti_recipe.facts["files"]).what(path) == found


def test_a_name_that_stands_twice_has_to_be_the_same() -> None:
    patterns = FilePatterns({"ct": "{case}/{case}_ct.nii.gz"})
    assert patterns.what("a/a_ct.nii.gz") == Found("ct", "a") and patterns.what("a/b_ct.nii.gz") is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no pattern says which file is the CT"),
        ({"ct": "ct.nii.gz"}, r"does not say where the name of the case"),
        ({"ct": "{patient}/ct.nii.gz"}, r"'\{patient\}' stands for nothing"),
        ({"ct": "{case}/ct.nii.gz", "structure": "{case}/s.nii.gz"}, "name of the structure"),
        ({"ct": "{case}/ct.nii.gz", "dosis": "{case}/d.nii.gz"}, "'dosis' is nothing that a file can be.*dose"),
    ],
)
def test_patterns_that_cannot_be_meant(files: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FilePatterns(files)


def test_the_recipe_is_valid_and_its_table_shared(root: Path, nifti_recipe: Recipe) -> None:
    assert nifti_recipe.reader == "nifti" and nifti_recipe.names.resolve().parent.name == "dicom_rt"
    fields = json.loads((root / "data_prep" / "nifti" / "recipe.json").read_text())
    assert set(fields["files"]) == {"ct", "dose", "mask_dose", "labels", "structure"}
