"""What the best model's probabilities are worth goes beside the weights, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mtl_med.bundle import trained, write_settings
from mtl_med.metrics.calibration import Calibration, fit_calibration
from mtl_med.tasks import Task
from mtl_med.training import BestModel, MultiTaskEvaluator, Validation, calibrate
from mtl_med.training.checkpoints import save_weights

TASKS = (
    Task("lesion", "segmentation", 1, ("Lesion",)),
    Task("diagnosis", "classification", 3, ("a", "b", "c")),
    Task("severe", "classification", 2, ("no", "yes")),
)
COUNT = 40


class Scaled(nn.Module):
    """Class logits lie in the image; the only weight scales them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        values = image[:, 0, 0] * self.scale
        return {"lesion": image, "diagnosis": values[:, :3], "severe": values[:, 3:5]}


def cases() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(COUNT):
        image = torch.randn(1, 6, 6, generator=generator)
        diagnosis, severe = index % 3, int(index % 4 == 0)
        image[0, 0, diagnosis] += 0.7
        image[0, 0, 3 + severe] += 0.7
        made.append(
            {
                "image": image,
                "lesion": torch.zeros(1, 6, 6),
                "labelled_lesion": torch.tensor([True]),
                "diagnosis": diagnosis,
                "labelled_diagnosis": torch.tensor([True]),
                "severe": severe,
                "labelled_severe": torch.tensor([index % 2 == 0]),
            }
        )
    return made


ITEMS = [
    {"id": str(n), "lesion": [""], "diagnosis": [str(min(n % 5, 2))], "severe": ["" if n % 2 else str(int(n % 8 == 0))]}
    for n in range(80)
]


@pytest.fixture
def validation() -> Validation:
    return validation_of(cases())


def validation_of(tune: list[dict[str, Any]]) -> Validation:
    network = Scaled()
    evaluator = MultiTaskEvaluator("cpu", DataLoader(tune, batch_size=7), network, TASKS)
    found = Validation(evaluator, BestModel(network), schedule=None)  # type: ignore[arg-type]
    found.best.state = {"scale": torch.tensor(5.0)}
    return found


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_weights(tmp_path / "model.pt", {"scale": torch.tensor(5.0)})
    write_settings(tmp_path / "model.pt", {"method": "ctan"})
    return tmp_path / "model.pt"


def test_the_best_model_is_calibrated_on_the_tune_cases(validation: Validation, weights: Path) -> None:
    found = calibrate(validation, ITEMS, weights)
    logits = 5.0 * torch.stack([case["image"][0, 0] for case in cases()]).double().numpy()
    every = np.arange(COUNT)
    expected = {
        "diagnosis": fit_calibration(every % 3, logits[:, :3], [16, 16, 48]),
        "severe": fit_calibration((every % 4 == 0)[::2], logits[::2, 3:5], [30, 10]),
    }
    assert list(found) == list(expected)
    for task, fitted in expected.items():
        again = Calibration.from_dict(found[task])
        assert again.priors == fitted.priors
        assert again.temperature == pytest.approx(fitted.temperature, rel=1e-5)
        assert again.threshold == pytest.approx(fitted.threshold, rel=1e-5)
        assert (again.prior_exponent, again.cases) == (fitted.prior_exponent, fitted.cases)
    assert found["diagnosis"]["temperature"] > 3, "five times the logits are far too sure"
    assert found["severe"]["cases"] == COUNT // 2, "absent labels do not count"


def test_it_lies_beside_the_weights_with_the_settings(validation: Validation, weights: Path) -> None:
    found = calibrate(validation, ITEMS, weights)
    assert json.loads(weights.with_suffix(".json").read_text()) == {"method": "ctan", "calibration": found}
    assert trained(weights, "calibration", {}) == found
    assert calibrate(validation, ITEMS, weights) == found, "again after a resume: the same"


def test_the_network_keeps_its_weights(validation: Validation, weights: Path) -> None:
    calibrate(validation, ITEMS, weights)
    assert torch.equal(validation.best.network.state_dict()["scale"], torch.ones(()))


def test_settings_stay_whole_where_nothing_can_be_written(validation: Validation, weights: Path, monkeypatch) -> None:
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtl_med.files.os.replace", fails)
    with pytest.raises(KeyboardInterrupt):
        calibrate(validation, ITEMS, weights)
    assert json.loads(weights.with_suffix(".json").read_text()) == {"method": "ctan"}


def test_without_a_best_model_or_image_level_task_nothing_happens(validation, weights: Path, caplog) -> None:
    validation.best.state = {}
    assert calibrate(validation, ITEMS, weights) == {}
    assert "there is no best model to calibrate" in caplog.text
    validation.evaluator.tasks = TASKS[:1]
    assert calibrate(validation, ITEMS, weights) == {}
    assert trained(weights, "calibration", {}) == {}


def test_a_task_that_no_training_case_has_a_label_of_stops_no_other(validation, weights: Path, caplog) -> None:
    found = calibrate(validation, [item | {"severe": [""]} for item in ITEMS], weights)
    assert Calibration.from_dict(found["severe"]) == Calibration.absent(2, "no training case has a label of this task")
    assert found["diagnosis"]["cases"] == COUNT
    assert "calibration of task severe: no training case has a label of this task" in caplog.text


def test_too_few_cases_are_told(weights: Path, caplog) -> None:
    found = calibrate(validation_of(cases()[:4]), ITEMS, weights)
    assert found["diagnosis"]["temperature"] == 1.0
    assert "calibration of task diagnosis: not fitted: 4 cases, of at least 10 needed" in caplog.text
