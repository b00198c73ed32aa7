"""Figures that stand in the specification: parameters, work and stage shapes on ResNet-50."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mtl_med.networks import create_network
from mtl_med.networks.encoders import ENCODERS

TASKS = {"oar": {"kind": "segmentation", "channels": 5}, "dose": {"kind": "regression"}}
MILLIONS = {"hps": 63.92, "mtan": 80.19, "ctan": 68.14, "ctan_concat": 79.96}


def test_parameters_and_flops_on_resnet50() -> None:
    millions, flops = {}, {}
    with FakeTensorMode():  # shapes only: no memory, no arithmetic
        for method in MILLIONS:
            network = create_network(method, TASKS, 2, 3, "resnet50", decoder_channels=(512, 256, 128)).eval()
            millions[method] = sum(parameter.numel() for parameter in network.parameters()) / 1e6
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.empty(1, 3, 224, 224))
            flops[method] = counter.get_total_flops()
            assert sum(parameter.numel() for parameter in network.encoder.parameters()) == 23_508_032
    assert millions == pytest.approx(MILLIONS, abs=0.01)
    assert flops["mtan"] / flops["hps"] == pytest.approx(1.415, abs=5e-4)
    assert flops["ctan"] / flops["hps"] == pytest.approx(1.280, abs=5e-4)


def test_streams_of_mtan_add_what_the_public_implementation_adds() -> None:
    with FakeTensorMode():
        mtan, hps = (create_network(method, TASKS, 2, 3, "resnet50") for method in ("mtan", "hps"))
    added = sum(p.numel() for p in mtan.streams.parameters()) - sum(p.numel() for p in hps.streams.parameters())
    biases = 2 * sum(channels // 4 + channels for channels in (256, 512, 1024, 2048))
    assert added + biases == 39_791_296 - 23_508_032  # LibMTL 1.1.5, whose mask convolutions carry biases


@pytest.mark.parametrize("split", ["last", "first"])
def test_stages_of_resnet50_at_224(split: str) -> None:
    with FakeTensorMode():
        encoder = ENCODERS["resnet50"](2, 3, split=split)
        stages = encoder(torch.empty(1, 3, 224, 224))
    expected = [(1, 256, 56, 56), (1, 512, 28, 28), (1, 1024, 14, 14), (1, 2048, 7, 7)]
    assert [tuple(stage.shared.shape) for stage in stages] == expected
    assert [tuple(stage.deep.shape) for stage in stages] == expected
    assert encoder.channels == (256, 512, 1024, 2048)
    assert encoder.strides == (4, 8, 16, 32)


@pytest.mark.parametrize(("split", "blocks"), [("last", [2, 3, 5, 2]), ("first", [1, 1, 1, 1])])
def test_split_cuts_behind_the_named_block(split: str, blocks: list[int]) -> None:
    encoder = ENCODERS["resnet50"](2, 3, split=split).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stages = encoder(x)
        s = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(x))))
        for stage, layer, cut in zip(
            stages, [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4], blocks, strict=True
        ):
            for i, block in enumerate(layer):
                s = block(s)
                if i + 1 == cut:
                    assert torch.equal(stage.shared, s)
            assert torch.equal(stage.deep, s)


@pytest.mark.parametrize(
    ("stem_stride", "side", "tokens"), [(1, 64, 512), (1, 128, 4096), (2, 64, 64), (2, 128, 512)], ids=str
)
def test_tokens_of_the_plain_encoder(stem_stride: int, side: int, tokens: int) -> None:
    with FakeTensorMode():
        network = create_network("hps", TASKS, 3, 2, stem_stride=stem_stride)
        streams = network.streams(network.encoder(torch.empty(1, 2, side, side, side)))
    assert streams["dose"].shape[:2] == (1, 256)
    assert streams["dose"][0, 0].numel() == tokens


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_parameters_are_named_as_in_torchvision(name: str) -> None:
    names = {key for key, _ in ENCODERS[name](2, 3).named_parameters()}
    assert {
        "conv1.weight",
        "bn1.bias",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
        "layer4.1.bn2.weight",
    } <= names
    counts = {"resnet18": 11_176_512, "resnet50": 23_508_032}  # without the classifier
    assert sum(parameter.numel() for parameter in ENCODERS[name](2, 3).parameters()) == counts[name]


def test_resnet_in_3d_leaves_enough_positions() -> None:
    with FakeTensorMode():
        stages = ENCODERS["resnet18"](3, 1)(torch.empty(1, 1, 64, 64, 64))
    assert [stage.deep.shape[2] for stage in stages] == [32, 16, 8, 4]
