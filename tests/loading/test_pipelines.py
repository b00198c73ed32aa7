"""What the network sees of a case: HU, prescriptions and labels in the right voxels, for training and inference."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_med.errors import UsageError
from mtl_med.geometry import Grid
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.loading import (
    inference_transforms,
    input_items,
    study_items,
    training_transforms,
    validation_transforms,
)
from mtl_med.loading.pipelines import body_mask
from mtl_med.loading.transforms import RandIntensityd
from mtl_med.manifest import Manifest
from mtl_med.prep.body import body_mask as body_of_study
from mtl_med.tasks import as_tasks

TASKS = as_tasks(
    {"oar": {"kind": "segmentation", "class_names": ["Parotid_R", "Parotid_L"]}, "dose": {"kind": "regression"}}
)


def array(study: Path, case: str, key: str) -> np.ndarray:
    return read_nifti(study / "cases" / case / f"{key}.nii.gz", np.float32)[0]


@pytest.mark.parametrize(
    ("hu", "value"), [(-3000, -1.0), (-1000, -1.0), (-500, -0.5), (0, 0.0), (1000, 1.0), (2000, 2.0), (3000, 2.0)]
)
def test_hounsfield_units_are_clipped_and_divided_by_1000(tmp_path: Path, hu: int, value: float) -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    write_nifti(tmp_path / "a.nii.gz", np.full(grid.shape, hu, np.int16), grid)
    item = inference_transforms("ct")({"id": "a", "image": str(tmp_path / "a.nii.gz")})
    assert item["image"].shape == (1, 4, 4, 4)
    torch.testing.assert_close(item["image"].unique().as_tensor(), torch.tensor([value]), atol=1e-6, rtol=0)


def test_a_validation_case_is_the_case_around_its_mask(tiny_study: Path) -> None:
    item = validation_transforms(TASKS, "ct+ptv", (8, 8, 8), margin=2)(
        study_items(tiny_study, "tune", TASKS, "ct+ptv")[0]
    )
    inside = np.argwhere(array(tiny_study, "p4", "mask_dose"))
    cut = tuple(slice(max(0, low - 2), high + 3) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    expected = {
        "image": np.stack([array(tiny_study, "p4", "ct") / 1000, array(tiny_study, "p4", "structures/PTV70")]),
        "oar": np.stack([array(tiny_study, "p4", f"structures/{name}") for name in ("Parotid_R", "Parotid_L")]),
        "dose": array(tiny_study, "p4", "dose")[None],
        "mask_dose": array(tiny_study, "p4", "mask_dose")[None],
    }
    expected["image"][0] = np.clip(expected["image"][0], -1, 2)
    for key, values in expected.items():
        np.testing.assert_allclose(item[key].numpy(), values[(slice(None), *cut)], atol=1e-6, err_msg=key)
    assert item["labelled_oar"].tolist() == [True, True]
    assert "ptv" not in item


@pytest.mark.parametrize("patch", [(24, 24, 24), (48, 40, 16)], ids=["cut", "padded"])
def test_a_training_patch_without_augmentation_is_a_piece_of_the_case(tiny_study: Path, patch) -> None:
    chain = training_transforms(TASKS, "ct+ptv", patch, mirror=False)
    chain.transforms[-2].prob = 0.0  # intensity
    chain.set_random_state(seed=0)
    item = chain(study_items(tiny_study, "fit", TASKS, "ct+ptv")[0])
    assert item["image"].shape == (2, *patch)
    ct, dose, ptv = (array(tiny_study, "p0", key) for key in ("ct", "dose", "structures/PTV70"))
    # Hardly two voxels of the body share a dose, so that it tells where a voxel of the patch came from.
    positions = {float(value): index for index, value in np.ndenumerate(dose) if value > 0}
    hits = [tuple(hit) for hit in torch.nonzero(item["dose"][0]).tolist()]
    sources = [positions[float(item["dose"][0][hit])] for hit in hits]
    offsets = Counter(tuple(np.subtract(source, hit).tolist()) for hit, source in zip(hits, sources, strict=True))
    offset, count = offsets.most_common(1)[0]
    assert count > 0.5 * len(hits)
    for hit in hits:
        source = tuple(np.add(hit, offset))
        if all(0 <= index < size for index, size in zip(source, ct.shape, strict=True)):
            assert float(item["dose"][0][hit]) == dose[source]
            assert float(item["image"][0][hit]) == pytest.approx(np.clip(ct[source] / 1000, -1, 2), abs=1e-6)
            assert float(item["image"][1][hit]) == ptv[source]


def test_padding_repeats_the_image_but_no_label(tiny_study: Path) -> None:
    """A voxel beyond the scan has no dose and belongs to no structure or mask, whatever the border holds."""
    item = validation_transforms(TASKS, "ct+ptv", (60, 36, 32))(study_items(tiny_study, "tune", TASKS, "ct+ptv")[0])
    assert item["image"].shape == (2, 60, 36, 32)
    beyond = [slice(0, 10), slice(50, 60)]
    for part in beyond:
        assert not any(bool(item[key][:, part].any()) for key in ("oar", "dose", "mask_dose"))
        assert bool((item["image"][0, part] < -0.9).all())
        assert not item["image"][1, part].any()
    assert item["mask_dose"].sum() == array(tiny_study, "p4", "mask_dose").sum()


def test_mirrored_patches_keep_left_and_right(tiny_study: Path) -> None:
    """In RAS Parotid_R lies at larger indices of axis 0 than Parotid_L, in every patch, mirrored or not."""
    items = study_items(tiny_study, "fit", TASKS, "ct")
    chain = training_transforms(TASKS, "ct", (40, 36, 32))
    flips = 0
    for seed in range(8):
        chain.set_random_state(seed=seed)
        item = chain(items[0])
        right, left = (np.argwhere(channel.numpy())[:, 0].mean() for channel in item["oar"])
        assert right > left
        flips += bool(torch.nonzero(item["dose"][0] == item["dose"].max())[0, 0] < 20)
    assert 0 < flips < 8
    chain.set_random_state(seed=0)
    flags = set()
    for _ in range(20):
        flags.add(tuple(chain(items[1])["labelled_oar"].tolist()))
    assert flags == {(True, False), (False, True)}, "p1 has no contour of Parotid_L"


class TestBodyMask:
    def test_the_largest_component_above_minus_300_hu(self) -> None:
        ct = torch.full((1, 6, 4, 4), -1000.0)
        ct[0, :3], ct[0, 5, 0, 0], ct[0, 0, 0, 0] = 0.0, 500.0, -300.0
        mask = body_mask(ct)
        assert mask.shape == ct.shape
        assert mask.sum() == 47
        assert not mask[0, 0, 0, 0]

    def test_it_is_the_mask_that_preparation_writes(self) -> None:
        """Also where two parts have the same size."""
        ct = torch.full((1, 5, 5, 5), -1000.0)
        ct[0, 0, 0, :2] = ct[0, 4, :2, 4] = ct[0, 2, 2, 2] = 0.0
        assert np.array_equal(body_mask(ct)[0].numpy(), body_of_study(ct[0].numpy()))

    def test_air_alone_is_all_of_it(self) -> None:
        assert body_mask(torch.full((1, 2, 2, 2), -1000.0)).all()


def test_inference_sees_what_validation_sees(tiny_study: Path) -> None:
    """Both chains give a voxel of the body the same values."""
    seen = inference_transforms("ct+ptv")(input_items(tiny_study, "ct+ptv", splits=["tune"])[0])
    labelled = validation_transforms(TASKS, "ct+ptv", (8, 8, 8), margin=4)(
        study_items(tiny_study, "tune", TASKS, "ct+ptv")[0]
    )
    assert torch.equal(seen["image"].as_tensor(), labelled["image"])
    assert set(seen) == {"id", "image", "source", "possible_dose_mask", "prescription_gy"}


def test_small_images_are_padded_to_the_patch(tmp_path: Path) -> None:
    grid = Grid((5, 6, 7), np.eye(4))
    write_nifti(tmp_path / "a.nii.gz", np.zeros(grid.shape, np.int16), grid)
    item = inference_transforms("ct", patch_size=(8, 8, 4))({"id": "a", "image": str(tmp_path / "a.nii.gz")})
    assert item["image"].shape == (1, 8, 8, 7)


def test_the_study_of_these_tests_is_whole(tiny_study: Path) -> None:
    manifest = Manifest.read(tiny_study)
    assert [case.split for case in manifest] == ["fit"] * 4 + ["tune", "validation"]
    assert not manifest.cases[1].has("structures/Parotid_L")
    assert manifest.cases[1].structures["Parotid_L"].status == "not_contoured"
    assert not manifest.cases[2].has("dose")


@pytest.mark.parametrize("inputs", ["ct", "ct+ptv"])
def test_a_patch_of_two_numbers_is_an_axial_slice(tiny_study: Path, inputs: str) -> None:
    chain = training_transforms(TASKS, inputs, (24, 16), mirror=False)
    for step in chain.transforms:
        if isinstance(step, RandIntensityd):
            step.prob = 0.0
    chain.set_random_state(seed=0)
    ct, dose = array(tiny_study, "p0", "ct"), array(tiny_study, "p0", "dose")
    positions = {float(value): index for index, value in np.ndenumerate(dose) if value > 0}
    heights = set()
    for _ in range(6):
        item = chain(study_items(tiny_study, "fit", TASKS, inputs)[0])
        assert item["image"].shape == (2 if "ptv" in inputs else 1, 24, 16)
        assert {tuple(item[key].shape) for key in ("dose", "mask_dose")} == {(1, 24, 16)}
        assert item["oar"].shape == (2, 24, 16)
        hits = torch.nonzero(item["dose"][0]).tolist()
        if not hits:  # a slice above or below the body
            continue
        sources = [positions[float(item["dose"][0, x, y])] for x, y in hits]
        offsets = Counter((i - x, j - y, k) for (x, y), (i, j, k) in zip(hits, sources, strict=True))
        (i, j, k), count = offsets.most_common(1)[0]
        assert count > 0.4 * len(hits)  # other voxels of the body may share a dose
        expected = np.clip(ct[i : i + 24, j : j + 16, k] / 1000, -1, 2)
        np.testing.assert_allclose(item["image"][0].numpy(), expected, atol=1e-6)
        heights.add(k)
    assert len(heights) > 2


def test_validation_and_inference_keep_volumes_for_slices(tiny_study: Path) -> None:
    item = validation_transforms(TASKS, "ct", (64, 32))(study_items(tiny_study, "tune", TASKS, "ct")[0])
    assert item["image"].ndim == 4
    assert item["image"].shape[1] == 64
    assert item["image"].shape[3] < 64
    chain = inference_transforms("ct", patch_size=(64, 32))
    assert chain(input_items(tiny_study, "ct", splits=["tune"])[0])["image"].shape[1] == 64


@pytest.mark.parametrize("patch", [(8,), (8, 8, 8, 8)])
def test_a_patch_of_other_dimensions_is_refused(patch: tuple) -> None:
    with pytest.raises(UsageError, match=r"patch_size .* has \d numbers. Give two .2D. or three .3D."):
        training_transforms(TASKS, "ct", patch)
