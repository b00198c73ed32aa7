"""From a network's output to the files of a case: every map on its source's own grid, every class into the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Transform
from numpy.typing import NDArray

from mtl_med.bundle import boolean
from mtl_med.errors import CaseError, UsageError, nearest
from mtl_med.geometry import Grid, reorient, require_same_grid
from mtl_med.io.classification_table import Decision
from mtl_med.io.nifti import read_nifti
from mtl_med.io.picture import read_picture
from mtl_med.io.results import write_picture_prediction, write_prediction
from mtl_med.loading.pipelines import body_mask
from mtl_med.loading.resizing import resize_smoothly
from mtl_med.metrics.calibration import Calibration
from mtl_med.networks import split_stacked
from mtl_med.overlays import picture_overlay, volume_overlay
from mtl_med.tasks import PERCENT, Task, as_tasks

__all__ = ["ATTENTION", "OUTPUTS", "SplitPredictiond", "WritePredictiond", "postprocessing"]

ATTENTION = "attention_"
"""Put before a task's name in the key of what the task attends to, and in the name of its picture."""


@dataclass
class _Case:
    """What is to be written of one case.

    Args:
        data: its item.
        threshold: probability above which a voxel belongs to a structure.
        calibration: of each image-level task.
        region: gives the voxels that may receive dose.
        structures: name -> mask of the source's size.
        doses: arguments of `write_prediction`.
        decisions: image-level task -> decided class and probabilities, for the table.
    """

    data: Mapping[str, Any]
    threshold: float
    calibration: Mapping[str, Calibration]
    region: Callable[[], NDArray]
    structures: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    doses: dict[str, NDArray] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)


def _require_finite(case: _Case, task: Task, values: NDArray) -> None:
    if not np.isfinite(values).all():
        what = f"the outputs of task '{task.name}' are not finite"
        raise CaseError(what, where=str(case.data["id"]), fix="Check the weights and inputs")


def _add_structures(case: _Case, task: Task, values: NDArray) -> None:
    _require_finite(case, task, values)
    case.structures |= {name: values[i] > case.threshold for i, name in enumerate(task.class_names)}


def _add_dose(case: _Case, task: Task, values: NDArray) -> None:
    if _is_picture(case.data):
        raise UsageError(f"task '{task.name}' maps values on a picture, which no file holds", fix="Predict it in 3D")
    case.doses |= _in_gy(values[0].astype(np.float32) * case.region(), task, case.data)


def _add_decision(case: _Case, task: Task, values: NDArray) -> None:
    _require_finite(case, task, values)
    calibration, logits = case.calibration[task.name], values.reshape(1, -1)
    index = int(calibration.decide(logits)[0])
    name = task.class_names[index] if task.class_names else str(index)
    case.decisions[task.name] = (name, calibration.probabilities(logits)[0].tolist())


def _as_it_is(value: torch.Tensor) -> torch.Tensor:
    return value


OUTPUTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[_Case, Task, NDArray], None]]] = {
    "segmentation": (torch.sigmoid, _add_structures),
    "regression": (lambda value: value.clamp(min=0.0), _add_dose),
    "classification": (_as_it_is, _add_decision),
}
"""Kind of task -> what becomes of its output, and where that goes: only maps reach files with voxels."""


class SplitPredictiond(Transform):
    """Take the prediction of a case apart: per task probabilities of structures, doses of at least 0 Gy, class logits.

    A stacked prediction comes as `pred` (C, *spatial), any other as one tensor per task. Maps of an image that was
    stretched, whose item has its `size` before that, are brought to that size first: logits are interpolated, not what
    a sigmoid makes of them.

    Args:
        tasks: the network's tasks; stacked ones in its order.

    Raises:
        UsageError: an output that is no map of a pixel-level task, or no vector of an image-level one.
    """

    def __init__(self, tasks: Any) -> None:
        self.tasks = as_tasks(tasks)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        item = dict(data)
        if "pred" in item:
            pred = item.pop("pred")
            meta = getattr(pred, "meta", None)
            for name, value in split_stacked(torch.as_tensor(pred)[None], self.tasks).items():
                item[name] = value[0] if meta is None else MetaTensor(value[0], meta=meta)
        for task in self.tasks:
            value = item[task.name].float()
            if (value.ndim == 1) == task.is_pixel_level:
                what = f"task '{task.name}' ({task.kind}) has an output of shape {tuple(value.shape)}"
                raise UsageError(what, fix="Give the tasks that the network was made with")
            if task.is_pixel_level and "size" in item:
                value = _unstretched(value, item["size"])
            item[task.name] = OUTPUTS[task.kind][0](value)
            mask = item.get(f"{ATTENTION}{task.name}")
            if mask is not None and "size" in item:
                item[f"{ATTENTION}{task.name}"] = _unstretched(mask, item["size"])
        return item


def _unstretched(value: torch.Tensor, size: Sequence[Any]) -> torch.Tensor:
    """A map (C, *spatial) in the size that the image had before it was stretched."""
    return resize_smoothly(torch.as_tensor(value).as_subclass(torch.Tensor)[None], [int(side) for side in size])[0]


def _is_picture(data: Mapping[str, Any]) -> bool:
    """Whether an item is a photograph: stretched, of two axes."""
    return "size" in data and len(data["size"]) == 2


class InvertVolumesd(Invertd):
    """MONAI's Invertd; an image that was stretched is back in its own size already."""

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """See the class."""
        return dict(data) if "size" in data else super().__call__(data)


class WritePredictiond(Transform):
    """Write a case's prediction in the layout of the study folder, on the source's own grid.

    The dose is zero outside the possible-dose mask where the case has one, else outside the body. What image-level
    tasks decide is put into the item as `decisions`, for the table that holds all cases.

    Args:
        tasks: the tasks.
        output_dir: gets one folder per case.
        threshold: probability above which a voxel belongs to a structure.
        calibration: image-level task -> its part of `calibration` in `model.json`; a task that lacks is told by
            softmax, and decided for the most probable class.

    Raises:
        UsageError: a calibration of an unknown task, or of another number of classes.
    """

    def __init__(
        self,
        tasks: Any,
        output_dir: str | Path,
        threshold: float = 0.5,
        calibration: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.tasks, self.output_dir, self.threshold = as_tasks(tasks), Path(output_dir), float(threshold)
        self.calibration = _calibrations(self.tasks, calibration or {})

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        has_maps, is_picture = any(task.is_pixel_level for task in self.tasks), _is_picture(data)
        if has_maps and "size" in data and not is_picture:
            what = "maps of a volume that was resized as a whole cannot be put onto its grid"
            raise UsageError(what, fix="Use inference_transforms, which can be inverted")
        source, case_id = Path(str(data["source"])), str(data["id"])
        volume = read_nifti(source, np.float32) if has_maps and not is_picture else None
        case = _Case(data, self.threshold, self.calibration, region=partial(self._region, data, volume))
        for task in self.tasks:
            OUTPUTS[task.kind][1](case, task, np.asarray(torch.as_tensor(data[task.name])))
        if is_picture and case.structures:
            write_picture_prediction(self.output_dir, case_id, case.structures)
        elif volume is not None:
            structures = case.structures or None
            write_prediction(self.output_dir, case_id, volume[1], ct=source, structures=structures, **case.doses)
        names = [task.name for task in self.tasks if f"{ATTENTION}{task.name}" in data]
        if names:
            self._draw_attention(data, names, source)
        return {**data, "decisions": case.decisions}

    def _draw_attention(self, data: Mapping[str, Any], names: Sequence[str], source: Path) -> None:
        picture = read_picture(source) if _is_picture(data) else None
        volume = read_nifti(source, np.float32) if picture is None else None
        if volume and "size" in data:
            volume = reorient(*volume)  # as it was stretched
        for name in names:
            path = self.output_dir / str(data["id"]) / f"{ATTENTION}{name}.png"
            mask, title = torch.as_tensor(data[f"{ATTENTION}{name}"])[:1], f"{data['id']}: {name}"
            if picture is not None:
                picture_overlay(picture, mask[0].numpy(), path, title)
            elif volume is not None:
                mask = _unstretched(mask, volume[0].shape) if "size" in data else mask
                volume_overlay(*volume, mask[0].numpy(), path, title)

    def _region(self, data: Mapping[str, Any], volume: tuple[NDArray, Grid] | None) -> NDArray:
        ct, grid = volume or read_nifti(data["source"], np.float32)
        path = data.get("possible_dose_mask")
        if path:
            mask, own_grid = read_nifti(path, np.uint8)
            require_same_grid(own_grid, grid, where=path)
            return mask > 0
        return np.asarray(body_mask(torch.from_numpy(ct)[None])[0])


def _calibrations(tasks: Sequence[Task], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Calibration]:
    known = {task.name: task.channels for task in tasks if not task.is_pixel_level}
    found = {name: Calibration.absent(classes) for name, classes in known.items()}
    for name, fields in given.items():
        if name not in known:
            raise UsageError(f"calibration of '{name}', which is no image-level task", fix=nearest(name, known))
        found[name] = Calibration.from_dict(fields)
        if len(found[name].priors) != known[name]:
            raise UsageError(
                f"the calibration of task '{name}' has {len(found[name].priors)} classes, the task {known[name]}",
                fix="Take model.json from where the weights come from, or calibrate anew",
            )
    return found


def _in_gy(values: np.ndarray, task: Task, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A dose as `write_prediction` takes it: in Gy, or in percent of a prescription that is not known."""
    if task.unit != PERCENT:
        return {"dose_gy": values}
    prescription_gy = float(data["prescription_gy"])
    return {"dose_gy": values * np.float32(prescription_gy / 100)} if prescription_gy else {"dose_percent": values}


def postprocessing(
    tasks: Any,
    preprocessing: Compose,
    output_dir: str | Path,
    calibration: Mapping[str, Mapping[str, Any]] | None = None,
    attention: Any = False,
) -> Compose:
    """Split the network's output, bring every map back onto the source's grid, and write the case.

    Args:
        tasks: the network's tasks; stacked ones in its order.
        preprocessing: the chain to invert for volumes.
        output_dir: gets one folder per case.
        calibration: as of `WritePredictiond`.
        attention: also draw what each task attends to, where the prediction holds it.
    """
    parsed: tuple[Task, ...] = as_tasks(tasks)
    maps = [task.name for task in parsed if task.is_pixel_level]
    if boolean(attention, "attention"):
        maps += [f"{ATTENTION}{task.name}" for task in parsed]
    steps: list[Transform] = [SplitPredictiond(parsed)]
    if maps:  # MONAI refuses to invert nothing
        steps.append(InvertVolumesd(maps, preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True))
    return Compose([*steps, WritePredictiond(parsed, output_dir, calibration=calibration)])
