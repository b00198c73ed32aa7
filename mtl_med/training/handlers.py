"""What happens around the steps: learning rate and time, losses and weights per task."""

from __future__ import annotations

import logging
import math
import time
from array import array
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events

from mtl_med.networks.memory import PeakMemory
from mtl_med.processes import all_reduce_sum, rank
from mtl_med.training.schedule import Progress, learning_rate

__all__ = ["Schedule", "TaskStatistics"]

_log = logging.getLogger(__name__)


class Schedule:
    """Set the learning rate by the run's progress and end the run when its epochs or minutes are used up.

    Minutes count from the first step, validation and checkpoints included, and go on counting after a resume.

    Args:
        optimizer: every parameter group gets the same rate.
        peak: highest learning rate.
        progress: epochs and minutes of the run.
        shape: `one_cycle` or `constant`, see `learning_rate`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, peak: float, progress: Progress, shape: str = "one_cycle"
    ) -> None:
        self.optimizer, self.peak, self.progress, self.shape = optimizer, float(peak), progress, shape
        learning_rate(0.0, peak=self.peak, shape=shape)  # refuses what cannot be meant before anything is read
        self.done = 0.0
        self.seconds_before, self._started = 0.0, time.monotonic()
        self._step_started, self._steps_s = 0.0, array("f")
        self._memory: PeakMemory | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.choose_order)
        engine.add_event_handler(Events.ITERATION_STARTED, self.set_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.advance)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier parts of a resumed run included."""
        return self.seconds_before + time.monotonic() - self._started

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._memory = PeakMemory(getattr(engine.state, "device", torch.device("cpu")))
        self.done = self._fraction(engine)

    @property
    def costs(self) -> dict[str, float | None]:
        """Median seconds of a step, loading apart, and the peak of memory beyond what was in use at the start, MiB."""
        memory = self._memory.mib() if self._memory is not None else None
        return {
            "seconds_per_step": round(median(self._steps_s), 4) if self._steps_s else None,
            "peak_memory_mib": None if memory is None else round(memory, 1),
        }

    def resume(self, engine: Engine, seconds: float) -> None:
        """Go on with the clock of a run that has trained for some seconds."""
        self.seconds_before = float(seconds)
        self.start(engine)

    def choose_order(self, engine: Engine) -> None:
        """Tell the sampler which epoch it is."""
        engine.state.dataloader.sampler.set_epoch(engine.state.epoch)

    def set_rate(self, engine: Engine) -> None:
        """Set the learning rate of the coming step."""
        self._step_started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.done, peak=self.peak, shape=self.shape)

    def advance(self, engine: Engine) -> None:
        """Count a step, and end the epoch early when the minutes are used up."""
        device = getattr(engine.state, "device", torch.device("cpu"))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # else the clock would stop before the backward pass does
        self._steps_s.append(time.monotonic() - self._step_started)
        self.done = self._fraction(engine)
        if self.progress.minutes and self.done >= 1.0:
            engine.terminate_epoch()

    def is_over(self, engine: Engine) -> bool:
        """Whether this is the last epoch."""
        return self.done >= 1.0 or engine.state.epoch >= engine.state.max_epochs

    def _fraction(self, engine: Engine) -> float:
        seconds = self.seconds
        if self.progress.minutes:
            # The ranks' clocks differ by a little; rank 0's rules, so that all stop at the same step.
            seconds = float(all_reduce_sum(torch.tensor(seconds if rank() == 0 else 0.0, dtype=torch.float64)))
        return min(1.0, self.progress.fraction(engine.state.iteration, engine.state.epoch_length, seconds))


class TaskStatistics:
    """Mean loss per task and epoch, task weights and learning rate: into `engine.state.metrics` and the log.

    Args:
        weighting: takes note of each step's losses and makes its next weights at each epoch's end.
        schedule: for the clock and the learning rate.
        every: steps between two lines in the log.
    """

    def __init__(self, weighting: Any, schedule: Schedule, every: int = 25) -> None:
        self.weighting, self.schedule, self.every = weighting, schedule, int(every)
        self._sums: dict[str, torch.Tensor] = {}
        self._epoch_started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def reset(self, engine: Engine) -> None:
        """Start an epoch."""
        engine.state.metrics = {}
        self._sums, self._epoch_started = {}, time.monotonic()

    def count(self, engine: Engine) -> None:
        """Add a step's losses."""
        self.weighting.record(engine.state.output["tasks"])
        means = {}
        for name, term in engine.state.output["tasks"].items():
            pair = torch.stack([term.total.detach().double().cpu(), term.count.detach().double().cpu()])
            self._sums[name] = self._sums.get(name, torch.zeros(2, dtype=torch.float64)) + pair
            means[name] = float(pair[0] / pair[1].clamp(min=1))
        if engine.state.iteration % self.every == 0 and rank() == 0:
            self._log_step(engine, means)

    def _log_step(self, engine: Engine, means: dict[str, float]) -> None:
        state = engine.state
        step = state.iteration - (state.epoch - 1) * state.epoch_length
        losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        pace = (time.monotonic() - self._epoch_started) / max(1, step)
        minutes, percent = self.schedule.seconds / 60, 100 * self.schedule.done
        where = f"epoch {state.epoch} step {step}/{state.epoch_length}"
        _log.info("%s  loss: %s  %.2f s/step  %.1f min, %.0f %% done", where, losses, pace, minutes, percent)

    def finish(self, engine: Engine) -> None:
        """Means over all ranks into the metrics; the weighting makes its next weights."""
        metrics = engine.state.metrics
        for name, pair in self._sums.items():
            total, count = all_reduce_sum(pair).tolist()
            metrics[f"loss/{name}"] = total / count if count else math.nan
        metrics.update({f"weight/{name}": float(value) for name, value in self.weighting.weights().items()})
        metrics["learning_rate"] = self.schedule.optimizer.param_groups[0]["lr"]
        self.weighting.end_epoch()
