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
from mtl_med.files import atomic_path, write_text
from mtl_med.processes import rank
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
    """Write a state dict atomically, on the CPU and contiguous, so that it loads anywhere."""
    plain = {key: value.detach().to("cpu").contiguous() for key, value in state.items()}
    with atomic_path(path) as temporary:
        torch.save(plain, temporary)


def write_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a run atomically."""
    with atomic_path(path) as temporary:
        torch.save({"schema": CHECKPOINT_SCHEMA, **state}, temporary)


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

    `output_dir` gets `checkpoint.pt`, `model.pt` (best), `model_last.pt` and `training.csv`, each whole or absent.

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
        if rank() == 0:
            self._write(engine)
        if self.schedule.is_over(engine):
            engine.terminate()

    def _write(self, engine: Any) -> None:
        best = self.validation.best
        if best.state:
            save_weights(self.folder / "model.pt", best.state)
        save_weights(self.folder / "model_last.pt", self.network.state_dict())
        write_text(self.folder / "training.csv", _csv(self.history))
        state = {
            "settings": self.settings,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds": self.schedule.seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.loss.state_dict(),
            "scaler": engine.scaler.state_dict() if engine.scaler is not None else None,
            "best": best.state_dict(),
            "waited": self.validation.waited,
            "history": self.history,
            "rng": rng_state(),
        }
        # The checkpoint comes last: a kill before it repeats the epoch, which gives the same files again.
        write_checkpoint(self.folder / "checkpoint.pt", state)

    def resume(self, trainer: Any) -> None:
        """Put a trainer back to where the checkpoint was written.

        Raises:
            ModelError: there is no checkpoint, or it belongs to another network, data set or configuration.
        """
        path = self.folder / "checkpoint.pt"
        state = read_checkpoint(path)
        self._require_same_settings(state["settings"], path)
        load_into(self.network, state["network"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss.load_state_dict(state["loss"])
        if trainer.scaler is not None and state["scaler"] is not None:
            trainer.scaler.load_state_dict(state["scaler"])
        self.validation.best.load_state_dict(state["best"])
        self.validation.waited = state["waited"]
        self.history = list(state["history"])
        self.schedule.seconds_before = state["seconds"]
        trainer.state.epoch, trainer.state.iteration = state["epoch"], state["iteration"]
        restore_rng(state["rng"])
        _log.info("resumed after epoch %d, step %d", state["epoch"], state["iteration"])

    def _require_same_settings(self, found: Mapping[str, Any], path: Path) -> None:
        differing = [key for key in {**self.settings, **found} if self.settings.get(key) != found.get(key)]
        if differing:
            listed = ", ".join(f"{key} was {found.get(key)}, now {self.settings.get(key)}" for key in differing)
            raise ModelError(
                f"checkpoint belongs to another run: {listed}",
                where=path,
                fix="Resume with the same settings, or choose another --output_dir",
            )


def start(trainer: Any, checkpoint: Checkpoint, resume: Any = False) -> None:
    """Prepare a run: go on from its checkpoint when asked to, and never write over another finished part.

    Args:
        trainer: the engine.
        checkpoint: keeper of the run's folder.
        resume: true, false, or one of them as text.

    Raises:
        ModelError: there is nothing to resume, or it belongs to another run.
    """
    if boolean(resume, "resume"):
        checkpoint.resume(trainer)
    if rank() == 0:
        write_settings(checkpoint.folder / "model.pt", checkpoint.settings)


def _csv(history: Sequence[Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    lines = [",".join(columns), *(",".join(str(row.get(key, "")) for key in columns) for row in history)]
    return "\n".join(lines) + "\n"
