"""What a task attends to, of the image's size: the masks of the method itself, whatever the size of the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_med.errors import UsageError
from mtl_med.loading import resize_smoothly
from mtl_med.networks import MixedInferer, create_network, window_inferer
from mtl_med.networks.attention_maps import attends, attention_maps, task_masks
from mtl_med.tasks import Task

TASKS = (Task("lesion", "segmentation", 1, ("Lesion",)), Task("diagnosis", "classification", 3))
SMALL = {"channels": (4, 6), "bottleneck": 8, "norm": "instance", "image_width": 8}


def make(method: str, dims: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return create_network(method, TASKS, dims, 1, network_options=SMALL).eval()


def picture(*space: int) -> torch.Tensor:
    return torch.randn(2, 1, *space, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["ctan", "mtan"])
def test_it_is_the_mean_of_the_last_mask(method: str) -> None:
    network, image = make(method), picture(32, 24)
    with torch.no_grad():
        raw = network.predict(image, return_attention=True)
    for task, found in task_masks(network, image).items():
        mask = raw[f"attention/{task}/stage1"].mean(1, keepdim=True)  # of two stages
        torch.testing.assert_close(found, resize_smoothly(mask, (32, 24)))
        assert 0 < float(found.min()) < float(found.max()) < 1


def test_of_an_odd_size_it_is_that_of_the_image_the_network_padded() -> None:
    network, image = make("ctan"), picture(29, 23)
    padded = nn.functional.pad(image, [0, 1, 0, 3], mode="replicate")
    expected = task_masks(network, padded)
    for task, found in task_masks(network, image).items():
        torch.testing.assert_close(found, expected[task][:, :, :29, :23])


@pytest.mark.parametrize("method", ["ctan_no_encoder", "kem", "ctal"])
def test_without_masks_it_is_the_exchange(method: str) -> None:
    found = task_masks(make(method), picture(32, 24))
    assert {task: tuple(mask.shape) for task, mask in found.items()} == {task.name: (2, 1, 32, 24) for task in TASKS}
    assert all(float(mask.max()) > float(mask.min()) for mask in found.values())


@pytest.mark.parametrize("method", ["hps", "stl"])
def test_a_method_without_attention_says_so(method: str) -> None:
    network = make(method)
    assert not attends(network)
    with pytest.raises(UsageError, match="this network has no attention to show"):
        task_masks(network, picture(32, 24))


def test_one_window_is_the_whole_image() -> None:
    network, image = make("ctan"), picture(32, 24)
    found = attention_maps(MixedInferer(TASKS, (32, 24)), image, network)
    for task, mask in task_masks(network, image).items():
        assert torch.equal(found[task], mask)


def test_an_image_level_task_shows_the_pass_it_was_told_from() -> None:
    network, image = make("ctan"), picture(40, 33)
    with torch.no_grad():
        found = attention_maps(MixedInferer(TASKS, (16, 16), full_size=(24, 20)), image, network)
    whole = task_masks(network, resize_smoothly(image, (24, 20)))["diagnosis"]
    torch.testing.assert_close(found["diagnosis"], resize_smoothly(whole, (40, 33)))
    assert found["lesion"].shape == (2, 1, 40, 33)
    joined = attention_maps(MixedInferer(TASKS, (16, 16), image_mode="mean"), image, network)
    torch.testing.assert_close(joined["lesion"], found["lesion"])
    assert not torch.allclose(joined["diagnosis"], found["diagnosis"], atol=1e-3)


def test_windows_of_a_volume_are_blended() -> None:
    network, volume = make("ctan", 3), picture(20, 16, 17)
    found = attention_maps(window_inferer((16, 16, 16)), volume, network)
    assert {mask.shape for mask in found.values()} == {(2, 1, 20, 16, 17)}
