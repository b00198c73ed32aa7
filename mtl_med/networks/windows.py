"""Windows of the training patch's size over whole images."""

from __future__ import annotations

from collections.abc import Sequence

from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer

from mtl_med.errors import UsageError
from mtl_med.loading.resizing import axis_lengths

__all__ = ["window_inferer", "window_lengths"]

_SLICES_AT_ONCE = 8
_AXIAL = 2  # the axis of a RAS volume that runs along the patient


def window_inferer(patch_size: Sequence[int], overlap: float = 0.5) -> Inferer:
    """An inferer whose windows have the size of the training patch, since instance norm sees another statistic else.

    Args:
        patch_size: three numbers for a 3D network; two for a 2D network, which gets a volume slice by slice.
        overlap: part of a window that the next one covers again, per axis.

    Returns:
        A MONAI inferer that takes volumes `(B, C, X, Y, Z)` and blends windows with Gaussian weights.

    Raises:
        UsageError: neither two nor three numbers, or an overlap outside [0, 1).
    """
    window = window_lengths(patch_size, overlap)
    if len(window) == 2:
        return SliceInferer(_AXIAL, window, _SLICES_AT_ONCE, overlap, mode="gaussian")
    return SlidingWindowInferer(window, 1, overlap, mode="gaussian")


def window_lengths(patch_size: Sequence[int], overlap: float) -> tuple[int, ...]:
    """The sides of a window, when these and the overlap can be meant.

    Args:
        patch_size: two or three whole numbers.
        overlap: part of a window that the next one covers again, per axis.

    Raises:
        UsageError: they cannot.
    """
    fix = "Give two or three numbers"
    sides = axis_lengths(patch_size, "patch_size", fix)
    if len(sides) not in (2, 3):
        raise UsageError(f"patch_size {list(patch_size)} is neither 2D nor 3D", fix=fix)
    if not (isinstance(overlap, (int, float)) and 0 <= overlap < 1):
        raise UsageError(f"overlap is {overlap}", fix="Give a part of the window: at least 0 and less than 1")
    return sides
