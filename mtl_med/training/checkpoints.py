"""Checkpoints that hold the whole state of a run, are whole or absent, and resume bit by bit."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from mtl_med.bundle import boolean, write_settings
from mtl_med.errors import ModelError
from mtl_med.files import atomic_path, sha256_file, write_text
from mtl_med.processes import rank, world_size
from mtl_med.provenance import write_record
from mtl_med.training.handlers import Schedule
from mtl_med.training.runtime import restore_rng, rng_state, unwrap
from mtl_med.training.validation import Validation

_log = logging.getLogger(__name__)

__all__ = [
    "CHECKPOINT_SCHEMA",
    "Checkpoint",
    "load_into",
    "read_checkpoint",
    "save_weights",
    "start",
    "write_checkpoint",
]

CHECKPOINT_SCHEMA = "mtl_med/checkpoint/1"


def save_weights(path: str | Path, state: dict[str, torch.Tensor]) -> None:
    """Write a state dict atomically, on the CPU and contiguous, so that it loads anywhere.

    Raises:
        OutputError: the file cannot be written.
    """
    plain = {key: value.detach().to("cpu").contiguous() for key, value in state.items()}
    _save(path, plain)


def write_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a run atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    _save(path, {"schema": CHECKPOINT_SCHEMA, **state})


def _save(path: str | Path, value: dict[str, Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(value, stream)
        except RuntimeError as error:
            # torch covers a full disk, or an interrupt while it writes, with an error of its own.
            if isinstance(error.__context__, OSError | KeyboardInterrupt):
                raise error.__context__ from error
            raise


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        ModelError: it is missing, damaged, or no checkpoint of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError("there is no checkpoint to resume", where=path, fix="Start without --resume true")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"checkpoint cannot be read ({type(error).__name__})", where=path, fix="Start without --resume true"
        ) from error
    if not isinstance(state, dict) or state.get("schema") != CHECKPOINT_SCHEMA:
        raise ModelError("is no checkpoint of this version", where=path, fix="Start without --resume true")
    return state


def load_into(network: torch.nn.Module, state: dict[str, torch.Tensor], where: str | Path) -> None:
    """Load a state dict whose keys and shapes must be the network's own.

    Raises:
        ModelError: it belongs to another network; names the first keys that differ.
    """
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if not (missing or unexpected or shapes):
        network.load_state_dict(state)
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} keys are missing (first: {missing[0]})")
    if unexpected:
        parts.append(f"{len(unexpected)} are unexpected (first: {unexpected[0]})")
    if shapes:
        key = min(shapes)
        parts.append(
            f"{len(shapes)} have another shape (first: {key}, found {tuple(state[key].shape)}, "
            f"expected {tuple(own[key].shape)})"
        )
    raise ModelError(
        f"weights belong to another network: {'; '.join(parts)}",
        where=where,
        fix="Give the method, inputs and network options that the weights were trained with",
    )


class Checkpoint:
    """Write the whole state of the run after each epoch, and go on from it.

    `output_dir` gets `checkpoint.pt`, `model.pt` (best) and `model_last.pt`, the settings of either beside it
    (`model.json`), and `training.csv`, each whole or absent.

    Args:
        output_dir: folder of the run.
        network: the network.
        optimizer: its optimizer.
        loss: the loss with its weighting.
        schedule: the clock.
        validation: keeper of the best model.
        settings: what must be equal for a checkpoint to be continued: method, inputs, seed, data fingerprint, ...
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: torch.nn.Module,
        schedule: Schedule,
        validation: Validation,
        settings: Mapping[str, Any],
    ) -> None:
        self.folder, self.network, self.optimizer, self.loss = Path(output_dir), unwrap(network), optimizer, loss
        self.schedule, self.validation = schedule, validation
        self.settings = json.loads(json.dumps(dict(settings)))
        self.history: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Any) -> None:
        """Write everything, and end the run after its last epoch."""
        state = engine.state
        self.history.append({"epoch": state.epoch, "step": state.iteration, **state.metrics})
        over = self.schedule.is_over(engine)
        if rank() == 0:
            self._write(engine, over)
        if over:
            engine.terminate()

    def _record(self, state: Any) -> None:
        """Leave `run.json`: settings, length, best epochs, and hashes of the weights."""
        best = self.validation.best
        weights = [self.folder / name for name in ("model.pt", "model_last.pt")]
        fields = {
            "settings": self.settings,
            "epochs": state.epoch,
            "steps": state.iteration,
            "minutes": round(self.schedule.seconds / 60, 2),
            "processes": world_size(),
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            **self.schedule.costs,
            "best": {
                part or "all": {"epoch": best.epochs[part], "score": score} for part, score in best.scores.items()
            },
            "hashes": {path.name: sha256_file(path) for path in weights if path.is_file()},
        }
        write_record(self.folder / "run.json", "train", fields, ("torch", "monai", "numpy"))

    def _write(self, engine: Any, over: bool) -> None:
        best = self.validation.best
        if best.state:
            self._write_weights("model.pt", best.state)
        self._write_weights("model_last.pt", self.network.state_dict())
        write_text(self.folder / "training.csv", _csv(self.history))
        if over:
            self._record(engine.state)
        state = {
            "settings": self.settings,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "seconds": self.schedule.seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.loss.state_dict(),
            "scaler": engine.grad_scaler.state_dict() if engine.grad_scaler is not None else None,
            "best": best.state_dict(),
            "waited": self.validation.waited,
            "history": self.history,
            "rng": rng_state(),
        }
        # The checkpoint comes last: a kill before it repeats the epoch, which gives the same files again.
        write_checkpoint(self.folder / "checkpoint.pt", state)

    def _write_weights(self, name: str, state: dict[str, torch.Tensor]) -> None:
        write_settings(self.folder / name, self.settings)
        save_weights(self.folder / name, state)

    def resume(self, trainer: Any) -> None:
        """Put a trainer back to where the checkpoint was written.

        Raises:
            ModelError: there is no checkpoint, or it belongs to another network, data set or configuration.
        """
        path = self.folder / "checkpoint.pt"
        state = read_checkpoint(path)
        self._require_same_settings(state["settings"] | {"epoch_length": state["epoch_length"]}, path, trainer)
        load_into(self.network, state["network"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss.load_state_dict(state["loss"])
        if trainer.grad_scaler is not None and state["scaler"] is not None:
            trainer.grad_scaler.load_state_dict(state["scaler"])
        self.validation.best.load_state_dict(state["best"])
        self.validation.waited = state["waited"]
        self.history = list(state["history"])
        trainer.state.epoch = state["epoch"]
        # An epoch that the clock cut short counts as whole when the run is extended.
        trainer.state.iteration = state["epoch"] * state["epoch_length"]
        self.schedule.resume(trainer, state["seconds"])
        if self.schedule.is_over(trainer) or self.validation.exhausted:
            trainer.state.max_epochs = trainer.state.epoch
        restore_rng(state["rng"])
        _log.info("resumed after epoch %d, step %d", state["epoch"], state["iteration"])

    def _require_same_settings(self, found: Mapping[str, Any], path: Path, trainer: Any) -> None:
        own = self.settings | {"epoch_length": trainer.state.epoch_length}
        differing = [key for key in {**own, **found} if own.get(key) != found.get(key)]
        if differing:
            listed = ", ".join(f"{key} was {found.get(key)}, now {own.get(key)}" for key in differing)
            raise ModelError(
                f"checkpoint belongs to another run: {listed}",
                where=path,
                fix="Resume with the same settings, or choose another --output_dir",
            )


def start(trainer: Any, checkpoint: Checkpoint, resume: Any = False) -> None:
    """Prepare a run: go on from its checkpoint when asked to, and take away what a killed process left half written.

    Args:
        trainer: the engine.
        checkpoint: keeper of the run's folder.
        resume: true, false, or one of them as text.

    Raises:
        ModelError: the checkpoint is damaged or belongs to another run.
        UsageError: `resume` is neither true nor false.
    """
    wanted = boolean(resume, "resume")
    if rank() == 0:
        # A process that was killed while it wrote could not take its half-written file away.
        for leftover in checkpoint.folder.glob(".tmp-*.pt"):
            leftover.unlink(missing_ok=True)
    found = (checkpoint.folder / "checkpoint.pt").is_file()
    if wanted and found:
        checkpoint.resume(trainer)
    elif wanted:
        _log.warning("%s: no checkpoint to resume; the run starts from the beginning", checkpoint.folder)
    elif rank() == 0 and found:
        _log.warning(
            "%s: holds an earlier run, which the first epoch will overwrite; --resume true would go on with it",
            checkpoint.folder,
        )


def _csv(history: Sequence[Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    lines = [",".join(columns), *(",".join(str(row.get(key, "")) for key in columns) for row in history)]
    return "\n".join(lines) + "\n"
