"""Scores of image-level classes: accuracy, balanced accuracy, area under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.rows import Row

__all__ = ["accuracy", "auc", "auc_one_vs_rest", "balanced_accuracy", "classification_rows"]


def accuracy(truth: NDArray, predicted: NDArray) -> float:
    """Share of images whose class is right; NaN for no images.

    Args:
        truth: (N,) class indices.
        predicted: (N,) class indices.
    """
    truth, predicted = _same_length(truth, predicted)
    return float((truth == predicted).mean()) if truth.size else math.nan


def balanced_accuracy(truth: NDArray, predicted: NDArray) -> float:
    """Mean recall over the classes that occur in the truth; NaN when fewer than two occur.

    Args:
        truth: (N,) class indices.
        predicted: (N,) class indices.
    """
    truth, predicted = _same_length(truth, predicted)
    classes = np.unique(truth)
    if classes.size < 2:
        return math.nan
    return float(np.mean([(predicted[truth == index] == index).mean() for index in classes]))


def auc(positive: NDArray, score: NDArray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        positive: (N,) true where the image is positive.
        score: (N,) any value that grows with the suspicion.

    Returns:
        0..1; NaN when only one class is present.
    """
    from scipy.stats import rankdata

    positive, score = _same_length(np.asarray(positive, dtype=bool), score)
    count = int(positive.sum())
    if count in (0, positive.size):
        return math.nan
    ranks = rankdata(score)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (positive.size - count)))


def auc_one_vs_rest(truth: NDArray, probabilities: NDArray) -> float:
    """Mean over the classes that occur of the AUC of each against all others; NaN when fewer than two occur.

    Args:
        truth: (N,) class indices.
        probabilities: (N, K).
    """
    truth = np.asarray(truth)
    classes = np.unique(truth)
    if classes.size < 2:
        return math.nan
    return float(np.mean([auc(truth == index, np.asarray(probabilities)[:, index]) for index in classes]))


def classification_rows(
    task: str, truth: NDArray, probabilities: NDArray, class_names: Sequence[str] = ()
) -> list[Row]:
    """Scores of one task over all labelled images as rows; a NaN gives its reason in the convention.

    Args:
        task: name of the task.
        truth: (N,) class indices.
        probabilities: (N, K); the predicted class is the largest.
        class_names: names of the K classes, for the reason.

    Returns:
        Rows `accuracy`, `balanced_accuracy` and `auc` (binary: of class 1; else the mean one-vs-rest).
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    if probabilities.ndim != 2 or len(truth) != len(probabilities):
        raise UsageError(f"probabilities have shape {probabilities.shape}, expected ({len(truth)}, classes)")
    binary = probabilities.shape[1] == 2
    predicted = probabilities.argmax(axis=1)
    reason = _one_class(truth, class_names)
    area = auc(truth == 1, probabilities[:, 1]) if binary else auc_one_vs_rest(truth, probabilities)
    scores = {
        ("accuracy", "argmax"): accuracy(truth, predicted),
        ("balanced_accuracy", reason or "argmax;mean_recall"): balanced_accuracy(truth, predicted),
        ("auc", reason or ("binary" if binary else "one_vs_rest;mean")): area,
    }
    return [Row("", task, "", metric, value, "1", convention) for (metric, convention), value in scores.items()]


def _one_class(truth: NDArray, class_names: Sequence[str]) -> str:
    classes = np.unique(truth)
    if classes.size >= 2:
        return ""
    if not classes.size:
        return "undefined: no image has a label"
    index = int(classes[0])
    return f"undefined: only class '{class_names[index] if class_names else index}' is present"


def _same_length(first: NDArray, second: NDArray) -> tuple[NDArray, NDArray]:
    first, second = np.asarray(first).ravel(), np.asarray(second).ravel()
    if first.size != second.size:
        raise UsageError(f"{first.size} labels against {second.size} predictions")
    return first, second
