"""Structure scores against analytic shapes, hand-counted voxels and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.segmentation import dice, hd95_mm, segmentation_rows, surface_dice


def _box(shape=(24, 24, 24), start=(4, 4, 4), stop=(14, 14, 14)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))] = True
    return mask


def _sphere(radius_mm: float, spacing=(1.0, 1.0, 1.0), size_mm: float = 60.0) -> np.ndarray:
    axes = [(np.arange(round(size_mm / mm)) + 0.5) * mm - size_mm / 2 for mm in spacing]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius_mm**2


def test_dice_of_hand_counted_masks():
    truth, prediction = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    truth[0, 0], prediction[0, 0, 0], prediction[1, 1] = 1, 1, 1
    assert dice(truth, prediction) == pytest.approx(2 * 1 / (2 + 3))


def test_dice_is_symmetric_and_one_for_itself():
    first, second = _box(), _box(start=(6, 4, 4), stop=(16, 14, 14))
    assert dice(first, second) == dice(second, first) == pytest.approx(0.8)
    assert dice(first, first) == 1.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 3.0)], ids=["isotropic", "anisotropic"])
def test_hd95_of_concentric_spheres_is_the_difference_of_their_radii(spacing):
    found = hd95_mm(_sphere(20.0, spacing), _sphere(14.0, spacing), spacing)
    assert found == pytest.approx(6.0, abs=max(spacing) / 2)


def test_hd95_of_a_plate_moved_along_one_axis_is_the_shift_in_mm():
    first = _box((40, 40, 40), (2, 2, 10), (38, 38, 12))
    second = _box((40, 40, 40), (2, 2, 14), (38, 38, 16))
    assert hd95_mm(first, second, (1.0, 1.0, 2.5)) == pytest.approx(4 * 2.5)


def test_hd95_ignores_where_in_the_grid_the_masks_lie():
    first, second = _box(), _box(start=(6, 4, 4), stop=(16, 15, 14))
    moved = [np.pad(mask, ((9, 0), (0, 3), (5, 5))) for mask in (first, second)]
    assert hd95_mm(*moved, (1, 2, 3)) == hd95_mm(first, second, (1, 2, 3)) > 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hd95_equals_monai(seed):
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_hausdorff_distance
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    first, second = (gaussian_filter(generator.normal(size=(20, 22, 18)), 2.5) > 0.01 for _ in range(2))
    spacing = (1.2, 0.9, 2.5)
    pair = [torch.from_numpy(mask[None, None]) for mask in (second, first)]
    judge = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    assert hd95_mm(first, second, spacing) == pytest.approx(float(judge), abs=1e-5)


def test_surface_dice_of_concentric_spheres_follows_the_tolerance():
    outer, inner = _sphere(20.0), _sphere(16.0)
    assert surface_dice(outer, inner, (1, 1, 1)) < 0.01
    assert surface_dice(outer, inner, (1, 1, 1), tolerance_mm=5.0) == pytest.approx(1.0)
    assert surface_dice(outer, outer, (1, 1, 1)) == 1.0


def test_surface_dice_weighs_by_area_in_mm():
    # Only the top face of the second box is out of tolerance (4 voxels of 3 mm); with areas in mm^2 by hand, edges of
    # the boxes aside, the share is that of the top faces.
    first = _box((50, 50, 50), (4, 4, 4), (44, 44, 24))
    second = _box((50, 50, 50), (4, 4, 4), (44, 44, 28))
    side, low, high = 40 * 1.0, 20 * 3.0, 24 * 3.0
    total = 4 * side * (low + high) + 4 * side**2
    wrong = 2 * side**2 + 4 * side * (high - low - 2.0)
    assert surface_dice(first, second, (1.0, 1.0, 3.0)) == pytest.approx(1 - wrong / total, abs=0.02)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_cropping_changes_no_surface_dice():
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_surface_dice

    first, second = _box(), _box(start=(0, 4, 7), stop=(12, 14, 20))
    pair = [torch.from_numpy(mask[None, None]) for mask in (second, first)]
    judge = compute_surface_dice(*pair, [2.0], include_background=True, spacing=[1.0, 1.5, 2.0], use_subvoxels=True)
    assert surface_dice(first, second, (1.0, 1.5, 2.0)) == pytest.approx(float(judge), abs=1e-6)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (None, _box(), (math.nan, math.nan, math.nan)),
        (np.zeros((24, 24, 24)), _box(), (math.nan, math.nan, math.nan)),
        (np.zeros((24, 24, 24)), np.zeros((24, 24, 24)), (math.nan, math.nan, math.nan)),
        (_box(), np.zeros((24, 24, 24)), (0.0, math.nan, 0.0)),
        (_box(), _box(), (1.0, 0.0, 1.0)),
    ],
    ids=["not contoured", "empty truth", "both empty", "missed", "perfect"],
)
def test_what_empty_masks_get(truth, prediction, expected):
    rows = segmentation_rows("a", "oar", "Cord", truth, prediction, (1.0, 1.0, 1.0))
    assert [row.metric for row in rows] == ["dice", "hd95", "surface_dice_2mm"]
    assert [row.unit for row in rows] == ["1", "mm", "1"]
    np.testing.assert_equal([row.value for row in rows], expected)


def test_every_row_states_its_convention_and_a_label_map_is_named_first():
    rows = segmentation_rows("a", "oar", "Cord", _box(), _box(), (1, 1, 1), source="labelmap")
    assert all(row.convention.startswith("labelmap;") for row in rows)
    assert "p95" in rows[1].convention
    assert all(row.convention for row in segmentation_rows("a", "oar", "Cord", None, _box(), (1, 1, 1)))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(UsageError, match="shape"):
        dice(np.ones((2, 2, 2)), np.ones((2, 2, 3)))
