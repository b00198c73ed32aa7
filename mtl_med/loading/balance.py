"""Class imbalance, by named choices: weights in the loss, or how often a case is drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_med.errors import UsageError, nearest
from mtl_med.tasks import Task, as_tasks

__all__ = ["CLASS_WEIGHTS", "SAMPLINGS", "class_counts", "class_weights", "sampling_weights"]

_log = logging.getLogger(__name__)

# Name -> exponent of a class's frequency that is taken out: 1 makes classes count alike, 1/2 is half way.
CLASS_WEIGHTS = {"none": 0.0, "square_root": 0.5, "balanced": 1.0}
SAMPLINGS = {"natural": 0.0, "square_root": 0.5, "balanced": 1.0}

Item = Mapping[str, Any]
Tasks = Mapping[str, Mapping[str, Any]] | Sequence[Task]


def class_counts(items: Sequence[Item], tasks: Tasks, task: str) -> dict[str, int]:
    """How many items have each class of an image-level task; those without label count nowhere.

    Args:
        items: as `study_items` gives them.
        tasks: the network's tasks.
        task: name of one of them.

    Raises:
        UsageError: an unknown task, or a pixel-level one.
    """
    chosen = _image_level(tasks, task)
    counts = dict.fromkeys(chosen.class_names or [str(index) for index in range(chosen.channels)], 0)
    names = list(counts)
    for item in items:
        if item[task][0]:
            counts[names[int(item[task][0])]] += 1
    return counts


def class_weights(items: Sequence[Item], tasks: Tasks, task: str, how: str = "none") -> list[float] | None:
    """Weights of the classes for `ClassificationLoss`, from the labels of the training cases.

    `balanced` is proportional to 1 / count, `square_root` to its root; their mean over the labelled cases is 1, so that
    the loss keeps its size beside the other tasks'. A class without a case gets the weight 1.

    Args:
        items, tasks, task: as in `class_counts`.
        how: `none`, `balanced` or `square_root`.

    Returns:
        One weight per class in the order of the network's classes; None for `none`.

    Raises:
        UsageError: an unknown choice or task.
    """
    if how not in CLASS_WEIGHTS:
        raise UsageError(f"unknown class_weights '{how}'", fix=nearest(how, CLASS_WEIGHTS))
    counts = class_counts(items, tasks, task)
    _log.info("task %s, class_weights %s: %s", task, how, _told(counts))
    return None if how == "none" else _weights(counts, CLASS_WEIGHTS[how], task)


def sampling_weights(items: Sequence[Item], tasks: Tasks, task: str, how: str = "natural") -> list[float] | None:
    """How often each item is drawn in training, relative to the others, for `training_loader`.

    `balanced` draws every class equally often, `square_root` in proportion to the root of its count. Items without
    label of this task keep the share that they have. Together with `class_weights` a class is favoured twice.

    Args:
        items, tasks, task: as in `class_counts`.
        how: `natural`, `balanced` or `square_root`.

    Returns:
        One weight per item, of mean 1; None for `natural`.

    Raises:
        UsageError: an unknown choice or task.
    """
    if how not in SAMPLINGS:
        raise UsageError(f"unknown sampling '{how}'", fix=nearest(how, SAMPLINGS))
    counts = class_counts(items, tasks, task)
    _log.info("task %s, sampling %s: %s", task, how, _told(counts))
    if how == "natural":
        return None
    weights = _weights(counts, SAMPLINGS[how], task)
    return [weights[int(item[task][0])] if item[task][0] else 1.0 for item in items]


def _weights(counts: Mapping[str, int], exponent: float, task: str) -> list[float]:
    """1 / count ** exponent of each class, of mean 1 over the labelled cases."""
    raw = {name: count**-exponent for name, count in counts.items() if count}
    if not raw:
        raise UsageError(f"no training case has a label of task '{task}'", fix="Leave its classes unweighted")
    missing = [name for name in counts if name not in raw]
    if missing:
        _log.warning("task %s: no training case of class %s", task, ", ".join(missing))
    size = sum(counts.values()) / sum(counts[name] * weight for name, weight in raw.items())
    return [raw[name] * size if name in raw else 1.0 for name in counts]


def _image_level(tasks: Tasks, name: str) -> Task:
    listed = as_tasks(tasks)
    known = [task.name for task in listed if not task.is_pixel_level]
    if name not in known:
        fix = nearest(name, known) if known else "No task here is image-level"
        raise UsageError(f"there is no image-level task '{name}' to balance", fix=fix)
    return next(task for task in listed if task.name == name)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
