"""Whether a DICOM CT is the one that was predicted: another patient's name must not get onto the structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import resample
from mtl_med.io.dicom_reference import CtReference
from mtl_med.io.dicom_series import read_ct_series
from mtl_med.io.nifti import read_nifti

__all__ = ["require_same_ct"]

# Preparation takes the values of this very series: on its own slices they are equal, on another grid but for rounding.
# Of two patients, most voxels differ even where their bodies lie alike: noise alone sees to that.
SAME_HU = 5.0
OTHER_PERCENT = 10.0
"""Part of the body that may differ, for a face cut off and metal clipped; of other patients it is 75 to 99."""
_BODY_HU = -300.0
_RANGE_HU = (-1000, 2000)  # beyond it values are padding, or clipped by whoever stores 12 bits


def require_same_ct(path: str | Path, ct: CtReference) -> None:
    """Refuse a CT that is not that of the prediction, voxel by voxel.

    Where nothing can be compared, that is refused as well: the file is missing or shows no body, or the CT cannot be
    read or put onto an even grid.

    Args:
        path: NIfTI file of the CT beside the prediction.
        ct: the DICOM CT.

    Raises:
        CaseError: their HU differ, or cannot be compared.
        GeometryError: they do not overlap.
    """
    files = list(dict.fromkeys(item.path for item in ct.slices))
    folder = files[0].parent
    if not Path(path).is_file():
        raise _untold(folder, f"there is no {path}")
    predicted, grid = read_nifti(path, np.float32)
    try:
        series = read_ct_series(files, resample=True)
    except CaseError as error:
        raise _untold(folder, str(error)) from error
    found = resample(series.hu, series.grid, grid, outside=np.nan)
    if np.isfinite(found).mean() < 0.01:
        raise GeometryError("the CT and the prediction do not overlap", where=folder, fix="Give the CT of this case")
    body = _body(predicted) | _body(found)
    if not body.any():
        raise _untold(folder, f"{path} shows nothing but air")
    predicted, found = predicted[body], found[body]
    percent = _differing_percent(predicted, found)
    beyond = 100.0 * float(np.isnan(found).mean())
    if percent > OTHER_PERCENT:
        raise CaseError(
            f"this CT is not the one that was predicted: {percent:.0f} % of the body differ by more than {SAME_HU:g} HU"
            f" (expected at most {OTHER_PERCENT:g} %)",
            where=folder,
            why=f"They were compared with {path}, {beyond:.0f} % of whose body lie beyond this CT",
            fix="Give the CT of this case, or pass --force if the CT was changed before it was predicted",
        )


def _untold(folder: Path, reason: str) -> CaseError:
    return CaseError(
        f"nothing tells whether this CT is the one that was predicted: {reason.rstrip('.')}",
        where=folder,
        why="Patient and study of what is written would come from it",
        fix="Make sure that it is, and pass --force",
    )


def _body(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    return hu > _BODY_HU


def _differing_percent(predicted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Part of the values that differ, percent.

    Args:
        predicted: HU of the body.
        found: HU at the same places; NaN beyond the CT, where it counts as differing.
    """
    alike = np.abs(np.clip(predicted, *_RANGE_HU) - np.clip(found, *_RANGE_HU)) <= SAME_HU
    return 100.0 * float(1 - alike.mean())
