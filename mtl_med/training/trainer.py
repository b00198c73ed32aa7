"""The training engine: MONAI's supervised trainer with several tasks, one loss tensor and autocast on any device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch.utils.data import DataLoader

from mtl_med.errors import MtlMedError
from mtl_med.tasks import Task, as_tasks
from mtl_med.training.aggregation import Aggregator, backward
from mtl_med.training.gradients import GradientConflict, cosines, gradient_cosines
from mtl_med.training.losses import MultiTaskLoss, TaskLosses
from mtl_med.training.runtime import autocast, pick_device, unwrap
from mtl_med.training.scores import MeanScore, TaskScore

__all__ = ["MultiTaskEvaluator", "MultiTaskTrainer", "move_batch"]

_log = logging.getLogger(__name__)

Batch = dict[str, Any]

_ENDLESS = 10**6  # epochs


def move_batch(batch: Batch, device: torch.device, non_blocking: bool = False) -> Batch:
    """The tensors of a batch on a device, the image as a plain tensor in channels-last layout; all else as it is."""
    moved = {
        key: value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
    image = torch.as_tensor(moved["image"]).as_subclass(torch.Tensor)  # a MetaTensor would slow every layer down
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[image.ndim]
    moved["image"] = image.contiguous(memory_format=layout)
    return moved


class MultiTaskTrainer(SupervisedTrainer):
    """Train a network whose output is a dictionary of tasks.

    Args:
        device: device of network and batches.
        max_epochs: number of epochs; None for a run that ends by minutes.
        train_data_loader: batches as `loading` makes them.
        network: `forward(image) -> dict[str, Tensor]`.
        optimizer: updates the network's parameters (and the weighting's, where it has some).
        loss_function: gives the tasks' losses and combines them.
        precision: autocast type, None for full precision; fp16 comes with gradient scaling.
        max_grad_norm: gradients are clipped to this norm, those of disjoint networks (STL) each on its own; None
            and 0 leave them.
        aggregator: combines the tasks' gradients on what they share; it gets the losses as the weighting weighs them.
            None for the gradient of the combined loss.
        conflict_every: steps between two measurements of the cosine between the tasks' gradients (see
            `GradientConflict`); 0 for none. It changes nothing in the training, and without an aggregator such a step
            takes one more backward pass per task.
        train_handlers: handlers, attached in order.

    Raises:
        MtlMedError: the loss is not finite; training on would destroy the weights.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int | None,
        train_data_loader: DataLoader,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: MultiTaskLoss,
        precision: torch.dtype | None = None,
        max_grad_norm: float | None = None,
        aggregator: Aggregator | None = None,
        conflict_every: int = 0,
        train_handlers: Sequence[Any] = (),
        inferer: Inferer | None = None,
    ) -> None:
        self.precision, self.max_grad_norm = precision, max_grad_norm
        self.aggregator, self.conflict = aggregator, GradientConflict(conflict_every)
        super().__init__(
            device=pick_device(device),
            max_epochs=_ENDLESS if max_epochs is None else max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            inferer=inferer,
            # First, so that its means are there when a checkpoint or a log asks for the epoch's metrics.
            train_handlers=[self.conflict, *train_handlers],
            decollate=False,
            optim_set_to_none=True,
        )
        self.clipped_together = _clipped_together(unwrap(network))
        # Under a name of our own: MONAI's `run` resets `scaler` to what its CUDA-only `amp` flag says.
        self.grad_scaler = torch.amp.GradScaler(self.state.device.type) if precision == torch.float16 else None

    def run(self) -> None:  # type: ignore[override]
        """Train until the last epoch; a run that had ended when it was resumed stays as it is."""
        if self.state.epoch >= self.state.max_epochs:
            _log.info("nothing to train: the run ended after epoch %d", self.state.epoch)
            return
        super().run()

    def _iteration(self, engine: MultiTaskTrainer, batchdata: Batch) -> dict[str, Any]:  # type: ignore[override]
        batch = move_batch(batchdata, engine.state.device, engine.non_blocking)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with autocast(engine.state.device, engine.precision):
            predictions = engine.inferer(batch["image"], engine.network)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        losses = engine.loss_function.task_losses(predictions, batch)
        loss = engine.loss_function.combine(losses)
        engine.state.output = {"loss": loss.detach(), "tasks": losses.stats}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        if not torch.isfinite(loss):
            raise MtlMedError(
                f"the loss is {loss.item()} in step {engine.state.iteration}",
                fix="Lower --learning_rate, or use --precision fp32; the last checkpoint is kept",
            )
        self._step(loss, losses)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _step(self, loss: torch.Tensor, losses: TaskLosses) -> None:
        self._backward(loss, losses)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        if self.max_grad_norm:
            for parameters in self.clipped_together:
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _backward(self, loss: torch.Tensor, losses: TaskLosses) -> None:
        """Gradients of the losses times the scaler's factor, and their cosines in the steps that measure them."""
        scale = self.grad_scaler.scale if self.grad_scaler is not None else (lambda value: value)
        measured = self.conflict.is_due(self) and len(losses.means) > 1
        if self.aggregator is None:
            if measured:
                means = {name: scale(mean) for name, mean in losses.means.items()}
                self.conflict.add(gradient_cosines(means, self.network.parameters()))
            scale(loss).backward()
            return
        weighted = {name: scale(value) for name, value in self.loss_function.weighted(losses).items()}
        absent, own = list(losses.absent.values()), list(self.loss_function.parameters())
        parameters = self.network.parameters()
        products = backward(weighted, parameters, self.aggregator, self.state.iteration, absent, own)
        if measured:
            self.conflict.add(cosines(list(weighted), products))


def _clipped_together(network: torch.nn.Module) -> list[list[torch.nn.Parameter]]:
    """All parameters; of disjoint networks each one's own, so that no task's gradient shortens another's."""
    prefixes = getattr(network, "task_prefixes", None)
    named = list(network.named_parameters())
    if prefixes is None:
        return [[parameter for _, parameter in named]]
    return [[parameter for name, parameter in named if name.startswith(start)] for start in prefixes().values()]


class MultiTaskEvaluator(SupervisedEvaluator):
    """Score a network on whole cases; `state.metrics` gets `score` and `score/<task>`, each in [0, 1].

    Args:
        device: device of network and batches.
        val_data_loader: batches of whole cases with labels; in a data-parallel run each rank's share, which may be
            empty.
        network: `forward(image) -> dict[str, Tensor]`; a data-parallel wrapper, whose ranks would wait for each other
            in every forward, is taken off.
        tasks: what is scored.
        inferer: a sliding window with the size of the training patch, or a `MixedInferer`.
        precision: autocast type, None for full precision.

    Attributes:
        scores: of each task, after a run.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: DataLoader,
        network: torch.nn.Module,
        tasks: Any,
        inferer: Inferer | None = None,
        precision: torch.dtype | None = None,
        val_handlers: Sequence[Any] = (),
    ) -> None:
        self.precision = precision
        self.tasks: tuple[Task, ...] = as_tasks(tasks)
        self.scores = {task.name: TaskScore(task) for task in self.tasks}
        super().__init__(
            device=pick_device(device),
            val_data_loader=val_data_loader,
            network=unwrap(network),
            inferer=inferer,
            key_val_metric={"score": MeanScore(self.scores)},
            additional_metrics={f"score/{name}": part for name, part in self.scores.items()},
            val_handlers=list(val_handlers),
            decollate=False,
        )

    def run(self, global_epoch: int = 1) -> None:
        """Score all cases; a rank without cases of its own only takes part in the sums over all ranks."""
        if self.state.epoch_length:
            super().run(global_epoch)
            return
        self.fire_event(Events.EPOCH_STARTED)
        self.fire_event(Events.EPOCH_COMPLETED)

    def _iteration(self, engine: MultiTaskEvaluator, batchdata: Batch) -> dict[str, Any]:  # type: ignore[override]
        batch = move_batch(batchdata, engine.state.device, engine.non_blocking)
        engine.network.eval()
        with torch.no_grad(), autocast(engine.state.device, engine.precision):
            predictions = engine.inferer(batch["image"], engine.network)
        engine.state.output = {"predictions": predictions, "batch": batch}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
