"""CTAB's product in both groupings, forward and backward.

Run it with: `python -m tests.benchmarks.ctab [--channels C] [--sides S ...]`.

Each line comes from a process of its own; the memory is the peak above the inputs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mtl_med.networks.exchange.ctab import cross_attend

# Behind this many tokens the N x N form would take minutes and gigabytes.
MOST_TOKENS_SQUARED = 4096


def automatic(e: Tensor, q: Tensor) -> Tensor:
    """What the network does."""
    return cross_attend(e, q)


def through_channels(e: Tensor, q: Tensor) -> Tensor:
    """E (E'^T E), by a C x C matrix."""
    e, q = e.flatten(2), q.flatten(2)
    return torch.bmm(torch.bmm(e, q.mT) / (e.shape[2] * e.shape[1] ** 0.5), e)


def through_tokens(e: Tensor, q: Tensor) -> Tensor:
    """(E E'^T) E, by an N x N matrix."""
    e, q = e.flatten(2), q.flatten(2)
    return torch.bmm(e, torch.bmm(q.mT, e) / (e.shape[2] * e.shape[1] ** 0.5))


FORMS = {"automatic": automatic, "through C x C": through_channels, "through N x N": through_tokens}


def memory_mib(key: str) -> float:
    """VmRSS or VmHWM (its peak) of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def step(form: Callable[[Tensor, Tensor], Tensor], tasks: list[Tensor]) -> None:
    """Both tasks' results and all gradients."""
    results = [form(tasks[0], tasks[1]), form(tasks[1], tasks[0])]
    torch.autograd.grad([result.mean() for result in results], tasks)


def measure(name: str, channels: int, side: int, repeats: int) -> tuple[float, float]:
    """Median milliseconds of two tasks' forward and backward, and MiB above the inputs."""
    small = [torch.randn(1, channels, 4, 4, 4, requires_grad=True) for _ in range(2)]
    tasks = [torch.randn(1, channels, side, side, side, requires_grad=True) for _ in range(2)]
    step(FORMS[name], small)
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step(FORMS[name], tasks)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), memory_mib("VmHWM") - before


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ctab", description=__doc__)
    parser.add_argument("--channels", type=int, default=256, help="C, per task")
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8, 16, 32], help="tokens per axis, in 3D")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("two tasks, forward and backward, fp32\n     N    C  form               ms      MiB")
    context = multiprocessing.get_context("spawn")
    for side in args.sides:
        for name in FORMS:
            if name == "through N x N" and side**3 > MOST_TOKENS_SQUARED:
                continue
            with context.Pool(1) as pool:
                ms, mib = pool.apply(measure, (name, args.channels, side, args.repeats))
            print(f"{side**3:6d} {args.channels:4d}  {name:<14}{ms:9.1f}{mib:9.0f}", flush=True)


if __name__ == "__main__":
    main()
