"""Photographs come out the right way up, in the values a network was trained on, and augmented with their masks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtl_med.errors import CaseError, GeometryError, NothingFoundError, UsageError
from mtl_med.io.picture import encode_png
from mtl_med.loading import (
    SCALINGS,
    SampleKey,
    SeededCacheDataset,
    input_items,
    picture_inference_transforms,
    picture_training_transforms,
    picture_validation_transforms,
    study_facts,
    study_items,
    training_loader,
)
from mtl_med.loading.picture_transforms import (
    LoadPictured,
    RandColourd,
    RandFramed,
    RandHaird,
    RandWarpd,
    ResizePictured,
    ScalePictured,
    blurred_by,
    hue_matrix,
    saturation_matrix,
)
from mtl_med.tasks import as_tasks

TASKS = as_tasks(
    {
        "lesion": {"kind": "segmentation", "class_names": ["Lesion"]},
        "diagnosis": {"kind": "classification", "class_names": ["nv", "mel", "df"]},
    }
)


@pytest.fixture(scope="module")
def items(picture_study: Path) -> list[dict]:
    return study_items(picture_study, "fit", TASKS, "rgb")


# Reading.


def test_a_case_is_read_rows_first_and_the_right_way_up(items: list[dict]) -> None:
    item = LoadPictured(TASKS)(items[5])
    assert (item["image"].dtype, item["image"].shape) == (torch.uint8, (3, 30, 40))
    assert item["image"][:, 0, 0].tolist() == [10, 200, 10], "the mark at the upper left"
    assert item["size"].tolist() == [30, 40]
    assert (item["lesion"].dtype, item["lesion"].shape) == (torch.uint8, (1, 30, 40))
    assert torch.equal(item["lesion"][0] == 1, item["image"][0] == 90 + 5 * 5)
    assert (item["diagnosis"].item(), item["labelled_diagnosis"].tolist()) == (1, [True]), "mel is the second here"


def test_what_is_not_labelled_is_zero_and_said_to_be_unknown(items: list[dict]) -> None:
    item = LoadPictured(TASKS)(items[8])
    assert item["labelled_lesion"].tolist() == [False] == item["labelled_diagnosis"].tolist()
    assert not item["lesion"].any()
    assert item["diagnosis"] == 0


def test_files_that_do_not_fit_are_refused(items: list[dict], tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(encode_png(np.zeros((30, 41), dtype=bool)))
    with pytest.raises(GeometryError, match=r"m.png: is a mask of 41 x 30 pixels for an image of 40 x 30"):
        LoadPictured(TASKS)({**items[0], "lesion": [str(tmp_path / "m.png")]})
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(CaseError, match=r"a.jpg"):
        LoadPictured(TASKS)({**items[0], "image": str(tmp_path / "a.jpg")})
    with pytest.raises(UsageError, match="task 'age' .regression. has no file in a study of photographs"):
        LoadPictured(as_tasks({"age": {"kind": "regression"}}))


def test_resizing_averages_and_cuts_masks_at_one_half() -> None:
    image = torch.tensor([[[0, 100, 10, 30], [100, 200, 10, 30]]], dtype=torch.uint8)
    mask = torch.tensor([[[1, 1, 1, 0], [0, 0, 0, 0]]], dtype=torch.uint8)
    item = ResizePictured((1, 2), ["lesion"])({"image": image, "lesion": mask, "other": 1})
    # A triangle of twice the reach: 3/8, 3/8 of the pair, 1/8 of each neighbour; at the border what is left of it.
    columns = [(3 * 50 + 3 * 150 + 1 * 10) / 7, (1 * 150 + 3 * 10 + 3 * 30) / 7]
    assert item["image"].flatten().tolist() == [round(value) for value in columns]
    assert item["lesion"].flatten().tolist() == [1, 0], "half or more is inside"
    same = {"image": image, "lesion": mask}
    assert ResizePictured((2, 4), ["lesion"])(same)["image"] is image


@pytest.mark.parametrize("size", [(8,), (0, 4), (1, 2, 3)])
def test_sizes_that_are_none(size: tuple) -> None:
    with pytest.raises(UsageError, match="image_size is .* Give .H, W., such as"):
        ResizePictured(size)


@pytest.mark.parametrize(
    ("scaling", "black", "white"),
    [
        ("imagenet", [-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.6400]),  # as in torchvision
        ("efficientnet_lite", [-127 / 128] * 3, [1.0] * 3),
    ],
)
def test_scalings(scaling: str, black: list[float], white: list[float]) -> None:
    scale = ScalePictured(*SCALINGS[scaling])
    for value, expected in ((0, black), (255, white)):
        for image in (torch.full((3, 2, 2), value, dtype=torch.uint8), torch.full((3, 2, 2), value / 255)):
            torch.testing.assert_close(
                scale({"image": image})["image"][:, 0, 0], torch.tensor(expected), atol=1e-4, rtol=0
            )


def test_validation_and_inference_see_the_same_image(items: list[dict], picture_study: Path) -> None:
    item = picture_validation_transforms(TASKS, (24, 32))(items[3])
    source = next(each for each in input_items(picture_study, "rgb") if each["id"] == "i3")
    seen = picture_inference_transforms((24, 32))(source)
    assert torch.equal(seen["image"], item["image"])
    assert seen["image"].shape == (3, 24, 32)
    assert seen["size"].tolist() == [30, 40]
    assert not torch.equal(
        seen["image"], picture_inference_transforms((24, 32), scaling="efficientnet_lite")(source)["image"]
    )


@pytest.mark.parametrize(
    "items_of", [lambda study: study_items(study, "fit", TASKS[:1], "ct"), lambda s: input_items(s, "ct")]
)
def test_inputs_that_no_photograph_has_are_told_once(picture_study: Path, caplog, items_of) -> None:
    with pytest.raises(UsageError, match=r"no case has 'ct', which inputs 'ct' are read from\. Use inputs 'rgb', or"):
        items_of(picture_study)
    assert not caplog.records


def test_odd_photographs_are_told_where_no_quality_table_does(tmp_path: Path, caplog) -> None:
    Image.fromarray(np.full((8, 9), 77, np.uint8)).save(tmp_path / "grey.png")
    read = picture_inference_transforms((8, 9))
    read({"id": "grey", "image": str(tmp_path / "grey.png")})
    assert "grey: image is grey; its three channels are equal" in caplog.text


def test_a_folder_of_photographs(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.jpeg", "notes.txt", ".hidden.png", "scan.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    found = input_items(tmp_path, "rgb")
    assert [(item["id"], Path(item["image"]).name) for item in found] == [
        ("a", "a.JPG"),
        ("b", "b.png"),
        ("c", "c.jpeg"),
    ]
    (tmp_path / "a.png").write_bytes(b"")
    found = input_items(tmp_path, "rgb")
    assert [item["id"] for item in found] == ["a.JPG", "a.png", "b", "c"], "the others are predicted"
    assert [item.get("error", "") for item in found[:2]] == [
        f"{tmp_path}: a.JPG and a.png would write into one folder of predictions. Rename or move all but one of them."
    ] * 2
    with pytest.raises(NothingFoundError, match=r"nor a folder of photographs \(\*.jpg, \*.png\)"):
        input_items(
            shutil.copytree(tmp_path, tmp_path / "deeper", ignore=lambda *_: [p.name for p in tmp_path.iterdir()]),
            "rgb",
        )


def test_photographs_have_no_spacing(picture_study: Path) -> None:
    assert study_facts(picture_study)["median_spacing_mm"] is None


# Augmentation.


def test_training_without_augmentation_is_validation(items: list[dict]) -> None:
    train = SeededCacheDataset(items, picture_training_transforms(TASKS, (24, 32), strength=0), num_workers=1)
    check = picture_validation_transforms(TASKS, (24, 32))
    for number in range(9):
        found, expected = train[SampleKey(1, number)], check(items[number])
        torch.testing.assert_close(found["image"], expected["image"], rtol=0, atol=1e-5)
        assert torch.equal(found["lesion"], expected["lesion"])


@pytest.mark.parametrize("strength", [0, 1])
def test_the_cache_is_small(items: list[dict], strength: float) -> None:
    data = SeededCacheDataset(items, picture_training_transforms(TASKS, (24, 32), strength=strength), num_workers=1)
    for item in data._cache:
        assert item["image"].dtype == item["lesion"].dtype == torch.uint8
        assert item["image"].shape == (3, 24, 32)


def test_a_sample_depends_on_seed_epoch_and_index_alone(items: list[dict]) -> None:
    chain = picture_training_transforms(TASKS, (24, 32), hair=0.5, frame=0.5)
    data = SeededCacheDataset(items, chain, seed=3, num_workers=1)

    def batches(workers: int) -> list[torch.Tensor]:
        loader = training_loader(data, 3, workers=workers)
        loader.sampler.set_epoch(2)
        return [batch["image"] for batch in loader]

    alone = batches(0)
    torch.manual_seed(9)
    np.random.seed(9)
    assert all(torch.equal(a, b) for a, b in zip(alone, batches(2), strict=True))
    first = data[SampleKey(1, 0)]["image"]
    assert torch.equal(first, data[SampleKey(1, 0)]["image"])
    assert not torch.equal(first, data[SampleKey(2, 0)]["image"])


def circle(height: int, width: int, radius: float, row: float, column: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((rows - row) ** 2 + (columns - column) ** 2 < radius**2)[None]


def warps(strength: float, seeds: Iterable[int], mask: torch.Tensor) -> list[dict]:
    found = []
    for seed in seeds:
        warp = RandWarpd(["lesion"], strength)
        warp.set_random_state(seed=seed)
        found.append(warp({"image": (mask * 200).to(torch.uint8).expand(3, -1, -1), "lesion": mask.to(torch.uint8)}))
    return found


def test_a_mask_goes_where_its_image_goes() -> None:
    for item in warps(1.0, range(20), circle(48, 64, 11, 20, 38)):
        assert (item["image"].dtype, item["lesion"].dtype) == (torch.float32, torch.uint8)
        assert torch.equal(item["lesion"][0] == 1, item["image"][0] > 0.5 * 200 / 255)


def test_turns_keep_shape_and_size_in_oblong_images() -> None:
    """Turned in halves of sides instead of pixels, a circle would become an ellipse."""
    places = set()
    for item in warps(0.0, range(12), circle(48, 64, 8, 22, 33)):
        rows, columns = torch.nonzero(item["lesion"][0]).double().T
        assert len(rows) == pytest.approx(193, rel=0.04)
        assert float(rows.var() / columns.var()) == pytest.approx(1, rel=0.1)
        distance = math.hypot(float(rows.mean()) - 23.5, float(columns.mean()) - 31.5)
        assert distance == pytest.approx(math.hypot(22 - 23.5, 33 - 31.5), abs=0.2), "about the centre"
        places.add((round(float(rows.mean())), round(float(columns.mean()))))
    assert len(places) > 5


def test_a_warp_that_moves_nothing_changes_nothing() -> None:
    image = torch.rand(3, 6, 10)
    grid = torch.nn.functional.affine_grid(
        RandWarpd()._matrix(0.0, 1.0, [0, 0, 0, 0], 6, 10)[None], [1, 1, 6, 10], align_corners=False
    )
    found = torch.nn.functional.grid_sample(image[None], grid, padding_mode="reflection", align_corners=False)[0]
    torch.testing.assert_close(found, image, rtol=0, atol=1e-5)


def test_colours() -> None:
    red, grey = torch.tensor([1.0, 0, 0]), torch.full((3,), 0.4)
    torch.testing.assert_close(hue_matrix(2 * math.pi / 3) @ red, torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(hue_matrix(0.7) @ grey, grey)
    torch.testing.assert_close(saturation_matrix(0.3) @ grey, grey)
    torch.testing.assert_close(saturation_matrix(0.0) @ red, torch.full((3,), 0.299))
    torch.testing.assert_close(saturation_matrix(1.0), torch.eye(3))


def coloured(strength: float, seed: int, image: torch.Tensor) -> torch.Tensor:
    colour = RandColourd(strength)
    colour.set_random_state(seed=seed)
    return colour({"image": image})["image"]


def test_colours_change_within_their_range_and_grow_with_strength() -> None:
    image = 0.3 + 0.4 * torch.rand(3, 16, 16)
    torch.testing.assert_close(coloured(0.0, 1, image), image, rtol=0, atol=1e-5)
    changes = {strength: [coloured(strength, seed, image) - image for seed in range(30)] for strength in (0.2, 1.0)}
    assert all(float(change.abs().max()) < 0.5 for change in changes[1.0])
    small, large = (torch.stack(changes[strength]).abs().mean() for strength in (0.2, 1.0))
    assert 3 * small < large
    assert all(coloured(3.0, seed, image).min() >= 0 and coloured(3.0, seed, image).max() <= 1 for seed in range(10))


def test_blur_keeps_the_mean_and_is_a_gaussian() -> None:
    image = torch.zeros(1, 21, 21)
    image[0, 10, 10] = 1
    found = blurred_by(image, 1.5)[0]
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found[10, 12] / found[10, 10]) == pytest.approx(math.exp(-0.5 * (2 / 1.5) ** 2), rel=1e-4)
    torch.testing.assert_close(blurred_by(torch.full((3, 5, 5), 0.7), 2.0), torch.full((3, 5, 5), 0.7))


def test_hair_is_thin_and_dark() -> None:
    image = torch.full((3, 96, 128), 0.8)
    for seed in range(10):
        hair = RandHaird(1.0)
        hair.set_random_state(seed=seed)
        found = hair({"image": image})["image"]
        darker = (found < 0.7).float().mean()
        assert 0.002 < darker < 0.15
        assert found.min() >= 0
    assert RandHaird(0.0)({"image": image})["image"] is image


def test_a_frame_is_dark_at_the_corners_and_leaves_the_middle() -> None:
    image = torch.full((3, 96, 128), 0.8)
    for seed in range(10):
        frame = RandFramed(1.0)
        frame.set_random_state(seed=seed)
        found = frame({"image": image})["image"]
        corners = found[0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.mean() < 0.4
        torch.testing.assert_close(found[:, 28:68, 44:84], image[:, 28:68, 44:84])
    assert RandFramed(0.0)({"image": image})["image"] is image


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "imagnet"}, "unknown scaling 'imagnet'. Did you mean imagenet"),
        ({"strength": -1}, "strength is -1. Give 0 to 3"),
        ({"hair": 20}, "hair is 20. Give 0 to 1"),
        ({"frame": 1.5}, "frame is 1.5. Give 0 to 1"),
        ({"strength": "strong"}, "strength is 'strong', expected a number. Give 0 to 3"),
        ({"hair": "yes"}, "hair is 'yes', expected a number. Give 0 to 1"),
    ],
)
def test_options_that_cannot_be_meant(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        picture_training_transforms(TASKS, (24, 32), **options)


def test_a_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    pixels = np.tile(np.linspace(0, 255, 40, dtype=np.uint8)[:, None, None], (1, 30, 3))
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    item = picture_inference_transforms((40, 30))({"id": "a", "image": str(tmp_path / "a.jpg")})
    mean, deviation = (torch.tensor(each).reshape(3, 1, 1) for each in SCALINGS["imagenet"])
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    torch.testing.assert_close(item["image"] * deviation + mean, expected, rtol=0, atol=0.02)
