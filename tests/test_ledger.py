"""A run of predictions that was stopped goes on with the cases that are left, and with no stale one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mtl_med.errors import UsageError
from mtl_med.ledger import Ledger

SETTINGS = {"patch_size": (8, 8, 8), "overlap": 0.5}


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    """Three images, and weights."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    for name in "abc":
        (tmp_path / f"{name}.nii.gz").write_bytes(name.encode())
    return [{"id": name, "source": str(tmp_path / f"{name}.nii.gz")} for name in "abc"]


def ledger(folder: Path, **options: Any) -> Ledger:
    given = {"settings": SETTINGS, **options}
    return Ledger(folder / "out", folder / "model.pt", folder, **given)


def predict(folder: Path, book: Ledger, case_id: str) -> None:
    """What the predictor does for a case."""
    target = folder / "out" / case_id
    target.mkdir(parents=True, exist_ok=True)
    (target / "dose.nii.gz").write_bytes(b"dose")
    book.note(case_id, folder / f"{case_id}.nii.gz")


def left(folder: Path, items: list[dict[str, Any]], **options: Any) -> str:
    return "".join(item["id"] for item in ledger(folder, **options).unfinished(items))


@pytest.fixture
def half_done(tmp_path: Path, items: list[dict[str, Any]]) -> Path:
    """Cases a and b are predicted, c was not reached: the process ended without another word."""
    book = ledger(tmp_path)
    assert len(book.unfinished(items)) == 3
    for name in "ab":
        predict(tmp_path, book, name)
    return tmp_path


def test_finished_cases_are_not_predicted_again(half_done: Path, items: list, caplog) -> None:
    caplog.set_level("INFO")
    assert left(half_done, items) == "c"
    assert "2 of 3 cases are predicted already" in caplog.text


def test_other_tasks_are_other_predictions(tmp_path: Path, items: list) -> None:
    tasks = {"lesion": {"kind": "segmentation", "class_names": ["Lesion"]}}
    book = ledger(tmp_path, tasks=tasks)
    assert len(book.unfinished(items)) == 3
    predict(tmp_path, book, "a")
    assert left(tmp_path, items, tasks=tasks) == "bc"
    assert left(tmp_path, items, tasks={"lesion": {"kind": "segmentation", "class_names": ["Other"]}}) == "abc"


def test_cases_of_earlier_calls_are_told(half_done: Path, items: list, caplog) -> None:
    assert left(half_done, items[1:]) == "c"
    assert "holds 1 cases of earlier calls that are not among the 2 of this one (such as a): they stay" in caplog.text
    caplog.clear()
    assert left(half_done, items) == "c"
    assert "earlier calls" not in caplog.text


def test_the_record_names_them_whoever_predicted_them(half_done: Path, items: list) -> None:
    book = ledger(half_done)
    assert [item["id"] for item in book.unfinished(items)] == ["c"]
    book.write({"c": "cannot be read"})
    record = json.loads((half_done / "out" / "run.json").read_text())
    assert (record["stage"], record["cases"], record["failed"]) == ("predict", 3, {"c": "cannot be read"})
    assert sorted(record["finished"]) == ["a", "b"]
    assert left(half_done, items) == "c"  # a failed case is tried again


def test_an_item_that_cannot_be_used_stays(half_done: Path, items: list) -> None:
    assert left(half_done, [*items[:2], {"id": "c", "error": "has no target"}]) == "c"


def test_other_settings_predict_everything_again(half_done: Path, items: list) -> None:
    assert left(half_done, items, settings={**SETTINGS, "overlap": 0.25}) == "abc"
    assert left(half_done, items, overwrite="true") == "abc"
    with pytest.raises(UsageError, match="'maybe' is neither true nor false"):
        left(half_done, items, overwrite="maybe")


def test_other_weights_predict_everything_again_even_when_stopped_early(half_done: Path, items: list) -> None:
    (half_done / "model.pt").write_bytes(b"other weights")
    book = ledger(half_done)
    assert len(book.unfinished(items)) == 3
    predict(half_done, book, "b")
    assert left(half_done, items) == "ac"  # case a still lies there as the first weights predicted it


def test_a_changed_image_is_predicted_again(half_done: Path, items: list) -> None:
    os.utime(half_done / "a.nii.gz", ns=(1, 1))
    assert left(half_done, items) == "ac"


def test_a_lost_file_is_predicted_again(half_done: Path, items: list) -> None:
    (half_done / "out" / "b" / "dose.nii.gz").unlink()
    assert left(half_done, items) == "bc"


@pytest.mark.parametrize(
    "finished", [[], {"a": 1}, {"a": {"image": [1, 2]}}, {"a": {"image": [1, 2], "files": 3}}], ids=str
)
def test_a_damaged_list_predicts_everything_again(half_done: Path, items: list, finished: Any) -> None:
    path = half_done / "out" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": finished}))
    assert left(half_done, items) == "abc"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weights": 3}'])
def test_a_damaged_record_predicts_everything_again(half_done: Path, items: list, content: str) -> None:
    (half_done / "out" / "run.json").write_text(content)
    assert left(half_done, items) == "abc"
