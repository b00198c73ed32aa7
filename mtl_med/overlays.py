"""What a task attends to, laid over the image as heat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.files import atomic_path
from mtl_med.geometry import Grid, reorient
from mtl_med.planes import PLANES, aspect_of, cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["picture_overlay", "volume_overlay"]

_HEAT, _STRENGTH = "turbo", 0.45
_AIR_HU = -500.0
_GREY_PERCENT = (1.0, 99.5)  # of the values of a volume: the darkest and brightest grey


def picture_overlay(
    picture: NDArray[np.uint8], mask: NDArray, path: str | Path, title: str, label: str = "attention"
) -> None:
    """Draw the picture, and beside it the same under the mask, with a colour bar.

    Args:
        picture: (H, W, 3), rows from the top.
        mask: (H, W).
        path: the PNG to write.
        title: told above.
        label: of the colour bar.

    Raises:
        CaseError: the mask has another size or no finite value.
        OutputError: the file cannot be written.
    """
    low, high = _range(mask, picture.shape[:2], title)
    figure, axes = _figure(1, 2, (9.0, 9.0 * picture.shape[0] / picture.shape[1] / 2 + 0.6))
    for axis in axes:
        axis.imshow(picture)
        axis.set_axis_off()
    heat = axes[1].imshow(mask, cmap=_HEAT, alpha=_STRENGTH, vmin=low, vmax=high)
    _finish(figure, heat, axes[1], path, title, label)


def volume_overlay(
    volume: NDArray, grid: Grid, mask: NDArray, path: str | Path, title: str, label: str = "attention"
) -> None:
    """Draw three planes through the maximum of the mask, with a colour bar.

    Args:
        volume: (X, Y, Z), shown in grey.
        grid: its grid, and that of the mask; any orientation.
        mask: (X, Y, Z).
        path: the PNG to write.
        title: told above.
        label: of the colour bar.

    Raises:
        CaseError: the mask has another size or no finite value.
        OutputError: the file cannot be written.
    """
    low, high = _range(mask, volume.shape, title)
    mask, _ = reorient(mask, grid)
    volume, turned = reorient(volume, grid)
    centre = [int(index) for index in np.unravel_index(int(np.nanargmax(mask)), mask.shape)]
    # Most of a CT is air: taken over all of it, every tissue would be white.
    tissue = volume[volume > _AIR_HU] if volume.min() < _AIR_HU else volume
    darkest, brightest = np.percentile(tissue if tissue.size else volume, _GREY_PERCENT)
    figure, axes = _figure(1, 3, (12.0, 4.6))
    for axis, plane in zip(axes, PLANES, strict=True):
        aspect = aspect_of(turned, plane)
        axis.imshow(cut(volume, plane, centre), cmap="gray", vmin=darkest, vmax=brightest, aspect=aspect)
        heat = axis.imshow(cut(mask, plane, centre), cmap=_HEAT, alpha=_STRENGTH, vmin=low, vmax=high, aspect=aspect)
        axis.set_title(plane, fontsize=10)
        axis.set_axis_off()
    _finish(figure, heat, axes, path, title, label)


def _range(mask: NDArray, shape: tuple[int, ...], title: str) -> tuple[float, float]:
    """Lowest and highest value; a mask whose values are all one gets a bar all the same."""
    finite = mask[np.isfinite(mask)] if mask.shape == tuple(shape) else mask[:0]
    if not finite.size:
        raise CaseError(f"attention of shape {mask.shape} has no value for an image of {tuple(shape)}", where=title)
    low, high = float(finite.min()), float(finite.max())
    return low, max(high, low + 1e-6)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, NDArray]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, facecolor="white", layout="constrained")
    return figure, axes


def _finish(figure: Figure, heat: AxesImage, axes: object, path: str | Path, title: str, label: str) -> None:
    import matplotlib.pyplot as plt

    # Names are no formulas: a $ in one would begin one.
    figure.colorbar(heat, ax=axes, shrink=0.85).set_label(label, parse_math=False)  # type: ignore[arg-type]
    figure.suptitle(f"{title}   (research use only)", fontsize=11, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png", metadata={"Software": ""})
    plt.close(figure)
