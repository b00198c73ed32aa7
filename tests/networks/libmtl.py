"""LibMTL 1.1.5 as a judge: imported without the packages that its comparison here does not need."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

from torch import Tensor, nn

TASKS = ("oar", "dose")


def libmtl(name: str) -> Any:
    """A module of LibMTL, past the package's own `__init__`, which wants torchvision and a logger."""
    if "LibMTL" not in sys.modules:
        spec = importlib.util.find_spec("LibMTL")
        package = types.ModuleType("LibMTL")
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations or []) if spec else []
        sys.modules["LibMTL"] = package
    absent = [] if importlib.util.find_spec("torchvision") else ["", ".models", ".models.utils"]
    for part in absent:
        module = types.ModuleType(f"torchvision{part}")
        module.load_state_dict_from_url = None  # type: ignore[attr-defined]  # it would download weights
        sys.modules[module.__name__] = module
    try:
        return importlib.import_module(f"LibMTL.{name}")
    finally:  # nobody else shall think that torchvision is there
        for part in absent:
            del sys.modules[f"torchvision{part}"]


def architecture(kind: str, heads: dict[str, nn.Module]) -> nn.Module:
    """LibMTL's MTAN or HPS on ResNet-50."""
    resnet50 = libmtl("model.resnet").resnet50
    make = getattr(libmtl(f"architecture.{kind}"), kind)
    return make(list(heads), lambda: resnet50(pretrained=False), nn.ModuleDict(heads), False, False, "cpu")


def as_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of LibMTL's encoder under our names.

    Its mask convolutions have biases before batch norms. They change nothing but the mean that the norm takes off, so
    they go into the running mean.
    """
    ours: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for key, value in state.items():
        name = our_name(key.split("."))
        if name.endswith("conv.bias"):
            biases[name.replace("conv.bias", "norm.running_mean")] = value
        else:
            ours[name] = value
    return ours | {key: ours[key] - bias for key, bias in biases.items()}


def our_name(parts: list[str]) -> str:
    """One key of LibMTL's encoder under our name."""
    if parts[0] == "shared_conv":
        return ".".join(["encoder", {"0": "conv1", "1": "bn1"}[parts[1]], *parts[2:]])
    if parts[0] == "shared_layer":  # stage, first or second part of it, block in the first part
        stage, part, *rest = parts[1:]
        last = {"0": "2", "1": "3", "2": "5", "3": "2"}[stage]
        return ".".join(["encoder", f"layer{int(stage) + 1}", *(rest if part == "0" else [last, *rest])])
    if parts[0] == "encoder_att":
        stage, task, layer, *rest = parts[1:]
        place = {"0": "embed.conv", "1": "embed.norm", "3": "attend.conv", "4": "attend.norm"}[layer]
        return ".".join([f"streams.stages.{stage}.mask.{TASKS[int(task)]}", place, *rest])
    if parts[0] == "encoder_block_att":
        return ".".join([f"streams.stages.{parts[1]}.refine.0", *parts[2:]])
    return ".".join(["encoder", *parts])  # HPS: a plain ResNet
