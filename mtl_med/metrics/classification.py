"""Scores of image-level classes, each also for cases that count several times or not at all, as a bootstrap draws them.

Decisions are classes, not the most probable class: the operating point is chosen elsewhere (`metrics.calibration`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.calibration import called

__all__ = [
    "ECE_BINS",
    "accuracy",
    "auc",
    "auc_one_vs_rest",
    "balanced_accuracy",
    "class_scores",
    "confusion_matrix",
    "roc_curve",
    "sensitivity_at",
    "weighted_auc",
]

ECE_BINS = 15
Weights = NDArray[np.float64]


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


def confusion_matrix(
    truth: ArrayLike, predicted: ArrayLike, classes: int, weights: Weights | None = None
) -> NDArray[np.float64]:
    """How often each true class was taken for each class.

    Args:
        truth: (N,) class indices.
        predicted: (N,) class indices.
        classes: K.
        weights: (N, D) how often each image counts; default: once.

    Returns:
        (K, K), true classes along the rows, or (K, K, D).
    """
    first, second = _same_length(np.asarray(truth), np.asarray(predicted))
    cells = first.astype(np.intp) * classes + second.astype(np.intp)
    if weights is None:
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.float64)
    one_hot = np.equal.outer(np.arange(classes * classes), cells).astype(np.float64)
    return (one_hot @ weights).reshape(classes, classes, weights.shape[1])


def roc_curve(positive: ArrayLike, score: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Points of the ROC curve, from "nothing is positive" to "everything is".

    Args:
        positive: (N,) true where the image is positive.
        score: (N,) any value that grows with the suspicion.

    Returns:
        False positive rate, sensitivity and threshold (score >= threshold is positive) of each point; the first
        threshold is infinite. NaN rates where only one class is present.
    """
    truth, values = _same_length(np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64))
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True)) if values.size else np.empty(0, dtype=np.intp)
    hits, alarms = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    with np.errstate(invalid="ignore"):
        rates = [
            np.append(0, counts) / np.float64(total)
            for counts, total in ((alarms, (~truth).sum()), (hits, truth.sum()))
        ]
    return rates[0], rates[1], np.append(np.inf, values[order][last])


def auc(positive: NDArray, score: NDArray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        positive: (N,) true where the image is positive.
        score: (N,) any value that grows with the suspicion.

    Returns:
        0..1; NaN when only one class is present.
    """
    return float(weighted_auc(positive, score, np.ones((np.size(positive), 1)))[0])


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


def weighted_auc(positive: ArrayLike, score: ArrayLike, weights: Weights) -> NDArray[np.float64]:
    """`auc` where image i counts weights[i, d] times.

    Args:
        positive: (N,) true where the image is positive.
        score: (N,) any value that grows with the suspicion.
        weights: (N, D).

    Returns:
        (D,); NaN where only one class counts.
    """
    truth, values = _same_length(np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64))
    order = np.argsort(values, kind="stable")
    truth, values, weights = truth[order], values[order], weights[order]
    below = np.zeros((len(values) + 1, weights.shape[1]))
    np.cumsum(np.where(truth[:, None], 0.0, weights), axis=0, out=below[1:])
    # Negatives that score less count whole, those of the same score half.
    less, not_more = (np.searchsorted(values, values[truth], side=side) for side in ("left", "right"))
    own = weights[truth]
    pairs = own.sum(axis=0) * below[-1]
    with np.errstate(invalid="ignore"):
        return (own * (below[less] + below[not_more])).sum(axis=0) / 2 / np.where(pairs > 0, pairs, np.nan)


def sensitivity_at(
    false_positive_rate: ArrayLike, positive: ArrayLike, score: ArrayLike, weights: Weights
) -> NDArray[np.float64]:
    """Height of the ROC curve where image i counts weights[i, d] times, straight between its points.

    Args:
        false_positive_rate: (R,) where, rising.
        positive: (N,) true where the image is positive.
        score: (N,) any value that grows with the suspicion.
        weights: (N, D).

    Returns:
        (R, D); NaN where only one class counts.
    """
    truth, values = _same_length(np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64))
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    truth, weights = truth[order][:, None], weights[order]
    hits, alarms = (np.cumsum(np.where(kind, weights, 0.0), axis=0)[last] for kind in (truth, ~truth))
    wanted = np.asarray(false_positive_rate, dtype=np.float64)
    heights = np.full((wanted.size, weights.shape[1]), np.nan)
    for draw in np.flatnonzero((hits[-1] > 0) & (alarms[-1] > 0)):
        across, up = (np.append(0.0, counts[:, draw] / counts[-1, draw]) for counts in (alarms, hits))
        heights[:, draw] = np.interp(wanted, across, up)
    return heights


def class_scores(
    truth: ArrayLike, predicted: ArrayLike, probabilities: ArrayLike, weights: Weights | None = None
) -> dict[str, NDArray[np.float64]]:
    """All scores at once.

    Args:
        truth: (N,) class indices.
        predicted: (N,) decided class indices.
        probabilities: (N, K).
        weights: (N, D) how often each image counts; default: once, D = 1.

    Returns:
        (D,) each: `accuracy`, `balanced_accuracy`, `auc` (two classes: of class 1; else the mean of one against the
        rest), `f1_macro`, `ece`, and of class k `sensitivity/k`, `specificity/k`, `f1/k`, `auc/k`. Means are over the
        classes that occur in the truth; NaN where one of them has no image that counts, and where fewer than two occur.

    Source: expected calibration error: Guo et al. 2017; the rest: Fawcett, "An introduction to ROC analysis", 2006.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    labels, decided = _same_length(np.asarray(truth), np.asarray(predicted))
    if values.ndim != 2 or len(values) != len(labels):
        raise UsageError(f"probabilities have shape {values.shape}, expected ({len(labels)}, classes)")
    classes = values.shape[1]
    weights = np.ones((len(labels), 1)) if weights is None else weights
    matrix = confusion_matrix(labels, decided, classes, weights)
    total, right = matrix.sum(axis=(0, 1)), np.einsum("kkd->kd", matrix)
    actual, called = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        parts = {
            "sensitivity": right / actual,
            "specificity": (total - actual - called + right) / (total - actual),
            "f1": np.where(actual > 0, 2 * right / (actual + called), np.nan),
            "auc": np.stack([weighted_auc(labels == index, values[:, index], weights) for index in range(classes)]),
        }
        scores = {"accuracy": right.sum(axis=0) / total}
    present = np.unique(labels).astype(np.intp)
    means = {"balanced_accuracy": "sensitivity", "auc": "auc", "f1_macro": "f1"}
    for name, part in means.items():
        of_one = name == "auc" and classes == 2
        mean = parts[part][1] if of_one else parts[part][present].mean(axis=0) if present.size else total * np.nan
        scores[name] = mean if present.size > 1 else np.full_like(total, np.nan)
    scores["ece"] = _weighted_ece(labels, values, weights)
    return scores | {f"{name}/{index}": part[index] for name, part in parts.items() for index in range(classes)}


def _weighted_ece(labels: NDArray, probabilities: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    chance, so, index = called(labels, probabilities, ECE_BINS)
    gap = so - chance
    one_hot = np.equal.outer(np.arange(ECE_BINS), index)
    with np.errstate(invalid="ignore"):
        return np.abs((one_hot * gap) @ weights).sum(axis=0) / weights.sum(axis=0)


def _same_length(first: NDArray, second: NDArray) -> tuple[NDArray, NDArray]:
    first, second = np.asarray(first).ravel(), np.asarray(second).ravel()
    if first.size != second.size:
        raise UsageError(f"{first.size} labels against {second.size} predictions")
    return first, second
