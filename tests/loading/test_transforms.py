"""What reading and augmentation do to voxels, labels and what is known of them: exact numbers on tiny cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from mtl_med.errors import GeometryError, UsageError
from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.loading.transforms import (
    BoxOfMaskd,
    CropToMaskd,
    LoadCased,
    RandCropAroundMaskd,
    RandIntensityd,
    RandMirrord,
    TakeSliced,
    mirror_permutation,
)
from mtl_med.tasks import Task

SHAPE = (4, 3, 2)
GRID = Grid(SHAPE, np.diag([1.0, 1.0, 1.0, 1.0]))


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, values: object, dtype: type = np.uint8, grid: Grid = GRID) -> str:
        array = np.zeros(grid.shape, dtype)
        array[...] = np.asarray(values, dtype)
        write_nifti(tmp_path / f"{name}.nii.gz", array, grid)
        return str(tmp_path / f"{name}.nii.gz")

    return write


def box(*slices: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[slices] = 1
    return mask


class TestLoadCased:
    def test_prescription_channel_is_the_voxelwise_maximum_over_70_gy(self, write) -> None:
        targets = [(write("PTV70", box(slice(1, 2))), 70.0), (write("PTV56", box(slice(0, 3))), 56.0)]
        for order in (targets, targets[::-1]):
            item = LoadCased()({"image": write("ct", 0, np.int16), "ptv": order})
            assert item["ptv"].shape == (1, *SHAPE)
            np.testing.assert_allclose(item["ptv"][0, :, 0, 0].numpy(), [0.8, 1.0, 0.8, 0.0], rtol=1e-7)

    def test_overlapping_structures_keep_every_voxel(self, write) -> None:
        large, small = box(slice(0, 4)), box(slice(1, 3), slice(1, 2))
        task = Task("oar", "segmentation", 2, ("large", "small"))
        item = LoadCased([task])(
            {"image": write("ct", 0, np.int16), "oar": [write("large", large), write("small", small)]}
        )
        np.testing.assert_array_equal(item["oar"].numpy(), np.stack([large, small]))
        assert item["oar"].dtype == torch.uint8

    def test_a_dose_is_brought_to_percent(self, write) -> None:
        item = LoadCased([Task("dose", "regression", unit="percent")])(
            {"image": write("ct", 0, np.int16), "dose": [write("dose", 30.0, np.float32)], "factor_dose": 100 / 60}
        )
        assert item["dose"].unique().tolist() == [50.0]

    def test_a_missing_label_is_zero_and_said_to_be_missing(self, write) -> None:
        tasks = [
            Task("oar", "segmentation", 2, ("a", "b")),
            Task("dose", "regression"),
            Task("stage", "classification", 3),
        ]
        labels = {"oar": ["", write("b", 1)], "dose": [""], "stage": [""]}
        item = LoadCased(tasks)({"image": write("ct", -40, np.int16), **labels})
        assert item["image"].unique().tolist() == [-40.0]
        assert item["labelled_oar"].tolist() == [False, True]
        assert item["labelled_dose"].tolist() == item["labelled_stage"].tolist() == [False]
        assert item["oar"].flatten(1).float().mean(1).tolist() == [0.0, 1.0]
        assert item["dose"].shape == (1, *SHAPE)
        assert not item["dose"].any()
        assert int(item["stage"]) == 0
        assert item["mask_dose"].shape == (1, *SHAPE), "a case without dose has no file of it, and batches need one"
        assert not item["mask_dose"].any()

    def test_the_mask_of_a_dose_is_never_made_up(self, write) -> None:
        item = LoadCased([Task("dose", "regression")])(
            {"image": write("ct", 0, np.int16), "dose": [write("dose", 30.0, np.float32)]}
        )
        assert "mask_dose" not in item

    def test_a_class_index(self, write) -> None:
        item = LoadCased([Task("stage", "classification", 3)])({"image": write("ct", 0, np.int16), "stage": ["2"]})
        assert int(item["stage"]) == 2
        assert item["labelled_stage"].tolist() == [True]

    @pytest.mark.parametrize("key", ["dose", "mask_dose", "ptv", "oar"])
    def test_a_file_on_another_grid_is_refused(self, write, key: str) -> None:
        shifted = Grid(SHAPE, np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 0.5)
        path = write("other", 1, np.float32 if key == "dose" else np.uint8, shifted)
        value = {"dose": [path], "mask_dose": path, "ptv": [(path, 70.0)], "oar": [path]}[key]
        tasks = [task for task in (Task("dose", "regression"), Task("oar", "segmentation", 1)) if task.name == key]
        with pytest.raises(GeometryError, match=r"other\.nii\.gz: grids differ"):
            LoadCased(tasks)({"image": write("ct", 0, np.int16), key: value})


def located(shape: tuple[int, ...]) -> torch.Tensor:
    """(3, *shape): every voxel holds its own indices."""
    return torch.stack(torch.meshgrid(*[torch.arange(size) for size in shape], indexing="ij")).float()


def cuts(
    shape: tuple[int, ...], boxes: tuple[tuple[int, int], ...], patch: tuple[int, ...], jitter: int, count: int = 300
):
    """First voxels of many random patches, (count, 3)."""
    mask = torch.zeros(1, *shape)
    mask[(0, *(slice(*pair) for pair in boxes))] = 1
    transform = RandCropAroundMaskd(["image"], "mask", patch, jitter)
    transform.set_random_state(seed=1)
    found = []
    for _ in range(count):
        cut = transform({"image": located(shape), "mask": mask})["image"]
        assert cut.shape == (3, *patch)
        assert torch.equal(cut, located(patch) + cut[:, :1, :1, :1]), "a patch is a piece of the volume"
        found.append(cut[:, 0, 0, 0])
    return torch.stack(found).long().numpy()


class TestCrop:
    def test_a_small_mask_stays_inside_the_patch_but_for_the_jitter(self) -> None:
        starts = cuts((30, 30, 30), ((12, 16), (2, 6), (26, 30)), (10, 10, 10), jitter=2)
        # The box 12..15 lies inside a patch of 10 that starts at 6..12, two voxels more on either side; the volume's
        # own borders cut that range for the boxes 2..5 and 26..29.
        assert [set(axis) for axis in starts.T] == [set(range(4, 15)), set(range(0, 5)), set(range(18, 21))]

    def test_a_large_mask_holds_the_patch_but_for_the_jitter(self) -> None:
        starts = cuts((30, 30, 30), ((5, 25), (0, 30), (2, 30)), (10, 10, 10), jitter=2)
        assert [set(axis) for axis in starts.T] == [set(range(3, 18)), set(range(0, 21)), set(range(0, 21))]

    def test_without_jitter_the_whole_mask_is_seen(self) -> None:
        starts = cuts((30, 30, 30), ((12, 16), (2, 6), (20, 30)), (10, 10, 10), jitter=0)
        assert [set(axis) for axis in starts.T] == [set(range(6, 13)), set(range(0, 3)), {20}]

    @pytest.mark.parametrize("mask", [None, torch.zeros(1, 12, 8, 8)], ids=["absent", "empty"])
    def test_without_a_mask_the_whole_volume_counts(self, mask) -> None:
        transform = RandCropAroundMaskd(["image"], "mask", (8, 8, 8), jitter=3)
        transform.set_random_state(seed=0)
        item = {"image": located((12, 8, 8))} | ({} if mask is None else {"mask": mask})
        starts = {int(transform(item)["image"][0, 0, 0, 0]) for _ in range(100)}
        assert starts == {0, 1, 2, 3, 4}

    def test_all_keys_are_cut_alike_and_missing_ones_do_not_matter(self) -> None:
        transform = RandCropAroundMaskd(["image", "oar", "dose"], "mask", (4, 4, 4))
        volume = located((9, 9, 9))
        item = transform({"image": volume, "oar": volume.clone(), "mask": torch.ones(1, 9, 9, 9)})
        assert torch.equal(item["image"], item["oar"])
        assert "dose" not in item

    @pytest.mark.parametrize("noted", ["mask", "other"])
    def test_a_box_that_was_noted_is_used_and_not_passed_on(self, noted: str) -> None:
        mask = torch.zeros(1, 20, 9, 9)
        mask[:, 12:14] = 1
        item = {"image": located((20, 9, 9)), "mask": mask}
        transform = RandCropAroundMaskd(["image"], "mask", (4, 4, 4))
        expected = transform.set_random_state(seed=0)(item)
        found = transform.set_random_state(seed=0)(BoxOfMaskd(noted)(item))
        assert torch.equal(found["image"], expected["image"])
        assert found.keys() == item.keys()
        moved = BoxOfMaskd("mask")(item) | {"mask": torch.ones(1, 20, 9, 9)}
        assert torch.equal(transform.set_random_state(seed=0)(moved)["image"], expected["image"])

    def test_a_volume_smaller_than_the_patch_is_refused(self) -> None:
        with pytest.raises(UsageError, match="a volume of 3 voxels is smaller than the patch of 4"):
            RandCropAroundMaskd(["image"], "mask", (4, 4, 4))({"image": torch.zeros(1, 8, 3, 8)})


def test_slices_are_taken_of_what_is_there() -> None:
    item = TakeSliced(["image", "dose"])({"image": located((4, 3, 1)), "labelled": torch.ones(2)})
    assert torch.equal(item["image"], located((4, 3, 1))[..., 0])
    assert item.keys() == {"image", "labelled"} and item["labelled"].shape == (2,)


class TestCropToMask:
    def cut(self, box: tuple[int, int], least: int, margin: int, size: int = 20) -> tuple[int, int]:
        """First and last voxel along axis 0 that are kept."""
        mask = torch.zeros(1, size, 2, 2)
        mask[:, slice(*box)] = 1
        item = CropToMaskd(["image", "mask"], "mask", (least, 1, 1), margin)(
            {"image": located(mask.shape[1:]), "mask": mask}
        )
        kept = item["image"][0, :, 0, 0].tolist()
        assert kept == list(range(int(kept[0]), int(kept[-1]) + 1))
        assert torch.equal(item["mask"], mask[:, int(kept[0]) : int(kept[-1]) + 1])
        return int(kept[0]), int(kept[-1])

    @pytest.mark.parametrize(
        ("box", "least", "margin", "expected"),
        [
            ((8, 12), 1, 2, (6, 13)),
            ((8, 12), 10, 2, (5, 14)),
            ((0, 4), 10, 2, (0, 9)),
            ((17, 20), 10, 2, (10, 19)),
            ((2, 18), 1, 9, (0, 19)),
            ((8, 12), 30, 0, (0, 19)),
        ],
        ids=["margin", "least-size", "at-the-start", "at-the-end", "whole", "too-small"],
    )
    def test_box(self, box: tuple[int, int], least: int, margin: int, expected: tuple[int, int]) -> None:
        assert self.cut(box, least, margin) == expected

    def test_without_a_mask_nothing_is_cut(self) -> None:
        image = located((5, 4, 3))
        crop = CropToMaskd(["image"], "mask", (2, 2, 2))
        assert torch.equal(crop({"image": image})["image"], image)
        assert torch.equal(crop({"image": image, "mask": torch.zeros(1, 5, 4, 3)})["image"], image)


class TestMirror:
    NAMES = ("Brainstem", "Parotid_R", "Parotid_L", "Lens_L", "Lens_R")

    def test_permutation(self) -> None:
        assert mirror_permutation(self.NAMES) == [0, 2, 1, 4, 3]

    @pytest.mark.parametrize("names", [("Parotid_L",), ("Parotid_R", "Lens_L")], ids=["alone", "other-twin"])
    def test_a_lonely_structure_is_refused(self, names) -> None:
        with pytest.raises(UsageError, match="has no counterpart"):
            mirror_permutation(names)

    def test_left_and_right_change_places_with_what_is_known_of_them(self) -> None:
        right, left = torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)
        right[3], left[1] = 1, 1
        item = {
            "image": located((4, 2, 2)),
            "oar": torch.stack([right + left, right, left]),
            "labelled_oar": torch.tensor([True, True, False]),
            "dose": located((4, 2, 2))[:1],
            "labelled_dose": torch.tensor([False]),
        }
        mirror = RandMirrord(["image", "oar", "dose"], {"oar": [0, 2, 1]}, prob=1.0)
        seen = mirror(item)
        assert seen["image"][0, :, 0, 0].tolist() == seen["dose"][0, :, 0, 0].tolist() == [3, 2, 1, 0]
        assert seen["image"][1].equal(item["image"][1])
        # The right organ of the mirrored patient lies where the left one was seen from the other side.
        assert seen["oar"][1, :, 0, 0].tolist() == [0, 0, 1, 0]
        assert seen["oar"][2, :, 0, 0].tolist() == [1, 0, 0, 0]
        assert seen["labelled_oar"].tolist() == [True, False, True]
        assert seen["labelled_dose"].tolist() == [False]
        again = mirror(seen)
        assert all(torch.equal(again[key], item[key]) for key in item)

    def test_probability(self) -> None:
        mirror = RandMirrord(["image"], {}, prob=0.5)
        mirror.set_random_state(seed=0)
        image = located((2, 1, 1))
        flipped = sum(bool(mirror({"image": image})["image"][0, 0, 0, 0]) for _ in range(400))
        assert 160 < flipped < 240


class TestIntensity:
    def test_bounds_are_reached_and_kept(self) -> None:
        transform = RandIntensityd(["image"], scale=0.1, shift=0.5, prob=1.0)
        transform.set_random_state(seed=0)
        image = torch.tensor([0.0, 10.0]).reshape(1, 2, 1, 1)
        values = torch.stack([transform({"image": image})["image"].flatten() for _ in range(2000)])
        shifts, scales = values[:, 0], (values[:, 1] - values[:, 0]) / 10 - 1
        assert -0.5 <= shifts.min() < -0.49
        assert 0.49 < shifts.max() <= 0.5
        assert scales.min() + 1e-6 >= -0.1
        assert scales.min() < -0.098
        assert 0.098 < scales.max() <= 0.1 + 1e-6
        assert abs(np.corrcoef(shifts, scales)[0, 1]) < 0.1

    def test_nothing_with_probability_zero_and_other_keys_never(self) -> None:
        item = {"image": torch.ones(1, 2, 2, 2), "dose": torch.ones(1, 2, 2, 2)}
        assert torch.equal(RandIntensityd(["image"], prob=0.0)(item)["image"], item["image"])
        assert torch.equal(RandIntensityd(["image"], prob=1.0)(item)["dose"], item["dose"])


def test_the_same_seed_gives_the_same_augmentation() -> None:
    chain = Compose(
        [
            RandCropAroundMaskd(["image"], "mask", (4, 4, 4)),
            RandMirrord(["image"], {}),
            RandIntensityd(["image"]),
        ]
    )
    item = {"image": located((12, 12, 12)), "mask": torch.ones(1, 12, 12, 12)}

    def draw(seed: int) -> torch.Tensor:
        chain.set_random_state(seed=seed)
        return chain(item)["image"]

    assert torch.equal(draw(1), draw(1))
    assert len({tuple(draw(seed).flatten().tolist()) for seed in range(20)}) == 20
