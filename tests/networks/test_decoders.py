"""Decoders: what the outputs begin with, and which scales the image decoder reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mtl_med.errors import UsageError
from mtl_med.networks import create_network
from mtl_med.networks.decoders import DECODERS
from mtl_med.tasks import KINDS

Make = Callable[..., nn.Module]
SMALL = {"channels": (6, 8, 10), "bottleneck": 12, "image_width": 8}


def test_every_kind_has_a_decoder() -> None:
    assert tuple(DECODERS) == KINDS


@pytest.mark.parametrize("method", ["stl", "ctan"])
def test_outputs_begin_at_the_prior_and_at_zero(method: str, pixel_tasks: dict) -> None:
    prior = [0.5, 0.01, 0.001]
    network = create_network(method, pixel_tasks, 3, 2, priors={"oar": prior}, output_scales={"dose": 70.0}, **SMALL)
    outputs = network(torch.randn(1, 2, 32, 32, 32))
    assert outputs["oar"].sigmoid().mean((0, 2, 3, 4)).tolist() == pytest.approx(prior, rel=0.1)
    assert outputs["dose"].abs().mean() < 7.0  # a tenth of the scale


def test_scaled_output_is_the_unscaled_one_times_the_scale(pixel_tasks: dict) -> None:
    plain = create_network("hps", pixel_tasks, 2, 2, **SMALL).eval()
    scaled = create_network("hps", pixel_tasks, 2, 2, output_scales={"dose": 70.0}, **SMALL).eval()
    scaled.load_state_dict(plain.state_dict())
    image = torch.randn(1, 2, 32, 32)
    torch.testing.assert_close(scaled(image)["dose"], 70 * plain(image)["dose"])
    torch.testing.assert_close(scaled(image)["oar"], plain(image)["oar"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priors": {"oar": [0.1]}}, "priors of task 'oar': 1 values for 3 channels. Give one per channel"),
        ({"priors": {"oar": [0.1, 0.0, 0.2]}}, "0.0 is no probability in .0, 1."),
        ({"priors": {"dose": [0.1]}}, "a regression task has no initial probability"),
        ({"priors": {"our": [0.1]}}, "priors names an unknown task 'our'. Did you mean oar"),
        ({"output_scales": {"oar": 2.0}}, "output_scales of task 'oar': 2.0 for a segmentation.*only a regression"),
        ({"output_scales": {"dose": 0.0}}, "output_scales of task 'dose': 0.0 for a regression.*positive"),
        ({"decoder_channels": (8, 8)}, "decoder_channels has 2 widths. Give 3, one per skip connection"),
        ({"upsample": "lineer"}, "unknown upsample 'lineer'. Did you mean linear"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_what_cannot_be_meant_is_refused(options: dict, message: str, pixel_tasks: dict) -> None:
    for method in ("hps", "stl"):
        with pytest.raises(UsageError, match=message):
            create_network(method, pixel_tasks, 2, 2, **{**SMALL, **options})


def test_priors_and_scales_of_image_tasks_are_refused(image_tasks: dict) -> None:
    with pytest.raises(UsageError, match="priors of task 'covid'.*classification"):
        create_network("hps", image_tasks, 2, 2, priors={"covid": [0.1, 0.9]}, **SMALL)
    with pytest.raises(UsageError, match="output_scales of task 'covid': a classification task has none"):
        create_network("hps", image_tasks, 2, 2, output_scales={"covid": 2.0}, **SMALL)


def test_linear_decoder_blends_and_nearest_repeats(small_network: Make, pixel_tasks: dict) -> None:
    linear, nearest, deconv = (
        small_network("hps", pixel_tasks, 2, upsample=kind).decoders["dose"].blocks[0].up
        for kind in ("linear", "nearest", "deconv")
    )
    x = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2).expand(1, 12, 1, 2)
    assert linear(x)[0, 0].tolist() == [[0.0, 1.0, 3.0, 4.0]] * 2
    assert nearest(x)[0, 0].tolist() == [[0.0, 0.0, 4.0, 4.0]] * 2
    assert deconv(x).shape == (1, 10, 2, 4)  # already the width of the block


@pytest.mark.parametrize(("style", "scales"), [("bottom_up", [True, True, True]), ("pooled", [False, False, False])])
def test_image_decoder_reads_every_scale_of_its_style(style: str, scales: list, image_tasks: dict) -> None:
    network = create_network("hps", image_tasks, 2, 2, image_style=style, **SMALL).eval()
    decoder, image = network.decoders["covid"], torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        decoder.out.weight.normal_()
    stages = [
        type(stage)(stage.shared.detach().requires_grad_(), stage.deep.detach()) for stage in network.encoder(image)
    ]
    features = torch.randn(1, 12, 4, 4, requires_grad=True)
    (logits,) = decoder(features, stages, [32, 32])
    assert logits.shape == (1, 2)
    gradients = torch.autograd.grad(logits[0, 0], [features, *(stage.shared for stage in stages)], allow_unused=True)
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [True, *scales]


def test_image_decoder_halves_four_times(image_tasks: dict) -> None:
    decoder = create_network("hps", image_tasks, 2, 2, **SMALL).decoders["covid"]
    sizes: list[int] = []
    for down in decoder.downs:
        down.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    decoder(torch.randn(1, 12, 4, 4), [*_stages(32)], [32, 32])
    assert sizes == [16, 8, 4, 2]


def _stages(side: int) -> list:
    from mtl_med.networks.encoders import Stage

    return [Stage(*(torch.randn(1, c, side // 2**j, side // 2**j) for _ in range(2))) for j, c in enumerate((6, 8, 10))]


def test_dropout_acts_in_training_only(small_network: Make, mixed_tasks: dict) -> None:
    network, image = small_network("ctan", mixed_tasks, 2, dropout=0.5), torch.randn(2, 2, 16, 16)
    for task in mixed_tasks:
        assert not torch.equal(network.train()(image)[task], network(image)[task])
    network.eval()
    assert all(torch.equal(network(image)[task], network(image)[task]) for task in mixed_tasks)


def test_deep_supervision_gives_coarser_outputs_in_training_alone(small_network: Make, mixed_tasks: dict) -> None:
    image = torch.randn(2, 2, 24, 24)
    network = small_network("ctan", mixed_tasks, 2, deep_supervision=True)
    outputs = network(image)
    assert set(outputs) - set(mixed_tasks) == {f"{task}/deep{i}" for task in ("oar", "dose") for i in (1, 2)}
    assert outputs["oar/deep2"].shape == outputs["oar"].shape == (2, 3, 24, 24)
    # The second is made at a quarter of the size: enlarged linearly, a row of it bends less often.
    curvature = {i: outputs[f"dose/deep{i}"].diff(dim=3).diff(dim=3)[..., 2:-2].abs() for i in (1, 2)}
    bends = {i: (value > 1e-4 * value.max()).float().mean().item() for i, value in curvature.items()}
    assert bends[2] < 0.75 < bends[1]
    assert network.eval()(image).keys() == mixed_tasks.keys()
    outputs["dose/deep2"].sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("decoders.dose.deep.0.") for name in reached)
    assert not any(name.startswith(("decoders.dose.deep.1.", "decoders.dose.out.")) for name in reached)


def test_deep_supervision_begins_at_the_prior_and_scale_too(pixel_tasks: dict) -> None:
    options = {"priors": {"oar": [0.5, 0.01, 0.001]}, "output_scales": {"dose": 70.0}, "deep_supervision": True}
    outputs = create_network("hps", pixel_tasks, 3, 2, **SMALL, **options)(torch.randn(1, 2, 32, 32, 32))
    for i in (1, 2):
        found = outputs[f"oar/deep{i}"].sigmoid().mean((0, 2, 3, 4)).tolist()
        assert found == pytest.approx([0.5, 0.01, 0.001], rel=0.2)


@pytest.mark.parametrize("method", ["stl", "ctan"])
def test_no_image_gives_no_prediction(method: str) -> None:
    network = create_network(method, {"dose": {"kind": "regression"}}, 2, 1, channels=(4, 6), bottleneck=8).eval()
    assert network(torch.zeros(0, 1, 32, 32))["dose"].shape == (0, 1, 32, 32)
