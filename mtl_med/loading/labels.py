"""Image-level labels: the study's class names against the network's, and labels that an experiment hides."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtl_med.bundle import numbers
from mtl_med.errors import NothingFoundError, UsageError, nearest
from mtl_med.manifest import Case, Manifest
from mtl_med.tasks import Task

__all__ = ["check_classes", "class_label", "hide_labels", "only_labelled"]

_log = logging.getLogger(__name__)

Item = dict[str, Any]


def check_classes(manifest: Manifest, tasks: Iterable[Task]) -> None:
    """Refuse image-level tasks whose class names are not those of the study; their order may differ.

    Raises:
        UsageError: the study has no such task, or one of the two names a class that the other has not.
    """
    for task in tasks:
        if task.is_pixel_level:
            continue
        if task.name not in manifest.classes:
            raise UsageError(
                f"the study has no image-level task '{task.name}'",
                where=manifest.root,
                fix=nearest(task.name, manifest.classes) if manifest.classes else "Prepare it with a recipe that has",
            )
        theirs, ours = manifest.classes[task.name], task.class_names
        if not ours and task.channels != len(theirs):
            raise UsageError(
                f"task '{task.name}' has {task.channels} unnamed classes, and the study {len(theirs)}",
                where=manifest.root,
                fix=f"Give its class_names: {', '.join(theirs)}",
            )
        for name in ours:
            if name not in theirs:
                raise UsageError(
                    f"class '{name}' of task '{task.name}' is none of the study's",
                    where=manifest.root,
                    fix=nearest(name, theirs),
                )
        for name in theirs:
            if ours and name not in ours:
                raise UsageError(
                    f"task '{task.name}' lacks the study's class '{name}'",
                    where=manifest.root,
                    fix=f"Name all of them: {', '.join(theirs)}",
                )


def class_label(case: Case, task: Task, classes: Mapping[str, Sequence[str]]) -> str:
    """The index of a case's class among the network's classes, found by name; "" where it has no label.

    Raises:
        CaseError: an index that the study has no class for.
    """
    names = classes.get(task.name, task.class_names)
    index = case.class_index(task.name, len(names) or task.channels)
    if index is None:
        return ""
    return str(task.class_names.index(names[index]) if task.class_names else index)


def hide_labels(items: Sequence[Item], fractions: Mapping[str, float] | None, seed: int = 0) -> list[Item]:
    """Take labels away at random, as an experiment on absent labels; the cases stay.

    Which ones depends on the seed, the task and the case's group alone: neither on the order nor on the other tasks.
    All images of a group (a lesion, a patient) lose the label together, for any of them would give it away.

    Args:
        items: as `study_items` gives them.
        fractions: task -> part of its labelled cases that lose the label; a group that begins below it goes whole.
        seed: of the choice.

    Raises:
        UsageError: an unknown task, or a fraction outside [0, 1].
    """
    shown = [dict(item) for item in items]
    tasks = {key.removeprefix("labelled_") for item in items for key in item if key.startswith("labelled_")}
    if not isinstance(fractions or {}, Mapping):
        raise UsageError(f"hidden_labels is {fractions!r}", fix="Give a part for each task, such as {'diagnosis': 0.5}")
    for task, fraction in (fractions or {}).items():
        if task not in tasks:
            raise UsageError(f"hidden labels of the unknown task '{task}'", fix=nearest(task, tasks))
        (fraction,) = numbers([fraction], f"hidden_labels of task '{task}'", 1, "Give 0 to 1")
        if not 0 <= fraction <= 1:
            raise UsageError(f"{fraction} of the labels of task '{task}' cannot be hidden", fix="Give 0 to 1")
        groups: dict[str, list[Item]] = {}
        for item in shown:
            if any(item[f"labelled_{task}"]):
                groups.setdefault(item.get("group") or item["id"], []).append(item)
        labelled = sum(len(group) for group in groups.values())
        hidden = 0
        for name in sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{task}/{name}".encode()).digest()):
            if hidden >= round(fraction * labelled):
                break
            for item in groups[name]:
                item[task] = [""] * len(item[task])
                item[f"labelled_{task}"] = [False] * len(item[f"labelled_{task}"])
            hidden += len(groups[name])
        _log.info("task %s: labels of %d of %d cases hidden", task, hidden, labelled)
    return shown


def only_labelled(items: Sequence[Item], tasks: str | Sequence[str] | None) -> list[Item]:
    """The items that have labels of all of some tasks: what training without absent labels would be left with.

    Args:
        items: as `study_items` gives them.
        tasks: names of tasks; all items stay where there are none.

    Raises:
        UsageError: no names.
        NothingFoundError: there are no such items.
    """
    names = [tasks] if isinstance(tasks, str) else tasks or ()
    if not isinstance(names, Sequence):
        raise UsageError(f"labelled_only is {tasks!r}", fix="Give names of tasks, such as ['diagnosis']")
    kept = [item for item in items if all(any(item.get(f"labelled_{name}", ())) for name in names)]
    if not kept:
        raise NothingFoundError(f"no case has labels of {' and '.join(names)}", fix="Name other tasks, or none")
    return kept
