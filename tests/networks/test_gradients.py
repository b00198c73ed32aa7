"""Which loss teaches what: the paths that make a method what it is, and that every method learns at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_med.networks import METHODS

Make = Callable[..., nn.Module]
SHARED = [method for method, row in METHODS.items() if row.shared]


def gradients(network: nn.Module, task: str, part: str) -> dict[str, bool]:
    """For every parameter whose name contains `part`, whether the loss of `task` gives it a gradient."""
    dims = next(parameter.ndim for name, parameter in network.named_parameters() if name.endswith("conv.weight")) - 2
    image = torch.randn(2, 2, *(16,) * dims, generator=torch.Generator().manual_seed(0))
    network.zero_grad(set_to_none=True)
    network(image)[task].square().sum().backward()
    found = {name: parameter.grad for name, parameter in network.named_parameters() if part in name}
    assert found, f"no parameter is named {part}"
    return {name: gradient is not None and bool(gradient.any()) for name, gradient in found.items()}


def reached(network: nn.Module, task: str, part: str) -> bool:
    return all(gradients(network, task, part).values())


def untouched(network: nn.Module, task: str, part: str) -> bool:
    return not any(gradients(network, task, part).values())


@pytest.mark.parametrize("method", SHARED)
@pytest.mark.parametrize("task", ["oar", "dose", "diagnosis"])
def test_every_task_teaches_the_shared_trunk(method: str, task: str, small_network: Make, mixed_tasks: dict) -> None:
    network = small_network(method, mixed_tasks, 2)
    assert reached(network, task, "encoder.shared")
    assert reached(network, task, f"decoders.{task}.")
    others = [f"decoders.{name}." for name in mixed_tasks if name != task]
    assert all(untouched(network, task, other) for other in others)


def test_stl_shares_nothing(small_network: Make, pixel_tasks: dict) -> None:
    network = small_network("stl", pixel_tasks)
    assert reached(network, "dose", "nets.dose.")
    assert untouched(network, "dose", "nets.oar.")


@pytest.mark.parametrize("method", ["ctan", "ctan_concat"])
@pytest.mark.parametrize(("task", "other"), [("oar", "dose"), ("dose", "oar")])
def test_ctan_teaches_the_other_tasks_masks_at_every_stage(
    method: str, task: str, other: str, small_network: Make, pixel_tasks: dict
) -> None:
    network = small_network(method, pixel_tasks)
    assert all(reached(network, task, f"streams.stages.{j}.mask.{other}.") for j in range(3))


def test_without_ctab_the_path_changes_sides_at_every_stage(small_network: Make, pixel_tasks: dict) -> None:
    """The dose's stream is gated by oar's mask, which is made from oar's stream, gated by the dose's, and so on."""
    network = small_network("ctan_no_bottleneck", pixel_tasks)
    for stage, teacher in ((2, "oar"), (1, "dose"), (0, "oar")):
        student = "dose" if teacher == "oar" else "oar"
        assert reached(network, "dose", f"stages.{stage}.mask.{teacher}.")
        assert untouched(network, "dose", f"stages.{stage}.mask.{student}.")


def last_masks_are_crossed(network: nn.Module) -> bool:
    """The last stage's masks serve the other task only; earlier ones come back through the streams."""
    return reached(network, "oar", "stages.2.mask.dose.") and untouched(network, "oar", "stages.2.mask.oar.")


def test_masks_are_crossed_in_ctan_and_only_there(
    small_network: Make, pixel_tasks: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without CTAB, which would lead every gradient everywhere.
    network = small_network("ctan_no_bottleneck", pixel_tasks)
    assert last_masks_are_crossed(network)
    assert not last_masks_are_crossed(small_network("mtan", pixel_tasks))
    monkeypatch.setattr("mtl_med.networks.ctan.of_others", lambda masks, reduce: masks)  # the must-fail twin
    assert not last_masks_are_crossed(network)


def exchange_is_crossed(network: nn.Module) -> bool:
    """Each result follows the other task's features."""
    given = {task: torch.randn(1, 12, 3, 3, 3) for task in ("oar", "dose")}
    before = network.exchange(given)["oar"]
    return not torch.allclose(network.exchange({**given, "dose": 2 * given["dose"].flip(2)})["oar"], before)


@pytest.mark.parametrize("method", ["ctan", "ctan_no_encoder", "ctan_concat"])
def test_ctab_leads_each_loss_to_the_others_embedding(
    method: str, small_network: Make, pixel_tasks: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network(method, pixel_tasks)
    assert reached(network, "oar", "exchange.embed.dose.")
    assert reached(network, "dose", "exchange.embed.oar.")
    assert exchange_is_crossed(network)
    monkeypatch.setattr("mtl_med.networks.exchange.ctab.of_others", lambda values, reduce: values)
    assert not exchange_is_crossed(network)  # the must-fail twins: own partner, and identity
    assert untouched(network, "oar", "exchange.embed.dose.")
    assert not exchange_is_crossed(small_network("ctan_no_bottleneck", pixel_tasks))


TINY = {"channels": (8, 8), "bottleneck": 8, "norm": ("instance", {"affine": True})}


def overfit(network: nn.Module, dims: int, steps: int = 100) -> float:
    """Loss behind `steps` on one batch, over the loss before."""
    image = torch.randn(1, 2, *(16,) * dims)
    ball = (torch.stack(torch.meshgrid(*[torch.arange(16.0) - 8] * dims, indexing="ij")).norm(dim=0) < 5).float()
    image[:, 0] += 2 * ball
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    losses: list[float] = []
    for _ in range(steps):
        outputs: dict[str, Tensor] = network(image)
        oar = F.binary_cross_entropy_with_logits(outputs["oar"][0, 0], ball)
        dose = (outputs["dose"][0, 0] - 2 * ball).abs().mean()
        loss = oar + dose + F.cross_entropy(outputs["diagnosis"], torch.tensor([2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] / losses[0]


@pytest.mark.parametrize(("method", "dims"), [*((method, 2) for method in METHODS), ("ctan", 3)])
def test_one_batch_is_learned_by_heart(method: str, dims: int, small_network: Make, mixed_tasks: dict) -> None:
    assert overfit(small_network(method, mixed_tasks, dims, **TINY), dims) < 0.1


def test_a_frozen_network_does_not_learn(small_network: Make, mixed_tasks: dict) -> None:
    network = small_network("hps", mixed_tasks, 2, **TINY)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".out.bias" in name)
    assert overfit(network, 2) > 0.3  # the must-fail twin: biases alone cannot
