"""The best model, and when a run ends: by epochs, by minutes, or because nothing gets better."""

from __future__ import annotations

import logging
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import DataLoader

from mtl_med.loading import EpochSampler
from mtl_med.training import handlers
from mtl_med.training.handlers import Schedule, TaskStatistics
from mtl_med.training.schedule import Progress, learning_rate
from mtl_med.training.terms import LossTerm
from mtl_med.training.validation import BestModel, Validation


class Net(nn.Module):
    """One number per task."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("oar", "dose")})

    def set(self, value: float) -> None:
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)


class Disjoint(Net):
    def task_prefixes(self) -> dict[str, str]:
        return {name: f"nets.{name}." for name in self.nets}


def history(network: Net, rows: list[tuple[float, float]]) -> BestModel:
    """Epoch e = 1, 2, ... has weights e and the scores of row e."""
    best = BestModel(network)
    for epoch, (oar, dose) in enumerate(rows, start=1):
        network.set(epoch)
        best.update({"score": (oar + dose) / 2, "score/oar": oar, "score/dose": dose}, epoch)
    return best


def kept(best: BestModel) -> dict[str, float]:
    return {key.split(".")[1]: float(value) for key, value in best.state.items()}


class TestBestModel:
    ROWS = ((0.2, 0.9), (0.6, 0.4), (0.8, 0.3), (0.7, 0.4))  # means 0.55, 0.5, 0.55, 0.55

    def test_a_shared_network_is_kept_whole_and_ties_go_to_the_earlier_epoch(self) -> None:
        best = history(Net(), list(self.ROWS))
        assert best.epochs == {"": 1}
        assert kept(best) == {"oar": 1.0, "dose": 1.0}

    def test_disjoint_networks_keep_the_best_epoch_of_each_task(self) -> None:
        best = history(Disjoint(), list(self.ROWS))
        assert best.epochs == {"oar": 3, "dose": 1}
        assert best.scores == {"oar": 0.8, "dose": 0.9}
        assert kept(best) == {"oar": 3.0, "dose": 1.0}

    @pytest.mark.parametrize("kind", [Net, Disjoint])
    def test_ties_of_a_task_too(self, kind: type[Net]) -> None:
        assert set(kept(history(kind(), [(0.5, 0.5)] * 3)).values()) == {1.0}

    def test_says_whether_anything_was_better(self) -> None:
        best = history(Disjoint(), [(0.5, 0.5)])
        assert not best.update({"score": 0.5, "score/oar": 0.5, "score/dose": 0.5}, 2)
        assert best.update({"score": 0.5, "score/oar": 0.4, "score/dose": 0.6}, 3)

    def test_survives_a_resume(self) -> None:
        best = history(Disjoint(), list(self.ROWS))
        again = BestModel(Disjoint())
        again.load_state_dict(best.state_dict())
        assert (again.scores, again.epochs, kept(again)) == (best.scores, best.epochs, kept(best))


def run(scores: list[float], *, epochs: int, interval: int = 1, patience: int = 0) -> tuple[Engine, Validation]:
    """A run of four steps per epoch whose validations find these scores one after the other."""
    found = iter(scores)
    evaluator: Any = SimpleNamespace(state=SimpleNamespace(metrics={}))
    evaluator.run = lambda: evaluator.state.metrics.update({"score": next(found)})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(optimizer, 1.0, Progress(epochs))
    validation = Validation(evaluator, BestModel(Net()), schedule, interval, patience)
    engine = Engine(lambda *_: None)
    loader: DataLoader = DataLoader(defaultdict(int), sampler=EpochSampler(4))
    schedule.attach(engine)
    validation.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.terminate() if schedule.is_over(e) else None)
    engine.run(loader, max_epochs=epochs)
    return engine, validation


class TestValidation:
    def test_every_interval_and_after_the_last_epoch(self) -> None:
        engine, validation = run([0.1, 0.2, 0.3], epochs=5, interval=2)
        assert validation.best.epochs == {"": 5}
        assert engine.state.epoch == 5

    def test_ends_early_after_patience_validations_without_improvement(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            engine, validation = run([0.1, 0.3, 0.2, 0.3, 0.9], epochs=9, patience=2)
        assert engine.state.epoch == 4
        assert validation.exhausted
        assert validation.best.epochs == {"": 2}
        assert "no better score in 2 validations: the run ends early" in caplog.text

    def test_an_improvement_starts_the_patience_anew(self) -> None:
        engine, validation = run([0.3, 0.2, 0.4, 0.3, 0.5], epochs=5, patience=2)
        assert engine.state.epoch == 5
        assert not validation.exhausted

    def test_patience_zero_never_ends_a_run(self) -> None:
        assert run([0.5] * 8, epochs=8)[0].state.epoch == 8


class TestSchedule:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(handlers.time, "monotonic", lambda: now[0])
        return now

    def schedule(self, epochs: int | None = 2, minutes: float | None = None) -> Schedule:
        optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=1.0)
        return Schedule(optimizer, 0.5, Progress(epochs, minutes))

    def test_the_rate_follows_the_steps_for_every_group(self) -> None:
        schedule = self.schedule()
        seen = []
        state = SimpleNamespace(iteration=0, epoch=1, epoch_length=4, max_epochs=2)
        engine: Any = SimpleNamespace(state=state)
        schedule.start(engine)
        for step in range(8):
            schedule.set_rate(engine)
            seen.append([group["lr"] for group in schedule.optimizer.param_groups])
            state.iteration = step + 1
            schedule.advance(engine)
        assert seen == [[learning_rate(step / 8, peak=0.5)] * 2 for step in range(8)]
        assert schedule.is_over(engine)

    def test_minutes_end_the_epoch_in_which_they_run_out(self, clock: list[float]) -> None:
        schedule = self.schedule(epochs=100, minutes=1)
        ended = []
        state = SimpleNamespace(iteration=0, epoch=1, epoch_length=4, max_epochs=100)
        engine: Any = SimpleNamespace(state=state, terminate_epoch=lambda: ended.append(state.iteration))
        schedule.start(engine)
        for step in range(1, 4):
            clock[0] += 25
            state.iteration = step
            schedule.advance(engine)
            assert schedule.is_over(engine) == (step == 3)
        assert ended == [3]

    def test_minutes_go_on_after_a_resume_and_leave_the_pause_out(self, clock: list[float]) -> None:
        first = self.schedule(epochs=100, minutes=2)
        engine: Any = SimpleNamespace(state=SimpleNamespace(iteration=4, epoch=1, epoch_length=4, max_epochs=100))
        first.start(engine)
        clock[0] += 90
        assert first.seconds == 90
        clock[0] += 10_000  # the process is gone
        second = self.schedule(epochs=100, minutes=2)
        clock[0] += 5  # imports and data
        second.resume(engine, first.seconds_before + 90)
        assert second.seconds == 90
        assert second.done == pytest.approx(0.75)
        assert not second.is_over(engine)


class TestTaskStatistics:
    def test_means_over_the_epoch_weights_and_rate(self) -> None:
        calls: list[Any] = []
        weighting: Any = SimpleNamespace(
            record=lambda tasks: calls.append(sorted(tasks)),
            weights=lambda: {"oar": 0.5, "dose": 1.5},
            end_epoch=lambda: calls.append("end"),
        )
        schedule: Any = SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{"lr": 0.25}]), seconds=0.0, done=0.0)
        statistics = TaskStatistics(weighting, schedule)
        terms = iter([((1.0, 1), (0.0, 0)), ((5.0, 2), (0.0, 0))])
        engine = Engine(
            lambda *_: {
                "tasks": {
                    name: LossTerm(torch.tensor(total), torch.tensor(float(count)))
                    for name, (total, count) in zip(("oar", "dose"), next(terms), strict=True)
                }
            }
        )
        statistics.attach(engine)
        metrics = engine.run([0, 1]).metrics
        # Six over three labelled samples; the dose has no label in this epoch.
        assert metrics["loss/oar"] == 2.0
        assert metrics["loss/dose"] != metrics["loss/dose"]
        assert (metrics["weight/oar"], metrics["weight/dose"], metrics["learning_rate"]) == (0.5, 1.5, 0.25)
        assert calls == [["dose", "oar"], ["dose", "oar"], "end"]
