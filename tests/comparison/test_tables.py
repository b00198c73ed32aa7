"""Tables from made-up scores whose every number can be computed by hand."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_med.comparison.analysis import Line, analyse
from mtl_med.comparison.notes import _verdicts, findings
from mtl_med.comparison.protocol import ScoreColumn, parse_protocol
from mtl_med.comparison.results import RUN_COLUMNS, Results, read_results, write_results
from mtl_med.comparison.scores import of_patients, of_run, patient_means, select, under_own_tasks
from mtl_med.comparison.statistics import Difference, Estimate
from mtl_med.comparison.tables import refresh, render
from mtl_med.errors import UsageError
from mtl_med.metrics.rows import Row
from mtl_med.metrics.summary import aggregate_rows, overall
from mtl_med.tasks import Task

NAN = float("nan")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Per run: Dice of structure X in patients a and b, of Y in a (not contoured in b), and dose scores (Gy) of a and b.
RUNS = {
    ("stl", 0): [0.50, 0.70, 0.60, 4.0, 2.0],
    ("stl", 1): [0.60, 0.80, 0.70, 4.2, 2.2],
    ("hps", 0): [0.55, 0.77, 0.66, 3.6, 1.8],
    ("hps", 1): [0.66, 0.88, 0.77, 4.1, 2.3],
}
FIELDS = {
    "schema": "mtl_med/comparison/1",
    "name": "small",
    "title": "Small",
    "bundle": "none",
    "seeds": [0, 1],
    "rows": {"stl": {}, "hps": {}, "ctan": {"seeds": [1]}},
    "metrics": [
        {"name": "Dice", "task": "oar", "metric": "dice"},
        {"name": "dose score", "task": "dose", "metric": "dose_score"},
    ],
}


def scores(values: list[float]) -> list[Row]:
    xa, xb, ya, dose_a, dose_b = values
    dice = [("a", "X", xa), ("b", "X", xb), ("a", "Y", ya), ("b", "Y", NAN)]
    rows = [Row(case, "oar", structure, "dice", value, "1", "voxel_volume") for case, structure, value in dice]
    return rows + [
        Row(case, "dose", "", "dose_score", gy, "Gy", "openkbp") for case, gy in (("a", dose_a), ("b", dose_b))
    ]


def line(row: str, seed: int, **changes: str) -> dict[str, str]:
    known = {
        "row": row,
        "seed": str(seed),
        "steps": "40",
        "epochs": "4",
        "parameters": "1234567" if row == "stl" else "2500000",
        "seconds_per_step": str(0.2 + seed / 10),
        "peak_memory_mib": str(100.4 + seed),
        "threads": "1",
        "processes": "2",
        "precision": "bf16",
        "best_epoch": str(3 + seed),
        "settings_hash": "aa" * 32,
        "fingerprint": "bb" * 32,
        "weights_sha256": "cc" * 32,
        "commit": COMMIT,
    }
    return {name: (known | changes)[name] for name in RUN_COLUMNS}


def results(runs: dict = RUNS, **fields: object) -> Results:
    protocol = parse_protocol(FIELDS | fields, "small.json")
    return Results(protocol, {key: scores(values) for key, values in runs.items()}, {key: line(*key) for key in runs})


def sentences(done: Results) -> list[str]:
    """Below the first table."""
    group = done.protocol.groups[0]
    columns = [done.protocol.metric(name) for name in group.metrics]
    return list(findings(done, group, columns, analyse(done, group)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_results(results(), tmp_path / "small")
    return tmp_path / "small"


EXPECTED = """\
- First table of each section: a run's score is the mean over structures of their means over patients; shown are means \
over seeds with 95 % t-intervals. Δ is the difference relative to the section's baseline between runs of the same seed \
(Eq. 3 of the CTAN paper; positive is better), and mean Δ the mean over tasks of a task's mean over its scores; rank \
is by mean Δ over the seeds that all rows of the section have.
- Second table: a patient's score is the mean over its structures and over the seeds that both methods have, so that \
its differences are not quite those of the first. Intervals and p are from a paired bootstrap over patients (10000 \
draws), p two-sided and Holm-corrected over the methods of the section; that of mean Δ stands in the first table too. \
They say nothing about other seeds.
- A method is called better or worse than the baseline only where both intervals, over seeds and over patients, leave \
zero to one side, and the corrected p is below 0.05; else the two are not told apart.
- Seconds per step are medians of a run's steps and of a row's runs, and peak memory is the most that training and its \
validation take beyond what is in use before the first step, the weights and the cases kept in memory; the largest of \
a row's runs (threads a run: 1; runs at a time: 2).

### Small

| method | Dice ↑ | Δ % | dose score, Gy ↓ | Δ % | mean Δ % | rank | p over patients | parameters, M \
| s/step | peak MiB | runs |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| stl | 0.650 [0.015, 1.285] | - | 3.10 [1.83, 4.37] | - | - | 2 | - | 1.23 | 0.250 | 101 | 2/2 |
| hps | 0.715 [0.016, 1.414] | +10.00 [+10.00, +10.00] | 2.95 [-0.23, 6.13] | +5.00 [-58.53, +68.53] \
| +7.50 [-24.27, +39.27] | 1 | <0.001 | 2.50 | 0.250 | 101 | 2/2 |
| ctan | - | - | - | - | - | - | - | - | - | - | 0/1 |

| minus stl, over patients | Dice ↑ | p | dose score, Gy ↓ | p | mean Δ % | p | patients |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| hps | +0.0675 [+0.0600, +0.0750] | <0.001 | -0.150 [-0.250, -0.050] | <0.001 | +7.42 [+6.19, +8.05] | <0.001 | 2 |

- 4 runs on 2 patients; 4 epochs, 40 steps a run.
- Dice: 'hps' better than 'stl'.
- dose score: 'hps' not told apart from 'stl'.
- mean Δ: 'hps' not told apart from 'stl'.
- Not finished: ctan (0 of 1).

### Runs of small

| run | seed | Dice ↑ | dose score, Gy ↓ | steps | best epoch | threads | precision | config | data | weights | commit |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| stl | 0 | 0.6000 | 3.000 | 40 | 3 | 1 | bf16 | aaaaaaaaaa | bbbbbbbbbb | cccccccccc | 0123456789 |
| stl | 1 | 0.7000 | 3.200 | 40 | 4 | 1 | bf16 | aaaaaaaaaa | bbbbbbbbbb | cccccccccc | 0123456789 |
| hps | 0 | 0.6600 | 2.700 | 40 | 3 | 1 | bf16 | aaaaaaaaaa | bbbbbbbbbb | cccccccccc | 0123456789 |
| hps | 1 | 0.7700 | 3.200 | 40 | 4 | 1 | bf16 | aaaaaaaaaa | bbbbbbbbbb | cccccccccc | 0123456789 |
"""


def test_organs_and_targets_of_one_task_are_its_own() -> None:
    """An evaluation calls them by their kinds; a dose of a structure stays one of the dose."""
    tasks = [Task("oar", "segmentation", 2, ("Rectum", "PTV")), Task("dose", "regression")]
    found = under_own_tasks(
        [
            Row("a", "oar", "Rectum", "dice", 0.8, "1"),
            Row("a", "target", "PTV", "dice", 0.2, "1"),
            Row("a", "dose", "PTV", "D_95_abs_error", 1.0, "Gy"),
            Row("a", "target", "CTV", "dice", 0.1, "1"),
        ],
        tasks,
    )
    assert [row.task for row in found] == ["oar", "oar", "dose", "target"]
    column = ScoreColumn("Dice", "oar", "dice", True, "1")
    assert of_run(column, select(column, found)) == pytest.approx(0.5)
    both = [*tasks, Task("again", "segmentation", 1, ("PTV",))]
    assert [row.task for row in under_own_tasks(found[1:2], both)] == ["oar"], "of two tasks neither"


class TestRender:
    def test_every_number(self, folder: Path) -> None:
        assert render(folder) == EXPECTED

    def test_depends_on_the_three_files_alone(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "elsewhere")
        assert sorted(path.name for path in folder.iterdir()) == ["protocol.json", "runs.csv", "scores.csv"]
        assert render(tmp_path / "elsewhere") == render(folder) == render(folder)

    def test_one_seed_has_no_interval_over_seeds(self, tmp_path: Path) -> None:
        runs = {key: values for key, values in RUNS.items() if key[1] == 0}
        write_results(results(runs), tmp_path)
        text = render(tmp_path)
        assert "| hps | 0.660 [-] | +10.00 [-] | 2.70 [-] | +10.00 [-] | +10.00 [-] | 1 | <0.001 |" in text
        assert "One run only, hence no interval over seeds: stl; hps." in text
        assert "- Dice: 'hps' not told apart from 'stl'." in text

    def test_what_training_did_not_tell_is_a_dash(self, tmp_path: Path) -> None:
        done = results()
        unknown = dict.fromkeys(("parameters", "seconds_per_step", "peak_memory_mib", "best_epoch"), "")
        write_results(Results(done.protocol, done.scores, {key: line(*key, **unknown) for key in RUNS}), tmp_path)
        assert "| 1 | <0.001 | - | - | - | 2/2 |" in render(tmp_path)

    def test_runs_of_different_precision_are_told(self, tmp_path: Path) -> None:
        """`auto` is another arithmetic on another machine."""
        done = results()
        runs = {key: line(*key, precision="fp32" if key[1] else "bf16") for key in RUNS}
        write_results(Results(done.protocol, done.scores, runs), tmp_path)
        assert "- The runs differ in precision: bf16 2, fp32 2." in render(tmp_path)
        write_results(done, tmp_path)
        assert "precision:" not in render(tmp_path)

    def test_nothing_finished(self, tmp_path: Path) -> None:
        write_results(results({}), tmp_path)
        assert "No run is finished." in render(tmp_path)

    def test_groups_have_their_own_rows_baseline_and_metrics(self, tmp_path: Path) -> None:
        groups = [{"title": "Turned", "baseline": "hps", "rows": ["hps", "stl"], "metrics": ["dose score"]}]
        write_results(results(groups=groups), tmp_path)
        text = render(tmp_path)
        assert "| method | dose score, Gy ↓ | Δ % | mean Δ % | rank |" in text
        # 100 (2.7 - 3.0) / 2.7 = -11.11 and 0: mean -5.56.
        assert "| stl | 3.10 [1.83, 4.37] | -5.56 [" in text

    def test_only_common_seeds_are_compared(self, tmp_path: Path) -> None:
        runs = {**RUNS, ("ctan", 1): RUNS["hps", 1]}
        write_results(results({key: value for key, value in runs.items() if key != ("hps", 0)}), tmp_path)
        text = render(tmp_path)
        assert "| ctan | 0.770 [-] | +10.00 [-] | 3.20 [-] | +0.00 [-] | +5.00 [-] | 1 |" in text
        assert "| hps | 0.770 [-] | +10.00 [-] | 3.20 [-] | +0.00 [-] | +5.00 [-] | 1 |" in text
        assert "| stl | 0.650 [0.015, 1.285] | - | 3.10 [1.83, 4.37] | - | - | 3 |" in text

    def test_a_run_that_does_not_belong_is_refused(self, folder: Path) -> None:
        with (folder / "runs.csv").open("a") as stream:
            stream.write(",".join(line("mtan", 0).values()) + "\n")
        with pytest.raises(UsageError, match=r"runs.csv: line 6: no run 'mtan' with seed 0 belongs here"):
            render(folder)

    def test_packed_tables_are_read_alike(self, folder: Path) -> None:
        text, path = render(folder), folder / "scores.csv"
        packed = gzip.compress(path.read_bytes())
        path.unlink()
        (folder / "scores.csv.gz").write_bytes(packed)
        assert render(folder) == text
        for damaged in (packed[:-20], b"no gzip", packed[:30] + b"xx" + packed[32:]):
            (folder / "scores.csv.gz").write_bytes(damaged)
            with pytest.raises(UsageError, match=r"scores.csv: "):
                render(folder)

    @pytest.mark.parametrize("name", ["protocol.json", "runs.csv", "scores.csv"])
    def test_a_missing_file_is_named(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(UsageError, match=f"{name}: cannot be read"):
            render(folder)

    def test_other_columns_are_refused(self, folder: Path) -> None:
        (folder / "scores.csv").write_text("row,seed\n")
        with pytest.raises(UsageError, match=r"scores.csv: has the columns \['row', 'seed'\]"):
            render(folder)


def test_the_files_keep_every_bit(folder: Path) -> None:
    back = read_results(folder)
    assert back.runs == results().runs
    assert {key: [repr(row) for row in rows] for key, rows in back.scores.items()} == {
        key: [repr(row) for row in rows] for key, rows in results().scores.items()
    }


class TestRefresh:
    TEXT = "# Results\n\n<!-- comparison: small -->\nold\n<!-- end -->\n\nWhat follows.\n"

    def test_blocks_are_made_anew_and_the_rest_stays(self, folder: Path) -> None:
        expected = f"# Results\n\n<!-- comparison: small -->\n{EXPECTED}<!-- end -->\n\nWhat follows.\n"
        assert refresh(self.TEXT, folder.parent) == expected
        assert refresh(expected, folder.parent) == expected

    def test_a_changed_number_is_noticed(self, folder: Path) -> None:
        written = refresh(self.TEXT, folder.parent)
        assert refresh(written.replace("0.715", "0.751"), folder.parent) == written

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("small", "smal", "there is no comparison 'smal'. Did you mean small?"),
            ("<!-- end -->", "", "a comparison's block has no <!-- end -->"),
            ("small", "../small", "leads outside the folder"),
        ],
        ids=["name", "end", "outside"],
    )
    def test_faults(self, folder: Path, old: str, new: str, message: str) -> None:
        with pytest.raises(UsageError, match=message.replace("?", r"\?")):
            refresh(self.TEXT.replace(old, new), folder.parent)


class TestAnalysis:
    def test_equation_3_has_the_papers_numbers(self) -> None:
        """Prostate, CTAN against STL: +0.54 % Dice and, from the rounded doses, +4.30 %."""

        def run(dice: float, gy: float) -> list[float]:
            return [dice, dice, dice, gy, gy]

        done = results({("stl", 0): run(81.96, 0.93), ("hps", 0): run(82.40, 0.89)})
        (ctan,) = [found for found in analyse(done, done.protocol.groups[0]) if found.row == "hps"]
        assert [delta.mean for delta in ctan.deltas] == pytest.approx([0.54, 4.30], abs=0.005)
        assert ctan.mean_delta.mean == pytest.approx(2.42, abs=0.005)

    def test_ranks_are_those_of_the_mean_difference(self) -> None:
        runs = {
            ("stl", 1): [0.6] * 3 + [3.0] * 2,
            ("hps", 1): [0.3] * 3 + [3.0] * 2,
            ("ctan", 1): [0.9] * 3 + [3.0] * 2,
        }
        done = results(runs)
        assert {found.row: found.rank for found in analyse(done, done.protocol.groups[0])} == {
            "ctan": 1,
            "stl": 2,
            "hps": 3,
        }

    def test_ranks_are_over_the_seeds_that_all_rows_have(self) -> None:
        """hps is better than ctan with seed 1, and would be worse by a bad seed 0 that ctan has not run."""
        runs = {
            ("stl", 0): [0.6] * 3 + [3.0] * 2,
            ("stl", 1): [0.6] * 3 + [3.0] * 2,
            ("hps", 0): [0.3] * 3 + [3.0] * 2,
            ("hps", 1): [0.9] * 3 + [3.0] * 2,
            ("ctan", 1): [0.7] * 3 + [3.0] * 2,
        }
        done = results(runs)
        found = {line.row: line for line in analyse(done, done.protocol.groups[0])}
        assert found["hps"].mean_delta.mean < found["ctan"].mean_delta.mean
        assert {row: line.rank for row, line in found.items()} == {"hps": 1, "ctan": 2, "stl": 3}

    def test_what_the_correction_takes_back_is_not_claimed(self) -> None:
        """Both intervals leave zero to one side, and p 0.03 of one method becomes 0.06 among two."""
        over_seeds, over_patients = Estimate(2.0, 1.0, 3.0, 5), Difference(0.02, 0.01, 0.03, 0.03, 33)
        columns = [results().protocol.metric("Dice")]
        lines = [
            Line(row, (0, 1), (0, 1), (over_seeds,), (over_seeds,), (over_seeds,), over_seeds, 1, patients, p)
            for row, patients, p in (
                ("hps", (over_patients, over_patients), (0.06, 0.04)),
                ("ctan", (over_patients, over_patients), (0.04, 0.06)),
            )
        ]
        told = list(_verdicts(results().protocol.groups[0], columns, lines))
        assert told == [
            "Dice: 'ctan' better than 'stl'; 'hps' not told apart from 'stl'.",
            "mean Δ: 'hps' better than 'stl'; 'ctan' not told apart from 'stl'.",
        ]

    def test_a_baseline_of_zero_gives_no_difference(self) -> None:
        done = results({("stl", 0): [0.0] * 3 + [3.0] * 2, ("hps", 0): [0.5] * 3 + [2.7] * 2})
        (found,) = [found for found in analyse(done, done.protocol.groups[0]) if found.row == "hps"]
        assert found.deltas[1].mean == pytest.approx(10.0)
        assert found.rank == 0 and found.mean_delta.count == 0

    def test_a_task_with_two_scores_weighs_no_more_than_another(self) -> None:
        again = {"name": "dose again", "task": "dose", "metric": "dose_score"}
        twice = results(metrics=[*FIELDS["metrics"], again])
        (found,) = [line for line in analyse(twice, twice.protocol.groups[0]) if line.row == "hps"]
        (once,) = [line for line in analyse(results(), results().protocol.groups[0]) if line.row == "hps"]
        assert [delta.mean for delta in found.deltas] == pytest.approx([10.0, 5.0, 5.0])
        assert found.mean_delta.mean == pytest.approx(7.5)
        assert found.mean_delta == once.mean_delta and found.patients[-1] == once.patients[-1]

    def test_not_worse_by_more_than_was_fixed(self) -> None:
        """Dice differs by 0.06 and 0.07, the dose by -0.3 and 0.0 Gy; t(0.975) of one degree is 12.706."""
        group = {"title": "Margins", "baseline": "stl", "rows": ["stl", "hps"]}
        margins = {"Dice": 0.01, "dose score": 1.0}
        done = results(groups=[group | {"not_worse_by": margins}])
        (kept, exceeded) = [text for text in sentences(done) if "paired seeds" in text]
        assert kept == (
            "Dice: 'hps' minus 'stl' is +0.0650 [+0.0015, +0.1285] over 2 paired seeds: the lower end of the 95 % "
            "interval is above -0.01."
        )
        assert exceeded == (
            "dose score: 'hps' minus 'stl' is -0.1500 [-2.0559, +1.7559] Gy over 2 paired seeds: the upper end of the "
            "95 % interval is not below +1 Gy."
        )
        assert not [text for text in sentences(results(groups=[group])) if "paired seeds" in text]
        alone = {key: values for key, values in RUNS.items() if key[1] == 0}
        assert not [text for text in sentences(results(alone, groups=[group])) if "nan" in text]

    @pytest.mark.parametrize(
        ("margins", "message"),
        [
            ({"dice": 0.01}, "there is no metric 'dice' in this group. Did you mean Dice?"),
            ({"Dice": -0.01}, "not_worse_by.Dice: is -0.01. Give a number from 0"),
            ({"Dice": True}, "not_worse_by.Dice: is True"),
            ([0.01], "not_worse_by: is [0.01], expected an object"),
        ],
        ids=["name", "sign", "kind", "list"],
    )
    def test_a_margin_that_cannot_be_meant(self, margins: object, message: str) -> None:
        group = {"title": "Margins", "baseline": "stl", "rows": ["stl", "hps"], "not_worse_by": margins}
        with pytest.raises(UsageError, match=re.escape(message)):
            results(groups=[group])

    def test_p_is_corrected_over_the_methods_of_the_table(self) -> None:
        runs = RUNS | {("ctan", 1): RUNS["hps", 1]}
        done = results(runs)
        for found in analyse(done, done.protocol.groups[0]):
            if found.row != "stl":
                assert found.p_adjusted[0] == pytest.approx(2 * found.patients[0].p)


class TestScores:
    DICE = ScoreColumn("Dice", "oar", "dice", True, "1")
    DVH = ScoreColumn("DVH score", "dose", "dvh_score", False, "Gy")

    def test_a_run_scores_as_evaluation_says(self) -> None:
        rows = []
        for number, (case, structure) in enumerate([("a", "X"), ("b", "X"), ("a", "Y"), ("b", "Y"), ("c", "Y")]):
            value = NAN if number == 3 else 0.1 + number / 7
            rows += [Row(case, "oar", structure, name, value, "1") for name in ("dice", "hd95", "surface_dice_2mm")]
            for metric in ("mean_abs_error", "D_0.1cc_abs_error"):
                rows += [Row(case, "dose", structure, metric, value, "Gy", each) for each in ("linear", "cumulative")]
            rows.append(Row(case, "dose", structure, "mean_true", 50.0, "Gy", "linear"))
        rows += [Row(case, "dose", "", name, 3.3, "Gy") for name in ("dose_score", "mae_in_mask") for case in "abc"]
        expected = overall(rows)
        rows += [replace(row, value=99.0) for row in aggregate_rows(rows)]  # over all cases: no score counts these
        for column, key in ((self.DICE, "mean_dice"), (self.DVH, "dvh_score")):
            assert of_run(column, select(column, rows)) == pytest.approx(expected[key], rel=1e-14)
        gy = ScoreColumn("dose", "dose", "dose_score", False, "Gy")
        rows += [
            replace(row, value=99.0) for row in aggregate_rows(rows)
        ]  # over many cases, which count no second time
        assert of_run(gy, select(gy, rows)) == expected["dose_score"]

    def test_chosen_structures_alone_count_and_all_of_them_must_be_there(self) -> None:
        rows = scores(RUNS["stl", 0])
        chosen = ScoreColumn("Dice", "oar", "dice", True, "1", ("Y",))
        assert of_run(chosen, select(chosen, rows)) == 0.6
        absent = ScoreColumn("Dice", "oar", "dice", True, "1", ("Y", "Z"))
        assert of_run(absent, select(absent, rows)) != of_run(absent, select(absent, rows)), "NaN"

    def test_a_patient_scores_by_its_contoured_structures(self) -> None:
        rows = select(self.DICE, scores(RUNS["stl", 0]))
        assert of_patients(rows) == pytest.approx({"a": 0.55, "b": 0.7})

    def test_a_score_over_many_images_is_no_patient(self) -> None:
        assert of_patients([Row("", "diagnosis", "", "auc", 0.9, "1")]) == {}

    def test_a_score_over_many_images_counts_where_there_is_no_other(self) -> None:
        auc = ScoreColumn("AUC", "diagnosis", "auc", True, "1")
        rows = [Row("", "diagnosis", "", "auc", 0.9, "1"), Row("a", "diagnosis", "", "accuracy", 1.0, "1")]
        assert of_run(auc, select(auc, rows)) == 0.9

    def test_a_patient_missing_in_one_run_has_no_mean(self) -> None:
        found = patient_means([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
        assert found["a"] == 2.0
        assert found["b"] != found["b"]


def test_protocol_copy_is_readable(folder: Path) -> None:
    assert json.loads((folder / "protocol.json").read_text()) == FIELDS
