"""Evaluation of photographs and of predicted classes: labels by name, partial labels, pixels, lesions drawn whole."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtl_med import evaluation
from mtl_med.classification_figures import write_figures
from mtl_med.cli import main
from mtl_med.errors import UsageError
from mtl_med.geometry import Grid, picture_grid
from mtl_med.io.picture import encode_png
from mtl_med.io.results import write_prediction
from mtl_med.manifest import Case, Manifest, Structure
from mtl_med.metrics.image_rows import images_of
from mtl_med.metrics.rows import read_rows

WIDTH, HEIGHT = 20, 14
CLASSES = {"diagnosis": ("mel", "nv", "df"), "localization": ("back", "face")}
TRUTH = [0, 0, 0, 1, 1, 1, 1, 2, 2, 1, 0, 1]
UNKNOWN_PLACE = (2, 5)  # cases without the label of the second task
OTHER_ORDER = ("df", "mel", "nv")  # of the network's classes


def box(left: int, top: int) -> np.ndarray:
    """(H, W): eight pixels wide, five high."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + 5, left : left + 8] = True
    return mask


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Twelve photographs of six lesions."""
    root = tmp_path_factory.mktemp("photographs")
    cases = []
    for number, diagnosis in enumerate(TRUTH):
        folder = root / "cases" / f"i{number:02d}"
        folder.mkdir(parents=True)
        (folder / "mask.png").write_bytes(encode_png(box(4, 3)))
        labels = {"diagnosis": diagnosis} | ({} if number in UNKNOWN_PLACE else {"localization": number % 2})
        case = Case(
            folder.name,
            "validation" if number else "fit",
            folder,
            files={"structures/Lesion": {"path": "mask.png", "sha256": ""}},
            tasks=("lesion", *labels),
            structures={"Lesion": Structure("segmentation", "target", "contoured")},
            labels=labels,
            group=f"lesion_{number // 2}",
        )
        case.write()
        cases.append(case)
    Manifest.build("made-up", root, cases, CLASSES).write()
    return root


def write_table(folder: Path, *, without: tuple[str, ...] = (), names: tuple[str, ...] = OTHER_ORDER) -> None:
    """Predictions as an image-level network leaves them; the sixth case is decided wrongly."""
    head = ["id", "diagnosis", *(f"diagnosis.p_{name}" for name in names)]
    lines = [[*head, "localization", "localization.p_back", "localization.p_face"]]
    for number, diagnosis in enumerate(TRUTH):
        sure = names[OTHER_ORDER.index(CLASSES["diagnosis"][diagnosis if number != 5 else 0])]
        chances = [0.8 if name == sure else 0.1 for name in names]
        if f"i{number:02d}" not in without:
            lines.append([f"i{number:02d}", sure, *map(str, chances), "back", "0.7", "0.3"])
    folder.mkdir(exist_ok=True)
    with (folder / "classification.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Masks two pixels too far to the right and one too low, and the table."""
    for number in range(1, len(TRUTH)):
        mask = box(6, 4).T[:, :, None]
        write_prediction(tmp_path / "p", f"i{number:02d}", picture_grid(WIDTH, HEIGHT), structures={"Lesion": mask})
    write_table(tmp_path / "p", without=("i00",))
    return tmp_path / "p"


def values(rows, **wanted) -> list[float]:
    return [row.value for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]


def test_masks_are_scored_in_pixels_under_the_name_of_their_task(study, predictions):
    rows = evaluation.evaluate(study, predictions, "validation").rows
    assert values(rows, case="i03", task="lesion", structure="Lesion", metric="dice") == [2 * 6 * 4 / 80]
    (row,) = [row for row in rows if row.case == "i03" and row.metric == "hd95"]
    assert row.value == pytest.approx(2, abs=0.3) and row.unit == "px"
    assert row.convention.endswith("in_pixels_of_the_picture")
    (surface,) = values(rows, case="i03", metric="surface_dice_2px")
    assert 0.5 < surface <= 1
    assert not any(row.unit == "mm" for row in rows)


def test_the_right_mask_is_perfect_and_a_transposed_one_is_refused(study, tmp_path):
    write_prediction(tmp_path, "i03", picture_grid(WIDTH, HEIGHT), structures={"Lesion": box(4, 3).T[:, :, None]})
    write_prediction(tmp_path, "i04", picture_grid(HEIGHT, WIDTH), structures={"Lesion": box(4, 3)[:, :, None]})
    result = evaluation.evaluate(study, tmp_path)
    assert values(result.rows, case="i03", metric="dice") == values(result.rows, case="i03", metric="surface_dice_2px")
    assert values(result.rows, case="i03", metric="dice") == [1.0]
    assert list(result.failures) == ["i04"] and "grids differ: 14x20x1" in result.failures["i04"]


@pytest.fixture
def own_study(study, tmp_path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "study"))


def edit_case(study: Path, case_id: str, **changes: object) -> None:
    path = study / "cases" / case_id / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("label", [99, -1, 1.5])
def test_a_label_of_no_class_fails_its_case_alone(own_study, predictions, label):
    edit_case(own_study, "i03", labels={"diagnosis": label})
    result = evaluation.evaluate(own_study, predictions, "validation")
    assert list(result.failures) == ["i03"]
    told = f"i03: has the label {label:g} for task 'diagnosis', expected a whole number from 0 to 2."
    assert result.failures["i03"] == f"{told} Prepare the study again."
    assert len(images_of(result.rows)["diagnosis"].truth) == len(TRUTH) - 2


def test_a_row_that_cannot_be_used_fails_its_case_alone(study, predictions):
    table = predictions / "classification.csv"
    lines = table.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("i04,"))
    table.write_text("\n".join([*lines[:place], lines[place].replace("0.1", "nan"), *lines[place + 1 :]]) + "\n")
    result = evaluation.evaluate(study, predictions, "validation")
    assert list(result.failures) == ["i04"]
    assert "(case 'i04'): a probability of task 'diagnosis' is not finite" in result.failures["i04"]
    assert len(result.scored) == len(TRUTH) - 2


def test_a_lesion_in_two_splits_is_told(own_study, study, predictions):
    """In the study of these tests the first lesion's first photograph is in `fit`, its second in `validation`."""
    told = evaluation.evaluate(own_study, predictions, "validation").text()
    assert "CAUTION: cases of one lesion or patient lie in several splits (lesion_0 in fit and validation)" in told
    edit_case(own_study, "i00", group="lesion_alone")
    assert "CAUTION" not in evaluation.evaluate(own_study, predictions, "validation").text()


def test_classes_are_matched_by_name_and_not_by_place(study, predictions):
    found = images_of(evaluation.evaluate(study, predictions, "validation").rows)["diagnosis"]
    assert found.class_names == CLASSES["diagnosis"]
    assert found.truth.tolist() == TRUTH[1:]
    assert found.decided.tolist() == [*TRUTH[1:5], 0, *TRUTH[6:]]
    assert found.probabilities[0].tolist() == pytest.approx([0.8, 0.1, 0.1])


def test_cases_without_a_label_are_left_out_of_that_task_alone_and_counted(study, predictions):
    rows = evaluation.evaluate(study, predictions, "validation").rows
    found = images_of(rows)
    assert len(found["diagnosis"].cases) == 11
    assert set(found["diagnosis"].cases) - set(found["localization"].cases) == {"i02", "i05"}
    assert values(rows, case="", task="localization", structure="", metric="cases") == [9]
    assert values(rows, case="", task="localization", structure="", metric="cases_without_label") == [2]
    assert values(rows, case="", task="diagnosis", structure="", metric="cases_without_label") == [0]


def test_intervals_draw_lesions(study, predictions):
    result = evaluation.evaluate(study, predictions, "validation")
    assert len(set(result.groups.values())) == 6
    told = {row.metric: row.convention for row in result.rows if not row.case and not row.structure}
    assert "bootstrap of 6 groups" in told["accuracy_low"]
    (dice,) = [row for row in result.rows if not row.case and row.metric == "dice_low"]
    assert dice.value == pytest.approx(0.6) and "6 groups" in dice.convention


def test_a_case_that_the_table_lacks_fails_alone(study, predictions):
    write_table(predictions, without=("i00", "i04"))
    result = evaluation.evaluate(study, predictions, "validation")
    assert list(result.failures) == ["i04"] and "has no row of 'i04' for task 'diagnosis'" in result.failures["i04"]
    assert len(result.scored) == 10


def test_other_classes_than_the_studys_are_refused(study, predictions):
    write_table(predictions, names=("df", "mel", "naevus"))
    with pytest.raises(UsageError, match="classes of task 'diagnosis' are df, mel, naevus, expected mel, nv, df"):
        evaluation.evaluate(study, predictions)


def test_the_table_alone_is_enough_also_where_volumes_have_a_grid(tmp_path):
    grid, cases = Grid((4, 4, 4), np.eye(4)), []
    for number in range(6):
        labels = {"covid": number % 2} | ({"severe": number % 3 % 2} if number % 2 else {})
        folder = tmp_path / "s" / "cases" / f"p{number}"
        case = Case(folder.name, "test", folder, grid, tasks=tuple(labels), labels=labels)
        case.write()
        cases.append(case)
    classes = {"covid": ("negative", "positive"), "severe": ("not_severe", "severe")}
    Manifest.build("made-up", tmp_path / "s", cases, classes).write()
    lines = ["id,covid,covid.p_negative,covid.p_positive,severe,severe.p_not_severe,severe.p_severe"]
    for n in range(6):
        lines.append(f"p{n},{classes['covid'][n % 2]},{0.9 - n % 2 * 0.7},{0.1 + n % 2 * 0.7},severe,0.4,0.6")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "classification.csv").write_text("\n".join(lines) + "\n")
    result = evaluation.evaluate(tmp_path / "s", tmp_path / "p")
    assert result.failures == {} and len(result.scored) == 6
    assert values(result.rows, case="", task="covid", metric="auc", structure="") == [1.0]
    assert values(result.rows, case="", task="severe", metric="cases", structure="") == [3]


def test_the_command_writes_the_table_the_groups_and_the_pictures(study, predictions, tmp_path, capsys):
    words = ["evaluate", "--study", study, "--predictions", predictions, "--split", "validation"]
    code = main([str(word) for word in [*words, "--out", tmp_path / "m.csv", "--figures", tmp_path / "f"]])
    assert code == 0
    text = capsys.readouterr().out
    assert "images with the label 'localization': 9; 2 without it left out" in text
    assert "HD95 px" in text and "Lesion Dice 0.600 [0.600, 0.600]" in text
    record = json.loads((tmp_path / "m.run.json").read_text())
    assert record["groups"]["i03"] == "lesion_1"
    assert record["scores"]["accuracy/diagnosis"] == pytest.approx(10 / 11)
    expected = {f"{task}_{part}.png" for task in CLASSES for part in ("roc", "confusion", "calibration")}
    assert {path.name for path in (tmp_path / "f").iterdir()} == expected
    rows = read_rows(tmp_path / "m.csv")
    assert values(rows, case="", task="diagnosis", structure="nv", metric="decided_as_mel") == [1]
    first = (tmp_path / "f" / "diagnosis_roc.png").read_bytes()
    write_figures(rows, record["groups"], tmp_path / "again")
    assert (tmp_path / "again" / "diagnosis_roc.png").read_bytes() == first


def test_pictures_are_drawn_of_the_scores_and_tell_them_in_words(study, predictions, tmp_path):
    from PIL import Image

    from mtl_med import classification_figures as figures
    from mtl_med.metrics.bootstrap import drawn_together
    from mtl_med.metrics.calibration import reliability

    result = evaluation.evaluate(study, predictions, "validation")
    write_figures(result.rows, result.groups, tmp_path)
    with Image.open(tmp_path / "diagnosis_confusion.png") as picture:
        assert picture.info["Description"].endswith("Right of each true class: mel 100 %; nv 83 %; df 100 %.")
    images = images_of(result.rows)["diagnosis"]
    told = {(row.structure, row.metric): row.value for row in result.rows if row.task == "diagnosis" and not row.case}
    drawn = drawn_together(images.cases, result.groups)
    figure, _ = figures._calibration(images, told, drawn)
    chance, share, count = reliability(images.truth, images.probabilities, 10)
    line = next(line for line in figure.axes[0].get_lines() if line.get_marker() == "o")
    assert line.get_xdata() == pytest.approx(chance[count > 0]) and line.get_ydata() == pytest.approx(share[count > 0])
    figure, _ = figures._roc(images, told, drawn)
    point = next(line for line in figure.axes[0].get_lines() if line.get_marker() == "o")
    # Of eight that are none, one nv was taken for mel; every mel was found.
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((1 / 8, 1.0))


def test_without_image_level_tasks_there_is_no_picture_and_it_says_so(study, predictions, tmp_path, capsys):
    (predictions / "classification.csv").unlink()
    words = ["--study", study, "--predictions", predictions, "--out", tmp_path / "m.csv", "--figures", tmp_path / "f"]
    assert main(["evaluate", *map(str, words)]) == 0
    assert "no figure: no image-level task was scored" in capsys.readouterr().out
