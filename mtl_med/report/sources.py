"""Everything that a report is made from: the study, the predictions with their scores, and the records beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError
from mtl_med.evaluation import Evaluation, evaluate
from mtl_med.manifest import Case, Manifest
from mtl_med.report.case_page import CaseInputs, CasePrediction, Options
from mtl_med.report.metrics_file import find_evaluation
from mtl_med.report.training_file import Training, read_record, read_training

__all__ = ["Inputs", "Predicted", "read_inputs"]

_log = logging.getLogger(__name__)
_FIELDS = {
    "weights?": {"path?": str, "sha256?": str},
    "hashes?": {...: str},
    "versions?": {...: str},
    "command?": [str],
}


@dataclass(frozen=True)
class Predicted:
    """A folder of predictions and what is known of its making.

    Args:
        name: unique among the folders, such as "ctan".
        folder: it.
        evaluation: its scores.
        scores_from: where the scores come from, a clause.
        record: its `run.json`; empty where there is none.
        settings: of the network, as `model.json` beside the weights has them; empty where there is none.
        training: its course, and the record of it; None where there is none.
        notes: sentences: what is missing, damaged or does not fit together.
    """

    name: str
    folder: Path
    evaluation: Evaluation
    scores_from: str
    record: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Training | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What a report is made from.

    Args:
        manifest: the study.
        predictions: at least one; the first is the one in question, the others are compared with it.
        options: what was asked for.
        split: the split that was asked for; None for all cases that have a prediction.
        pages: id -> address of the case's page relative to the report's top folder, of the cases that have one.
    """

    manifest: Manifest
    predictions: tuple[Predicted, ...]
    options: Options = field(default_factory=Options)
    split: str | None = None
    pages: Mapping[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that some folder has a prediction of, in the order of the study."""
        known = {name for item in self.predictions for name in (*item.evaluation.scored, *item.evaluation.failures)}
        return tuple(case for case in self.manifest if case.id in known)

    def of_case(self, case: Case, prepared: Mapping[str, Any] | None = None) -> CaseInputs:
        """What the page of one case is made from."""
        found = []
        for item in self.predictions:
            failure = item.evaluation.failures.get(case.id, "")
            if not failure and case.id not in item.evaluation.scored:
                continue
            rows = tuple(row for row in item.evaluation.rows if row.case == case.id)
            found.append(CasePrediction(item.name, item.folder / case.id, rows, item.settings, failure))
        return CaseInputs(case, tuple(found), self.options, prepared or {}, self.manifest.classes)


def read_inputs(
    study: str | Path, predictions: Sequence[str | Path], options: Options, *, split: str | None = None
) -> Inputs:
    """Read a study and folders of predictions; scores are computed where no table of them fits.

    Args:
        study: the study folder.
        predictions: folders as `mtl-med evaluate` takes them.
        options: what was asked for.
        split: only this split; default: whatever was predicted.

    Raises:
        UsageError: no study, no such split, or a folder twice.
        NothingFoundError: a folder without a prediction of a case of the study.
    """
    manifest = Manifest.read(study)
    folders = [Path(folder) for folder in predictions]
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise UsageError("is given twice", where=folder, fix="Name each folder of predictions once")
    names = _names(folders)
    found = [_predicted(name, folder, manifest, options, split) for name, folder in zip(names, folders, strict=True)]
    return Inputs(manifest, tuple(found), options, split)


def _predicted(name: str, folder: Path, manifest: Manifest, options: Options, split: str | None) -> Predicted:
    notes: list[str] = []
    evaluation, source = find_evaluation(folder, manifest, split, notes)
    if evaluation is None:
        _log.info("scoring %s", folder)
        evaluation = evaluate(manifest.root, folder, split, workers=options.workers)
        source = "scored for this report"
    record = read_record(folder / "run.json", _FIELDS, notes)
    weights = record.get("weights", {})
    beside = [Path(weights["path"]).parent] if weights.get("path") else []
    places = [place for place in (*beside, folder.resolve().parent, folder) if place.is_dir()]
    home = next((place for place in places if (place / "training.csv").is_file()), None)
    settings_file = next((path for place in places if (path := place / "model.json").is_file()), None)
    settings = read_record(settings_file, _FIELDS, notes) if settings_file else {}
    training = read_training(home, notes) if home else None
    if training and weights.get("sha256") and weights["sha256"] not in training.weights:
        notes.append(
            f"The weights of these predictions are not those that the training in {home} ended with: its curves may "
            "belong to other weights."
        )
    return Predicted(name, folder, evaluation, source, record, settings, training, tuple(notes))


def _names(folders: Sequence[Path]) -> list[str]:
    """A short name for each: its own, or where that says nothing or is another's, with what lies above it."""
    resolved = [folder.resolve() for folder in folders]
    names = [folder.parent.name if folder.name == "predictions" else folder.name for folder in resolved]
    if len(set(names)) < len(names):
        names = [
            "/".join(folder.parts[-3:-1] if folder.name == "predictions" else folder.parts[-2:]) for folder in resolved
        ]
    return [
        f"{name or 'predictions'} ({names[: index + 1].count(name)})"
        if names.count(name) > 1
        else name or "predictions"
        for index, name in enumerate(names)
    ]
