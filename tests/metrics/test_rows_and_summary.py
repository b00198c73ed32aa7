"""The long table: what is written is what is read, and what the short one counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics import METRICS
from mtl_med.metrics.dose import dose_rows
from mtl_med.metrics.rows import COLUMNS, Row, read_rows, write_rows
from mtl_med.metrics.segmentation import segmentation_rows
from mtl_med.metrics.summary import overall, structure_summaries, summary
from mtl_med.tasks import KINDS

MASK = np.ones((3, 3, 3), dtype=bool)
NONE = np.zeros((3, 3, 3), dtype=bool)


def _structure(case: str, truth, prediction, name: str = "Cord", source: str = "") -> list[Row]:
    return segmentation_rows(case, "oar", name, truth, prediction, (1.0, 1.0, 1.0), source)


def test_every_kind_of_task_has_metrics_with_distinct_names():
    assert set(METRICS) == set(KINDS)
    for metrics in METRICS.values():
        assert metrics
        assert len({metric.name for metric in metrics}) == len(metrics)
        assert all(callable(metric.function) for metric in metrics)


def test_the_metrics_that_rise_and_fall_are_told_apart():
    better = {metric.name: metric.higher_is_better for metrics in METRICS.values() for metric in metrics}
    assert better["dice"] and better["auc"]
    assert not better["hd95"] and not better["dose_score"]


def test_the_columns_are_the_agreed_ones():
    assert COLUMNS == ("case", "task", "structure", "metric", "value", "unit", "convention")


def test_values_survive_the_file_to_the_last_bit(tmp_path):
    values = [1 / 3, 1e-300, float(np.float32(0.1)), 0.0, math.nan, np.float64(2.5), 7]
    rows = [Row(f"a,{i}", "dose", 'quote"d', "m", v, "Gy", "x;y") for i, v in enumerate(values)]
    write_rows(tmp_path / "m.csv", rows)
    back = read_rows(tmp_path / "m.csv")
    np.testing.assert_equal([row.value for row in back], [float(value) for value in values])
    assert [row.case for row in back] == [row.case for row in rows]
    first = (tmp_path / "m.csv").read_bytes()
    write_rows(tmp_path / "m.csv", back)
    assert (tmp_path / "m.csv").read_bytes() == first


def test_no_rows_is_still_a_table(tmp_path):
    write_rows(tmp_path / "m.csv", [])
    assert read_rows(tmp_path / "m.csv") == []


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", f"{','.join(COLUMNS)}\na,b,c,d,much,Gy,\n"])
def test_another_table_is_refused(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UsageError, match=r"m\.csv"):
        read_rows(tmp_path / "m.csv")


def test_missed_and_not_contoured_are_counted_apart():
    rows = _structure("a", MASK, MASK) + _structure("b", MASK, NONE) + _structure("c", None, MASK)
    rows += _structure("d", NONE, MASK)
    (item,) = structure_summaries(rows)
    assert (item.cases, item.missed, item.not_contoured) == (2, 1, 2)
    assert item.dice == pytest.approx(0.5)
    assert item.hd95_mm == 0.0
    assert item.surface_dice == pytest.approx(0.5)


def test_disjoint_is_not_missed():
    corner = NONE.copy()
    corner[0, 0, 0] = True
    other = NONE.copy()
    other[2, 2, 2] = True
    (item,) = structure_summaries(_structure("a", corner, other))
    assert (item.dice, item.missed) == (0.0, 0)
    assert item.hd95_mm == pytest.approx(math.sqrt(12))


def test_mean_dice_is_over_structures_not_over_masks():
    rows = _structure("a", MASK, MASK) + _structure("b", MASK, MASK) + _structure("a", MASK, NONE, "Parotid_L")
    assert overall(rows)["mean_dice"] == pytest.approx(0.5)
    assert overall(rows)["dice/Cord"] == 1.0


def test_the_dose_score_is_the_mean_over_patients_whatever_their_size():
    small, large = np.zeros((2, 2, 2)), np.zeros((4, 4, 4))
    rows = dose_rows("a", small, small + 3.0, small + 1, {}, voxel_mm3=10.0)
    rows += dose_rows("b", large, large + 1.0, large + 1, {}, voxel_mm3=10.0)
    assert overall(rows)["dose_score"] == pytest.approx(2.0)


def test_the_text_names_all_scores_counts_and_label_maps():
    rows = dose_rows("a", np.full((3, 3, 3), 9.0), np.full((3, 3, 3), 7.75), MASK, {"Cord": ("oar", MASK)}, voxel_mm3=9)
    rows += _structure("a", MASK, NONE, "Cord", "labelmap") + _structure("a", None, MASK, "Larynx")
    text = summary(rows)
    for expected in (
        "dose score",
        "DVH score",
        "MAE inside mask",
        "MAE whole grid",
        "1.250 Gy",
        "Larynx",
        "label maps",
    ):
        assert expected in text
    cord = next(line for line in text.splitlines() if line.strip().startswith("Cord"))
    assert cord.split() == ["Cord", "0.000", "-", "0.000", "1", "1", "0"]


def test_nothing_scored_says_so():
    assert summary([]) == "nothing was scored"
