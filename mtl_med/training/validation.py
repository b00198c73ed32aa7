"""Scoring during training: the best model so far, and when to stop early."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from mtl_med.processes import share_buffers
from mtl_med.training.handlers import Schedule
from mtl_med.training.runtime import unwrap

__all__ = ["BestModel", "Validation"]

_log = logging.getLogger(__name__)


class BestModel:
    """The best weights so far: by the mean score, or for disjoint networks (STL) by each task's own.

    Args:
        network: the network; one with `task_prefixes()` keeps the best epoch of each task.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = unwrap(network)
        prefixes = getattr(self.network, "task_prefixes", None)
        self.prefixes: dict[str, str] = prefixes() if prefixes else {"": ""}
        self.scores: dict[str, float] = {}
        self.epochs: dict[str, int] = {}
        self.state: dict[str, torch.Tensor] = {}

    def update(self, metrics: dict[str, float], epoch: int) -> bool:
        """Keep what is better now; ties go to the earlier epoch. Returns whether anything was."""
        improved = False
        current = self.network.state_dict()
        for part, prefix in self.prefixes.items():
            score = metrics[f"score/{part}"] if part else metrics["score"]
            if part not in self.scores or score > self.scores[part]:
                self.scores[part], self.epochs[part] = score, epoch
                self.state |= {
                    key: value.detach().cpu().clone() for key, value in current.items() if key.startswith(prefix)
                }
                improved = True
        return improved

    def state_dict(self) -> dict[str, Any]:
        """Scores, epochs and weights."""
        return {"scores": self.scores, "epochs": self.epochs, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict`."""
        self.scores, self.epochs, self.state = dict(state["scores"]), dict(state["epochs"]), dict(state["state"])


class Validation:
    """Score the tune cases, keep the best model, stop early.

    Args:
        evaluator: scores the network.
        best: keeps the best weights.
        schedule: tells the last epoch, which is always scored.
        interval: epochs between two validations.
        patience: validations without improvement before the run ends; 0 never ends it.
    """

    def __init__(
        self, evaluator: SupervisedEvaluator, best: BestModel, schedule: Schedule, interval: int = 1, patience: int = 0
    ) -> None:
        self.evaluator, self.best, self.schedule = evaluator, best, schedule
        self.interval, self.patience = int(interval), int(patience)
        self.waited = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    @property
    def exhausted(self) -> bool:
        """Whether the score has not improved for as long as `patience` allows."""
        return 0 < self.patience <= self.waited

    def validate(self, engine: Engine) -> None:
        """Run the evaluator when it is due."""
        if engine.state.epoch % self.interval and not self.schedule.is_over(engine):
            return
        share_buffers(self.best.network)  # else the processes would score networks that differ
        self.evaluator.run()
        scores = {
            name: float(value) for name, value in self.evaluator.state.metrics.items() if name.startswith("score")
        }
        engine.state.metrics |= scores
        improved = self.best.update(scores, engine.state.epoch)
        self.waited = 0 if improved else self.waited + 1
        listed = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        _log.info("epoch %d  tune: %s%s", engine.state.epoch, listed, "  (best so far)" if improved else "")
        if self.exhausted:
            _log.info("no better score in %d validations: the run ends early", self.waited)
            engine.state.max_epochs = engine.state.epoch
