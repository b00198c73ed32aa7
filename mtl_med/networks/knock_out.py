"""What an exchange is good for in one image: the prediction with it, against the one in which tasks hear no places."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mtl_med.networks.exchange import NoExchange

__all__ = ["exchanges", "without_partners"]


def exchanges(network: Any) -> bool:
    """Whether tasks read each other's features behind the encoder; without it there is nothing to knock out."""
    exchange = getattr(network, "exchange", None)
    return exchange is not None and not isinstance(exchange, NoExchange) and len(network.tasks) > 1


@contextlib.contextmanager
def without_partners(network: Any) -> Iterator[None]:
    """Let each task read of the others' features only their mean over all positions.

    How much of a feature there is, is still told; where it is, is not. Nothing but the exchange changes: masks that
    cross between the tasks' streams (CTAN) are as they were.

    Args:
        network: one of which `exchanges` is true; as before when the block is left.
    """

    def alone(exchange: nn.Module, given: tuple[dict[str, Tensor]], made: dict[str, Tensor]) -> dict[str, Tensor]:
        features = given[0]
        blurred = {task: _placeless(value) for task, value in features.items()}
        # `forward` and no call, which would come here again.
        return {**made, **{task: exchange.forward({**blurred, task: own})[task] for task, own in features.items()}}

    hook = network.exchange.register_forward_hook(alone)
    try:
        yield
    finally:
        hook.remove()


def _placeless(features: Tensor) -> Tensor:
    """The mean over all positions at every position."""
    return features.mean(tuple(range(2, features.dim())), keepdim=True).expand_as(features).contiguous()
