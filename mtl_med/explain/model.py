"""A trained bundle asked about one image: its masks, and what its exchange is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from torch import Tensor

from mtl_med.bundle import settings_path
from mtl_med.errors import ModelError, UsageError, nearest
from mtl_med.files import read_json
from mtl_med.metrics.calibration import Calibration
from mtl_med.networks import split_stacked
from mtl_med.networks.attention_maps import EXCHANGE, STAGE, stage_masks
from mtl_med.networks.knock_out import without_partners
from mtl_med.postprocessing import OUTPUTS
from mtl_med.tasks import Task, as_tasks

__all__ = ["Effect", "Trained", "effects", "load_bundle", "masks"]

_NEEDED = ("network", "preprocessing", "inferer", "tasks", "inputs", "device")


@dataclass(frozen=True)
class Trained:
    """A bundle with its weights.

    Args:
        root: folder of the bundle.
        weights: file of the weights.
        settings: that they were trained with; empty where nobody tells.
        network: on its device, in evaluation mode.
        tasks: that it predicts.
        inputs: a row of `loading.INPUTS`.
        preprocessing: of the bundle's inference.
        inferer: of the bundle's inference.
        device: of the network.
        spacing_mm: to which images are resampled; None where they keep their own.
        calibration: image-level task -> how its logits become probabilities.
    """

    root: Path
    weights: Path
    settings: Mapping[str, Any]
    network: Any
    tasks: tuple[Task, ...]
    inputs: str
    preprocessing: Any
    inferer: Inferer
    device: torch.device
    spacing_mm: Sequence[float] | None
    calibration: Mapping[str, Calibration]


@dataclass(frozen=True)
class Effect:
    """One output with the exchange as trained, and where tasks hear of the others no places.

    Args:
        task: name of the task.
        output: structure, class, or name of the map.
        measure: what the two numbers are.
        trained: the number as the network was trained.
        alone: the number without the others' places.
    """

    task: str
    output: str
    measure: str
    trained: float
    alone: float


def load_bundle(root: Path, weights: Path | None, dataset_dir: Path) -> Trained:
    """Read a bundle's `inference.json` and build what it names.

    Args:
        root: folder of the bundle.
        weights: None for `models/model.pt` of the bundle.
        dataset_dir: where the image comes from: a study may keep its spacing.

    Raises:
        ModelError: no weights, or those of another network.
        UsageError: the config lacks a part.
    """
    path = root / "configs" / "inference.json"
    weights = weights or root / "models" / "model.pt"
    if not weights.is_file():
        raise ModelError("there are no weights", where=weights, fix="Train first, or name them with --weights FILE")
    parser = ConfigParser(read_json(path))
    for name, value in {"bundle_root": root, "weights": weights, "dataset_dir": dataset_dir}.items():
        parser[name] = str(value)
    for name in _NEEDED:
        if name not in parser.config:
            raise UsageError(f"has no '{name}'", where=path, fix=nearest(name, parser.config))
    found = {name: parser.get_parsed_content(name) for name in _NEEDED}
    tasks = as_tasks(found["tasks"])
    known = parser.get_parsed_content("calibration") if "calibration" in parser.config else {}
    settings = settings_path(weights)
    return Trained(
        root=root,
        weights=weights,
        settings=read_json(settings) if settings.is_file() else {},
        network=found["network"],
        tasks=tasks,
        inputs=str(found["inputs"]),
        preprocessing=found["preprocessing"],
        inferer=found["inferer"],
        device=found["device"],
        spacing_mm=parser.get_parsed_content("spacing_mm") if "spacing_mm" in parser.config else None,
        calibration={
            name: Calibration.from_dict(known[name]) if name in known else Calibration.absent(classes)
            for name, classes in ((task.name, task.channels) for task in tasks if not task.is_pixel_level)
        },
    )


def _image(trained: Trained, data: Mapping[str, Any]) -> Tensor:
    """The preprocessed image as a batch of one, `(1, C, *spatial)`."""
    return torch.as_tensor(data["image"]).as_subclass(Tensor)[None].float().to(trained.device)


def masks(trained: Trained, data: Mapping[str, Any]) -> dict[str, Tensor]:
    """`stage_masks` of a preprocessed case; what is larger than a window is put together from windows.

    Returns:
        `<task>/stage<j>` and `<task>/exchange` -> `(1, *spatial)` on the CPU, in the size that the network sees.

    Raises:
        UsageError: the network attends to nothing.
    """
    windows = getattr(trained.inferer, "windows", trained.inferer)
    found = windows(_image(trained, data), lambda window: stage_masks(trained.network, window))
    # The windows come back in the order of the alphabet.
    parts = [f"{STAGE}{j}" for j in range(len(found))] + [EXCHANGE]
    names = [f"{task.name}/{part}" for task in trained.tasks for part in parts]
    return {name: found[name][0].float().cpu() for name in names if name in found}


def effects(trained: Trained, data: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[Effect]]:
    """How much of the prediction hangs on what tasks read of each other's places in the exchange.

    Args:
        trained: a bundle of which `knock_out.exchanges` is true.
        data: a preprocessed case.

    Returns:
        Pixel-level task -> the largest change of any of its maps `(1, *spatial)`, as probability or in the task's unit;
        and the numbers of every output.
    """
    before = _outputs(trained, data)
    with without_partners(trained.network):
        after = _outputs(trained, data)
    maps: dict[str, Tensor] = {}
    rows: list[Effect] = []
    for task in trained.tasks:
        first, second = before[task.name], after[task.name]
        unnamed = (task.name,) if task.channels == 1 else tuple(str(index) for index in range(task.channels))
        names = task.class_names or unnamed
        if task.is_pixel_level:
            maps[task.name] = (first - second).abs().amax(0, keepdim=True)
        measure, values = _measured(trained, task, first, second)
        rows += [Effect(task.name, name, measure, *pair) for name, pair in zip(names, values, strict=True)]
    return maps, rows


def _outputs(trained: Trained, data: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every task's output of a case as files would hold it, without batch axis; logits of image-level tasks."""
    with torch.no_grad():
        made = trained.inferer(_image(trained, data), trained.network)
    named = split_stacked(torch.as_tensor(made), trained.tasks) if isinstance(made, Tensor) else made
    return {task.name: OUTPUTS[task.kind][0](named[task.name][0].float().cpu()) for task in trained.tasks}


def _measured(trained: Trained, task: Task, first: Tensor, second: Tensor) -> tuple[str, list[tuple[float, float]]]:
    if not task.is_pixel_level:
        calibration = trained.calibration[task.name]
        pair = [calibration.probabilities(logits[None].numpy())[0].tolist() for logits in (first, second)]
        return "probability", list(zip(*pair, strict=True))
    if task.kind == "segmentation":
        counts = [(value > 0.5).flatten(1).sum(1).float().tolist() for value in (first, second)]
        return "voxels above 0.5, as the network sees them", list(zip(*counts, strict=True))
    means = [value.flatten(1).mean(1).tolist() for value in (first, second)]
    return f"mean, {task.unit or '1'}", list(zip(*means, strict=True))
