"""Files of a prediction: judged by nibabel and SimpleITK, read back by ourselves."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest

from mtl_med.errors import CaseError, GeometryError, OutputError, UsageError
from mtl_med.geometry import Grid
from mtl_med.io import results
from mtl_med.io.colours import colour
from mtl_med.io.nifti import write_nifti

SHAPE = (9, 8, 7)
GRID = Grid(SHAPE, np.array([[3.0, 0, 0, -12.5], [0, 2.5, 0, 4], [0, 0, 2, -70], [0, 0, 0, 1]]))
NAMES = ("Brainstem", "Parotid_L", "PTV70")


def _masks() -> dict[str, np.ndarray]:
    masks = {name: np.zeros(SHAPE, dtype=bool) for name in NAMES}
    masks["Brainstem"][1:4, 1:4, 1:4] = True
    masks["Parotid_L"][5:7, 5:7, 2:4] = True
    masks["PTV70"][2:8, 2:8, 2:6] = True
    return masks


def _dose() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 72, SHAPE).astype(np.float32)


def _ct() -> np.ndarray:
    return np.random.default_rng(2).integers(-1024, 3071, SHAPE).astype(np.int16)


@pytest.fixture
def case_folder(tmp_path):
    results.write_prediction(tmp_path, "pt_1", GRID, ct=_ct(), dose_gy=_dose(), structures=_masks())
    return tmp_path / "pt_1"


def test_what_is_written_is_named_and_nothing_else_lies_there(tmp_path):
    written = results.write_prediction(tmp_path, "pt_1", GRID, ct=_ct(), dose_gy=_dose(), structures=_masks())
    names = ["ct.nii.gz", "dose.nii.gz", "structures.seg.nrrd", "structures.nii.gz", "structures.ctbl"]
    assert written == [tmp_path / "pt_1" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "pt_1").iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("name", "dtype"), [("ct", np.int16), ("dose", np.float32), ("structures", np.uint8)], ids=lambda item: str(item)
)
def test_volumes_carry_both_affines_in_mm_and_the_stated_type(case_folder, name, dtype):
    image = nib.load(case_folder / f"{name}.nii.gz")
    (qform, q_code), (sform, s_code) = image.header.get_qform(coded=True), image.header.get_sform(coded=True)
    assert (int(q_code), int(s_code), image.header.get_xyzt_units()[0]) == (1, 1, "mm")
    np.testing.assert_allclose(qform, GRID.affine, atol=1e-5)
    np.testing.assert_allclose(sform, GRID.affine, atol=1e-5)
    assert image.get_data_dtype() == dtype


def test_simpleitk_puts_every_file_at_the_same_place(case_folder):
    sitk = pytest.importorskip("SimpleITK")
    expected = GRID.points_ras(np.array([[4, 5, 6]]))[0] * [-1, -1, 1]
    for name in ("ct.nii.gz", "dose.nii.gz", "structures.nii.gz", "structures.seg.nrrd"):
        image = sitk.ReadImage(str(case_folder / name))
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((4, 5, 6)), expected, atol=1e-4)


def test_dose_and_structures_come_back(case_folder):
    dose, grid = results.read_dose(case_folder)
    np.testing.assert_array_equal(dose, _dose())
    np.testing.assert_allclose(grid.affine, GRID.affine, atol=1e-5)
    found = results.read_structures(case_folder)
    assert not found.from_label_map
    assert list(found.masks) == list(NAMES) == results.predicted_names(case_folder)
    for name, mask in _masks().items():
        np.testing.assert_array_equal(found.masks[name], mask)


def test_the_label_map_gives_overlaps_to_the_smaller_structure():
    masks = _masks()
    labels = results.label_map(masks)
    np.testing.assert_array_equal(labels == 1, masks["Brainstem"])
    np.testing.assert_array_equal(labels == 2, masks["Parotid_L"])
    np.testing.assert_array_equal(labels == 3, masks["PTV70"] & ~masks["Brainstem"] & ~masks["Parotid_L"])


def test_the_label_map_does_not_depend_on_order_but_for_its_labels():
    masks = _masks()
    forward, backward = results.label_map(masks), results.label_map(dict(reversed(masks.items())))
    np.testing.assert_array_equal(forward, np.where(backward > 0, 4 - backward.astype(int), 0))


def test_the_colour_table_is_what_slicer_reads(tmp_path):
    results.write_prediction(
        tmp_path, "a", GRID, structures={"Parotid_L": np.ones(SHAPE), "my organ\tµ": np.ones(SHAPE)}
    )
    lines = (tmp_path / "a" / "structures.ctbl").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" ") for line in lines if not line.startswith("#")]
    assert rows[0] == ["0", "Background", "0", "0", "0", "0"]
    assert rows[1] == ["1", "Parotid_L", *map(str, colour("Parotid_L")), "255"]
    assert [len(row) for row in rows] == [6, 6, 6]
    assert rows[2][1].isascii()


def test_a_label_map_alone_is_read_and_says_so(case_folder):
    (case_folder / "structures.seg.nrrd").unlink()
    found = results.read_structures(case_folder)
    assert found.from_label_map
    assert list(found.masks) == list(NAMES) == results.predicted_names(case_folder)
    assert found.masks["PTV70"].sum() < _masks()["PTV70"].sum()


def test_a_label_map_without_names_is_refused(case_folder):
    (case_folder / "structures.seg.nrrd").unlink()
    (case_folder / "structures.ctbl").write_text("1 Brainstem 1 2 3 255\n2 Parotid_L 1 2 3 255\n")
    with pytest.raises(CaseError, match=r"without a name: \[3\]"):
        results.read_structures(case_folder)
    (case_folder / "structures.ctbl").unlink()
    with pytest.raises(CaseError, match=r"structures\.ctbl"):
        results.read_structures(case_folder)


def test_two_writes_give_equal_bytes(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        results.write_prediction(folder, "a", GRID, ct=_ct(), dose_gy=_dose(), structures=_masks())
    for path in (folders[0] / "a").iterdir():
        assert path.read_bytes() == (folders[1] / "a" / path.name).read_bytes(), path.name


def test_a_clean_ct_file_is_copied_byte_for_byte(tmp_path):
    source = tmp_path / "study" / "ct.nii.gz"
    write_nifti(source, _ct(), GRID)
    before = source.read_bytes()
    for _ in range(2):
        results.write_prediction(tmp_path / "out", "a", GRID, ct=source)
    copy = tmp_path / "out" / "a" / "ct.nii.gz"
    assert copy.read_bytes() == before
    assert [path.name for path in (tmp_path / "out" / "a").iterdir()] == ["ct.nii.gz"]
    # A program that saves in place over the copy must not reach through a link into the study.
    copy.write_bytes(b"")
    assert source.read_bytes() == before


def test_a_copy_replaces_the_ct_of_an_earlier_run(tmp_path):
    source = tmp_path / "ct.nii.gz"
    write_nifti(source, _ct(), GRID)
    results.write_prediction(tmp_path / "out", "a", GRID, ct=np.zeros(SHAPE, dtype=np.int16))
    results.write_prediction(tmp_path / "out", "a", GRID, ct=source)
    assert (tmp_path / "out" / "a" / "ct.nii.gz").read_bytes() == source.read_bytes()


def test_a_ct_is_copied_where_links_fail(tmp_path, monkeypatch):
    source = tmp_path / "ct.nii.gz"
    write_nifti(source, _ct(), GRID)

    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    results.write_prediction(tmp_path / "out", "a", GRID, ct=source)
    copy = tmp_path / "out" / "a" / "ct.nii.gz"
    assert copy.read_bytes() == source.read_bytes()
    assert not os.path.samefile(source, copy)


def test_a_ct_without_codes_is_written_anew(tmp_path):
    source = tmp_path / "ct.nii.gz"
    image = nib.Nifti1Image(_ct(), GRID.affine)
    image.header.set_sform(GRID.affine, code=2)
    image.header.set_qform(GRID.affine, code=0)
    nib.save(image, source)
    results.write_prediction(tmp_path / "out", "a", GRID, ct=source)
    written = nib.load(tmp_path / "out" / "a" / "ct.nii.gz")
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)
    np.testing.assert_array_equal(np.asarray(written.dataobj), _ct())


def test_a_ct_of_fractional_values_keeps_them(tmp_path):
    values = _ct().astype(np.float32) + 0.25
    results.write_prediction(tmp_path, "a", GRID, ct=values)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "a" / "ct.nii.gz").dataobj), values)


def test_what_does_not_fit_the_grid_is_refused(tmp_path):
    with pytest.raises(GeometryError, match=r"dose.*\(9, 8, 6\)"):
        results.write_prediction(tmp_path, "a", GRID, dose_gy=np.zeros((9, 8, 6)))
    with pytest.raises(GeometryError, match="ct"):
        results.write_prediction(tmp_path, "a", GRID, ct=np.zeros((9, 8, 6)))
    shifted = Grid(SHAPE, GRID.affine + np.array([[0, 0, 0, 1.5]] + [[0] * 4] * 3))
    write_nifti(tmp_path / "ct.nii.gz", _ct(), shifted)
    with pytest.raises(GeometryError, match="not on the grid"):
        results.write_prediction(tmp_path, "a", GRID, ct=tmp_path / "ct.nii.gz")


def test_a_dose_that_is_not_finite_is_neither_written_nor_read(tmp_path):
    dose = _dose()
    dose[0, 0, :3] = np.nan
    with pytest.raises(CaseError, match="3 voxels"):
        results.write_prediction(tmp_path, "a", GRID, dose_gy=dose)
    write_nifti(tmp_path / "a" / "dose.nii.gz", dose, GRID)
    with pytest.raises(CaseError, match="3 voxels"):
        results.read_dose(tmp_path / "a")


def test_an_id_that_leads_outside_is_refused(tmp_path):
    with pytest.raises(UsageError, match="outside"):
        results.write_prediction(tmp_path / "out", "../a", GRID, dose_gy=_dose())
    assert not (tmp_path / "a").exists()


def test_more_labels_than_a_byte_holds_are_refused():
    with pytest.raises(UsageError, match="300"):
        results.label_map({f"s{i}": np.ones((1, 1, 1)) for i in range(300)})


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="out"):
        results.write_prediction(tmp_path / "out", "a", GRID, dose_gy=_dose())


def test_only_folders_with_predictions_are_listed(case_folder, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "run.json").write_text("{}")
    assert results.prediction_folders(tmp_path) == {"pt_1": case_folder}
    assert results.prediction_folders(tmp_path / "none") == {}
    assert results.read_dose(tmp_path / "logs") is None
    assert results.read_structures(tmp_path / "logs").masks == {}
