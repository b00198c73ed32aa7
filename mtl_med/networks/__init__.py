"""Networks: encoder + streams + exchange + decoders. `create_network` builds one from a method's name."""

from __future__ import annotations

from mtl_med.networks.baselines import HPS, MTAN, STL
from mtl_med.networks.ctan import CTAN
from mtl_med.networks.methods import METHODS, Method, create_network
from mtl_med.networks.mixed_inferer import MixedInferer
from mtl_med.networks.multitask import MultiTaskNet, SingleTaskNets
from mtl_med.networks.pretrained import load_pretrained
from mtl_med.networks.stacked import split_stacked
from mtl_med.networks.windows import window_inferer

__all__ = [
    "CTAN",
    "HPS",
    "METHODS",
    "MTAN",
    "STL",
    "Method",
    "MixedInferer",
    "MultiTaskNet",
    "SingleTaskNets",
    "create_network",
    "load_pretrained",
    "split_stacked",
    "window_inferer",
]
