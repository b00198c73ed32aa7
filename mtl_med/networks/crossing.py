"""What "the other task" means when there are more than two, or only one."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_med.errors import UsageError, nearest

__all__ = ["REDUCTIONS", "check_reduce", "of_others"]

REDUCTIONS = ("mean", "max")


def check_reduce(reduce: str) -> str:
    """`reduce` itself if it is known.

    Raises:
        UsageError: it is not.
    """
    if reduce not in REDUCTIONS:
        raise UsageError(f"unknown reduce '{reduce}' over the other tasks", fix=nearest(reduce, REDUCTIONS))
    return reduce


def of_others(values: dict[str, Tensor], reduce: str) -> dict[str, Tensor]:
    """For each task the value of the other one: t' in the paper.

    Args:
        values: task -> tensor, all of one shape.
        reduce: `mean` or `max`, elementwise over the others where there are several.

    Returns:
        The same keys; with two tasks the very tensor of the other, with one task its own.
    """
    result: dict[str, Tensor] = {}
    for name, own in values.items():
        others: list[Tensor] = []
        for other, value in values.items():
            if other != name:
                others.append(value)
        if len(others) == 0:
            result[name] = own
        elif len(others) == 1:
            result[name] = others[0]
        elif reduce == "max":
            result[name] = torch.stack(others).amax(0)
        else:
            result[name] = torch.stack(others).mean(0)
    return result
