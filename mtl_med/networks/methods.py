"""The table of methods, and the one function that builds a network from a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.assembly import check_options, check_per_task, known_options, options_for, parts
from mtl_med.networks.ctan import CrossMaskStage
from mtl_med.networks.exchange import CTAB, EXCHANGES, NoExchange
from mtl_med.networks.multitask import MultiTaskNet, SingleTaskNets
from mtl_med.networks.stacked import StackedNet, StackedSingleTaskNets
from mtl_med.networks.task_attention import MaskStage
from mtl_med.tasks import Task, as_tasks

__all__ = ["METHODS", "Method", "create_network"]


@dataclass(frozen=True)
class Method:
    """What a method puts between encoder and decoders.

    Args:
        summary: one line for lists.
        paper: where it comes from.
        streams: the attention block of each stage, or None for hard sharing.
        exchange: what stands at the bottleneck.
        shared: False for one network per task.
        fixed: options that make the method what it is.
    """

    summary: str
    paper: str
    streams: type[MaskStage] | None = None
    exchange: Callable[..., nn.Module] = NoExchange
    shared: bool = True
    fixed: Mapping[str, Any] = field(default_factory=dict)


_KIM = "Kim et al. 2023, arXiv 2309.03837"
_LIU = "Liu et al. 2019, arXiv 1803.10704"

METHODS: dict[str, Method] = {
    "stl": Method("one network per task", "baseline", shared=False),
    "hps": Method("one encoder, one decoder per task", "Caruana 1997"),
    "mtan": Method("each task masks its own stream", _LIU, MaskStage),
    "ctan": Method("masks crossed between tasks, CTAB at the bottleneck", _KIM, CrossMaskStage, CTAB),
    "ctan_no_bottleneck": Method("CTAN without CTAB: crossed masks alone", _KIM, CrossMaskStage),
    "ctan_no_encoder": Method("CTAN without crossed masks: CTAB alone", _KIM, None, CTAB),
    "ctan_concat": Method(
        "CTAN with masks concatenated to P, as its Algorithm 1 writes",
        _KIM,
        CrossMaskStage,
        CTAB,
        fixed={"cross_fuse": "concat"},
    ),
}


def create_network(
    method: str,
    tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task],
    spatial_dims: int = 3,
    in_channels: int = 1,
    encoder: str = "plain",
    stacked: bool = False,
    network_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """The network of a method.

    Args:
        method: a row of `METHODS`.
        tasks: `{name: {"kind": ..., "class_names": [...]}}` or a sequence of `Task`.
        spatial_dims: 2 or 3.
        in_channels: of the image `(B, in_channels, *spatial)`.
        encoder: a row of `ENCODERS`.
        stacked: return one tensor instead of a dictionary; `split_stacked` takes it apart.
        network_options: options as one mapping, as weights remember them; those given by name add to it.
        options: of the encoder (plain: channels, bottleneck, stem_stride; resnet: split, stem_stride; norm, act), of
            the streams (cross_fuse, embed_ratio, share_refine, reduce), of CTAB (bottleneck_channels, scale, reduce,
            residual), of pixel decoders (decoder_channels, upsample, dropout), of image decoders (image_style,
            image_width, dropout); per task: priors `{task: [probability per channel]}`, output_scales
            `{task: factor}`. An option of a part that the method does not have changes nothing, so that one
            configuration serves all methods.

    Raises:
        UsageError: unknown method, encoder, option or value; tasks that cannot be stacked.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method '{method}'", fix=nearest(method, METHODS))
    row = METHODS[method]
    options = {**(network_options or {}), **options}
    blocks = [each.streams for each in METHODS.values()]
    check_options(options, known_options(encoder, *blocks, *EXCHANGES.values()), encoder)
    taken = known_options(encoder, row.streams, row.exchange)
    options = {name: value for name, value in {**options, **row.fixed}.items() if name in taken}

    def net(own: Sequence[Task], kind: type[MultiTaskNet], chosen: Mapping[str, Any]) -> MultiTaskNet:
        return kind(**parts(spatial_dims, in_channels, own, encoder, row.streams, row.exchange, chosen))

    listed = as_tasks(tasks)
    if row.shared:
        return net(listed, StackedNet if stacked else MultiTaskNet, options)
    check_per_task(listed, options)
    nets = {task.name: net([task], MultiTaskNet, options_for(task, options)) for task in listed}
    return StackedSingleTaskNets(nets) if stacked else SingleTaskNets(nets)
