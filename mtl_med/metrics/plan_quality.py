"""How well a dose fits its target: ICRU 83 homogeneity, Paddick conformity, and the spill R50."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mtl_med.metrics.dose import dose_at_volume

__all__ = ["homogeneity_index", "paddick_conformity", "r50"]


def homogeneity_index(doses_gy: NDArray, convention: str = "cumulative") -> float:
    """(D2 - D98) / D50: 0 for a uniform dose.

    Args:
        doses_gy: doses of the target's voxels, any shape, Gy.
        convention: of D_x, as in `mtl_med.metrics.dose`.

    Returns:
        1; NaN for no voxels or a median dose of 0.

    Source: ICRU Report 83 (2010), homogeneity index.
    """
    near_max, near_min, median = (dose_at_volume(doses_gy, percent, convention) for percent in (2, 98, 50))
    return (near_max - near_min) / median if median > 0 else math.nan


def paddick_conformity(target: NDArray, dose_gy: NDArray, prescription_gy: float) -> float:
    """Share of the target within the prescription isodose, times the share of that isodose within the target.

    Args:
        target: (X, Y, Z) mask.
        dose_gy: (X, Y, Z) Gy; NaN or 0 where it is not known.
        prescription_gy: dose of the isodose, Gy.

    Returns:
        0..1; NaN where the target is empty, 0 where no voxel reaches the prescription.

    Source: I. Paddick, J Neurosurg 93 suppl. 3 (2000): TV_PIV^2 / (TV PIV).
    """
    inside = np.asarray(target, dtype=bool)
    isodose = np.asarray(dose_gy) >= prescription_gy
    covered, size, volume = (int(np.count_nonzero(part)) for part in (isodose & inside, inside, isodose))
    if not size:
        return math.nan
    return covered**2 / (size * volume) if volume else 0.0


def r50(target: NDArray, dose_gy: NDArray, prescription_gy: float) -> float:
    """Volume that receives half of the prescription or more, per volume of the target.

    Args:
        target: (X, Y, Z) mask.
        dose_gy: (X, Y, Z) Gy; NaN or 0 where it is not known, so that an isodose that leaves the grid counts too low.
        prescription_gy: the prescription, Gy.

    Returns:
        1; NaN where the target is empty.

    Source: RTOG 0813: the ratio of the 50 % isodose volume to that of the PTV.
    """
    size = int(np.count_nonzero(target))
    return int(np.count_nonzero(np.asarray(dose_gy) >= prescription_gy / 2)) / size if size else math.nan
