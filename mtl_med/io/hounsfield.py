"""Whether a volume can be a CT of a body: enough voxels, and values that are Hounsfield units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtl_med.errors import CaseError

__all__ = ["require_hounsfield", "require_slices"]

_FEWEST_SLICES = 8
_AIR_BELOW_HU, _TISSUE_ABOVE_HU = -500, 0  # every CT has some of both


def require_slices(shape: Sequence[int], where: str | Path) -> None:
    """Refuse a volume that is thinner than 8 voxels along an axis.

    Args:
        shape: (X, Y, Z).
        where: for the message.

    Raises:
        CaseError: it is.
    """
    fewest = min(shape)
    if fewest >= _FEWEST_SLICES:
        return
    size = " x ".join(str(int(count)) for count in shape)
    slices = f"{fewest} slice" if fewest == 1 else f"{fewest} slices"
    raise CaseError(
        f"has {size} voxels, {slices} along an axis, expected {_FEWEST_SLICES} or more",
        where=where,
        fix="Take the whole volume",
    )


def require_hounsfield(lowest: float, highest: float, where: str | Path) -> None:
    """Refuse values that no CT has: it shows some air and some tissue.

    Args:
        lowest: smallest value of the volume.
        highest: largest value.
        where: for the message.

    Raises:
        CaseError: there is no air or no tissue.
    """
    if lowest > _AIR_BELOW_HU or highest < _TISSUE_ABOVE_HU:
        raise CaseError(
            f"holds values from {lowest:g} to {highest:g}, which are no CT numbers",
            where=where,
            why=f"In HU, air lies below {_AIR_BELOW_HU} and tissue above {_TISSUE_ABOVE_HU}",
            fix="Write it again in HU",
        )
