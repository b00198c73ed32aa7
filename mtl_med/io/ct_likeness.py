"""Whether a DICOM CT is the one that was predicted: another patient's name must not get onto the structures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import resample
from mtl_med.io.dicom_reference import CtReference
from mtl_med.io.dicom_series import read_ct_series
from mtl_med.io.nifti import read_nifti

__all__ = ["require_same_ct"]

log = logging.getLogger(__name__)

SAME_CT = 0.9
"""Correlation of HU. It does not feel a shift or a scale, and hardly the clipping and smoothing of preparation."""
_RANGE_HU = (-1000, 2000)


def require_same_ct(path: str | Path, ct: CtReference) -> None:
    """Refuse a CT that does not look like the NIfTI file of the prediction.

    Where the CT cannot be put onto an even grid, a warning says that nothing was compared.

    Args:
        path: NIfTI file of the CT beside the prediction.
        ct: the DICOM CT.

    Raises:
        CaseError: their HU differ.
        GeometryError: they do not overlap.
    """
    predicted, grid = read_nifti(path, np.float32)
    files = list(dict.fromkeys(item.path for item in ct.slices))
    folder = files[0].parent
    try:
        series = read_ct_series(files, resample=True)
    except CaseError as error:
        log.warning("the CT could not be compared with that of the prediction: %s", error)
        return
    found = resample(series.hu, series.grid, grid, outside=np.nan)
    inside = np.isfinite(found)
    if inside.mean() < 0.01:
        raise GeometryError("the CT and the prediction do not overlap", where=folder, fix="Give the CT of this case")
    alike = _correlation(predicted[inside], found[inside])
    if alike < SAME_CT:
        raise CaseError(
            f"this CT does not look like the one that was predicted (correlation of HU {alike:.2f})",
            where=folder,
            fix="Give the CT of this case, or pass --force",
        )


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    first, second = np.clip(first, *_RANGE_HU), np.clip(second, *_RANGE_HU)
    if first.std() == 0 or second.std() == 0:
        return float(np.array_equal(first, second))
    return float(np.corrcoef(first, second)[0, 1])
