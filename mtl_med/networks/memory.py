"""Memory of the process: the C library's allocator tuned for tensors that come and go, and how much a run takes."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

__all__ = ["PeakMemory", "keep_freed_memory"]

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next tensors instead of giving it back to the system.

    glibc maps every block of 32 MB and more anew, and the kernel fills it with zeros page by page: on a CPU that is
    10-15 % of a 3D training step. Call once, before training or inference on a CPU; the peak memory stays the same,
    the process holds on to it until its end.

    Returns:
        Whether the C library has taken it; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def _give_back_freed() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


class PeakMemory:
    """The most memory that is in use at once from here on, beyond what is in use now.

    Args:
        device: of the network. On a CUDA device its allocator counts; on a CPU under Linux the pages of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before: float | None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device) / 2**20
            return
        _give_back_freed()  # what was freed before would hide as much of what comes
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the kernel counts the peak anew
        except OSError:
            self.before = None
        else:
            self.before = _pages_mib("VmRSS")

    def mib(self) -> float | None:
        """Peak since the start, less what was in use then, MiB; None where the system does not tell."""
        if self.before is None:
            return None
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if cuda else _pages_mib("VmHWM")
        return None if peak is None else max(0.0, peak - self.before)


def _pages_mib(field: str) -> float | None:
    """A line of Linux's account of the process, such as VmRSS, the memory in use, or VmHWM, its peak."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None
