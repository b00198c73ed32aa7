"""Class weights and sampling do what their names say, exactly, on every rank and after a resume."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from mtl_med.errors import UsageError
from mtl_med.loading import EpochSampler, class_counts, class_weights, sampling_weights, study_items
from mtl_med.tasks import as_tasks

TASKS = as_tasks(
    {
        "lesion": {"kind": "segmentation", "class_names": ["Lesion"]},
        "diagnosis": {"kind": "classification", "class_names": ["nv", "mel", "df"]},
    }
)


@pytest.fixture(scope="module")
def items(picture_study: Path) -> list[dict]:
    return study_items(picture_study, "fit", TASKS, "rgb")


def test_counts_are_in_the_networks_order(items: list[dict]) -> None:
    assert class_counts(items, TASKS, "diagnosis") == {"nv": 5, "mel": 2, "df": 1}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", None),
        ("balanced", [8 / 15, 8 / 6, 8 / 3]),  # N / (K n_c)
        ("square_root", [8 / (5**0.5 + 2**0.5 + 1) / n**0.5 for n in (5, 2, 1)]),
    ],
)
def test_class_weights_by_hand(items: list[dict], how: str, expected: list[float] | None) -> None:
    weights = class_weights(items, TASKS, "diagnosis", how)
    assert weights == (None if expected is None else pytest.approx(expected))
    if weights:
        assert sum(n * weight for n, weight in zip((5, 2, 1), weights, strict=True)) == pytest.approx(8), "mean 1"


def test_a_class_without_a_case_is_named_and_weighs_one(items: list[dict], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        weights = class_weights(items[:7], TASKS, "diagnosis", "balanced")
    assert weights == pytest.approx([7 / 10, 7 / 4, 1.0])
    assert "no training case of class df" in caplog.text
    assert "task diagnosis, class_weights balanced: nv 5, mel 2, df 0" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda items: class_weights(items, TASKS, "diagnosis", "balance"),
            "unknown class_weights 'balance'.*balanced",
        ),
        (
            lambda items: sampling_weights(items, TASKS, "diagnosis", "none"),
            "unknown sampling 'none'. Known: balanced, n",
        ),
        (lambda items: class_counts(items, TASKS, "diagnose"), "no image-level task 'diagnose' .* mean diagnosis"),
        (lambda items: class_counts(items, TASKS[:1], "lesion"), "'lesion' to balance. No task here is image-level"),
        (lambda items: class_weights(items[8:], TASKS, "diagnosis", "balanced"), "no training case has a label"),
        (lambda items: EpochSampler(2, weights=[1.0]), "the sampling weights are no 2 numbers of 0 and more"),
        (lambda items: EpochSampler(2, weights=[1.0, -1.0]), "no 2 numbers"),
        (lambda items: EpochSampler(2, weights=[0.0, 0.0]), "no 2 numbers"),
    ],
    ids=range(8),
)
def test_what_cannot_be_meant_is_refused(items: list[dict], call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(items)


def test_sampling_weights(items: list[dict]) -> None:
    assert sampling_weights(items, TASKS, "diagnosis", "natural") is None
    found = sampling_weights(items, TASKS, "diagnosis", "balanced")
    assert found == pytest.approx([8 / 15] * 5 + [8 / 6] * 2 + [8 / 3, 1.0]), "the unlabelled case keeps its share"


def drawn(weights: list[float] | None, epochs: int = 1, **options: int) -> list[list]:
    sampler = EpochSampler(90, seed=5, weights=weights, **options)
    passes = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        passes.append(list(sampler))
        assert len(passes[-1]) == len(sampler)
    return passes


CLASSES = [0] * 60 + [1] * 24 + [2] * 6
BALANCED = [1 / 60] * 60 + [1 / 24] * 24 + [1 / 6] * 6


def test_balanced_sampling_draws_every_class_equally_often_and_evenly() -> None:
    passes = drawn(BALANCED, 40)
    classes = Counter(CLASSES[key.index] for keys in passes for key in keys)
    assert all(abs(classes[number] - 1200) < 60 for number in range(3)), classes
    for keys in passes:
        times = Counter(key.index for key in keys)
        assert all(times[index] == 5 for index in range(84, 90)), "30 draws over 6 cases"
        assert all(times[index] in (1, 2) for index in range(60, 84)), "30 draws over 24 cases"
        assert all(times[index] in (0, 1) for index in range(60)), "30 draws over 60 cases"
    assert {key.index for keys in passes for key in keys} == set(range(90))


def test_repeated_draws_have_random_numbers_of_their_own() -> None:
    passes = drawn(BALANCED, 3, batch_size=8, repeats=2)
    keys = [key for each in passes for key in each]
    assert len(set(keys)) == len(keys)


def test_epochs_differ_and_come_again() -> None:
    first, second = drawn(BALANCED, 2)
    assert [key.index for key in first] != [key.index for key in second]
    assert drawn(BALANCED, 2) == [first, second], "a resumed run draws the same"


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_one_weighted_order(size: int) -> None:
    ranks = [drawn(BALANCED, rank=rank, world_size=size, batch_size=4)[0] for rank in range(size)]
    alone = drawn(BALANCED, batch_size=4 * size)[0]
    for step in range(len(alone) // (4 * size)):
        joint = [key for keys in ranks for key in keys[step * 4 : (step + 1) * 4]]
        assert sorted(joint) == sorted(alone[step * 4 * size : (step + 1) * 4 * size])


def test_equal_weights_draw_every_case_once() -> None:
    assert sorted(key.index for key in drawn([0.3] * 90)[0]) == list(range(90))


def test_a_weight_of_zero_is_never_drawn() -> None:
    assert {key.index for key in drawn([0.0] * 80 + [1.0] * 10)[0]} == set(range(80, 90))
