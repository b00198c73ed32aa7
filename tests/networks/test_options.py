"""Names and values that cannot be meant are refused with the nearest ones; every option does something."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from mtl_med.errors import UsageError
from mtl_med.networks import CTAN, HPS, METHODS, MTAN, STL, create_network

Make = Callable[..., nn.Module]
TASKS = {"oar": {"kind": "segmentation", "channels": 2}, "dose": {"kind": "regression"}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"method": "ctam"}, "unknown method 'ctam'. Did you mean ctan"),
        ({"encoder": "resnet5"}, "unknown encoder 'resnet5'. Did you mean resnet50"),
        ({"spatial_dims": 4}, "spatial_dims is 4. Use 2 or 3"),
        ({"chanels": (8, 8)}, "unknown option 'chanels' of a network with encoder 'plain'. Did you mean channels"),
        ({"split": "last"}, "unknown option 'split' of a network with encoder 'plain'"),
        ({"encoder": "resnet18", "channels": (8,)}, "unknown option 'channels' of a network with encoder 'resnet18'"),
        ({"encoder": "resnet18", "split": "lst"}, "unknown split 'lst' of a ResNet stage. Did you mean last"),
        ({"encoder": "resnet18", "stem_stride": 4}, "stem_stride is 4"),
        ({"stem_stride": 3}, "stem_stride is 3. Use 1"),
        ({"channels": ()}, "no stage. Give channels"),
        ({"cross_fuse": "add"}, "unknown cross_fuse 'add'. Known: concat, multiply"),
        ({"reduce": "mena"}, "unknown reduce 'mena' over the other tasks. Did you mean mean"),
        ({"scale": "average"}, "unknown scale 'average' of CTAB"),
        ({"norm": "bach"}, "unknown norm 'bach'"),
        ({"act": "rely"}, "unknown act 'rely'"),
        ({"embed_ratio": 0}, "embed_ratio is 0"),
        (
            {"query_grid": (8,), "filters": "per_query", "method": "ctal"},
            r"query_grid is \(8,\), but filters='per_query' needs 3",
        ),
        ({"token_stride": 0, "method": "ctal"}, "token_stride is 0"),
        ({"tasks": {}}, "no task is given"),
        ({"channels": 8}, r"channels is 8. Give a list of whole numbers of 1 or more, such as \[32, 64, 128\]"),
        ({"channels": (8, 0)}, r"channels is \(8, 0\). Give a list of whole numbers of 1 or more"),
        ({"channels": "8"}, "channels is '8'. Give a list"),
        ({"bottleneck": 0}, "bottleneck is 0. Give its channels"),
        ({"bottleneck": True}, "bottleneck is True. Give a whole number, such as 256"),
        ({"bottleneck": 2.5}, "bottleneck is 2.5. Give a whole number"),
        ({"bottleneck_channels": "many"}, "bottleneck_channels is 'many'. Give a whole number or none"),
        ({"share_refine": 2}, "share_refine is 2. Give true or false, such as true"),
        ({"scale": 1}, "scale is 1. Give a word, such as mean"),
        ({"dropout": 2}, "dropout is 2. Give a probability"),
        ({"dropout": "half"}, "dropout is 'half'. Give a number"),
        ({"decoder_channels": 4}, "decoder_channels is 4. Give a list of whole numbers of 1 or more or none"),
        ({"priors": 0.5}, "priors is 0.5. Give a value per task"),
        ({"priors": {"oar": 0.5}}, "task 'oar': prior is 0.5. Give a list of numbers"),
        ({"output_scales": {"dose": "70 Gy"}}, "task 'dose': output_scale is '70 Gy'. Give a number"),
        ({"norm": "group"}, r"norm 'group' of 32 channels: .*num_groups.*Give what it needs, such as \[\"group\""),
        ({"norm": ("group", {"num_groups": 5})}, "norm 'group' of 32 channels: .*divisible"),
        ({"norm": 3}, "norm is 3. Give a name, or a name and options"),
        ({"norm": ("batch", {}, 1)}, "norm is .* Give a name, or a name and options"),
        ({"act": ("relu", {"colour": 1})}, "act 'relu': .*colour"),
        ({"act": []}, r"act is \[\]. Give a name"),
        ({"network_options": 5}, "network_options is 5. Give an object"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_refused_with_the_nearest(words: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_network(**{"method": "ctan", "tasks": TASKS, **words})


@pytest.mark.parametrize("form", ["named", "network_options"])
def test_false_as_the_command_line_writes_it_is_false(form: str) -> None:
    """The word alone would be true: masks would be computed twice, blocks shared, and CTAB given a short cut."""
    words = {"share_refine": "false", "residual": "false", "deep_supervision": "false", "checkpoint_masks": "false"}
    values = dict.fromkeys(words, False)
    made = [
        create_network("ctan", TASKS, 2, **(given if form == "named" else {"network_options": given}))
        for given in (words, values)
    ]
    assert str(made[0]) == str(made[1])
    assert made[0].state_dict().keys() == made[1].state_dict().keys()
    assert str(create_network("ctan", TASKS, 2)) != str(made[0]), "these are not the defaults"


@pytest.mark.parametrize(("kind", "word"), [(CTAN, "chanels"), (HPS, "cross_fuse"), (MTAN, "scale"), (STL, "reduce")])
def test_a_class_refuses_what_none_of_its_parts_takes(kind: type, word: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option '{word}'"):
        kind(2, 1, TASKS, **{word: "mean"})


@pytest.mark.parametrize("method", METHODS)
def test_one_configuration_serves_all_methods(method: str) -> None:
    everything = {
        **{"channels": (4, 6), "bottleneck": 8, "stem_stride": 2, "norm": "batch", "act": "relu"},
        **{"cross_fuse": "multiply", "embed_ratio": 2, "share_refine": True, "checkpoint_masks": True},
        **{"bottleneck_channels": 4, "scale": "mean", "residual": False, "reduce": "mean", "token_stride": 4},
        **{"affinity_channels": 4, "gamma": 0.1, "learn_gamma": True, "filters": "shared", "full_below": 16},
        **{"slots": 4, "top_k": 4, "heads": 1, "vertices": 3},
        **{"decoder_channels": (6, 4), "upsample": "deconv", "image_style": "pooled", "image_width": 8, "dropout": 0.1},
        **{"deep_supervision": True},
        **{"priors": {"oar": [0.1, 0.1]}, "output_scales": {"dose": 70.0}},
    }
    network = create_network(method, TASKS, 2, 1, **everything).eval()
    assert network(torch.randn(2, 1, 32, 32)).keys() == TASKS.keys()


@pytest.mark.parametrize(
    ("option", "name", "shape"),
    [
        ({}, "streams.stages.0.mask.oar.embed.conv.weight", (1, 6, 1, 1)),  # C/4
        ({"embed_ratio": 2}, "streams.stages.0.mask.oar.embed.conv.weight", (3, 6, 1, 1)),
        ({}, "exchange.embed.dose.conv.weight", (3, 12, 1, 1)),  # C/4
        ({"bottleneck_channels": 5}, "exchange.embed.dose.conv.weight", (5, 12, 1, 1)),
        ({}, "streams.stages.0.refine.1.conv.weight", (8, 6, 3, 3)),
        ({"cross_fuse": "concat"}, "streams.stages.0.refine.1.conv.weight", (8, 12, 3, 3)),
        ({}, "decoders.dose.blocks.2.conv2.conv.weight", (6, 6, 3, 3)),
        ({"decoder_channels": (9, 7, 5)}, "decoders.dose.blocks.2.conv2.conv.weight", (5, 5, 3, 3)),
    ],
    ids=str,
)
def test_options_set_widths(option: dict, name: str, shape: tuple, small_network: Make) -> None:
    assert small_network("ctan", TASKS, 2, **option).state_dict()[name].shape == shape


def test_the_concat_row_is_the_option() -> None:
    named, by_option = (
        create_network(method, TASKS, 2, **options).state_dict()
        for method, options in (("ctan_concat", {}), ("ctan", {"cross_fuse": "concat"}))
    )
    assert {key: value.shape for key, value in named.items()} == {key: value.shape for key, value in by_option.items()}


def test_no_convolution_bias_before_a_norm(small_network: Make) -> None:
    names = small_network("ctan", TASKS, 2).state_dict()
    assert [name for name in names if name.endswith("conv.bias")] == []
    assert [name for name in names if name.endswith("out.bias")] == ["decoders.oar.out.bias", "decoders.dose.out.bias"]


@pytest.mark.parametrize("name", METHODS)
def test_every_row_says_what_it_is(name: str) -> None:
    assert METHODS[name].summary
    assert METHODS[name].paper


@pytest.mark.parametrize("method", ["stl", "hps", "ctan"])
@pytest.mark.parametrize("name", ["type", "keys", "training"])
def test_a_name_that_pytorch_keeps_for_itself_is_refused(method: str, name: str) -> None:
    tasks = {name: {"kind": "classification", "channels": 2}, "dose": {"kind": "regression"}}
    with pytest.raises(UsageError, match=f"no task can be called '{name}'. Call it {name}_task"):
        create_network(method, tasks, 2, 1)


@pytest.mark.parametrize("method", ["mtan", "ctan", "kem"])
def test_showing_attention_changes_no_running_statistic(method: str) -> None:
    """It is made a second time, also in training."""
    torch.manual_seed(0)
    network = create_network(method, TASKS, 2, 1, encoder="resnet18").train()
    other = copy.deepcopy(network)
    image = torch.randn(2, 1, 64, 64)
    shown, plain = network(image, return_attention=True), other(image)
    assert set(plain) < set(shown)
    for (name, found), (_, expected) in zip(network.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)
