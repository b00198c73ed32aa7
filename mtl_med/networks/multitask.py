"""The network: encoder, streams, exchange, decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import initialise
from mtl_med.networks.encoders import Encoder, Stage
from mtl_med.networks.recompute import NotingNothing
from mtl_med.tasks import Task

__all__ = ["MultiTaskNet", "SingleTaskNets"]


class MultiTaskNet(nn.Module):
    """One encoder shared by all tasks, one decoder per task, and what stands between them.

    Args:
        in_channels: of the image `(B, in_channels, *spatial)`.
        tasks: what is predicted; their names are the keys of the output.
        encoder: image -> `[Stage(U^j, P^j)]`.
        streams: stages -> `{task: (B, C, *spatial)}` at the bottleneck.
        exchange: `{task: features} -> {task: features}`.
        decoders: one per task, in the order of `tasks`.
        initial: for an exchange whose inputs are supervised too (CTAL), one head per task that reads the exchange's
            features `<task>/initial`; used in training mode only.
    """

    def __init__(
        self,
        in_channels: int,
        tasks: Sequence[Task],
        encoder: Encoder,
        streams: nn.Module,
        exchange: nn.Module,
        decoders: Mapping[str, nn.Module],
        initial: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, encoder.spatial_dims
        self.tasks = tuple(tasks)
        self.stride = encoder.bottleneck_stride
        self.encoder, self.streams, self.exchange = encoder, streams, exchange
        self.decoders, self.initial = nn.ModuleDict(decoders), nn.ModuleDict(initial or {})
        self.apply(initialise)
        for head in (*self.decoders.values(), *self.initial.values()):
            if hasattr(head, "initialise_output"):
                head.initialise_output()

    def predict(self, image: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        """Every task's output, from an image of any size of at least `stride` per axis.

        Args:
            image: `(B, in_channels, *spatial)`.
            return_attention: add what the method attends to, see Returns; not in TorchScript and ONNX.

        Returns:
            task name -> segmentation logits `(B, structures, *spatial)`, regression `(B, maps, *spatial)` in the
            task's unit, or class logits `(B, classes)`. In training mode also, of the same form, `<task>/initial` where
            the method supervises a first prediction, and with `deep_supervision` `<task>/deep<i>` from the i-th coarser
            scale. With `return_attention` also `attention/<task>/stage<j>`, the
            masks A_t^j `(B, C_j, *spatial / strides[j])`, and `attention/<task>/exchange`, a map per slot or one of the
            affinities' strength `(B, maps, *spatial / stride)`.

        Raises:
            UsageError: wrong rank, channels, or an image too small (not checked in TorchScript and ONNX).
        """
        if not torch.jit.is_scripting():
            self.check(image)
        stages = self.encoder(pad(image, self.stride))  # [(U^j, P^j)], (B, C_j, *spatial / strides[j]) each
        streams = self.streams(stages)  # {task: (B, C, *spatial / stride)}
        features = self.exchange(streams)  # {task: (B, C', *spatial / stride)}
        outputs: dict[str, Tensor] = {}
        for task, decoder in self.decoders.items():
            made = decoder(features[task], stages, image.shape[2:])  # [(B, channels, *spatial) or (B, classes)]
            outputs[task] = made[0]
            for i in range(1, len(made)):
                outputs[task + "/deep" + str(i)] = made[i]
        if self.training:
            for task, head in self.initial.items():
                outputs[task + "/initial"] = head(features[task + "/initial"], stages, image.shape[2:])[0]
        if return_attention and not torch.jit.is_scripting():
            outputs.update(self.attention(stages, streams))
        return outputs

    def forward(self, image: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        return self.predict(image, return_attention)

    @torch.jit.unused
    def attention(self, stages: list[Stage], streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `return_attention` adds; nothing where neither streams nor exchange attend.

        It is made a second time, of which running statistics must not know.
        """
        found: dict[str, Tensor] = {}
        with NotingNothing(self.streams), NotingNothing(self.exchange):
            if hasattr(self.streams, "attention"):
                found |= self.streams.attention(stages)
            if hasattr(self.exchange, "attention"):
                found |= {f"{task}/exchange": maps for task, maps in self.exchange.attention(streams).items()}
        return {f"attention/{name}": maps for name, maps in found.items()}

    @torch.jit.unused
    def check(self, image: Tensor) -> None:
        """Refuse an image that cannot be meant.

        Raises:
            UsageError: wrong rank, number of channels, or fewer than two positions left at the bottleneck.
        """
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        shape = tuple(image.shape)
        if len(shape) != self.spatial_dims + 2:
            raise UsageError(
                f"the image has shape {shape}, expected {self.spatial_dims + 2} axes (batch, channel, "
                f"{self.spatial_dims} spatial)",
                fix="Add the missing axis, or build the network with the other spatial_dims",
            )
        if shape[1] != self.in_channels:
            raise UsageError(
                f"the image has {shape[1]} channels, expected {self.in_channels}",
                fix="Give the network the in_channels of the data, or the data the channels of the network",
            )
        positions = 1
        for side in shape[2:]:
            positions *= -(-side // self.stride)
        if min(shape[2:]) < self.stride or positions < 2:
            raise UsageError(
                f"the image of {'x'.join(str(side) for side in shape[2:])} is too small: the network divides every "
                f"side by {self.stride} and needs at least two positions there",
                fix=f"Pad every side to {self.stride} or more and one to {2 * self.stride}, or use fewer stages",
            )


def pad(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row of each axis until its length is a multiple; decoders crop it off again."""
    amounts: list[int] = []
    for axis in range(image.dim() - 1, 1, -1):  # F.pad counts from the last axis
        amounts += [0, (multiple - image.shape[axis] % multiple) % multiple]
    return F.pad(image, amounts, mode="replicate") if max(amounts) > 0 else image


class SingleTaskNets(nn.Module):
    """Single-task learning: one whole network per task, nothing shared.

    Args:
        nets: task name -> network of that one task.
    """

    def __init__(self, nets: Mapping[str, MultiTaskNet]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.tasks = tuple(task for net in nets.values() for task in net.tasks)

    def predict(self, image: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        """As `MultiTaskNet.predict`; there is no attention between disjoint networks."""
        outputs: dict[str, Tensor] = {}
        for net in self.nets.values():
            for name, output in net.predict(image).items():
                outputs[name] = output
        return outputs

    def forward(self, image: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        return self.predict(image, return_attention)

    @torch.jit.unused
    def task_prefixes(self) -> dict[str, str]:
        """Which part of the state belongs to which task, so that each task's best epoch can be kept."""
        return {task: f"nets.{task}." for task in self.nets}
