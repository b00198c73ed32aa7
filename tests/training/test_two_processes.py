"""Two gloo processes through the bundle's own configs: one result, that of one process with the double batch."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

BUNDLE = "bundles/openkbp_dose_oar_segmentation"
STEPS = 5


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Runs:
    """Trainings of the bundle with a small network in one or two processes."""

    def __init__(self, forked_python, root: Path, study: Path, folder: Path) -> None:
        self.python, self.root, self.study, self.folder = forked_python, root, study, folder

    def __call__(self, name: str, size: int, overrides: dict | None = None, **request: Any) -> list[dict]:
        """Weights of every process after the run."""
        files = ["train.json"] + ["multi_gpu_train.json"] * (size > 1)
        given = {
            **{"bundle_root": str(self.root / BUNDLE), "dataset_dir": str(self.study), "workers": 0, "epochs": 3},
            **{"output_dir": str(self.folder / name), "patch_size": [24, 24, 24], "precision": "fp32"},
            **{"network_options#channels": [4, 8], "network_options#bottleneck": 8},
            **(overrides or {}),
        }
        request |= {"configs": [str(self.root / BUNDLE / "configs" / file) for file in files], "overrides": given}
        text = json.dumps(request | {"dump": str(self.folder / f"{name}.pt")})
        port = free_port()
        jobs = []
        for rank in range(size):
            env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            jobs.append(
                self.python.start(self.root / "tests" / "training" / "drive.py", text, env=env if size > 1 else {})
            )
        for job in jobs:
            done = job.wait()
            assert done.returncode == 0, done.stdout + done.stderr
        return [torch.load(self.folder / f"{name}.pt.{rank}", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def runs(forked_python, root: Path, tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(forked_python, root, tiny_study, tmp_path_factory.mktemp("ranks"))


def close(first: dict, second: dict, rtol: float) -> bool:
    """Whether every single weight is the same within `rtol`."""
    return first.keys() == second.keys() and all(
        torch.allclose(value, second[key], rtol=rtol, atol=1e-12) for key, value in first.items()
    )


@pytest.fixture(scope="module")
def whole(runs: Runs) -> list[dict]:
    return runs("whole", 2, {"batch_size": 1})


def test_both_processes_end_with_the_same_weights(runs: Runs, whole: list[dict]) -> None:
    first, second = whole
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    saved = torch.load(runs.folder / "whole" / "model_last.pt", weights_only=True)
    assert all(torch.equal(value, saved[key]) for key, value in first.items())
    assert len((runs.folder / "whole" / "training.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("weighting", ["dwa", "uncertainty"])
def test_two_processes_equal_one_with_the_double_batch(runs: Runs, weighting: str) -> None:
    """In fp64 with instance norm, where nothing but the order of sums can differ, after five steps of Adam."""
    options = {"weighting": weighting}
    two = runs(f"two-{weighting}", 2, options | {"batch_size": 1}, double=True, steps=STEPS)
    (one,) = runs(f"one-{weighting}", 1, options | {"batch_size": 2}, double=True, steps=STEPS)
    assert all(value.dtype == torch.float64 for value in one.values() if value.is_floating_point())
    assert close(one, two[0], rtol=1e-8)
    assert close(one, two[1], rtol=1e-8)


def test_twin_another_batch_would_be_noticed(runs: Runs, whole: list[dict]) -> None:
    (other,) = runs("single", 1, {"batch_size": 1})
    assert not close(whole[0], other, rtol=1e-3)


@pytest.mark.parametrize("task", ["oar", "dose"])
def test_a_task_without_labels_does_not_make_them_wait(runs: Runs, task: str) -> None:
    """On neither rank, and in every batch; `wait` ends the test when they hang."""
    first, second = runs(f"without-{task}", 2, {"batch_size": 1, "epochs": 1}, unlabelled=task)
    assert all(bool(value.isfinite().all()) for value in first.values())
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_batch_norms_end_with_the_same_statistics(runs: Runs) -> None:
    """Each process has its own until the first one's are shared, which has to be before they are scored and saved."""
    first, second = runs("batch-norm", 2, {"batch_size": 1, "epochs": 1, "network_options#norm": "batch"})
    statistics = {key: value for key, value in first.items() if "running_" in key}
    assert statistics
    assert all(torch.equal(value, second[key]) for key, value in statistics.items())
    saved = torch.load(runs.folder / "batch-norm" / "model.pt", weights_only=True)
    assert all(torch.equal(value, saved[key]) for key, value in statistics.items())


def test_started_alone_the_config_says_how_to_start_it(runs: Runs, tmp_path: Path) -> None:
    configs = [str(runs.root / BUNDLE / "configs" / name) for name in ("train.json", "multi_gpu_train.json")]
    done = runs.python.run(
        *("-m", "monai.bundle", "run", "--config_file", str(configs), "--dataset_dir", runs.study),
        *("--bundle_root", runs.root / BUNDLE, "--output_dir", tmp_path),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "needs processes started by torchrun" in done.stderr
    assert "torchrun --nproc_per_node=2 -m monai.bundle run" in done.stderr
