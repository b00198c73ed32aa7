"""What a training step of each method costs beyond hard sharing, in time, memory and work, measured in one run.

Run it with: `python -m tests.benchmarks.methods [--dims 2 3] [--rounds N] [--methods ...]`.

2D: ResNet-50, 224 x 224, batch 4; 3D: plain encoder, 64^3, batch 2; two pixel tasks, forward, backward and Adam, in
the device's training precision and channels-last memory. The steps of all methods alternate, so that other load on the
machine falls on all; the memory of each is the median of processes of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mtl_med.networks import METHODS, create_network
from mtl_med.networks.memory import PeakMemory, keep_freed_memory
from mtl_med.training.runtime import autocast, pick_device, pick_precision, to_channels_last

TASKS = {"oar": {"kind": "segmentation", "channels": 5}, "dose": {"kind": "regression"}}
SHAPES = {2: (4, 3, 224, 224), 3: (2, 1, 64, 64, 64)}
ENCODERS = {2: "resnet50", 3: "plain"}
WARM_UP = 2
PROCESSES = 5


class PlainUNet(nn.Module):
    """The modules of HPS called one after the other by hand, with no framework around them."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        hps = create_network("hps", TASKS, dims, SHAPES[dims][1], ENCODERS[dims])
        self.encoder, self.pool, self.decoders = hps.encoder, hps.streams.pool, hps.decoders

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        stages = self.encoder(image)
        bottom = self.pool(stages[-1].deep)
        return {task: decoder(bottom, stages, image.shape[2:])[0] for task, decoder in self.decoders.items()}


class Heads(nn.Module):
    """LibMTL's decoders see the last map alone: the same small heads on our streams."""

    def __init__(self, streams_of: Callable[[Tensor], dict[str, Tensor]], body: nn.Module) -> None:
        super().__init__()
        self.streams_of, self.body = streams_of, body
        self.heads = nn.ModuleDict({task: head() for task in TASKS})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        streams = self.streams_of(image)
        return {task: head(streams[task]) for task, head in self.heads.items()}


def head() -> nn.Module:
    """1x1 convolution and bilinear resize."""
    return nn.Sequential(nn.Conv2d(2048, 5, 1), nn.Upsample(scale_factor=32, mode="bilinear"))


def network_of(name: str, dims: int) -> nn.Module:
    """A row of METHODS, or one of the yardsticks."""
    if name == "plain U-Net":
        return PlainUNet(dims)
    if name.startswith("mtan, small heads"):
        own = create_network("mtan", TASKS, 2, 3, "resnet50")
        body = nn.ModuleList([own.encoder, own.streams])
        return Heads(lambda image: own.streams(own.encoder(image)), body)
    if name.startswith("LibMTL"):
        from tests.networks.libmtl import architecture

        return architecture("MTAN", {task: head() for task in TASKS})
    return create_network(name, TASKS, dims, SHAPES[dims][1], ENCODERS[dims])


class Stepper:
    """One network and its training step."""

    def __init__(self, name: str, dims: int) -> None:
        device = pick_device("auto")
        torch.manual_seed(0)
        self.network, self.device = to_channels_last(network_of(name, dims).to(device)).train(), device
        self.precision = pick_precision("auto", device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-4, fused=True)
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        self.image = torch.randn(SHAPES[dims], device=device).contiguous(memory_format=layout)

    def step(self) -> float:
        """Seconds of one step."""
        self.synchronise()
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            outputs = self.network(self.image)
        sum(output.float().square().mean() for output in outputs.values()).backward()
        self.optimizer.step()
        self.synchronise()
        return time.perf_counter() - start

    def synchronise(self) -> None:
        """Wait for a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def gflop(name: str, dims: int) -> float:
    """Work of a forward pass."""
    # LibMTL cannot be built of shapes alone.
    shapes_only = contextlib.nullcontext() if name.startswith("LibMTL") else FakeTensorMode()
    with shapes_only, FlopCounterMode(display=False) as counter, torch.no_grad():
        network_of(name, dims)(torch.empty(SHAPES[dims]))
    return counter.get_total_flops() / 1e9


def peak_mib(name: str, dims: int) -> float:
    """Memory of a step beyond what network and optimizer hold, each time from a process of its own.

    On a CPU it is a count of the process's pages, which the allocator moves by up to a tenth from one process to the
    next: the median of some is what can be compared.
    """
    words = [sys.executable, "-m", "tests.benchmarks.methods", "--peak", name, "--dims", str(dims)]
    done = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(PROCESSES)]
    return statistics.median(float(json.loads(each.splitlines()[-1])) for each in done)


def print_peak(name: str, dims: int) -> None:
    """The child's part of `peak_mib`: the second step, when the optimizer's state is there.

    Without `keep_freed_memory`, for the first step's memory would count as there already.
    """
    stepper = Stepper(name, dims)
    stepper.step()
    stepper.optimizer.zero_grad(set_to_none=True)
    memory = PeakMemory(stepper.device)
    stepper.step()
    print(json.dumps(memory.mib()))


def report(names: list[str], dims: int, rounds: int) -> None:
    """Time all by turns, then print."""
    keep_freed_memory()
    times: dict[str, list[float]] = {name: [] for name in names}
    steppers = {name: Stepper(name, dims) for name in names}
    for turn in range(rounds + WARM_UP):
        for name, stepper in steppers.items():
            seconds = stepper.step()
            if turn >= WARM_UP:
                times[name].append(seconds)
    sizes = {name: sum(p.numel() for p in stepper.network.parameters()) / 1e6 for name, stepper in steppers.items()}
    precision = str(next(iter(steppers.values())).precision or torch.float32).removeprefix("torch.")
    steppers.clear()
    peaks = {name: peak_mib(name, dims) for name in names}
    work = {name: gflop(name, dims) for name in names}
    shape = "x".join(map(str, SHAPES[dims]))
    print(
        f"\n{dims}D, {ENCODERS[dims]}, image {shape}, {precision}; ratios to hps, times by turns over {rounds} rounds"
    )
    print(f"{'':<22}M par.  GFLOP   step s  peak MiB  FLOP ratio  time ratio  time/FLOP  memory ratio")
    for name in names:
        ratios = [own / base for own, base in zip(times[name], times["hps"], strict=True)]
        flops, seconds = work[name] / work["hps"], statistics.median(ratios)
        print(
            f"{name:<20}{sizes[name]:8.2f}{work[name]:7.1f}{statistics.median(times[name]):9.3f}{peaks[name]:10.0f}"
            f"{flops:12.3f}{seconds:12.3f}{seconds / flops:11.3f}{peaks[name] / peaks['hps']:14.2f}",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.methods", description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 3], choices=[2, 3])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["mtan", "ctan"], help="rows of METHODS beside hps")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(args.peak, args.dims[0])
        return
    chosen = [name for name in args.methods if name != "hps"]
    unknown = sorted(set(chosen) - set(METHODS))
    if unknown:
        parser.error(f"unknown method {unknown[0]}")
    for dims in args.dims:
        report(["hps", "plain U-Net", *chosen], dims, args.rounds)
    if 2 in args.dims and importlib.util.find_spec("LibMTL"):
        report(["hps", "mtan, small heads", "LibMTL's MTAN"], 2, args.rounds)


if __name__ == "__main__":
    main()
