"""Computing a part of the network twice instead of keeping its inner maps for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(function: Callable[..., Any], *inputs: Any, module: nn.Module) -> Any:
    """`function(*inputs)`, of which the backward pass keeps the inputs alone and computes the rest again.

    Args:
        function: deterministic; without dropout, whose random numbers would differ the second time.
        inputs: its arguments.
        module: holds the layers that the function uses. Its batch norms take note of the statistics once, not twice.
    """
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), _noting_nothing(module)),
    )


@contextlib.contextmanager
def _noting_nothing(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics, as in training, and leave the running ones as they are."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.sub_(1)
