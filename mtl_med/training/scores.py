"""One score in [0, 1] per task, by which the best model is chosen.

Segmentation: mean Dice over labelled, non-empty structures. Regression: 1 - e / e0, with e the mean error inside
the possible-dose mask and e0 that of predicting zero. Classification: balanced accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.metrics import Metric

from mtl_med.processes import all_reduce_sum
from mtl_med.tasks import Task

__all__ = ["SCORES", "MeanScore", "TaskScore", "overall_score"]

# A tally (2, n): what was achieved in row 0, its reference in row 1; tallies add up over cases and ranks.
Tally = Callable[[Task, torch.Tensor, Mapping[str, Any]], torch.Tensor]


def _dice_tally(task: Task, logits: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
    """Row 0: sum of Dice, row 1: number of cases, per structure."""
    predicted, truth = logits > 0, batch[task.name] > 0
    space = tuple(range(2, logits.ndim))
    sizes = truth.sum(space).double()
    overlap = (predicted & truth).sum(space).double()
    counted = (batch[f"labelled_{task.name}"] & (sizes > 0)).double()
    dice = 2 * overlap / (sizes + predicted.sum(space)).clamp(min=1)
    return torch.stack([(dice * counted).sum(0), counted.sum(0)])


def _error_tally(task: Task, prediction: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
    """Row 0: sum over cases of the mean error, row 1: the same for a prediction of zero."""
    prediction, truth = prediction.double().clamp(min=0), batch[task.name].double()
    mask = batch.get(f"mask_{task.name}")
    mask = (mask > 0).double() if mask is not None else torch.ones_like(truth)
    labelled = batch[f"labelled_{task.name}"].double().flatten(1).amax(1)
    voxels = mask.flatten(1).sum(1).clamp(min=1)
    known = (mask * labelled.view(-1, *[1] * (mask.ndim - 1))).expand(truth.shape) > 0  # the rest may be NaN
    errors = [
        torch.where(known, (value - truth).abs(), 0.0).flatten(1).sum(1) / voxels
        for value in (prediction, torch.zeros_like(truth))
    ]
    return torch.stack([error.sum()[None] for error in errors])


def _recall_tally(task: Task, logits: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
    """Row 0: correct cases, row 1: all cases, per true class."""
    truth = torch.nn.functional.one_hot(batch[task.name].long().flatten(), task.channels).double()
    truth = truth * batch[f"labelled_{task.name}"].double().flatten(1).amax(1, keepdim=True)
    correct = (logits.argmax(1) == batch[task.name].flatten()).double()[:, None]
    return torch.stack([(truth * correct).sum(0), truth.sum(0)])


def _mean_ratio(tally: torch.Tensor) -> float:
    known = tally[1] > 0
    return float((tally[0][known] / tally[1][known]).mean()) if bool(known.any()) else 0.0


def _skill(tally: torch.Tensor) -> float:
    return max(0.0, 1.0 - float(tally[0].sum() / tally[1].sum())) if float(tally[1].sum()) > 0 else 0.0


SCORES: dict[str, tuple[Tally, Callable[[torch.Tensor], float]]] = {
    "segmentation": (_dice_tally, _mean_ratio),
    "regression": (_error_tally, _skill),
    "classification": (_recall_tally, _mean_ratio),
}


def overall_score(scores: Mapping[str, float]) -> float:
    """Mean over the tasks."""
    return sum(scores.values()) / len(scores)


class TaskScore(Metric):
    """Score of one task over all cases and processes."""

    required_output_keys = None

    def __init__(self, task: Task) -> None:
        self.task = task
        super().__init__(output_transform=lambda output: (output["predictions"], output["batch"]))

    def reset(self) -> None:
        """Forget all cases."""
        width = 1 if self.task.kind == "regression" else self.task.channels
        self._tally = torch.zeros(2, width, dtype=torch.float64)

    def update(self, output: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]) -> None:
        """Add a batch of predictions and labels."""
        predictions, batch = output
        self._tally += SCORES[self.task.kind][0](self.task, predictions[self.task.name].float(), batch).cpu()

    def compute(self) -> float:
        """The score over everything since the last reset."""
        return SCORES[self.task.kind][1](all_reduce_sum(self._tally))


class MeanScore(Metric):
    """Mean of the tasks' scores, which are attached to the same engine and do the counting."""

    required_output_keys = None

    def __init__(self, parts: Mapping[str, TaskScore]) -> None:
        self.parts = dict(parts)
        super().__init__(output_transform=lambda output: (None,))

    def reset(self) -> None:
        """Nothing of its own to forget."""

    def update(self, output: Any) -> None:
        """Nothing of its own to count."""

    def compute(self) -> float:
        """The mean over the tasks."""
        return overall_score({name: part.compute() for name, part in self.parts.items()})
