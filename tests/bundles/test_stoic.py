"""From chest CTs to COVID-19 and its severity: prep, training, evaluation and inference on made-up chests."""

from __future__ import annotations

import csv
import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_med import cli
from mtl_med.io.classification_table import read_classification
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.manifest import Case, Manifest
from mtl_med.metrics.rows import read_rows
from mtl_med.phantoms import write_stoic_cohort
from tests.bundles.bundle_command import Run, words_of

CONFIGS = Path("bundles/stoic_covid_classification/configs")
SMALL = {
    "volume_size": "[20,18,16]",
    "network_options#channels": "[4,6]",
    "network_options#bottleneck": 8,
    "network_options#image_width": 8,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty chests with voxels of 12 mm, two in five without COVID-19; many in `tune`, to calibrate on."""
    folder = tmp_path_factory.mktemp("stoic")
    write_stoic_cohort(folder / "raw", patients=30, shape=(32, 32, 24))
    recipe = shutil.copytree("data_prep/stoic", folder / "recipe") / "recipe.json"
    changed = {"splits": {"tune": 0.4, "validation": 0.2}, "spacing_mm": 12.0}
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | changed))
    words = ["prep", recipe, "--source", folder / "raw", "--out", folder / "study", "--workers", "1"]
    assert cli.main([str(word) for word in words]) == 0
    return folder / "study"


@pytest.fixture(scope="module")
def ctan(study: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ctan")
    run("train", dataset_dir=study, output_dir=out, epochs=2, **SMALL)
    return out


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.json").read_text())


def labels(cases: list[Case], task: str) -> list[int]:
    return [int(case.labels[task]) for case in cases if task in case.labels]


def test_severity_is_known_of_positive_patients_only(study: Path) -> None:
    for case in Manifest.read(study):
        assert ("severe" in case.labels) == (case.labels["covid"] == 1)


def test_as_published(study: Path, run: Run, tmp_path: Path) -> None:
    """With a smaller ResNet and smaller volumes; all else as the file says."""
    options = {"encoder": "resnet18", "volume_size": "[32,32,32]", "epochs": 1, "limit": 8}
    run("train", "as_published", dataset_dir=study, output_dir=tmp_path, **options)
    settings = settings_of(tmp_path)
    assert (settings["batch_size"], settings["learning_rate"], settings["weight_decay"]) == (8, 1e-4, 1e-5)
    assert (settings["optimizer"], settings["weighting"]) == ("Adam", "dwa")
    (row,) = csv.DictReader((tmp_path / "training.csv").read_text().splitlines())
    assert float(row["learning_rate"]) == 1e-4


def test_both_tasks_learn_and_are_calibrated_on_their_own_patients(ctan: Path, study: Path) -> None:
    settings, manifest = settings_of(ctan), Manifest.read(study)
    fit, tune = manifest.split("fit"), manifest.split("tune")
    for place, task in enumerate(("covid", "severe")):
        counts = np.bincount(labels(fit, task), minlength=2)
        assert list(settings["class_counts"][place].values()) == counts.tolist()
        found = settings["calibration"][task]
        np.testing.assert_allclose(found["priors"], counts / counts.sum())
        assert 0 <= found["threshold"] <= 1
    assert settings["calibration"]["covid"]["cases"] == len(tune) >= 10
    assert len(labels(tune, "severe")) < 10
    assert settings["calibration"]["severe"]["cases"] == 0
    assert "of at least 10 needed" in settings["calibration"]["severe"]["reason"]
    rows = list(csv.DictReader((ctan / "training.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(float(row[f"loss/{task}"]) > 0 for row in rows for task in ("covid", "severe"))


def test_goes_on_with_hps_from_where_it_stopped(study: Path, run: Run, tmp_path: Path) -> None:
    """In one go, or stopped after the first epoch: the same weights and the same operating points."""
    options = {"dataset_dir": study, "method": "hps", "learning_rate_shape": "constant", **SMALL}
    run("train", output_dir=tmp_path / "whole", epochs=2, **options)
    run("train", output_dir=tmp_path / "parts", epochs=1, **options)
    said = run("train", output_dir=tmp_path / "parts", epochs=2, resume="true", **options)
    assert "resumed after epoch 1" in said
    one, two = (torch.load(tmp_path / name / "model_last.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(two[key], value) for key, value in one.items())
    assert settings_of(tmp_path / "whole")["calibration"] == settings_of(tmp_path / "parts")["calibration"]


def test_half_of_the_severities_hidden(study: Path, run: Run, tmp_path: Path) -> None:
    options = {"hidden_labels": "{'severe': 0.5}", "class_weights": "balanced", "method": "hps", "epochs": 1}
    said = run("train", dataset_dir=study, output_dir=tmp_path, **options, **SMALL)
    known = len(labels(Manifest.read(study).split("fit"), "severe"))
    assert f"task severe: labels of {round(known / 2)} of {known} cases hidden" in said
    settings = settings_of(tmp_path)
    covid, severe = settings["class_counts"]
    assert sum(severe.values()) == known - round(known / 2)
    assert sum(covid.values()) == len(Manifest.read(study).split("fit"))


def test_two_processes_take_the_steps_of_one(forked_python, study: Path, run: Run, tmp_path: Path) -> None:
    """Also where one of the two has no severity in its batch."""
    options = {"dataset_dir": study, "epochs": 1, "method": "hps", **SMALL}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = words_of(CONFIGS, "train", "multi_gpu_train", output_dir=tmp_path / "two", batch_size=1, **options)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    jobs = [forked_python.start(*words, env=place | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    for done in [job.wait() for job in jobs]:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run("train", output_dir=tmp_path / "one", batch_size=2, **options)
    one, two = (torch.load(tmp_path / name / "model_last.pt", weights_only=True) for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-2, atol=1e-4)


def test_evaluation_scores_severity_where_it_is_known(ctan: Path, study: Path, run: Run) -> None:
    said = run("train", "evaluate", dataset_dir=study, output_dir=ctan)
    cases = Manifest.read(study).split("validation")
    found = read_classification(ctan / "predictions" / "classification.csv")
    assert {task: names for task, (names, _) in found.items()} == {
        "covid": ("negative", "positive"),
        "severe": ("not_severe", "severe"),
    }
    for _, rows in found.values():
        assert set(rows) == {case.id for case in cases}, "predicted of everybody"
    threshold = settings_of(ctan)["calibration"]["covid"]["threshold"]
    for decision, probabilities in found["covid"][1].values():
        if abs(probabilities[1] - threshold) > 1e-5:
            assert decision == ("positive" if probabilities[1] > threshold else "negative")
    scored = {
        task: {row.case for row in read_rows(ctan / "metrics.csv") if row.case and row.task == task} for task in found
    }
    assert scored["covid"] == {case.id for case in cases}
    assert scored["severe"] == {case.id for case in cases if "severe" in case.labels} < scored["covid"]
    assert "covid" in said and "severe" in said and "AUC" in said
    assert not list((ctan / "predictions").rglob("*.nii.gz")), "a class is no image"


def test_a_folder_of_volumes_windows_and_attention(ctan: Path, study: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    (case, *_) = Manifest.read(study).split("validation")
    ct, grid = read_nifti(case.path("ct"), np.int16)
    write_nifti(folder / "chest.nii.gz", ct, grid)
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    options = {"dataset_dir": folder, "weights": ctan / "model.pt"}
    said = run("inference", code=4, output_dir=tmp_path / "full", attention="true", **options)
    assert "broken failed: " in said
    assert {path.name for path in (tmp_path / "full" / "chest").iterdir()} == {
        *("attention_covid.png", "attention_severe.png")
    }
    run("inference", code=4, output_dir=tmp_path / "mean", image_mode="mean", window_size="[20,18,12]", **options)
    run("inference", code=4, output_dir=tmp_path / "max", image_mode="max", **options)
    full, mean, one = (
        read_classification(tmp_path / name / "classification.csv")["covid"][1]["chest"][1]
        for name in ("full", "mean", "max")
    )
    np.testing.assert_allclose(one, full, atol=1e-6, err_msg="one window is the whole")
    assert np.abs(mean - full).max() > 1e-6


def test_a_class_of_another_study_is_refused(study: Path, run: Run, tmp_path: Path) -> None:
    names = "{'covid': {'kind': 'classification', 'class_names': ['no', 'yes']}}"
    options = {"tasks": names, "loss_options": "{}", "settings#class_counts": "{}", "output_dir": tmp_path / "out"}
    said = run("train", code=2, dataset_dir=study, epochs=1, **options, **SMALL)
    assert re.search(r"error: .*: class 'no' of task 'covid' is none of the study's", said)
