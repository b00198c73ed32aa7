"""Study folders: equal bytes from run to run, finished cases skipped, and no half case whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mtl_med.errors import OutputError, UsageError
from mtl_med.files import sha256_file
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.convert import PREP_VERSION
from mtl_med.prep.engine import How, Report, prepare
from mtl_med.prep.recipe import Recipe

Tree = Callable[[Path], dict[str, bytes]]


def replace_first_dose(patient: Path) -> None:
    """Change one dose value of a raw patient."""
    path = patient / "dose.csv"
    header, row, rest = path.read_text().split("\n", 2)
    path.write_text(f"{header}\n{row.split(',')[0]},70.125\n{rest}")


def test_runs_and_workers_give_equal_bytes(cohort, recipe: Recipe, tmp_path: Path, tree: Tree) -> None:
    source = cohort(train=2, validation=1)
    for name, workers in [("one", 1), ("again", 1), ("two", 2)]:
        prepare(recipe, source, tmp_path / name, How(workers=workers))
    one = tree(tmp_path / "one")
    # Volumes, structures, case, quality and picture of each; manifest, table, page, lock.
    assert len(one) == 3 * (3 + 3 + 3) + 4
    assert tree(tmp_path / "again") == one
    assert tree(tmp_path / "two") == one


def test_manifest_splits_and_run_record(cohort, recipe: Recipe, tmp_path: Path) -> None:
    report = prepare(recipe, cohort(train=4, validation=1, test=1), tmp_path / "study")
    manifest = Manifest.read(tmp_path / "study")
    assert [case.id for case in manifest] == sorted(f"pt_{n}" for n in (1, 2, 3, 4, 201, 241))
    assert [len(manifest.split(name)) for name in ("fit", "tune", "validation", "test")] == [3, 1, 1, 1]
    assert manifest.fingerprint == report.manifest.fingerprint
    for case in manifest:
        assert all(sha256_file(case.path(key)) == item["sha256"] for key, item in case.files.items())
    run = json.loads((tmp_path / "study" / "run.json").read_text())
    assert (run["stage"], run["prep_version"]) == ("prep", PREP_VERSION)
    assert run["hashes"] == {"recipe": recipe.digest, "fingerprint": manifest.fingerprint}
    assert len(run["converted"]) == 6 and run["failed"] == {} and run["seconds"] > 0


def outcome(report: Report) -> tuple[list[str], list[str], list[str]]:
    return report.converted, report.skipped, list(report.failed)


def test_a_second_run_skips_what_is_finished(cohort, recipe: Recipe, tmp_path: Path, tree: Tree) -> None:
    source, study = cohort(train=2), tmp_path / "study"
    assert outcome(prepare(recipe, source, study)) == (["pt_1", "pt_2"], [], [])
    before = tree(study)
    assert outcome(prepare(recipe, source, study)) == ([], ["pt_1", "pt_2"], [])
    assert outcome(prepare(recipe, source, study, How(overwrite=True))) == (["pt_1", "pt_2"], [], [])
    assert tree(study) == before


def test_changes_are_noticed(cohort, recipe: Recipe, tmp_path: Path) -> None:
    source, study = cohort(train=4), tmp_path / "study"
    prepare(recipe, source, study)
    replace_first_dose(source / "train-pats" / "pt_1")
    (source / "train-pats" / "pt_2" / "Larynx.csv").unlink()
    damaged = study / "cases" / "pt_3" / "ct.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert outcome(prepare(recipe, source, study)) == (["pt_1", "pt_2", "pt_3"], ["pt_4"], [])
    assert not (study / "cases" / "pt_2" / "structures" / "Larynx.nii.gz").exists()
    assert Case.read(study / "cases" / "pt_2").structures["Larynx"].status == "not_contoured"


def test_a_changed_recipe_converts_again(cohort, recipe: Recipe, tmp_path: Path) -> None:
    from dataclasses import replace

    prepare(recipe, cohort(1), tmp_path / "study")
    again = prepare(replace(recipe, digest="other"), tmp_path / "provided-data", tmp_path / "study")
    assert again.converted == ["pt_1"]


def test_a_case_that_is_gone_or_broken_leaves_the_manifest_but_not_the_disk(
    cohort, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, study = cohort(train=3), tmp_path / "study"
    prepare(recipe, source, study)
    shutil.rmtree(source / "train-pats" / "pt_1")
    (source / "train-pats" / "pt_2" / "ct.csv").unlink()
    report = prepare(recipe, source, study)
    assert outcome(report) == ([], ["pt_3"], ["pt_2"])
    assert [case.id for case in Manifest.read(study)] == ["pt_3"]
    assert (study / "cases" / "pt_1").is_dir() and (study / "cases" / "pt_2").is_dir()
    assert "1 cases (pt_1" in caplog.text


def test_groups_can_come_one_after_the_other(cohort, recipe: Recipe, tmp_path: Path, tree: Tree) -> None:
    source = cohort(train=2, validation=1)
    prepare(recipe, source / "train-pats", tmp_path / "parts")
    prepare(recipe, source / "validation-pats", tmp_path / "parts")
    prepare(recipe, source, tmp_path / "whole")
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_a_case_whose_split_changes_is_not_converted_again(cohort, recipe: Recipe, tmp_path: Path) -> None:
    """The one tune case of a small cohort gives way when a case with a lower hash arrives."""
    source, study = cohort(train=4), tmp_path / "study"
    prepare(recipe, source, study)
    (tune,) = Manifest.read(study).split("tune")
    shutil.copytree(source / "train-pats" / "pt_1", source / "train-pats" / "pt_7")  # its hash lies below the limit
    report = prepare(recipe, source, study)
    assert report.converted == ["pt_7"]
    assert [case.id for case in Manifest.read(study).split("tune")] == ["pt_7"] != [tune.id]


def test_another_data_set_in_the_folder_is_refused(cohort, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "manifest.json").write_text('{"dataset": "other"}')
    with pytest.raises(UsageError, match="holds a study of 'other'"):
        prepare(recipe, cohort(1), tmp_path / "study")


@pytest.mark.parametrize("lost", ["quality.json", "structures/Larynx.nii.gz", "case.json"])
def test_a_kept_case_that_is_not_whole_is_left_out_until_its_source_comes_again(
    cohort, recipe: Recipe, tmp_path: Path, tree: Tree, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    source, study = cohort(train=1, validation=1), tmp_path / "study"
    prepare(recipe, source, study)
    before = tree(study)
    (study / "cases" / "pt_201" / lost).unlink()
    report = prepare(recipe, source / "train-pats", study)
    assert [case.id for case in report.manifest] == ["pt_1"] and report.exit_code == 0
    assert "pt_201" in caplog.text and lost.removesuffix(".nii.gz") in caplog.text
    if lost == "case.json":
        return  # the folder could be anybody's then
    assert prepare(recipe, source, study).converted == ["pt_201"]
    assert tree(study) == before


@pytest.mark.parametrize(
    "changes",
    [{"id": "pt_2"}, {"id": "elsewhere"}, {"split": "train"}, {"files": {"ct": {"path": "a\0", "sha256": ""}}}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_finished_case_that_is_damaged_is_converted_again(
    cohort, recipe: Recipe, tmp_path: Path, tree: Tree, changes: dict
) -> None:
    source, study = cohort(train=2), tmp_path / "study"
    prepare(recipe, source, study)
    before = tree(study)
    path = study / "cases" / "pt_1" / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    report = prepare(recipe, source, study)
    assert (report.converted, report.skipped) == (["pt_1"], ["pt_2"])
    assert tree(study) == before


def test_a_kept_case_with_the_name_of_another_is_left_out(
    cohort, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, study = cohort(train=1, validation=1), tmp_path / "study"
    prepare(recipe, source, study)
    path = study / "cases" / "pt_201" / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "pt_1"}))
    report = prepare(recipe, source / "train-pats", study)
    assert [case.folder.name for case in report.manifest] == ["pt_1"]
    assert "pt_201" in caplog.text and "'id' is 'pt_1'" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", '{"measures": [], "oddities": [], "account": {}, "unmatched": {}}'])
def test_a_finished_case_without_readable_findings_is_converted_again(
    cohort, recipe: Recipe, tmp_path: Path, tree: Tree, content: str
) -> None:
    source, study = cohort(train=2), tmp_path / "study"
    prepare(recipe, source, study)
    before = tree(study)
    (study / "cases" / "pt_1" / "quality.json").write_text(content)
    report = prepare(recipe, source, study)
    assert (report.converted, report.skipped) == (["pt_1"], ["pt_2"])
    assert tree(study) == before


@pytest.mark.parametrize("content", ["{", "[]", '{"dataset": "openkbp", "cases": {}}', '{"dataset": 3, "cases": []}'])
def test_a_damaged_manifest_is_refused_with_the_way_out(cohort, recipe: Recipe, tmp_path: Path, content: str) -> None:
    source, study = cohort(train=1), tmp_path / "study"
    prepare(recipe, source, study)
    (study / "manifest.json").write_text(content)
    with pytest.raises(UsageError, match=r"manifest\.json: is .*Remove it and prepare the study again"):
        prepare(recipe, source, study)
    (study / "manifest.json").unlink()
    assert prepare(recipe, source, study).skipped == ["pt_1"]


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_record_does_not_tell_whether_names_are_hidden(
    cohort, recipe: Recipe, tmp_path: Path, content: str
) -> None:
    prepare(recipe, cohort(train=1), tmp_path / "study")
    (tmp_path / "study" / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json: is .*Choose another --out"):
        prepare(recipe, tmp_path / "provided-data", tmp_path / "study")


def test_only_what_preparation_left_is_cleared(cohort, recipe: Recipe, tmp_path: Path) -> None:
    """Other programs begin the names of their folders and files like that, too."""
    study = tmp_path / "study"
    (study / "cases" / "pt_9").mkdir(parents=True)
    own = [".tmp-mine/notes", ".tmp-12345678/case", "cases/.tmp-pt_1-12345678/draft", "cases/.tmp-x/case/a"]
    own += [".tmp-12345678run.json/x", "cases/pt_9/.tmp-draft", ".tmp-12345678mine.json", ".tmp-notes.txt"]
    left = [".tmp-12345678run.json", ".tmp-a_c45678manifest.json", ".tmp-12345678run-1of2.json"]
    left += ["cases/.tmp-pt_1-1234567_/case/ct.nii.gz", "cases/pt_9/.tmp-1234abcdcase.json"]
    for name in (*own, *left[1:]):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text("")
    prepare(recipe, cohort(train=1), study)
    assert [name for name in own if not (study / name).is_file()] == []
    assert [name for name in left if (study / name).is_file()] == []


def test_a_study_inside_the_raw_data_is_refused(cohort, recipe: Recipe) -> None:
    source = cohort(1)
    with pytest.raises(UsageError, match="inside the raw data"):
        prepare(recipe, source, source / "study")


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replacing"])
def test_a_case_gets_its_name_whole_or_not_at_all(
    cohort, recipe: Recipe, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """Where the last step fails, neither a new folder nor anything temporary is there."""
    source, study = cohort(train=1), tmp_path / "study"
    if earlier:
        prepare(recipe, source, study)
        replace_first_dose(source / "train-pats" / "pt_1")

    def refuse(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    before = tree(study / "cases") if earlier else {}
    with pytest.raises(OutputError, match="No space left on device. Free some space"):
        prepare(recipe, source, study)
    assert tree(study / "cases") == before


# Runs that end early, as processes of their own.


@pytest.fixture
def start(cohort, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Start `python -m mtl_med.prep` with two workers on five patients, in a session of its own."""
    source = cohort(train=4, validation=1)
    running = []

    def begin() -> subprocess.Popen:
        words = ["openkbp", "--source", str(source), "--out", str(tmp_path / "study"), "--workers", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "mtl_med.prep", *words],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers too: they hold the pipe that is read next
        process.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def cases_are_whole(study: Path) -> bool:
    for folder in (study / "cases").glob("pt_*"):
        case = Case.read(folder)
        if any(sha256_file(case.path(key)) != item["sha256"] for key, item in case.files.items()):
            return False
    return True


@pytest.fixture(scope="module")
def undisturbed(write_cohort, recipe: Recipe, tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on the same patients gives that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(recipe, write_cohort(folder / "provided-data", train=4, validation=1), folder / "study")
    return tree(folder / "study")


@pytest.mark.parametrize("moment", ["in the first write", "after a case", "at a random time"])
def test_a_killed_run_leaves_no_half_case(
    start, recipe: Recipe, tmp_path: Path, tree: Tree, undisturbed, moment: str
) -> None:
    study = tmp_path / "study"
    process = start()
    if moment == "in the first write":
        wait_for(lambda: any((study / "cases").glob(".tmp-*/case/ct.nii.gz")))
    else:
        wait_for(lambda: any((study / "cases").glob("pt_*")))
        time.sleep(random.Random(moment).uniform(0, 0.5) if moment == "at a random time" else 0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive_in_session(process.pid), 20)
    assert cases_are_whole(study)
    finished = {path.name for path in (study / "cases").glob("pt_*")}
    report = prepare(recipe, tmp_path / "provided-data", study)
    assert set(report.skipped) == finished and len(report.converted) == 5 - len(finished)
    assert tree(study) == undisturbed
    assert not list(study.rglob(".tmp-*"))


def test_an_interrupted_run_ends_at_once_and_clean(start, tmp_path: Path) -> None:
    study = tmp_path / "study"
    process = start()
    wait_for(lambda: any((study / "cases").glob("pt_*")))
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output
    assert cases_are_whole(study) and not list(study.rglob(".tmp-*"))
    assert not (study / "manifest.json").exists()
    wait_for(lambda: not alive_in_session(process.pid), 20)


def test_a_second_run_at_the_same_time_is_refused(start, recipe: Recipe, tmp_path: Path) -> None:
    process = start()
    wait_for((tmp_path / "study" / "cases").is_dir)
    wait_for(lambda: any((tmp_path / "study" / "cases").iterdir()))
    with pytest.raises(UsageError, match="another run is writing"):
        prepare(recipe, tmp_path / "provided-data", tmp_path / "study")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


@pytest.mark.parametrize("link", [False, True], ids=["in the cases", "through a link"])
def test_raw_data_in_the_way_of_the_cases_are_left_alone(cohort, recipe: Recipe, tmp_path: Path, link: bool) -> None:
    source, study = cohort(1), tmp_path / "study"
    if link:
        study.mkdir()
        (study / "cases").symlink_to(source / "train-pats")
        raw = source
    else:
        shutil.copytree(source / "train-pats", study / "cases" / "train-pats")
        raw = study / "cases" / "train-pats"
    before = sorted(path.name for path in raw.rglob("*.csv"))
    with pytest.raises(UsageError, match="inside the raw data"):
        prepare(recipe, raw, study)
    assert sorted(path.name for path in raw.rglob("*.csv")) == before


def test_a_folder_that_is_no_case_is_not_replaced(cohort, recipe: Recipe, tmp_path: Path) -> None:
    notes = tmp_path / "study" / "cases" / "pt_1" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    report = prepare(recipe, cohort(2), tmp_path / "study")
    assert report.converted == ["pt_2"] and "no case of a study" in report.failed["pt_1"]
    assert notes.read_text() == "mine"
