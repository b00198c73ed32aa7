"""The transform chains of photographs, which share every deterministic step."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import Compose, Transform

from mtl_med.bundle import numbers
from mtl_med.errors import UsageError, nearest
from mtl_med.loading.picture_transforms import (
    LoadPictured,
    RandColourd,
    RandFramed,
    RandHaird,
    RandWarpd,
    ResizePictured,
    ScalePictured,
)
from mtl_med.tasks import Task, as_tasks

__all__ = [
    "SCALINGS",
    "picture_inference_transforms",
    "picture_training_transforms",
    "picture_validation_transforms",
]

SCALINGS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet_lite": ((127 / 255,) * 3, (128 / 255,) * 3),
}
"""What networks with published weights saw: name -> mean and deviation of red, green and blue, from 0 to 1."""


def picture_training_transforms(
    tasks: Sequence[Task],
    image_size: Sequence[int],
    *,
    scaling: str = "imagenet",
    strength: float = 1.0,
    hair: float = 0.0,
    frame: float = 0.0,
) -> Compose:
    """Read photographs and resize them, which is cacheable in uint8; then augment and scale them.

    Args:
        tasks: segmentations and classifications with labels in the items.
        image_size: (H, W) of the batches; the aspect of the files is not kept.
        scaling: a row of `SCALINGS`.
        strength: of the augmentation; 0 for none.
        hair: how often hairs are drawn, 0 to 1.
        frame: how often a dark frame is drawn, 0 to 1.

    Raises:
        UsageError: an unknown scaling, or a number outside its range.
    """
    tasks = as_tasks(tasks)
    for name, value, most in (("strength", strength, 3), ("hair", hair, 1), ("frame", frame, 1)):
        (number,) = numbers([value], name, 1, f"Give 0 to {most}")
        if not 0 <= number <= most:
            raise UsageError(f"{name} is {value}", fix=f"Give 0 to {most}")
    augmented: list[Transform] = [RandWarpd(_masks(tasks), strength)] if strength else []
    augmented.append(RandColourd(strength))  # changes nothing at strength 0, and still ends what is cached
    if hair:
        augmented.append(RandHaird(hair))
    if frame:
        augmented.append(RandFramed(frame))
    return Compose([*_read(tasks, image_size), *augmented, _scale(scaling)])


def picture_validation_transforms(
    tasks: Sequence[Task], image_size: Sequence[int], *, scaling: str = "imagenet"
) -> Compose:
    """Read photographs with labels, resize and scale them; scores during training are at this size."""
    return Compose([*_read(as_tasks(tasks), image_size), _scale(scaling)])


def picture_inference_transforms(image_size: Sequence[int], *, scaling: str = "imagenet") -> Compose:
    """Read photographs, resize and scale them; `size` (H, W) of each file tells the way back."""
    return Compose([*_read((), image_size), _scale(scaling)])


def _masks(tasks: Sequence[Task]) -> list[str]:
    return [task.name for task in tasks if task.is_pixel_level]


def _read(tasks: Sequence[Task], image_size: Sequence[int]) -> list[Transform]:
    return [LoadPictured(tasks), ResizePictured(image_size, _masks(tasks))]


def _scale(scaling: str) -> ScalePictured:
    if scaling not in SCALINGS:
        raise UsageError(f"unknown scaling '{scaling}'", fix=nearest(scaling, SCALINGS))
    return ScalePictured(*SCALINGS[scaling])
