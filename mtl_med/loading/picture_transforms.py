"""Dictionary transforms of photographs: reading a case, and augmentation as dermatoscopy needs it.

Maps are (C, H, W), rows from the top. An image is uint8 until augmentation, then fp32 from 0 to 1 until it is scaled
for the network. A transform that draws numbers draws equally many whatever it does with them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from mtl_med.errors import GeometryError, UsageError
from mtl_med.io.picture import read_picture, read_picture_mask
from mtl_med.loading.resizing import axis_lengths, resize_smoothly
from mtl_med.loading.transforms import image_level_label
from mtl_med.tasks import Task

__all__ = ["LoadPictured", "RandColourd", "RandFramed", "RandHaird", "RandWarpd", "ResizePictured", "ScalePictured"]

_log = logging.getLogger(__name__)

_LUMA = torch.tensor([0.299, 0.587, 0.114])  # of red, green, blue (ITU-R BT.601)

Item = dict[Hashable, Any]


class LoadPictured(Transform):
    """Read the files of an item: `image` (3, H, W) uint8, its `size` (H, W), and the tasks' labels.

    A segmentation becomes (channels, H, W) uint8, 0 or 1; a channel without label is zero. Every task gets
    `labelled_<task>`, a bool tensor (channels,).

    Args:
        tasks: tasks whose labels are read; none for inference.

    Raises:
        CaseError: a file cannot be read.
        GeometryError: a mask of another size than its image.
        UsageError: a pixel-level task that is no segmentation.
    """

    def __init__(self, tasks: Sequence[Task] = ()) -> None:
        self.tasks = tuple(tasks)
        for task in self.tasks:
            if task.is_pixel_level and task.kind != "segmentation":
                raise UsageError(f"task '{task.name}' ({task.kind}) has no file in a study of photographs")

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        item = dict(data)
        remarks: list[str] = []
        image = read_picture(item["image"], remarks)
        for remark in remarks if not self.tasks else ():  # of a study they stand in its quality table
            _log.warning("%s: %s", item.get("id", item["image"]), remark)
        item["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        item["size"] = torch.tensor(image.shape[:2])
        for task in self.tasks:
            labels = item[task.name]
            item[f"labelled_{task.name}"] = torch.tensor([bool(label) for label in labels])
            item[task.name] = self._masks(labels, image.shape[:2]) if task.is_pixel_level else image_level_label(labels)
        return item

    def _masks(self, paths: Sequence[str], shape: tuple[int, ...]) -> Tensor:
        stack = np.zeros((len(paths), *shape), dtype=np.uint8)
        for channel, path in enumerate(paths):
            if not path:
                continue
            mask = read_picture_mask(path)
            if mask.shape != shape:
                found, expected = (f"{size[1]} x {size[0]}" for size in (mask.shape, shape))
                raise GeometryError(
                    f"is a mask of {found} pixels for an image of {expected}", where=path, fix="Prepare the study again"
                )
            stack[channel] = mask
        return torch.from_numpy(stack)


class ResizePictured(MapTransform):
    """Bring an image and its masks to one size, still uint8: averaged over area, masks then cut at one half.

    The aspect is not kept: the inverse is the same resizing back to `size`, and nothing is cropped or padded.

    Args:
        image_size: (H, W).
        masks: keys of the masks.
    """

    def __init__(self, image_size: Sequence[int], masks: Sequence[str] = ()) -> None:
        super().__init__(["image", *masks])
        self.masks = tuple(masks)
        fix = "Give (H, W), such as (96, 128)"
        self.image_size = axis_lengths(image_size, "image_size", fix)
        if len(self.image_size) != 2:
            raise UsageError(f"image_size is {list(image_size)}", fix=fix)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        item = dict(data)
        for key in self.key_iterator(item):
            if tuple(item[key].shape[1:]) == self.image_size:
                continue
            resized = resize_smoothly(item[key][None], self.image_size)[0]
            resized = (resized >= 0.5) if key in self.masks else resized.round().clamp(0, 255)
            item[key] = resized.to(torch.uint8)
        return item


class ScalePictured(MapTransform):
    """`(x - mean) / deviation` per channel, x from 0 to 1; a uint8 image is brought there first."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__(["image"])
        self.mean, self.deviation = (torch.tensor(each).reshape(-1, 1, 1) for each in (mean, deviation))

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        return {**data, "image": (unit(data["image"]) - self.mean) / self.deviation}


def unit(image: Tensor) -> Tensor:
    """fp32 from 0 to 1, of uint8 or of itself."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


class RandWarpd(Randomizable, MapTransform):
    """Turn by any angle, mirror, zoom, stretch and shift in one interpolation; what comes in is the mirrored border.

    Args:
        masks: keys of masks (C, H, W) that go with the image; they come out as uint8 0 or 1.
        strength: factor of zoom (25 %), stretch (10 %) and shift (10 % of a side); 0 for turns and mirrors alone.
    """

    def __init__(self, masks: Sequence[str] = (), strength: float = 1.0) -> None:
        MapTransform.__init__(self, ["image", *masks])
        self.masks, self.strength = tuple(masks), float(strength)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        item = dict(data)
        angle, mirror, *rest = self.R.uniform(-1.0, 1.0, size=6)
        height, width = item["image"].shape[1:]
        matrix = self._matrix(math.pi * angle, -1.0 if mirror < 0 else 1.0, rest, height, width)
        parts = [unit(item["image"]), *(item[key].float() for key in self.masks)]
        grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
        warped = F.grid_sample(torch.cat(parts)[None], grid, padding_mode="reflection", align_corners=False)[0]
        item["image"], *found = warped.split([len(part) for part in parts])
        for key, mask in zip(self.masks, found, strict=True):
            item[key] = (mask > 0.5).to(torch.uint8)
        return item

    def _matrix(self, angle: float, mirror: float, rest: Sequence[float], height: int, width: int) -> Tensor:
        """(2, 3), from places in the output to places in the input, both from -1 to 1 along x and y."""
        zoom, stretch, right, down = (self.strength * float(value) for value in rest)
        across, along = (math.exp(0.25 * zoom + sign * 0.05 * stretch) for sign in (1, -1))
        cosine, sine, aspect = math.cos(angle), math.sin(angle), width / height
        # Turned in pixels, not in halves of sides, which differ in length.
        return torch.tensor(
            [
                [mirror * across * cosine, -along * sine / aspect, 0.2 * right],
                [mirror * across * sine * aspect, along * cosine, 0.2 * down],
            ],
            dtype=torch.float32,
        )


class RandColourd(Randomizable, MapTransform):
    """Brightness, contrast, saturation and hue as cameras and lamps differ, and blur as focus does.

    All four are linear in red, green and blue, and are done as one matrix.

    Args:
        strength: factor of brightness, contrast and saturation (20 % each), hue (15 degrees), and of how often (20 %)
            the image is blurred.
    """

    def __init__(self, strength: float = 1.0) -> None:
        MapTransform.__init__(self, ["image"])
        self.strength = float(strength)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        brightness, contrast, saturation, hue = (self.strength * self.R.uniform(-1.0, 1.0, size=4)).tolist()
        blurred, blur = self.R.uniform(size=2).tolist()
        image = unit(data["image"])
        matrix = (1 + 0.2 * brightness) * hue_matrix(math.radians(15 * hue)) @ saturation_matrix(1 + 0.2 * saturation)
        factor = 1 + 0.2 * contrast
        # Contrast turns about the mean grey of the image as it is by then.
        grey = (1 - factor) * (_LUMA @ matrix @ image.mean((1, 2)))
        image = torch.addmm(grey.expand(1, 1), factor * matrix, image.flatten(1)).clamp_(0, 1).reshape(image.shape)
        if blurred < 0.2 * self.strength:
            image = blurred_by(image, (0.5 + blur) * image.shape[2] / 128)
        return {**data, "image": image}


def saturation_matrix(factor: float) -> Tensor:
    """(3, 3) that moves colours away from their grey, or towards it below 1."""
    return factor * torch.eye(3) + (1 - factor) * _LUMA.expand(3, 3)


def hue_matrix(angle: float) -> Tensor:
    """(3, 3) that turns colours about the grey axis, by Rodrigues' formula; angle in radians."""
    root = 3**-0.5
    turn = torch.tensor([[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]])
    return torch.eye(3) + math.sin(angle) * turn + (1 - math.cos(angle)) * turn @ turn


def blurred_by(image: Tensor, sigma: float) -> Tensor:
    """An image (C, H, W) under a Gaussian of `sigma` pixels, with its border repeated."""
    reach = max(1, math.ceil(2.5 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(image[:, None], [reach] * 4, mode="replicate")
    rows = F.conv2d(padded, weights.reshape(1, 1, 1, -1))
    return F.conv2d(rows, weights.reshape(1, 1, -1, 1))[:, 0]


class RandHaird(Randomizable, MapTransform):
    """Draw hairs: dark curves one or two pixels wide, so that none is taken for a sign of a class.

    Args:
        prob: how often an image gets some.
        most: largest number of hairs.
    """

    _POINTS = 96

    def __init__(self, prob: float, most: int = 8) -> None:
        MapTransform.__init__(self, ["image"])
        self.prob, self.most = float(prob), int(most)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        drawn, number, darkness = self.R.uniform(size=3)
        numbers = self.R.uniform(size=(self.most, 6))
        if drawn >= self.prob:
            return dict(data)
        image = unit(data["image"])
        cover = hairs(numbers[: 1 + int(number * self.most)], image.shape[1], image.shape[2], self._POINTS)
        return {**data, "image": image * (1 - cover) + cover * (0.25 * darkness) * image.mean()}


def hairs(numbers: np.ndarray, height: int, width: int, points: int) -> Tensor:
    """How much of each pixel hairs cover, (1, H, W) from 0 to 0.9.

    Args:
        numbers: (hairs, 6) from 0 to 1: start, direction, length, bend and width of each.
    """
    x, y, direction, length, bend, thick = torch.from_numpy(numbers).float().T[..., None]
    along = torch.linspace(0, 1, points)
    reach, angle = (0.3 + 0.7 * length) * width, 2 * math.pi * direction + (bend - 0.5) * 2 * along
    columns = x * width + reach * along * torch.cos(angle)
    rows = y * height + reach * along * torch.sin(angle)
    cover = torch.zeros(height, width)
    for row in (rows.floor(), rows.floor() + 1):
        for column in (columns.floor(), columns.floor() + 1):
            near = (1 - (rows - row).abs()) * (1 - (columns - column).abs()) * (0.5 + 1.5 * thick)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            places = (row[inside].long(), column[inside].long())
            cover.index_put_(places, near[inside], accumulate=True)
    return cover.clamp(0, 0.9)[None]


class RandFramed(Randomizable, MapTransform):
    """Darken what lies outside a circle, as the rim of a dermatoscope does.

    Args:
        prob: how often an image gets a frame.
    """

    def __init__(self, prob: float) -> None:
        MapTransform.__init__(self, ["image"])
        self.prob = float(prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        drawn, radius, right, down, darkness = self.R.uniform(size=5).tolist()
        if drawn >= self.prob:
            return dict(data)
        image = unit(data["image"])
        height, width = image.shape[1:]
        rows = torch.arange(height)[:, None] - (height - 1) / 2 - 0.1 * (down - 0.5) * height
        columns = torch.arange(width) - (width - 1) / 2 - 0.1 * (right - 0.5) * width
        half_diagonal = math.hypot(height, width) / 2
        outside = torch.hypot(rows, columns) - (0.8 + 0.15 * radius) * half_diagonal  # pixels
        cover = torch.sigmoid(outside * 2) * (0.7 + 0.3 * darkness)
        return {**data, "image": image * (1 - cover)}
