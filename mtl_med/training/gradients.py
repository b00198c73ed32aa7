"""The tasks' gradients side by side: do they pull the shared parameters in the same direction?

Shared are the parameters that get a gradient from more than one task. In CTAN that is everything but the decoders: a
task's mask is laid over the other tasks' streams. The graph alone cannot tell: where several tasks go through one
convolution as one batch, it says that every loss reaches all that comes before, with a gradient that is exactly zero.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from mtl_med.errors import UsageError
from mtl_med.processes import all_reduce_sum, rank, world_size

__all__ = ["GradientConflict", "Row", "cosines", "gradient_cosines", "gramian", "shared_parameters", "task_gradients"]

_log = logging.getLogger(__name__)

Row = list[Tensor | None]
"""One task's gradient, parameter by parameter; None where the task's loss does not reach."""


def gradient_cosines(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[tuple[str, str], float]:
    """Cosine between the gradients of each pair of losses on the shared parameters.

    1: the tasks agree; 0: they do not meddle with each other; below 0: they are in conflict, what improves one worsens
    the other. A positive factor on a loss changes nothing. `.grad` is left as it is and the graph is kept, so that the
    training step can follow. Under data-parallel training every rank must call it and gets the cosine of the joint
    batch.

    Args:
        losses: one scalar per task, attached to the graph.
        parameters: the network's; those that need no gradient, and those that get one from fewer than two of the
            losses, are passed over. One that a loss does not reach counts as zero gradient of it.

    Returns:
        Cosine per pair of task names, in the order of `losses`; NaN where one of the gradients is zero.

    Raises:
        UsageError: no parameter needs a gradient.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Definition 1 (conflicting gradients).
    """
    needed = [parameter for parameter in parameters if parameter.requires_grad]
    if not needed:
        raise UsageError("no shared parameter needs a gradient", fix="Give the parameters of the shared encoder")
    rows = list(task_gradients(losses, needed).values())
    return cosines(list(losses), gramian(rows, shared_parameters(rows)))


def task_gradients(
    losses: Mapping[str, Tensor], parameters: Sequence[Tensor], keep_graph: bool = True
) -> dict[str, Row]:
    """The gradient of each loss, one backward pass each, averaged over the ranks.

    `torch.autograd.grad` leaves `.grad` alone and never calls the hooks of a data-parallel wrapper; the ranks' mean is
    formed here, so that all ranks hold the same numbers. Which parameters a task reaches is agreed on, too: a parameter
    that it reaches on one rank only has a gradient on all.

    Args:
        losses: one scalar per task, attached to the graph; under data-parallel training each rank's share, whose mean
            over the ranks is the loss.
        parameters: all of them need a gradient.
        keep_graph: whether another backward pass is to follow.

    Returns:
        A row per task.
    """
    rows: dict[str, Row] = {}
    for position, (name, loss) in enumerate(losses.items(), start=1):
        keep = keep_graph or position < len(losses)
        rows[name] = list(torch.autograd.grad(loss, parameters, retain_graph=keep, allow_unused=True))
    if world_size() > 1 and rows:
        reached = torch.tensor([[piece is not None for piece in row] for row in rows.values()], dtype=torch.int32)
        for name, anywhere in zip(rows, (all_reduce_sum(reached) > 0).tolist(), strict=True):
            rows[name] = _mean_over_ranks(rows[name], anywhere, parameters)
    return rows


def _mean_over_ranks(row: Row, anywhere: Sequence[bool], parameters: Sequence[Tensor]) -> Row:
    """The mean of a row over all ranks, in one exchange; a piece that only other ranks have is zero on this one."""
    pieces = [
        torch.zeros_like(parameter) if piece is None else piece
        for piece, reached, parameter in zip(row, anywhere, parameters, strict=True)
        if reached
    ]
    if not pieces:
        return row
    flat = all_reduce_sum(torch.cat([piece.reshape(-1) for piece in pieces])).div_(world_size())
    means = iter(flat.split([piece.numel() for piece in pieces]))
    return [
        next(means).view(parameter.shape) if reached else None
        for parameter, reached in zip(parameters, anywhere, strict=True)
    ]


def shared_parameters(rows: Sequence[Row]) -> list[bool]:
    """Which parameters get a gradient that is not zero from more than one task.

    Args:
        rows: a row per task, on the same parameters, equal on all ranks.
    """
    tasks = [0] * max(map(len, rows), default=0)
    for row in rows:
        known = {index: piece for index, piece in enumerate(row) if piece is not None}
        found = torch.stack([piece.any() for piece in known.values()]).tolist() if known else []
        for index, not_zero in zip(known, found, strict=True):
            tasks[index] += not_zero
    return [count > 1 for count in tasks]


def gramian(rows: Sequence[Row], shared: Sequence[bool]) -> Tensor:
    """Inner products of the tasks' gradients on the shared parameters.

    Args:
        rows: a row per task, on the same parameters.
        shared: which of the parameters are shared.

    Returns:
        `(tasks, tasks)` in fp64, since millions of small products are added, on the CPU; zero where nothing is shared.
    """
    parts = []
    for index in (index for index, several in enumerate(shared) if several):
        pieces = [row[index] for row in rows]
        like = next(piece for piece in pieces if piece is not None)
        full = [torch.zeros_like(like) if piece is None else piece for piece in pieces]
        matrix = torch.stack([piece.reshape(-1) for piece in full]).double()
        parts.append(matrix @ matrix.T)
    return torch.stack(parts).sum(0).cpu() if parts else torch.zeros((len(rows), len(rows)), dtype=torch.float64)


def cosines(names: Sequence[str], products: Tensor) -> dict[tuple[str, str], float]:
    """The cosine of each pair of tasks from the inner products of `gramian`; NaN where a gradient is zero."""
    norms = products.diagonal().sqrt()
    table = (products / norms.outer(norms)).clamp(-1.0, 1.0).tolist()
    return {(a, b): table[i][j] for (i, a), (j, b) in combinations(enumerate(names), 2)}


class GradientConflict:
    """Mean cosine of each pair of tasks over an epoch: into `engine.state.metrics` as `cosine/<a>/<b>`, and the log.

    Args:
        every: steps between two measurements; 0 for none.

    Raises:
        UsageError: a negative number of steps.
    """

    def __init__(self, every: int = 0) -> None:
        if not isinstance(every, int) or every < 0:
            raise UsageError(f"conflict_every is {every}", fix="Give a number of steps, or 0 for no measurement")
        self.every = every
        self._found: dict[str, list[float]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def is_due(self, engine: Engine) -> bool:
        """Whether this step is one to measure; the same on every rank."""
        return self.every > 0 and engine.state.iteration % self.every == 0

    def add(self, found: Mapping[tuple[str, str], float]) -> None:
        """Take note of a step's cosines; NaN, of a task without gradient, is left out."""
        for pair, value in found.items():
            if math.isfinite(value):
                self._found.setdefault("/".join(pair), []).append(value)

    def reset(self, engine: Engine) -> None:
        """Start an epoch."""
        self._found = {}

    def finish(self, engine: Engine) -> None:
        """Means into the metrics; a pair that was never measured has none."""
        means = {pair: math.fsum(values) / len(values) for pair, values in self._found.items()}
        engine.state.metrics |= {f"cosine/{pair}": value for pair, value in means.items()}
        if means and rank() == 0:
            listed = "  ".join(f"{pair} {value:+.3f}" for pair, value in means.items())
            _log.info("epoch %d  cosine of the tasks' gradients: %s", engine.state.epoch, listed)
