"""Our faster forms of torch's layers give torch's values."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.networks import memory
from mtl_med.networks.blocks import ConvNormAct, PooledBottleneck, activation, convolution, initialise, norm_layer
from mtl_med.networks.instance_norm import InstanceNorm
from mtl_med.networks.precision import full_precision
from mtl_med.networks.recompute import made_again
from mtl_med.networks.upsampling import LinearDouble, resize_linear

both_dims = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["channels first", "channels last"])


def sample(dims: int, channels_last: bool = False, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = torch.randn(batch, 3, *(5, 4, 7)[:dims], dtype=dtype)
    return (x.contiguous(memory_format=layout) if channels_last else x).requires_grad_()


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Values, and gradients of input and parameters."""
    y, expected = ours(x), theirs(x)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((y * weight).sum(), [x, *ours.parameters()])
    expected_gradients = torch.autograd.grad((expected * weight).sum(), [x, *theirs.parameters()])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients, expected_gradients)


@both_dims
@both_layouts
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_instance_norm_is_torchs(dims: int, channels_last: bool, batch: int, affine: bool) -> None:
    theirs = (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(3, affine=affine).double()
    ours = InstanceNorm(3, affine=affine).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())  # the same keys
    assert_same(ours, theirs, sample(dims, channels_last, batch))
    theirs.eval(), ours.eval()
    assert_same(ours, theirs, sample(dims, channels_last, batch))


def test_instance_norm_keeps_channels_last() -> None:
    x = sample(3, channels_last=True, batch=2)
    assert InstanceNorm(3).double()(x).is_contiguous(memory_format=torch.channels_last_3d)


@both_dims
@both_layouts
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_linear_resizing_is_torchs(dims: int, channels_last: bool, factor: int) -> None:
    x, mode = sample(dims, channels_last), "bilinear" if dims == 2 else "trilinear"
    expected = F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)
    y, weight = resize_linear(x, factor), torch.randn_like(expected)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, x, weight), torch.autograd.grad(expected, x, weight))
    if channels_last and factor == 2:
        assert not y.is_contiguous()
        assert y.stride(1) == 1


@pytest.mark.parametrize("shape", [(1, 2, 1, 3), (1, 1, 2, 1, 1)], ids=str)
def test_linear_doubling_of_thin_images(shape: tuple) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mode = "bilinear" if len(shape) == 4 else "trilinear"
    expected = F.interpolate(x, scale_factor=2, mode=mode, align_corners=False)
    torch.testing.assert_close(LinearDouble.apply(x), expected)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad(LinearDouble.apply(x), x, weight)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, x, weight))


def test_linear_doubling_of_a_slice_of_channels_last_memory() -> None:
    """What comes out of a concatenation's backward: neither layout is contiguous."""
    x = torch.randn(1, 6, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)[:, 2:5]
    torch.testing.assert_close(LinearDouble.apply(x), F.interpolate(x, scale_factor=2, mode="trilinear"))
    assert LinearDouble.apply(x).is_contiguous(memory_format=torch.channels_last_3d)


@both_dims
@both_layouts
def test_full_precision_convolution_is_torchs(dims: int, channels_last: bool) -> None:
    layer, x = (nn.Conv2d if dims == 2 else nn.Conv3d)(3, 2, 1).double(), sample(dims, channels_last)

    class Ours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return full_precision(self.layer, x)

    assert_same(Ours(), layer, x)
    assert Ours()(x).is_contiguous()


@pytest.mark.parametrize("layer", [nn.Conv3d(4, 1, 1), nn.Linear(4, 1)], ids=["1x1 convolution", "linear"])
def test_full_precision_resolves_a_hundredth_of_a_gray(layer: nn.Module) -> None:
    x = torch.ones(1, 4, 1, 1, 1) if isinstance(layer, nn.Conv3d) else torch.ones(1, 4)
    nn.init.constant_(layer.weight, 17.5025)
    nn.init.zeros_(layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(layer(x).item() - 70.01) > 0.009  # what autocast alone would give
        assert full_precision(layer, x).item() == pytest.approx(70.01, abs=1e-4)


@pytest.mark.parametrize(
    ("spec", "dims", "kind"),
    [
        (None, 2, nn.BatchNorm2d),
        (None, 3, InstanceNorm),
        ("instance", 2, InstanceNorm),
        (["group", {"num_groups": 2}], 3, nn.GroupNorm),
        (("instance", {"track_running_stats": True}), 3, nn.InstanceNorm3d),
    ],
    ids=str,
)
def test_norm_specs(spec: object, dims: int, kind: type) -> None:
    assert type(norm_layer(spec, dims, 4)) is kind


def test_default_instance_norm_is_affine() -> None:
    assert norm_layer(None, 3, 4).weight is not None


@pytest.mark.parametrize(
    ("spec", "kind", "in_place"),
    [("relu", nn.ReLU, True), (("leakyrelu", {"negative_slope": 0.1}), nn.LeakyReLU, True), ("prelu", nn.PReLU, None)],
    ids=str,
)
def test_activation_specs(spec: object, kind: type, in_place: bool | None) -> None:
    layer = activation(spec)
    assert type(layer) is kind
    assert getattr(layer, "inplace", None) is in_place


@both_dims
def test_initialisation_keeps_the_variance(dims: int) -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(ConvNormAct(dims, 32, 32, norm="batch").conv for _ in range(4)))
    blocks.apply(initialise)
    x = torch.randn(4, 32, *(16,) * dims)
    for layer in blocks:
        x = layer(x).clamp(min=0)
    assert 0.1 < x.square().mean() < 2.0  # kaiming: no vanishing, no exploding


def test_keeping_freed_memory_is_taken_by_glibc() -> None:
    file = Path(memory.__file__)  # run alone, in a process of its own: the setting would outlive this test
    words = f"import runpy; print(runpy.run_path({str(file)!r})['keep_freed_memory']())"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(sys.platform == "linux"), done.stderr


@both_dims
@both_layouts
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
def test_a_convolution_of_one_position_is_torchs(dims: int, channels_last: bool, bias: bool) -> None:
    ours = convolution(dims, 3, 5, 1, bias=bias).double()
    theirs = (nn.Conv2d if dims == 2 else nn.Conv3d)(3, 5, 1, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = sample(dims, channels_last)
    assert_same(ours, theirs, x)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    assert ours(x).is_contiguous(memory_format=layout) is channels_last


@both_dims
@pytest.mark.parametrize("act", ["relu", "leakyrelu", "gelu"])
def test_a_pooling_block_in_training_is_its_parts_one_after_the_other(dims: int, act: str) -> None:
    block = PooledBottleneck(dims, 3, 2, norm="batch", act=act).double()
    theirs = copy.deepcopy(block)
    batches = [sample(dims).detach()[..., :4].requires_grad_() for _ in range(2)]
    expected = [theirs[1](theirs[0](x)) for x in batches]
    weights = [torch.randn_like(y) for y in expected]

    def gradients(results: list[Tensor], module: nn.Module) -> tuple[Tensor, ...]:
        loss = sum((y * weight).sum() for y, weight in zip(results, weights, strict=True))
        first = torch.autograd.grad(loss, [*batches, *module.parameters()], retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(loss, [*batches, *module.parameters()]), first, rtol=0, atol=0)
        return first

    together = block.of_batches(torch.cat(batches), 2)
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(gradients(together, block), gradients(expected, theirs))
    torch.testing.assert_close(block.state_dict(), theirs.state_dict())  # running statistics: seen once, not again


def test_what_is_made_again_is_not_kept() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    calls = []

    def make() -> Tensor:
        calls.append(None)
        return x.detach() * 2

    y = x * 2
    with made_again(y, make, users=2):
        z = y.square() + y.sin()
    with torch.no_grad():
        y.fill_(7)  # a tensor that was kept would be missed, or would spoil the result
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x)[0], 2 * (4 * x + (2 * x).cos()).detach())
    assert len(calls) == 1


def test_views_of_what_is_made_again_are_not_kept_either() -> None:
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)  # the view below has the very shape of x
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    y = x * 2
    with made_again(y, lambda: (x * 2).detach(), users=2):
        z = (y.movedim(1, -1) @ weight) * y.movedim(1, -1).square()
    with torch.no_grad():
        y.fill_(7)
    expected = ((2 * x).movedim(1, -1) @ weight) * (2 * x).movedim(1, -1).square()
    for ours, theirs in zip(
        torch.autograd.grad(z.sum(), [x, weight]), torch.autograd.grad(expected.sum(), [x, weight]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_made_again_is_made_under_the_autocast_of_the_forward_pass(enabled: bool) -> None:
    """The backward pass runs without; a norm on a GPU would get an input and weights of different types."""
    seen: list[tuple[bool, torch.dtype]] = []

    def make() -> torch.Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return y.detach()

    x = torch.randn(5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled):
        y = x * 2
        with made_again(y, make):
            z = y.exp() * y
    z.sum().backward()
    assert seen == [(enabled, torch.bfloat16)]


def test_what_is_made_again_has_the_type_of_what_was_there() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    y = x * 1
    with made_again(y, lambda: y.detach().float()):  # as a norm may give under autocast
        z = nn.MaxPool2d(2)(y)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x)[0].sum().item(), 8.0)


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contiguous"])
def test_a_pooling_block_keeps_as_little_in_either_layout(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    block = PooledBottleneck(2, 8, 4, norm="batch").to(memory_format=layout)
    y = block(torch.randn(2, 8, 6, 6).to(memory_format=layout))
    kept, nodes, seen = [], [y.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        raw = [getattr(node, name) for name in dir(node) if name.startswith("_raw_saved_")]
        kept += [saved.data for saved in raw if isinstance(getattr(saved, "data", None), Tensor)]
    small = {saved.data_ptr() for saved in kept if saved.numel() == 2 * 4 * 6 * 6}
    assert len(small) == 4, "what enters the two inner norms, the result, and the places of its maxima"


@pytest.mark.parametrize("frozen", ["bn1", "bn2", "bn3"])
def test_a_pooling_block_in_training_with_a_frozen_norm(frozen: str) -> None:
    block = PooledBottleneck(2, 3, 2, norm="batch").double()
    norm = getattr(block[0], frozen).eval()
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    x = sample(2)
    expected = block[1](block[0](x))
    weights = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *block.parameters()])
    loss = (block(x) * weights).sum()
    block.eval()  # between the passes the network may go over to evaluation
    torch.testing.assert_close(torch.autograd.grad(loss, [x, *block.parameters()]), theirs)
    assert norm.running_mean.unique().tolist() == [0.3]
