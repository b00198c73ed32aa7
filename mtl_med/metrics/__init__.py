"""Scores as pure functions on arrays, and the table of what is reported for each kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mtl_med.metrics import classification, dose, segmentation

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """What a metric is called and measured in.

    Args:
        name: as in the rows.
        unit: "Gy", "mm" or "1".
        higher_is_better: l of Eq. 3 of the CTAN paper.
        function: the pure function behind it, without rows.
    """

    name: str
    unit: str
    higher_is_better: bool
    function: Callable[..., float]


METRICS: Mapping[str, tuple[Metric, ...]] = {
    "segmentation": (
        Metric("dice", "1", True, segmentation.dice),
        Metric("hd95", "mm", False, segmentation.hd95_mm),
        Metric("surface_dice_2mm", "1", True, segmentation.surface_dice),
        Metric("surface_dice_2px", "1", True, segmentation.surface_dice),  # of pictures, which have no mm
    ),
    "regression": (
        Metric("dose_score", "Gy", False, dose.dose_score),
        Metric("dvh_score", "Gy", False, dose.dvh_score),
        Metric("mae_in_mask", "Gy", False, dose.mae_in_mask),
        Metric("mae_whole_grid", "Gy", False, dose.mae_whole_grid),
    ),
    "classification": (
        Metric("accuracy", "1", True, classification.accuracy),
        Metric("balanced_accuracy", "1", True, classification.balanced_accuracy),
        Metric("auc", "1", True, classification.auc_one_vs_rest),
    ),
}
"""Task kind -> its metrics, the first being the one that methods are compared by."""
