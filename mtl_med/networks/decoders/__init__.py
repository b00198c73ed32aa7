"""Decoders by task kind: `forward(features, stages, size) -> output`. The keys are those of `tasks.KINDS`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mtl_med.networks.decoders.image import ImageDecoder
from mtl_med.networks.decoders.pixel import PixelDecoder

__all__ = ["DECODERS", "ImageDecoder", "PixelDecoder"]

DECODERS: dict[str, Callable[..., nn.Module]] = {
    "segmentation": PixelDecoder,
    "regression": PixelDecoder,
    "classification": ImageDecoder,
}
