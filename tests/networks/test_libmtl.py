"""MTAN and HPS against another implementation, LibMTL 1.1.5, on the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_med.networks import create_network
from tests.networks.libmtl import TASKS, architecture, as_ours

PIXEL = {name: {"kind": "regression"} for name in TASKS}


@pytest.fixture
def theirs(require_judge: Callable[[str], str]) -> Callable[[str], nn.Module]:
    """LibMTL's network without decoders, in fp64, its norms away from where they begin."""
    require_judge("LibMTL")

    def make(kind: str) -> nn.Module:
        torch.manual_seed(0)
        network = architecture(kind, {name: nn.Identity() for name in TASKS}).double()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, _BatchNorm):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(std=0.2)
                    module.running_mean.normal_(std=0.2)
                    module.running_var.uniform_(0.5, 1.5)
        return network

    return make


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("kind", "method"), [("MTAN", "mtan"), ("HPS", "hps")])
def test_same_weights_give_the_same_features(kind: str, method: str, training: bool, theirs) -> None:
    judge = theirs(kind).train(training)
    own = create_network(method, PIXEL, 2, 3, "resnet50").double().train(training)
    given = {key: value.clone() for key, value in as_ours(judge.encoder.state_dict()).items()}
    left = own.load_state_dict(given, strict=False)
    assert left.unexpected_keys == []
    assert all(key.startswith("decoders.") for key in left.missing_keys)
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = judge(image)
    found = own.streams(own.encoder(image))
    for task in TASKS:
        assert expected[task].shape == (2, 2048, 2, 3)
        torch.testing.assert_close(found[task], expected[task], rtol=1e-8, atol=1e-10)
    sum(map(torch.sum, expected.values())).backward()
    sum(map(torch.sum, found.values())).backward()
    torch.testing.assert_close(own.encoder.conv1.weight.grad, judge_stem(judge).weight.grad, rtol=1e-7, atol=1e-10)
    # In training both have noted the same statistics.
    after, ours = as_ours(judge.encoder.state_dict()), own.state_dict()
    for key, value in after.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-8, atol=1e-10, msg=key)
    assert training != all(torch.equal(after[key], value) for key, value in given.items())


def judge_stem(judge: nn.Module) -> nn.Module:
    """First convolution of LibMTL's network."""
    encoder = judge.encoder
    return encoder.shared_conv[0] if hasattr(encoder, "shared_conv") else encoder.conv1


def test_uncrossed_masks_are_not_ctan(theirs) -> None:
    """The must-fail twin: with the masks crossed the features differ."""
    judge = theirs("MTAN").eval()
    own = create_network("ctan_no_bottleneck", PIXEL, 2, 3, "resnet50").double().eval()
    own.load_state_dict(as_ours(judge.encoder.state_dict()), strict=False)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        found = own.streams(own.encoder(image))["oar"]
        assert not torch.allclose(found, judge(image)["oar"], rtol=1e-3)


@pytest.mark.parametrize(("kind", "count"), [("MTAN", 39_791_296), ("HPS", 23_508_032)])
def test_parameters_without_decoders(kind: str, count: int, theirs) -> None:
    assert sum(parameter.numel() for parameter in theirs(kind).parameters()) == count
