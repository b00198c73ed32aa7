"""Device, precision, processes and seeds, derived once so that the same files run on CPU, GPU and several GPUs."""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import numpy as np
import torch

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.memory import keep_freed_memory
from mtl_med.processes import world_size

__all__ = [
    "PRECISIONS",
    "autocast",
    "cpu_has_fast_bf16",
    "distribute",
    "on_device",
    "parameter_groups",
    "pick_device",
    "pick_precision",
    "restore_rng",
    "rng_state",
    "seed_everything",
    "to_channels_last",
    "unwrap",
]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device of this process: the GPU of its local rank where there is one, else the CPU.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N"; a device passes through.

    Raises:
        UsageError: a GPU is asked for and none is there.
    """
    if isinstance(name, torch.device):
        return name
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local}"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device '{name}' is asked for but no CUDA device is there", fix="Use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'", fix=nearest(name, ["auto", "cpu", "cuda", "cuda:0"])) from error


def cpu_has_fast_bf16() -> bool:
    """Whether the CPU multiplies matrices in bf16 faster than in fp32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def pick_precision(name: str, device: torch.device | str) -> torch.dtype | None:
    """The autocast type: bf16 where the device is fast at it, else fp16 on a GPU, else none.

    Args:
        name: "auto", "bf16", "fp16" or "fp32".
        device: where the network runs.

    Raises:
        UsageError: an unknown precision, or fp16 on a CPU.
    """
    device = pick_device(device)
    if name == "auto":
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        else:
            name = "bf16" if cpu_has_fast_bf16() else "fp32"
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision '{name}'", fix=nearest(name, ["auto", *PRECISIONS]))
    if name == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 is of no use on a CPU", fix="Use bf16, fp32 or auto")
    return PRECISIONS[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Autocast to `dtype` on `device`; nothing when it is None."""
    return torch.autocast(device.type, dtype=dtype) if dtype is not None else contextlib.nullcontext()


def distribute(network: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """The network on its device in channels-last layout, wrapped when several processes train it together."""
    network, device = on_device(network, device)
    if world_size() == 1:
        return network
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(network, device_ids=ids)


def on_device(network: torch.nn.Module, device: torch.device | str) -> tuple[torch.nn.Module, torch.device]:
    """The network on a device in channels-last layout, and the device; on a CPU the allocator is tuned for it."""
    device = pick_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    return to_channels_last(network.to(device)), device


def to_channels_last(network: torch.nn.Module) -> torch.nn.Module:
    """Put convolution weights into channels-last memory, which is the faster layout on CPUs and tensor cores."""
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network


def parameter_groups(network: torch.nn.Module, loss: torch.nn.Module) -> list[dict[str, Any]]:
    """Groups for an optimizer: the network's parameters, and the weighting's own, which do not decay."""
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    own = list(loss.parameters())
    return [*groups, {"params": own, "weight_decay": 0.0}] if own else groups


def unwrap(network: torch.nn.Module) -> torch.nn.Module:
    """The network inside a data-parallel wrapper."""
    return network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network


def seed_everything(seed: int) -> int:
    """Seed Python, numpy and torch for the initial weights; samples have seeds of their own. Returns the seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed


def rng_state() -> dict[str, Any]:
    """State of every global generator, as plain values and tensors that load with weights_only."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "python": (version, list(words), gauss),
        "numpy": (str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Put every global generator back to a state of `rng_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
