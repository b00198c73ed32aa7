"""kill -9 at any moment of a training, resume: in the end the same bits as without a kill, whatever the workers."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_med.training.checkpoints import read_checkpoint

EPOCHS, STEPS = 4, 4  # the tiny study has four cases to fit, one to tune
SEED = 20240  # of the moments at which the runs are killed
BUNDLE = "bundles/openkbp_dose_oar_segmentation"


class Trainings:
    """Runs of the bundle's train.json with a small network."""

    def __init__(self, forked_python, root: Path, study: Path, folder: Path) -> None:
        self.python, self.root, self.study, self.folder = forked_python, root, study, folder
        self.seconds = 0.0  # that an uninterrupted run takes

    def start(
        self, name: str, *, workers: int = 0, resume: bool = False, overrides: dict | None = None, **request: Any
    ):
        given = {
            **{"bundle_root": str(self.root / BUNDLE), "dataset_dir": str(self.study), "batch_size": 1},
            **{"output_dir": str(self.folder / name), "epochs": EPOCHS, "workers": workers, "resume": str(resume)},
            **{"patch_size": [24, 24, 24], "network_options#channels": [4, 8], "network_options#bottleneck": 8},
            **(overrides or {}),
        }
        configs = [str(self.root / BUNDLE / "configs" / "train.json")]
        request |= {"configs": configs, "overrides": given}
        return self.python.start(self.root / "tests" / "training" / "drive.py", json.dumps(request))

    def run(self, name: str, code: int = 0, **options: Any) -> str:
        done = self.start(name, **options).wait()
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def state(self, name: str) -> dict[str, Any]:
        """Everything a run leaves, except for its clock."""
        folder = self.folder / name
        checkpoint = read_checkpoint(folder / "checkpoint.pt")
        del checkpoint["seconds"]
        weights = {file: torch.load(folder / file, weights_only=True) for file in ("model.pt", "model_last.pt")}
        return {**checkpoint, **weights, "csv": (folder / "training.csv").read_text()}


def differences(first: Any, second: Any, where: str = "") -> Iterator[str]:
    """Where two nested states differ in a bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield where
    elif isinstance(first, dict) and isinstance(second, dict):
        for key in {**first, **second}:
            yield from differences(first.get(key), second.get(key), f"{where}/{key}")
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, f"{where}/{index}")
    elif type(first) is not type(second) or not (first == second or (first != first and second != second)):
        yield where


@pytest.fixture(scope="module")
def trainings(forked_python, root: Path, tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    trainings = Trainings(forked_python, root, tiny_study, tmp_path_factory.mktemp("runs"))
    forked_python.run("-c", "")  # so that its start is not in the time taken
    begun = time.monotonic()
    trainings.run("whole")
    trainings.seconds = time.monotonic() - begun
    return trainings


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> dict[str, Any]:
    return trainings.state("whole")


def test_an_uninterrupted_run_trains(whole: dict[str, Any]) -> None:
    assert (whole["epoch"], whole["iteration"]) == (EPOCHS, EPOCHS * STEPS)
    assert len(whole["csv"].splitlines()) == 1 + EPOCHS
    assert set(whole) >= {"network", "optimizer", "loss", "best", "rng", "history", "model.pt", "model_last.pt"}
    assert whole["optimizer"]["state"]
    assert not list(differences(whole["network"], whole["model_last.pt"]))


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_equals_uninterrupted(trainings: Trainings, whole: dict[str, Any], workers: int) -> None:
    """Killed in a checkpoint's write, then in a validation, then in a step."""
    draw = random.Random(SEED + workers)
    name = f"killed-{workers}"
    # Before the first checkpoint there is nothing to resume, so that the first kill comes in a later one's write.
    trainings.run(name, code=-signal.SIGKILL, workers=workers, die=["checkpoint", draw.randint(2, EPOCHS - 1)])
    assert list((trainings.folder / name).glob(".tmp-*checkpoint.pt")), "the kill came in the middle of a write"
    trainings.run(name, code=-signal.SIGKILL, workers=workers, resume=True, die=["validation", 1])
    done = read_checkpoint(trainings.folder / name / "checkpoint.pt")["iteration"]
    step = done + draw.randint(1, STEPS)
    trainings.run(name, code=-signal.SIGKILL, workers=workers, resume=True, die=["step", step])
    trainings.run(name, workers=workers, resume=True)
    assert list(differences(whole, trainings.state(name))) == []
    assert not list((trainings.folder / name).glob(".tmp-*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_by_the_clock(trainings: Trainings, whole: dict[str, Any], workers: int) -> None:
    """Three kills at times that are drawn, wherever the run may be then."""
    draw = random.Random(SEED + 10 + workers)
    name = f"clock-{workers}"

    def can_resume() -> bool:
        return (trainings.folder / name / "checkpoint.pt").is_file()

    for _ in range(3):
        job = trainings.start(name, workers=workers, resume=can_resume())
        time.sleep(draw.uniform(0.3, 0.8) * trainings.seconds)
        job.kill()
        job.wait()
    trainings.run(name, workers=workers, resume=can_resume())
    assert list(differences(whole, trainings.state(name))) == []


def test_twin_a_lost_optimizer_state_is_noticed(trainings: Trainings, whole: dict[str, Any]) -> None:
    trainings.run("twin", code=-signal.SIGKILL, die=["checkpoint", 2])
    trainings.run("twin", resume=True, forget=True)
    found = list(differences(whole, trainings.state("twin")))
    assert any(path.startswith("/optimizer/state") for path in found)
    assert any(path.startswith("/model_last.pt") for path in found)


def test_twin_one_bit_is_noticed() -> None:
    state = {"rng": {"torch": torch.zeros(3, dtype=torch.uint8)}, "lr": [0.1, float("nan")], "waited": 0}
    assert not list(differences(state, {**state, "lr": [0.1, float("nan")]}))
    other = {"rng": {"torch": torch.tensor([0, 1, 0], dtype=torch.uint8)}, "lr": (0.1, 0.2), "waited": 0, "new": 1}
    assert list(differences(state, other)) == ["/rng/torch", "/lr/1", "/new"]


def test_a_finished_run_stays_as_it_is(trainings: Trainings, whole: dict[str, Any]) -> None:
    folder = trainings.folder / "whole"
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    assert "nothing to train: the run ended after epoch 4" in trainings.run("whole", resume=True)
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


def test_other_settings_are_refused_in_one_sentence(trainings: Trainings, whole: dict[str, Any]) -> None:
    text = trainings.run("whole", code=2, resume=True, overrides={"learning_rate": 0.5})
    assert "Traceback" not in text
    assert "checkpoint belongs to another run: learning_rate was" in text
