"""One method's training step, measured in a process of its own: `python -m tests.benchmarks.step STUDY METHOD STEPS`.

The step is the bundle's own: its network, loss, optimizer, loader and trainer. Prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch import nn

from mtl_med.files import shipped
from mtl_med.training.runtime import autocast

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WARM_UP = 2


def bundle_parser(study: str, method: str) -> ConfigParser:
    """The bundle's training configuration without validation, checkpoints and logs."""
    bundle = shipped("bundles") / "openkbp_dose_oar_segmentation"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    changes = {"bundle_root": str(bundle), "dataset_dir": study, "method": method, "inputs": "ct+ptv", "epochs": 1000}
    for name, value in changes.items():
        parser[name] = value
    parser["workers"] = 0
    parser["train#handlers"] = []
    parser.parse()
    return parser


def memory_mib(key: str) -> float:
    """VmRSS or VmHWM (its peak) of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def step_times(trainer: Any, steps: int) -> list[float]:
    """Seconds of each step behind the warm-up, the loader's time not counted."""
    seconds: list[float] = []

    def synchronised() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    @trainer.on(Events.ITERATION_STARTED)
    def start(engine: Any) -> None:
        engine.state.step_started = synchronised()

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop(engine: Any) -> None:
        seconds.append(synchronised() - engine.state.step_started)
        if len(seconds) == steps + WARM_UP:
            engine.terminate()

    trainer.run()
    return seconds[WARM_UP:]


def convolution_seconds(network: nn.Module, image: torch.Tensor, precision: torch.dtype | None, repeats: int) -> float:
    """Seconds of all convolutions of a step, forward and backward, each run alone on inputs of its own size."""
    calls: list[tuple[nn.Module, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs[0].detach())))
        for module in network.modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    with torch.no_grad(), autocast(image.device, precision):
        network(image)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for index, (module, given) in enumerate(calls):
        total += statistics.median(
            one_convolution(module, given, precision, needs_input_gradient=index > 0) for _ in range(repeats)
        )
    return total


def one_convolution(
    module: nn.Module, given: torch.Tensor, precision: torch.dtype | None, *, needs_input_gradient: bool
) -> float:
    """Seconds of one convolution forward and backward."""
    given = given.clone(memory_format=torch.preserve_format).requires_grad_(needs_input_gradient)
    module.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    with autocast(given.device, precision):
        output = module(given)
    output.backward(torch.ones_like(output))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    study, method, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    parser = bundle_parser(study, method)
    dataset = parser.get_parsed_content("train#dataset")
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    trainer = parser.get_parsed_content("train#trainer")
    times = step_times(trainer, steps)
    peak = memory_mib("VmHWM") - before
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    network = parser.get_parsed_content("network")
    batch = next(iter(trainer.data_loader))
    image = torch.as_tensor(batch["image"]).to(trainer.state.device)
    image = image.contiguous(memory_format=torch.channels_last_3d)
    seconds = convolution_seconds(network, image, trainer.precision, repeats=3)
    result = {
        "method": method,
        "device": str(trainer.state.device),
        "precision": str(trainer.precision or torch.float32).removeprefix("torch."),
        "patch": list(image.shape[2:]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "step_s": statistics.median(times),
        "convolutions_s": seconds,
        "peak_mib": peak,
        "cases": len(dataset),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
