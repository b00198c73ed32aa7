"""The table of predicted classes against the labels of a study."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtl_med.errors import CaseError, UsageError
from mtl_med.io.classification_table import CLASSIFICATION_FILE, read_classification
from mtl_med.manifest import Case, Manifest
from mtl_med.metrics.bootstrap import dice_rows
from mtl_med.metrics.image_rows import Images, image_rows, images_of, score_rows
from mtl_med.metrics.rows import Row

__all__ = ["ImageTable", "read_image_table"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTable:
    """Predicted classes of the image-level tasks that the study has labels for.

    Args:
        path: the table.
        decisions: task -> case -> index of the decided class, in the study's order of the classes.
        probabilities: task -> case -> (K,), in that order.
        class_names: task -> names of its classes, in that order.
        faults: case -> why its row cannot be used.
    """

    path: Path = Path()
    decisions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    probabilities: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> set[str]:
        """Ids of the cases that the table names."""
        return {case for table in self.decisions.values() for case in table} | set(self.faults)

    def rows(self, case: Case) -> list[Row]:
        """Rows of one case; a task without a label of it has none.

        Raises:
            CaseError: its row cannot be used or is missing, or its label is no class of the study.
        """
        if case.id in self.faults:
            raise CaseError(self.faults[case.id])
        rows: list[Row] = []
        for task, names in self.class_names.items():
            if case.id not in self.decisions[task]:
                what = f"has no row of '{case.id}' for task '{task}', while other cases have one"
                raise CaseError(what, where=self.path, fix="Predict this case again")
            true = case.class_index(task, len(names))
            if true is not None:
                decided = self.decisions[task][case.id]
                rows += image_rows(case.id, task, true, decided, self.probabilities[task][case.id], names)
        return rows

    def scores(self, rows: Sequence[Row], scored: Collection[Case]) -> list[Row]:
        """Rows over all cases, with intervals over lesions or patients.

        Args:
            rows: of the scored cases.
            scored: those cases.
        """
        groups = {case.id: case.group for case in scored if case.group}
        if not (groups or self.class_names):
            return []
        found = images_of(rows)
        told = dice_rows(rows, groups)
        for task, names in self.class_names.items():
            none = np.empty(0, dtype=np.intp)
            images = found.get(task, Images(task, names, (), none, none, np.empty((0, len(names)))))
            told += score_rows(images, groups, sum(task not in case.labels for case in scored))
        return told


def read_image_table(predictions: str | Path, manifest: Manifest) -> ImageTable:
    """The table of a folder of predictions; an empty one where there is none.

    Raises:
        CaseError: it is damaged.
        UsageError: its classes are not those of the study.
    """
    path = Path(predictions) / CLASSIFICATION_FILE
    faults: dict[str, str] = {}
    found = read_classification(path, faults) if path.is_file() else {}
    strange = sorted(set(found) - set(manifest.classes))
    if strange:
        _log.warning("predicted tasks that the study has no labels for are not scored: %s", ", ".join(strange))
    decisions: dict[str, dict[str, int]] = {}
    probabilities: dict[str, dict[str, list[float]]] = {}
    for task, names in manifest.classes.items():
        if task not in found:
            continue
        own, cases = found[task]
        if set(own) != set(names):
            raise UsageError(
                f"the classes of task '{task}' are {', '.join(own)}, expected {', '.join(names)} of the study",
                where=path,
                fix="Score these predictions against the study that the network was trained on",
            )
        places = [list(own).index(name) for name in names]
        decisions[task] = {case: names.index(decided) for case, (decided, _) in cases.items()}
        probabilities[task] = {
            case: [float(chances[place]) for place in places] for case, (_, chances) in cases.items()
        }
    classes = {task: names for task, names in manifest.classes.items() if task in decisions}
    return ImageTable(path, decisions, probabilities, classes, faults)
