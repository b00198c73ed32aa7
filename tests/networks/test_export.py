"""TorchScript and ONNX give what the network gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_med.networks import METHODS

Make = Callable[..., nn.Module]


@pytest.mark.parametrize(("method", "dims"), [*((method, 2) for method in METHODS), ("ctan", 3), ("stl", 3)])
def test_torchscript_equals_eager(
    method: str, dims: int, small_network: Make, small_image: Make, pixel_tasks: dict, tmp_path: Path
) -> None:
    network, image = small_network(method, pixel_tasks, dims, channels=(6, 8), stem_stride=2).eval(), small_image(dims)
    torch.jit.script(network).save(str(tmp_path / "net.ts"))
    loaded = torch.jit.load(str(tmp_path / "net.ts"))
    for size in (image, image[..., :16, :]):  # another size than the first one
        torch.testing.assert_close(loaded(size), network(size), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {
            "share_refine": False,
            "upsample": "deconv",
            "dropout": 0.5,
            "norm": "batch",
            "residual": True,
            "deep_supervision": True,
        },
        {"upsample": "nearest", "image_style": "pooled", "act": "leakyrelu", "norm": ("group", {"num_groups": 1})},
        {"encoder": "resnet18"},
    ],
    ids=["one half", "the other half", "resnet18"],
)
def test_torchscript_takes_every_option(
    options: dict, small_network: Make, small_image: Make, mixed_tasks: dict
) -> None:
    network = small_network("ctan", mixed_tasks, 2, **options).eval().double()
    image = small_image(2).repeat(1, 1, 2, 2).double()
    # In fp64: a deep network in fp32 differs by more than 1e-5 from itself when the number of threads changes.
    torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=1e-8, atol=1e-10)


def test_torchscript_under_autocast_keeps_ctab_in_range(small_network: Make, pixel_tasks: dict) -> None:
    network, image = small_network("ctan", pixel_tasks).eval(), torch.randn(1, 2, 16, 16, 16)
    scripted = torch.jit.script(network)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = scripted(image)
    for name, output in network(image).items():
        assert torch.corrcoef(torch.stack([output.flatten(), outputs[name].flatten().float()]))[0, 1] > 0.98


def onnx_outputs(network: nn.Module, image: Tensor, path: Path, dynamo: bool) -> list[np.ndarray]:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        torch.onnx.export(network, (image,), str(path), input_names=["image"], dynamo=dynamo, verbose=False)
    return onnxruntime.InferenceSession(str(path)).run(None, {"image": image.numpy()})


# torch has two exporters; the newer one is the default and what MONAI calls.
@pytest.mark.parametrize(
    ("method", "dims", "dynamo"),
    [
        *((method, 2, True) for method in METHODS),
        ("ctan", 3, True),
        *((method, 3, False) for method in METHODS),
    ],
)
def test_onnx_equals_eager(
    method: str, dims: int, dynamo: bool, small_network: Make, small_image: Make, pixel_tasks: dict, tmp_path: Path
) -> None:
    network = small_network(method, pixel_tasks, dims, channels=(6, 8), stem_stride=2, stacked=True).eval()
    image = small_image(dims, 1)
    (pred,) = onnx_outputs(network, image, tmp_path / "net.onnx", dynamo)
    np.testing.assert_allclose(pred, network(image).detach().numpy(), rtol=1e-3, atol=2e-5)


def test_onnx_of_a_mix_has_an_output_per_task(
    small_network: Make, small_image: Make, mixed_tasks: dict, tmp_path: Path
) -> None:
    network, image = small_network("ctan", mixed_tasks, 2).eval(), small_image(2, 1)
    outputs = onnx_outputs(network, image, tmp_path / "net.onnx", dynamo=False)
    for output, expected in zip(outputs, network(image).values(), strict=True):
        np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-3, atol=2e-5)
