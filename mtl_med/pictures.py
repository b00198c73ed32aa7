"""One picture of one case: dose planned and predicted on the CT, their difference, and outlines of the organs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtl_med.errors import CaseError
from mtl_med.files import atomic_path
from mtl_med.geometry import require_same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import read_dose, read_structures
from mtl_med.manifest import Case
from mtl_med.plane_figures import Wash, draw_planes
from mtl_med.planes import box_around

__all__ = ["case_picture"]


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
    ct, grid = read_nifti(case.path("ct"), np.float32)
    planned, _ = read_nifti(case.path("dose"), np.float32)
    found = read_dose(Path(prediction), case.prescription_gy)
    if found is None:
        raise CaseError("holds no dose.nii.gz", where=prediction, fix="Predict this case first")
    predicted, own_grid = found
    require_same_grid(own_grid, grid, where=str(prediction))
    truth = {name: read_nifti(case.path(f"structures/{name}"))[0] > 0 for name in case.names("oar")}
    shown = {name: mask for name, mask in truth.items() if mask.any()}
    washes = [
        Wash("planned dose", planned, outlines=shown),
        Wash("predicted dose", predicted, outlines=read_structures(Path(prediction)).masks),
        Wash("predicted - planned", predicted - planned, "difference"),
    ]
    top = float(planned.max())
    centre = [round(float(axis.mean())) for axis in np.nonzero(planned >= 0.9 * top)]
    figure = draw_planes(
        ct,
        grid,
        washes,
        centre,
        box_around(planned >= 0.1 * top),
        title=f"{case.id}   (research use only)",
        scales={"dose": top, "difference": top},
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
