"""What every row of METHODS promises, in 2D and 3D."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mtl_med.errors import UsageError
from mtl_med.networks import METHODS

Make = Callable[..., nn.Module]
every_method = pytest.mark.parametrize("method", METHODS)
both_dims = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])


def flat(outputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([output.flatten() for output in outputs.values()])


@every_method
@both_dims
def test_outputs_have_the_tasks_names_and_the_images_size(
    method: str, dims: int, small_network: Make, small_image: Make, mixed_tasks: dict
) -> None:
    image = small_image(dims)
    outputs = small_network(method, mixed_tasks, dims)(image)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "oar": (2, 3, *image.shape[2:]),
        "dose": (2, 1, *image.shape[2:]),
        "diagnosis": (2, 4),
    }
    assert all(output.dtype == torch.float32 and output.std() > 1e-3 for output in outputs.values())


@every_method
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("size", [(32, 16, 16), (17, 31, 16), (45, 53, 37)], ids=str)
def test_any_size_comes_back(
    method: str, stem_stride: int, size: tuple, small_network: Make, pixel_tasks: dict
) -> None:
    network = small_network(method, pixel_tasks, stem_stride=stem_stride, channels=(2, 3, 4), bottleneck=4)
    with torch.no_grad():
        outputs = network(torch.randn(1, 2, *size))
    assert {output.shape[2:] for output in outputs.values()} == {torch.Size(size)}


@every_method
@both_dims
def test_weights_round_trip(method: str, dims: int, small_network: Make, small_image: Make, pixel_tasks: dict) -> None:
    network, image = small_network(method, pixel_tasks, dims).eval(), small_image(dims)
    other = small_network(method, pixel_tasks, dims).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(flat(other(image)), flat(network(image)))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(flat(other(image)), flat(network(image)))


@every_method
def test_samples_do_not_see_each_other(method: str, small_network: Make, small_image: Make, mixed_tasks: dict) -> None:
    network, image = small_network(method, mixed_tasks), small_image(3)
    both, alone = network(image), network(image[1:])
    for name in both:
        torch.testing.assert_close(both[name][1:], alone[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "dims"), [("ctan", 2), ("ctan", 3), ("hps", 3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_channels_last_memory_changes_nothing(
    method: str, dims: int, batch: int, small_network: Make, small_image: Make, mixed_tasks: dict
) -> None:
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    image = small_image(dims, batch)[..., :11].double()
    network = small_network(method, mixed_tasks, dims, norm=("instance", {"affine": True})).double()
    expected = network(image)
    flat(expected).square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    network.zero_grad(set_to_none=True)
    outputs = network.to(memory_format=layout)(image.contiguous(memory_format=layout))
    flat(outputs).square().mean().backward()
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-11)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-11)


@every_method
def test_padding_is_at_the_far_ends_and_repeats_the_border(method: str, small_network: Make, pixel_tasks: dict) -> None:
    network, image = small_network(method, pixel_tasks).eval(), torch.randn(1, 2, 13, 16, 16)
    padded = torch.cat([image, image[:, :, -1:].expand(-1, -1, 3, -1, -1)], 2)
    for task, output in network(padded).items():
        torch.testing.assert_close(network(image)[task], output[:, :, :13])


@every_method
@both_dims
def test_bf16_autocast_is_near_fp32_and_ends_in_fp32(
    method: str, dims: int, small_network: Make, mixed_tasks: dict
) -> None:
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    network = small_network(method, mixed_tasks, dims).to(memory_format=layout)
    image = torch.randn(2, 2, *(32,) * dims).contiguous(memory_format=layout)
    expected = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(image)
    for name, output in outputs.items():
        assert output.dtype == torch.float32
        assert torch.isfinite(output).all()
        # A whole network in eight bits of mantissa: alike, not equal.
        assert torch.corrcoef(torch.stack([output.flatten(), expected[name].flatten()]))[0, 1] > 0.98
    flat(outputs).square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@every_method
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 16, 16), "shape .1, 2, 16, 16., expected 5 axes .batch, channel, 3 spatial.*spatial_dims"),
        ((1, 3, 16, 16, 16), "3 channels, expected 2.*in_channels"),
        ((1, 2, 16, 7, 16), "16x7x16 is too small.*Pad every side to 8 or more and one to 16"),
        ((1, 2, 8, 8, 8), "8x8x8 is too small.*at least two positions"),
    ],
    ids=["rank", "channels", "side", "one position"],
)
def test_a_wrong_image_is_named_with_the_cure(
    method: str, shape: tuple, message: str, small_network: Make, pixel_tasks: dict
) -> None:
    with pytest.raises(UsageError, match=message):
        small_network(method, pixel_tasks)(torch.zeros(shape))


@every_method
def test_smallest_image_trains(method: str, small_network: Make, mixed_tasks: dict) -> None:
    flat(small_network(method, mixed_tasks)(torch.randn(1, 2, 8, 8, 9))).sum().backward()


@every_method
@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")], ids=["one task", "three tasks"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_any_number_of_tasks(method: str, names: tuple, reduce: str, small_network: Make) -> None:
    tasks = {name: {"kind": "segmentation", "channels": 1 + i} for i, name in enumerate(names)}
    outputs = small_network(method, tasks, 2, reduce=reduce)(torch.randn(1, 2, 16, 16))
    assert [tuple(outputs[name].shape) for name in names] == [(1, 1 + i, 16, 16) for i in range(len(names))]
