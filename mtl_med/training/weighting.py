"""How the losses of the tasks are combined into one: equal, fixed, dynamic weight averaging, uncertainty.

Every weighting is linear in the losses, so that data-parallel training may hand it each rank's share of a loss.
State lies in vectors ordered by task name, whatever the order in which the tasks were given.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_med.errors import UsageError, nearest
from mtl_med.processes import all_reduce_sum, world_size
from mtl_med.tasks import Task, as_tasks
from mtl_med.training.terms import LossTerm, check_options

__all__ = ["DWA", "LIKELIHOODS", "WEIGHTINGS", "Equal", "Fixed", "Uncertainty", "Weighting", "create_weighting"]

logger = logging.getLogger(__name__)

# (c, r) of c exp(-s) L + r s. L is the mean squared error with s = log sigma^2, the mean absolute error with s = log b,
# or a cross-entropy with s = log sigma^2.
LIKELIHOODS = {"gaussian": (0.5, 0.5), "laplace": (1.0, 1.0), "softmax": (1.0, 0.5)}
LIKELIHOOD_OF_KIND = {"segmentation": "softmax", "regression": "laplace", "classification": "softmax"}


class Weighting(nn.Module):
    """Weighted sum of the tasks' losses; the base class weighs all tasks by one.

    Args:
        tasks: the tasks, or their plain form (see `mtl_med.tasks.as_tasks`).
    """

    factors: Tensor

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task]) -> None:
        super().__init__()
        self.tasks = as_tasks(tasks)
        self.names = sorted(task.name for task in self.tasks)
        self.register_buffer("factors", torch.ones(len(self.names), dtype=torch.float64))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Combine the losses of the tasks that have labels.

        Args:
            losses: mean loss per task, scalars; a task without a label anywhere in the batch is left out.

        Returns:
            The combined loss, a scalar.

        Raises:
            UsageError: no loss, or the loss of a task this weighting does not know.
        """
        if not losses:
            raise UsageError("no loss to combine", fix="Give the loss of at least one task")
        return self.combine(losses)

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The sum of `forward`, for at least one loss."""
        values = torch.stack(list(losses.values()))
        return (self.factors[[self.index(name) for name in losses]].to(values) * values).sum()

    def record(self, stats: Mapping[str, LossTerm]) -> None:
        """Take note of one batch's losses on this rank; only weightings that look back need it."""

    def end_epoch(self) -> None:
        """Close the epoch, on all ranks together; only weightings that look back need it."""

    def weights(self) -> dict[str, float]:
        """Present weight of each task, in the order of the tasks, for logging."""
        values = self.factors.tolist()
        return {task.name: values[self.index(task.name)] for task in self.tasks}

    def index(self, name: str) -> int:
        """Position of a task in the state vectors.

        Raises:
            UsageError: the task is not known.
        """
        if name not in self.names:
            raise UsageError(f"the weighting knows no task '{name}'", fix=nearest(name, self.names))
        return self.names.index(name)


class Equal(Weighting):
    """All tasks weigh one."""


class Fixed(Weighting):
    """Constant weights.

    Args:
        tasks: the tasks, or their plain form.
        weights: weight of every task, at least zero, not all zero.

    Raises:
        UsageError: a task without a weight, a weight without a task, or a value that is no weight.
    """

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        missing = [name for name in self.names if name not in weights]
        if missing:
            raise UsageError(f"task '{missing[0]}' has no weight", fix="Give one weight per task")
        for name, value in weights.items():
            self.index(name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"the weight of task '{name}' is {value}", fix="Give a finite number of at least zero")
        if not any(weights.values()):
            raise UsageError("all task weights are zero", fix="Give at least one task a positive weight")
        self.factors.copy_(torch.tensor([float(weights[name]) for name in self.names], dtype=torch.float64))


class DWA(Weighting):
    """Dynamic weight averaging: a task whose loss falls more slowly than the others' weighs more.

    With L_k(e) the unweighted mean training loss of task k in epoch e over all ranks, w_k = L_k(e-1) / L_k(e-2) and
    lambda_k = K exp(w_k / T) / sum_i exp(w_i / T); all are one in epochs 0 and 1. `record` takes every training batch,
    `end_epoch` closes the epoch. A batch whose loss is not finite is left out of the mean; a task without a label in a
    whole epoch keeps its last mean; a task with no earlier mean, or one of zero, counts as w_k = 1.

    Args:
        tasks: the tasks, or their plain form.
        temperature: T; the larger, the more even the weights.

    Raises:
        UsageError: the temperature is not positive.

    Source: Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, Eq. 7 (MTAN).
    """

    sums: Tensor
    means: Tensor

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task], temperature: float = 2.0) -> None:
        super().__init__(tasks)
        if not (math.isfinite(temperature) and temperature > 0):
            raise UsageError(f"the temperature of dwa is {temperature}", fix="Give a positive number, such as 2")
        self.temperature = temperature
        count = len(self.names)
        self.register_buffer("sums", torch.zeros((2, count), dtype=torch.float64))  # loss, labelled samples; this epoch
        self.register_buffer("means", torch.full((2, count), torch.nan, dtype=torch.float64))  # epochs e-2, e-1

    @torch.no_grad()
    def record(self, stats: Mapping[str, LossTerm]) -> None:
        """Add one batch's losses on this rank; a task that is absent or not finite adds neither sum nor count.

        Raises:
            UsageError: an unknown task.
        """
        for name, term in stats.items():
            pair = torch.stack([torch.as_tensor(part).detach().double() for part in term]).to(self.sums.device)
            self.sums[:, self.index(name)] += torch.where(pair.isfinite().all(), pair, 0.0)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Form the epoch's means over all ranks and the next epoch's weights; every rank must call it."""
        totals, counts = all_reduce_sum(self.sums.clone())
        for name, count in zip(self.names, counts.tolist(), strict=True):
            if count == 0:
                logger.warning("dwa: task '%s' had no finite labelled loss in this epoch; its last mean is kept", name)
        latest = torch.where(counts > 0, totals / counts, self.means[1])
        self.means.copy_(torch.stack([self.means[1], latest]))
        self.sums.zero_()
        ratio = self.means[1] / self.means[0]
        ratio = torch.where(ratio.isfinite() & (self.means[0] > 0), ratio, 1.0)
        self.factors.copy_(len(self.names) * torch.softmax(ratio / self.temperature, dim=0))


class Uncertainty(Weighting):
    """Learned homoscedastic uncertainty: sum_k c_k exp(-s_k) L_k + r_k s_k, s_k starting at zero.

    Squared error ("gaussian"): c = r = 1/2, s = log sigma^2. Mean absolute error ("laplace", regression's default):
    c = r = 1, s = log b. Cross-entropy ("softmax", classification's default): c = 1, r = 1/2. The combo loss of a
    segmentation is no likelihood, since Dice is none; it is treated as a cross-entropy by analogy only.

    The s_k are parameters: give `parameters()` to the optimizer, without weight decay. A task without labels adds
    neither term. Data-parallel training needs no wrapper: the gradient of s_k uses the loss over all ranks, so that it
    is the same on every rank.

    Args:
        tasks: the tasks, or their plain form.
        likelihoods: "gaussian", "laplace" or "softmax" for tasks whose loss is not the default of their kind.

    Raises:
        UsageError: an unknown task or likelihood.

    Source: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics", CVPR 2018, Eqs. 7 and 10, in the log-variance form. The Laplace row follows from its density.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task],
        likelihoods: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(tasks)
        chosen = {task.name: LIKELIHOOD_OF_KIND[task.kind] for task in self.tasks}
        for name, likelihood in (likelihoods or {}).items():
            self.index(name)
            if likelihood not in LIKELIHOODS:
                raise UsageError(f"unknown likelihood '{likelihood}'", fix=nearest(likelihood, LIKELIHOODS))
            chosen[name] = likelihood
        self.coefficients = [LIKELIHOODS[chosen[name]] for name in self.names]
        self.log_scales = nn.Parameter(torch.zeros(len(self.names)))

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Combine the losses; in training, every rank must call it with the same tasks."""
        values = torch.stack(list(losses.values()))
        index = [self.index(name) for name in losses]
        c, r = torch.tensor([self.coefficients[i] for i in index], dtype=values.dtype, device=values.device).T
        s = self.log_scales.to(values)[index]
        scale = c * torch.exp(-s)
        overall = values.detach()
        if self.training:
            overall = all_reduce_sum(overall.clone()) / world_size()
        # The value is scale * values. The network's gradient comes from this rank's share, that of s from all ranks.
        return (scale.detach() * values + (scale - scale.detach()) * overall + r * s).sum()

    def weights(self) -> dict[str, float]:
        """Present weight c exp(-s) of each task, in the order of the tasks, for logging."""
        values = [c * math.exp(-s) for (c, _), s in zip(self.coefficients, self.log_scales.tolist(), strict=True)]
        return {task.name: values[self.index(task.name)] for task in self.tasks}


WEIGHTINGS: dict[str, type[Weighting]] = {"equal": Equal, "fixed": Fixed, "dwa": DWA, "uncertainty": Uncertainty}


def create_weighting(name: str, tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task], **options: Any) -> Weighting:
    """The weighting of a name in `WEIGHTINGS`, with its options.

    Raises:
        UsageError: unknown name or option, or an option that is missing or cannot be meant.
    """
    if name not in WEIGHTINGS:
        raise UsageError(f"unknown weighting '{name}'", fix=nearest(name, WEIGHTINGS))
    check_options(f"weighting '{name}'", WEIGHTINGS[name], options, given=("tasks",))
    return WEIGHTINGS[name](tasks, **options)
