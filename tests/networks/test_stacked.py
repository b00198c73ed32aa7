"""One output tensor instead of a dictionary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mtl_med.errors import UsageError
from mtl_med.networks import METHODS, split_stacked
from mtl_med.tasks import as_tasks

Make = Callable[..., nn.Module]


@pytest.mark.parametrize("method", METHODS)
def test_stacked_is_the_same_network(method: str, small_network: Make, small_image: Make, pixel_tasks: dict) -> None:
    tasks = dict(reversed(pixel_tasks.items()))  # dose first: segmentation still leads in the stack
    network, stacked = (small_network(method, tasks, stacked=value).eval() for value in (False, True))
    assert list(stacked.state_dict()) == list(network.state_dict())
    stacked.load_state_dict(network.state_dict())
    image = small_image(3)
    outputs, pred = network(image), stacked(image)
    assert torch.equal(pred, torch.cat([outputs["oar"], outputs["dose"]], 1))
    split = split_stacked(pred, as_tasks(tasks))
    assert list(split) == ["oar", "dose"]
    assert all(torch.equal(split[task], outputs[task]) for task in tasks)


def test_two_image_tasks(small_network: Make, small_image: Make, image_tasks: dict) -> None:
    pred = small_network("ctan", image_tasks, stacked=True)(small_image(3))
    assert pred.shape == (2, 5)
    assert {task: part.shape[1] for task, part in split_stacked(pred, as_tasks(image_tasks)).items()} == {
        "covid": 2,
        "severity": 3,
    }


@pytest.mark.parametrize("method", ["stl", "ctan"])
def test_a_mix_is_refused(method: str, small_network: Make, mixed_tasks: dict) -> None:
    with pytest.raises(UsageError, match=r"\(oar, dose\) and image-level tasks \(diagnosis\) cannot be stacked.*dict"):
        small_network(method, mixed_tasks, stacked=True)


def test_a_stack_of_other_tasks_is_refused(pixel_tasks: dict) -> None:
    with pytest.raises(UsageError, match="has 5 channels, the tasks have 4"):
        split_stacked(torch.zeros(1, 5, 2, 2), as_tasks(pixel_tasks))


@pytest.mark.parametrize("method", ["stl", "ctan"])
def test_stacked_is_scriptable(method: str, small_network: Make, small_image: Make, pixel_tasks: dict) -> None:
    network, image = small_network(method, pixel_tasks, 2, stacked=True).eval(), small_image(2)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=1e-4, atol=1e-5)
