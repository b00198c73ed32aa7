"""Doses of other fractionations made comparable: BED and EQD2 by the linear-quadratic model, voxel by voxel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError

__all__ = ["bed_gy", "dose_per_fraction_gy", "eqd2_gy"]


def dose_per_fraction_gy(dose_gy: NDArray | float, fractions: int) -> NDArray[np.float64]:
    """Dose of one of `fractions` equal fractions, Gy."""
    if isinstance(fractions, bool) or fractions != int(fractions) or fractions < 1:
        raise UsageError(f"{fractions} fractions, expected a whole number of 1 or more")
    return np.asarray(dose_gy, dtype=np.float64) / fractions


def bed_gy(dose_gy: NDArray | float, fractions: int, alpha_beta_gy: float) -> NDArray[np.float64]:
    """Biologically effective dose: D (1 + d / (alpha/beta)), with d the dose per fraction of that very voxel.

    Args:
        dose_gy: total dose, any shape, Gy.
        fractions: number of equal fractions.
        alpha_beta_gy: of the tissue, Gy.

    Raises:
        UsageError: fractions or alpha/beta that cannot be.

    Source: J. Fowler, Br J Radiol 62 (1989); no repopulation, no incomplete repair.
    """
    if not 0 < alpha_beta_gy < np.inf:
        raise UsageError(f"alpha/beta of {alpha_beta_gy} Gy, expected more than 0")
    dose = np.asarray(dose_gy, dtype=np.float64)
    return dose * (1.0 + dose_per_fraction_gy(dose, fractions) / alpha_beta_gy)


def eqd2_gy(dose_gy: NDArray | float, fractions: int, alpha_beta_gy: float) -> NDArray[np.float64]:
    """Dose in fractions of 2 Gy with the same effect: BED / (1 + 2 / (alpha/beta)); arguments as of `bed_gy`.

    Source: H. Withers et al., Cancer 52 (1983).
    """
    return bed_gy(dose_gy, fractions, alpha_beta_gy) / (1.0 + 2.0 / alpha_beta_gy)
