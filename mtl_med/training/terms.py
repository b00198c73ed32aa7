"""What losses and weightings share: the form of a loss, its sum over the ranks, the check of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtl_med.errors import UsageError, nearest
from mtl_med.processes import all_reduce_sum, world_size

__all__ = ["LossTerm", "check_options", "check_shapes", "sum_over_ranks", "wide_dtype"]


class LossTerm(NamedTuple):
    """A task's loss before averaging, so that the mean over several batches or ranks can still be formed.

    Args:
        total: sum of the loss over the labelled samples; zero, and still in the graph, where there is none.
        count: number of labelled samples, a float tensor.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a loss

    @property
    def mean(self) -> Tensor:
        """Mean over the labelled samples; NaN where there is none."""
        return self.total / self.count


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks, differentiable; the tensor itself in a single process.

    Every rank must call it with a tensor of the same shape, also in the backward pass where a gradient is asked for.
    """
    return tensor if world_size() == 1 else _SumOverRanks.apply(tensor)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is the sum of the ranks' gradients, since every rank's loss depends on every input."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_reduce_sum(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce_sum(grad.clone(memory_format=torch.contiguous_format))


def check_options(
    what: str, factory: Callable[..., Any], options: Mapping[str, Any], given: Sequence[str] = ()
) -> None:
    """Refuse options that `factory` does not take, and the lack of those it needs.

    Args:
        what: what the options belong to, for the message.
        factory: class or function that will be called.
        options: keyword arguments chosen by the user.
        given: arguments that the caller fills in itself.

    Raises:
        UsageError: an unknown or a missing option.
    """
    parameters = {k: v for k, v in inspect.signature(factory).parameters.items() if k not in given}
    for option in options:
        if option not in parameters:
            hint = nearest(option, parameters) if parameters else "It takes none."
            raise UsageError(f"{what} has no option '{option}'", fix=hint)
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise UsageError(f"{what} needs the option '{option}'", fix=f"Give {option}=...")


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to compute a loss in: fp32, or that of the tensor if it is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def check_shapes(prediction: Tensor, label: Tensor, labelled: Tensor) -> None:
    """Refuse a label that is not of the prediction's shape `(B, C, *spatial)`, or a `labelled` that is not `(B, C)`.

    Raises:
        UsageError: shapes that do not fit together.
    """
    if prediction.shape != label.shape or prediction.shape[:2] != labelled.shape:
        raise UsageError(
            f"prediction {tuple(prediction.shape)}, label {tuple(label.shape)} and labelled {tuple(labelled.shape)} "
            "do not fit together",
            fix="Check the task's channels against the study's structures",
        )
