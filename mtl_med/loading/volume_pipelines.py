"""The transform chains of whole volumes at one size, for tasks that have one label per image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import Compose, EnsureTyped, MapTransform, Randomizable, ScaleIntensityRanged, Transform

from mtl_med.bundle import boolean, numbers
from mtl_med.errors import UsageError
from mtl_med.io.hounsfield import require_hounsfield, require_slices
from mtl_med.loading.datalist import check_inputs
from mtl_med.loading.pipelines import read_steps
from mtl_med.loading.resizing import axis_lengths, resize_smoothly
from mtl_med.loading.transforms import RandIntensityd, RandMirrord
from mtl_med.tasks import Task, as_tasks

__all__ = [
    "LUNG_WINDOW_HU",
    "volume_inference_transforms",
    "volume_training_transforms",
    "volume_validation_transforms",
]

LUNG_WINDOW_HU = (-1000.0, 400.0)


class RequireScand(Transform):
    """Refuse an `image` (C, X, Y, Z) that is no CT in HU: whatever it is, a network would find a class for it.

    Raises:
        CaseError: fewer than 8 voxels along an axis, or no air or no tissue.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"]
        where = str(image.meta["filename_or_obj"])
        require_slices(image.shape[1:], where)
        require_hounsfield(float(image.min()), float(image.max()), where)
        return dict(data)


class ResizeVolumed(Transform):
    """Bring `image` (C, X, Y, Z) to one size, averaged where it becomes smaller; adds its `size` (X, Y, Z).

    The aspect is not kept, and nothing is cropped or padded.

    Args:
        volume_size: voxels along R, A, S.
    """

    def __init__(self, volume_size: Sequence[int]) -> None:
        fix = "Give three numbers, such as (96, 96, 96)"
        self.volume_size = axis_lengths(volume_size, "volume_size", fix)
        if len(self.volume_size) != 3:
            raise UsageError(f"volume_size is {list(volume_size)}", fix=fix)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = torch.as_tensor(data["image"]).as_subclass(torch.Tensor)
        resized = resize_smoothly(image[None], self.volume_size)[0]
        return {**data, "image": resized, "size": torch.tensor(image.shape[1:])}


class RandZoomCropd(Randomizable, MapTransform):
    """Cut a box of random size and place out of `image` and bring it back to the whole's size.

    Args:
        zoom: largest part of each side that is cut off; one part for all axes, a place of its own for each.
    """

    def __init__(self, zoom: float = 0.15) -> None:
        MapTransform.__init__(self, ["image"])
        (self.zoom,) = numbers([zoom], "zoom", 1, "Give a part of each side, 0 to below 1")
        if not 0 <= self.zoom < 1:
            raise UsageError(f"zoom is {zoom}", fix="Give a part of each side, 0 to below 1")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        zoom, *places = self.R.uniform(size=4)
        image = data["image"]
        box = [slice(None)]
        for length, place in zip(image.shape[1:], places, strict=True):
            kept = max(1, round(length * (1 - self.zoom * zoom)))
            start = round(place * (length - kept))
            box.append(slice(start, start + kept))
        cut = image[tuple(box)].float()[None]
        grown = F.interpolate(cut, size=image.shape[1:], mode="trilinear", align_corners=False)[0]
        return {**data, "image": grown}


def volume_training_transforms(
    tasks: Sequence[Task],
    inputs: str,
    volume_size: Sequence[int],
    *,
    window_hu: Sequence[float] = LUNG_WINDOW_HU,
    spacing_mm: Sequence[float] | None = None,
    zoom: float = 0.15,
    mirror: bool = True,
) -> Compose:
    """Read volumes, window and resize them, which is cached in fp16; then crop, mirror and vary them at random.

    Args:
        tasks: image-level tasks with labels in the items.
        inputs: "ct".
        volume_size: voxels along R, A, S of what the network sees.
        window_hu: HU that become -1 and 1; what lies beyond is clipped.
        spacing_mm: spacing to resample to before that; None leaves it to the resizing.
        zoom: largest part of each side that a random crop leaves out.
        mirror: mirror left and right at random.

    Raises:
        UsageError: a pixel-level task, inputs that are no plain CT, or sizes that cannot be meant.
    """
    tasks = _image_level(tasks)
    return Compose(
        [
            *_read(tasks, inputs, volume_size, window_hu, spacing_mm),
            EnsureTyped(["image"], dtype=torch.float16, track_meta=False),
            RandZoomCropd(zoom),
            *([RandMirrord(["image"], {})] if boolean(mirror, "augmentation#mirror") else []),
            RandIntensityd(["image"]),
        ]
    )


def volume_validation_transforms(
    tasks: Sequence[Task],
    inputs: str,
    volume_size: Sequence[int],
    *,
    window_hu: Sequence[float] = LUNG_WINDOW_HU,
    spacing_mm: Sequence[float] | None = None,
) -> Compose:
    """Read volumes with labels, window and resize them; arguments as of `volume_training_transforms`."""
    return Compose(_read(_image_level(tasks), inputs, volume_size, window_hu, spacing_mm))


def volume_inference_transforms(
    inputs: str,
    volume_size: Sequence[int],
    *,
    window_hu: Sequence[float] = LUNG_WINDOW_HU,
    spacing_mm: Sequence[float] | None = None,
) -> Compose:
    """Read volumes, window and resize them; arguments as of `volume_training_transforms`.

    Raises:
        CaseError: when called: a volume of fewer than 8 voxels along an axis, or of values that are no HU.
    """
    read, *others = _read((), inputs, volume_size, window_hu, spacing_mm)
    return Compose([read, RequireScand(), *others])


def _image_level(tasks: Sequence[Task]) -> tuple[Task, ...]:
    listed = as_tasks(tasks)
    for task in listed:
        if task.is_pixel_level:
            raise UsageError(
                f"task '{task.name}' is pixel-level, and volumes are resized here",
                fix="Use training_transforms and validation_transforms, which cut patches",
            )
    return listed


def _read(
    tasks: Sequence[Task],
    inputs: str,
    volume_size: Sequence[int],
    window_hu: Sequence[float],
    spacing_mm: Sequence[float] | None,
) -> list[Transform]:
    if check_inputs(inputs, tasks) != "ct":
        raise UsageError(f"whole volumes are made of inputs 'ct', not '{inputs}'", fix="Use inputs 'ct'")
    low, high = numbers(window_hu, "window_hu", 2, "Give the lower HU, then the higher one")
    if not low < high:
        raise UsageError(f"window_hu is {list(window_hu)}", fix="Give the lower HU, then the higher one")
    scale = ScaleIntensityRanged("image", low, high, -1.0, 1.0, clip=True)
    return [*read_steps(tasks, inputs, spacing_mm), scale, ResizeVolumed(volume_size)]
