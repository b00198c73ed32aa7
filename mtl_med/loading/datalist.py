"""From a study folder, or any folder of images, to the items that the transforms read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_med.errors import CaseError, NothingFoundError, UsageError, nearest
from mtl_med.files import read_json
from mtl_med.loading.labels import check_classes, class_label
from mtl_med.manifest import Case, Manifest, torn_sentence
from mtl_med.tasks import PERCENT, Task, as_tasks

__all__ = [
    "INPUTS",
    "case_item",
    "check_inputs",
    "folder_items",
    "input_channels",
    "input_items",
    "median_spacing",
    "spacing_for",
    "study_facts",
    "study_fingerprint",
    "study_items",
]

_log = logging.getLogger(__name__)

INPUTS = {"ct": 1, "ct+ptv": 2, "rgb": 3}
"""Name of an input choice -> channels of the image. `rgb` is a photograph; its maps are (C, H, W), rows first."""

_SUFFIXES = {"rgb": (".png", ".jpg", ".jpeg")}
_VOLUMES = (".nii.gz", ".nii")

PRESCRIPTION_SCALE_GY = 70.0
"""The channel `ptv` holds prescription / 70 Gy, so that the highest usual level is 1."""


def check_inputs(inputs: str, tasks: Sequence[Task] = ()) -> str:
    """`inputs` itself when it is known and may be used with these tasks.

    Raises:
        UsageError: an unknown choice, or targets asked for as input and as output.
    """
    if inputs not in INPUTS:
        raise UsageError(f"unknown inputs '{inputs}'", fix=nearest(inputs, INPUTS))
    targets = [name for task in tasks for name in task.class_names if name.upper().startswith(("PTV", "CTV", "GTV"))]
    if "ptv" in inputs and targets:
        raise UsageError(
            f"the targets ({', '.join(targets)}) cannot be input and output at once",
            fix="Use inputs 'ct', or leave the targets out of the segmentation task",
        )
    return inputs


def input_channels(inputs: str) -> int:
    """Number of image channels of an input choice."""
    return INPUTS[check_inputs(inputs)]


def case_item(
    case: Case, tasks: Sequence[Task], inputs: str, classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """What `LoadCased` and `LoadPictured` need of one case: paths, and which labels exist.

    Args:
        case: of a study.
        tasks: whose labels are wanted.
        inputs: a row of `INPUTS`.
        classes: the study's class names of each image-level task.

    Raises:
        UsageError: the case lacks its image, a required label, or the targets that `inputs` asks for.
        CaseError: it has a label of no class.
    """
    item: dict[str, Any] = {"id": case.id, "image": str(case.path(_image_key(inputs)))}
    if case.has("mask_dose"):
        item["mask_dose"] = str(case.path("mask_dose"))
    if "ptv" in inputs:
        item["ptv"] = _targets(case)
    for task in tasks:
        labels = _label_paths(case, task) if task.is_pixel_level else [class_label(case, task, classes or {})]
        if task.required and not any(labels):
            raise UsageError(f"has no label for the required task '{task.name}'", where=case.id)
        item[task.name] = labels
        item[f"labelled_{task.name}"] = [bool(label) for label in labels]
        if task.unit == PERCENT and case.prescription_gy:
            item[f"factor_{task.name}"] = 100.0 / case.prescription_gy
    return item


def _image_key(inputs: str) -> str:
    """Name of the file of a case that an input choice is read from."""
    return "image" if inputs == "rgb" else "ct"


def _require_image(cases: Sequence[Case], inputs: str, manifest: Manifest) -> None:
    """Say once, and not of each case, that a study of another kind than `inputs` is meant for was given.

    Raises:
        UsageError: no case has the image, and the first one has that of other inputs.
    """
    key = _image_key(inputs)
    others = [name for name in INPUTS if _image_key(name) != key and cases and cases[0].has(_image_key(name))]
    if others and not any(case.has(key) for case in cases):
        what = f"no case has '{key}', which inputs '{inputs}' are read from"
        fix = f"Use inputs {' or '.join(repr(name) for name in others)}, or give another study"
        raise UsageError(what, where=manifest.root, fix=fix)


def _targets(case: Case) -> list[tuple[str, float]]:
    targets = [name for name in case.names("target") if name in case.prescriptions_gy]
    if not targets:
        raise UsageError(
            "has no target with a prescription, which inputs 'ct+ptv' needs",
            where=case.id,
            fix="Use inputs 'ct', or leave this case out",
        )
    return [(str(case.path(f"structures/{name}")), case.prescriptions_gy[name]) for name in targets]


def _label_paths(case: Case, task: Task) -> list[str]:
    """One path per channel, empty where the label is unknown: also of a structure that is listed and holds no voxel."""
    if task.kind == "segmentation":
        empty = {name for name, item in case.structures.items() if item.status == "empty"}
        keys = ["" if name in empty else f"structures/{name}" for name in task.class_names]
    else:
        # Percent of an unknown prescription is an unknown label.
        keys = [] if task.unit == PERCENT and not case.prescription_gy else [task.name]
    return [str(case.path(key)) if case.has(key) else "" for key in keys] or [""]


def study_items(
    study: str | Path, splits: str | Sequence[str], tasks: Sequence[Task], inputs: str, *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Items of the cases of some splits; a case that cannot be used is left out with a warning.

    Raises:
        NothingFoundError: no case can be used.
        UsageError: a split that no case is in, class names that are not the study's, or inputs that no case has.
    """
    tasks = as_tasks(tasks)
    check_inputs(inputs, tasks)
    manifest = Manifest.read(study)
    check_classes(manifest, tasks)
    cases = manifest.split(*([splits] if isinstance(splits, str) else splits))[:limit]
    _require_image(cases, inputs, manifest)
    torn = manifest.torn_groups()
    if torn:
        _log.warning("%s", torn_sentence(torn))
    return _usable(cases, tasks, inputs, manifest)


def _usable(cases: Iterable[Case], tasks: Sequence[Task], inputs: str, manifest: Manifest) -> list[dict[str, Any]]:
    items = []
    for case in cases:
        try:
            item = case_item(case, tasks, inputs, manifest.classes)
            items.append(item | {"group": case.group or case.id})
        except (CaseError, UsageError) as error:
            _log.warning("left out: %s", error)
    if not items:
        raise NothingFoundError(
            f"no case can be used with inputs '{inputs}'", where=manifest.root, fix="See the warnings"
        )
    return items


def folder_items(folder: str | Path, inputs: str) -> list[dict[str, Any]]:
    """Items of every image in a folder, NIfTI or for `rgb` JPEG and PNG; the id is the file name without suffix.

    Files that would have one id become `{"id", "error"}`, called by their whole names.

    Raises:
        UsageError: `inputs` needs targets, which a plain folder cannot give.
        NothingFoundError: no image lies there.
    """
    if "ptv" in inputs:
        raise UsageError(
            "a folder of CT images has no targets, which inputs 'ct+ptv' needs",
            where=folder,
            fix="Give a study folder made by mtl_med.prep, or a network trained with --inputs ct",
        )
    suffixes = _SUFFIXES.get(inputs, _VOLUMES)
    files = Path(folder).glob("[!.]*")  # a name with a dot in front is another program's scratch file
    paths = sorted(path for path in files if path.name.lower().endswith(suffixes))
    if not paths:
        kind = "photographs (*.jpg, *.png)" if inputs == "rgb" else "CT images (*.nii.gz)"
        raise NothingFoundError(
            f"is neither a study folder (manifest.json) nor a folder of {kind}",
            where=folder,
            fix="Check --dataset_dir",
        )
    by_id: dict[str, list[Path]] = {}
    for path in paths:
        case_id = path.name[: -next(len(suffix) for suffix in suffixes if path.name.lower().endswith(suffix))]
        by_id.setdefault(case_id, []).append(path)
    items: list[dict[str, Any]] = []
    for case_id, same in by_id.items():
        names = " and ".join(path.name for path in same)
        what = f"{names} would write into one folder of predictions"
        error = str(CaseError(what, where=folder, fix="Rename or move all but one of them"))
        items += (
            [{"id": case_id, "image": str(same[0])}]
            if len(same) == 1
            else [{"id": path.name, "error": error} for path in same]
        )
    return items


def input_items(
    source: str | Path,
    inputs: str,
    *,
    splits: str | Sequence[str] = (),
    limit: int | None = None,
    prescription_gy: float | None = None,
) -> list[dict[str, Any]]:
    """Items for inference, without labels: a study folder's cases (all splits, or some), or a folder of images.

    Beside `image` and `ptv` an item names its `source`, its `possible_dose_mask` (a path, "" where there is none) and
    its `prescription_gy`, by which percent become Gy (0 where percent stay percent). A case that cannot be used, such
    as one without targets, becomes `{"id", "error"}`.

    Args:
        source: study folder or folder of images.
        inputs: a row of `INPUTS`.
        splits: of a study; all of them by default.
        limit: only the first so many.
        prescription_gy: of every case, Gy. By default that of the targets which the network is shown; a network that
            sees no targets has not been told what they are to receive.

    Raises:
        NothingFoundError: the folder is missing or holds neither.
        UsageError: a prescription that is not positive, or inputs that no case of a study has.
    """
    if prescription_gy is not None and not prescription_gy > 0:
        raise UsageError(f"prescription_gy is {prescription_gy}", fix="Give a dose above 0 Gy")
    source = Path(source)
    if not source.is_dir():
        raise NothingFoundError("is no folder", where=source, fix="Check --dataset_dir")
    if not (source / "manifest.json").is_file():
        items = folder_items(source, inputs)[:limit]
    else:
        manifest = Manifest.read(source)
        wanted = [splits] if isinstance(splits, str) else splits
        cases = (manifest.split(*wanted) if wanted else manifest.cases)[:limit]
        _require_image(cases, inputs, manifest)
        items = [_item_or_error(case, inputs) for case in cases]
    return [
        item
        if "error" in item
        else item
        | {
            "source": item["image"],
            "possible_dose_mask": item.pop("mask_dose", ""),
            "prescription_gy": float(prescription_gy or max((gy for _, gy in item.get("ptv", [])), default=0.0)),
        }
        for item in items
    ]


def _item_or_error(case: Case, inputs: str) -> dict[str, Any]:
    """What to predict of a case, or the reason why nothing can be."""
    try:
        return case_item(case, (), inputs)
    except UsageError as error:
        return {"id": case.id, "error": str(error)}


def median_spacing(study: str | Path) -> list[float] | None:
    """Median spacing of a study's `fit` cases along R, A, S, mm; None where there are none, or photographs."""
    spacings = np.array([case.spacing_mm for case in Manifest.read(study) if case.split == "fit" and case.spacing_mm])
    return np.median(spacings, axis=0).round(4).tolist() if len(spacings) else None


def study_facts(study: str | Path, spacing_mm: Sequence[float] | None = None) -> dict[str, Any]:
    """What weights remember of the study they were trained on: data set, fingerprint, spacings (mm).

    Args:
        study: the study folder.
        spacing_mm: spacing to which every case was resampled for training; None where each kept its own.
    """
    manifest = Manifest.read(study)
    return {
        "dataset": manifest.dataset,
        "fingerprint": manifest.fingerprint,
        "median_spacing_mm": median_spacing(study),
        "spacing_mm": None if spacing_mm is None else list(spacing_mm),
    }


def study_fingerprint(source: str | Path) -> str:
    """Fingerprint of a study folder; "" for a folder that is none."""
    path = Path(source) / "manifest.json"
    return str(read_json(path).get("fingerprint", "")) if path.is_file() else ""


def spacing_for(source: str | Path, trained_on: Mapping[str, Any]) -> list[float] | None:
    """Spacing to which images are resampled for a trained network, mm; None keeps their own grid.

    Where training resampled, every image is brought to that spacing. Where it did not, a study of the same data set
    keeps its grid, as in training, and any other image is brought to the training set's median spacing.

    Args:
        source: study folder or folder of CT images.
        trained_on: the training's `study_facts`.
    """
    if trained_on.get("spacing_mm"):
        return trained_on["spacing_mm"]
    path = Path(source) / "manifest.json"
    if path.is_file() and read_json(path).get("dataset") == trained_on.get("dataset"):
        return None
    return trained_on.get("median_spacing_mm")
