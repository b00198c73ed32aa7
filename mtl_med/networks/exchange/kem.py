"""Knowledge extraction module (KEM) and its stable form (sKEM): the tasks meet in a memory of a few slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec, activation
from mtl_med.networks.exchange.affinity import unit
from mtl_med.networks.exchange.workspace import by_head, equiangular_frame, scores, top_k_softmax
from mtl_med.networks.precision import wide

__all__ = ["KEM", "SKEM", "equiangular_frame"]


class KEM(nn.Module):
    """Knowledge extraction module: `{task: (B, C, *spatial)} -> {task: (B, C, *spatial)}`.

    X are the n_s = T N tokens (positions) of all tasks, X_t those of one; R are the L learned slots.

        retrieve    S    = (R Wq)(X Wk)^T / sqrt(d)
        write       R'   = norm(R + softmax_topK(S) X Wv)
        broadcast   X_t' = X_t + softmax((X_t Wq')(R' Wk')^T / sqrt(d)) R' Wv'
                    Y_t  = X_t' + MLP(norm(X_t'))

    Memory and cost grow with n_s: the largest matrix of scores is L x n_s. The projections are shared by the tasks and
    R reads X as a set, so the order in which the tasks are given does not matter. Nothing is carried over between
    batches: every sample begins with the learned R. Before it, each task has a 1x1 convolution of its own (`embed`;
    the paper has task-specific encoders there): tasks that share one map of features would write the same tokens T
    times and get the same result.

    Args:
        spatial_dims: 2 or 3.
        in_channels: C, of each task's features.
        tasks: names of the tasks.
        slots: L.
        top_k: tokens that each slot reads, all in all; by default max(8, n_s / 16), and never more than n_s.
        heads: parts of the channels with scores of their own; d = C / heads.
        mlp_ratio: hidden channels of the MLP over C.
        norm, act: of the convolutions at the entry, `act` also of the MLP. The norms above are layer norms of a token.

    Raises:
        UsageError: an option out of range.

    Source: arXiv 2410.03778, whose summary gives the three steps but no equations: these are of its stated ancestor,
    the shared global workspace (Goyal et al. 2022, arXiv 2103.01197).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        tasks: Sequence[str],
        slots: int = 16,
        top_k: int | None = None,
        heads: int = 1,
        mlp_ratio: float = 2.0,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        check_options(in_channels, slots, top_k, heads, mlp_ratio)
        self.slots, self.top_k, self.heads = slots, top_k or 0, heads
        self.embed = nn.ModuleDict()
        for task in tasks:
            self.embed[task] = ConvNormAct(spatial_dims, in_channels, in_channels, 1, norm=norm, act=act)
        self.memory = nn.Parameter(torch.randn(slots, in_channels))  # R
        self.memory_norm = nn.LayerNorm(in_channels)
        self.broadcast_key = projection(in_channels, in_channels)  # Wk'
        self.broadcast_value = projection(in_channels, in_channels)  # Wv'
        self.retrieve_query = projection(in_channels, in_channels)  # Wq
        self.project_tokens(in_channels, in_channels, in_channels**-0.5)
        hidden = max(1, round(mlp_ratio * in_channels))
        between: Any = activation(act)
        if hasattr(between, "inplace"):
            between.inplace = False  # TorchScript's linear layer may give a view, which refuses it
        self.norm = nn.LayerNorm(in_channels)
        self.mlp = nn.Sequential(nn.Linear(in_channels, hidden), between, nn.Linear(hidden, in_channels))

    def project_tokens(self, token_channels: int, width: int, std: float) -> None:
        """Make the three projections that read tokens; `std` keeps what they give near 1."""
        self.retrieve_key = projection(token_channels, width, std)  # Wk
        self.retrieve_value = projection(token_channels, width, std)  # Wv
        self.broadcast_query = projection(token_channels, width, std)  # Wq'

    def out_channels(self, in_channels: int) -> int:
        """Channels of each task's result."""
        return in_channels

    def keep(self, count: int) -> int:
        """Tokens that each slot reads out of `count`."""
        wanted = self.top_k if self.top_k > 0 else max(8, count // 16)
        return min(wanted, count)

    def seen(self, x: Tensor) -> Tensor:
        """Tokens as the memory sees them, `(B, n_s, V)`; here V = C."""
        return x

    def through_memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Retrieve, write, broadcast.

        Args:
            x: X, `(B, n_s, C)`, fp32 or fp64, with autocast off.

        Returns:
            The weights of the broadcast `(B, heads, L, n_s)`, and what it adds to X, `(B, n_s, C)`.
        """
        r, heads = self.memory.to(x.dtype).unsqueeze(0), self.heads  # R, (1, L, C)
        wq, wk, wv = self.retrieve_query.to(x.dtype), self.retrieve_key.to(x.dtype), self.retrieve_value.to(x.dtype)
        tokens = self.seen(x)  # (B, n_s, V)
        read = top_k_softmax(scores(r, wq, tokens, wk, heads), self.keep(x.shape[1]))  # (B, heads, L, n_s)
        found = torch.bmm(read.flatten(1, 2), tokens).reshape(x.shape[0], heads, self.slots, -1)  # softmax(S) X
        written = torch.matmul(found, by_head(wv, heads)).transpose(1, 2).flatten(2)  # softmax(S) X Wv, (B, L, C)
        r = self.memory_norm((r + written).to(self.memory.dtype)).to(x.dtype)  # R', (B, L, C)

        wq, wk, wv = (
            self.broadcast_query.to(x.dtype),
            self.broadcast_key.to(x.dtype),
            self.broadcast_value.to(x.dtype),
        )
        weights = scores(r, wk, tokens, wq, heads).softmax(2)  # (B, heads, L, n_s), 1 in sum over the slots
        values = torch.matmul(r.unsqueeze(1), by_head(wv, heads))  # R' Wv', (B, heads, L, d)
        return weights, torch.matmul(weights.transpose(2, 3), values).transpose(1, 2).flatten(2)

    def exchange(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`through_memory` in fp32 at least: half precision cannot tell which tokens are the k nearest."""
        if torch.jit.is_scripting():
            # TorchScript cannot switch autocast off; fp64 is the one type that autocast leaves alone.
            return self.through_memory(x.double())
        with torch.autocast(x.device.type, enabled=False):
            return self.through_memory(wide(x))

    def tokens(self, embedded: dict[str, Tensor]) -> Tensor:
        """X, `(B, n_s, C)`: the positions of one task after those of the other."""
        each: list[Tensor] = []
        for own in embedded.values():
            each.append(own.flatten(2).transpose(1, 2))  # (B, N, C)
        return torch.cat(each, 1)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        embedded: dict[str, Tensor] = {}
        for task, embed in self.embed.items():
            embedded[task] = embed(features[task])
        x = self.tokens(embedded)
        broadcast = self.exchange(x)[1].to(x.dtype)
        added = broadcast + self.mlp(self.norm(x + broadcast))  # Y - X, (B, n_s, C)
        parts = added.to(x.dtype).chunk(len(embedded), 1)
        results: dict[str, Tensor] = {}
        for i, (task, own) in enumerate(embedded.items()):
            results[task] = own + parts[i].transpose(1, 2).reshape(own.shape)  # in the memory order of `own`
        return results

    @torch.jit.unused
    def attention(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which slot each position reads: the weights of the broadcast, mean over the heads, `(B, L, *spatial)`."""
        embedded = {task: embed(features[task]) for task, embed in self.embed.items()}
        parts = self.exchange(self.tokens(embedded))[0].mean(1).chunk(len(embedded), 2)
        return {
            task: part.reshape(len(own), self.slots, *own.shape[2:])
            for (task, own), part in zip(embedded.items(), parts, strict=True)
        }


class SKEM(KEM):
    """Stable KEM: the memory sees the tokens laid over an equiangular tight frame W*, X W* / |X W*|.

    Retrieve, write and the query of the broadcast read these; the X_t that the broadcast adds to stays as it is. With
    V = C vertices, the default, W* is a rotation less one direction, so that sKEM is close to KEM with tokens of
    length 1. With V = T, as the frame's origin suggests (one vertex per class), its rank would be T - 1: with two tasks
    all that is left of a token is one sign.

    Args:
        vertices: V, by default `in_channels`.
        spatial_dims, in_channels, tasks, slots, top_k, heads, mlp_ratio, norm, act: as in `KEM`.

    Attributes:
        frame: W*, a buffer: saved with the weights and not learned.

    Source: arXiv 2410.03778, "sKEM"; see `KEM` for what is ours.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        tasks: Sequence[str],
        slots: int = 16,
        top_k: int | None = None,
        heads: int = 1,
        mlp_ratio: float = 2.0,
        norm: NormSpec = None,
        act: ActSpec = "relu",
        vertices: int | None = None,
    ) -> None:
        super().__init__(spatial_dims, in_channels, tasks, slots, top_k, heads, mlp_ratio, norm, act)
        frame = equiangular_frame(in_channels, in_channels if vertices is None else vertices)
        self.frame = nn.Buffer(frame.to(torch.get_default_dtype()))
        self.project_tokens(frame.shape[1], in_channels, 1.0)  # a token has length 1, whatever V is

    def seen(self, x: Tensor) -> Tensor:
        """X W*, each token of length 1: `(B, n_s, V)`."""
        return unit(torch.matmul(x, self.frame.to(x.dtype)), 2)


def projection(rows: int, columns: int, std: float | None = None) -> nn.Parameter:
    """A normal random matrix that keeps the size of what it is given, rows of variance 1 unless `std` says otherwise.

    Bare, not a linear layer: `initialise` makes those small, and scores near zero would read all tokens alike.
    """
    return nn.Parameter(torch.randn(rows, columns) * (rows**-0.5 if std is None else std))


def check_options(channels: int, slots: int, top_k: int | None, heads: int, mlp_ratio: float) -> None:
    """Refuse options of KEM that are out of range.

    Raises:
        UsageError: with the range.
    """
    if slots < 1:
        raise UsageError(f"slots is {slots}", fix="Give the memory at least 1 slot, such as 16")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}", fix="Give at least 1 token, or leave top_k out for a sixteenth of them")
    if heads < 1 or channels % heads != 0:
        fitting = ", ".join(str(n) for n in range(1, min(channels, 16) + 1) if channels % n == 0)
        raise UsageError(f"heads is {heads}, which does not divide {channels} channels", fix=f"Use one of {fitting}")
    if mlp_ratio <= 0:
        raise UsageError(f"mlp_ratio is {mlp_ratio}", fix="Give a positive number, such as 2")
