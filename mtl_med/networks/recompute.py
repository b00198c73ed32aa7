"""Computing a part of the network twice instead of keeping its inner maps for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["NotingNothing", "made_again", "recomputed"]

View = tuple[Sequence[int], Sequence[int]]  # shape and strides


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
        context_fn=lambda: (contextlib.nullcontext(), NotingNothing(module)),
    )


class made_again(saved_tensors_hooks):  # noqa: N801 - a context, read as a word
    """Within, what keeps `x`, or all of it as a view, for its backward pass keeps nothing: `make()` gives it again.

    Indices of a maximum are kept in half the bits.

    Args:
        x: what not to keep.
        make: gives a tensor of the same shape and layout, without a graph: once, for all that ask for it. It is called
            under the autocast of now, since the backward pass has none: a norm on a GPU refuses types that differ.
        users: how many will ask.
    """

    def __init__(self, x: Tensor, make: Callable[[], Tensor], users: int = 1) -> None:
        place, kind, count = x.data_ptr(), x.dtype, x.numel()
        device, made = x.device.type, list[Tensor]()
        enabled, lower = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def pack(saved: Tensor) -> Tensor | View:
            if saved.data_ptr() == place and saved.dtype == kind and saved.numel() == count:
                return saved.shape, saved.stride()  # a matrix product keeps a view `(positions, C)`
            return saved.int() if saved.dtype == torch.int64 else saved

        def unpack(saved: Tensor | View) -> Tensor:
            if isinstance(saved, Tensor):
                return saved.long() if saved.dtype == torch.int32 else saved
            if not made:
                with torch.autocast(device, lower, enabled):
                    made.extend([make()] * users)
            return made.pop().to(kind).as_strided(*saved)  # a norm may widen the type under autocast

        super().__init__(pack, unpack)


class NotingNothing(contextlib.AbstractContextManager):
    """Batch norms do again what they did in the forward pass, and leave the running statistics as they are.

    Made in the forward pass: by the time of the backward pass the network may have gone over to evaluation, and a
    frozen norm is in evaluation all along. Entered once per backward pass, of which there are several where the
    gradients of tasks are told apart.

    Args:
        module: holds the batch norms.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [
            (layer, layer.training)
            for layer in module.modules()
            if isinstance(layer, _BatchNorm) and layer.track_running_stats
        ]
        self.before: list[tuple[bool, float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        for layer, trained in self.norms:
            seen = None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
            self.before.append((layer.training, layer.momentum, seen))
            layer.training, layer.momentum = trained, 0.0

    def __exit__(self, *error: object) -> None:
        for (layer, _), (training, momentum, seen) in zip(self.norms, self.before, strict=True):
            layer.training, layer.momentum = training, momentum
            if layer.num_batches_tracked is not None and seen is not None:
                layer.num_batches_tracked.copy_(seen)
        self.before.clear()
