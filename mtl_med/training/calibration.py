"""After training: what the best model's class scores are worth, measured on the tune cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_med.bundle import settings_path, write_settings
from mtl_med.files import read_json
from mtl_med.loading.balance import class_counts
from mtl_med.metrics.calibration import Calibration, fit_calibration
from mtl_med.processes import rank
from mtl_med.training.checkpoints import load_into
from mtl_med.training.validation import Validation

__all__ = ["calibrate"]

_log = logging.getLogger(__name__)


def calibrate(
    validation: Validation, items: Sequence[Mapping[str, Any]], weights: str | Path
) -> dict[str, dict[str, Any]]:
    """Fit temperature and operating point of every image-level task, and keep them beside the weights.

    The best model sees the tune cases once more. The result goes into the settings beside the weights, under
    `calibration`; these are whole before and after. A run that is stopped before this has none, and `--resume true`
    makes up for it. All ranks take part, the first one writes. The network keeps the weights that it came with.

    Args:
        validation: of the run; its evaluator scores the tune cases, its best model is calibrated.
        items: the training cases, whose class frequencies are the priors.
        weights: file of the best model, `model.pt`.

    Returns:
        Image-level task -> `Calibration.to_dict()`; empty where there is no such task or no best model.
    """
    evaluator, best = validation.evaluator, validation.best
    tasks = [task for task in evaluator.tasks if task.kind == "classification"]
    if not tasks:
        return {}
    if not best.state:
        _log.warning("there is no best model to calibrate: the run was never validated")
        return {}
    trained = {key: value.clone() for key, value in best.network.state_dict().items()}
    load_into(best.network, best.state, weights)
    try:
        evaluator.run()
        tallies = {task.name: evaluator.scores[task.name].tally() for task in tasks}
    finally:
        load_into(best.network, trained, weights)
    found = {}
    for task in tasks:
        counts = list(class_counts(items, tasks, task.name).values())
        rows = tallies[task.name].numpy()
        if any(counts):
            fitted = fit_calibration(rows[:, 0], rows[:, 1:], counts)
        else:
            fitted = Calibration.absent(len(counts), "no training case has a label of this task")
        found[task.name] = fitted.to_dict()
        _tell(task.name, fitted)
    if rank() == 0:
        write_settings(weights, {**read_json(settings_path(weights)), "calibration": found})
    return found


def _tell(task: str, fitted: Calibration) -> None:
    if fitted.reason:
        _log.warning("calibration of task %s: %s", task, fitted.reason)
    point = f"threshold {fitted.threshold:.3g}" if fitted.binary else f"prior exponent {fitted.prior_exponent:g}"
    _log.info("task %s: temperature %.3g, %s from %d tune cases", task, fitted.temperature, point, fitted.cases)
