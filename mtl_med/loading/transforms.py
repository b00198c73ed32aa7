"""Dictionary transforms of our own: reading a case, and augmentation that knows anatomy and labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform, Transform
from numpy.typing import NDArray

from mtl_med.errors import CaseError, UsageError
from mtl_med.geometry import Grid, require_same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.loading.datalist import PRESCRIPTION_SCALE_GY
from mtl_med.tasks import Task

__all__ = [
    "BoxOfMaskd",
    "CropToMaskd",
    "LoadCased",
    "RandCropAroundMaskd",
    "RandIntensityd",
    "RandMirrord",
    "TakeSliced",
    "image_level_label",
    "mirror_permutation",
]


class LoadCased(Transform):
    """Read the files of an item into MetaTensors (C, X, Y, Z) that share the image's affine.

    Adds `image` (1 channel, HU), `ptv` (1 channel, voxelwise maximum of prescription / 70 Gy over the targets) and
    `mask_dose` where the item names them, every pixel task's label (channels as the task has; a channel without label
    is zero) and `labelled_<task>`, a bool tensor (channels,). A case without a dose has no mask of where it is known
    either; it gets an empty one, so that it fits into a batch with others.

    Args:
        tasks: tasks whose labels are read; none for inference.

    Raises:
        CaseError: the image holds voxels that are no numbers.
        GeometryError: a file lies on another grid than the image.
    """

    def __init__(self, tasks: Sequence[Task] = ()) -> None:
        self.tasks = tuple(tasks)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image, grid = read_nifti(item["image"], np.float32)
        source = str(item["image"])
        if not np.isfinite(image).all():
            raise CaseError("holds voxels that are no numbers", where=source, fix="Fill them with air, -1000 HU")
        item["image"] = _meta(image[None], grid, source)
        if "ptv" in item:
            item["ptv"] = _meta(_prescription_map(item["ptv"], grid)[None], grid, source)
        if "mask_dose" in item:
            item["mask_dose"] = _meta(_read_on(item["mask_dose"], grid, np.uint8)[None], grid, source)
        elif any(task.name == "dose" and not any(item["dose"]) for task in self.tasks):
            item["mask_dose"] = _meta(np.zeros((1, *grid.shape), np.uint8), grid, source)
        for task in self.tasks:
            labels = item[task.name]
            item[f"labelled_{task.name}"] = torch.tensor([bool(label) for label in labels])
            if task.is_pixel_level:
                dtype = np.uint8 if task.kind == "segmentation" else np.float32
                stack = _stack(labels, grid, dtype)
                if f"factor_{task.name}" in item:
                    stack *= dtype(item.pop(f"factor_{task.name}"))
                item[task.name] = _meta(stack, grid, source)
            else:
                item[task.name] = image_level_label(labels)
        return item


def image_level_label(labels: Sequence[str]) -> torch.Tensor:
    """The class index in an item, as a scalar; 0 stands for no label, which `labelled_<task>` tells apart."""
    return torch.tensor(int(labels[0] or 0))


def _meta(array: NDArray, grid: Grid, source: str) -> MetaTensor:
    meta = {"filename_or_obj": source, "original_affine": grid.affine.copy(), "spatial_shape": np.array(grid.shape)}
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=torch.tensor(grid.affine), meta=meta)


def _read_on(path: str, grid: Grid, dtype: type) -> NDArray:
    array, own_grid = read_nifti(path, dtype)
    require_same_grid(own_grid, grid, where=Path(path).as_posix())
    return array


def _stack(paths: Sequence[str], grid: Grid, dtype: type) -> NDArray:
    stack: NDArray = np.zeros((len(paths), *grid.shape), dtype=dtype)
    for channel, path in enumerate(paths):
        if path:
            stack[channel] = _read_on(path, grid, dtype)
    return stack


def _prescription_map(targets: Sequence[tuple[str, float]], grid: Grid) -> NDArray[np.float32]:
    values = np.zeros(grid.shape, dtype=np.float32)
    for path, prescription_gy in targets:
        inside = _read_on(path, grid, np.uint8) > 0
        np.maximum(values, np.float32(prescription_gy / PRESCRIPTION_SCALE_GY), out=values, where=inside)
    return values


class CropToMaskd(MapTransform):
    """Cut the box around a mask, widened by a margin and to at least a given size where the volume has room.

    Args:
        keys: keys of tensors (C, *spatial) to cut.
        mask_key: key of the mask (1, *spatial); nothing is cut where it is absent or empty.
        least_size: voxels along each spatial axis that the box should have.
        margin: voxels kept on either side of the mask.
    """

    def __init__(self, keys: Sequence[str], mask_key: str, least_size: Sequence[int], margin: int = 0) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.mask_key, self.least_size, self.margin = mask_key, tuple(int(n) for n in least_size), int(margin)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """See the class."""
        item = dict(data)
        shape = item[self.first_key(item)].shape[1:]
        boxes = _bounding_box(item.get(self.mask_key), shape)
        spans = [self._span(*box, *sizes) for box, *sizes in zip(boxes, self.least_size, shape, strict=True)]
        window = (slice(None), *(slice(*span) for span in spans))
        for key in self.key_iterator(item):
            item[key] = item[key][window]
        return item

    def _span(self, low: int, high: int, least: int, size: int) -> tuple[int, int]:
        length = min(size, max(least, high - low + 2 * self.margin))
        start = min(max(0, (low + high - length) // 2), size - length)
        return start, start + length


class BoxOfMaskd(Transform):
    """Note the bounding box of a mask as `<mask_key>_box`, so that random crops need not look for it each time.

    Args:
        mask_key: key of the mask (1, *spatial); an item without it stays as it is.
    """

    def __init__(self, mask_key: str) -> None:
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        mask = data.get(self.mask_key)
        return {**data, _box_key(self.mask_key): _bounding_box(mask, mask.shape[1:])} if mask is not None else {**data}


def _box_key(mask_key: str) -> str:
    return f"{mask_key}_box"


class RandCropAroundMaskd(Randomizable, MapTransform):
    """Cut one patch of fixed size, placed at random around a mask's bounding box.

    Where the box is smaller than the patch it stays inside the patch but for `jitter` voxels; where it is larger the
    patch lies within the box but for `jitter` voxels. The patch never leaves the volume, which must be large enough.

    Args:
        keys: keys of tensors (C, *spatial) to cut.
        mask_key: key of the mask (1, *spatial); its box is looked for where `BoxOfMaskd` has not noted it, and the
            whole volume counts where it is absent or empty.
        patch_size: voxels along each spatial axis.
        jitter: voxels by which the box may be left.
    """

    def __init__(
        self,
        keys: Sequence[str],
        mask_key: str,
        patch_size: Sequence[int],
        jitter: int = 8,
        allow_missing_keys: bool = True,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.mask_key = mask_key
        self.patch_size = tuple(int(size) for size in patch_size)
        self.jitter = int(jitter)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        shape = item[self.first_key(item)].shape[1:]
        noted: list[tuple[int, int]] = item.pop(_box_key(self.mask_key), [])
        boxes = noted or _bounding_box(item.get(self.mask_key), shape)
        starts = [
            self._start(*box, patch, size) for box, patch, size in zip(boxes, self.patch_size, shape, strict=True)
        ]
        window = (
            slice(None),
            *(slice(start, start + size) for start, size in zip(starts, self.patch_size, strict=True)),
        )
        for key in self.key_iterator(item):
            item[key] = item[key][window].contiguous()
        return item

    def _start(self, low: int, high: int, patch: int, size: int) -> int:
        if size < patch:
            raise UsageError(f"a volume of {size} voxels is smaller than the patch of {patch}", fix="Pad it first")
        first, last = sorted((low, high - patch))
        first, last = max(0, first - self.jitter), min(size - patch, last + self.jitter)
        first, last = min(first, size - patch), max(last, 0)
        return int(self.R.randint(min(first, last), max(first, last) + 1))


def _bounding_box(mask: torch.Tensor | None, shape: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last + 1) of the mask along each axis."""
    if mask is None or not bool(mask.any()):
        return [(0, int(size)) for size in shape]
    boxes = []
    for axis in range(1, mask.ndim):
        others = tuple(dim for dim in range(mask.ndim) if dim != axis)
        hits = torch.nonzero(torch.as_tensor(mask).amax(dim=others)).flatten()
        boxes.append((int(hits[0]), int(hits[-1]) + 1))
    return boxes


class TakeSliced(MapTransform):
    """The first slice along the last axis, of tensors (C, X, Y, 1): (C, X, Y).

    Args:
        keys: keys of the tensors; those that are absent are left alone.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: data[key][..., 0] for key in self.key_iterator(dict(data))}}


class RandMirrord(RandomizableTransform, MapTransform):
    """Mirror left and right, and swap the channels of paired structures with them.

    Args:
        keys: keys of tensors (C, *spatial) in RAS order; spatial axis 0 runs from left to right.
        swap: key -> permutation of its channels (see `mirror_permutation`), also applied to `labelled_<key>`.
        prob: probability of a mirror.
    """

    def __init__(
        self, keys: Sequence[str], swap: Mapping[str, Sequence[int]], prob: float = 0.5, allow_missing_keys: bool = True
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.swap = {key: list(order) for key, order in swap.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return item
        for key in self.key_iterator(item):
            item[key] = torch.flip(item[key], dims=(1,))
        for key, order in self.swap.items():
            for name in (key, f"labelled_{key}"):
                if name in item:
                    item[name] = item[name][order]
        return item


def mirror_permutation(names: Sequence[str]) -> list[int]:
    """Channel order after a left-right mirror: `X_L` and `X_R` change places, all others stay.

    Raises:
        UsageError: a structure whose counterpart is missing, so that a mirror would make it false.
    """
    order = []
    for name in names:
        twin = name[:-1] + {"L": "R", "R": "L"}[name[-1]] if name.endswith(("_L", "_R")) else name
        if twin not in names:
            raise UsageError(
                f"structure '{name}' has no counterpart '{twin}' among the task's structures",
                fix="Add it, or train without mirroring",
            )
        order.append(list(names).index(twin))
    return order


class RandIntensityd(RandomizableTransform, MapTransform):
    """Scale and shift an image's values, as scanners and kernels do: `x * (1 + a) + b`, a and b uniform.

    Args:
        keys: keys of tensors (C, *spatial).
        scale: largest |a|.
        shift: largest |b|, in the image's own unit.
        prob: probability of a change.
    """

    def __init__(self, keys: Sequence[str], scale: float = 0.05, shift: float = 0.02, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.scale, self.shift = float(scale), float(shift)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        self.randomize(None)
        scale, shift = self.R.uniform(-1.0, 1.0, size=2)
        if self._do_transform:
            for key in self.key_iterator(item):
                item[key] = item[key] * (1.0 + self.scale * scale) + self.shift * shift
        return item
