"""Whole volumes at one size, in a HU window: the same for training, validation and inference but for what is random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_med.errors import CaseError, UsageError, find_error
from mtl_med.geometry import Grid
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.loading import (
    SampleKey,
    SeededCacheDataset,
    resize_smoothly,
    volume_inference_transforms,
    volume_training_transforms,
    volume_validation_transforms,
)
from mtl_med.loading.volume_pipelines import RandZoomCropd
from mtl_med.tasks import as_tasks

TASKS = as_tasks(
    {"covid": {"kind": "classification", "channels": 2}, "severe": {"kind": "classification", "channels": 2}}
)
SIZE = (16, 12, 10)


@pytest.fixture
def item(tiny_study: Path) -> dict:
    image = tiny_study / "cases" / "p0" / "ct.nii.gz"
    return {
        "id": "p0",
        "image": str(image),
        "covid": ["1"],
        "labelled_covid": [True],
        "severe": [""],
        "labelled_severe": [False],
    }


def chest_like(shape: tuple[int, int, int]) -> np.ndarray:
    values = np.full(shape, -1000, np.float32)
    values[: shape[0] // 2] = 40
    return values


NO_CHEST = {
    "one slice": (chest_like((20, 20, 1)), "has 20 x 20 x 1 voxels, 1 slice along an axis, expected 8 or more"),
    "zeros": (np.zeros((20, 20, 20), np.float32), "holds values from 0 to 0, which are no CT numbers"),
    "scaled": (chest_like((20, 20, 20)) / 1000, "holds values from -1 to 0.04, which are no CT numbers"),
    "NaN": (np.where(np.eye(20)[..., None], np.nan, chest_like((20, 20, 20))), "holds voxels that are no numbers"),
}


@pytest.mark.parametrize("name", NO_CHEST)
def test_what_is_no_ct_of_a_body_gets_no_class(tmp_path: Path, name: str) -> None:
    values, message = NO_CHEST[name]
    path, read = tmp_path / "a.nii.gz", volume_inference_transforms("ct", SIZE)
    write_nifti(path, values.astype(np.float32), Grid(values.shape, np.eye(4)))
    with pytest.raises((CaseError, RuntimeError)) as caught:  # MONAI puts a RuntimeError around it
        read({"id": "a", "image": str(path)})
    told = find_error(caught.value)
    assert isinstance(told, CaseError) and message in str(told) and str(path) in str(told)
    write_nifti(path, chest_like((20, 20, 20)), Grid((20, 20, 20), np.eye(4)))
    assert read({"id": "a", "image": str(path)})["image"].shape == (1, *SIZE)


@pytest.mark.parametrize(
    ("window", "hu", "value"),
    [
        ((-1000, 400), -1000, -1),
        ((-1000, 400), -300, 0),
        ((-1000, 400), 400, 1),
        ((-1000, 400), 3000, 1),
        ((0, 100), 75, 0.5),
    ],
)
def test_the_window_becomes_minus_one_to_one(tmp_path: Path, window: tuple, hu: int, value: float) -> None:
    grid = Grid((6, 5, 4), np.eye(4))
    write_nifti(tmp_path / "a.nii.gz", np.full(grid.shape, hu, np.int16), grid)
    found = volume_validation_transforms(TASKS[:1], "ct", (3, 5, 8), window_hu=window)(
        {"id": "a", "image": str(tmp_path / "a.nii.gz"), "covid": ["1"]}
    )
    torch.testing.assert_close(found["image"], torch.full((1, 3, 5, 8), float(value)), atol=1e-5, rtol=0)
    assert found["size"].tolist() == [6, 5, 4]


def test_validation_is_inference_with_labels(item: dict) -> None:
    seen = volume_validation_transforms(TASKS, "ct", SIZE)(item)
    assert torch.equal(
        seen["image"], volume_inference_transforms("ct", SIZE)({"id": "p0", "image": item["image"]})["image"]
    )
    assert type(seen["image"]) is torch.Tensor
    assert (seen["covid"].item(), seen["labelled_covid"].tolist(), seen["labelled_severe"].tolist()) == (
        1,
        [True],
        [False],
    )
    ct = torch.from_numpy(read_nifti(item["image"], np.float32)[0])
    expected = resize_smoothly(((ct + 1000) / 700 - 1).clamp(-1, 1)[None, None], SIZE)[0]
    torch.testing.assert_close(seen["image"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mirror", [False, "false"], ids=["value", "word of the command line"])
def test_training_without_chance_is_validation(item: dict, mirror: bool | str) -> None:
    chain = volume_training_transforms(TASKS, "ct", SIZE, zoom=0.0, mirror=mirror)
    data = SeededCacheDataset([item], chain, num_workers=1)
    assert data._cache[0]["image"].dtype == torch.float16
    expected = volume_validation_transforms(TASKS, "ct", SIZE)(item)["image"]
    found = [
        data[SampleKey(1, epoch)]["image"] if epoch == 0 else data[SampleKey(epoch, 0)]["image"] for epoch in range(8)
    ]
    assert all(image.dtype == torch.float32 and image.shape == (1, *SIZE) for image in found)
    # What is left is scale and shift of the values.
    assert all(float((image - expected).abs().max()) < 0.1 for image in found)
    assert min(float((image - expected).abs().max()) for image in found) < 2e-3


def test_training_varies_with_epoch_and_seed_alone(item: dict) -> None:
    data = SeededCacheDataset([item], volume_training_transforms(TASKS, "ct", SIZE), seed=1, num_workers=1)
    first = data[SampleKey(1, 0)]["image"]
    torch.manual_seed(5)
    assert torch.equal(first, data[SampleKey(1, 0)]["image"])
    assert not torch.equal(first, data[SampleKey(2, 0)]["image"])


def test_a_zoomed_box_lies_inside_and_fills_the_size() -> None:
    """On a ramp the values tell which part was cut."""
    ramp = torch.linspace(0, 1, 40).reshape(1, 40, 1, 1).expand(1, 40, 6, 6)
    spans = []
    for seed in range(40):
        crop = RandZoomCropd(0.2)
        crop.set_random_state(seed=seed)
        found = crop({"image": ramp})["image"]
        assert found.shape == ramp.shape
        assert 0 <= found.min() < found.max() <= 1
        spans.append(float(found.max() - found.min()))
    assert 0.78 <= min(spans) < 0.85
    assert max(spans) > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: volume_inference_transforms("ct", (8, 8)), r"volume_size is \[8, 8\]. Give three numbers"),
        (lambda: volume_inference_transforms("rgb", SIZE), "whole volumes are made of inputs 'ct', not 'rgb'"),
        (lambda: volume_inference_transforms("ct", SIZE, window_hu=(400, -1000)), "Give the lower HU, then the higher"),
        (lambda: volume_training_transforms(TASKS, "ct", SIZE, zoom=1.0), "zoom is 1.0. Give a part of each side"),
        (lambda: volume_training_transforms(TASKS, "ct", SIZE, zoom="x"), "zoom is 'x', expected a number"),
        (lambda: volume_inference_transforms("ct", SIZE, window_hu=400), "window_hu is 400, expected 2 numbers"),
        (lambda: volume_inference_transforms("ct", SIZE, window_hu=[1, 2, 3]), "window_hu is .*, expected 2 numbers"),
        (
            lambda: volume_training_transforms(as_tasks({"oar": {"kind": "segmentation"}}), "ct", SIZE),
            "task 'oar' is pixel-level, and volumes are resized here. Use training_transforms",
        ),
    ],
    ids=range(8),
)
def test_what_cannot_be_meant_is_refused(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


# Resizing.


@pytest.mark.parametrize("length", [4, 5, 10, 16, 31])
def test_resizing_keeps_places(length: int) -> None:
    """Half-pixel right: a ramp over places in the volume stays that ramp, away from the borders."""
    ramp = ((torch.arange(16) + 0.5) / 16).reshape(1, 1, 16, 1, 1).expand(1, 1, 16, 3, 2)
    found = resize_smoothly(ramp, (length, 3, 2))
    expected = (torch.arange(length) + 0.5) / length
    inner = slice(1 + length // 8, length - 1 - length // 8)
    torch.testing.assert_close(found[0, 0, inner, 1, 1], expected[inner], atol=5e-3, rtol=0)


def test_resizing_agrees_with_torch_in_2d_and_averages_in_3d() -> None:
    image = torch.rand(2, 3, 20, 30)
    expected = torch.nn.functional.interpolate(image, (8, 45), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(resize_smoothly(image, (8, 45)), expected, atol=1e-5, rtol=0)
    checkered = (torch.arange(16)[:, None, None] + torch.arange(16)[:, None] + torch.arange(16)) % 2
    assert float((resize_smoothly(checkered[None, None].float(), (4, 4, 4)) - 0.5).abs().max()) < 0.01
