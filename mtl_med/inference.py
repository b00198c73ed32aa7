"""From CT images to predictions: a sliding window over every case, results on each source's own grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.transforms import Compose, Invertd, Transform

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, CaseError, find_error
from mtl_med.files import load_weights
from mtl_med.geometry import Grid, require_same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import write_prediction
from mtl_med.ledger import Ledger
from mtl_med.loading.pipelines import body_mask
from mtl_med.networks import split_stacked
from mtl_med.tasks import PERCENT, Task, as_tasks
from mtl_med.training.checkpoints import load_into
from mtl_med.training.runtime import autocast, on_device, pick_device
from mtl_med.training.trainer import move_batch

__all__ = [
    "CaseDataset",
    "Ledger",
    "Predictor",
    "SplitPredictiond",
    "WritePredictiond",
    "case_loader",
    "postprocessing",
    "with_weights",
]

_log = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """Preprocessed cases; one that cannot be read becomes `{"id", "error"}` instead of ending the run."""

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        if "error" in self.data[index]:
            return dict(self.data[index])
        try:
            return self._transform(index)
        except Exception as error:
            ours = find_error(error)
            if ours is None:
                raise
            return {"id": self.data[index]["id"], "error": str(ours)}


def case_loader(dataset: Dataset, workers: int = 0) -> DataLoader:
    """One case at a time, read ahead by `workers` processes."""
    return DataLoader(dataset, batch_size=1, shuffle=False, num_workers=workers)


class Predictor(SupervisedEvaluator):
    """Run a network over cases and hand each prediction to the postprocessing.

    Args:
        device: where the network runs.
        val_data_loader: batches of one case.
        network: returns the stacked tensor `pred` (B, C, X, Y, Z).
        inferer: a sliding window with the size of the training patch.
        postprocessing: what turns `pred` into files.
        ledger: takes note of every finished case, and leaves the record of the run.
        precision: autocast type, None for full precision.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: DataLoader,
        network: torch.nn.Module,
        inferer: Inferer,
        postprocessing: Transform | None = None,
        precision: torch.dtype | None = None,
        val_handlers: Sequence[Any] = (),
        ledger: Ledger | None = None,
    ) -> None:
        self.precision, self.ledger = precision, ledger
        self.failures: dict[str, str] = {}
        super().__init__(
            device=pick_device(device),
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            postprocessing=postprocessing,
            val_handlers=list(val_handlers),
        )

    def run(self, global_epoch: int = 1) -> None:
        """Predict every case; nothing where all are finished already."""
        if self.state.epoch_length:
            super().run(global_epoch)

    def _iteration(self, engine: Predictor, batchdata: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        case_id = batchdata["id"][0]
        engine.state.output = {}
        if "error" in batchdata:
            self._fail(case_id, batchdata["error"][0])
            return engine.state.output
        started = time.monotonic()
        batch = move_batch(batchdata, engine.state.device)
        engine.network.eval()
        with torch.no_grad(), autocast(engine.state.device, engine.precision):
            prediction = engine.inferer(batch["image"], engine.network)
        image = batchdata["image"]
        pred = MetaTensor(prediction.float().cpu(), meta=getattr(image, "meta", None))
        engine.state.output = {"image": image, "pred": pred}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        try:
            engine.fire_event(IterationEvents.MODEL_COMPLETED)
        except Exception as error:
            ours = find_error(error)
            if not isinstance(ours, CaseError):
                raise
            self._fail(case_id, str(ours))
            return engine.state.output
        if self.ledger is not None:
            self.ledger.note(case_id, batchdata["source"][0])
        done, total = engine.state.iteration, engine.state.epoch_length
        _log.info("%d/%d  %s  %.1f s", done, total, case_id, time.monotonic() - started)
        return engine.state.output

    def _fail(self, case_id: str, sentence: str) -> None:
        self.failures[case_id] = sentence
        _log.error("%s failed: %s", case_id, sentence)

    def record(self) -> None:
        """Leave the record of the run beside the predictions."""
        if self.ledger is not None:
            self.ledger.write(self.failures)

    def end(self, score: Callable[[], int] | None = None) -> None:
        """End the process with 4 when some cases failed, 5 when all did; else with the code of `score`, if not 0.

        Args:
            score: called unless every case failed; gives an exit code.
        """
        failed = len(self.failures)
        if failed:
            _log.error("%d of %d cases failed", failed, self.state.epoch_length)
        earlier = self.ledger.finished if self.ledger is not None else {}
        if failed and failed == self.state.epoch_length and not earlier:
            raise SystemExit(EXIT_ALL_FAILED)
        code = score() if score is not None else EXIT_OK
        if failed or code:
            raise SystemExit(code or EXIT_SOME_FAILED)


class SplitPredictiond(Transform):
    """Split `pred` (C, X, Y, Z) into one map per task: probabilities of structures, doses of at least 0 Gy.

    Args:
        tasks: pixel-level tasks in the order in which the network stacks them.
    """

    def __init__(self, tasks: Any) -> None:
        self.tasks = as_tasks(tasks)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        item = dict(data)
        pred = item.pop("pred")
        meta = getattr(pred, "meta", None)
        for name, value in split_stacked(torch.as_tensor(pred)[None], self.tasks).items():
            kind = next(task.kind for task in self.tasks if task.name == name)
            value = value[0].float()
            value = torch.sigmoid(value) if kind == "segmentation" else value.clamp(min=0.0)
            item[name] = MetaTensor(value, meta=meta)
        return item


class WritePredictiond(Transform):
    """Write a case's prediction in the layout of the study folder, on the source's own grid.

    The dose is zero outside the possible-dose mask where the case has one, else outside the body.

    Args:
        tasks: the tasks.
        output_dir: gets one folder per case.
        threshold: probability above which a voxel belongs to a structure.
    """

    def __init__(self, tasks: Any, output_dir: str | Path, threshold: float = 0.5) -> None:
        self.tasks, self.output_dir, self.threshold = as_tasks(tasks), Path(output_dir), float(threshold)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        source = Path(str(data["source"]))
        ct, grid = read_nifti(source, np.float32)
        structures: dict[str, np.ndarray] = {}
        doses: dict[str, np.ndarray] = {}
        for task in self.tasks:
            values = np.asarray(torch.as_tensor(data[task.name]))
            if task.kind == "segmentation":
                structures |= {name: values[i] > self.threshold for i, name in enumerate(task.class_names)}
            elif task.kind == "regression":
                doses |= _in_gy(values[0].astype(np.float32) * self._region(data, ct, grid), task, data)
        write_prediction(self.output_dir, str(data["id"]), grid, ct=source, structures=structures or None, **doses)
        return dict(data)

    def _region(self, data: Mapping[str, Any], ct: np.ndarray, grid: Grid) -> np.ndarray:
        path = data.get("possible_dose_mask")
        if path:
            mask, own_grid = read_nifti(path, np.uint8)
            require_same_grid(own_grid, grid, where=path)
            return mask > 0
        return np.asarray(body_mask(torch.from_numpy(ct)[None])[0])


def _in_gy(values: np.ndarray, task: Task, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A dose as `write_prediction` takes it: in Gy, or in percent of a prescription that is not known."""
    if task.unit != PERCENT:
        return {"dose_gy": values}
    prescription_gy = float(data["prescription_gy"])
    return {"dose_gy": values * np.float32(prescription_gy / 100)} if prescription_gy else {"dose_percent": values}


def postprocessing(tasks: Any, preprocessing: Compose, output_dir: str | Path) -> Compose:
    """Split the network's output, bring every map back onto the source's grid, and write the case.

    Args:
        tasks: pixel-level tasks in the network's order.
        preprocessing: the chain to invert.
        output_dir: gets one folder per case.
    """
    parsed: tuple[Task, ...] = as_tasks(tasks)
    names = [task.name for task in parsed if task.is_pixel_level]
    return Compose(
        [
            SplitPredictiond(parsed),
            Invertd(names, preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            WritePredictiond(parsed, output_dir),
        ]
    )


def with_weights(network: torch.nn.Module, weights: str | Path, device: torch.device | str) -> torch.nn.Module:
    """The network on its device with trained weights.

    Raises:
        ModelError: there are no weights, or they belong to another network.
    """
    load_into(network, load_weights(weights), weights)
    return on_device(network, device)[0].eval()
