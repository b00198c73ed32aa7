from __future__ import annotations

import itertools
import math

import pytest
import torch

from mtl_med.errors import UsageError
from mtl_med.training.schedule import Progress, learning_rate


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 0.04), (0.05, 0.52), (0.1, 1.0), (0.55, 0.5005), (1, 1e-3), (-1, 0.04), (7, 1e-3), (math.inf, 1e-3)],
)
def test_learning_rate_at(progress: float, expected: float) -> None:
    assert learning_rate(progress, peak=1.0) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(progress, peak=2e-3) == pytest.approx(2e-3 * expected, rel=1e-12)


def test_learning_rate_rises_to_its_peak_and_falls() -> None:
    rates = [learning_rate(step / 1000, peak=3.0) for step in range(1001)]
    assert rates.index(max(rates)) == 100
    assert max(rates) == 3.0
    assert all(a < b for a, b in itertools.pairwise(rates[:101]))
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.05  # no jump


def test_learning_rate_agrees_with_torch() -> None:
    steps, warmup = 101, 0.3
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    judge = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=2e-3,
        total_steps=steps,
        pct_start=(warmup * (steps - 1) + 1) / steps,  # its rise ends at step pct_start * steps - 1
        div_factor=25,
        final_div_factor=40,  # last rate = first rate / 40 = peak / 1000
        cycle_momentum=False,
    )
    for step in range(steps):
        assert learning_rate(step / (steps - 1), peak=2e-3, warmup=warmup) == pytest.approx(judge.get_last_lr()[0])
        optimizer.step()
        if step < steps - 1:
            judge.step()


def test_learning_rate_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, peak=1.0, warmup=0) == 1
    assert learning_rate(0.5, peak=1.0, warmup=0, final_factor=0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "options",
    [{"peak": 0}, {"peak": math.nan}, {"warmup": 1}, {"warmup": -0.1}, {"start_factor": -1}, {"final_factor": -1}],
    ids=str,
)
def test_a_schedule_that_cannot_be_meant_is_refused(options: dict) -> None:
    with pytest.raises(UsageError, match="make no schedule"):
        learning_rate(0.5, **({"peak": 1.0} | options))


def test_a_progress_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="not a number"):
        learning_rate(math.nan, peak=1.0)


@pytest.mark.parametrize(
    ("limits", "iterations", "seconds", "expected"),
    [
        ({"epochs": 4}, 0, 0, 0),
        ({"epochs": 4}, 10, 1e9, 0.25),  # the clock does not count without minutes
        ({"epochs": 4}, 40, 0, 1),
        ({"epochs": 4}, 41, 0, 1),
        ({"minutes": 2}, 10**6, 30, 0.25),
        ({"minutes": 0.5}, 0, 15, 0.5),
        ({"minutes": 2}, 0, 500, 1),
        ({"epochs": 4, "minutes": 2}, 10, 90, 0.75),
        ({"epochs": 4, "minutes": 2}, 30, 30, 0.75),
    ],
    ids=str,
)
def test_progress_is_the_larger_part(limits: dict, iterations: int, seconds: float, expected: float) -> None:
    assert Progress(**limits).fraction(iterations, 10, seconds) == expected


def test_progress_by_epochs_never_depends_on_the_clock() -> None:
    progress = Progress(epochs=3, minutes=None)
    assert [progress.fraction(i, 7, math.nan) for i in range(22)] == [i / 21 for i in range(22)]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "neither epochs nor minutes"),
        ({"epochs": 0}, "epochs is 0"),
        ({"minutes": -1}, "minutes is -1"),
        ({"minutes": math.nan}, "minutes is nan"),
    ],
    ids=str,
)
def test_limits_that_cannot_be_meant_are_refused(limits: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Progress(**limits)


def test_an_epoch_without_iterations_is_refused() -> None:
    with pytest.raises(UsageError, match="0 iterations"):
        Progress(epochs=1).fraction(0, 0, 0.0)


def test_a_constant_rate_is_the_peak_at_every_point() -> None:
    assert {learning_rate(progress / 10, peak=1e-4, shape="constant") for progress in range(11)} == {1e-4}


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown learning_rate_shape 'cosine'\. "):
        learning_rate(0.0, peak=1.0, shape="cosine")
