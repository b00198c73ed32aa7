"""The table of methods, and the one function that builds a network from a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mtl_med.bundle import boolean, plain_values
from mtl_med.errors import UsageError, nearest
from mtl_med.networks.assembly import check_options, check_per_task, known_options, options_for, parts
from mtl_med.networks.ctan import CrossMaskStreams
from mtl_med.networks.exchange import CTAB, CTAL, EXCHANGES, KEM, SKEM, NoExchange
from mtl_med.networks.multitask import MultiTaskNet, SingleTaskNets
from mtl_med.networks.stacked import StackedNet, StackedSingleTaskNets
from mtl_med.networks.task_attention import MaskStreams, PooledStream, PyramidStream
from mtl_med.tasks import Task, as_tasks

__all__ = ["METHODS", "Method", "create_network"]


@dataclass(frozen=True)
class Method:
    """What a method puts between encoder and decoders.

    Args:
        summary: one line for lists.
        paper: where it comes from.
        streams: makes one map per task from the encoder's stages.
        exchange: what stands behind the streams.
        shared: False for one network per task.
        fixed: options that make the method what it is.
    """

    summary: str
    paper: str
    streams: Callable[..., nn.Module] = PooledStream
    exchange: Callable[..., nn.Module] = NoExchange
    shared: bool = True
    fixed: Mapping[str, Any] = field(default_factory=dict)


_CARUANA = "Caruana 1997, Machine Learning 28:41-75"
_LIU = "Liu et al. 2019, arXiv 1803.10704"
_KIM = "Kim et al. 2023, arXiv 2309.03837"
_SINODINOS = "Sinodinos and Armanfard 2024, arXiv 2401.11124"
_ZHANG = "Zhang et al. 2024, arXiv 2410.03778, after Goyal et al. 2022, arXiv 2103.01197"

METHODS: dict[str, Method] = {
    "stl": Method("one network per task", "baseline", shared=False),
    "hps": Method("one encoder, one decoder per task", _CARUANA),
    "mtan": Method("each task masks its own stream", _LIU, MaskStreams),
    "ctan": Method("masks crossed between tasks, CTAB at the bottleneck", _KIM, CrossMaskStreams, CTAB),
    "ctal": Method("affinities of the tasks fused; first predictions supervised too", _SINODINOS, PyramidStream, CTAL),
    "kem": Method("tasks write to and read from a memory of a few slots", _ZHANG, PooledStream, KEM),
    "skem": Method("KEM on tokens laid over an equiangular frame", _ZHANG, PooledStream, SKEM),
    "ctan_no_bottleneck": Method("CTAN without CTAB: crossed masks alone", _KIM, CrossMaskStreams),
    "ctan_no_encoder": Method("CTAN without crossed masks: CTAB alone", _KIM, PooledStream, CTAB),
    "ctan_concat": Method(
        "CTAN with masks concatenated to P, as its Algorithm 1 writes",
        _KIM,
        CrossMaskStreams,
        CTAB,
        fixed={"cross_fuse": "concat"},
    ),
    "hps_pyramid": Method("HPS at the scale of CTAL, whose control it is", _CARUANA, PyramidStream),
    "mtan_ctab": Method("MTAN with CTAB at the bottleneck: uncrossed masks", f"{_LIU}; {_KIM}", MaskStreams, CTAB),
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
            the streams (cross_fuse, embed_ratio, share_refine, checkpoint_masks, reduce; token_stride), of CTAB
            (bottleneck_channels, scale, reduce, residual), CTAL (affinity_channels, gamma, learn_gamma, filters,
            query_grid, full_below), KEM and sKEM (slots, top_k, heads, mlp_ratio; vertices), of pixel decoders
            (decoder_channels, upsample, dropout, deep_supervision), of image decoders (image_style, image_width,
            dropout); per task: priors `{task: [probability per channel]}`, output_scales `{task: factor}`. An option of
            a part that the method does not have changes nothing, so that one configuration serves all methods.

    Raises:
        UsageError: unknown method, encoder, option or value; tasks that cannot be stacked.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method '{method}'", fix=nearest(method, METHODS))
    row = METHODS[method]
    if not isinstance(network_options or {}, Mapping):
        raise UsageError(f"network_options is {network_options!r}", fix='Give an object such as {"channels": [16, 32]}')
    options, stacked = plain_values({**(network_options or {}), **options}), boolean(stacked, "stacked")
    streams = [each.streams for each in METHODS.values()]
    check_options(options, known_options(encoder, *streams, *EXCHANGES.values()), encoder)
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
