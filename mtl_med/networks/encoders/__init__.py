"""Encoders: `forward(image) -> [Stage(shared=U^j, deep=P^j)]`. A new one is a file here and a row in the table."""

from __future__ import annotations

from collections.abc import Callable

from mtl_med.networks.encoders.efficientnet_lite import efficientnet_lite0
from mtl_med.networks.encoders.plain import PlainEncoder
from mtl_med.networks.encoders.resnet import resnet18, resnet50
from mtl_med.networks.encoders.stage import Encoder, Stage

__all__ = ["ENCODERS", "Encoder", "PlainEncoder", "Stage"]

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "plain": PlainEncoder,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
}
