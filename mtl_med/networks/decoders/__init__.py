"""Decoders by task kind: `forward(features, stages, size) -> [output]`. The keys are those of `tasks.KINDS`.

Behind the output the list may hold further ones for the loss, in training only.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mtl_med.networks.decoders.image import ImageDecoder, ImageHead
from mtl_med.networks.decoders.pixel import PixelDecoder, PixelHead

__all__ = ["DECODERS", "HEADS", "ImageDecoder", "ImageHead", "PixelDecoder", "PixelHead"]

DECODERS: dict[str, Callable[..., nn.Module]] = {
    "segmentation": PixelDecoder,
    "regression": PixelDecoder,
    "classification": ImageDecoder,
}

HEADS: dict[str, Callable[..., nn.Module]] = {
    "segmentation": PixelHead,
    "regression": PixelHead,
    "classification": ImageHead,
}
"""The plainest way from features to an output, for predictions that are supervised before the exchange (CTAL)."""
