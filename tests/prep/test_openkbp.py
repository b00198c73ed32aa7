"""OpenKBP patients in the study: every voxel is there, where SimpleITK and anatomy say that it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mtl_med.errors import NothingFoundError
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.engine import prepare
from mtl_med.prep.readers.openkbp import raw_grid, scan
from mtl_med.prep.recipe import Recipe, load_recipe

Dense = Callable[..., np.ndarray]
FILES = {
    "Parotid_R": "RightParotid",
    "Parotid_L": "LeftParotid",
    "Bone_Mandible": "Mandible",
    **{name: name for name in ("Brainstem", "SpinalCord", "Esophagus", "Larynx", "PTV56", "PTV63", "PTV70")},
}


@pytest.fixture(scope="module")
def real_study(openkbp_source: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four real patients, prepared."""
    report = prepare(recipe, openkbp_source, tmp_path_factory.mktemp("real") / "study")
    assert report.exit_code == 0
    return report.manifest


def raw_folder(source: Path, case: Case) -> Path:
    return next(source.glob(f"*/{case.id}"))


def raw_points_lps(indices: np.ndarray, voxel_mm: np.ndarray) -> np.ndarray:
    """Where raw voxels lie in LPS mm, from the layout's own words: axes to posterior, left, inferior; middle is 0."""
    offsets = (indices - 63.5) * voxel_mm
    return np.stack([offsets[:, 1], offsets[:, 0], -offsets[:, 2]], axis=1)


def test_no_voxel_is_lost(real_study: Manifest, openkbp_source: Path, dense: Dense) -> None:
    for case in real_study:
        raw = raw_folder(openkbp_source, case)
        stored = np.clip(dense(raw / "ct.csv", valued=True), 0, 4095)
        ct = np.asarray(nibabel.load(case.path("ct")).dataobj)
        assert ct.dtype == np.int16 and int(ct.astype(np.int64).sum()) == int((stored - 1024).sum())
        dose_gy = dense(raw / "dose.csv", valued=True)
        dose = np.asarray(nibabel.load(case.path("dose")).dataobj)
        assert dose.dtype == np.float32
        assert np.array_equal(np.sort(dose[dose != 0]), np.sort(dose_gy[dose_gy != 0].astype(np.float32)))
        masks = {"mask_dose": "possible_dose_mask", **{f"structures/{name}": file for name, file in FILES.items()}}
        for key, name in masks.items():
            path = raw / f"{name}.csv"
            assert case.has(key) == path.exists(), key
            if path.exists():
                mask = np.asarray(nibabel.load(case.path(key)).dataobj)
                assert mask.dtype == np.uint8 and int(mask.max()) == 1
                assert int(mask.sum()) == int(dense(path, valued=False).sum()), key


def test_simpleitk_finds_each_raw_voxel_where_the_layout_puts_it(
    real_study: Manifest, openkbp_source: Path, dense: Dense
) -> None:
    rng = np.random.default_rng(0)
    for case in real_study:
        raw = raw_folder(openkbp_source, case)
        voxel_mm = np.loadtxt(raw / "voxel_dimensions.csv")
        for key, name, valued in [("dose", "dose", True), ("structures/PTV70", "PTV70", False)]:
            image = sitk.ReadImage(str(case.path(key)))
            volume = dense(raw / f"{name}.csv", valued=valued)
            chosen = rng.permutation(np.argwhere(volume))[:200]
            for index, point in zip(chosen, raw_points_lps(chosen, voxel_mm), strict=True):
                found = image.TransformPhysicalPointToIndex(point.tolist())
                assert np.abs(np.array(image.TransformIndexToPhysicalPoint(found)) - point).max() < 1e-3
                assert image[found] == np.float32(volume[tuple(index)])


def test_nibabel_and_simpleitk_differ_by_the_signs_of_x_and_y(real_study: Manifest) -> None:
    corners = np.array([[i, j, k] for i in (0, 127) for j in (0, 127) for k in (0, 127)])
    for case in real_study:
        image, judged = nibabel.load(case.path("ct")), sitk.ReadImage(str(case.path("ct")))
        ras = nibabel.affines.apply_affine(image.affine, corners)
        lps = np.array([judged.TransformIndexToPhysicalPoint(corner.tolist()) for corner in corners])
        assert np.abs(lps * [-1, -1, 1] - ras).max() < 1e-3
        assert np.abs(case.grid.points_ras(corners) - ras).max() < 1e-3
        assert "".join(nibabel.aff2axcodes(image.affine)) == "RAS"


def test_organs_lie_where_bodies_have_them(real_study: Manifest) -> None:
    def centre(case: Case, name: str) -> np.ndarray | None:
        if not case.has(f"structures/{name}"):
            return None
        image = nibabel.load(case.path(f"structures/{name}"))
        return nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj))).mean(axis=0)

    seen = 0
    for case in real_study:
        left, right = centre(case, "Parotid_L"), centre(case, "Parotid_R")
        mandible, brainstem, cord = (centre(case, name) for name in ("Bone_Mandible", "Brainstem", "SpinalCord"))
        for holds in (
            left is None or left[0] < 0,
            right is None or right[0] > 0,
            mandible is None or mandible[1] > 0,
            brainstem is None or cord is None or brainstem[2] > cord[2],
        ):
            assert holds, case.id
        seen += left is not None and mandible is not None and brainstem is not None
    assert seen


def test_case_file_tells_what_is_there(real_study: Manifest, openkbp_source: Path) -> None:
    for case in real_study:
        raw = raw_folder(openkbp_source, case)
        voxel_cc = np.prod(np.loadtxt(raw / "voxel_dimensions.csv")) / 1000
        assert set(case.structures) == set(FILES)
        for name, item in case.structures.items():
            path = raw / f"{FILES[name]}.csv"
            assert (item.original, item.status == "contoured") == (FILES[name], path.exists())
            if path.exists():
                count = len(path.read_text().splitlines()) - 1
                assert item.volume_cc == pytest.approx(count * voxel_cc, rel=1e-9)
            else:
                assert (item.status, item.volume_cc) == ("not_contoured", None)
        targets = {name for name in ("PTV56", "PTV63", "PTV70") if (raw / f"{name}.csv").exists()}
        assert case.prescriptions_gy == {name: float(name[3:]) for name in targets}
        assert case.tasks == ("oar", "dose")
    assert {case.split for case in real_study} <= {"fit", "tune", "validation"}


def test_overlaps_are_kept(new_patient, recipe: Recipe, tmp_path: Path) -> None:
    """The made patient's PTV56 holds its PTV70 whole; both keep every voxel."""
    new_patient().write(tmp_path / "provided-data" / "train-pats" / "pt_1")
    (case,) = prepare(recipe, tmp_path / "provided-data", tmp_path / "study").manifest
    inner, outer = (np.asarray(nibabel.load(case.path(f"structures/{name}")).dataobj) for name in ("PTV70", "PTV56"))
    assert int(inner.sum()) == 12 * 16 * 16
    assert int(outer.sum()) == 12 * 24 * 22
    assert (outer[inner > 0] == 1).all()


def test_clipping_and_empty_structures(tmp_path: Path, new_patient, recipe: Recipe) -> None:
    patient = new_patient(extra_values={"ct": {0: 32743.0, 1: 4095.0, 2: 1024.0, 3: 0.0}})
    patient.boxes["Larynx"] = ((0, 0), (0, 0), (0, 0))
    patient.write(tmp_path / "provided-data" / "train-pats" / "pt_1")
    (case,) = prepare(recipe, tmp_path / "provided-data", tmp_path / "study").manifest
    ct = np.asarray(nibabel.load(case.path("ct")).dataobj)
    # Raw voxel (0, 0, 0) is the foremost, rightmost, uppermost: the last one in RAS. Raw axis 2 runs downwards.
    assert ct[127, 127, [127, 126, 125, 124]].tolist() == [3071, 3071, 0, -1024]
    assert (case.structures["Larynx"].status, case.structures["Larynx"].volume_cc) == ("empty", 0.0)
    assert case.has("structures/Larynx") and not np.asarray(nibabel.load(case.path("structures/Larynx")).dataobj).any()
    assert "Larynx" in case.names("oar")


def test_raw_grid_is_the_published_one() -> None:
    grid = raw_grid((3.0, 4.0, 2.0))
    assert grid.axis_codes == "PLI"
    expected = [[0, -4, 0, 254], [-3, 0, 0, 190.5], [0, 0, -2, 127], [0, 0, 0, 1]]
    assert grid.affine.tolist() == expected


@pytest.mark.parametrize("below", ["", "train-pats"], ids=["provided-data", "one group"])
def test_scan_takes_the_published_layout(cohort, below: str) -> None:
    source = cohort(train=11, validation=2, test=1)
    (source / "train-pats" / "README.txt").write_text("not a patient")
    (source / "train-pats" / "other").mkdir()
    found = scan(source / below if below else source, load_recipe("openkbp"))
    train = [f"pt_{number}" for number in range(1, 12)]
    assert [item.id for item in found if item.group == "train"] == train
    assert len(found) == (11 if below else 14)


@pytest.mark.parametrize("name", ["absent", "empty", "train-pats", "file"])
def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path, name: str) -> None:
    if name != "absent":
        (tmp_path / name).mkdir() if name != "file" else (tmp_path / name).touch()
    with pytest.raises(NothingFoundError, match="Give the folder 'provided-data'"):
        scan(tmp_path / name, load_recipe("openkbp"))
