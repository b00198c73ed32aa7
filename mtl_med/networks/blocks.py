"""Convolution, norm and activation as every part of a network uses them, built with MONAI's factories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from monai.networks.layers.factories import Act, Conv, Norm
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.instance_norm import InstanceNorm
from mtl_med.networks.pointwise import PointwiseConv2d, PointwiseConv3d
from mtl_med.networks.recompute import NotingNothing, made_again

__all__ = [
    "ActSpec",
    "Bottleneck",
    "ConvNormAct",
    "NormSpec",
    "activation",
    "convolution",
    "default_norm",
    "initialise",
    "max_pool",
    "norm_layer",
]

NormSpec = str | Sequence[Any] | Mapping[str, Any] | None
ActSpec = str | Sequence[Any]


def default_norm(spatial_dims: int) -> NormSpec:
    """Batch norm in 2D (batches of 8 and more), affine instance norm in 3D (batches of 1 or 2)."""
    return "batch" if spatial_dims == 2 else ("instance", {"affine": True})


def norm_layer(norm: NormSpec, spatial_dims: int, channels: int) -> nn.Module:
    """The norm that a MONAI spec names; None is the default of `spatial_dims`.

    Instance norm comes as our own class: same maths and state keys, faster in channels-last memory.

    Raises:
        UsageError: MONAI knows no norm of this name.
    """
    name, options = named(default_norm(spatial_dims) if norm is None else norm, Norm.names, "norm")
    try:
        layer = get_norm_layer((name, options), spatial_dims, channels)
    except (TypeError, ValueError) as error:
        fix = f'Give what it needs, such as ["{name}", {{"num_groups": 8}}]' if name.lower() == "group" else ""
        raise UsageError(f"norm '{name}' of {channels} channels: {error}", fix=fix) from error
    if isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d) and not layer.track_running_stats:
        return InstanceNorm(channels, eps=layer.eps, affine=layer.affine)
    return layer


def activation(act: ActSpec = "relu") -> nn.Module:
    """The activation that a MONAI spec names, in place where it can be: one pass less through memory.

    Raises:
        UsageError: MONAI knows no activation of this name.
    """
    name, options = named(act, Act.names, "act")
    kind = Act[name]
    try:
        return kind(**{"inplace": True, **options})
    except TypeError:
        try:
            return kind(**options)
        except TypeError as error:
            raise UsageError(f"act '{name}': {error}", fix="Give only options that this activation has") from error


def named(spec: Any, names: Iterable[str], what: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a MONAI spec: a name, or name and options.

    Raises:
        UsageError: it has another form, or a name that MONAI's factory does not have; with the nearest names.
    """
    parts = (spec,) if isinstance(spec, str) else tuple(spec) if isinstance(spec, Sequence) else ()
    name, options = (*parts, {})[:2] if parts else ("", {})
    if not isinstance(name, str) or not isinstance(options, Mapping) or len(parts) not in (1, 2):
        raise UsageError(
            f"{what} is {spec!r}", fix='Give a name, or a name and options: ["instance", {"affine": true}]'
        )
    lower = [each.lower() for each in names]
    if name.lower() not in lower:
        raise UsageError(f"unknown {what} '{name}'", fix=nearest(name.lower(), lower))
    return name, dict(options)


def convolution(
    spatial_dims: int, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, bias: bool = False
) -> nn.Conv2d | nn.Conv3d:
    """A convolution padded so that stride 1 keeps the size; no bias unless asked, for most stand before a norm."""
    kind = Conv[Conv.CONV, spatial_dims]
    if kernel == stride == 1:
        kind = PointwiseConv2d if spatial_dims == 2 else PointwiseConv3d
    return kind(in_channels, out_channels, kernel, stride=stride, padding=(kernel - 1) // 2, bias=bias)


def max_pool(spatial_dims: int) -> nn.Module:
    """Maximum over blocks of 2 per axis."""
    return nn.MaxPool2d(2) if spatial_dims == 2 else nn.MaxPool3d(2)


class ConvNormAct(nn.Module):
    """Convolution, norm, activation: `(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)`."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        self.conv = convolution(spatial_dims, in_channels, out_channels, kernel, stride)
        self.norm = norm_layer(norm, spatial_dims, out_channels)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3, 1x1 with a projection where the width or size changes, named as in torchvision.

    Args:
        width: channels of the 3x3 convolution; the block's output has `4 * width` channels.
        stride: of the 3x3 convolution (the "v1.5" placement).
        project: have a projection even where neither width nor size changes.

    Source: He et al. 2016, "Deep residual learning for image recognition", Fig. 5 (right).
    """

    expansion = 4

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        stride: int = 1,
        norm: NormSpec = None,
        act: ActSpec = "relu",
        project: bool = False,
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = convolution(spatial_dims, in_channels, width, 1)
        self.bn1 = norm_layer(norm, spatial_dims, width)
        self.conv2 = convolution(spatial_dims, width, width, 3, stride)
        self.bn2 = norm_layer(norm, spatial_dims, width)
        self.conv3 = convolution(spatial_dims, width, out_channels, 1)
        self.bn3 = norm_layer(norm, spatial_dims, out_channels)
        self.relu = activation(act)
        self.downsample = projection(spatial_dims, in_channels, out_channels, stride, norm, project)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class PooledBottleneck(nn.Sequential):
    """A bottleneck block with a projection, then maximum over blocks of 2 per axis.

    Args:
        spatial_dims, in_channels, width, norm, act: as in `Bottleneck`.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, width: int, norm: NormSpec = None, act: ActSpec = "relu"
    ) -> None:
        refine = Bottleneck(spatial_dims, in_channels, width, 1, norm, act, project=True)
        super().__init__(refine, max_pool(spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and not torch.jit.is_scripting():
            return self.of_batches(x, 1)[0]
        return self[1](self[0](x))

    @torch.jit.unused
    def of_batches(self, x: Tensor, count: int) -> list[Tensor]:
        """The block in training on several batches, whose statistics stay apart while they share each convolution.

        The result is that of one call per batch; the order of operations saves time and memory.

        Args:
            x: `(count * B, C, *spatial)`, one batch behind the other.
            count: how many batches.
        """
        refine, pool = cast(Bottleneck, self[0]), self[1]
        project, norm = refine.downsample.children()
        y = between(refine.conv1(x), refine.bn1, refine.relu, refine.conv2, count)
        y = between(y, refine.bn2, refine.relu, refine.conv3, count)
        results = []
        for widened, skip in zip(y.chunk(count), project(x).chunk(count), strict=True):
            z = refine.bn3(widened).add_(norm(skip))
            if isinstance(refine.relu, nn.ReLU):  # it never falls: behind the maximum there is a quarter left to do
                results.append(refine.relu(pooled(pool, z, skip)))
            else:
                results.append(pooled(pool, refine.relu(z), skip))
        return results


def between(x: Tensor, norm: nn.Module, act: nn.Module, convolve: nn.Module, count: int) -> Tensor:
    """`convolve(act(norm(x)))`, for whose backward pass `x` alone is kept.

    Args:
        count: of batches that the norm tells apart, one behind the other.
    """
    noting_nothing = NotingNothing(norm)

    def activated_again() -> Tensor:
        with torch.no_grad(), noting_nothing:
            return act(one_by_one(norm, x, count))

    y = one_by_one(norm, x, count)
    if not (isinstance(act, nn.ReLU) and act.inplace):
        return convolve(act(y))
    with made_again(y, activated_again, users=2):  # what the activation gives lies where the norm put it
        return convolve(act(y))


def one_by_one(norm: nn.Module, x: Tensor, count: int) -> Tensor:
    """A norm on `count` batches, one behind the other; a batch norm sees them one after the other."""
    if count == 1 or not isinstance(norm, _BatchNorm):
        return norm(x)
    return torch.cat([norm(batch) for batch in x.chunk(count)])


def pooled(pool: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """`pool(x)`, for whose backward pass the map itself is not kept, but one that is there anyway.

    Of what went in, the backward pass of a maximum needs the shape alone; values come by index.

    Args:
        pool: a maximum over blocks.
        kept: of the shape and layout of `x`.
    """
    stand_in = kept.detach()
    with made_again(x, lambda: stand_in):
        return pool(x)


def projection(
    spatial_dims: int, in_channels: int, out_channels: int, stride: int, norm: NormSpec, always: bool = False
) -> nn.Module:
    """The skip path of a residual block: identity, or 1x1 convolution and norm where width or size change."""
    if stride == 1 and in_channels == out_channels and not always:
        return nn.Identity()
    return nn.Sequential(
        convolution(spatial_dims, in_channels, out_channels, 1, stride), norm_layer(norm, spatial_dims, out_channels)
    )


def initialise(module: nn.Module) -> None:
    """Kaiming-normal convolutions, norms at weight 1 and bias 0, small linear layers; for use with `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # A transposed weight is (in, out, *kernel) and each output sees one kernel tap: its fan is the input width.
        if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.normal_(module.weight, std=(2.0 / module.in_channels) ** 0.5)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.groups > 1:  # the fan counts every output, of which a group's input reaches its own only
                with torch.no_grad():
                    module.weight.mul_(module.groups**0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(getattr(module, "weight", None), nn.Parameter) and isinstance(
        getattr(module, "bias", None), nn.Parameter
    ):
        with torch.no_grad():  # every affine norm of MONAI's factory
            module.weight.fill_(1.0)
            module.bias.fill_(0.0)
