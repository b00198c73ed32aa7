"""STOIC volumes in the study: cropped, at their places, with the table's labels and nothing of the header."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from mtl_med.errors import CaseError, NothingFoundError, UsageError
from mtl_med.files import shipped
from mtl_med.geometry import Grid
from mtl_med.io.metaimage import encode_metaimage
from mtl_med.manifest import Manifest
from mtl_med.phantoms import ChestPhantom, make_chest, write_stoic_cohort
from mtl_med.prep.engine import How, prepare
from mtl_med.prep.readers import stoic
from mtl_med.prep.recipe import Recipe, load_recipe
from mtl_med.prep.splits import assign_splits

SHAPE = (48, 48, 36)
PATIENTS = 10
Tree = Callable[[Path], dict[str, bytes]]


def recipe_of(folder: Path, spacing_mm: object) -> Recipe:
    """The shipped recipe with another spacing."""
    fields = json.loads((shipped("recipes") / "stoic" / "recipe.json").read_text())
    path = folder / f"recipe_{spacing_mm}.json"
    path.write_text(json.dumps(fields | {"spacing_mm": spacing_mm}))
    return load_recipe(str(path))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """6 mm, for speed."""
    return recipe_of(tmp_path_factory.mktemp("recipe"), 6.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up cohort. Read only."""
    folder = tmp_path_factory.mktemp("stoic") / "raw"
    write_stoic_cohort(folder, patients=PATIENTS, seed=11, shape=SHAPE)
    return folder


@pytest.fixture(scope="module")
def study(source: Path, coarse: Recipe) -> Manifest:
    """It, prepared."""
    report = prepare(coarse, source, source.parent / "study")
    assert report.exit_code == 0
    return report.manifest


@pytest.fixture(scope="module")
def chest() -> ChestPhantom:
    return make_chest(4, shape=SHAPE, covid=True, axis_codes="LPS")


def write_raw(folder: Path, volumes: dict[str, bytes], table: str) -> Path:
    (folder / "data" / "mha").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for name, data in volumes.items():
        (folder / "data" / "mha" / name).write_bytes(data)
    (folder / "metadata" / "reference.csv").write_text(table)
    return folder


def packed(chest: ChestPhantom) -> bytes:
    return encode_metaimage(chest.ct_hu, chest.grid)


def test_labels_are_partial(study: Manifest, source: Path) -> None:
    assert study.classes == {"covid": ("negative", "positive"), "severe": ("not_severe", "severe")}
    rows = [line.split(",") for line in (source / "metadata" / "reference.csv").read_text().splitlines()[1:]]
    wanted = {name: {"covid": int(c), **({"severe": int(s)} if c == "1" else {})} for name, c, s in rows}
    assert {case.id: case.labels for case in study} == wanted
    assert {case.tasks for case in study} == {("covid",), ("covid", "severe")}


def test_splits_hold_the_groups_alike(source: Path, coarse: Recipe, tmp_path: Path) -> None:
    table = "PatientID,probCOVID,probSevere\n"
    table += "".join(f"{number},{int(number % 5 > 1)},{int(number % 5 == 4)}\n" for number in range(100))
    volume = next((source / "data" / "mha").iterdir()).read_bytes()
    found = stoic.scan(write_raw(tmp_path / "raw", {"0.mha": volume}, table), coarse)
    from mtl_med.prep.splits import assign_splits

    splits = assign_splits(found, coarse.fractions, coarse.split_seed)
    for stratum, count in (("covid 0", 40), ("covid 1, severe 0", 40), ("covid 1, severe 1", 20)):
        own = [splits[item.id] for item in found if item.stratum == stratum]
        assert len(own) == count
        assert [own.count(name) for name in ("validation", "tune", "fit")] == [count // 5, count // 10, count * 7 // 10]


def test_the_study_is_cubic_ras_int16_and_holds_the_lungs(study: Manifest) -> None:
    for case in study:
        image = nibabel.load(case.path("ct"))
        assert image.get_data_dtype() == np.int16 and nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == pytest.approx((6, 6, 6), abs=1e-4) and case.spacing_mm == pytest.approx(
            (6,) * 3
        )
        lungs = nibabel.load(case.path("structures/Lungs"))
        assert np.array_equal(image.affine, lungs.affine) and image.shape == lungs.shape
        assert case.structures["Lungs"].kind == "other" and 2500 < case.structures["Lungs"].volume_cc < 7000
        assert (case.folder / "overlay.png").is_file()


def test_nothing_of_the_header_is_in_the_study(study: Manifest, source: Path, tree: Tree) -> None:
    texts = [b"PatientAge", b"PatientSex", *(b"0%dY" % age for age in (35, 45, 55, 65, 75, 85))]
    raw = b"".join(path.read_bytes() for path in (source / "data" / "mha").iterdir())
    assert texts[0] in raw
    for name, data in tree(study.root).items():
        content = (
            gzip.decompress(data) if name.endswith(".gz") else data if not name.endswith((".png", ".html")) else b""
        )
        assert not [text for text in texts[:2] if text in content], name
        assert name.endswith(".gz") or not [text for text in texts if text in content], name


@pytest.mark.parametrize("axis_codes", ["LPS", "RAI", "PSL"])
@pytest.mark.parametrize("spacing_mm", [3.0, 17.0], ids=["finer", "coarser"])
def test_a_mark_is_where_it_was(tmp_path: Path, axis_codes: str, spacing_mm: float) -> None:
    """Half a voxel is 4 mm before and 8.5 mm after: a block or an interpolation that is off by that is found."""
    chest = make_chest(9, shape=(48, 48, 36), covid=False, finding="none", axis_codes=axis_codes)
    at = np.rint(np.linalg.solve(chest.grid.affine, [-20, 24, -35, 1])[:3]).astype(int)  # within the heart
    marked = chest.ct_hu.copy()
    mark = tuple(slice(i - 3, i + 4) for i in at)
    marked[mark] = 2000
    truth = chest.grid.points_ras(at[None])[0]
    volumes = {"1.mha": packed(chest), "2.mha": encode_metaimage(marked, chest.grid)}
    raw = write_raw(tmp_path / "raw", volumes, "PatientID,probCOVID,probSevere\n1,0,0\n2,0,0\n")
    plain, other = (stoic.read(item, recipe_of(tmp_path, spacing_mm)) for item in stoic.scan(raw, load_recipe("stoic")))
    assert plain.grid.shape == other.grid.shape
    weight = other.volumes["ct"].astype(float) - plain.volumes["ct"]
    indices = np.argwhere(weight > 20)
    found = np.average(plain.grid.points_ras(indices), axis=0, weights=weight[weight > 20])
    assert found == pytest.approx(truth, abs=1.5 if spacing_mm < 10 else 3.0)


def test_nibabel_and_simpleitk_find_the_lungs_where_they_are(tmp_path: Path) -> None:
    chest = make_chest(6, shape=(64, 64, 48), covid=False, finding="none")
    truth = chest.grid.centroid_ras(chest.lungs)
    raw = write_raw(tmp_path / "raw", {"1.mha": packed(chest)}, "PatientID,probCOVID,probSevere\n1,0,0\n")
    (case,) = prepare(recipe_of(tmp_path, 3.0), raw, tmp_path / "study").manifest
    image = nibabel.load(case.path("structures/Lungs"))
    ours = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj))).mean(axis=0)
    judged = sitk.ReadImage(str(case.path("structures/Lungs")))
    stats = sitk.LabelShapeStatisticsImageFilter()
    stats.Execute(judged)
    assert np.array(stats.GetCentroid(1)) * (-1, -1, 1) == pytest.approx(ours, abs=0.05)
    assert ours == pytest.approx(truth, abs=3)


def test_the_crop_holds_the_lungs_of_every_patient(study: Manifest) -> None:
    phantoms = {f"phantom{n:04d}": n for n in range(1, PATIENTS + 1)}
    from mtl_med.phantoms.chest import _CLASSES

    for case in study:
        number = phantoms[case.id]
        kind = _CLASSES[np.random.default_rng((11, 0x5701C, (number - 1) // 5)).permutation(5)[(number - 1) % 5]]
        chest = make_chest((11, number), shape=SHAPE, covid=kind != "negative", severe=kind == "severe")
        points = chest.grid.points_ras(np.argwhere(chest.lungs))
        indices = (points - case.grid.affine[:3, 3]) @ np.linalg.inv(case.grid.affine[:3, :3]).T
        inside = ((indices > -0.5) & (indices < np.array(case.grid.shape) - 0.5)).all(axis=1)
        assert inside.mean() > 0.995, case.id
        body_cc = np.prod(case.grid.shape) * 0.216
        assert body_cc < 0.6 * chest.ct_hu.size * chest.grid.voxel_volume_mm3 / 1000


def test_workers_and_repeated_runs_give_the_same_bytes(
    study: Manifest, source: Path, coarse: Recipe, tree: Tree
) -> None:
    again = prepare(coarse, source, source.parent / "again", How(workers=2))
    assert tree(again.manifest.root) == tree(study.root)
    before = (study.root / "cases" / "phantom0001" / "ct.nii.gz").stat().st_mtime_ns
    skipped = prepare(coarse, source, study.root)
    assert len(skipped.skipped) == PATIENTS and not skipped.converted
    assert (study.root / "cases" / "phantom0001" / "ct.nii.gz").stat().st_mtime_ns == before


def test_a_label_that_changed_is_taken_over(source: Path, coarse: Recipe, tmp_path: Path) -> None:
    volume = (source / "data" / "mha" / "phantom0001.mha").read_bytes()
    raw = write_raw(tmp_path / "raw", {"1.mha": volume}, "PatientID,probCOVID,probSevere\n1,0,0\n")
    assert prepare(coarse, raw, tmp_path / "study").manifest.cases[0].labels == {"covid": 0}
    (raw / "metadata" / "reference.csv").write_text("PatientID,probCOVID,probSevere\n1,1,1\n")
    assert prepare(coarse, raw, tmp_path / "study").manifest.cases[0].labels == {"covid": 1, "severe": 1}


def changed(chest: ChestPhantom, array: np.ndarray) -> bytes:
    return encode_metaimage(array, Grid(array.shape, chest.grid.affine))


def with_nan(chest: ChestPhantom) -> bytes:
    array = chest.ct_hu.astype(np.float32)
    array[20, 20, 20] = np.nan
    return changed(chest, array)


BAD_VOLUMES: dict[str, tuple[Callable[[ChestPhantom], bytes], str]] = {
    "NaN": (with_nan, "holds values that are no numbers"),
    "infinite": (lambda c: changed(c, np.where(c.ct_hu > 100, np.inf, c.ct_hu).astype(np.float32)), "no numbers"),
    "4D": (lambda c: packed(c).replace(b"NDims = 3", b"NDims = 4"), "has 4 dimensions, expected 3"),
    "one slice": (lambda c: changed(c, c.ct_hu[:, :, :1]), "has 48 x 48 x 1 voxels, 1 slice along an axis"),
    "seven slices": (lambda c: changed(c, c.ct_hu[:, :, :7]), "7 slices along an axis, expected 8 or more"),
    "grey values": (lambda c: changed(c, (c.ct_hu // 16 + 64).clip(0, 255).astype(np.uint8)), "values from 0 to"),
    "HU + 1024": (lambda c: changed(c, (c.ct_hu.clip(-1024) + 1024).astype(np.int16)), "which are no CT numbers"),
    "scaled to 1": (lambda c: changed(c, (c.ct_hu / 1000).clip(-1, 1).astype(np.float32)), "which are no CT numbers"),
    "nothing but air": (lambda c: changed(c, np.full_like(c.ct_hu, -1000)), "values from -1000 to -1000"),
    "truncated": (lambda c: packed(c)[:-100], "is damaged or truncated"),
    "wrong bytes": (lambda c: packed(c)[:-400] + b"\0" * 400, "is damaged or truncated"),
    "empty": (lambda c: b"", "is no MetaImage"),
    "another format": (lambda c: b"\x1f\x8b\x08\0" * 99, "is no MetaImage"),
    "spacing in cm": (
        lambda c: encode_metaimage(c.ct_hu, Grid(c.ct_hu.shape, np.diag([0.1, 0.1, 0.1, 1]) @ c.grid.affine)),
        "mm large, which holds no chest",
    ),
    "too large": (lambda c: packed(c).replace(b"DimSize = 48 48 36", b"DimSize = 9999 9999 99"), "more than any chest"),
}


@pytest.mark.parametrize("fault", BAD_VOLUMES)
def test_a_volume_that_cannot_be_used_is_one_sentence(
    chest: ChestPhantom, coarse: Recipe, tmp_path: Path, fault: str
) -> None:
    make, said = BAD_VOLUMES[fault]
    raw = write_raw(tmp_path, {"7.mha": make(chest)}, "PatientID,probCOVID,probSevere\n7,1,0\n")
    (found,) = stoic.scan(raw, coarse)
    with pytest.raises(CaseError) as caught:
        stoic.read(found, coarse)
    sentence = str(caught.value)
    assert said in sentence and "7.mha" in sentence and "\n" not in sentence and sentence.endswith(".")


BAD_ROWS = {
    "row without volume": ("9,0,0", "9", "has a row in metadata/reference.csv, but no volume data/mha/9.mha"),
    "volume without row": ("", "1", "has a volume, but no row in metadata/reference.csv"),
    "COVID-19 of 2": ("1,2,0", "1", "probCOVID is '2' in line 2 of reference.csv, expected 0 or 1"),
    "COVID-19 of 0.5": ("1,0.5,0", "1", "probCOVID is '0.5'"),
    "severity in words": ("1,1,yes", "1", "probSevere is 'yes'"),
    "negative severity": ("1,1,-1", "1", "probSevere is '-1'"),
    "same id twice": ("1,1,0\n1,1,0", "1", "is in lines 2 and 3 of reference.csv: a patient has one row"),
    "id that is a path": ("../../1,1,0", "../../1", "has characters in its name that a case id cannot have"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_row_that_cannot_be_used_is_one_sentence(
    chest: ChestPhantom, coarse: Recipe, tmp_path: Path, fault: str
) -> None:
    rows, patient, said = BAD_ROWS[fault]
    raw = write_raw(tmp_path, {"1.mha": packed(chest)}, f"PatientID,probCOVID,probSevere\n{rows}\n")
    found = {item.id: item for item in stoic.scan(raw, coarse)}
    assert found[patient].fault.startswith(said)


def test_two_volumes_of_one_patient_are_refused(chest: ChestPhantom, coarse: Recipe, tmp_path: Path) -> None:
    volumes = {"1.mha": packed(chest), "1.MHA": packed(chest)}
    (found,) = stoic.scan(write_raw(tmp_path, volumes, "PatientID,probCOVID,probSevere\n1,1,0\n"), coarse)
    assert found.fault == "has 2 volumes (1.MHA and 1.mha): keep the one that is meant"


LABELS = {
    "1,1,1": ({"covid": 1, "severe": 1}, ""),
    "1,1.0,0.0": ({"covid": 1, "severe": 0}, ""),
    " 1 , 0 ,0": ({"covid": 0}, ""),
    "1,1,": ({"covid": 1}, "holds no probSevere"),
    "1,1": ({"covid": 1}, "holds no probSevere"),
    "1,,1": ({}, "holds no probCOVID: the case has no label"),
    "1,0,1": ({"covid": 0}, "probSevere is 1 without COVID-19, where severity is not defined"),
    "1,0,": ({"covid": 0}, ""),
}


@pytest.mark.parametrize("row", LABELS)
def test_labels_that_are_missing_or_contradict_are_noted(
    chest: ChestPhantom, coarse: Recipe, tmp_path: Path, row: str
) -> None:
    labels, remark = LABELS[row]
    raw = write_raw(tmp_path, {"1.mha": packed(chest)}, f"\ufeffPatientID, probCOVID,probSevere,More\n{row}\n\n")
    (found,) = stoic.scan(raw, coarse)
    case = stoic.read(found, coarse)
    assert not found.fault and case.labels == labels
    assert remark in " ".join(case.remarks) if remark else not case.remarks


def test_without_lungs_the_body_is_kept_and_a_note_says_so(chest: ChestPhantom, coarse: Recipe, tmp_path: Path) -> None:
    solid = np.where(chest.lungs, 40, chest.ct_hu).astype(np.int16)
    raw = write_raw(tmp_path / "raw", {"1.mha": changed(chest, solid)}, "PatientID,probCOVID,probSevere\n1,1,1\n")
    report = prepare(coarse, raw, tmp_path / "study")
    (case,) = report.manifest
    assert (
        report.exit_code == 0
        and case.structures["Lungs"].status == "not_contoured"
        and not case.has("structures/Lungs")
    )
    assert any(note.startswith("no lungs were found") for note in case.notes)
    assert any(note.startswith("no_lungs: Lungs is not contoured") for note in case.notes)


def test_the_other_patients_go_through(chest: ChestPhantom, coarse: Recipe, tmp_path: Path) -> None:
    volumes = {f"{number}.mha": packed(chest) for number in (2, 10, 30)}
    volumes |= {"3.mha": with_nan(chest), "4.mha": packed(chest)[:500], "5.mha": packed(chest)}
    table = "PatientID,probCOVID,probSevere\n2,1,0\n3,1,0\n4,1,0\n6,0,0\n10,0,0\n30,1,7\n"
    raw = write_raw(tmp_path / "raw", volumes, table)
    report = prepare(coarse, raw, tmp_path / "study")
    assert report.converted == ["2", "10"] and report.exit_code == 4
    assert sorted(report.failed) == ["3", "30", "4", "5", "6"]
    assert sorted(path.name for path in (tmp_path / "study" / "cases").iterdir()) == ["10", "2"]
    limited = stoic.scan(raw, coarse)
    assert [item.id for item in limited] == ["2", "3", "4", "5", "10", "30", "6"], "those without a volume come last"


def test_equal_volumes_are_told_and_their_patients_stay_together(
    chest: ChestPhantom, coarse: Recipe, tmp_path: Path
) -> None:
    volumes = {f"{number}.mha": f"volume {number:02d}".encode() for number in range(10, 40)}
    volumes |= {f"{number}.mha": packed(chest) for number in (1, 2)}
    table = "".join(f"{number},{number % 2},0\n" for number in (1, 2, *range(10, 40)))
    raw = write_raw(tmp_path / "raw", volumes, f"PatientID,probCOVID,probSevere\n{table}")
    sources = {item.id: item for item in stoic.scan(raw, coarse)}
    assert {item.id for item in sources.values() if item.remarks} == {"1", "2"}
    assert (sources["1"].patient, sources["2"].patient, sources["10"].patient) == ("1", "1", "10")
    for seed in range(20):
        splits = assign_splits(sources.values(), coarse.fractions, seed)
        assert splits["1"] == splits["2"]
    expected = "volume equals that of 2 byte by byte (covid 0); both go to one split"
    found = stoic.read(sources["1"], coarse)
    assert expected in found.remarks
    assert found.group == stoic.read(sources["2"], coarse).group == "1", "they are drawn together, too"


def test_a_twin_that_arrives_later_changes_the_case_that_was_finished(
    chest: ChestPhantom, coarse: Recipe, tmp_path: Path
) -> None:
    table = "PatientID,probCOVID,probSevere\n1,1,0\n2,0,0\n"
    write_raw(tmp_path / "raw", {"1.mha": packed(chest)}, table)
    assert prepare(coarse, tmp_path / "raw", tmp_path / "study").converted == ["1"]
    shutil.copy(tmp_path / "raw" / "data" / "mha" / "1.mha", tmp_path / "raw" / "data" / "mha" / "2.mha")
    assert prepare(coarse, tmp_path / "raw", tmp_path / "study").converted == ["1", "2"]
    first, second = Manifest.read(tmp_path / "study").cases
    assert first.group == second.group == "1" and any("byte by byte" in note for note in first.notes)
    assert prepare(coarse, tmp_path / "raw", tmp_path / "study").converted == []


FOLDERS = {
    "absent": (lambda folder: None, "there is no such folder"),
    "empty": (lambda folder: folder.mkdir(), "it holds no data/mha/<PatientID>.mha"),
    "no table": (lambda folder: (folder / "data" / "mha").mkdir(parents=True), "it holds no data/mha"),
    "volumes alone": (
        lambda folder: ((folder / "data" / "mha").mkdir(parents=True), (folder / "data" / "mha" / "1.mha").touch()),
        "it holds no metadata/reference.csv",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path, name: str) -> None:
    make, said = FOLDERS[name]
    make(tmp_path / "raw")
    with pytest.raises(NothingFoundError, match=said):
        stoic.scan(tmp_path / "raw", load_recipe("stoic"))


TABLES = {
    "column missing": ("PatientID,probCOVID\n1,1\n", "has no column probSevere"),
    "column misnamed": ("PatientID,probCovid,probSevere\n1,1,1\n", "Did you mean probCovid"),
    "column twice": ("PatientID,probCOVID,probSevere,probCOVID\n1,1,1,0\n", "has the column probCOVID twice"),
    "empty": ("", "has no column PatientID"),
    "row without id": ("PatientID,probCOVID,probSevere\n,1,1\n", "has no PatientID in line 2"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, name: str) -> None:
    text, said = TABLES[name]
    with pytest.raises(UsageError, match=said):
        stoic.scan(write_raw(tmp_path, {"1.mha": b""}, text), load_recipe("stoic"))


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    raw = write_raw(tmp_path, {"1.mha": b""}, "")
    (raw / "metadata" / "reference.csv").write_bytes("PatientID,probCOVID\n".encode("utf-16"))
    with pytest.raises(UsageError, match="is no CSV table"):
        stoic.scan(raw, load_recipe("stoic"))


@pytest.mark.parametrize("spacing_mm", [None, "2", 0, 0.1, 99.0], ids=str)
def test_a_spacing_that_cannot_be_meant_is_refused(source: Path, tmp_path: Path, spacing_mm: object) -> None:
    with pytest.raises(UsageError, match="expected mm from 0.5 to 20"):
        stoic.scan(source, recipe_of(tmp_path, spacing_mm))
