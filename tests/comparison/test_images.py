"""Comparisons by image-level scores: the figures of a run, and lesions drawn whole."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mtl_med.comparison.protocol import ScoreColumn
from mtl_med.comparison.results import read_results, write_results
from mtl_med.comparison.samples import means, sample_of
from mtl_med.comparison.scores import of_run, select
from mtl_med.comparison.statistics import paired_bootstrap
from mtl_med.comparison.tables import render
from mtl_med.files import write_json
from mtl_med.metrics.classification import accuracy, auc, auc_one_vs_rest, balanced_accuracy
from mtl_med.metrics.image_rows import image_rows
from mtl_med.metrics.rows import Row

NAMES = ("mel", "nv", "df")
CASES = tuple(f"i{number:02d}" for number in range(40))
TRUTH = np.array([0] * 10 + [1] * 24 + [2] * 6)
GROUPS = {case: f"lesion {number // 2}" for number, case in enumerate(CASES)}
COLUMNS = {
    metric: ScoreColumn(metric, "diagnosis", metric, True, "1") for metric in ("accuracy", "balanced_accuracy", "auc")
}


def predicted(seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Decisions and probabilities."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(40, 3))
    logits[np.arange(40), TRUTH] += skill
    return logits.argmax(axis=1), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def rows_of(seed: int, skill: float, names: Sequence[str] = NAMES) -> list[Row]:
    """One run, with a mask of each lesion."""
    rows = []
    for case, truth, decided, chances in zip(CASES, TRUTH, *predicted(seed, skill), strict=True):
        rows.append(Row(case, "lesion", "Lesion", "dice", 0.8 + 0.01 * skill + 0.001 * int(truth), "1", "pixel_area"))
        rows += image_rows(case, "diagnosis", truth, decided, chances, names)
    return rows


def test_figures_of_a_run_are_the_metrics_of_its_images():
    rows, (decided, chances) = rows_of(0, 1.0), predicted(0, 1.0)
    found = {metric: of_run(column, select(column, rows)) for metric, column in COLUMNS.items()}
    assert found["accuracy"] == pytest.approx(accuracy(TRUTH, decided))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy(TRUTH, decided))
    assert found["auc"] == pytest.approx(auc_one_vs_rest(TRUTH, chances))


def test_a_column_may_ask_for_one_class():
    rows, (decided, chances) = rows_of(0, 1.0), predicted(0, 1.0)
    area = ScoreColumn("AUC of mel", "diagnosis", "auc", True, "1", ("mel",))
    assert of_run(area, select(area, rows)) == pytest.approx(auc(TRUTH == 0, chances[:, 0]))
    recall = ScoreColumn("sensitivity of mel", "diagnosis", "balanced_accuracy", True, "1", ("mel",))
    assert of_run(recall, select(recall, rows)) == pytest.approx((decided[TRUTH == 0] == 0).mean())
    absent = ScoreColumn("AUC", "diagnosis", "auc", True, "1", ("scc",))
    assert math.isnan(of_run(absent, select(absent, rows)))


@pytest.mark.parametrize("metric", COLUMNS)
def test_drawn_anew_a_score_is_that_of_the_images_as_often_as_they_count(metric):
    column, weights = COLUMNS[metric], np.random.default_rng(1).integers(0, 3, (40, 4)).astype(float)
    sample = sample_of(column, [rows_of(seed, 1.0) for seed in (0, 1)], CASES)
    assert sample.defined.all()
    found = sample.score(weights)
    judges = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "auc": auc_one_vs_rest}
    for draw in range(4):
        drawn = np.repeat(np.arange(40), weights[:, draw].astype(int))
        runs = [predicted(seed, 1.0)[metric == "auc"][drawn] for seed in (0, 1)]
        assert found[draw] == pytest.approx(np.mean([judges[metric](TRUTH[drawn], run) for run in runs]))


def test_images_of_a_lesion_are_drawn_together():
    base, method = np.zeros(40), np.repeat(np.random.default_rng(0).normal(0.1, 1, 20), 2)
    groups = [GROUPS[case] for case in CASES]
    (whole, _), (alone, _) = (
        paired_bootstrap([means(base + 1)], [means(method + 1)], [True], groups=drawn) for drawn in (groups, None)
    )
    (judge, _) = paired_bootstrap([means(base[::2] + 1)], [means(method[::2] + 1)], [True])
    assert (whole.patients, alone.patients) == (20, 40)
    assert whole.value == pytest.approx(alone.value) == pytest.approx(judge.value)
    assert whole.high - whole.low == pytest.approx(judge.high - judge.low, rel=0.06)
    assert alone.high - alone.low < 0.85 * (whole.high - whole.low)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What two rows of two seeds leave, once written and read again."""
    metrics = [
        {"name": "Dice", "task": "lesion", "metric": "dice"},
        {"name": "accuracy", "task": "diagnosis", "metric": "accuracy"},
        {"name": "balanced accuracy", "task": "diagnosis", "metric": "balanced_accuracy"},
        {"name": "AUC", "task": "diagnosis", "metric": "auc"},
    ]
    write_json(
        tmp_path / "protocol.json",
        {
            "schema": "mtl_med/comparison/1",
            "name": "lesions",
            "title": "Lesions",
            "bundle": "x",
            "seeds": [0, 1],
            "rows": {"stl": {}, "ctan": {}},
            "metrics": metrics,
        },
    )
    lines = [["row", "seed", "case", "task", "structure", "metric", "value", "unit", "convention"]]
    runs = [
        "row,seed,steps,epochs,parameters,seconds_per_step,peak_memory_mib,threads,processes,precision,best_epoch,"
        "settings_hash,fingerprint,weights_sha256,commit"
    ]
    for name, skill in (("stl", 0.4), ("ctan", 2.0)):
        for seed in (0, 1):
            runs.append(f"{name},{seed},10,2,1000,0.1,100,1,1,,1,aa,bb,cc,dd")
            for row in rows_of(seed, skill):
                if row.metric != "probability_of_truth" and (row.case != "i05" or row.task == "lesion"):
                    fields = [
                        row.case,
                        row.task,
                        row.structure,
                        row.metric,
                        repr(float(row.value)),
                        row.unit,
                        row.convention,
                    ]
                    lines.append([name, str(seed), *fields])
    with (tmp_path / "scores.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(lines)
    (tmp_path / "runs.csv").write_text("\n".join(runs) + "\n")
    (tmp_path / "groups.csv").write_text("case,group\n" + "".join(f"{k},{v}\n" for k, v in sorted(GROUPS.items())))
    return tmp_path


def test_the_tables_tell_groups_meanings_and_labels(folder):
    text = render(folder)
    assert "| p over groups |" in text and "| minus stl, over groups |" in text and "over patients |" not in text
    assert "4 runs on 40 images or patients in 20 groups (such as lesions), which are drawn as a whole; 2" in text
    assert "balanced accuracy is the mean over the true classes of the share that was right" in text
    assert "Of 40 cases those count that have a label: Dice 40, accuracy 39, balanced accuracy 39, AUC 39." in text
    ctan = next(line for line in text.splitlines() if line.startswith("| ctan | 0.82"))
    known = np.delete(np.arange(40), 5)
    accuracies = [accuracy(TRUTH[known], predicted(seed, 2.0)[0][known]) for seed in (0, 1)]
    assert f"| {np.mean(accuracies):.3f} [" in ctan
    assert "only where both intervals, over seeds and over groups, leave zero" in text


def test_what_is_written_is_what_was_read(folder, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    results = read_results(folder)
    assert results.groups == GROUPS
    write_results(results, again)
    for name in ("scores.csv", "groups.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert render(again) == render(folder)
