"""Relative performance by the paper's own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.relative import relative_performance, relative_performances

CTAN, STL = [82.40, 0.89], [81.96, 0.93]
DICE_UP_DOSE_DOWN = [True, False]


def test_the_published_pair_of_dice_and_dose_error():
    assert relative_performances(STL, CTAN, DICE_UP_DOSE_DOWN) == pytest.approx([0.5368, 4.3011], abs=5e-5)
    assert relative_performance(STL, CTAN, DICE_UP_DOSE_DOWN) == pytest.approx((0.5368 + 4.3011) / 2, abs=5e-5)


def test_being_worse_is_negative_whichever_way_is_better():
    assert all(delta < 0 for delta in relative_performances(CTAN, STL, DICE_UP_DOSE_DOWN))


def test_the_single_task_networks_are_zero():
    assert relative_performance(STL, STL, DICE_UP_DOSE_DOWN) == 0.0


def test_a_unit_does_not_matter():
    grays = relative_performances([0.8, 3.0], [0.9, 2.5], DICE_UP_DOSE_DOWN)
    assert relative_performances([80.0, 300.0], [90.0, 250.0], DICE_UP_DOSE_DOWN) == pytest.approx(grays)


def test_tables_of_scores_are_taken_row_by_row():
    found = relative_performances([STL, CTAN], [CTAN, STL], DICE_UP_DOSE_DOWN)
    assert found[0].tolist() == relative_performances(STL, CTAN, DICE_UP_DOSE_DOWN).tolist()
    assert found[1].tolist() == relative_performances(CTAN, STL, DICE_UP_DOSE_DOWN).tolist()


def test_nothing_is_relative_to_zero():
    found = relative_performances([0.0, 2.0], [1.0, 1.0], DICE_UP_DOSE_DOWN)
    assert np.isnan(found[0]) and found[1] == 50.0
    assert np.isnan(relative_performance([0.0, 2.0], [1.0, 1.0], DICE_UP_DOSE_DOWN))


@pytest.mark.parametrize(
    ("single", "method", "better"),
    [([1.0], [1.0, 2.0], [True, True]), ([], [], []), ([1.0, 1.0], [1.0, 1.0], [True])],
    ids=["lengths", "no task", "directions"],
)
def test_what_has_no_relative_performance_is_refused(single, method, better):
    with pytest.raises(UsageError):
        relative_performance(single, method, better)
