"""Scores of a structure: Dice, 95th percentile Hausdorff distance, surface Dice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.rows import Row

__all__ = ["HD95_CONVENTION", "SURFACE_DICE_CONVENTION", "dice", "hd95_mm", "segmentation_rows", "surface_dice"]

HD95_CONVENTION = "voxel_surface;p95_linear;max_of_directions"
"""Surface = mask voxels with a face neighbour outside; percentile with linear interpolation in each direction; then
the larger of the two."""

SURFACE_DICE_CONVENTION = "subvoxel_surface;tolerance_2mm"

_ROWS = {
    "mm": {
        "dice": ("1", "voxel_volume"),
        "hd95": ("mm", HD95_CONVENTION),
        "surface_dice_2mm": ("1", SURFACE_DICE_CONVENTION),
    },
    "px": {
        "dice": ("1", "pixel_area"),
        "hd95": ("px", f"{HD95_CONVENTION};in_pixels_of_the_picture"),
        "surface_dice_2px": ("1", "subpixel_contour;tolerance_2px;in_pixels_of_the_picture"),
    },
}
"""Unit of the spacing -> metric -> unit and convention. The pixels of a photograph have no size in mm."""


def dice(truth: NDArray, prediction: NDArray) -> float:
    """Dice coefficient 2 |A n B| / (|A| + |B|).

    Returns:
        0..1; 0 for an empty prediction; NaN when the truth is empty, whatever the prediction.
    """
    truth, prediction = _masks(truth, prediction)
    size = int(truth.sum())
    if not size:
        return math.nan
    return 2.0 * int(np.count_nonzero(truth & prediction)) / (size + int(prediction.sum()))


def hd95_mm(truth: NDArray, prediction: NDArray, spacing_mm: Sequence[float]) -> float:
    """95th percentile Hausdorff distance, by `HD95_CONVENTION`; equal to MONAI's.

    Args:
        truth: mask, (X, Y, Z) or (H, W).
        prediction: mask of the same shape.
        spacing_mm: voxel spacing along the array axes, mm.

    Returns:
        mm; NaN when either mask is empty.
    """
    truth, prediction = _masks(truth, prediction)
    if not truth.any() or not prediction.any():
        return math.nan
    from scipy.spatial import KDTree

    box = _bounding_box(truth | prediction)
    surfaces = [_surface(mask[box]) * np.asarray(spacing_mm, dtype=np.float64) for mask in (truth, prediction)]
    # A surface has few points in its box: a tree is faster than two distance transforms.
    pairs = (surfaces, surfaces[::-1])
    return max(float(np.percentile(KDTree(other).query(points)[0], 95.0)) for points, other in pairs)


def surface_dice(truth: NDArray, prediction: NDArray, spacing_mm: Sequence[float], tolerance_mm: float = 2.0) -> float:
    """Share of both surfaces that lies within `tolerance_mm` of the other (MONAI's, with subvoxel surface areas).

    Args:
        truth: mask, (X, Y, Z) or (H, W).
        prediction: mask of the same shape.
        spacing_mm: voxel spacing along the array axes, mm.
        tolerance_mm: distance that still counts as agreement, mm.

    Returns:
        0..1; 0 for an empty prediction; NaN when the truth is empty.

    Source: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", JMIR 2021.
    """
    truth, prediction = _masks(truth, prediction)
    if not truth.any():
        return math.nan
    if not prediction.any():
        return 0.0
    import torch
    from monai.metrics import compute_surface_dice

    box = _bounding_box(truth | prediction)
    first, second = (torch.from_numpy(np.ascontiguousarray(mask[box])[None, None]) for mask in (prediction, truth))
    with warnings.catch_warnings():
        # MONAI 1.6 calls its own function with an argument that it has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        value = compute_surface_dice(
            first,
            second,
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=[float(mm) for mm in spacing_mm],
            use_subvoxels=True,
        )
    return float(value)


def segmentation_rows(
    case: str,
    task: str,
    structure: str,
    truth: NDArray | None,
    prediction: NDArray,
    spacing_mm: Sequence[float],
    source: str = "",
    unit: str = "mm",
) -> list[Row]:
    """Scores of one structure of one case as rows.

    Args:
        case: id of the case.
        task: name of the task.
        structure: name of the structure.
        truth: mask; None when the structure is not contoured.
        prediction: mask; empty when nothing was found.
        spacing_mm: voxel spacing along the array axes, in `unit`.
        source: first word of the convention, such as "labelmap".
        unit: "mm"; "px" for a photograph, whose spacing is 1.

    Returns:
        Rows `dice`, `hd95` and `surface_dice_2mm` (or `surface_dice_2px`, with a tolerance of 2 pixels). Truth not
        contoured or empty: all NaN. Truth present and prediction empty (missed): Dice and surface Dice 0, HD95 NaN.
    """
    scores = [math.nan] * len(_ROWS[unit])
    if truth is not None and np.any(truth):
        truth, prediction = _masks(truth, prediction)
        # No score depends on the empty space around both, and without it each takes a fraction of the time.
        box = _bounding_box(truth | prediction)
        truth, prediction = np.ascontiguousarray(truth[box]), np.ascontiguousarray(prediction[box])
        scores = [
            dice(truth, prediction),
            hd95_mm(truth, prediction, spacing_mm),
            surface_dice(truth, prediction, spacing_mm),
        ]
    prefix = f"{source};" if source else ""
    return [
        Row(case, task, structure, metric, score, measured_in, prefix + convention)
        for score, (metric, (measured_in, convention)) in zip(scores, _ROWS[unit].items(), strict=True)
    ]


def _masks(truth: NDArray, prediction: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    truth, prediction = np.asarray(truth, dtype=bool), np.asarray(prediction, dtype=bool)
    if truth.shape != prediction.shape:
        raise UsageError(f"predicted mask has shape {prediction.shape}, expected {truth.shape} of the truth")
    return truth, prediction


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    spans = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        spans.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(spans)


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices (N, D) of the voxels that an erosion takes away; the border of the array counts as outside."""
    from scipy.ndimage import binary_erosion

    return np.argwhere(mask & ~binary_erosion(mask))
