"""A memory of a few slots that many tokens meet in: scores, the choice of the k largest, the frame of sKEM."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_med.errors import UsageError

__all__ = ["by_head", "equiangular_frame", "scores", "top_k_softmax"]


def scores(r: Tensor, a: Tensor, x: Tensor, b: Tensor, heads: int) -> Tensor:
    """(R A)(X B)^T / sqrt(d) per head, as ((R A) B^T) X^T: the few slots are projected, the many tokens are not.

    Args:
        r: R, slots `(B, L, C)` or `(1, L, C)`.
        a: A, `(C, C)`.
        x: X, tokens `(B, n, V)`.
        b: B, `(V, C)`.
        heads: the columns of A and B are divided among them; d = C / heads.

    Returns:
        `(B, heads, L, n)`.
    """
    a, b = by_head(a, heads), by_head(b, heads)
    folded = torch.matmul(torch.matmul(r.unsqueeze(1), a), b.transpose(1, 2)) / a.shape[2] ** 0.5  # (B, heads, L, V)
    result = torch.matmul(folded.flatten(1, 2), x.transpose(1, 2))  # (B, heads L, n)
    return result.reshape(x.shape[0], heads, r.shape[1], -1)


def by_head(matrix: Tensor, heads: int) -> Tensor:
    """`(rows, C)` to `(heads, rows, C / heads)`."""
    return matrix.reshape(matrix.shape[0], heads, -1).transpose(0, 1)


def top_k_softmax(s: Tensor, k: int) -> Tensor:
    """Softmax over the last axis, of its k largest entries alone.

    Which of several equal entries are kept is open. Equal scores are those of equal tokens, so that it does not matter.
    """
    largest, where = torch.topk(s, k, -1)
    return torch.full_like(s, float("-inf")).scatter(-1, where, largest).softmax(-1)


def equiangular_frame(dim: int, vertices: int, seed: int = 0) -> Tensor:
    """W* = sqrt(V / (V - 1)) U (I - 1 1^T / V): V unit vectors, each at the same angle to each other one.

    Args:
        dim: number of rows.
        vertices: V, between 2 and `dim`; the rank is V - 1.
        seed: of the random orientation U, U^T U = I.

    Returns:
        `(dim, V)` in fp64; columns of length 1, cosine -1 / (V - 1) between any two.

    Raises:
        UsageError: `vertices` out of range.
    """
    if not 2 <= vertices <= dim:
        raise UsageError(
            f"vertices is {vertices}, but a frame of {dim} channels has between 2 and {dim}",
            fix="Leave vertices out, which takes as many as there are channels" if dim > 1 else "Give more channels",
        )
    generator = torch.Generator().manual_seed(seed)
    u, r = torch.linalg.qr(torch.randn(dim, vertices, generator=generator, dtype=torch.float64, device="cpu"))
    u = u * r.diagonal().sign()  # the decomposition is unique once the diagonal is positive
    return (vertices / (vertices - 1)) ** 0.5 * (u - u.mean(1, keepdim=True))
