"""Do the tasks pull the shared parameters in the same direction?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import torch
from torch import Tensor

from mtl_med.errors import UsageError

__all__ = ["gradient_cosines"]


def gradient_cosines(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[tuple[str, str], float]:
    """Cosine between the gradients of each pair of losses on the shared parameters.

    1: the tasks agree; 0: they do not meddle with each other; below 0: they are in conflict, what improves one worsens
    the other. A positive factor on a loss changes nothing. `.grad` is left as it is and the graph is kept, so that the
    training step can follow. Under data-parallel training it is the cosine of this rank's gradients.

    Args:
        losses: one scalar per task, attached to the graph.
        parameters: the parameters that the tasks share; those that need no gradient are passed over, those that a loss
            does not reach count as zero gradient.

    Returns:
        Cosine per pair of task names, in the order of `losses`; NaN where one of the gradients is zero.

    Raises:
        UsageError: no parameter needs a gradient.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Definition 1 (conflicting gradients).
    """
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    if not shared:
        raise UsageError("no shared parameter needs a gradient", fix="Give the parameters of the shared encoder")
    gradients = {name: _gradients(loss, shared) for name, loss in losses.items()}
    norms = {name: _dot(gradient, gradient).sqrt() for name, gradient in gradients.items()}
    return {
        (first, second): float(_dot(gradients[first], gradients[second]) / (norms[first] * norms[second]))
        for first, second in combinations(gradients, 2)
    }


def _gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))


def _dot(first: list[Tensor | None], second: list[Tensor | None]) -> Tensor:
    """Inner product over all parameters, in fp64, since millions of small products are added."""
    parts = [
        (a.double() * b.double()).sum() for a, b in zip(first, second, strict=True) if not (a is None or b is None)
    ]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
