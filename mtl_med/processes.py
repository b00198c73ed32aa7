"""The processes of one data-parallel run: who am I, how many are we, sums over all."""

from __future__ import annotations

import logging
import os

import torch
import torch.distributed as dist

from mtl_med.errors import UsageError

__all__ = [
    "all_reduce_sum",
    "finish_processes",
    "join_processes",
    "rank",
    "require_processes",
    "share_buffers",
    "world_size",
]

_log = logging.getLogger(__name__)


def rank() -> int:
    """Index of this process; 0 when there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join_processes() -> None:
    """Join the process group that torchrun announces: nccl on GPUs, gloo on CPUs. Without torchrun, nothing."""
    if "RANK" not in os.environ or dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend)
    _log.info("process %d of %d, backend %s", rank(), world_size(), backend)


def require_processes() -> None:
    """Refuse a multi-device config that was started as a single process.

    Raises:
        UsageError: torchrun did not start this process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "multi_gpu_train.json needs processes started by torchrun",
            fix="Start it with: torchrun --nproc_per_node=2 -m monai.bundle run --config_file ...",
        )


def finish_processes() -> None:
    """Leave the process group, if there is one, once every process has come to its end.

    A process that closed its connections while another one's threads still used them could take that one down with it.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def share_buffers(network: torch.nn.Module) -> None:
    """Give every process the first one's buffers, such as the statistics of batch norms, which each takes of its data.

    Data-parallel training does so before a step; what is scored or saved after the last one needs it too.
    """
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, back on the tensor's own device (nccl sums on the GPU)."""
    if world_size() == 1:
        return values
    shared = values.to("cuda", copy=True) if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(shared)
    return shared.to(values.device)
