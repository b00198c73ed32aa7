"""CTAN, MTAN and HPS written out once more, from the specification alone, on the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.networks import CTAN, HPS, MTAN, STL, create_network

Make = Callable[..., nn.Module]
Weights = dict[str, Tensor]
OTHER = {"oar": "dose", "dose": "oar"}


def conv_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Convolution that keeps the size, then instance norm."""
    kernel = w[f"{name}.conv.weight"]
    x = F.conv3d(x, kernel, padding=kernel.shape[-1] // 2)
    mean, variance = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, correction=0)
    scale, shift = (w[f"{name}.norm.{part}"].view(1, -1, 1, 1, 1) for part in ("weight", "bias"))
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def block(w: Weights, name: str, x: Tensor) -> Tensor:
    return conv_norm(w, name, x).clamp(min=0)


def encoder(w: Weights, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """U^j and P^j of three stages."""
    shared, deep, s = [], [], image
    for j in range(3):
        u = block(w, f"encoder.shared.{j}", s)
        p = block(w, f"encoder.deep.{j}.1", block(w, f"encoder.deep.{j}.0", u))
        shared.append(u)
        deep.append(p)
        s = F.max_pool3d(p, 2)
    return shared, deep


def streams(w: Weights, shared: list[Tensor], deep: list[Tensor], gate: dict[str, str], concat: bool) -> Weights:
    """Masks and streams through three stages; `gate[t]` is the task whose mask lies over the stream of t."""
    a_hat: Weights = {}
    for j in range(3):
        masks = {}
        for t in gate:
            x = torch.cat([shared[j], a_hat[t]], 1) if j > 0 else shared[j]
            f = block(w, f"streams.stages.{j}.mask.{t}.embed", x)
            masks[t] = conv_norm(w, f"streams.stages.{j}.mask.{t}.attend", f).sigmoid()
        for t in gate:
            m = masks[gate[t]]
            gated = torch.cat([deep[j], m], 1) if concat else m * deep[j]
            a_hat[t] = block(w, f"streams.stages.{j}.refine.1", F.max_pool3d(gated, 2))
    return a_hat


def bottleneck(w: Weights, a_hat: Weights) -> Weights:
    e = {t: block(w, f"exchange.embed.{t}", x) for t, x in a_hat.items()}
    result = {}
    for t in e:
        tokens, others = (x.flatten(2).transpose(1, 2) for x in (e[t], e[OTHER[t]]))
        n, c = tokens.shape[1:]
        result[t] = (tokens @ (others.mT @ tokens) / (n * c**0.5)).transpose(1, 2).reshape(e[t].shape)
    return result


def decoder(w: Weights, task: str, x: Tensor, shared: list[Tensor]) -> Tensor:
    for i, u in enumerate(reversed(shared)):
        up = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        x = block(w, f"decoders.{task}.blocks.{i}.conv1", torch.cat([up, u], 1))
        x = block(w, f"decoders.{task}.blocks.{i}.conv2", x)
    return F.conv3d(x, w[f"decoders.{task}.out.weight"], w[f"decoders.{task}.out.bias"])


def written_out(method: str, w: Weights, image: Tensor) -> Weights:
    shared, deep = encoder(w, image)
    if method == "hps":
        features = dict.fromkeys(OTHER, block(w, "streams.pool.1", F.max_pool3d(deep[2], 2)))
    elif method == "mtan":
        features = streams(w, shared, deep, {"oar": "oar", "dose": "dose"}, concat=False)
    else:
        features = bottleneck(w, streams(w, shared, deep, OTHER, concat=method == "ctan_concat"))
    return {task: decoder(w, task, features[task], shared) for task in OTHER}


@pytest.mark.parametrize("method", ["hps", "mtan", "ctan", "ctan_concat"])
def test_network_follows_the_algorithm(method: str, small_network: Make, pixel_tasks: dict) -> None:
    network, image = small_network(method, pixel_tasks).double(), torch.randn(2, 2, 16, 24, 16, dtype=torch.float64)
    expected = written_out(method, dict(network.state_dict()), image)
    torch.testing.assert_close(network(image), expected, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(network(image)["dose"], expected["oar"][:, :1])


@pytest.mark.parametrize(
    ("kind", "method"), [(CTAN, "ctan"), (MTAN, "mtan"), (HPS, "hps"), (STL, "stl")], ids=lambda x: str(x)
)
def test_classes_are_the_methods(kind: type, method: str, pixel_tasks: dict) -> None:
    options = {
        "channels": (4, 6, 8),
        "bottleneck": 8,
        "priors": {"oar": [0.1, 0.2, 0.3]},
        "output_scales": {"dose": 70},
    }
    network = kind(3, 2, pixel_tasks, **options)
    other = create_network(method, pixel_tasks, 3, 2, **options)
    other.load_state_dict(network.state_dict())
    image = torch.randn(1, 2, 16, 16, 16)
    torch.testing.assert_close(other(image), network(image), rtol=0.0, atol=0.0)


def test_attention_gives_each_tasks_masks(small_network: Make, pixel_tasks: dict) -> None:
    network, image = small_network("ctan", pixel_tasks).eval(), torch.randn(1, 2, 16, 16, 16)
    outputs = network(image, return_attention=True)
    masks = {task: [outputs[f"attention/{task}/stage{j}"] for j in range(3)] for task in OTHER}
    shapes = [(1, 6, 16, 16, 16), (1, 8, 8, 8, 8), (1, 10, 4, 4, 4)]
    assert {task: [tuple(mask.shape) for mask in of] for task, of in masks.items()} == {"oar": shapes, "dose": shapes}
    assert all(0 < mask.min() < mask.max() < 1 for of in masks.values() for mask in of)
    stages = network.encoder(image)
    streams = {task: network.streams.stages[0].refine(masks[OTHER[task]][0] * stages[0].deep) for task in masks}
    joined = torch.cat([stages[1].shared, streams["oar"]], 1)
    torch.testing.assert_close(network.streams.stages[1].mask["oar"](joined), masks["oar"][1])
    # CTAB: the norm of each row of the affinity, here from the whole N x N matrix.
    features = network.streams(stages)
    e, q = (network.exchange.embed[task](features[task]).flatten(2) for task in ("oar", "dose"))
    affinity = e.mT @ q / (e.shape[2] * e.shape[1] ** 0.5)
    torch.testing.assert_close(outputs["attention/oar/exchange"].flatten(), affinity.norm(dim=2).flatten())
    assert set(outputs) - set(OTHER) == {
        f"attention/{t}/{m}" for t in OTHER for m in (*map("stage{}".format, range(3)), "exchange")
    }
    torch.testing.assert_close(outputs["dose"], network(image)["dose"], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("method", ["hps", "stl"])
def test_no_attention_without_masks(method: str, small_network: Make, pixel_tasks: dict) -> None:
    assert set(small_network(method, pixel_tasks)(torch.randn(1, 2, 16, 16, 16), return_attention=True)) == set(OTHER)


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen norms"])
def test_a_stage_without_masks_kept_teaches_the_same(small_network: Make, pixel_tasks: dict, frozen: bool) -> None:
    """Computed again in the backward pass: outputs, gradients and the norms' running statistics are equal."""
    image, found = torch.randn(2, 2, 32, 32, dtype=torch.float64), []
    for again in (False, True):
        network = small_network("ctan", pixel_tasks, 2, checkpoint_masks=again).double()
        for norm in (each for each in network.modules() if frozen and isinstance(each, nn.BatchNorm2d)):
            norm.eval()
        outputs = network(image)
        sum(output.square().sum() for output in outputs.values()).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        found.append((outputs, gradients, dict(network.state_dict())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


def test_tasks_go_through_a_refine_block_as_one_batch(small_network: Make, pixel_tasks: dict) -> None:
    for dims, together in ((3, True), (2, False)):  # batch norm, the default in 2D, would mix the tasks' statistics
        stage = small_network("mtan", pixel_tasks, dims).streams.stages[0]
        assert stage.one_batch is together
        gated = {task: torch.randn(2, 6, *(8,) * dims) for task in pixel_tasks}
        alone = {task: stage.refine(x) for task, x in gated.items()}
        torch.testing.assert_close(stage.pool(gated), alone)


def test_three_tasks_are_gated_by_the_mean_of_the_others(small_network: Make) -> None:
    tasks = {name: {"kind": "segmentation"} for name in ("a", "b", "c")}
    for reduce, expected in (("mean", lambda x, y: (x + y) / 2), ("max", torch.maximum)):
        stage = small_network("ctan", tasks, 2, reduce=reduce).streams.stages[0].eval()
        deep, masks = torch.randn(1, 6, 8, 8), {name: torch.rand(1, 6, 8, 8) for name in tasks}
        streams = stage.pool(stage.gate(deep, stage.laid(masks)))
        torch.testing.assert_close(streams["a"], stage.refine(expected(masks["b"], masks["c"]) * deep))


def test_refine_blocks_of_their_own(small_network: Make, pixel_tasks: dict) -> None:
    stage = small_network("ctan", pixel_tasks, 2, share_refine=False).streams.stages[0].eval()
    deep, masks = torch.randn(1, 6, 8, 8), {name: torch.rand(1, 6, 8, 8) for name in pixel_tasks}
    streams = stage.pool(stage.gate(deep, stage.laid(masks)))
    torch.testing.assert_close(streams["oar"], stage.refine_each["oar"](masks["dose"] * deep))
    torch.testing.assert_close(streams["dose"], stage.refine_each["dose"](masks["oar"] * deep))
    assert not list(stage.refine.parameters())
