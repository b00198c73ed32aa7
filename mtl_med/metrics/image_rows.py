"""Image-level classes in the long table: rows of each image, what can be read back from them, and rows over all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.bootstrap import bootstrap, drawn_together
from mtl_med.metrics.classification import ECE_BINS, class_scores, confusion_matrix
from mtl_med.metrics.rows import Row

__all__ = ["DECIDED_AS", "Images", "image_rows", "images_of", "score_rows"]

DECIDED_AS = "decided_as_"
"""Metric `decided_as_<class>` of structure `<true class>`: a cell of the confusion matrix."""

_CORRECT, _OF_TRUTH = "correct", "probability_of_truth"
_OF_DECISION, _PROBABILITY = "probability_of_decision", "probability"
_OVER_ALL = {
    "accuracy": "decision",
    "balanced_accuracy": "decision;mean_sensitivity",
    "auc": "",
    "f1_macro": "decision;mean_over_classes",
    "ece": "",
}
_PER_CLASS = {"sensitivity": "decision", "specificity": "decision", "f1": "decision", "auc": "one_vs_rest"}


@dataclass(frozen=True)
class Images:
    """What is known and what was predicted of the images of one task.

    Args:
        task: its name.
        class_names: of its K classes.
        cases: ids of the N images.
        truth: (N,) class indices.
        decided: (N,) class indices.
        probabilities: (N, K).
    """

    task: str
    class_names: tuple[str, ...]
    cases: tuple[str, ...]
    truth: NDArray[np.intp]
    decided: NDArray[np.intp]
    probabilities: NDArray[np.float64]


def image_rows(
    case: str, task: str, truth: int, decided: int, probabilities: Sequence[float], class_names: Sequence[str]
) -> list[Row]:
    """Rows of one labelled image.

    Args:
        case: its id.
        task: name of the task.
        truth: index of the true class.
        decided: index of the decided class.
        probabilities: (K,).
        class_names: (K,).

    Returns:
        `correct` (0 or 1) and `probability_of_truth` of the true class, `probability_of_decision` of the decided one,
        and `probability` of each.
    """
    told = [
        Row(case, task, class_names[truth], _CORRECT, float(decided == truth), "1", "decision"),
        Row(case, task, class_names[truth], _OF_TRUTH, float(probabilities[truth]), "1"),
        Row(case, task, class_names[decided], _OF_DECISION, float(probabilities[decided]), "1"),
    ]
    return told + [
        Row(case, task, name, _PROBABILITY, float(value), "1")
        for name, value in zip(class_names, probabilities, strict=True)
    ]


def images_of(rows: Iterable[Row]) -> dict[str, Images]:
    """Task -> its images, from the rows of `image_rows`; rows over many images and of other tasks do not count.

    Raises:
        UsageError: an image lacks one of its rows.
    """
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows:
        if row.case and row.metric in (_CORRECT, _OF_DECISION, _PROBABILITY):
            image = found.setdefault(row.task, {}).setdefault(row.case, {})
            image.setdefault(row.metric, {})[row.structure] = row.value
    return {task: _images(task, cases) for task, cases in found.items()}


def _images(task: str, cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Images:
    names = tuple(next(iter(cases.values())).get(_PROBABILITY, ()))
    index = {name: number for number, name in enumerate(names)}
    truth, decided, probabilities = [], [], []
    for case, image in cases.items():
        try:
            truth.append(index[next(iter(image[_CORRECT]))])
            decided.append(index[next(iter(image[_OF_DECISION]))])
            probabilities.append([image[_PROBABILITY][name] for name in names])
        except (KeyError, StopIteration) as error:
            raise UsageError(
                f"rows of task '{task}' of this image are not complete: {error} is missing", where=case
            ) from error
    matrix = np.array(probabilities, dtype=np.float64).reshape(len(cases), len(names))
    return Images(task, names, tuple(cases), np.array(truth, dtype=np.intp), np.array(decided, dtype=np.intp), matrix)


def score_rows(images: Images, groups: Mapping[str, str], without_label: int = 0) -> list[Row]:
    """Rows over all images of a task; a NaN gives its reason in the convention.

    Args:
        images: what is known and what was predicted.
        groups: image -> its lesion or patient, which is drawn as a whole; an image that is not named stands alone.
        without_label: number of predicted images that have no label of this task.

    Returns:
        Without structure: `cases`, `cases_without_label`, and `accuracy`, `balanced_accuracy`, `auc`, `f1_macro` and
        `ece`, each with `<metric>_low` and `<metric>_high` (95 % interval of a bootstrap over the groups). With a class
        as structure: `cases`, `sensitivity`, `specificity`, `f1` and `auc`, with the same, and `decided_as_<class>`.
    """
    parts = images.truth, images.decided, images.probabilities
    scores = {name: float(value[0]) for name, value in class_scores(*parts).items()}
    intervals = bootstrap(lambda weights: class_scores(*parts, weights), drawn_together(images.cases, groups))
    reason = _one_class(images)

    def with_interval(key: str, structure: str, metric: str, convention: str) -> list[Row]:
        value, interval = scores[key], intervals[key]
        told = (reason or "undefined: no image of this class") if math.isnan(value) else convention
        rows = [Row("", images.task, structure, metric, value, "1", told)]
        return rows + [
            Row("", images.task, structure, f"{metric}_{end}", bound, "1", interval.convention)
            for end, bound in (("low", interval.low), ("high", interval.high))
        ]

    binary = len(images.class_names) == 2
    of = f"probability_of_{images.class_names[1]}" if binary else "most_probable_class"
    auc = "binary" if binary else "one_vs_rest;mean_over_classes"
    conventions = _OVER_ALL | {"auc": auc, "ece": f"{of};{ECE_BINS}_bins"}
    rows = [
        Row("", images.task, "", "cases", len(images.cases), "1"),
        Row("", images.task, "", "cases_without_label", without_label, "1", "left out"),
    ]
    for metric, convention in conventions.items():
        rows += with_interval(metric, "", metric, convention)
    matrix = confusion_matrix(images.truth, images.decided, len(images.class_names))
    for number, name in enumerate(images.class_names):
        rows.append(Row("", images.task, name, "cases", matrix[number].sum(), "1"))
        for metric, convention in _PER_CLASS.items():
            rows += with_interval(f"{metric}/{number}", name, metric, convention)
        rows += [
            Row("", images.task, name, f"{DECIDED_AS}{other}", count, "1", "number of images")
            for other, count in zip(images.class_names, matrix[number], strict=True)
        ]
    return rows


def _one_class(images: Images) -> str:
    """Why nothing that compares classes can be told."""
    classes = np.unique(images.truth)
    if classes.size >= 2:
        return ""
    if not classes.size:
        return "undefined: no image has a label"
    return f"undefined: only class '{images.class_names[classes[0]]}' is present"
