"""The loss of each task kind, and their combination over tasks with missing labels and several ranks.

Every loss has one interface, `forward(prediction, label, labelled, mask=None) -> LossTerm`, computes in fp32 whatever
the autocast, leaves unlabelled samples out (their labels are never read, they may be NaN) and keeps the prediction in
the graph where nothing is labelled, so that data-parallel training does not hang.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.bundle import plain_values
from mtl_med.errors import UsageError, nearest
from mtl_med.processes import world_size
from mtl_med.tasks import Task, as_tasks
from mtl_med.training.combo import ComboLoss
from mtl_med.training.terms import LossTerm, check_options, check_shapes, sum_over_ranks, wide_dtype
from mtl_med.training.weighting import Weighting, create_weighting

__all__ = [
    "LOSSES",
    "ClassificationLoss",
    "ComboLoss",
    "LossTerm",
    "MaskedMAELoss",
    "MultiTaskLoss",
    "TaskLosses",
    "create_loss",
]

logger = logging.getLogger(__name__)

REGIONS = ("mask", "grid")


class MaskedMAELoss(nn.Module):
    """Mean absolute error within a mask per case, such as dose within the possible-dose mask.

    A sample is a (case, map) pair. A labelled case whose mask is empty counts as a sample with zero loss.

    Args:
        region: "mask", or "grid" for all voxels.
        scale: the error is divided by it, in the label's unit; 1 gives the loss in that unit (Gy).
        output_scale: label units per unit of the network's output, such as 70 for a network that predicts in 70 Gy.

    Raises:
        UsageError: an unknown region or a scale that is not positive.
    """

    def __init__(self, region: str = "mask", scale: float = 1.0, output_scale: float = 1.0) -> None:
        super().__init__()
        if region not in REGIONS:
            raise UsageError(f"unknown region '{region}'", fix=nearest(region, REGIONS))
        if not (scale > 0 and output_scale > 0):
            raise UsageError(
                f"scale {scale} or output_scale {output_scale} is not positive", fix="Give positive scales"
            )
        self.region, self.scale, self.output_scale = region, scale, output_scale

    def forward(self, prediction: Tensor, label: Tensor, labelled: Tensor, mask: Tensor | None = None) -> LossTerm:
        """Sum over the labelled (case, map) pairs.

        Args:
            prediction: `(B, C, *spatial)`, in the label's unit / `output_scale`.
            label: `(B, C, *spatial)`, such as dose in Gy; not read outside the region, where it may be NaN.
            labelled: `(B, C)` bool.
            mask: `(B, 1 or C, *spatial)`, non-zero inside; needed where region is "mask".

        Returns:
            Sum and number of the labelled pairs.

        Raises:
            UsageError: shapes that do not fit together, or no mask.
        """
        check_shapes(prediction, label, labelled)
        value = prediction.to(wide_dtype(prediction)) * self.output_scale
        region = labelled[(...,) + (None,) * (value.ndim - 2)]
        if self.region == "mask":
            if mask is None:
                raise UsageError("the loss needs a mask", fix="Give mask_<task> in the batch, or region='grid'")
            region = region & (mask != 0)
        region = region.expand(value.shape)
        # The label becomes the prediction outside the region: error and gradient are exactly zero there, NaN or not.
        error = (value - torch.where(region, label.to(value.dtype), value.detach())).abs().flatten(2).sum(2)
        inside = region.flatten(2).sum(2).clamp(min=1)
        return LossTerm((error / inside).sum() / self.scale, labelled.sum().to(value.dtype))


class ClassificationLoss(nn.Module):
    """Cross-entropy over the classes of an image.

    Args:
        class_weights: factor of each class. The mean is over the number of labelled images, not over the sum of their
            weights: in a batch of one image that would cancel the weight.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Tensor, label: Tensor, labelled: Tensor, mask: Tensor | None = None) -> LossTerm:
        """Sum over the labelled images.

        Args:
            prediction: `(B, K)` logits.
            label: `(B,)` or `(B, 1)` class indices; not read where unlabelled.
            labelled: `(B,)` or `(B, 1)` bool.
            mask: not used.

        Returns:
            Sum and number of the labelled images.
        """
        logits = prediction.to(wide_dtype(prediction))
        known = labelled.reshape(-1)
        target = torch.where(known, label.reshape(-1), torch.zeros((), dtype=label.dtype, device=label.device)).long()
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        loss = F.cross_entropy(logits, target, weight=weights, reduction="none")
        return LossTerm(torch.where(known, loss, 0.0).sum(), known.sum().to(logits.dtype))


LOSSES: dict[str, type[nn.Module]] = {
    "segmentation": ComboLoss,
    "regression": MaskedMAELoss,
    "classification": ClassificationLoss,
}


def create_loss(task: Task, **options: Any) -> nn.Module:
    """The loss of a task's kind with its options.

    Raises:
        UsageError: unknown option or value.
    """
    options = plain_values(options)
    check_options(f"the loss of task '{task.name}'", LOSSES[task.kind], options)
    return LOSSES[task.kind](**options)


class TaskLosses(NamedTuple):
    """The losses of one batch, task by task.

    Args:
        means: per task with a label on any rank, this rank's share of its mean loss: the mean over the ranks of these
            shares is the loss of all ranks' samples together.
        absent: per other task its loss, zero, and still in the graph.
        stats: per task the detached sum and count of this rank.
    """

    means: dict[str, Tensor]
    absent: dict[str, Tensor]
    stats: dict[str, LossTerm]


class MultiTaskLoss(nn.Module):
    """The losses of all tasks, each averaged over its labelled samples on all ranks, combined by a weighting.

    In training mode the number of labelled samples is summed over the ranks and each rank's loss is its local sum x
    number of ranks / global count: averaging the gradients, as DistributedDataParallel does, then gives exactly those
    of one process with the joint batch. In eval mode the ranks do not wait for each other.

    Args:
        tasks: the tasks, or their plain form (see `mtl_med.tasks.as_tasks`).
        weighting: a `Weighting`, or its name.
        losses: per task name the options of its kind's loss, or a module with the same interface.
        weighting_options: options of a weighting given by name, such as `{"weights": {"dose": 2.0, "oar": 1.0}}`.

    Raises:
        UsageError: an unknown task, option or weighting.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task],
        weighting: Weighting | str = "dwa",
        losses: Mapping[str, Mapping[str, Any] | nn.Module] | None = None,
        weighting_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = as_tasks(tasks)
        chosen = dict(losses or {})
        names = [task.name for task in self.tasks]
        for name in chosen:
            if name not in names:
                raise UsageError(f"loss options name the unknown task '{name}'", fix=nearest(name, names))
        if isinstance(weighting, str):
            weighting = create_weighting(weighting, self.tasks, **(weighting_options or {}))
        self.weighting = weighting
        options = [chosen.get(name, {}) for name in names]
        self.losses = nn.ModuleList(
            given if isinstance(given, nn.Module) else create_loss(task, **given)
            for task, given in zip(self.tasks, options, strict=True)
        )

    def forward(
        self, predictions: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, LossTerm]]:
        """Combined loss of a batch.

        Args:
            predictions: per task name the network's output; an auxiliary output `<task>/<any>` adds its loss against
                the same label, `<task>/deep<i>` with the factor 1 / 2^i.
            batch: `<task>` labels, `labelled_<task>` `(B, C)` bool, and `mask_<task>` where the loss uses one. A task
                whose two keys are both missing has no label in this batch.

        Returns:
            The loss to differentiate, and per task the detached sum and count of this rank, for logging and for
            `weighting.record`, which is the trainer's to call.

        Raises:
            UsageError: a task without prediction, or a batch that does not say what is labelled.
        """
        losses = self.task_losses(predictions, batch)
        return self.combine(losses), losses.stats

    def task_losses(self, predictions: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> TaskLosses:
        """The losses of a batch before they are combined; arguments and errors are those of `forward`."""
        terms = {
            task.name: self._term(task, loss, predictions, batch)
            for task, loss in zip(self.tasks, self.losses, strict=True)
        }
        counts = torch.stack([term.count for term in terms.values()])
        overall = (sum_over_ranks(counts) if self.training else counts).tolist()
        size = world_size() if self.training else 1
        means = {
            name: term.total * (size / count)
            for (name, term), count in zip(terms.items(), overall, strict=True)
            if count
        }
        if not means:
            logger.warning("no task has a label in this batch: its loss is zero")
        absent = {name: term.total for name, term in terms.items() if name not in means}
        stats = {name: LossTerm(term.total.detach(), term.count.detach()) for name, term in terms.items()}
        return TaskLosses(means, absent, stats)

    def combine(self, losses: TaskLosses) -> Tensor:
        """One loss to differentiate: the weighted losses, and the absent tasks' zeros."""
        # The zeros stay in the graph so that every parameter has a gradient on every rank.
        parts = list(losses.absent.values())
        if losses.means:
            parts.append(self.weighting(losses.means))
        return torch.stack(parts).sum()

    def weighted(self, losses: TaskLosses) -> dict[str, Tensor]:
        """The loss of each task that has a label, as the weighting has it in its sum."""
        return {name: self.weighting({name: mean}) for name, mean in losses.means.items()}

    def _term(self, task: Task, loss: nn.Module, predictions: Mapping[str, Tensor], batch: Mapping) -> LossTerm:
        """Sum and count of one task, over its output and its auxiliary outputs."""
        name = task.name
        if name not in predictions:
            raise UsageError(f"the network predicts no task '{name}'", fix=nearest(name, predictions))
        keys = [name, *(key for key in predictions if key.startswith(f"{name}/"))]
        outputs = [_plain(predictions[key]) for key in keys]
        label, labelled = batch.get(name), batch.get(f"labelled_{name}")
        if label is None and labelled is None:
            # Its loss is asked all the same: it may sum over the ranks, and then waits for each of them.
            label, labelled = _no_labels(task, outputs[0])
        if label is None or labelled is None:
            found, lacking = (name, f"labelled_{name}") if labelled is None else (f"labelled_{name}", name)
            raise UsageError(f"the batch has '{found}' but not '{lacking}'", fix="Give both, or neither")
        mask = batch.get(f"mask_{name}")
        rest = _plain(label), _plain(labelled).bool(), None if mask is None else _plain(mask)
        terms = [loss(output, *rest) for output in outputs]
        totals = [_weight(key) * term.total for key, term in zip(keys, terms, strict=True)]
        return LossTerm(torch.stack(totals).sum(), terms[0].count)


def _no_labels(task: Task, output: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of a batch that has none of a task, and which of them are known: none."""
    label = torch.zeros_like(output) if task.is_pixel_level else output.new_zeros(len(output), dtype=torch.long)
    known = task.channels if task.is_pixel_level else 1
    return label, torch.zeros((len(output), known), dtype=torch.bool, device=output.device)


def _weight(key: str) -> float:
    """Factor of an output's loss: the i-th coarser scale of deep supervision counts 1 / 2^i, all others one."""
    _, deep, number = key.rpartition("/deep")
    return 0.5 ** int(number) if deep else 1.0


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's MetaTensor around it, whose bookkeeping costs more than the small operations here."""
    return tensor.as_subclass(torch.Tensor)
