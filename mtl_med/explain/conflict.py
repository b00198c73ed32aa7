"""The tasks' gradients on one labelled case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from mtl_med.errors import UsageError
from mtl_med.explain.model import Trained
from mtl_med.files import read_json
from mtl_med.loading.datalist import case_item
from mtl_med.loading.labels import check_classes
from mtl_med.manifest import Case, Manifest
from mtl_med.tasks import Task
from mtl_med.training.part_conflict import PartConflict, conflict_by_part

__all__ = ["conflict"]

_SLICES = 8  # of a volume, that a network for slices is asked about


def conflict(trained: Trained, manifest: Manifest, case: Case) -> list[PartConflict]:
    """The tasks' gradients on one labelled case, with losses and preprocessing as in training, without augmentation.

    A volume is cut to the size of a training patch at its middle; a network for slices gets eight of them. Running
    statistics and dropout are those of prediction.

    Raises:
        UsageError: fewer than two tasks have a label of this case, or the bundle has no `train.json`.
    """
    path = trained.root / "configs" / "train.json"
    parser = ConfigParser(read_json(path, "Give a bundle that can train, whose losses are then known"))
    told = {"bundle_root": str(trained.root), "dataset_dir": str(manifest.root), "spacing_mm": trained.spacing_mm}
    # What the weights were trained with counts, not what the config would take for the next training.
    for name, value in {**trained.settings, **told}.items():
        if name in parser.config:
            parser[name] = value
    check_classes(manifest, trained.tasks)
    item = case_item(case, trained.tasks, trained.inputs, manifest.classes)
    known = [task.name for task in trained.tasks if any(item[f"labelled_{task.name}"])]
    if len(known) < 2:
        found = f"only of {known[0]}" if known else "of none of its tasks"
        raise UsageError(f"has labels {found}, and a conflict needs two", where=case.id)
    data = parser.get_parsed_content("validate#preprocessing")(item)
    size = parser.get_parsed_content("patch_size") if "patch_size" in parser.config else None
    batch = {key: value.to(trained.device) for key, value in _as_batch(trained.tasks, data, size).items()}
    loss = parser.get_parsed_content("loss").to(trained.device)
    losses = loss.task_losses(trained.network.predict(batch["image"]), batch).means
    return conflict_by_part(trained.network, losses)


def _as_batch(tasks: Sequence[Task], data: Mapping[str, Any], patch_size: Sequence[int] | None) -> dict[str, Tensor]:
    """The tensors of a case as a batch that the network takes."""
    keys = ["image", *(key for task in tasks for key in (task.name, f"labelled_{task.name}", f"mask_{task.name}"))]
    item = {key: torch.as_tensor(data[key]).as_subclass(Tensor) for key in keys if key in data}
    space = item["image"].shape[1:]
    if patch_size is None:
        return {key: value[None] for key, value in item.items()}
    sliced = len(patch_size) < len(space)
    sides = (*patch_size, _SLICES) if sliced else patch_size
    starts = [max(0, (length - side) // 2) for length, side in zip(space, sides, strict=True)]
    window: tuple[Any, ...] = (..., *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))
    batch = {key: value[window][None] if value.shape[1:] == space else value[None] for key, value in item.items()}
    if not sliced:
        return batch
    count = batch["image"].shape[-1]  # slices along the patient become the batch
    return {
        key: value[0].movedim(-1, 0) if value.ndim == len(space) + 2 else value.expand(count, *value.shape[1:])
        for key, value in batch.items()
    }
