"""Small networks, with weights that leave no output at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from mtl_med.networks import create_network

Tasks = Mapping[str, Mapping[str, Any]]


@pytest.fixture
def pixel_tasks() -> Tasks:
    return {"oar": {"kind": "segmentation", "channels": 3}, "dose": {"kind": "regression", "unit": "Gy"}}


@pytest.fixture
def mixed_tasks(pixel_tasks: Tasks) -> Tasks:
    return {**pixel_tasks, "diagnosis": {"kind": "classification", "channels": 4}}


@pytest.fixture
def image_tasks() -> Tasks:
    return {
        "covid": {"kind": "classification", "channels": 2},
        "severity": {"kind": "classification", "channels": 3},
    }


@pytest.fixture
def small_network() -> Callable[..., nn.Module]:
    """`create_network` with few channels; output layers get weights of ordinary size, so that outputs differ."""

    def make(method: str, tasks: Tasks, spatial_dims: int = 3, in_channels: int = 2, **options: Any) -> nn.Module:
        if options.get("encoder", "plain") == "plain":
            options = {"channels": (6, 8, 10), "bottleneck": 12, "image_width": 8, **options}
        torch.manual_seed(0)
        network = create_network(method, tasks, spatial_dims, in_channels, **options)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if ".out." in name:
                    parameter.normal_(std=0.3)
                elif parameter.ndim == 1:  # norms and biases: away from 1 and 0
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return network

    return make


@pytest.fixture
def small_image() -> Callable[..., torch.Tensor]:
    """An image with no side a multiple of the stride."""

    def make(spatial_dims: int, batch: int = 2, channels: int = 2) -> torch.Tensor:
        torch.manual_seed(1)
        return torch.randn(batch, channels, *(21, 18, 27)[:spatial_dims])

    return make
