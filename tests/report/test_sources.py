"""What a report is made from: written scores are used only where they fit, and what is damaged is told, not trusted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mtl_med import evaluation
from mtl_med.errors import UsageError
from mtl_med.evaluation import evaluate
from mtl_med.report.case_page import Options
from mtl_med.report.sources import Predicted, read_inputs
from tests.report.cohort_study import IDS, write_cohort, write_predictions


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and predictions with their scores beside them."""
    folder = tmp_path_factory.mktemp("sources")
    study = write_cohort(folder)
    predictions = write_predictions(folder / "it")
    assert evaluation.score(study, predictions, folder / "it" / "metrics.csv", "validation") == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The same, free to be changed, and its record naming the new place."""
    shutil.copytree(made / "it", tmp_path / "it")
    change(tmp_path / "it" / "metrics.run.json", predictions=str(tmp_path / "it" / "predictions"))
    weights = {"path": str(tmp_path / "it" / "model.pt"), "sha256": "f" * 64}
    change(tmp_path / "it" / "predictions" / "run.json", weights=weights)
    return tmp_path / "it"


def change(path: Path, **fields: object) -> None:
    """Write other values into a JSON file, without a trace in its time."""
    times = path.stat()
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def predicted(made: Path, folder: Path, split: str | None = None) -> Predicted:
    return read_inputs(made / "study", [folder / "predictions"], Options(), split=split).predictions[0]


def test_written_scores_are_read_and_are_those_of_an_evaluation(made: Path, copy: Path, monkeypatch) -> None:
    fresh = evaluate(made / "study", copy / "predictions", "validation")
    monkeypatch.setattr("mtl_med.report.sources.evaluate", lambda *args, **options: pytest.fail("scored again"))
    for split in ("validation", None):
        found = predicted(made, copy, split)
        assert found.scores_from == str(copy / "metrics.csv") and not found.notes
        assert repr(found.evaluation.rows) == repr(fresh.rows)
        assert found.evaluation.scored == fresh.scored == IDS


def test_scores_within_the_folder_of_predictions_are_read(made: Path, copy: Path) -> None:
    """Their record is written after them, and figures of explain/ at any time."""
    for name in ("metrics.csv", "metrics.run.json"):
        shutil.move(copy / name, copy / "predictions" / name)
    os.utime(copy / "predictions" / "metrics.run.json", ns=(2**62, 2**62))
    (copy / "predictions" / "a1" / "explain").mkdir()
    (copy / "predictions" / "a1" / "explain" / "attention.png").write_bytes(b"")
    os.utime(copy / "predictions" / "a1" / "explain" / "attention.png", ns=(2**62, 2**62))
    assert predicted(made, copy).scores_from == str(copy / "predictions" / "metrics.csv")


def test_a_newer_prediction_is_seen_below_a_folder_called_explain(made: Path, tmp_path: Path) -> None:
    it = tmp_path / "explain" / "it"
    shutil.copytree(made / "it", it)
    change(it / "metrics.run.json", predictions=str(it / "predictions"))
    touch_later(it)
    assert "written after it" in predicted(made, it).notes[0]


def test_the_path_of_scores_that_do_not_fit_is_told_as_given(
    made: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("metrics.csv", "metrics.run.json"):
        shutil.move(copy / name, copy / "predictions" / name)
    edit_table(copy / "predictions")
    monkeypatch.chdir(copy / "predictions")
    notes = read_inputs(made / "study", [Path("../predictions")], Options()).predictions[0].notes
    assert notes[0].startswith("The scores in ../predictions/metrics.csv are not used and were computed again: the")


def edit_table(folder: Path) -> None:
    path = folder / "metrics.csv"
    path.write_text(path.read_text().replace("dose_score,1", "dose_score,0"))


def touch_later(folder: Path) -> None:
    os.utime(folder / "predictions" / "a1" / "dose.nii.gz", ns=(2**62, 2**62))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another version": (lambda f: change(f / "metrics.run.json", versions={"mtl_med": "0.0.1"}), "version 0.0.1, and"),
    "another study": (lambda f: change(f / "metrics.run.json", hashes={"fingerprint": "0"}), "on another study"),
    "other predictions": (lambda f: change(f / "metrics.run.json", predictions="elsewhere"), "of other predictions"),
    "an edited table": (edit_table, "changed after it was written"),
    "a newer prediction": (touch_later, "written after it"),
    "a damaged record": (lambda f: (f / "metrics.run.json").write_text("{"), "is not valid JSON"),
    "a record without fields": (lambda f: (f / "metrics.run.json").write_text("{}"), "'versions' is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_scores_that_do_not_fit_are_computed_again_and_that_is_told(made: Path, copy: Path, fault: str) -> None:
    spoil, told = FAULTS[fault]
    spoil(copy)
    found = predicted(made, copy)
    assert found.scores_from == "scored for this report" and found.evaluation.scored == IDS
    assert len(found.notes) == 1 and told in found.notes[0], found.notes


def test_what_lies_beside_the_weights_is_read(made: Path, copy: Path) -> None:
    found = predicted(made, copy)
    assert found.name == "it" and found.settings["seed"] == 7
    assert found.training is not None and found.training.of("loss") == {"oar": (2.0, 1.0, 0.5), "dose": (3.0, 2.0, 1.5)}
    assert found.training.weights == {"f" * 64}


def test_curves_of_other_weights_are_marked(made: Path, copy: Path) -> None:
    change(copy / "predictions" / "run.json", weights={"path": "gone/model.pt", "sha256": "0" * 64})
    assert "may belong to other weights" in predicted(made, copy).notes[0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("training.csv", "epoch,loss/oar\n1,x\n", "cannot be read, so no training curves"),
        ("training.csv", "epoch,loss/oar\n1\n", "is no table of epochs"),
        ("training.csv", "", "is no table of epochs"),
        ("model.json", "[1", "is not valid JSON"),
        ("run.json", '{"hashes": 3}', "is damaged: 'hashes' is 3"),
        ("predictions/run.json", '{"weights": "gone"}', "is damaged: 'weights' is 'gone'"),
    ],
)
def test_a_damaged_record_is_told_and_left_out(made: Path, copy: Path, name: str, content: str, told: str) -> None:
    times = (copy / name).stat()
    (copy / name).write_text(content)
    os.utime(copy / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    notes = predicted(made, copy).notes
    assert any(told in note for note in notes), notes


def test_predictions_without_any_record_are_read(made: Path, copy: Path) -> None:
    for path in (*copy.glob("*.json"), *copy.glob("*.csv"), copy / "predictions" / "run.json"):
        path.unlink()
    found = predicted(made, copy)
    assert (found.training, found.settings, found.record, found.notes) == (None, {}, {}, ())


def test_names_are_short_and_differ(made: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    for folder in folders:
        shutil.copytree(made / "it", folder)
    given = [folder / "predictions" for folder in folders]
    inputs = read_inputs(made / "study", given, Options())
    assert [item.name for item in inputs.predictions] == ["x/run", "y/run"]
    with pytest.raises(UsageError, match="is given twice"):
        read_inputs(made / "study", [given[0], tmp_path / "x" / "run" / "." / "predictions"], Options())
