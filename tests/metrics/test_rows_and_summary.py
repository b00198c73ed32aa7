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
from mtl_med.metrics.summary import aggregate_rows, dvh_summaries, overall, structure_summaries, summary
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
    assert item.hd95 == 0.0
    assert item.surface_dice == pytest.approx(0.5)


def test_disjoint_is_not_missed():
    corner = NONE.copy()
    corner[0, 0, 0] = True
    other = NONE.copy()
    other[2, 2, 2] = True
    (item,) = structure_summaries(_structure("a", corner, other))
    assert (item.dice, item.missed) == (0.0, 0)
    assert item.hd95 == pytest.approx(math.sqrt(12))


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
    *_, cord = (line for line in text.splitlines() if line.strip().startswith("Cord "))
    assert cord.split() == ["Cord", "0.000", "-", "0.000", "1", "1", "0"]
    assert "    Cord: a" in text.splitlines()  # the missed case by name


def test_nothing_scored_says_so():
    assert summary([]) == "nothing was scored"
    assert aggregate_rows([]) == []


def _two_cases() -> list[Row]:
    """Cord of both cases, target of the first alone: the cord gets 2 Gy too much and 4 Gy too little, the target 3."""
    planned = np.full((3, 3, 3), 50.0)
    cord, target = ("oar", MASK), ("target", MASK)
    first = dose_rows("a", planned, planned + 2.0, MASK, {"Cord": cord}, voxel_mm3=9)
    second = dose_rows("b", planned, planned - 4.0, MASK, {"Cord": cord}, voxel_mm3=9)
    third = dose_rows("c", planned + 20, planned + 17, MASK, {"PTV70": target}, voxel_mm3=9)
    return [*first, *second, *third, *_structure("a", MASK, MASK), *_structure("b", MASK, NONE)]


def test_dvh_means_are_signed_and_targets_come_first():
    found = dvh_summaries(_two_cases())
    assert [(item.structure, item.metric) for item in found] == [
        *(("PTV70", metric) for metric in ("D_99", "D_95", "D_1")),
        *(("Cord", metric) for metric in ("D_0.1cc", "mean")),
    ]
    numbers = {item.structure: (item.planned_gy, item.predicted_gy, item.difference_gy, item.cases) for item in found}
    assert numbers["PTV70"] == pytest.approx((70.0, 67.0, -3.0, 1))
    assert numbers["Cord"] == pytest.approx((50.0, 49.0, -1.0, 2))


def test_differences_of_both_signs_do_not_hide_each_other():
    table = {(item.structure, item.metric): item for item in dvh_summaries(_two_cases())}
    cord = table["Cord", "mean"]
    assert (cord.error_gy, cord.worst_gy, cord.worst_case) == pytest.approx((3.0, -4.0, "b"))
    line = next(line for line in summary(_two_cases()).splitlines() if line.split()[:2] == ["Cord", "mean"])
    assert line.split() == ["Cord", "mean", "50.00", "49.00", "-1.00", "3.00", "2", "-4.00", "b"]


def test_the_worst_cases_are_named():
    planned = np.full((3, 3, 3), 50.0)
    rows = [
        row
        for name, gy in zip("abcde", (1, 5, 2, 4, 3), strict=True)
        for row in dose_rows(name, planned, planned + gy, MASK, {}, voxel_mm3=9)
    ]
    assert "single cases: 1.00 to 5.00 Gy, median 3.00; worst: b 5.00, d 4.00, e 3.00" in summary(rows)
    assert "single cases" not in summary(rows[: len(rows) // 5 * 2])  # two cases need no such line


def test_a_case_that_lacks_either_dose_of_a_structure_counts_in_neither_mean():
    rows = [row for row in _two_cases() if (row.case, row.metric) != ("b", "mean_predicted")]
    rows = [Row(*row[:4], math.nan, *row[5:]) if row[3] == "D_0.1cc_true" else Row(*row) for row in map(_plain, rows)]
    table = {(item.structure, item.metric): item for item in dvh_summaries(rows)}
    assert (table["Cord", "mean"].difference_gy, table["Cord", "mean"].cases) == (2.0, 1)
    assert math.isnan(table["Cord", "D_0.1cc"].difference_gy) and table["Cord", "D_0.1cc"].cases == 0
    assert ["Cord", "D_0.1cc", "-", "-", "-", "-", "0", "-"] in [line.split() for line in summary(rows).splitlines()]


def _plain(row: Row) -> tuple:
    return tuple(getattr(row, name) for name in COLUMNS)


def test_the_text_has_the_dvh_table_and_says_what_the_mask_does():
    lines = summary(_two_cases()).splitlines()
    words = [line.split() for line in lines]
    assert ["PTV70", "D_95", "70.00", "67.00", "-3.00", "3.00", "1", "-3.00", "c"] in words
    assert ["Cord", "mean", "50.00", "49.00", "-1.00", "3.00", "2", "-4.00", "b"] in words
    assert "  dose score and DVH: predicted dose outside possible_dose_mask counts as 0 Gy" in lines
    first, last = (next(i for i, line in enumerate(lines) if line.startswith(key)) for key in ("DVH (", "structures"))
    assert next(i for i, line in enumerate(lines) if "MAE whole grid" in line) < first < last
    (header,), body = lines[first : first + 1], lines[first + 1 : first + 6]
    assert {line.rindex(" ") for line in body} == {header.index("worst") + 5}, "columns are aligned"


def test_scores_over_all_cases_are_rows_that_no_reader_takes_for_a_case(tmp_path):
    rows = _two_cases()
    more = aggregate_rows(rows)
    found = {row.metric: (row.task, row.value, row.unit) for row in more}
    scores = overall(rows)
    assert found == {
        **{key: ("dose", scores[key], "Gy") for key in ("dose_score", "dvh_score", "mae_in_mask", "mae_whole_grid")},
        "mean_dice": ("oar", 0.5, "1"),
    }
    assert scores["dose_score"] == pytest.approx(3.0) and scores["dvh_score"] == pytest.approx((4 + 8 + 9) / 7)
    assert all(row.case == "" and row.structure == "" and row.convention for row in more)
    write_rows(tmp_path / "m.csv", [*rows, *more])
    back = read_rows(tmp_path / "m.csv")
    assert overall(back) == scores and aggregate_rows(back) == more
    assert structure_summaries(back) == structure_summaries(rows) and dvh_summaries(back) == dvh_summaries(rows)
    assert summary(back) == summary(rows)


def test_scores_of_images_are_still_told():
    rows = [*_two_cases(), Row("", "diagnosis", "", "accuracy", 0.75, "1")]
    assert ["diagnosis", "accuracy", "0.750"] in [line.split() for line in summary(rows).splitlines()]
