"""Linear resizing of images and maps to any size."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch.nn.functional as F
from torch import Tensor

from mtl_med.errors import UsageError

__all__ = ["axis_lengths", "resize_smoothly"]


def axis_lengths(lengths: Sequence[int], name: str, fix: str) -> tuple[int, ...]:
    """Lengths of an image's axes as whole numbers.

    Args:
        lengths: of each axis.
        name: of the option that they were given by.
        fix: what the user can do.

    Raises:
        UsageError: no list, or a number in it that is no whole one of at least 1.
    """
    if not isinstance(lengths, Sequence) or isinstance(lengths, str):
        raise UsageError(f"{name} is {lengths!r}, expected a whole number for each axis", fix=fix)
    if not all(isinstance(length, Real) and float(length).is_integer() and length >= 1 for length in lengths):
        raise UsageError(f"{name} is {list(lengths)}, expected whole numbers of at least 1", fix=fix)
    return tuple(int(length) for length in lengths)


def resize_smoothly(x: Tensor, size: Sequence[int]) -> Tensor:
    """Linear interpolation between pixel centres, antialiased where an axis becomes shorter; in fp32.

    Pixels are areas: output i of an axis that grows from n to m lies at (i + 1/2) n / m - 1/2 of the input. Each
    axis is resized on its own, which is the same and works in 3D too, where the library has no antialiasing.

    Args:
        x: `(B, C, *spatial)`.
        size: new length of each spatial axis.
    """
    y = x.float()
    for axis, length in enumerate(size, start=2):
        if y.shape[axis] == length:
            continue
        # As rows of one pixel's height: the library's antialiasing of columns is wrong where they are one pixel wide.
        rows = y.movedim(axis, -1)
        flat = F.interpolate(rows.reshape(1, -1, 1, rows.shape[-1]), (1, length), mode="bilinear", antialias=True)
        y = flat.reshape(*rows.shape[:-1], length).movedim(-1, axis)
    return y
