"""Where a network looks: one map per task, or per task and stage, of the image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.inferers import Inferer
from torch import Tensor

from mtl_med.errors import UsageError
from mtl_med.loading.resizing import resize_smoothly
from mtl_med.networks.multitask import MultiTaskNet

__all__ = ["EXCHANGE", "STAGE", "attends", "attention_maps", "stage_masks", "task_masks"]

STAGE, EXCHANGE = "stage", "exchange"
"""How the parts are called behind the task in the name of a map: `stage0`, `stage1`, ..., and `exchange`."""


def attends(network: torch.nn.Module) -> bool:
    """Whether a method has masks or affinities to show; disjoint networks (STL) and HPS have none."""
    parts = (getattr(network, name, None) for name in ("streams", "exchange"))
    return any(hasattr(part, "attention") for part in parts)


def stage_masks(network: MultiTaskNet, image: Tensor) -> dict[str, Tensor]:
    """Every mask that each task makes, mean over its channels, and what the exchange attends to, in fp32.

    Of an exchange it is how strongly each position is re-read (CTAB, CTAL), or how much of it one slot of the memory
    gets (KEM).

    Args:
        network: one whose `predict` takes `return_attention`.
        image: `(B, C, *spatial)`.

    Returns:
        `<task>/stage<j>` and `<task>/exchange` -> `(B, 1, *spatial)`, stages in order, the exchange behind them.

    Raises:
        UsageError: the network attends to nothing.
    """
    if not attends(network):
        raise UsageError(
            "this network has no attention to show",
            why="its method has neither masks nor an exchange that compares positions",
            fix="Set --attention false, or train with --method ctan or mtan",
        )
    with torch.no_grad():
        found = network.predict(image, return_attention=True)
    masks: dict[str, Tensor] = {}
    for name, maps in found.items():
        kind, _, rest = name.partition("/")
        if kind == "attention":
            values = maps.float()
            one = values.amax(1, keepdim=True) if rest.endswith(f"/{EXCHANGE}") else values.mean(1, keepdim=True)
            masks[rest] = _laid_over(one, image.shape[2:], network.stride)
    return masks


def task_masks(network: MultiTaskNet, image: Tensor) -> dict[str, Tensor]:
    """The mask of `stage_masks` in the last stage that has one; of a method without masks, its exchange.

    Returns:
        task -> `(B, 1, *spatial)`.
    """
    masks: dict[str, Tensor] = {}
    for name, mask in stage_masks(network, image).items():
        task, _, part = name.partition("/")
        if part != EXCHANGE or task not in masks:
            masks[task] = mask
    return masks


def _laid_over(mask: Tensor, space: Sequence[int], stride: int) -> Tensor:
    """A mask of the image that the network padded at its ends to whole strides, as one of the image alone."""
    padded = [-(-side // stride) * stride for side in space]
    return resize_smoothly(mask, padded)[(slice(None), slice(None), *(slice(side) for side in space))]


def attention_maps(inferer: Inferer, image: Tensor, network: MultiTaskNet) -> dict[str, Tensor]:
    """`task_masks` of images of any size, put together from windows as the inferer does it with predictions.

    Args:
        inferer: a window inferer, or a `MixedInferer`, which knows more about image-level tasks.
        image: `(B, C, *spatial)`.
        network: as for `task_masks`.
    """
    own: Callable[[Tensor, MultiTaskNet], dict[str, Tensor]] | None = getattr(inferer, "attention", None)
    if own is not None:
        return own(image, network)
    return inferer(image, lambda window: task_masks(network, window))
