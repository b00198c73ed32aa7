"""Which cases can be used, with which inputs and labels, and what is said about those that cannot."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from mtl_med.errors import NothingFoundError, UsageError
from mtl_med.loading import (
    check_inputs,
    input_channels,
    input_items,
    spacing_for,
    study_facts,
    study_items,
)
from mtl_med.manifest import Manifest
from mtl_med.tasks import Task, as_tasks

ORGANS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
TASKS = as_tasks({"oar": {"kind": "segmentation", "class_names": ORGANS}, "dose": {"kind": "regression", "unit": "Gy"}})


def edit_case(study: Path, case_id: str, **changes: object) -> None:
    path = study / "cases" / case_id / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def own_study(tiny_study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_study, tmp_path / "study"))


@pytest.mark.parametrize(("inputs", "channels"), [("ct", 1), ("ct+ptv", 2), ("rgb", 3)])
def test_channels_of_the_image(inputs: str, channels: int) -> None:
    assert input_channels(inputs) == channels


@pytest.mark.parametrize(("inputs", "hint"), [("ct+pvt", r"Did you mean ct\+ptv"), ("mri", r"Known: ct, ct\+ptv")])
def test_unknown_inputs_are_refused_with_the_known_ones(inputs: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        check_inputs(inputs)


@pytest.mark.parametrize("target", ["PTV70", "ctv_1", "GTVp"])
def test_targets_cannot_be_input_and_output(target: str) -> None:
    tasks = [Task("oar", "segmentation", 2, ("Brainstem", target))]
    assert check_inputs("ct", tasks) == "ct"
    with pytest.raises(UsageError, match=rf"the targets \({target}\) cannot be input and output at once"):
        check_inputs("ct+ptv", tasks)


PERCENT_DOSE = as_tasks({"dose": {"kind": "regression", "unit": "percent"}})


def test_a_dose_in_percent_is_scaled_by_the_highest_prescription(own_study: Path) -> None:
    edit_case(own_study, "p0", prescriptions_gy={"PTV70": 60.0, "boost": 80.0})
    edit_case(own_study, "p1", prescriptions_gy={})
    items = {item["id"]: item for item in study_items(own_study, "fit", PERCENT_DOSE, "ct")}
    assert items["p0"]["factor_dose"] == pytest.approx(100 / 80)
    assert items["p1"]["dose"] == [""], "percent of an unknown prescription is an unknown label"
    assert items["p1"]["labelled_dose"] == [False]


def test_what_the_network_has_been_told_of_the_prescription(tiny_study: Path) -> None:
    told = {inputs: input_items(tiny_study, inputs, splits=["fit"])[0] for inputs in ("ct", "ct+ptv")}
    assert (told["ct"]["prescription_gy"], told["ct+ptv"]["prescription_gy"]) == (0.0, 70.0)
    (item, *_) = input_items(tiny_study, "ct", prescription_gy=60)
    assert item["prescription_gy"] == 60.0
    with pytest.raises(UsageError, match="prescription_gy is -1"):
        input_items(tiny_study, "ct", prescription_gy=-1)


def test_items_of_a_split_name_files_and_labels(tiny_study: Path) -> None:
    items = {item["id"]: item for item in study_items(tiny_study, "fit", TASKS, "ct+ptv")}
    assert list(items) == ["p0", "p1", "p2", "p3"]
    folder = tiny_study / "cases" / "p0"
    assert items["p0"] == {
        "id": "p0",
        "group": "p0",
        "image": str(folder / "ct.nii.gz"),
        "mask_dose": str(folder / "mask_dose.nii.gz"),
        "ptv": [(str(folder / "structures" / "PTV70.nii.gz"), 70.0)],
        "oar": [str(folder / "structures" / f"{name}.nii.gz") for name in ORGANS],
        "labelled_oar": [True] * 7,
        "dose": [str(folder / "dose.nii.gz")],
        "labelled_dose": [True],
    }
    assert items["p1"]["labelled_oar"] == [True, True, True, False, True, True, True]
    assert items["p1"]["oar"][3] == ""
    assert items["p2"]["labelled_dose"] == [False]
    assert "ptv" not in study_items(tiny_study, "fit", TASKS, "ct")[0]


def test_a_structure_without_a_voxel_teaches_nothing(own_study: Path) -> None:
    """Nobody says that the organ is absent: it may be smaller than a voxel, or its contours could not be read."""
    found = json.loads((own_study / "cases" / "p0" / "case.json").read_text())["structures"]
    found["Larynx"] |= {"status": "empty", "volume_cc": 0.0}
    edit_case(own_study, "p0", structures=found)
    item = study_items(own_study, "fit", TASKS, "ct")[0]
    assert item["id"] == "p0"
    known = dict(zip(ORGANS, item["labelled_oar"], strict=True))
    assert not known["Larynx"] and known["Brainstem"]


def test_limit_and_several_splits(tiny_study: Path) -> None:
    assert [item["id"] for item in study_items(tiny_study, "fit", TASKS, "ct", limit=2)] == ["p0", "p1"]
    assert [item["id"] for item in study_items(tiny_study, ["tune", "validation"], TASKS, "ct")] == ["p4", "p5"]


def test_a_case_without_targets_is_left_out_by_name(own_study: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_case(own_study, "p1", prescriptions_gy={})
    with caplog.at_level(logging.WARNING):
        items = study_items(own_study, "fit", TASKS, "ct+ptv")
    assert [item["id"] for item in items] == ["p0", "p2", "p3"]
    assert "left out: p1: has no target with a prescription" in caplog.text
    assert [item["id"] for item in study_items(own_study, "fit", TASKS, "ct")] == ["p0", "p1", "p2", "p3"]


def test_a_required_label_is_required(tiny_study: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [Task("dose", "regression", unit="Gy", required=True)]
    assert [item["id"] for item in study_items(tiny_study, "fit", tasks, "ct")] == ["p0", "p1", "p3"]
    assert "left out: p2: has no label for the required task 'dose'" in caplog.text


def test_nothing_usable_is_an_error(own_study: Path) -> None:
    for number in range(4):
        edit_case(own_study, f"p{number}", prescriptions_gy={})
    with pytest.raises(NothingFoundError, match="no case can be used"):
        study_items(own_study, "fit", TASKS, "ct+ptv")


@pytest.fixture
def staged(own_study: Path) -> Path:
    """The study with an image-level task of three stages: p0 is late, p3 early, the others unknown."""
    edit_case(own_study, "p0", labels={"stage": 2}, group="twins")
    edit_case(own_study, "p3", labels={"stage": 0})
    path = own_study / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": {"stage": ["early", "middle", "late"]}}))
    return own_study


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task("stage", "classification", 3), ["2", "", "", "0"]),
        (Task("stage", "classification", 3, ("early", "middle", "late")), ["2", "", "", "0"]),
        (Task("stage", "classification", 3, ("late", "early", "middle")), ["0", "", "", "1"]),
    ],
    ids=["unnamed", "in the study's order", "in another order"],
)
def test_image_level_labels_are_found_by_name(staged: Path, task: Task, expected: list[str]) -> None:
    items = study_items(staged, "fit", [task], "ct")
    assert [item["stage"] for item in items] == [[index] for index in expected]
    assert [item["labelled_stage"] for item in items] == [[True], [False], [False], [True]]
    assert [item["group"] for item in items] == ["twins", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (("stag", 3, ()), "the study has no image-level task 'stag'. Did you mean stage"),
        (("stage", 4, ()), "has 4 unnamed classes, and the study 3. Give its class_names: early, middle, late"),
        (("stage", 3, ("early", "midle", "late")), "class 'midle' of task 'stage' is none of the study's. .*middle"),
        (("stage", 2, ("early", "late")), "lacks the study's class 'middle'. Name all of them: early, middle, late"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_other_classes_than_the_studys_are_refused(staged: Path, task: tuple, message: str) -> None:
    name, channels, names = task
    with pytest.raises(UsageError, match=message):
        study_items(staged, "fit", [Task(name, "classification", channels, names)], "ct")


@pytest.mark.parametrize("label", [3, -1, 0.5])
def test_a_label_of_no_class_costs_one_case(staged: Path, caplog, label: float) -> None:
    edit_case(staged, "p1", labels={"stage": label})
    items = study_items(staged, "fit", [Task("stage", "classification", 3)], "ct")
    assert [item["id"] for item in items] == ["p0", "p2", "p3"]
    assert f"p1: has the label {label:g} for task 'stage', expected a whole number from 0 to 2" in caplog.text


class TestInputItems:
    def test_of_a_study(self, tiny_study: Path) -> None:
        items = input_items(tiny_study, "ct", splits=["validation"])
        folder = tiny_study / "cases" / "p5"
        assert items == [
            {
                "id": "p5",
                "image": str(folder / "ct.nii.gz"),
                "source": str(folder / "ct.nii.gz"),
                "possible_dose_mask": str(folder / "mask_dose.nii.gz"),
                "prescription_gy": 0.0,
            }
        ]
        assert len(input_items(tiny_study, "ct+ptv")) == 6

    def test_of_a_folder_of_images(self, tmp_path: Path) -> None:
        for name in ("b.nii", "a.nii.gz", "notes.txt", "c.nii.json", "._a.nii.gz"):
            (tmp_path / name).touch()
        items = input_items(tmp_path, "ct")
        assert [(item["id"], Path(item["image"]).name) for item in items] == [("a", "a.nii.gz"), ("b", "b.nii")]
        assert all(item["source"] == item["image"] and item["possible_dose_mask"] == "" for item in items)
        assert len(input_items(tmp_path, "ct", limit=1)) == 1

    def test_two_images_of_one_name_are_refused_and_the_others_go_on(self, tmp_path: Path) -> None:
        for name in ("a.nii", "a.nii.gz", "b.nii"):
            (tmp_path / name).touch()
        first, second, good = input_items(tmp_path, "ct")
        assert "a.nii and a.nii.gz would write into one folder" in first["error"] == second["error"]
        assert good["id"] == "b" and "error" not in good

    def test_a_folder_of_images_has_no_targets(self, tmp_path: Path) -> None:
        (tmp_path / "a.nii.gz").touch()
        with pytest.raises(UsageError, match=r"has no targets, which inputs 'ct\+ptv' needs"):
            input_items(tmp_path, "ct+ptv")

    @pytest.mark.parametrize("name", ["", "missing"], ids=["empty", "missing"])
    def test_no_data(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(NothingFoundError, match="is no folder" if name else "neither a study folder"):
            input_items(tmp_path / name, "ct")


def test_facts_of_a_study(tiny_study: Path) -> None:
    facts = study_facts(tiny_study)
    assert facts == {
        "dataset": "tiny",
        "fingerprint": Manifest.read(tiny_study).fingerprint,
        "median_spacing_mm": [3.0, 3.0, 2.5],
        "spacing_mm": None,
    }


def test_median_spacing_is_that_of_the_fit_cases(own_study: Path) -> None:
    for number, spacing in enumerate([(1.0, 1, 1), (2.0, 2, 2), (5.0, 5, 5), (2.5, 2, 4)]):
        edit_case(own_study, f"p{number}", spacing_mm=spacing)
    edit_case(own_study, "p5", spacing_mm=(9.0, 9, 9))
    assert study_facts(own_study)["median_spacing_mm"] == [2.25, 2.0, 3.0]


def test_only_the_same_data_set_keeps_its_grid(tiny_study: Path, tmp_path: Path) -> None:
    facts = study_facts(tiny_study)
    assert spacing_for(tiny_study, facts) is None
    assert spacing_for(tmp_path, facts) == [3.0, 3.0, 2.5]
    assert spacing_for(tiny_study, facts | {"dataset": "other"}) == [3.0, 3.0, 2.5]
    assert spacing_for(tmp_path, {}) is None
    resampled = study_facts(tiny_study, [2.0, 2.0, 2.0])
    assert spacing_for(tiny_study, resampled) == spacing_for(tmp_path, resampled) == [2.0, 2.0, 2.0]
