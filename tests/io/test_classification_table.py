"""The table of image-level results: what is written is read, and what is no such table is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import CaseError, UsageError
from mtl_med.io.classification_table import read_classification, write_classification
from mtl_med.tasks import Task

TASKS = (
    Task("lesion", "segmentation", 1, ("Lesion",)),
    Task("diagnosis", "classification", 3, ("nv", "mel", "other, rare")),
    Task("severe", "classification", 2, ("no", "yes")),
)
ROWS = {
    "b, 2": {"diagnosis": ("mel", [0.25, 0.5, 0.25]), "severe": ("yes", [1e-12, 1.0])},
    "a": {"diagnosis": ("nv", [0.9, 0.06, 0.04])},
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_classification(tmp_path / "classification.csv", TASKS, ROWS)
    return tmp_path / "classification.csv"


def test_columns_and_order(table: Path) -> None:
    assert table.read_text() == (
        'id,diagnosis,diagnosis.p_nv,diagnosis.p_mel,"diagnosis.p_other, rare",severe,severe.p_no,severe.p_yes\n'
        "a,nv,0.9,0.06,0.04,,,\n"
        '"b, 2",mel,0.25,0.5,0.25,yes,1e-12,1\n'
    )


def test_reading_gives_back_what_was_written(table: Path) -> None:
    found = read_classification(table)
    assert {task: names for task, (names, _) in found.items()} == {
        "diagnosis": ("nv", "mel", "other, rare"),
        "severe": ("no", "yes"),
    }
    assert list(found["diagnosis"][1]) == ["a", "b, 2"]
    decision, probabilities = found["diagnosis"][1]["b, 2"]
    assert decision == "mel"
    np.testing.assert_allclose(probabilities, [0.25, 0.5, 0.25])
    assert list(found["severe"][1]) == ["b, 2"], "a case without the task has no row"


def test_a_table_without_cases(tmp_path: Path) -> None:
    write_classification(tmp_path / "t.csv", TASKS, {})
    assert read_classification(tmp_path / "t.csv")["severe"] == (("no", "yes"), {})


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({"severe": ("maybe", [0.5, 0.5])}, "x: 'maybe' is no class of task 'severe'"),
        ({"severe": ("no", [1.0])}, "x: 1 probabilities for the 2 classes"),
    ],
)
def test_a_row_that_cannot_be_is_not_written(tmp_path: Path, decisions: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_classification(tmp_path / "t.csv", TASKS, {"x": decisions})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns \\(none\\)"),
        ("case,severe,severe.p_no\n", "has the columns case,severe"),
        ("id,severe.p_no,severe\n", "has the columns"),
        ("id,severe\n", "has the columns"),
        ("id,s,s.p_a,s.p_a\n", "has the columns"),
        ("id,s,s.p_a,s.p_b\nx,a,1\n", "line 2 \\(case 'x'\\) has 3 cells, expected 4"),
        ("id,s,s.p_a,s.p_b\n,a,1,0\n", "line 2 has no id"),
        ("id,s,s.p_a,s.p_b\nx,a,1,0\nx,a,1,0\n", "line 3 names case 'x' a second time"),
        ("id,s,s.p_a,s.p_b\nx,c,1,0\n", "line 2 \\(case 'x'\\): 'c' is no class of task 's'"),
        ("id,s,s.p_a,s.p_b\nx,a,one,0\n", "is no number"),
        ("id,s,s.p_a,s.p_b\nx,a,0.7,0.2\n", "do not sum to 1"),
        ("id,s,s.p_a,s.p_b\nx,a,1.5,-0.5\n", "do not sum to 1"),
        ("id,s,s.p_a,s.p_b\nx,a,nan,1\n", "a probability of task 's' is not finite"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classification.csv"
    path.write_text(text)
    with pytest.raises(CaseError, match=message) as caught:
        read_classification(path)
    assert str(path) in str(caught.value)


def test_faults_of_rows_may_be_collected_while_the_others_are_read(tmp_path: Path) -> None:
    path, faults = tmp_path / "classification.csv", {}
    path.write_text("id,s,s.p_a,s.p_b\nx,a,1,0\ny,a,nan,1\nz,b,0,1\n\nu,b\nx,a,1,0\n")
    _, rows = read_classification(path, faults)["s"]
    assert list(rows) == ["z"], "x stands there twice: nobody knows which is meant"
    assert sorted(faults) == ["u", "x", "y"]
    assert "line 3 (case 'y'): a probability of task 's' is not finite" in faults["y"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"id,\xff\xfe")
    with pytest.raises(CaseError, match="cannot be read"):
        read_classification(tmp_path / "t.csv")
    with pytest.raises(CaseError, match="cannot be read: No such file"):
        read_classification(tmp_path / "none.csv")
