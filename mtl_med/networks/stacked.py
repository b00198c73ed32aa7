"""Networks with one output tensor, for clients that want one: the tasks' channels stacked into `pred`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_med.errors import UsageError
from mtl_med.networks.multitask import MultiTaskNet, SingleTaskNets
from mtl_med.tasks import Task

__all__ = ["StackedNet", "StackedSingleTaskNets", "split_stacked", "stack_order"]


def stack_order(tasks: Sequence[Task]) -> list[str]:
    """Names of the tasks in the order of their channels: segmentations, then regressions, or classifications alone.

    Raises:
        UsageError: pixel-level and image-level tasks do not fit into one tensor.
    """
    pixel = [task.name for task in tasks if task.is_pixel_level]
    image = [task.name for task in tasks if not task.is_pixel_level]
    if pixel and image:
        raise UsageError(
            f"pixel-level tasks ({', '.join(pixel)}) and image-level tasks ({', '.join(image)}) cannot be stacked into "
            "one tensor",
            fix="Use stacked=False, whose output is a dictionary",
        )
    return sorted(pixel or image, key=lambda name: next(t.kind for t in tasks if t.name == name) == "regression")


def split_stacked(pred: Tensor, tasks: Sequence[Task]) -> dict[str, Tensor]:
    """The dictionary that a stacked network's tensor was made from.

    Args:
        pred: `(B, channels, ...)`, or a sliding-window result of that form.
        tasks: the network's tasks.

    Raises:
        UsageError: the number of channels is not the sum of the tasks'.
    """
    channels = {task.name: task.channels for task in tasks}
    order = stack_order(tasks)
    if pred.shape[1] != sum(channels.values()):
        raise UsageError(
            f"the stacked output has {pred.shape[1]} channels, the tasks have {sum(channels.values())}",
            fix="Split it with the tasks it was made with",
        )
    return dict(zip(order, pred.split([channels[name] for name in order], dim=1), strict=True))


class StackedNet(MultiTaskNet):
    """`MultiTaskNet` with the same state keys whose forward returns one tensor; see `split_stacked`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.order = stack_order(self.tasks)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        outputs = self.predict(image)
        return torch.cat([outputs[task] for task in self.order], 1)


class StackedSingleTaskNets(SingleTaskNets):
    """`SingleTaskNets` with the same state keys whose forward returns one tensor; see `split_stacked`."""

    def __init__(self, nets: Mapping[str, MultiTaskNet]) -> None:
        super().__init__(nets)
        self.order = stack_order(self.tasks)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        outputs = self.predict(image)
        return torch.cat([outputs[task] for task in self.order], 1)
