"""`mtl-med compare` with a fake trainer: what runs, what is skipped, refused, resumed, reported, and left behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_med.bundle import refuse_wrong_overrides
from mtl_med.comparison import execution
from mtl_med.comparison.command import find_protocol
from mtl_med.comparison.progress import seconds_left
from mtl_med.comparison.tables import render
from mtl_med.errors import UsageError
from mtl_med.manifest import Case, Manifest

HERE = Path(__file__).parent
ALL = [("stl", 0), ("ctan", 0), ("stl", 1), ("ctan", 1)]
Words = list[object]


@pytest.fixture
def words(tmp_path: Path, study: Path, write) -> Words:
    """The options of a whole comparison."""
    return [write(), "--study", study, "--out", tmp_path / "out", "--threads", 1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def folder(out: Path, row: str, seed: int) -> Path:
    return out / "runs" / row / f"seed_{seed}"


def epochs(out: Path, row: str, seed: int) -> list[int]:
    """Epochs in the order in which they were trained."""
    path = folder(out, row, seed) / "epochs.txt"
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class TestWhole:
    @pytest.fixture
    def done(self, compare, words: Words, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
        assert compare(*words) == 0
        return capsys.readouterr().out

    def test_every_run_leaves_weights_scores_log_and_record(self, done: str, out: Path) -> None:
        for row, seed in ALL:
            assert {path.name for path in folder(out, row, seed).iterdir()} == {
                *("training.json", "evaluation.json", "settings.json", "comparison.json", "run.json", "run.log"),
                *("model.pt", "metrics.csv", "epochs.txt", "environment.json", "calibrated.txt"),
            }, "no checkpoint, no predictions"
            assert epochs(out, row, seed) == [1, 2, 3]

    def test_tables_are_written(self, done: str, out: Path) -> None:
        scores = lines(out / "scores.csv")
        assert len(scores) == len(ALL) * 3 * 3, "three patients; Dice of two organs and a dose score; nothing else"
        assert {line["metric"] for line in scores} == {"dice", "dose_score"}
        runs = lines(out / "runs.csv")
        assert [(line["row"], int(line["seed"])) for line in runs] == ALL
        assert {line["parameters"] for line in runs} == {"1230000"}
        assert {line["best_epoch"] for line in runs} == {"2"}
        assert {line["threads"] for line in runs} == {"1"}
        assert {line["precision"] for line in runs} == {"bf16"}
        assert len({line["settings_hash"] for line in runs}) == len(ALL)
        assert len({line["weights_sha256"] for line in runs}) == len(ALL)
        assert len({line["fingerprint"] for line in runs}) == 1
        assert all(line["commit"] for line in runs)
        assert (out / "table.md").read_text() == render(out)
        assert "| ctan |" in render(out)

    def test_progress_is_told_run_by_run(self, done: str) -> None:
        said = done.splitlines()
        assert said[0] == "0 of 4 runs are finished; 4 to go"
        assert said[1] == "[1/4] stl, seed 0: 2.0 min; Dice 0.550, dose score 2.870 Gy; 3 to go, about 6.0 min"
        assert said[4].endswith("; none is left")
        assert said[5].startswith("written: ") and said[5].endswith("(4 of 4 runs)")

    def test_a_finished_run_is_not_done_again(self, done: str, compare, words: Words, out: Path, capsys) -> None:
        before = {path: path.stat().st_mtime_ns for path in out.rglob("comparison.json")}
        assert compare(*words) == 0
        assert capsys.readouterr().out.startswith("4 of 4 runs are finished; none is left\n")
        assert {path: path.stat().st_mtime_ns for path in out.rglob("comparison.json")} == before

    def test_the_same_seed_gives_the_same_row_elsewhere(self, done: str, compare, words, out, tmp_path) -> None:
        again = [*words[:3], "--out", tmp_path / "again", "--only", "ctan:1"]
        assert compare(*again) == 0
        of_row = [line for line in lines(out / "scores.csv") if (line["row"], line["seed"]) == ("ctan", "1")]
        assert lines(tmp_path / "again" / "scores.csv") == of_row
        (one,) = lines(tmp_path / "again" / "runs.csv")
        assert one["weights_sha256"] == lines(out / "runs.csv")[3]["weights_sha256"]
        assert not folder(tmp_path / "again", "ctan", 0).exists()

    def test_a_new_row_leaves_finished_ones_alone(self, done: str, compare, words, write, fields, out) -> None:
        fields["rows"]["hps"] = {"overrides": {"method": "hps"}}
        fields["title"] = "More"
        write()
        assert compare(*words) == 0
        assert epochs(out, "hps", 1) == epochs(out, "stl", 1) == [1, 2, 3]
        assert len(lines(out / "runs.csv")) == 6

    def test_list_tells_what_is_done(self, done: str, compare, words: Words, out: Path, capsys) -> None:
        (folder(out, "ctan", 1) / "comparison.json").unlink()
        before = sorted(out.rglob("*"))
        assert compare(*words, "--list") == 0
        assert capsys.readouterr().out.splitlines() == [
            "row   seed      took  state",
            "stl      0   2.0 min  finished",
            "ctan     0   2.0 min  finished",
            "stl      1   2.0 min  finished",
            "ctan     1            started",
            "3 of 4 runs are finished; 1 to go, about 2.0 min",
        ]
        assert sorted(out.rglob("*")) == before

    def test_tables_alone_run_nothing_and_need_no_study(self, done: str, compare, words: Words, out: Path) -> None:
        (folder(out, "ctan", 1) / "comparison.json").unlink()
        (out / "table.md").unlink()
        assert compare(words[0], *words[3:], "--tables") == 0
        assert len(lines(out / "runs.csv")) == 3
        assert "Not finished: ctan (1 of 2)." in (out / "table.md").read_text()
        assert not (folder(out, "ctan", 1) / "comparison.json").exists()


class TestFinishedElsewhere:
    """Tables such as those of docs/results stand for the runs that they were made from."""

    @pytest.fixture
    def tables(self, compare, words: Words, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
        """What is left of a whole comparison when the folders of its runs are gone."""
        assert compare(*words) == 0
        capsys.readouterr()
        shutil.rmtree(out / "runs")
        return out.rename(tmp_path / "tables")

    def test_they_are_not_trained_again(self, tables: Path, compare, words: Words, out: Path, capsys) -> None:
        assert compare(*words, "--finished", tables) == 0
        assert capsys.readouterr().out.startswith("4 of 4 runs are finished; none is left\n")
        assert not (out / "runs").exists()
        for name in ("scores.csv", "runs.csv", "table.md", "protocol.json"):
            assert (out / name).read_text() == (tables / name).read_text()

    def test_a_row_of_ones_own_stands_beside_them(
        self, tables: Path, compare, words: Words, write, fields: dict[str, Any], out: Path, capsys
    ) -> None:
        fields["rows"]["hps"] = {"overrides": {"method": "hps"}}
        write()
        assert compare(*words, "--finished", tables) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "4 of 6 runs are finished; 2 to go"
        assert said[1].startswith("[5/6] hps, seed 0: 2.0 min; ")
        assert sorted(path.name for path in (out / "runs").iterdir()) == ["hps"]
        found = lines(out / "runs.csv")
        assert [line for line in found if line["row"] != "hps"] == lines(tables / "runs.csv")
        assert len(lines(out / "scores.csv")) == 6 * 9

    def test_only_what_has_the_same_settings_counts(
        self, tables: Path, compare, words: Words, write, fields: dict[str, Any], out: Path, capsys
    ) -> None:
        fields["rows"]["ctan"]["overrides"]["epochs"] = 4
        write()
        assert compare(*words, "--finished", tables) == 0
        assert epochs(out, "ctan", 0) == [1, 2, 3, 4]
        assert not (out / "runs" / "stl").exists()

    def test_only_what_was_made_on_the_same_data_counts(
        self, tables: Path, compare, words: Words, study: Path, out: Path
    ) -> None:
        case = Case("v3", "validation", study / "cases" / "v3")
        case.write()
        cases = [*Manifest.read(study).cases, case]
        Manifest.build("made-up", study, cases).write()
        assert compare(*words, "--finished", tables) == 0
        assert all(epochs(out, row, seed) == [1, 2, 3] for row, seed in ALL)

    def test_tables_without_what_a_score_is_made_of_do_not_count(
        self, tables: Path, compare, words: Words, write, fields: dict[str, Any], out: Path, capsys
    ) -> None:
        """They hold the rows of their own scores alone: of others there would be nothing, or a part."""
        fields["metrics"][0]["structures"] = ["A"]
        write()
        assert compare(*words, "--finished", tables) == 0
        said = capsys.readouterr().out
        assert (
            f"not taken from {tables}, where settings, data or scores are others: stl, seed 0; ctan, seed 0; " in said
        )
        assert epochs(out, "stl", 0) == [1, 2, 3]

    def test_tables_of_before_precision_was_noted_are_read(
        self, tables: Path, compare, words: Words, out: Path
    ) -> None:
        rows = lines(tables / "runs.csv")
        with (tables / "runs.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [name for name in rows[0] if name != "precision"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        assert compare(*words, "--finished", tables) == 0
        assert {line["precision"] for line in lines(out / "runs.csv")} == {""}

    def test_a_run_in_the_folder_goes_before_them(self, tables: Path, compare, words: Words, out: Path, capsys) -> None:
        assert compare(*words, "--only", "stl:0") == 0
        assert compare(*words, "--finished", tables, "--list") == 0
        assert [line.split()[2:] for line in capsys.readouterr().out.splitlines()[-5:-1]] == [
            ["2.0", "min", "finished"],
            *([["finished"]] * 3),
        ]

    def test_a_folder_without_tables_is_refused(self, compare, words: Words, tmp_path: Path, capsys) -> None:
        assert compare(*words, "--finished", tmp_path) == 2
        assert f"{tmp_path / 'protocol.json'}" in capsys.readouterr().err


class TestArguments:
    def test_training_and_evaluation_get_the_same_settings(
        self, compare, words: Words, out: Path, study, bundle
    ) -> None:
        assert compare(*words, "--only", "ctan:1") == 0
        place = folder(out, "ctan", 1)
        common = {
            "bundle_root": str(bundle),
            "dataset_dir": str(study),
            "output_dir": str(place),
            "seed": 1,
            "epochs": 3,
            "method": "ctan",
        }
        assert json.loads((place / "training.json").read_text()) == {**common, "resume": False}
        assert json.loads((place / "evaluation.json").read_text()) == common

    def test_a_limit_holds_for_training_alone(self, compare, words: Words, write, fields, out: Path) -> None:
        fields["overrides"]["limit"] = 2
        write()
        assert compare(*words, "--only", "ctan:1") == 0
        limits = [
            json.loads((folder(out, "ctan", 1) / f"{name}.json").read_text())["limit"]
            for name in ("training", "evaluation")
        ]
        assert limits == [2, None]

    def test_the_real_command_passes_the_check_of_overrides(
        self, compare, words: Words, out: Path, bundle: Path
    ) -> None:
        assert compare(*words, "--only", "ctan:1") == 0
        place = folder(out, "ctan", 1)
        configs = [bundle / "configs" / f"{name}.json" for name in ("train", "evaluate")]
        for count, stage in ((1, "training"), (2, "evaluation")):
            python, *rest = execution.monai_command(configs[:count], place / f"{stage}.json")
            assert (python, rest[:3]) == (sys.executable, ["-m", "monai.bundle", "run"])
            refuse_wrong_overrides(["monai/bundle/__main__.py", *rest[2:]])

    @pytest.mark.parametrize(("given", "threads"), [([], "2"), (["--threads", "3"], "3"), (["--processes", "9"], "1")])
    def test_threads_are_the_cores_shared_out(self, compare, words, out, monkeypatch, given, threads: str) -> None:
        monkeypatch.setattr("mtl_med.comparison.command._cores", lambda: 2)
        monkeypatch.setattr("mtl_med.comparison.command._gpus", tuple)
        assert compare(*words[:-2], "--only", "stl:0", *given) == 0
        seen = json.loads((folder(out, "stl", 0) / "environment.json").read_text())
        assert seen == {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": None}
        assert lines(out / "runs.csv")[0]["threads"] == threads

    def test_predictions_are_kept_when_asked_for(self, compare, words: Words, out: Path) -> None:
        assert compare(*words, "--only", "stl:0", "--keep-predictions") == 0
        assert (folder(out, "stl", 0) / "predictions" / "v0").is_file()

    def test_a_row_with_odd_letters(self, compare, words: Words, write, fields, out: Path) -> None:
        fields["rows"] = {"stl": {"overrides": {"method": "stl"}}, "ctan, ct+ptv: 2/3": {}}
        write()
        assert compare(*words, "--only", "ctan, ct+ptv: 2/3", "--only", "stl:1") == 0
        assert sorted(path.name for path in (out / "runs").iterdir() if path.is_dir()) == ["ctan_ct+ptv_2_3", "stl"]
        assert {line["row"] for line in lines(out / "scores.csv")} == {"stl", "ctan, ct+ptv: 2/3"}


@pytest.mark.parametrize("below", ["", "a/b"], ids=["itself", "below"])
def test_results_cannot_lie_in_a_file(compare, words: Words, out: Path, capsys, below: str) -> None:
    out.write_text("a table of mine")
    words[words.index(out)] = out / below
    assert compare(*words) == 2
    assert f"--out: {out} is a file. Give a folder" in capsys.readouterr().err
    assert out.read_text() == "a table of mine"


class TestFailure:
    def test_one_failure_stops_no_other(self, compare, words: Words, out: Path, study: Path, capsys) -> None:
        (study / "fail_ctan_0").touch()
        assert compare(*words) == 4
        log = folder(out, "ctan", 0) / "run.log"
        said = capsys.readouterr().out
        reason = "training ended with exit code 1: no memory for ctan."
        assert f"[2/4] ctan, seed 0: FAILED: {reason} See {log}; 2 to go, about 4.0 min\n" in said
        assert len(lines(out / "runs.csv")) == 3
        assert compare(*words, "--list") == 0
        assert "ctan     0            failed" in capsys.readouterr().out

    def test_a_failed_run_is_tried_again(self, compare, words: Words, out: Path, study: Path) -> None:
        (study / "fail_ctan_0").touch()
        assert compare(*words, "--only", "ctan:0") == 5
        (study / "fail_ctan_0").unlink()
        assert compare(*words, "--only", "ctan:0") == 0
        assert epochs(out, "ctan", 0) == [1, 2, 3]

    def test_all_failed(self, compare, words: Words, study: Path, capsys) -> None:
        for row, seed in ALL:
            (study / f"fail_{row}_{seed}").touch()
        assert compare(*words) == 5
        assert "no run is finished, so there is no table" in capsys.readouterr().out

    def test_predictions_survive_a_failed_evaluation_and_training_is_not_repeated(
        self, compare, words: Words, out: Path, study: Path
    ) -> None:
        (study / "unscored_stl_0").touch()
        (folder(out, "stl", 0) / "predictions").mkdir(parents=True)
        assert compare(*words, "--only", "stl:0") == 5
        assert (folder(out, "stl", 0) / "predictions").is_dir()
        assert not (folder(out, "stl", 0) / "comparison.json").exists()
        (study / "unscored_stl_0").unlink()
        assert compare(*words, "--only", "stl:0") == 0
        assert epochs(out, "stl", 0) == [1, 2, 3]

    def test_a_killed_run_goes_on_where_it_was(self, compare, words: Words, out: Path, study: Path, capsys) -> None:
        (study / "die_ctan_1").touch()
        assert compare(*words, "--only", "ctan:1") == 5
        assert "FAILED: training ended with signal 9" in capsys.readouterr().out
        assert compare(*words, "--only", "ctan:1") == 0
        assert epochs(out, "ctan", 1) == [1, 2, 3]
        assert json.loads((folder(out, "ctan", 1) / "training.json").read_text())["resume"] is True

    def test_what_follows_the_last_epoch_is_made_up_for(self, compare, words: Words, out: Path, study: Path) -> None:
        """Else the evaluation would score a model without its calibration."""
        (study / "late_ctan_1").touch()
        assert compare(*words, "--only", "ctan:1") == 5
        assert (folder(out, "ctan", 1) / "run.json").is_file()
        assert not (folder(out, "ctan", 1) / "calibrated.txt").exists()
        assert compare(*words, "--only", "ctan:1") == 0
        assert (folder(out, "ctan", 1) / "calibrated.txt").exists()
        assert epochs(out, "ctan", 1) == [1, 2, 3]

    def test_a_run_in_parts_names_all_its_thread_counts(self, compare, words: Words, out: Path, study: Path) -> None:
        (study / "die_ctan_1").touch()
        compare(*words, "--only", "ctan:1")
        assert compare(*words[:-1], 2, "--only", "ctan:1") == 0
        assert lines(out / "runs.csv")[0]["threads"] == "1/2"

    def test_a_run_without_scores_has_failed(self, compare, words: Words, out: Path, monkeypatch, capsys) -> None:
        nothing = lambda configs, args_file: [sys.executable, "-S", "-c", "pass"]  # noqa: E731
        monkeypatch.setattr("mtl_med.comparison.command.monai_command", nothing)
        assert compare(*words, "--only", "stl:0") == 5
        assert f"{folder(out, 'stl', 0)}: left no model.pt" in capsys.readouterr().out

    def test_a_bundle_that_is_edited_meanwhile_is_noticed(
        self, compare, drive, words: Words, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        def edit(configs: object, args_file: Path) -> list[str]:
            path = bundle / "configs" / "train.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"weighting": "equal"}))
            return drive.fake_command(configs, args_file)

        monkeypatch.setattr("mtl_med.comparison.command.monai_command", edit)
        assert compare(*words, "--only", "stl:0") == 5
        assert "configs: has changed since the comparison began. Start it again" in capsys.readouterr().out


class TestOtherSettings:
    def test_are_refused_before_anything_runs(self, compare, words: Words, write, out: Path, capsys) -> None:
        assert compare(*words, "--only", "stl:0", "--only", "ctan:1") == 0
        write(overrides={"epochs": 5, "inputs": "ct+ptv"})
        capsys.readouterr()
        assert compare(*words) == 2
        assert capsys.readouterr().err == (
            f'error: {folder(out, "stl", 0)}: differs from what is asked for: inputs was "ct", now "ct+ptv"; '
            "epochs was 3, now 5; so does 1 other run. "
            "Use --overwrite to make such runs again, or choose another --out.\n"
        )
        assert not folder(out, "ctan", 0).exists()
        assert compare(*words, "--list") == 0
        assert "stl      0            other settings or data" in capsys.readouterr().out
        assert compare(*words, "--tables") == 0
        said = "not in the tables, since settings or data are no longer those asked for: stl, seed 0; ctan, seed 1\n"
        assert capsys.readouterr().out == f"{said}no run is finished, so there is no table\n"

    def test_overwrite_makes_those_again_and_no_other(self, compare, words: Words, write, fields, out: Path) -> None:
        assert compare(*words) == 0
        before = (folder(out, "stl", 0) / "comparison.json").stat().st_mtime_ns
        fields["rows"]["ctan"]["overrides"]["epochs"] = 5
        write()
        assert compare(*words, "--overwrite") == 0
        assert epochs(out, "ctan", 0) == [1, 2, 3, 4, 5]
        assert (folder(out, "stl", 0) / "comparison.json").stat().st_mtime_ns == before

    def test_a_half_done_run_of_other_settings_is_not_continued(self, compare, words, write, study, capsys) -> None:
        (study / "die_ctan_1").touch()
        compare(*words, "--only", "ctan:1")
        write(overrides={"epochs": 5})
        assert compare(*words, "--only", "ctan:1") == 2
        assert "epochs was 3, now 5" in capsys.readouterr().err

    def test_other_data_are_refused(self, compare, words: Words, study: Path, capsys) -> None:
        from mtl_med.manifest import Case, Manifest

        assert compare(*words, "--only", "stl:0") == 0
        manifest = Manifest.read(study)
        more = Case("v3", "validation", study / "cases" / "v3")
        more.write()
        Manifest.build("made-up", study, [*manifest, more]).write()
        assert compare(*words) == 2
        assert "differs from what is asked for: the data were " in capsys.readouterr().err


class TestProcesses:
    def test_two_at_a_time(self, compare, words: Words, out: Path, study: Path) -> None:
        """Each of the first two runs waits until the other is there."""
        for row in ("stl", "ctan"):
            (study / f"meet_{row}_0").touch()
        assert compare(*words, "--processes", 2) == 0
        assert [(line["row"], int(line["seed"])) for line in lines(out / "runs.csv")] == ALL
        assert {line["processes"] for line in lines(out / "runs.csv")} == {"2"}

    def test_each_run_at_work_sees_a_gpu_of_its_own(self, compare, words, out, study, monkeypatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
        for row in ("stl", "ctan"):
            (study / f"meet_{row}_0").touch()
        assert compare(*words, "--processes", 2, "--only", "stl:0", "--only", "ctan:0") == 0
        seen = [json.loads((folder(out, row, 0) / "environment.json").read_text()) for row in ("stl", "ctan")]
        assert {each["CUDA_VISIBLE_DEVICES"] for each in seen} == {"3", "5"}

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
    def test_a_signal_ends_the_children_and_leaves_all_resumable(
        self, compare, words: Words, out: Path, study: Path, number: int
    ) -> None:
        for row in ("stl", "ctan"):
            (study / f"wait_{row}_0").touch()
        command = [sys.executable, str(HERE / "drive.py"), *map(str, words), "--processes", "2"]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        marks = [study / f"waiting_{row}_0" for row in ("stl", "ctan")]
        children = [int(_content(mark)) for mark in marks]
        parent.send_signal(number)
        said, errors = parent.communicate(timeout=30)
        assert (parent.returncode, errors) == (130, "\ninterrupted\n")
        assert said.endswith(
            "stopped; the same command goes on where it was, and --tables makes tables of what is finished\n"
        )
        assert not any(_alive(child) for child in children)
        assert not (folder(out, "stl", 0) / "failure.txt").exists()
        assert compare(*words) == 0
        assert epochs(out, "stl", 0) == epochs(out, "ctan", 0) == [1, 2, 3]

    def test_a_child_that_outlived_its_parent_keeps_its_run(
        self, compare, words: Words, out: Path, study, capsys
    ) -> None:
        (study / "wait_stl_0").touch()
        command = [sys.executable, str(HERE / "drive.py"), *map(str, words), "--only", "stl:0"]
        parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        child = int(_content(study / "waiting_stl_0"))
        parent.kill()
        parent.wait()
        try:
            assert compare(*words, "--only", "stl:0") == 5
            assert "another process is at work on this run. Wait for it, or end it" in capsys.readouterr().out
        finally:
            os.kill(child, signal.SIGKILL)
        _until(lambda: not _alive(child))
        assert compare(*words, "--only", "stl:0") == 0
        assert epochs(out, "stl", 0) == [1, 2, 3]


def _until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _content(path: Path) -> str:
    _until(lambda: path.is_file() and path.read_text())
    return path.read_text()


def _alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestUsage:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--only", "ctna"], "--only ctna: there is no row 'ctna'. Did you mean ctan?"),
            (["--only", "ctan:7"], "--only ctan:7: row 'ctan' has no seed 7. Its seeds: 0, 1."),
            (["--only", "ctna:0"], "--only ctna:0: there is no row 'ctna'. Did you mean ctan?"),
            (["--processes", "0"], "--processes: 0 is too few. Give 1 or more."),
            (["--threads", "0"], "--threads: 0 is too few. Give 1 or more."),
            (["--list", "--tables"], "--list and --tables cannot be used together."),
            (["--study", "nowhere"], "nowhere: is no study folder (manifest.json is missing)."),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_faults(self, compare, words: Words, out: Path, capsys, more: list[str], message: str) -> None:
        assert compare(*words, *more) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
        assert not out.exists()

    def test_an_unknown_name(self, compare, words: Words, capsys) -> None:
        assert compare("axail", *words[1:]) == 2
        sentence = "there is no file or shipped comparison 'axail'. Did you mean axial?"
        assert capsys.readouterr().err == f"error: {sentence}\n"

    def test_a_study_is_needed_to_run(self, compare, words: Words, capsys) -> None:
        assert compare(words[0], *words[3:]) == 2
        assert capsys.readouterr().err.startswith("error: --study: no study is given.")

    def test_shipped_comparisons_have_short_names(self) -> None:
        assert find_protocol("axial").name == "axial.json"
        with pytest.raises(UsageError, match="no file or shipped comparison 'none'"):
            find_protocol("none")


@pytest.mark.parametrize(
    ("finished", "waiting", "processes", "seconds"),
    [
        ([], ["stl"], 1, None),
        ([("stl", 10.0), ("stl", 20.0)], ["stl", "stl"], 1, 30.0),
        ([("stl", 10.0), ("hps", 30.0)], ["ctan", "hps"], 1, 50.0),
        ([("stl", 10.0)], ["stl"] * 4, 2, 20.0),
        ([("stl", 10.0)], ["stl"], 8, 10.0),
        ([("stl", 10.0)], [], 8, 0.0),
    ],
)
def test_time_left_comes_from_finished_runs_of_the_row(finished, waiting, processes, seconds) -> None:
    assert seconds_left(finished, waiting, processes) == seconds


def test_comparing_imports_no_torch(run_python) -> None:
    script = "import sys, mtl_med.comparison.command, mtl_med.comparison.tables as t; print('torch' in sys.modules)"
    done = run_python("-c", script)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.slow
def test_a_real_run(tiny_study: Path, tmp_path: Path, capsys) -> None:
    """One epoch of a small network by MONAI itself, on the tiny study."""
    from mtl_med import cli

    fields = {
        "schema": "mtl_med/comparison/1",
        "name": "real",
        "title": "Real",
        "bundle": "openkbp_dose_oar_segmentation",
        "seeds": [0],
        "overrides": {
            "epochs": 1,
            "patch_size": [32, 32, 32],
            "inputs": "ct+ptv",
            "network_options": {"channels": [4, 8, 8], "bottleneck": 8, "output_scales": {"dose": 70.0}},
        },
        "rows": {"hps": {"overrides": {"method": "hps"}}},
        "metrics": [
            {"name": "Dice", "task": "oar", "metric": "dice"},
            {"name": "dose score", "task": "dose", "metric": "dose_score"},
        ],
    }
    (tmp_path / "real.json").write_text(json.dumps(fields))
    words = [str(tmp_path / "real.json"), "--study", str(tiny_study), "--out", str(tmp_path / "out")]
    code = cli.main(["compare", *words, "--threads", "1"])
    place = folder(tmp_path / "out", "hps", 0)
    assert code == 0, capsys.readouterr().out + (place / "run.log").read_text()[-3000:]
    (run,) = lines(tmp_path / "out" / "runs.csv")
    assert (run["epochs"], run["steps"]) == ("1", "4")
    assert json.loads((place / "model.json").read_text())["network_options"]["channels"] == [4, 8, 8]
    assert {line["case"] for line in lines(tmp_path / "out" / "scores.csv")} == {"p5"}
    assert {line["task"] for line in lines(tmp_path / "out" / "scores.csv")} == {"oar", "dose"}
    assert not (place / "predictions").exists()
    assert "| hps | 0." in (tmp_path / "out" / "table.md").read_text()
