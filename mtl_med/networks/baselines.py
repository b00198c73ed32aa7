"""The networks CTAN is compared with: STL, HPS and MTAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtl_med.networks.assembly import check_per_task, options_for, parts
from mtl_med.networks.exchange import NoExchange
from mtl_med.networks.multitask import MultiTaskNet, SingleTaskNets
from mtl_med.networks.task_attention import MaskStreams, PooledStream
from mtl_med.tasks import Task, as_tasks

__all__ = ["HPS", "MTAN", "STL"]

Tasks = Mapping[str, Mapping[str, Any]] | Sequence[Task]


class HPS(MultiTaskNet):
    """Hard parameter sharing: one encoder, one decoder per task. Arguments as of `CTAN`."""

    def __init__(
        self, spatial_dims: int, in_channels: int, tasks: Tasks, encoder: str = "plain", **options: Any
    ) -> None:
        super().__init__(**parts(spatial_dims, in_channels, tasks, encoder, PooledStream, NoExchange, options))


class MTAN(MultiTaskNet):
    """Multi-task attention network (Liu et al. 2019): each task masks its own stream. Arguments as of `CTAN`."""

    def __init__(
        self, spatial_dims: int, in_channels: int, tasks: Tasks, encoder: str = "plain", **options: Any
    ) -> None:
        super().__init__(**parts(spatial_dims, in_channels, tasks, encoder, MaskStreams, NoExchange, options))


class STL(SingleTaskNets):
    """Single-task learning: a network of its own for each task. Arguments as of `CTAN`."""

    def __init__(
        self, spatial_dims: int, in_channels: int, tasks: Tasks, encoder: str = "plain", **options: Any
    ) -> None:
        listed = as_tasks(tasks)
        check_per_task(listed, options)
        super().__init__(
            {
                task.name: HPS(spatial_dims, in_channels, [task], encoder, **options_for(task, options))
                for task in listed
            }
        )
