"""Evaluation of a folder of predictions: the scores by independent arithmetic, and what may not be scored silently."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mtl_med import baselines, evaluation
from mtl_med.errors import NothingFoundError, OutputError, UsageError
from mtl_med.evaluation import evaluate, overall
from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.io.results import write_prediction
from mtl_med.manifest import Case, Manifest, Structure
from mtl_med.metrics.rows import read_rows
from mtl_med.prep.recipe import load_recipe

SHAPE = (26, 22, 18)
SPACING = (3.0, 2.5, 4.0)
GRID = Grid(SHAPE, np.array([[3.0, 0, 0, -37.5], [0, 2.5, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1]]))
KINDS = {"Brainstem": "oar", "Parotid_L": "oar", "Parotid_R": "oar", "PTV56": "target", "PTV70": "target"}
IDS = ("pt_1", "pt_2", "pt_3")


def _ball(centre, radii) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1.0


def _truth(number: int) -> dict[str, np.ndarray]:
    return {
        "Brainstem": _ball((13, 6, 9 + number % 2), (3, 3, 4)),
        "Parotid_L": _ball((6, 11, 9), (2.5, 3.5, 3)),
        "Parotid_R": _ball((19, 11, 9), (2.5, 3.5, 3)),
        "PTV56": _ball((12, 13, 9), (7, 5, 6)),
        "PTV70": _ball((12 + number, 14, 8), (3, 3, 3)),
    }


def _write_case(study: Path, name: str, split: str, number: int) -> Case:
    masks, folder = _truth(number), study / "cases" / name
    mask_dose = _ball((12, 12, 9), (11, 9, 8))
    distance = np.sqrt(sum((np.indices(SHAPE)[i] - c) ** 2 for i, c in enumerate((12, 14, 8))))
    dose = (72.0 * np.exp(-((distance / 7.0) ** 2)) * mask_dose).astype(np.float32)
    absent = {"pt_2": ("Parotid_R",)}.get(name, ())
    volumes = {"dose": dose, "mask_dose": mask_dose.astype(np.uint8)}
    volumes |= {f"structures/{key}": mask.astype(np.uint8) for key, mask in masks.items() if key not in absent}
    files = {key: {"path": f"{key}.nii.gz", "sha256": ""} for key in volumes}
    for key, volume in volumes.items():
        files[key]["sha256"] = write_nifti(folder / f"{key}.nii.gz", volume, GRID)
    structures = {
        key: Structure(key, KINDS[key], "not_contoured" if key in absent else "contoured", None) for key in masks
    }
    case = Case(name, split, folder, GRID, files, ("oar", "dose"), structures, {"PTV70": 70.0}, spacing_mm=SPACING)
    case.write()
    return case


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """Two validation cases (the right parotid of one not contoured) and one fit case."""
    root = tmp_path_factory.mktemp("study")
    splits = dict(zip(IDS, ("validation", "validation", "fit"), strict=True))
    cases = [_write_case(root, name, split, number) for number, (name, split) in enumerate(splits.items())]
    Manifest.build("made-up", root, cases).write()
    return root


def _prediction(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An imperfect dose (with something outside the mask) and imperfect organs; one organ is missed in case 1."""
    generator = np.random.default_rng(number)
    dose = generator.uniform(0.0, 70.0, SHAPE).astype(np.float32)
    organs = {name: np.roll(mask, number + 1, axis=0) for name, mask in _truth(number).items() if KINDS[name] == "oar"}
    if number == 1:
        organs["Brainstem"] = np.zeros(SHAPE, dtype=bool)
    return dose, organs


@pytest.fixture
def predictions(tmp_path) -> Path:
    """Predictions of the two validation cases."""
    for number, name in enumerate(IDS[:2]):
        dose, organs = _prediction(number)
        write_prediction(tmp_path / "predictions", name, GRID, dose_gy=dose, structures=organs)
    return tmp_path / "predictions"


# ---- the scores once more, from the files alone, by the published definitions ----


def _array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(np.float64)


def _segments(path: Path) -> dict[str, np.ndarray]:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    layers = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
    found, number = {}, 0
    while image.HasMetaDataKey(f"Segment{number}_Name"):
        key = f"Segment{number}"
        layer, label = (int(image.GetMetaData(f"{key}_{field}")) for field in ("Layer", "LabelValue"))
        found[image.GetMetaData(f"{key}_Name")] = label == layers[layer].T
        number += 1
    return found


def _percentile(values: np.ndarray, percent: float) -> float:
    ordered = np.sort(values)
    place = percent / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _dvh(doses: np.ndarray, kind: str, voxel_mm3: float) -> list[float]:
    if kind == "target":
        return [_percentile(doses, p) for p in (1, 5, 99)]
    hottest = max(1, np.round(100 / voxel_mm3))
    return [_percentile(doses, max(0, 100 - hottest / len(doses) * 100)), doses.sum() / len(doses)]


def _surface_points(mask: np.ndarray, spacing) -> np.ndarray:
    padded = np.pad(mask, 1)
    buried = padded.copy()
    for axis in range(3):
        for step in (1, -1):
            buried &= np.roll(padded, step, axis)
    return np.argwhere(padded & ~buried) * np.array(spacing)


def _hd95(first: np.ndarray, second: np.ndarray, spacing) -> float:
    a, b = _surface_points(first, spacing), _surface_points(second, spacing)
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return max(_percentile(distances.min(1), 95), _percentile(distances.min(0), 95))


def _independent(study: Path, predictions: Path, cases, spacing) -> dict[str, float]:
    """Dose score, DVH score, MAEs, and Dice and HD95 per case and structure."""
    scores: dict[str, list[float]] = {"dose_score": [], "mae_in_mask": [], "mae_whole_grid": [], "dvh": []}
    found: dict[str, float] = {}
    for name in cases:
        folder = study / "cases" / name
        true, mask = _array(folder / "dose.nii.gz"), _array(folder / "mask_dose.nii.gz")
        raw = _array(predictions / name / "dose.nii.gz")
        predicted = raw * mask
        scores["dose_score"].append(np.abs(true - predicted).sum() / mask.sum())
        scores["mae_in_mask"].append(np.abs(true - raw)[mask > 0].mean())
        scores["mae_whole_grid"].append(np.abs(true - raw).mean())
        segments = _segments(predictions / name / "structures.seg.nrrd")
        for path in sorted((folder / "structures").iterdir()):
            key, roi = path.name.removesuffix(".nii.gz"), _array(path) > 0
            pair = [_dvh(dose[roi], KINDS[key], math.prod(spacing)) for dose in (true, predicted)]
            scores["dvh"] += [abs(a - b) for a, b in zip(*pair, strict=True)]
            if KINDS[key] == "oar":
                found[f"dice {name} {key}"] = 2 * (roi & segments[key]).sum() / (roi.sum() + segments[key].sum())
                found[f"hd95 {name} {key}"] = _hd95(roi, segments[key], spacing) if segments[key].any() else math.nan
    means = {key: sum(values) / len(values) for key, values in scores.items()}
    return (
        found
        | {key: means[key] for key in ("dose_score", "mae_in_mask", "mae_whole_grid")}
        | {"dvh_score": means["dvh"]}
    )


def test_all_scores_equal_an_independent_calculation_on_the_same_files(study, predictions):
    result = evaluate(study, predictions)
    expected = _independent(study, predictions, IDS[:2], SPACING)
    ours = overall(result.rows)
    rows = {f"{row.metric} {row.case} {row.structure}": row.value for row in result.rows}
    ours |= {key: rows[key] for key in expected if " " in key}
    assert len(expected) == 4 + 2 * 5
    for key, value in expected.items():
        assert ours[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
    assert ours["dose_score"] != pytest.approx(ours["mae_whole_grid"], rel=0.1)


def test_the_must_fail_twins_change_the_scores(study, predictions):
    """Guards the test above: with swapped labels or without the mask it could not hold."""
    expected = _independent(study, predictions, IDS[:2], SPACING)
    for number, name in enumerate(IDS[:2]):
        dose, organs = _prediction(number)
        organs["Parotid_L"], organs["Parotid_R"] = organs["Parotid_R"], organs["Parotid_L"]
        write_prediction(predictions, name, GRID, dose_gy=np.roll(dose, 1, axis=2), structures=organs)
    swapped = evaluate(study, predictions)
    rows = {f"{row.metric} {row.case} {row.structure}": row.value for row in swapped.rows}
    assert rows["dice pt_1 Parotid_L"] == 0.0 < expected["dice pt_1 Parotid_L"]
    assert abs(overall(swapped.rows)["dose_score"] - expected["dose_score"]) > 1e-3


# ---- geometry ----


def _shift(folder: Path, name: str, offset_mm) -> None:
    image = nib.load(folder / name)
    affine = image.affine.copy()
    affine[:3, 3] += offset_mm
    write_nifti(folder / name, np.asarray(image.dataobj), Grid(SHAPE, affine))


@pytest.mark.parametrize("offset", [(1.5, 0, 0), (0, 0, 2.0), (0, 0.01, 0)], ids=["half a voxel x", "half z", "10 um"])
def test_a_shifted_prediction_fails_its_case_and_no_other(study, predictions, offset):
    _shift(predictions / "pt_1", "dose.nii.gz", offset)
    result = evaluate(study, predictions)
    assert result.scored == ("pt_2",)
    assert {row.case for row in result.rows} == {"pt_2"}
    assert "grids differ" in result.failures["pt_1"]
    assert "pt_1" in result.failures["pt_1"]
    assert "pt_1: " in result.text()


@pytest.mark.parametrize("codes", ["PLI", "LPS", "SAR"])
def test_a_prediction_in_another_axis_order_scores_the_same(study, predictions, codes):
    from mtl_med.geometry import reorient

    plain = evaluate(study, predictions).rows
    for number, name in enumerate(IDS[:2]):
        dose, organs = _prediction(number)
        turned, grid = reorient(dose, GRID, codes)
        organs = {key: reorient(mask.astype(np.uint8), GRID, codes)[0] for key, mask in organs.items()}
        write_prediction(predictions, name, grid, dose_gy=turned, structures=organs)
    turned_rows = evaluate(study, predictions).rows
    np.testing.assert_equal([row.value for row in turned_rows], [row.value for row in plain])


def test_a_flipped_prediction_under_the_same_affine_scores_worse(study, predictions):
    before = overall(evaluate(study, predictions).rows)
    for number, name in enumerate(IDS[:2]):
        dose, organs = _prediction(number)
        flipped = {key: mask[::-1] for key, mask in organs.items()}
        write_prediction(predictions, name, GRID, dose_gy=dose[::-1], structures=flipped)
    after = overall(evaluate(study, predictions).rows)
    assert after["mean_dice"] < before["mean_dice"]
    assert after["dose_score"] != before["dose_score"]


# ---- what is missing ----


def test_missed_and_not_contoured_structures_are_rows(study, predictions):
    rows = {(row.case, row.structure, row.metric): row.value for row in evaluate(study, predictions).rows}
    assert rows["pt_2", "Brainstem", "dice"] == rows["pt_2", "Brainstem", "surface_dice_2mm"] == 0.0
    assert math.isnan(rows["pt_2", "Brainstem", "hd95"])
    assert all(math.isnan(rows["pt_2", "Parotid_R", metric]) for metric in ("dice", "hd95", "surface_dice_2mm"))
    assert ("pt_2", "Parotid_R", "mean_true") not in rows


def test_an_organ_left_out_of_one_file_is_missed_and_one_left_out_of_all_is_not_scored(study, predictions):
    dose, organs = _prediction(0)
    write_prediction(predictions, "pt_1", GRID, dose_gy=dose, structures={"Brainstem": organs["Brainstem"]})
    rows = {(row.case, row.structure, row.metric): row.value for row in evaluate(study, predictions).rows}
    assert rows["pt_1", "Parotid_L", "dice"] == 0.0
    assert ("pt_1", "PTV70", "dice") not in rows


def test_a_case_without_a_dose_that_others_have_fails(study, predictions):
    (predictions / "pt_1" / "dose.nii.gz").unlink()
    assert "no dose" in evaluate(study, predictions).failures["pt_1"]


def test_a_case_without_structures_that_others_have_fails(study, predictions):
    for name in ("structures.seg.nrrd", "structures.nii.gz"):
        (predictions / "pt_1" / name).unlink()
    assert "no structures" in evaluate(study, predictions).failures["pt_1"]


def test_predictions_of_doses_alone_or_structures_alone_are_scored(study, predictions, tmp_path):
    whole = evaluate(study, predictions).rows
    for number, name in enumerate(IDS[:2]):
        dose, organs = _prediction(number)
        write_prediction(tmp_path / "doses", name, GRID, dose_gy=dose)
        write_prediction(tmp_path / "organs", name, GRID, structures=organs)
    doses, organs = evaluate(study, tmp_path / "doses").rows, evaluate(study, tmp_path / "organs").rows
    assert {row.task for row in doses} == {"dose"}
    assert {row.task for row in organs} == {"oar"}
    assert sorted(map(repr, doses + organs)) == sorted(map(repr, whole))


def test_targets_are_a_task_of_their_own(study, predictions):
    for number, name in enumerate(IDS[:2]):
        write_prediction(predictions, name, GRID, structures={"PTV70": _truth(number)["PTV70"]})
    rows = [row for row in evaluate(study, predictions).rows if row.metric == "dice"]
    assert {(row.task, row.structure, row.value) for row in rows} == {("target", "PTV70", 1.0)}


def test_a_label_map_is_read_only_where_there_is_no_segmentation_and_says_so(study, predictions):
    (predictions / "pt_1" / "structures.seg.nrrd").unlink()
    result = evaluate(study, predictions)
    by_case = {row.case: row.convention for row in result.rows if row.metric == "dice"}
    assert by_case["pt_1"].split(";")[0] == "labelmap"
    assert "labelmap" not in by_case["pt_2"]
    assert "label maps" in result.text()


def test_cases_without_prediction_and_strange_folders_are_named(study, predictions):
    shutil.copytree(predictions / "pt_1", predictions / "pt_99")
    result = evaluate(study, predictions)
    assert result.without_prediction == ("pt_3",)
    assert result.unknown == ("pt_99",)
    assert "without prediction: 1 (pt_3)" in result.text()
    assert "pt_99" in result.text()


def test_a_structure_that_the_study_does_not_know_is_named(study, predictions, caplog):
    dose, organs = _prediction(0)
    write_prediction(predictions, "pt_1", GRID, dose_gy=dose, structures=organs | {"Spleen": organs["Brainstem"]})
    result = evaluate(study, predictions)
    assert "Spleen" in caplog.text
    assert not any(row.structure == "Spleen" for row in result.rows)


@pytest.mark.parametrize(
    ("dataset", "recipe", "warned"),
    [("openkbp", "0" * 64, True), ("openkbp", "", False), ("openkbp", "shipped", False), ("made-up", "0" * 64, False)],
    ids=["another version", "none told", "the shipped one", "no such recipe"],
)
def test_a_study_of_another_version_of_its_recipe_is_said_in_one_line(
    study, predictions, tmp_path, dataset, recipe, warned
):
    digest = load_recipe("openkbp").digest if recipe == "shipped" else recipe
    shutil.copytree(study, tmp_path / "study")
    made = json.loads((study / "manifest.json").read_text()) | {"dataset": dataset}
    (tmp_path / "study" / "manifest.json").write_text(json.dumps(made))
    (tmp_path / "study" / "run.json").write_text(json.dumps({"hashes": {"recipe": digest} if digest else {}}))
    result = evaluate(tmp_path / "study", predictions)
    lines = [line for line in result.text().splitlines() if "another version of the recipe 'openkbp'" in line]
    assert (len(lines), result.old_recipe) == ((1, "openkbp") if warned else (0, ""))


# ---- bad files ----


@pytest.mark.parametrize("content", ["{", '{"hashes": [1]}'], ids=repr)
@pytest.mark.parametrize("where", ["study", "predictions"])
def test_a_damaged_record_is_a_warning(study, predictions, tmp_path, caplog, where, content):
    """What made the folder is then unknown; the scores do not need it."""
    shutil.copytree(study, tmp_path / "study")
    folder = {"study": tmp_path / "study", "predictions": predictions}[where]
    (folder / "run.json").write_text(content)
    result = evaluate(tmp_path / "study", predictions)
    assert result.scored == ("pt_1", "pt_2") and not result.other_study and not result.old_recipe
    told = [message for message in caplog.messages if "run.json: is not valid JSON" in message]
    assert len(told) == (1 if content == "{" else 0), caplog.text


@pytest.mark.parametrize("name", ["dose.nii.gz", "structures.seg.nrrd"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"nonsense"], ids=["half", "other"]
)
def test_a_damaged_file_fails_its_case_and_no_other(study, predictions, name, damage):
    path = predictions / "pt_1" / name
    path.write_bytes(damage(path.read_bytes()))
    result = evaluate(study, predictions)
    assert list(result.failures) == ["pt_1"]
    assert name in result.failures["pt_1"]
    assert "Traceback" not in result.failures["pt_1"] and "unexpected" not in result.failures["pt_1"]
    assert result.scored == ("pt_2",)


def test_a_dose_that_is_not_finite_is_not_averaged_away(study, predictions):
    dose, _ = _prediction(0)
    dose[3, 3, 3] = np.inf
    write_nifti(predictions / "pt_1" / "dose.nii.gz", dose, GRID)
    assert "not finite" in evaluate(study, predictions).failures["pt_1"]


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [("test", UsageError, "no case is in split 'test'"), ("fit", NothingFoundError, "in split fit")],
)
def test_a_split_that_cannot_be_scored_is_refused(study, predictions, split, error, message):
    with pytest.raises(error, match=message):
        evaluate(study, predictions, split)


def test_no_study_and_no_predictions_are_told_apart(study, predictions, tmp_path):
    with pytest.raises(UsageError, match="no study folder"):
        evaluate(predictions, predictions)
    with pytest.raises(NothingFoundError, match="nowhere"):
        evaluate(study, tmp_path / "nowhere")


# ---- the command ----


def _run(*words) -> int:
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    return evaluation.run(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("workers", ["-5", "two"])
@pytest.mark.parametrize("module", [evaluation, baselines], ids=["evaluate", "baseline"])
def test_workers_are_one_or_more(capsys, module, workers):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--workers", workers])
    assert f"argument --workers: {workers} is no number above 0" in capsys.readouterr().err


def test_the_command_writes_the_table_a_record_and_a_summary(study, predictions, tmp_path, capsys):
    out = tmp_path / "metrics.csv"
    assert _run("--study", study, "--predictions", predictions, "--out", out, "--split", "validation") == 0
    rows = read_rows(out)
    np.testing.assert_equal(
        [row.value for row in rows if row.case], [row.value for row in evaluate(study, predictions).rows]
    )
    over_all = [row for row in rows if not row.case]
    assert rows[-len(over_all) :] == over_all, "at the end"
    assert {row.metric for row in over_all} == {"dose_score", "dvh_score", "mae_in_mask", "mae_whole_grid", "mean_dice"}
    assert all(row.value == overall(rows)[row.metric] for row in over_all)
    record = json.loads((tmp_path / "metrics.run.json").read_text())
    assert record["scored"] == ["pt_1", "pt_2"]
    assert record["hashes"]["fingerprint"] == Manifest.read(study).fingerprint
    assert record["scores"] == overall(read_rows(out))
    text = capsys.readouterr().out
    assert "dose score" in text and "Parotid_L" in text and str(out) in text
    assert "DVH (Gy)" in text and "CAUTION" not in text


def test_two_runs_and_any_number_of_workers_give_equal_tables(study, predictions, tmp_path):
    for name in IDS[:2]:
        # Doses alone spare the worker processes the import of MONAI, which takes longer than all the rest.
        shutil.copytree(predictions / name, tmp_path / "doses" / name, ignore=shutil.ignore_patterns("structures*"))
    for workers in (1, 2):
        words = ("--out", tmp_path / f"{workers}.csv", "--workers", workers)
        _run("--study", study, "--predictions", tmp_path / "doses", *words)
    assert len(read_rows(tmp_path / "1.csv")) > 50
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_exit_codes_tell_some_all_and_missing(study, predictions, tmp_path):
    words = ("--study", study, "--predictions", predictions, "--out", tmp_path / "m.csv")
    (predictions / "pt_1" / "dose.nii.gz").write_bytes(b"")
    assert _run(*words) == 4
    (predictions / "pt_2" / "dose.nii.gz").write_bytes(b"")
    assert _run(*words) == 5
    for number, name in enumerate(IDS[:2]):
        write_prediction(predictions, name, GRID, dose_gy=_prediction(number)[0])
    assert _run(*words) == 0
    shutil.rmtree(predictions / "pt_2")
    assert _run(*words) == 0
    assert _run(*words, "--split", "validation") == 4


def test_a_table_that_cannot_be_written_is_said(study, predictions, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"m\.csv"):
        _run("--study", study, "--predictions", predictions, "--out", tmp_path / "file" / "m.csv")


# ---- a real patient: scores from the raw CSV files in their own axis order ----

OARS = {"Brainstem": "Brainstem", "SpinalCord": "SpinalCord", "RightParotid": "Parotid_R", "LeftParotid": "Parotid_L",
        "Esophagus": "Esophagus", "Larynx": "Larynx", "Mandible": "Bone_Mandible"}  # fmt: skip


def _csv(path: Path) -> np.ndarray:
    """A published sparse volume as a flat array; masks, whose data column is empty, as ones."""
    volume = np.zeros(128**3)
    for line in path.read_text().splitlines()[1:]:
        index, value = line.split(",")
        volume[int(index)] = float(value) if value else 1.0
    return volume


def _published_scores(patient: Path, predicted: np.ndarray) -> dict[str, float]:
    """Dose score and DVH score of one patient as the challenge's code defines them, on flat arrays in CSV order."""
    true, mask = _csv(patient / "dose.csv"), _csv(patient / "possible_dose_mask.csv")
    predicted = predicted * mask
    voxel_mm3 = np.prod(np.loadtxt(patient / "voxel_dimensions.csv"))
    errors = []
    for name in [*OARS, "PTV56", "PTV63", "PTV70"]:
        if not (patient / f"{name}.csv").exists():
            continue
        roi = _csv(patient / f"{name}.csv").astype(bool)
        for percent in (
            (1, 5, 99) if name.startswith("PTV") else (100 - max(1, np.round(100 / voxel_mm3)) / roi.sum() * 100,)
        ):
            errors.append(abs(np.percentile(true[roi], percent) - np.percentile(predicted[roi], percent)))
        if name in OARS:
            errors.append(abs(true[roi].mean() - predicted[roi].mean()))
    return {"dose_score": np.abs(true - predicted).sum() / mask.sum(), "dvh_score": np.mean(errors)}


def test_a_real_patient_scores_as_published_from_its_csv_files(openkbp_source, run_python, tmp_path):
    (patient,) = (openkbp_source / "validation-pats").iterdir()
    shutil.copytree(patient, tmp_path / "source" / "validation-pats" / patient.name)
    done = run_python("-m", "mtl_med.prep", "openkbp", "--source", tmp_path / "source", "--out", tmp_path / "study")
    assert done.returncode == 0, done.stderr
    # The prediction is written in the axis order of the CSV files (anterior to posterior, right to left, head to feet).
    v = np.loadtxt(patient / "voxel_dimensions.csv")
    affine = np.array(
        [[0, -v[1], 0, 63.5 * v[1]], [-v[0], 0, 0, 63.5 * v[0]], [0, 0, -v[2], 63.5 * v[2]], [0, 0, 0, 1]]
    )
    noise = np.random.default_rng(5).normal(0.0, 4.0, 128**3)
    predicted = np.clip(_csv(patient / "dose.csv") * 0.95 + noise, 0, None).astype(np.float32)
    organ = {name: _csv(patient / f"{raw}.csv") for raw, name in OARS.items() if (patient / f"{raw}.csv").exists()}
    write_prediction(
        tmp_path / "predictions",
        patient.name,
        Grid((128,) * 3, affine),
        dose_gy=predicted.reshape((128,) * 3),
        structures={name: mask.reshape((128,) * 3) for name, mask in organ.items()},
    )
    scores = overall(evaluate(tmp_path / "study", tmp_path / "predictions").rows)
    for key, value in _published_scores(patient, predicted.astype(np.float64)).items():
        assert scores[key] == pytest.approx(value, abs=1e-6), key
    # The organs are the true ones: any flip or swap on the way from the CSV files would show here.
    assert {key: scores[f"dice/{key}"] for key in organ} == dict.fromkeys(organ, 1.0)


def test_predictions_of_other_weights_in_the_folder_do_not_count(study, predictions):
    """A run that predicted one case scores that one, whatever lies beside it."""
    result = evaluate(study, predictions, cases={"pt_2": "made by this run"})
    assert (result.scored, {row.case for row in result.rows}) == (("pt_2",), {"pt_2"})
    assert "pt_1" in result.without_prediction
