"""Where in a network the tasks' gradients agree, and where one task works against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from mtl_med.networks.multitask import MultiTaskNet, SingleTaskNets
from mtl_med.training.gradients import cosines, gramian, shared_parameters, task_gradients

__all__ = ["ALL_SHARED", "PartConflict", "conflict_by_part", "network_parts"]

ALL_SHARED = "all shared"


@dataclass(frozen=True)
class PartConflict:
    """Two tasks' gradients on one part of a network.

    Args:
        part: `encoder stage <j>`, `streams`, `exchange`, or all of them together.
        first, second: names of the tasks.
        cosine: between their gradients on what they share there; NaN where they share nothing or one is zero.
        first_norm, second_norm: lengths of the gradients there.
        parameters: number of values that both reach.
    """

    part: str
    first: str
    second: str
    cosine: float
    first_norm: float
    second_norm: float
    parameters: int


def network_parts(network: MultiTaskNet | SingleTaskNets) -> dict[str, list[nn.Parameter]]:
    """The parameters in front of the decoders, by part; of disjoint networks (STL) those of all together.

    Which parameters belong to a stage is asked of the graph: those that its features need and those of the stage before
    do not. So it holds for every encoder, and the stem belongs to the first stage.
    """
    nets: list[Any] = list(network.nets.values()) if isinstance(network, SingleTaskNets) else [network]
    parts: dict[str, list[nn.Parameter]] = {}
    for net in nets:
        parameters = [parameter for parameter in net.encoder.parameters() if parameter.requires_grad]
        side = [2 * net.stride, *[net.stride] * (net.spatial_dims - 1)]
        image = parameters[0].new_zeros(1, net.in_channels, *side) if parameters else None
        known: set[int] = set()
        for number, stage in enumerate(net.encoder(image) if image is not None else ()):
            needed = _needed(stage.shared.sum() + stage.deep.sum(), parameters)
            parts.setdefault(f"encoder stage {number}", []).extend(p for p in needed if id(p) not in known)
            known |= {id(parameter) for parameter in needed}
        for name in ("streams", "exchange"):
            own = [parameter for parameter in getattr(net, name).parameters() if parameter.requires_grad]
            if own:
                parts.setdefault(name, []).extend(own)
    return parts


def _needed(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [parameter for parameter, piece in zip(parameters, found, strict=True) if piece is not None]


def conflict_by_part(network: MultiTaskNet | SingleTaskNets, losses: Mapping[str, Tensor]) -> list[PartConflict]:
    """Cosine between the gradients of each pair of losses, part by part.

    Args:
        network: that made the predictions.
        losses: one scalar per task, attached to the graph, which is used up.

    Returns:
        A row per part and pair, parts in the order of the forward pass, all that is shared last.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Definition 1.
    """
    parts = network_parts(network)
    parameters = [parameter for own in parts.values() for parameter in own]
    rows = list(task_gradients(losses, parameters, keep_graph=False).values())
    shared = shared_parameters(rows)
    where = [part for part, own in parts.items() for _ in own]
    names = list(losses)
    found: list[PartConflict] = []
    for part in (*parts, ALL_SHARED):
        here = [several and part in (name, ALL_SHARED) for several, name in zip(shared, where, strict=True)]
        products = gramian(rows, here)
        norms = products.diagonal().sqrt().tolist()
        count = sum(parameter.numel() for parameter, inside in zip(parameters, here, strict=True) if inside)
        angles = cosines(names, products)
        found += [
            PartConflict(part, names[i], names[j], angles[names[i], names[j]], norms[i], norms[j], count)
            for i, j in combinations(range(len(names)), 2)
        ]
    return found
