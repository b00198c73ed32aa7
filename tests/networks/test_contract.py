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
    network = small_network(method, mixed_tasks, dims)
    outputs = network(image)
    shapes = {"oar": (2, 3, *image.shape[2:]), "dose": (2, 1, *image.shape[2:]), "diagnosis": (2, 4)}
    first = {f"{name}/initial": shape for name, shape in shapes.items()} if method == "ctal" else {}
    assert {name: tuple(output.shape) for name, output in outputs.items()} == shapes | first
    assert all(output.dtype == torch.float32 and output.std() > 1e-3 for output in outputs.values())
    assert network.eval()(image).keys() == shapes.keys()  # first predictions are for training


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


PIXEL, IMAGE = {"kind": "segmentation", "channels": 2}, {"kind": "classification", "channels": 3}
TASK_SETS = {
    "one pixel": {"a": PIXEL},
    "one image": {"a": IMAGE},
    "two pixel": {"a": PIXEL, "b": {"kind": "regression"}},
    "two image": {"a": IMAGE, "b": IMAGE},
    "pixel and image": {"a": PIXEL, "b": IMAGE},
    "three mixed": {"a": IMAGE, "b": {"kind": "regression"}, "c": PIXEL},
}


@every_method
@both_dims
@pytest.mark.parametrize("names", TASK_SETS)
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_any_number_and_mix_of_tasks(method: str, dims: int, names: str, reduce: str, small_network: Make) -> None:
    tasks = TASK_SETS[names]
    network = small_network(method, tasks, dims, reduce=reduce, channels=(3, 4), bottleneck=4, image_width=4)
    image = torch.randn(2, 2, *(9, 14, 12)[:dims])
    outputs = network.eval()(image)
    shapes = {"segmentation": (2, 2, *image.shape[2:]), "regression": (2, 1, *image.shape[2:])}
    expected = {name: shapes.get(str(task["kind"]), (2, 3)) for name, task in tasks.items()}
    assert {name: tuple(output.shape) for name, output in outputs.items()} == expected
    flat(network.train()(image)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@every_method
@both_dims
def test_the_order_of_the_tasks_does_not_matter(method: str, dims: int, small_network: Make, mixed_tasks: dict) -> None:
    """The same weights with the tasks named in another order give the same outputs."""
    image = torch.randn(2, 2, *(24,) * dims, dtype=torch.float64)
    network = small_network(method, mixed_tasks, dims).double()
    turned = small_network(method, dict(reversed(mixed_tasks.items())), dims).double()
    assert list(turned.decoders if hasattr(turned, "decoders") else turned.nets) == list(reversed(mixed_tasks))
    turned.load_state_dict(network.state_dict())
    outputs, other = network(image), turned(image)
    assert outputs.keys() == other.keys()
    for name, output in outputs.items():
        torch.testing.assert_close(other[name], output, rtol=1e-9, atol=1e-11)


@every_method
def test_training_twice_gives_the_same_bits(method: str, small_network: Make, mixed_tasks: dict) -> None:
    found = []
    for _ in range(2):
        network = small_network(method, mixed_tasks, 2)
        flat(network(torch.randn(2, 2, 24, 24, generator=torch.Generator().manual_seed(3)))).square().mean().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@every_method
@both_dims
def test_attention_is_made_of_maps(method: str, dims: int, small_network: Make, mixed_tasks: dict) -> None:
    """Every map has the batch, some channels and as many axes as the image; it costs the outputs nothing."""
    network, image = small_network(method, mixed_tasks, dims).eval(), torch.randn(2, 2, *(32,) * dims)
    outputs = network(image, return_attention=True)
    maps = {name: value for name, value in outputs.items() if name.startswith("attention/")}
    assert bool(maps) == (method not in ("stl", "hps", "hps_pyramid"))
    assert {name.split("/")[1] for name in maps} <= set(mixed_tasks)
    for value in maps.values():
        assert (len(value), value.ndim) == (2, dims + 2)
        assert torch.isfinite(value).all()
        assert value.min() >= 0
    assert all(torch.equal(value, network(image)[name]) for name, value in outputs.items() if name not in maps)


@every_method
@pytest.mark.parametrize("task", ["dose", "oar", "diagnosis"])
def test_a_task_without_labels_leaves_every_gradient_finite(
    method: str, task: str, small_network: Make, mixed_tasks: dict
) -> None:
    """Its outputs stay in the graph with factor zero, as data-parallel training needs it."""
    network = small_network(method, mixed_tasks, 2)
    outputs = network(torch.randn(2, 2, 24, 24))
    loss = sum(
        (0.0 if name.split("/")[0] == task else 1.0) * output.square().mean() for name, output in outputs.items()
    )
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    assert not any(bool(gradient.any()) for name, gradient in gradients.items() if f"decoders.{task}." in name)
