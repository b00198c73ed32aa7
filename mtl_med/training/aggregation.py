"""Gradient-based weighting: at every step the tasks' gradients on the shared parameters are weighed by each other.

The methods are those of torchjd (extra `grad`), which find the weights from the inner products of the gradients; all
else is here, because torchjd's own backward passes go wrong in our networks. Its `mtl_backward` wants features at which
the network parts into tasks, and U-Net skips run past them; and in data-parallel training it would aggregate the
gradients of each rank alone. So each task gets one backward pass over the whole graph, which also tells what is shared,
and the ranks' mean is formed before anything is aggregated.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_med.errors import UsageError, nearest
from mtl_med.processes import all_reduce_sum, rank
from mtl_med.training.gradients import Row, gramian, shared_parameters, task_gradients

__all__ = ["AGGREGATORS", "Aggregator", "AggregatorKind", "backward", "create_aggregator"]


def _no_options(tasks: int) -> dict[str, Any]:
    return {}


def _upgrad_options(tasks: int) -> dict[str, Any]:
    # By default 1e-4 is added to inner products of trace 1, which hides a task whose gradient is a hundred times
    # smaller than another's.
    return {"projector": importlib.import_module("torchjd.linalg").QuadprogProjector(reg_eps=1e-12)}


def _cagrad_options(tasks: int) -> dict[str, Any]:
    return {"c": 0.4}  # the paper's radius; torchjd has no default


def _nash_mtl_options(tasks: int) -> dict[str, Any]:
    # By default it cuts the gradient's norm at 1. That is for the trainer's max_grad_norm, behind fp16's unscaling. The
    # paper's result has the same norm whatever the gradients'; with inner products of trace 1 it grows with them.
    return {"n_tasks": tasks, "max_norm": 0.0}


@dataclass(frozen=True)
class AggregatorKind:
    """A row of the table of aggregators.

    Args:
        torchjd: name of the class in `torchjd.aggregation`.
        paper: where the method comes from.
        solver: torchjd's own extra that brings the solver it needs; all are part of our extra `grad`.
        options: number of tasks -> arguments of the class.
    """

    torchjd: str
    paper: str
    solver: str = ""
    options: Callable[[int], dict[str, Any]] = _no_options


AGGREGATORS: dict[str, AggregatorKind] = {
    "sum": AggregatorKind("Sum", "the plain gradient"),
    "mean": AggregatorKind("Mean", "the plain gradient over the number of tasks"),
    "upgrad": AggregatorKind("UPGrad", "Quinton and Rey 2024, arXiv 2406.16232", "quadprog-projector", _upgrad_options),
    "pcgrad": AggregatorKind("PCGrad", "Yu et al. 2020, arXiv 2001.06782"),
    "mgda": AggregatorKind("MGDA", "Sener and Koltun 2018, arXiv 1810.04650"),
    "aligned_mtl": AggregatorKind("AlignedMTL", "Senushkin et al. 2023, arXiv 2305.19000"),
    "imtl_g": AggregatorKind("IMTLG", "Liu et al. 2021, ICLR, Towards Impartial Multi-task Learning"),
    "cagrad": AggregatorKind("CAGrad", "Liu et al. 2021, arXiv 2110.14048", "cagrad", _cagrad_options),
    "nash_mtl": AggregatorKind("NashMTL", "Navon et al. 2022, arXiv 2202.01017", "nash-mtl", _nash_mtl_options),
}


class Aggregator:
    """Weights of the tasks' gradients, by a method of torchjd.

    It keeps no state: the weights depend on the gradients, the seed and the step alone, so that a resumed run goes on
    exactly. Nash-MTL therefore solves anew at each step where its paper starts from the last solution.

    Args:
        name: a row of `AGGREGATORS`.
        seed: of the order in which PCGrad meets the other tasks.

    Raises:
        UsageError: an unknown name, or torchjd or the method's solver is not installed.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        if name not in AGGREGATORS:
            raise UsageError(f"unknown aggregator '{name}'", fix=nearest(name, AGGREGATORS))
        self.name, self.seed = name, seed
        self._build(2)  # what is missing is said now, not after the data have been read

    def weights(self, products: Tensor, step: int = 0) -> list[float]:
        """The factor of each task's gradient.

        Args:
            products: inner products of the gradients `(tasks, tasks)`, fp64 (see `gramian`). Their scale does not
                matter: torchjd's thresholds on it would turn small gradients, of norm 0.01 say, into a plain mean.
            step: number of the step, for the random numbers.

        Returns:
            A weight per task. Fewer than two tasks with a gradient leave nothing to weigh up, and a gradient that is
            not finite is for the gradient scaler to find: then all are 1.
        """
        weights = torch.ones(len(products), dtype=torch.float64)
        active = (products.diagonal() > 0).nonzero().flatten()
        if len(active) > 1 and bool(products.isfinite().all()):
            weights[active] = self._solve(products[active][:, active] / products.trace(), step)
        # Solvers may differ in the last bit from machine to machine: all ranks take rank 0's weights.
        return all_reduce_sum(weights if rank() == 0 else torch.zeros_like(weights)).tolist()

    def _solve(self, products: Tensor, step: int) -> Tensor:
        method = self._build(len(products))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # What cvxpy has to say of Nash-MTL's problem concerns its speed only.
            warnings.filterwarnings("ignore", "You are solving a parameterized problem that is not DPP")
            seed = np.random.SeedSequence([self.seed % 2**32, step]).generate_state(1)[0]
            torch.default_generator.manual_seed(int(seed))
            if hasattr(method, "gramian_weighting"):
                return method.gramian_weighting(products)
            # Any matrix with the gradients' inner products has their weights: here one of `tasks` columns.
            values, vectors = torch.linalg.eigh(products)
            return method.weighting(vectors * values.clamp(min=0).sqrt())

    def _build(self, tasks: int) -> Any:
        kind = AGGREGATORS[self.name]
        try:
            return getattr(importlib.import_module("torchjd.aggregation"), kind.torchjd)(**kind.options(tasks))
        except ImportError as error:
            package = f"torchjd[{kind.solver}]" if kind.solver else "torchjd"
            raise UsageError(
                f"aggregator '{self.name}' needs {package}, which is not installed", fix="pip install 'mtl_med[grad]'"
            ) from error


def create_aggregator(name: str | None, seed: int = 0) -> Aggregator | None:
    """The aggregator of a name in `AGGREGATORS`; None or "none" for the one backward pass of the combined loss.

    Raises:
        UsageError: an unknown name, or torchjd or the method's solver is not installed.
    """
    return None if str(name).lower() == "none" else Aggregator(str(name), seed)


def backward(
    losses: Mapping[str, Tensor],
    parameters: Iterable[Tensor],
    aggregator: Aggregator,
    step: int = 0,
    absent: Sequence[Tensor] = (),
    weighting: Sequence[Tensor] = (),
) -> Tensor:
    """Set `.grad`: aggregated on the parameters that several tasks share, the task's own gradient on all others.

    Under data-parallel training every rank must call it with the same tasks, and all end with equal bits. The forward
    pass may go through the data-parallel wrapper, whose hooks stay silent. With losses multiplied for fp16 the
    gradients are so, too, and are unscaled afterwards as ever; the weights do not depend on the factor.

    Args:
        losses: per task with a label on any rank its loss, attached to the graph, weighted or not; under data-parallel
            training each rank's share, whose mean over the ranks is the loss.
        parameters: of the network.
        aggregator: finds the weights.
        step: number of the step.
        absent: zeros in the graph of the tasks without a label. They have no say, but what only they reach gets a zero
            gradient, as from one backward pass of the sum of all losses.
        weighting: parameters of the weighting, where it has some. They get the plain gradient: what weighs the tasks'
            losses is not a parameter that the tasks share.

    Returns:
        Inner products of the tasks' gradients on the shared parameters (see `gramian`).
    """
    of_network = [parameter for parameter in parameters if parameter.requires_grad]
    needed = [*of_network, *(parameter for parameter in weighting if parameter.requires_grad)]
    rows = list(task_gradients(losses, needed, keep_graph=False).values())
    shared = shared_parameters(rows)[: len(of_network)]
    shared += [False] * (len(needed) - len(shared))
    products = gramian(rows, shared)
    weights = aggregator.weights(products, step) if rows else []
    for index, parameter in enumerate(needed):
        factors = weights if rows and shared[index] else [1.0] * len(rows)
        parameter.grad = _combined(parameter, [row[index] for row in rows], factors)
        for row in rows:
            row[index] = None  # let go, so that rows and gradients are not in memory as a whole together
    rest = [parameter for parameter in needed if parameter.grad is None]
    if absent and rest:
        zeros = torch.autograd.grad(torch.stack(list(absent)).sum(), rest, allow_unused=True)
        for parameter, zero in zip(rest, zeros, strict=True):
            parameter.grad = zero
    return products


def _combined(parameter: Tensor, pieces: Row, factors: Sequence[float]) -> Tensor | None:
    """The weighted sum of the gradients of one parameter, in its memory layout; None where no loss reaches it."""
    if all(piece is None for piece in pieces):
        return None
    total = torch.zeros_like(parameter)
    for piece, factor in zip(pieces, factors, strict=True):
        if piece is not None:
            total.add_(piece, alpha=factor)
    return total
