"""Cross-task affinity learning (CTAL): each task gathers features by what all tasks find alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.blocks import ActSpec, NormSpec, convolution
from mtl_med.networks.encoders.resnet import BasicBlock
from mtl_med.networks.exchange.affinity import affinity_strength, full_affinity, gather, linear_affinity, unit
from mtl_med.networks.precision import wide

__all__ = ["CTAL", "FILTERS", "full_affinity", "linear_affinity"]

FILTERS = ("shared", "per_query")


class TaskBranch(nn.Module):
    """What belongs to one task: refinement, projection, values, and its filters in the fusion.

    Args:
        channels: C behind the projection.
        grid: positions that have filters of their own; 1 per axis where all queries share one set.
        share: this task's share in the fused affinity at the beginning.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        grid: Sequence[int],
        share: float,
        norm: NormSpec,
        act: ActSpec,
    ) -> None:
        super().__init__()
        self.refine = nn.Sequential(
            *(BasicBlock(spatial_dims, in_channels, in_channels, norm=norm, act=act) for _ in range(2))
        )
        self.project = convolution(spatial_dims, in_channels, channels, 1, bias=True)
        self.value = convolution(spatial_dims, channels, channels, 3, bias=True)
        # Begins with the similarities as they are: the middle tap of 3^d alone.
        taps = torch.zeros(1, 3**spatial_dims, *grid)
        taps[:, 3**spatial_dims // 2] = share
        self.filter = nn.Parameter(taps)


class CTAL(nn.Module):
    """Cross-task affinity learning: `{task: (B, in_channels, *spatial)} -> {task: (B, C, *spatial)}`.

    Each task refines its features (two residual blocks) and projects them to C channels, x_t. With M the affinity of
    all positions with all others, fused over the tasks (see `affinity`),

        out_t = gamma conv3(x_t) M^T / N + (1 - gamma) x_t

    M is a sum over the tasks, each with filters of its own, so the order in which the tasks are given does not matter.
    The mean over the tasks is where M begins. The refined features `(B, in_channels, *spatial)` are handed on under
    `<task>/initial`: a first prediction is made from them and supervised too.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of each task's features.
        tasks: names of the tasks; one alone has its own affinity.
        affinity_channels: C.
        gamma: share of the gathered features, in [0, 1].
        learn_gamma: make it a parameter that begins there.
        filters: `shared`: one set of 3^d taps per task, for images of any size; `per_query`: as published, each
            position has taps of its own, which are resampled linearly where the image has another size.
        query_grid: positions that have taps of their own with `per_query`: the size of the features in training.
        full_below: number of positions N below which the N x N matrix is made; either way gives the same result.

    Attributes:
        initial: this exchange hands on features for a first prediction.

    Raises:
        UsageError: an option out of range; `per_query` without `query_grid`, or `query_grid` without `per_query`.

    Source: arXiv 2401.11124. Ours: division by N, filters that all queries share (the default), gamma as a parameter.
    """

    initial = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        tasks: Sequence[str],
        affinity_channels: int = 128,
        gamma: float = 0.05,
        learn_gamma: bool = False,
        filters: str = "shared",
        query_grid: Sequence[int] | None = None,
        full_below: int = 1024,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        grid = check_grid(spatial_dims, filters, query_grid)
        if affinity_channels < 1:
            raise UsageError(f"affinity_channels is {affinity_channels}", fix="Give at least 1, such as 128")
        if not 0.0 <= gamma <= 1.0:
            raise UsageError(f"gamma is {gamma}", fix="Give a share in [0, 1]; 0.05 was published")
        if full_below < 0:
            raise UsageError(f"full_below is {full_below}", fix="Give a number of positions, 0 for never")
        self.width, self.full_below = affinity_channels, full_below
        self.per_query, self.linear = filters == "per_query", "bilinear" if spatial_dims == 2 else "trilinear"
        self.gamma = nn.Parameter(torch.tensor(float(gamma))) if learn_gamma else float(gamma)
        self.bias = nn.Parameter(torch.zeros(1, 1, *grid))
        self.branches = nn.ModuleDict()
        for task in tasks:
            self.branches[task] = TaskBranch(
                spatial_dims, in_channels, affinity_channels, grid, 1.0 / len(tasks), norm, act
            )

    def out_channels(self, in_channels: int) -> int:
        """Channels of each task's result."""
        return self.width

    def fusion(self, size: list[int]) -> tuple[Tensor, Tensor]:
        """Filters `(T, 3^d, N)` and bias `(N,)` for features of this size; 1 for N where all queries share them."""
        filters: list[Tensor] = []
        for branch in self.branches.values():
            filters.append(branch.filter)  # type: ignore[arg-type]
        w: Tensor = torch.cat(filters)  # (T, 3^d, *grid)
        b: Tensor = self.bias  # (1, 1, *grid)
        if self.per_query and list(b.shape[2:]) != size:
            w = F.interpolate(w, size=size, mode=self.linear, align_corners=False)
            b = F.interpolate(b, size=size, mode=self.linear, align_corners=False)
        return w.flatten(2), b.flatten()

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        results: dict[str, Tensor] = {}
        projected: list[Tensor] = []
        values: list[Tensor] = []
        for task, branch in self.branches.items():
            refined = branch.refine(features[task])  # (B, in_channels, *spatial)
            results[task + "/initial"] = refined
            x = branch.project(refined)  # x_t, (B, C, *spatial)
            projected.append(x)
            values.append(branch.value(x))
        x = projected[0]
        w, b = self.fusion(list(x.shape[2:]))
        full = x[0, 0].numel() < self.full_below
        y = gather(torch.stack(projected, 1), torch.stack(values, 1), w, b, full, self.training)  # (B, T, C, *spatial)
        for i, task in enumerate(self.branches.keys()):
            results[task] = (1.0 - self.gamma) * projected[i] + self.gamma * y[:, i]  # in the memory order of x_t
        return results

    @torch.jit.unused
    def attention(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """How much each position gathers: the 2-norm of its row of M / N.

        Returns:
            Per task `(B, 1, *spatial)`, the same for all: they share M.
        """
        projected = [branch.project(branch.refine(features[task])) for task, branch in self.branches.items()]
        w, b = self.fusion(list(projected[0].shape[2:]))
        with torch.autocast(w.device.type, enabled=False):
            strength = affinity_strength(unit(wide(torch.stack(projected, 1)), 2), wide(w), wide(b))
        return dict.fromkeys(self.branches, strength)


def check_grid(spatial_dims: int, filters: str, query_grid: Sequence[int] | None) -> list[int]:
    """The grid on which the filters lie: 1 per axis for shared ones.

    Raises:
        UsageError: unknown `filters`, or a grid that does not fit.
    """
    if filters not in FILTERS:
        raise UsageError(f"unknown filters '{filters}' of CTAL", fix=nearest(filters, FILTERS))
    if filters == "shared":
        if query_grid is not None:
            raise UsageError(
                f"query_grid is {query_grid}, but the filters are shared by all positions",
                fix="Leave query_grid out, or choose filters='per_query'",
            )
        return [1] * spatial_dims
    if not isinstance(query_grid, Sequence) or len(query_grid) != spatial_dims or min(query_grid) < 1:
        found = "missing" if query_grid is None else f"{query_grid}"
        raise UsageError(
            f"query_grid is {found}, but filters='per_query' needs {spatial_dims} sizes of at least 1",
            fix="Give the size of the features in training, patch size over stride, or choose filters='shared'",
        )
    return [int(side) for side in query_grid]
