"""One score in [0, 1] per task, by which the best model is chosen.

Segmentation: mean Dice over labelled, non-empty structures. Regression: 1 - e / e0, with e the mean error inside
the possible-dose mask and e0 that of predicting zero. Classification: of two classes the area under the ROC curve,
which needs no operating point; of more the balanced accuracy of the most probable class. Unknown is 0.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from ignite.metrics import Metric

from mtl_med.metrics.classification import auc, balanced_accuracy
from mtl_med.processes import all_reduce_sum, rank, world_size
from mtl_med.tasks import Task

__all__ = ["SCORES", "MeanScore", "Score", "TaskScore", "overall_score"]

_log = logging.getLogger(__name__)


class Score(NamedTuple):
    """How the score of a kind of task is counted.

    Args:
        tally: of a batch, a float64 tensor `(rows, n)`.
        joined: what tallies of batches and ranks do: "summed", or "listed" row below row.
        value: the score of all tallies joined.
    """

    tally: Callable[[Task, torch.Tensor, Mapping[str, Any]], torch.Tensor]
    joined: str
    value: Callable[[Task, torch.Tensor], float]


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


def _class_tally(task: Task, logits: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
    """A row per labelled image: class index, logits."""
    labelled = batch[f"labelled_{task.name}"].reshape(len(logits), -1).any(1)
    truth = batch[task.name].reshape(-1, 1)
    return torch.cat([truth.double(), logits.double()], 1)[labelled]


def _mean_ratio(task: Task, tally: torch.Tensor) -> float:
    known = tally[1] > 0
    return float((tally[0][known] / tally[1][known]).mean()) if bool(known.any()) else 0.0


def _skill(task: Task, tally: torch.Tensor) -> float:
    return max(0.0, 1.0 - float(tally[0].sum() / tally[1].sum())) if float(tally[1].sum()) > 0 else 0.0


def _discrimination(task: Task, tally: torch.Tensor) -> float:
    """Area under the ROC curve of two classes, balanced accuracy of more; 0 with one class or logits that are NaN."""
    truth, logits = tally[:, 0].numpy(), tally[:, 1:].numpy()
    if not torch.isfinite(tally).all():
        return 0.0
    value = auc(truth == 1, logits[:, 1] - logits[:, 0]) if task.channels == 2 else math.nan
    if task.channels != 2 and len(truth):
        value = balanced_accuracy(truth, logits.argmax(1))
    if math.isnan(value) and len(truth):
        _tell_of_one_class(task.name)
    return 0.0 if math.isnan(value) else value


@cache
def _tell_of_one_class(task: str) -> None:
    """Once, and not after every epoch."""
    _log.warning("task %s: only one class is labelled among the tune cases, so that its score is 0", task)


SCORES: dict[str, Score] = {
    "segmentation": Score(_dice_tally, "summed", _mean_ratio),
    "regression": Score(_error_tally, "summed", _skill),
    "classification": Score(_class_tally, "listed", _discrimination),
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
        self._tallies: list[torch.Tensor] = []

    def update(self, output: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]) -> None:
        """Add a batch of predictions and labels."""
        predictions, batch = output
        tally = SCORES[self.task.kind].tally(self.task, predictions[self.task.name].float(), batch).cpu()
        if self._tallies and SCORES[self.task.kind].joined == "summed":
            self._tallies[0] += tally
        else:
            self._tallies.append(tally)

    def tally(self) -> torch.Tensor:
        """Everything since the last reset, of all ranks, which must ask together."""
        if SCORES[self.task.kind].joined == "summed":
            width = 1 if self.task.kind == "regression" else self.task.channels
            return all_reduce_sum(self._tallies[0] if self._tallies else torch.zeros(2, width, dtype=torch.float64))
        return _all_rows(torch.cat([torch.zeros(0, 1 + self.task.channels, dtype=torch.float64), *self._tallies]))

    def compute(self) -> float:
        """The score over everything since the last reset."""
        return SCORES[self.task.kind].value(self.task, self.tally())


def _all_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, one rank below the other."""
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    ends = all_reduce_sum(counts).cumsum(0)
    every = torch.zeros(int(ends[-1]), rows.shape[1], dtype=rows.dtype)
    every[int(ends[rank()]) - len(rows) : int(ends[rank()])] = rows
    return all_reduce_sum(every)


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
