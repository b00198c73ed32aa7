"""Similarities between all positions, fused over the tasks, and features gathered through them.

T tasks, C channels, N positions. f_t `(C, N)` are the features of task t, of length 1 at each position; A_t = f_t^T f_t
`(N, N)` is the affinity of the task. Its row i is an image: how alike each position j is to the query i. The fused
affinity M filters these images with 3^d taps o, zero beyond the border, and adds them up over the tasks:

    M[i, j] = sum_t sum_o w[t, o, i] A_t[i, j + o] + b[i]
    y_s[i]  = 1/N sum_j M[i, j] v_s[j]

There is no softmax, so the sums can change places and neither A_t nor M is needed:

    y_s[i]  = 1/N sum_t sum_o w[t, o, i] (sum_j v_s[j] f_t[j + o]^T) f_t[i] + b[i]/N sum_j v_s[j]

With one filter set for all queries, w[t, o], the taps go into g_t[j] = sum_o w[t, o] f_t[j + o].

Source: arXiv 2401.11124; its M is not divided by N, so that the result grows with the image. The rewriting is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mtl_med.networks.precision import wide

__all__ = ["affinity_strength", "full_affinity", "gather", "linear_affinity", "unit"]

# Rows of M that `affinity_strength` has in memory at a time when every query has filters of its own.
ROWS = 256


def unit(x: Tensor, dim: int) -> Tensor:
    """Vectors of length 1 along `dim`: x / max(|x|, 0.001). The bound keeps the gradient finite where x vanishes."""
    return F.normalize(x, 2.0, dim, 1e-3)


def gather(x: Tensor, v: Tensor, w: Tensor, b: Tensor, full: bool, recompute: bool) -> Tensor:
    """y_s of every task, in fp32 at least, from features of any length.

    Args:
        x: x_t, `(B, T, C, *spatial)`; f_t = x_t / |x_t|.
        v, w, b: as in `linear_affinity`.
        full: go through M instead of the rewriting.
        recompute: as in `linear_affinity`.

    Returns:
        Shape and dtype of `v`.
    """
    if torch.jit.is_scripting():
        # TorchScript cannot switch autocast off; fp64 is the one type that autocast leaves alone.
        return gathered(x.double(), v.double(), w.double(), b.double(), full, False).to(v.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return gathered(wide(x), wide(v), wide(w), wide(b), full, recompute).to(v.dtype)


def gathered(x: Tensor, v: Tensor, w: Tensor, b: Tensor, full: bool, recompute: bool) -> Tensor:
    """`gather` in the dtype of its arguments."""
    f = unit(x, 2)
    return full_affinity(f, v, w, b) if full else linear_affinity(f, v, w, b, recompute)


def full_affinity(f: Tensor, v: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Gather y = 1/N v M^T through the N x N matrix M, as published but for 1/N; for small images.

    Args:
        f: f_t, `(B, T, C, *spatial)`.
        v: v_s, the features to gather, `(B, S, C', *spatial)`.
        w: filters `(T, 3^d, N)`, or `(T, 3^d, 1)` for one set that all queries share; taps in row-major order.
        b: bias `(N,)` or `(1,)`.

    Returns:
        `(B, S, C', *spatial)`.

    Source: arXiv 2401.11124: similarity maps of all tasks side by side, grouped convolution with N groups.
    """
    queries = f.flatten(3)  # (B, T, C, N)
    m = fused_affinity(queries, f, w, b) / queries.shape[3]  # (B, N, N)
    return torch.bmm(v.flatten(3).flatten(1, 2), m.transpose(1, 2)).reshape(v.shape)


def fused_affinity(queries: Tensor, f: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Rows of M.

    Args:
        queries: f_t of the Q positions whose rows are wanted, `(B, T, C, Q)`.
        f: f_t, `(B, T, C, *spatial)`.
        w: their filters `(T, 3^d, Q)` or `(T, 3^d, 1)`.
        b: their bias `(Q,)` or `(1,)`.

    Returns:
        `(B, Q, N)`.
    """
    maps = torch.matmul(queries.transpose(2, 3), f.flatten(3)).transpose(1, 2)  # (B, Q, T, N): row i of A_t for each t
    batch, count, tasks = maps.shape[0], maps.shape[1], maps.shape[2]
    size, kernel = list(f.shape[3:]), kernels(w)
    if kernel.shape[0] == 1:  # TorchScript knows no [*size]
        m = convolve(maps.reshape([batch * count, tasks] + size), kernel, b, 1)  # noqa: RUF005
    else:
        m = convolve(maps.reshape([batch, count * tasks] + size), kernel, b, int(kernel.shape[0]))  # noqa: RUF005
    return m.reshape(batch, count, -1)


def linear_affinity(f: Tensor, v: Tensor, w: Tensor, b: Tensor, recompute: bool = False) -> Tensor:
    """The same y through C x C matrices: cost and memory grow with N, not with its square.

    With T tasks 2 T^2 N C C' multiply-adds for one shared filter set, 3^d times as many for filters per query.

    Args:
        f, v, w, b: as in `full_affinity`.
        recompute: with filters per query, keep no product of a tap for the backward pass but make it again.

    Returns:
        `(B, S, C', *spatial)`.
    """
    values = v.flatten(3).flatten(1, 2)  # (B, S C', N)
    if w.shape[2] == 1:
        y = products(values, filtered(f, w), f)
    else:
        padded = F.pad(f, [1, 1] * (f.dim() - 3))
        y = torch.zeros_like(values)
        for o in range(int(w.shape[1])):
            if torch.jit.is_scripting():
                y = y + tap(values, padded, f, w[:, o], o)
            else:
                y = y + tap_again(values, padded, f, w[:, o], o, recompute)
    return (y + b * values.mean(2, keepdim=True)).reshape(v.shape)


def products(values: Tensor, g: Tensor, f: Tensor) -> Tensor:
    """1/N sum_t (sum_j v_s[j] g_t[j]^T) f_t[i]: `(B, S C', N)` and twice `(B, T, C, *spatial)` to `(B, S C', N)`."""
    g, f = g.flatten(3).flatten(1, 2), f.flatten(3).flatten(1, 2)  # (B, T C, N)
    return torch.bmm(torch.bmm(values, g.transpose(1, 2)) / f.shape[2], f)  # (B, S C', T C) (B, T C, N)


def filtered(f: Tensor, w: Tensor) -> Tensor:
    """g_t[j] = sum_o w[t, o] f_t[j + o], `(B, T, C, *spatial)`, from filters `(T, 3^d, 1)`."""
    channels = int(f.shape[2])
    kernel = kernels(w).transpose(0, 1).repeat_interleave(channels, 0)  # (T C, 1, 3, ...)
    return convolve(f.flatten(1, 2), kernel, None, int(kernel.shape[0])).reshape(f.shape)


def tap(values: Tensor, padded: Tensor, f: Tensor, w: Tensor, o: int) -> Tensor:
    """1/N sum_t w[t, i] (sum_j v_s[j] f_t[j + o]^T) f_t[i] of one tap, whose weights are `(T, N)`."""
    shifted = padded
    for axis in range(f.dim() - 1, 2, -1):  # row-major: the last axis counts fastest
        shifted = shifted.narrow(axis, o % 3, f.shape[axis])
        o = o // 3
    return products(values, shifted, f.flatten(3) * w.unsqueeze(1))


@torch.jit.unused
def tap_again(values: Tensor, padded: Tensor, f: Tensor, w: Tensor, o: int, recompute: bool) -> Tensor:
    """`tap`, which the backward pass computes a second time if `recompute`: two copies of f less per tap."""
    if not (recompute and torch.is_grad_enabled()):
        return tap(values, padded, f, w, o)
    return checkpoint(tap, values, padded, f, w, o, use_reentrant=False, preserve_rng_state=False)


def kernels(w: Tensor) -> Tensor:
    """Filters `(T, 3^d, Q)` as convolution kernels `(Q, T, 3, ...)`."""
    shape = [int(w.shape[2]), int(w.shape[0])] + [3] * (2 if w.shape[1] == 9 else 3)
    return w.permute(2, 0, 1).reshape(shape)


def convolve(x: Tensor, kernel: Tensor, b: Tensor | None, groups: int) -> Tensor:
    """Grouped convolution that keeps the size, 2D or 3D, zero beyond the border."""
    if x.dim() == 4:
        return F.conv2d(x, kernel, b, padding=1, groups=groups)
    return F.conv3d(x, kernel, b, padding=1, groups=groups)


def affinity_strength(f: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The 2-norm over j of M[i, j] / N, for each query i: how much it gathers.

    With one filter set M[i, j] = f[i] . g[j] + b, where f and g are the tasks' channels in one vector, so that
    sum_j M[i, j]^2 = f[i]^T (sum_j g[j] g[j]^T) f[i] + 2 b f[i] . sum_j g[j] + N b^2. With filters per query the rows
    of M are made a few at a time.

    Args:
        f, w, b: as in `full_affinity`.

    Returns:
        `(B, 1, *spatial)`.
    """
    queries = f.flatten(3)  # (B, T, C, N)
    count = queries.shape[3]
    if w.shape[2] == 1:
        own, g = queries.flatten(1, 2), filtered(f, w).flatten(3).flatten(1, 2)  # (B, T C, N)
        gram = torch.bmm(g, g.transpose(1, 2))  # (B, T C, T C)
        squares = ((torch.bmm(gram, own) + 2 * b * g.sum(2, keepdim=True)) * own).sum(1) + count * b**2
        strength = squares.clamp(min=0).sqrt()
    else:
        strength = torch.cat(
            [
                fused_affinity(queries[..., rows], f, w[..., rows], b[rows]).norm(dim=2)
                for rows in (slice(start, start + ROWS) for start in range(0, count, ROWS))
            ],
            1,
        )
    return (strength / count).reshape(f.shape[0], 1, *f.shape[3:])
