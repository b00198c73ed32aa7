"""Image-level classes over all cases: how well they are told apart, where they are confused, and how sure it was."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from mtl_med.classification_figures import draw_figures
from mtl_med.errors import MtlMedError
from mtl_med.html import data_address
from mtl_med.manifest import Case
from mtl_med.metrics.image_rows import Images, images_of
from mtl_med.metrics.rows import Row
from mtl_med.prep.mosaic import small_picture
from mtl_med.report.case_page import Block, Cell, Figure, Markup, Section, Table, Text
from mtl_med.report.figures.drawing import plain, styled, svg
from mtl_med.report.numbers import in_brackets, number_cell, told
from mtl_med.report.page import anchor_of, render
from mtl_med.report.sources import Inputs, Predicted

__all__ = ["sections"]

_MISTAKES = 12
_PER_CLASS = {"sensitivity": "sensitivity", "specificity": "specificity", "f1": "F1", "auc": "AUC"}
_CAPTIONS = {
    "roc": "ROC of each class against all others, with the 95 % band of a bootstrap over lesions or patients; the dot "
    "is the operating point, that is, what was decided.",
    "confusion": "Rows are the true classes with their number of images, columns what was decided; each cell has the "
    "count and its share of the row.",
    "calibration": "How often it was so against how probable it was called: on the dotted line probabilities can be "
    "believed, below it they are too high. Bars of 95 % from a bootstrap over lesions or patients; below, how many "
    "images were called so.",
}
_WIDTHS = {"roc": 0, "confusion": 640, "calibration": 460}
_log = logging.getLogger(__name__)


def sections(inputs: Inputs) -> list[Section]:
    """A section per image-level task, of the first predictions that hold it; none without such tasks."""
    found = []
    for number, task in enumerate(inputs.manifest.classes, start=1):
        having = [item for item in inputs.predictions if _rows(item, task)]
        if having:
            found.append(Section(f"task-{number}", f"Classes: {task}", tuple(_blocks(inputs, having, task))))
    return found


def _rows(item: Predicted, task: str) -> list[Row]:
    return [row for row in item.evaluation.rows if row.task == task]


def _blocks(inputs: Inputs, having: Sequence[Predicted], task: str) -> list[Block]:
    first, rows = having[0], _rows(having[0], task)
    images = images_of(rows).get(task)
    blocks: list[Block] = [_labels(inputs, task, rows)]
    if images is None:
        return [*blocks, Text(f"No image with a label of {task} was predicted: nothing to score.", "warning")]
    with styled():
        for item in draw_figures(rows, first.evaluation.groups, plain):
            caption = f"{_CAPTIONS[item.name]} Predictions: {first.name}."
            blocks.append(Figure(item.description, caption, svg(item.figure), line_art=True, width=_WIDTHS[item.name]))
    blocks.append(_classes(having, images))
    return [*blocks, *_mistakes(inputs, first, images)]


def _labels(inputs: Inputs, task: str, rows: Sequence[Row]) -> Block:
    """How many labels there are: a task that some images lack is scored on the others."""
    counts = {row.metric: int(row.value) for row in rows if not row.case and not row.structure and row.unit == "1"
              and row.metric in ("cases", "cases_without_label")}  # fmt: skip
    labelled, without = counts.get("cases", 0), counts.get("cases_without_label", 0)
    groups = {case.group for case in inputs.cases if case.group and task in case.labels}
    drawn = f" of {len(groups)} lesions or patients" if groups else ""
    text = f"Scored on {labelled} images{drawn} that have a label of {task}."
    if without:
        text += f" {without} predicted images have none and are left out: their pages show what was predicted."
    return Text(text, "warning" if without and not labelled else "")


def _classes(having: Sequence[Predicted], images: Images) -> Table:
    """What is known of each class, of the first predictions with intervals, of the others the AUC."""
    tables = [{(row.structure, row.metric): row.value for row in _rows(item, images.task) if not row.case}
              for item in having]  # fmt: skip
    first, *others = tables
    rows: list[list[Cell | str]] = []
    for index, name in enumerate(images.class_names):
        cells = []
        for metric in _PER_CLASS:
            value, low, high = (first.get((name, f"{metric}{end}"), math.nan) for end in ("", "_low", "_high"))
            cells.append(number_cell(value, 3, detail=in_brackets(low, high, 3)))
        cells += [number_cell(table.get((name, "auc"), math.nan), 3) for table in others]
        rows.append([name, number_cell(float((images.truth == index).sum()), 0), *cells])
    columns = ["class", "images", *_PER_CLASS.values(), *(f"AUC of {item.name}" for item in having[1:])]
    caption = (
        f"Each class against all others, {having[0].name}, with 95 % intervals of a bootstrap over lesions or "
        "patients. Sensitivity, specificity and F1 are of the decisions, AUC of the probabilities."
    )
    return Table(caption, columns, rows, sortable=True)


def _mistakes(inputs: Inputs, first: Predicted, images: Images) -> list[Block]:
    """The wrong decisions that were called most probable, each with its picture and a way to its page."""
    wrong = np.flatnonzero(images.truth != images.decided)
    total = len(images.cases)
    if not wrong.size:
        return [Text(f"All {total} decisions of {first.name} are right.")]
    called = images.probabilities[wrong, images.decided[wrong]]
    order = wrong[np.argsort(-called, kind="stable")][:_MISTAKES]
    cases = {case.id: case for case in inputs.manifest}
    names = images.class_names
    items = []
    for index in order:
        case = images.cases[index]
        decided, true = names[images.decided[index]], names[images.truth[index]]
        address = inputs.pages.get(case, "")
        items.append(
            {
                "case": case,
                "link": (f"#{anchor_of(address)}" if inputs.options.single_file else address) if address else "",
                "picture": _picture(cases.get(case)),
                "alt": f"Photograph {case} with its true outline: decided {decided}, is {true}.",
                "decided": decided,
                "true": true,
                "chance": told(float(images.probabilities[index, images.decided[index]]), 3),
                "chance_of_truth": told(float(images.probabilities[index, images.truth[index]]), 3),
            }
        )
    share = 100 * wrong.size / total
    shown = "The most confident of them:" if wrong.size > len(order) else "They are, the most confident first:"
    text = f"{wrong.size} of {total} decisions of {first.name} are wrong ({share:.0f} %). {shown}"
    return [Text(text), Markup(render("mistakes.html.j2", mistakes=items))]


def _picture(case: Case | None) -> str:
    """A small photograph as a data address; "" where there is none, as of volumes."""
    if case is None or not case.has("image"):
        return ""
    try:
        return data_address("image/jpeg", small_picture(case))
    except MtlMedError as error:
        _log.warning("no picture beside a mistake: %s", error)
        return ""
