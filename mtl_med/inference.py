"""From images to predictions: windows over every case, results on each source's own grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.transforms import Transform

from mtl_med.bundle import boolean
from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, CaseError, UsageError, find_error
from mtl_med.files import load_weights
from mtl_med.ledger import Ledger
from mtl_med.networks.attention_maps import attends, attention_maps
from mtl_med.postprocessing import ATTENTION, SplitPredictiond, WritePredictiond, postprocessing
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
        network: returns the stacked tensor `pred` (B, C, *spatial), or a dictionary of tasks.
        inferer: a sliding window with the size of the training patch, or a `MixedInferer`.
        postprocessing: what turns the prediction into files.
        ledger: takes note of every finished case, and leaves the record of the run.
        precision: autocast type, None for full precision.
        attention: also hand on what each task attends to, as `attention_<task>`.

    Raises:
        UsageError: attention is asked of a network that has none.
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
        attention: Any = False,
    ) -> None:
        self.precision, self.ledger = precision, ledger
        self.attention = boolean(attention, "attention")
        if self.attention and not attends(network):
            raise UsageError(
                "this network has no attention to show",
                fix="Set --attention false, or use a network trained with --method ctan or mtan",
            )
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
            outputs = dict(prediction) if isinstance(prediction, Mapping) else {"pred": prediction}
            if engine.attention:
                masks = attention_maps(engine.inferer, batch["image"], engine.network)
                outputs |= {f"{ATTENTION}{task}": mask for task, mask in masks.items()}
        image = batchdata["image"]
        engine.state.output = {"image": image}
        engine.state.output |= {name: _beside(value.float().cpu(), image) for name, value in outputs.items()}
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
            self.ledger.note(case_id, batchdata["source"][0], engine.state.output[0].get("decisions"))
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


def _beside(value: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A map with what is known of the image it was made from; a class vector, which lies nowhere, as it is."""
    meta = getattr(image, "meta", None)
    return MetaTensor(value, meta=meta) if meta is not None and value.ndim == image.ndim else value


def with_weights(network: torch.nn.Module, weights: str | Path, device: torch.device | str) -> torch.nn.Module:
    """The network on its device with trained weights.

    Raises:
        ModelError: there are no weights, or they belong to another network.
    """
    load_into(network, load_weights(weights), weights)
    return on_device(network, device)[0].eval()
