"""Image-level classes in the long table: nothing is lost on the way through it, and a NaN says why."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.classification import class_scores
from mtl_med.metrics.image_rows import Images, image_rows, images_of, score_rows
from mtl_med.metrics.rows import Row, read_rows, write_rows
from mtl_med.metrics.summary import overall, summary

NAMES = ("mel", "nv", "df")


@pytest.fixture(scope="module")
def images() -> Images:
    """Forty images, the last class in two of them."""
    generator = np.random.default_rng(0)
    truth = np.array([0] * 14 + [1] * 24 + [2] * 2)
    logits = generator.normal(size=(40, 3))
    logits[np.arange(40), truth] += 1.5
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cases = tuple(f"c{i}" for i in range(40))
    return Images("diagnosis", NAMES, cases, truth, (logits + np.array([0.5, 0, 0])).argmax(axis=1), chances)


@pytest.fixture(scope="module")
def rows(images: Images) -> list[Row]:
    told = zip(images.cases, images.truth, images.decided, images.probabilities, strict=True)
    return [row for case, truth, decided, p in told for row in image_rows(case, "diagnosis", truth, decided, p, NAMES)]


@pytest.fixture(scope="module")
def scored(images: Images) -> list[Row]:
    return score_rows(images, {f"c{i}": f"g{i // 2}" for i in range(40)}, without_label=3)


def test_images_come_back_from_the_file(images, rows, tmp_path):
    other = Row("c0", "lesion", "Lesion", "dice", 0.5, "1")
    write_rows(tmp_path / "m.csv", [other, *rows, Row("", "diagnosis", "", "accuracy", 0.1, "1")])
    found = images_of(read_rows(tmp_path / "m.csv"))
    assert list(found) == ["diagnosis"]
    back = found["diagnosis"]
    assert (back.class_names, back.cases) == (NAMES, images.cases)
    for name in ("truth", "decided", "probabilities"):
        assert (getattr(back, name) == getattr(images, name)).all()


def test_an_image_that_lacks_a_row_is_refused(rows):
    with pytest.raises(UsageError, match="c0: rows of task 'diagnosis' of this image are not complete"):
        images_of(row for row in rows if (row.case, row.metric) != ("c0", "probability_of_decision"))


def test_rows_over_all_images_are_the_scores_with_their_intervals(images, scored):
    table = {(row.structure, row.metric): row for row in scored}
    assert all(row.case == "" and row.task == "diagnosis" for row in scored)
    judge = class_scores(images.truth, images.decided, images.probabilities)
    for metric in ("accuracy", "balanced_accuracy", "auc", "f1_macro", "ece"):
        value = table["", metric].value
        assert value == pytest.approx(float(judge[metric][0]))
        assert table["", f"{metric}_low"].value < value < table["", f"{metric}_high"].value
    for index, name in enumerate(NAMES):
        assert table[name, "cases"].value == (images.truth == index).sum()
        for metric in ("sensitivity", "specificity", "f1", "auc"):
            assert table[name, metric].value == pytest.approx(float(judge[f"{metric}/{index}"][0]))
        assert sum(table[name, f"decided_as_{other}"].value for other in NAMES) == table[name, "cases"].value
    assert (table["", "cases"].value, table["", "cases_without_label"].value) == (40, 3)
    assert "bootstrap of 20 groups" in table["", "accuracy_low"].convention
    assert "undefined left out" in table["", "balanced_accuracy_low"].convention  # draws without the rare class
    assert "undefined left out" not in table["", "accuracy_low"].convention


def test_a_nan_gives_its_reason():
    chances = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    alone = Images(
        "covid", ("negative", "positive"), ("a", "b", "c"), np.array([1, 1, 1]), np.array([1, 0, 1]), chances
    )
    table = {(row.structure, row.metric): row for row in score_rows(alone, {})}
    assert table["", "accuracy"].value == pytest.approx(2 / 3)
    for metric in ("balanced_accuracy", "auc", "f1_macro"):
        assert math.isnan(table["", metric].value)
        assert table["", metric].convention == "undefined: only class 'positive' is present"
    assert math.isnan(table["negative", "sensitivity"].value)
    none = Images("covid", ("negative", "positive"), (), np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))
    empty = {(row.structure, row.metric): row for row in score_rows(none, {}, without_label=5)}
    assert empty["", "accuracy"].convention == "undefined: no image has a label"
    assert empty["", "cases_without_label"].value == 5


def test_scores_of_a_run_come_from_the_rows_of_its_images_alone(images, rows, scored):
    assert overall([*rows, *scored]) == overall(rows)
    assert overall(rows)["accuracy/diagnosis"] == pytest.approx((images.truth == images.decided).mean())
    assert set(overall(rows)) == {f"{metric}/diagnosis" for metric in ("accuracy", "balanced_accuracy", "auc")}


def test_the_text_has_intervals_classes_matrix_and_what_was_left_out(rows, scored):
    text = summary([*rows, *scored])
    lines = text.splitlines()
    assert lines[0] == "images with the label 'diagnosis': 40; 3 without it left out"
    words = [line.split() for line in lines]
    table = {(row.structure, row.metric): row.value for row in scored}
    accuracy = [f"{table['', f'accuracy{end}']:.3f}" for end in ("", "_low", "_high")]
    assert ["diagnosis", "accuracy", accuracy[0], f"[{accuracy[1]},", f"{accuracy[2]}]", "decision"] in words
    mel = next(line for line in words if line[:2] == ["mel", "14"])
    assert mel[2] == f"{table['mel', 'sensitivity']:.3f}"
    head = words.index(["true,", "decided:", *NAMES])
    assert [int(word) for word in words[head + 1][1:]] == [table["mel", f"decided_as_{name}"] for name in NAMES]
    assert max(map(len, lines)) <= 125
    assert summary([*rows, *scored]) == text
