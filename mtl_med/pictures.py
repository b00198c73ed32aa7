"""One picture of one case: dose planned and predicted on the CT, their difference, and outlines of the organs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.files import atomic_path
from mtl_med.geometry import Grid, require_same_grid
from mtl_med.io.colours import colour
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import read_dose, read_structures
from mtl_med.manifest import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["case_picture"]

PLANES = ("axial", "coronal", "sagittal")
_SHOWN_FROM = 0.1  # of the highest dose: below it the CT shows through


def case_picture(case: Case, prediction: str | Path, path: str | Path) -> None:
    """Draw three planes through the middle of the high dose: planned, predicted, predicted minus planned.

    Args:
        case: a case of a study with dose, RAS order.
        prediction: folder of its prediction.
        path: the PNG to write.

    Raises:
        CaseError: there is no predicted dose.
        GeometryError: the prediction lies on another grid.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    ct, grid = read_nifti(case.path("ct"), np.float32)
    planned, _ = read_nifti(case.path("dose"), np.float32)
    found = read_dose(Path(prediction), case.prescription_gy)
    if found is None:
        raise CaseError("holds no dose.nii.gz", where=prediction, fix="Predict this case first")
    predicted, own_grid = found
    require_same_grid(own_grid, grid, where=str(prediction))
    truth = {name: read_nifti(case.path(f"structures/{name}"))[0] > 0 for name in case.names("oar")}
    window = _window(planned > 0)
    ct, planned, predicted = ct[window], planned[window], predicted[window]
    outlines = [
        {name: mask[window] for name, mask in masks.items()}
        for masks in (truth, read_structures(Path(prediction)).masks)
    ]
    centre = [round(float(axis.mean())) for axis in np.nonzero(planned >= 0.9 * planned.max())]
    figure, axes = plt.subplots(3, 3, figsize=(12, 9.5), facecolor="white", layout="constrained")
    top = float(planned.max())
    for row, plane in enumerate(PLANES):
        for column, dose in enumerate((planned, predicted, predicted - planned)):
            axis = axes[row, column]
            wash = _draw(axis, plane, centre, grid, ct, dose, top, difference=column == 2)
            if column < 2:
                _outline(axis, plane, centre, grid, outlines[column])
            if row == 0:
                axis.set_title(("planned dose", "predicted dose", "predicted - planned")[column], fontsize=11)
            if row == 2 and column:
                label = "dose, Gy" if column == 1 else "difference, Gy"
                figure.colorbar(wash, ax=axes[:, column], location="right", label=label, shrink=0.5)
        axes[row, 0].set_ylabel(plane)
    names = [name for name in truth if truth[name].any()]
    handles = [plt.Line2D([], [], color=_rgb(name), label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    figure.suptitle(f"{case.id}   (research use only)", fontsize=12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    plt.close(figure)


def _rgb(name: str) -> tuple[float, float, float]:
    red, green, blue = colour(name)
    return red / 255, green / 255, blue / 255


def _window(region: NDArray, margin: int = 12) -> tuple[slice, ...]:
    """The box around a region, wider by `margin` voxels."""
    return tuple(slice(max(0, int(hits.min()) - margin), int(hits.max()) + margin + 1) for hits in np.nonzero(region))


def _cut(volume: NDArray, plane: str, centre: list[int]) -> NDArray:
    """A slice (rows, columns) as people look at it: patient's right on the left, up or front at the top."""
    x, y, z = centre
    part = {"axial": volume[:, :, z], "coronal": volume[:, y, :], "sagittal": volume[x]}[plane]
    # RAS axes: columns run right -> left (x falls), or front -> back in the sagittal plane; rows from the top.
    return part.T[::-1, ::-1]


def _draw(
    axis: Axes,
    plane: str,
    centre: list[int],
    grid: Grid,
    ct: NDArray,
    dose: NDArray,
    top: float,
    *,
    difference: bool,
) -> AxesImage:
    across, up = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    aspect = grid.spacing_mm[up] / grid.spacing_mm[across]
    axis.imshow(_cut(ct, plane, centre), cmap="gray", vmin=-200, vmax=400, aspect=aspect)
    values = _cut(dose, plane, centre)
    hidden = np.abs(values) < (0.02 if difference else _SHOWN_FROM) * top
    lowest, highest = (-0.25 * top, 0.25 * top) if difference else (0.0, top)
    wash = axis.imshow(
        np.ma.array(values, mask=hidden),
        cmap="RdBu_r" if difference else "turbo",
        alpha=0.5,
        aspect=aspect,
        vmin=lowest,
        vmax=highest,
    )
    axis.set_xticks([])
    axis.set_yticks([])
    return wash


def _outline(axis: Axes, plane: str, centre: list[int], grid: Grid, masks: dict[str, NDArray]) -> None:
    for name, mask in masks.items():
        part = _cut(mask, plane, centre)
        if part.any():
            axis.contour(part.astype(float), levels=[0.5], colors=[_rgb(name)], linewidths=1.4)
