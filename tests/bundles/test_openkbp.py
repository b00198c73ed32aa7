"""The OpenKBP bundle from training to predictions by `python -m monai.bundle run`, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from mtl_med.files import sha256_file

BUNDLE = Path("bundles/openkbp_dose_oar_segmentation")
TRAIN, EVALUATE, INFERENCE, RANKS, PUBLISHED = (
    str(BUNDLE / "configs" / f"{name}.json")
    for name in ("train", "evaluate", "inference", "multi_gpu_train", "as_published")
)
ORGANS = ["Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible"]
Done = subprocess.CompletedProcess


def words(config: str | list[str], **options: Any) -> list[str]:
    """The command line after `python`."""
    given = {"config_file": config, "bundle_root": BUNDLE, "workers": 0, **options}
    return ["-m", "monai.bundle", "run", *(str(word) for pair in given.items() for word in (f"--{pair[0]}", pair[1]))]


Bundle = Callable[..., Done]


@pytest.fixture(scope="module")
def run_bundle(forked_python) -> Bundle:
    def run(config: str | list[str], **options: Any) -> Done:
        return forked_python.run(*words(config, **options))

    return run


def succeeded(done: Done) -> str:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def refused(done: Done, code: int, pattern: str) -> None:
    """One sentence as the last line, the exit code, no traceback."""
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr + done.stdout
    *before, last = done.stderr.strip().splitlines()
    assert re.search(rf"^error: {pattern}", last), last
    assert not any(line.startswith("error:") for line in before)


@pytest.fixture(scope="module")
def trained(tiny_study: Path, run_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and log of a CTAN trained for two epochs on CT and targets."""
    out = tmp_path_factory.mktemp("trained")
    options = {"method": "ctan", "inputs": "ct+ptv", "epochs": 2, "patch_size": "[48,48,48]"}
    return out, succeeded(run_bundle(TRAIN, dataset_dir=tiny_study, output_dir=out, **options))


@pytest.fixture(scope="module")
def trained_on_ct(tiny_study: Path, run_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an HPS network trained for one epoch on CT alone."""
    out = tmp_path_factory.mktemp("on_ct")
    options = {"method": "hps", "inputs": "ct", "epochs": 1, "patch_size": "[48,48,48]", "precision": "fp32"}
    succeeded(run_bundle(TRAIN, dataset_dir=tiny_study, output_dir=out, **options))
    return out


def assert_predicted(folder: Path, source: Path) -> None:
    """Everything that opens in 3D Slicer, on the source's own grid."""
    assert {path.name for path in folder.iterdir()} == {
        *("ct.nii.gz", "dose.nii.gz", "structures.nii.gz", "structures.seg.nrrd", "structures.ctbl")
    }
    expected = nibabel.load(source)
    for name in ("ct", "dose", "structures"):
        image = nibabel.load(folder / f"{name}.nii.gz")
        assert image.shape == expected.shape
        np.testing.assert_array_equal(image.affine, expected.affine)
    dose = nibabel.load(folder / "dose.nii.gz")
    assert dose.get_data_dtype() == np.float32
    values = np.asarray(dose.dataobj)
    assert np.isfinite(values).all()
    assert values.min() >= 0
    table = (folder / "structures.ctbl").read_text()
    assert [line.split()[1] for line in table.splitlines()[2:]] == ORGANS


class TestTraining:
    def test_writes_what_a_run_leaves(self, trained: tuple[Path, str], tiny_study: Path) -> None:
        out, _ = trained
        assert {path.name for path in out.iterdir()} == {
            *("checkpoint.pt", "model.pt", "model.json", "model_last.pt", "model_last.json"),
            *("training.csv", "tensorboard", "run.json"),
        }
        settings = json.loads((out / "model.json").read_text())
        assert (settings["method"], settings["inputs"], settings["patch_size"]) == ("ctan", "ct+ptv", [48, 48, 48])
        assert settings["study"]["dataset"] == "tiny"
        assert settings == json.loads((out / "model_last.json").read_text())
        record = json.loads((out / "run.json").read_text())
        assert (record["stage"], record["epochs"], record["steps"], record["processes"]) == ("train", 2, 8, 1)
        assert record["settings"] == settings
        assert record["hashes"] == {name: sha256_file(out / name) for name in ("model.pt", "model_last.pt")}
        weights = torch.load(out / "model.pt", weights_only=True)
        assert record["parameters"] == sum(value.numel() for value in weights.values())  # instance norm has no buffers
        assert 0 < record["seconds_per_step"] < 60
        assert 10 < record["peak_memory_mib"] < 10_000

    def test_logs_losses_weights_rate_and_scores_per_task(self, trained: tuple[Path, str]) -> None:
        out, log = trained
        rows = list(csv.DictReader((out / "training.csv").read_text().splitlines()))
        names = [f"{kind}/{task}" for kind in ("loss", "weight", "score") for task in ("oar", "dose")]
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert [row["step"] for row in rows] == ["4", "8"]
        assert all(np.isfinite(float(row[name])) for row in rows for name in [*names, "learning_rate", "score"])
        assert re.search(r"epoch 2  tune: score 0\.\d+  score/oar 0\.\d+  score/dose 0\.\d+", log)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(out / "tensorboard"))
        events.Reload()
        assert set(events.Tags()["scalars"]) >= {"loss", "learning_rate", "score", *names}

    def test_a_log_is_no_place_for_progress_bars(self, trained: tuple[Path, str]) -> None:
        assert "Loading dataset" not in trained[1]

    def test_goes_on_from_the_command_line(self, trained: tuple[Path, str], run_bundle, tiny_study, tmp_path) -> None:
        out = shutil.copytree(trained[0], tmp_path / "run")
        options = {"inputs": "ct+ptv", "epochs": 3, "patch_size": "[48,48,48]", "resume": "true"}
        log = succeeded(run_bundle(TRAIN, dataset_dir=tiny_study, output_dir=out, **options))
        assert "resumed after epoch 2, step 8" in log
        rows = (out / "training.csv").read_text().splitlines()
        assert rows[:3] == (trained[0] / "training.csv").read_text().splitlines()
        assert len(rows) == 4

    def test_minutes_alone_end_a_run_whose_weights_tell_all(self, run_bundle: Bundle, tiny_study, tmp_path) -> None:
        """Network options and method need not be repeated for inference: model.json knows them."""
        options = {"method": "stl", "minutes": 0.01, "epochs": "$None", **SMALL}
        succeeded(run_bundle(TRAIN, dataset_dir=tiny_study, output_dir=tmp_path, **options))
        assert len((tmp_path / "training.csv").read_text().splitlines()) > 1
        weights, out = tmp_path / "model.pt", tmp_path / "out"
        succeeded(run_bundle(INFERENCE, dataset_dir=tiny_study, weights=weights, output_dir=out, splits="['tune']"))
        assert_predicted(out / "p4", tiny_study / "cases" / "p4" / "ct.nii.gz")

    def test_weights_of_the_losses_can_be_fixed(self, run_bundle: Bundle, tiny_study: Path, tmp_path: Path) -> None:
        options = {"weighting": "fixed", "weighting_options": "{'weights': {'oar': 0.25, 'dose': 2.0}}", **SMALL}
        succeeded(run_bundle(TRAIN, dataset_dir=tiny_study, output_dir=tmp_path, epochs=1, **options))
        (row,) = csv.DictReader((tmp_path / "training.csv").read_text().splitlines())
        assert (row["weight/oar"], row["weight/dose"]) == ("0.25", "2.0")


class TestSlices:
    """A patch of two numbers makes a 2D network; everything behind it takes volumes as before."""

    def test_train_evaluate_and_infer(self, run_bundle: Bundle, tiny_study: Path, tmp_path: Path) -> None:
        run, out = tmp_path / "run", tmp_path / "out"
        options = {"patch_size": "[64,32]", "encoder": "resnet18", "batch_size": 4, "method": "hps", "inputs": "ct"}
        succeeded(run_bundle(TRAIN, dataset_dir=tiny_study, output_dir=run, epochs=1, **options))
        settings = json.loads((run / "model.json").read_text())
        assert (settings["encoder"], settings["patch_size"]) == ("resnet18", [64, 32])
        assert torch.load(run / "model.pt", weights_only=True)["encoder.conv1.weight"].shape == (64, 1, 7, 7)
        succeeded(run_bundle([TRAIN, EVALUATE], dataset_dir=tiny_study, output_dir=run))
        assert_predicted(run / "predictions" / "p5", tiny_study / "cases" / "p5" / "ct.nii.gz")
        weights = run / "model.pt"
        succeeded(
            run_bundle(INFERENCE, dataset_dir=tiny_study, weights=weights, output_dir=out, splits="['validation']")
        )
        for name in ("dose", "structures"):
            pair = [nibabel.load(each / "p5" / f"{name}.nii.gz") for each in (out, run / "predictions")]
            np.testing.assert_array_equal(*(np.asarray(image.dataobj) for image in pair))

    def test_as_published(self, run_bundle: Bundle, tiny_study: Path, tmp_path: Path) -> None:
        options = {"patch_size": "[64,32]", "repeats": 2, "epochs": 1, "encoder": "resnet18"}
        log = succeeded(run_bundle([TRAIN, PUBLISHED], dataset_dir=tiny_study, output_dir=tmp_path, **options))
        assert "epoch 1" in log
        settings = json.loads((tmp_path / "model.json").read_text())
        assert (settings["batch_size"], settings["learning_rate"], settings["weight_decay"]) == (8, 1e-4, 1e-5)
        assert settings["tasks"]["oar"]["class_names"] == ORGANS[:4]
        (row,) = csv.DictReader((tmp_path / "training.csv").read_text().splitlines())
        assert float(row["learning_rate"]) == 1e-4
        rows = succeeded(run_bundle([TRAIN, PUBLISHED, EVALUATE], dataset_dir=tiny_study, output_dir=tmp_path))
        assert "dose score" in rows


@pytest.fixture(scope="module")
def folder(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT images from elsewhere: the same, another orientation and spacing, a broken one."""
    folder = tmp_path_factory.mktemp("images")
    image = nibabel.load(tiny_study / "cases" / "p0" / "ct.nii.gz")
    shutil.copyfile(tiny_study / "cases" / "p0" / "ct.nii.gz", folder / "same.nii.gz")
    turned = image.slicer[::-1, :, ::2]
    nibabel.save(turned.as_reoriented(np.array([[2, 1], [0, 1], [1, 1]])), folder / "turned.nii")
    broken = (tiny_study / "cases" / "p1" / "ct.nii.gz").read_bytes()
    (folder / "broken.nii.gz").write_bytes(broken[: len(broken) // 2])
    return folder


SMALL = {"patch_size": "[24,24,24]", "network_options#channels": "[4,8]", "network_options#bottleneck": 8}


def test_an_interrupt_is_no_traceback_and_the_run_can_go_on(forked_python, run_bundle, tiny_study, tmp_path) -> None:
    options = {"dataset_dir": tiny_study, "output_dir": tmp_path, **SMALL}
    job = forked_python.start(*words(TRAIN, epochs=100_000, **options))
    end = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").is_file() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGINT)
    done = job.wait()
    assert done.returncode == 130, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("interrupted")
    assert "resumed after epoch" in succeeded(run_bundle(TRAIN, epochs=1, resume="true", **options))


def test_a_full_disk_is_one_sentence(forked_python, tiny_study: Path, tmp_path: Path) -> None:
    command = words(TRAIN, dataset_dir=tiny_study, output_dir=tmp_path, epochs=1, patch_size="[48,48,48]")[1:]
    script = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        f"sys.argv = {command}; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    )
    refused(forked_python.run("-c", script), 6, r".*model\.pt: cannot write: File too large\. Check the folder")
    assert not list(tmp_path.glob("*.pt"))


class TestPrediction:
    def test_evaluate_scores_the_validation_split(self, trained, run_bundle, tiny_study: Path, tmp_path: Path) -> None:
        out = shutil.copytree(trained[0], tmp_path / "run")
        log = succeeded(run_bundle([TRAIN, EVALUATE], dataset_dir=tiny_study, output_dir=out))
        assert "dose score" in log
        assert {path.name for path in (out / "predictions").iterdir()} == {"p5", "run.json"}
        assert_predicted(out / "predictions" / "p5", tiny_study / "cases" / "p5" / "ct.nii.gz")
        rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
        assert {row["case"] for row in rows} == {"p5", ""}, "the scores over all cases have none"
        dose_score, over_all = (float(row["value"]) for row in rows if row["metric"] == "dose_score")
        assert dose_score == over_all
        study = tiny_study / "cases" / "p5"
        truth, inside = (np.asarray(nibabel.load(study / f"{key}.nii.gz").dataobj) for key in ("dose", "mask_dose"))
        found = np.asarray(nibabel.load(out / "predictions" / "p5" / "dose.nii.gz").dataobj)
        assert dose_score == pytest.approx(np.abs(found - truth)[inside > 0].mean(), rel=1e-5)
        assert not found[inside == 0].any()
        assert {row["structure"] for row in rows if row["metric"] == "dice"} == set(ORGANS)

    def test_inference_predicts_a_whole_study(self, trained, run_bundle, tiny_study: Path, tmp_path: Path) -> None:
        weights = trained[0] / "model_last.pt"
        log = succeeded(run_bundle(INFERENCE, dataset_dir=tiny_study, weights=weights, output_dir=tmp_path / "out"))
        assert "6/6  p5" in log
        cases = [f"p{number}" for number in range(6)]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*cases, "run.json"]
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["weights"] == {"path": str(weights), "sha256": sha256_file(weights)}
        assert (record["stage"], record["cases"], record["failed"]) == ("predict", 6, {})
        for case in cases:
            assert_predicted(tmp_path / "out" / case, tiny_study / "cases" / case / "ct.nii.gz")

    def test_a_broken_image_does_not_stop_the_others(self, trained_on_ct, run_bundle, folder, tmp_path: Path) -> None:
        weights = trained_on_ct / "model.pt"
        done = run_bundle(INFERENCE, dataset_dir=folder, weights=weights, output_dir=tmp_path)
        assert done.returncode == 4, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        assert re.search(r"broken failed: .*broken\.nii\.gz: cannot be read as NIfTI", done.stdout)
        assert "1 of 3 cases failed" in done.stdout
        assert not (tmp_path / "broken").exists()
        assert_predicted(tmp_path / "same", folder / "same.nii.gz")
        assert_predicted(tmp_path / "turned", folder / "turned.nii")

    def test_images_without_targets_are_refused(self, trained, run_bundle, folder: Path, tmp_path: Path) -> None:
        done = run_bundle(INFERENCE, dataset_dir=folder, weights=trained[0] / "model.pt", output_dir=tmp_path)
        refused(done, 2, r".*: a folder of CT images has no targets, which inputs 'ct\+ptv' needs\. Give a study")

    def test_weights_of_another_network_are_refused(self, trained_on_ct, run_bundle, tiny_study, tmp_path) -> None:
        weights = trained_on_ct / "model.pt"
        done = run_bundle(INFERENCE, dataset_dir=tiny_study, weights=weights, output_dir=tmp_path, method="ctan")
        refused(done, 2, r".*model\.pt: weights belong to another network: \d+ keys are missing \(first: .*\)")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "code", "pattern"),
        [
            ({"dataset_dir": "nowhere"}, 3, r"nowhere: is no folder\. Check --dataset_dir"),
            (
                {"dataset_dir": "mtl_med"},
                3,
                r"mtl_med: is neither a study folder \(manifest\.json\) nor a folder of CT",
            ),
            ({"weights": "nowhere.pt"}, 2, r"nowhere\.pt: there are no weights\. Train first"),
            ({"splits": "['test']"}, 2, r".*: no case is in split 'test'\. Splits here: fit, tune, validation"),
            ({"overlapp": "0.5"}, 2, r"--overlapp: the config has no 'overlapp' to override\. Did you mean overlap"),
        ],
        ids=["no-folder", "no-data", "no-weights", "no-split", "unknown-override"],
    )
    def test_refuses(self, trained_on_ct, run_bundle, tiny_study, tmp_path, options: dict, code: int, pattern) -> None:
        given = {"dataset_dir": tiny_study, "weights": trained_on_ct / "model.pt", "output_dir": tmp_path / "out"}
        refused(run_bundle(INFERENCE, **given | options), code, pattern)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "pattern"),
    [
        ({"methud": "x"}, 2, r"--methud: the config has no 'methud' to override\. Did you mean method"),
        ({"epoch": 5}, 2, r"--epoch: the config has no 'epoch' to override\. Did you mean epochs"),
        (
            {"train#dataloder": 1},
            2,
            r"--train#dataloder: the config has no 'train#dataloder' .* Did you mean dataloader",
        ),
        ({"method": "ctam"}, 2, r"unknown method 'ctam'\. Did you mean ctan"),
        ({"inputs": "ct+pvt"}, 2, r"unknown inputs 'ct\+pvt'\. Did you mean ct\+ptv"),
        ({"weighting": "dwaa"}, 2, r"unknown weighting 'dwaa'\. Did you mean dwa"),
        ({"precision": "fp8"}, 2, r"unknown precision 'fp8'\. Did you mean"),
        ({"network_options#chanels": "[4,8]"}, 2, r"unknown option 'chanels' of a network .* Did you mean channels"),
        ({"resume": "maybe"}, 2, r"--resume: 'maybe' is neither true nor false\. Write --resume true or false"),
        ({"dataset_dir": "nowhere"}, 2, r"nowhere: is no study folder \(manifest\.json is missing\)\. Make one with"),
        ({"epochs": 0}, 2, r"--epochs: is 0, expected a whole number of 1 or more, or None"),
        ({"limit": "x"}, 2, r"--limit: is 'x', expected a whole number of 1 or more, or None"),
        (
            {"output_dir": "README.md"},
            6,
            r"README\.md/tensorboard: cannot be made: Not a directory\. Choose another --output",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_training_refuses(run_bundle: Bundle, tiny_study, tmp_path, options: dict, code: int, pattern: str) -> None:
    given = {"dataset_dir": tiny_study, "output_dir": tmp_path / "out", "epochs": 1, **SMALL}
    refused(run_bundle(TRAIN, **given | options), code, pattern)
    assert not list((tmp_path / "out").glob("*.*")), "nothing that looks like a run"


def test_a_misspelt_override_ends_a_real_process(run_python, tmp_path: Path) -> None:
    """The exception hook and exit code of an interpreter of its own."""
    done = run_python(*words(TRAIN, dataset_dir=tmp_path, output_dir=tmp_path / "out", methud="x"))
    refused(done, 2, r"--methud: the config has no 'methud' to override\. Did you mean method")
    assert not (tmp_path / "out").exists()


def test_torchrun_starts_two_processes(run_python, run_bundle, tiny_study: Path, tmp_path: Path) -> None:
    """The command of the README, and the same step as one process with the double batch takes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"dataset_dir": tiny_study, "epochs": 1, "precision": "fp32", **SMALL}
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    done = run_python(
        *torchrun, *words([TRAIN, RANKS], output_dir=tmp_path / "two", batch_size=1, **options), timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "process 0 of 2, backend gloo" in done.stdout
    succeeded(run_bundle(TRAIN, output_dir=tmp_path / "one", batch_size=2, **options))
    one, two = (torch.load(tmp_path / name / "model_last.pt", weights_only=True) for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-2, atol=1e-4)
