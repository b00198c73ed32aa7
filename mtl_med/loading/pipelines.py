"""The transform chains of training and inference, which share every deterministic step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CropForegroundd,
    DeleteItemsd,
    EnsureTyped,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
    Transform,
)

from mtl_med.bundle import boolean
from mtl_med.errors import UsageError
from mtl_med.loading.datalist import check_inputs
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
from mtl_med.prep.body import body_mask as body_of
from mtl_med.tasks import Task, as_tasks

__all__ = [
    "HU_MAX",
    "HU_MIN",
    "body_mask",
    "inference_transforms",
    "read_steps",
    "training_transforms",
    "validation_transforms",
]

HU_MIN, HU_MAX = -1000.0, 2000.0
"""CT is clipped to this range and divided by 1000, so that air is -1, water 0 and dense bone 2."""

# A crop never pads, and leaves no coordinates in the item: what inverts it travels with the image.
_CROP: dict[str, Any] = {"allow_smaller": True, "start_coord_key": None, "end_coord_key": None}


def body_mask(ct_hu: torch.Tensor) -> torch.Tensor:
    """The body as `mtl_med.prep.body` knows it, of a tensor.

    Args:
        ct_hu: (1, X, Y, Z), HU.

    Returns:
        bool tensor of the same shape.
    """
    return torch.from_numpy(body_of(np.asarray(ct_hu[0]))).bool()[None]


def _maps(tasks: Sequence[Task], inputs: str) -> dict[str, str]:
    """Keys of all maps (C, X, Y, Z) and how they are interpolated."""
    modes = {"image": "bilinear"}
    if "ptv" in inputs:
        modes["ptv"] = "nearest"
    modes |= {
        task.name: "bilinear" if task.kind == "regression" else "nearest" for task in tasks if task.is_pixel_level
    }
    return modes | {"mask_dose": "nearest"}


def read_steps(tasks: Sequence[Task], inputs: str, spacing_mm: Sequence[float] | None) -> list[Transform]:
    """Read a case, turn it to RAS and resample it where a spacing is given."""
    modes = _maps(tasks, inputs)
    steps: list[Transform] = [
        LoadCased(tasks),
        Orientationd(list(modes), axcodes="RAS", labels=None, allow_missing_keys=True),
    ]
    if spacing_mm is not None:
        steps.append(
            Spacingd(list(modes), pixdim=tuple(spacing_mm), mode=tuple(modes.values()), allow_missing_keys=True)
        )
    return steps


def _scale() -> ScaleIntensityRanged:
    return ScaleIntensityRanged("image", HU_MIN, HU_MAX, HU_MIN / 1000, HU_MAX / 1000, clip=True)


def _join(inputs: str) -> list[Transform]:
    return [ConcatItemsd(["image", "ptv"], "image"), DeleteItemsd("ptv")] if "ptv" in inputs else []


def _crop_to_mask(tasks: Sequence[Task], inputs: str, patch_size: Sequence[int], margin: int) -> list[Transform]:
    """Keep what patches around the possible-dose mask can reach, so that the cache stays small."""
    maps = [key for key in _maps(tasks, inputs) if key != "image"]
    return [
        CropToMaskd(["image", *maps], "mask_dose", patch_size, margin),
        SpatialPadd(["image"], patch_size, mode="edge"),
        SpatialPadd(maps, patch_size, mode="constant", allow_missing_keys=True),
    ]


def _in_3d(patch_size: Sequence[int]) -> tuple[int, int, int]:
    """A patch of two numbers is an axial slice of one voxel.

    Raises:
        UsageError: neither two nor three numbers.
    """
    if len(patch_size) not in (2, 3):
        raise UsageError(
            f"patch_size {list(patch_size)} has {len(patch_size)} numbers", fix="Give two (2D) or three (3D)"
        )
    x, y, z = (*patch_size, 1)[:3]
    return int(x), int(y), int(z)


def _flatten(keys: Sequence[str], patch_size: Sequence[int]) -> list[Transform]:
    """Take the third axis off where patches are slices; the targets are part of the image by then."""
    maps = [key for key in keys if key != "ptv"]
    return [TakeSliced(maps)] if len(patch_size) == 2 else []


def training_transforms(
    tasks: Sequence[Task],
    inputs: str,
    patch_size: Sequence[int],
    *,
    mirror: bool = True,
    jitter: int = 8,
    spacing_mm: Sequence[float] | None = None,
) -> Compose:
    """Read, scale and cut training patches with augmentation; the steps before the first random one are cacheable.

    Args:
        tasks: pixel-level tasks with labels in the items.
        inputs: "ct" or "ct+ptv".
        patch_size: voxels of a training patch; two numbers for patches of single axial slices (C, X, Y), drawn at
            random from the volumes.
        mirror: mirror left and right at random, paired structures changing places.
        jitter: voxels by which patches move beyond the possible-dose mask.
        spacing_mm: spacing to resample to; None keeps each case's own.
    """
    tasks = as_tasks(tasks)
    check_inputs(inputs, tasks)
    keys = list(_maps(tasks, inputs))
    mirror = boolean(mirror, "mirror")
    box = _in_3d(patch_size)
    half = max(size // 4 for size in box)
    swap = (
        {task.name: mirror_permutation(task.class_names) for task in tasks if task.kind == "segmentation"}
        if mirror
        else {}
    )
    return Compose(
        [
            *read_steps(tasks, inputs, spacing_mm),
            _scale(),
            *_crop_to_mask(tasks, inputs, box, half),
            EnsureTyped(keys, track_meta=False, allow_missing_keys=True),
            BoxOfMaskd("mask_dose"),
            RandCropAroundMaskd(keys, "mask_dose", box, jitter),
            *([RandMirrord(keys, swap)] if mirror else []),
            RandIntensityd(["image"]),
            *_join(inputs),
            *_flatten(keys, patch_size),
        ]
    )


def validation_transforms(
    tasks: Sequence[Task],
    inputs: str,
    patch_size: Sequence[int],
    *,
    margin: int = 4,
    spacing_mm: Sequence[float] | None = None,
) -> Compose:
    """Read, scale and crop whole cases with labels around the possible-dose mask, for scores during training.

    Cases stay volumes (C, X, Y, Z) also where patches are slices; see `mtl_med.networks.window_inferer`.
    """
    tasks = as_tasks(tasks)
    check_inputs(inputs, tasks)
    keys = list(_maps(tasks, inputs))
    return Compose(
        [
            *read_steps(tasks, inputs, spacing_mm),
            _scale(),
            *_crop_to_mask(tasks, inputs, _in_3d(patch_size), margin),
            *_join(inputs),
            EnsureTyped(keys, track_meta=False, allow_missing_keys=True),
        ]
    )


class AddBodyd(Transform):
    """Add `body`, the mask of the patient (1, X, Y, Z), from `image` in HU."""

    def __call__(self, data: dict) -> dict:
        mask = body_mask(data["image"]).to(torch.uint8)
        image = data["image"]
        body = MetaTensor(mask, meta=image.meta) if isinstance(image, MetaTensor) else mask
        return {**data, "body": body}


def inference_transforms(
    inputs: str, *, spacing_mm: Sequence[float] | None = None, patch_size: Sequence[int] | None = None
) -> Compose:
    """Read and scale a whole CT and crop it to the body; every step can be inverted onto the source's own grid.

    Args:
        inputs: "ct" or "ct+ptv".
        spacing_mm: spacing to resample to; None keeps the source's own.
        patch_size: the image is padded to at least this size; two numbers leave its third axis alone.
    """
    check_inputs(inputs)
    steps = [*read_steps((), inputs, spacing_mm), AddBodyd(), _scale(), *_join(inputs)]
    steps.append(CropForegroundd(["image"], "body", margin=4, **_CROP))
    if patch_size is not None:
        steps.append(SpatialPadd(["image"], _in_3d(patch_size), mode="edge"))
    return Compose([*steps, DeleteItemsd("body")])
