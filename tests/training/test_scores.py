"""The scores that choose the best model: exact numbers on tiny cases, and what is left out of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from mtl_med.tasks import Task
from mtl_med.training.scores import MeanScore, TaskScore, overall_score

OAR = Task("oar", "segmentation", 2, ("a", "b"))
DOSE = Task("dose", "regression", unit="Gy")
STAGE = Task("stage", "classification", 3)


def volume(*channels: list[float]) -> Tensor:
    """(1, C, 4, 1, 1) from four voxels per channel."""
    return torch.tensor(channels).float().reshape(1, len(channels), 4, 1, 1)


def score(task: Task, *cases: tuple[Tensor, dict[str, Tensor]]) -> float:
    metric = TaskScore(task)
    for prediction, batch in cases:
        metric.update(({task.name: prediction}, batch))
    return metric.compute()


def oar_case(logits: Tensor, truth: Tensor, labelled: list[bool]) -> tuple[Tensor, dict[str, Tensor]]:
    return logits, {"oar": truth.to(torch.uint8), "labelled_oar": torch.tensor([labelled])}


class TestDice:
    TRUTH = volume([1, 1, 0, 0], [0, 0, 0, 1])

    def test_mean_over_cases_then_structures(self) -> None:
        # Structure a: Dice 2*1/(2+3) = 0.4 and 1; structure b: 2*1/(1+1) = 1 and 0.
        first = oar_case(volume([1, -1, 1, 1], [-1, -1, -1, 2]), self.TRUTH, [True, True])
        second = oar_case(volume([1, 1, -1, -1], [1, -1, -1, -1]), self.TRUTH, [True, True])
        assert score(OAR, first, second) == pytest.approx((0.7 + 0.5) / 2)

    def test_a_logit_of_zero_is_outside(self) -> None:
        assert score(OAR, oar_case(volume([0, 0, 0, 0], [0, 0, 0, 1]), self.TRUTH, [True, True])) == 0.5

    @pytest.mark.parametrize("prediction", [volume([1, 1, -1, -1], [1, 1, 1, 1]), volume([1, 1, -1, -1], [-1] * 4)])
    def test_a_structure_that_is_not_contoured_or_empty_does_not_count(self, prediction: Tensor) -> None:
        assert score(OAR, oar_case(prediction, self.TRUTH, [True, False])) == 1.0
        assert score(OAR, oar_case(prediction, volume([1, 1, 0, 0], [0, 0, 0, 0]), [True, True])) == 1.0

    def test_nothing_known_is_zero(self) -> None:
        assert score(OAR, oar_case(volume([1] * 4, [1] * 4), self.TRUTH, [False, False])) == 0.0
        assert score(OAR) == 0.0


def dose_case(prediction: list[float], truth: list[float], mask: list[int] | None, labelled: bool = True) -> tuple:
    batch: dict[str, Any] = {"dose": volume(truth), "labelled_dose": torch.tensor([[labelled]])}
    if mask is not None:
        batch["mask_dose"] = volume(mask).to(torch.uint8)
    return volume(prediction), batch


class TestSkill:
    def test_error_inside_the_mask_over_that_of_zero_dose(self) -> None:
        # |60 - 50| + |20 - 30| = 20 of 50 + 30 = 80; the voxels outside do not count.
        assert score(DOSE, dose_case([60, 20, 99, 99], [50, 30, 0, 0], [1, 1, 0, 0])) == pytest.approx(1 - 20 / 80)

    def test_mean_over_the_mask_per_case_then_over_cases(self) -> None:
        # Case 1: 10 Gy of 40 Gy; case 2: 2 Gy of 4 Gy. (10 + 2) / (40 + 4), whatever the sizes of their masks.
        one = dose_case([50, 0, 0, 0], [40, 0, 0, 0], [1, 0, 0, 0])
        two = dose_case([2, 2, 2, 2], [4, 4, 4, 4], [1, 1, 1, 1])
        assert score(DOSE, one, two) == pytest.approx(1 - 12 / 44)

    def test_negative_dose_counts_as_the_zero_that_is_written(self) -> None:
        assert score(DOSE, dose_case([-50, 40, 0, 0], [0, 40, 0, 0], [1, 1, 0, 0])) == 1.0

    @pytest.mark.parametrize(
        ("prediction", "expected"), [([0, 0, 0, 0], 0.0), ([900, 900, 0, 0], 0.0), ([float("nan")] * 4, 0.0)]
    )
    def test_not_better_than_zero_dose_is_zero(self, prediction: list[float], expected: float) -> None:
        assert score(DOSE, dose_case(prediction, [40, 40, 0, 0], [1, 1, 0, 0])) == expected

    def test_without_a_mask_all_voxels_count(self) -> None:
        assert score(DOSE, dose_case([30, 10, 0, 0], [40, 0, 0, 0], None)) == pytest.approx(1 - 20 / 40)

    def test_unlabelled_cases_do_not_count(self) -> None:
        known = dose_case([30, 0, 0, 0], [40, 0, 0, 0], [1, 1, 1, 1])
        unknown = dose_case([70, 70, 70, 70], [0, 0, 0, 0], [1, 1, 1, 1], labelled=False)
        assert score(DOSE, known, unknown) == score(DOSE, known) == 0.75
        assert score(DOSE, unknown) == 0.0


def classes(task: Task, truth: list[int], logits: Tensor, labelled: list[bool] | None = None) -> tuple:
    known = torch.tensor(labelled or [True] * len(truth))[:, None]
    return logits, {task.name: torch.tensor(truth), f"labelled_{task.name}": known}


class TestClasses:
    SEVERE = Task("severe", "classification", 2, ("no", "yes"))

    def test_of_more_than_two_the_mean_recall(self) -> None:
        # Class 0: 3 of 4 right; class 1: 0 of 1; class 2 does not occur; the last image has no label.
        logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 2, 2, 1]), 3).float()
        batch = classes(STAGE, [0, 0, 0, 0, 1, 1], logits, [True] * 5 + [False])
        assert score(STAGE, batch) == pytest.approx((0.75 + 0.0) / 2)

    def test_of_two_the_area_under_the_roc_curve(self) -> None:
        # Scores (difference of the logits) of positives 2 and 0, of negatives 1, 0 and -5: 2 + 0 + 1/2 + 1 + 1 of 6.
        logits = torch.tensor([[0.0, 2.0], [3.0, 3.0], [7.0, 8.0], [1.0, 1.0], [0.0, -5.0], [0.0, 99.0]])
        batch = classes(self.SEVERE, [1, 1, 0, 0, 0, 0], logits, [True] * 5 + [False])
        assert score(self.SEVERE, batch) == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 1) / 6)

    def test_it_does_not_matter_how_images_are_batched(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits, truth = torch.randn(11, 2, generator=generator), (torch.arange(11) % 2).tolist()
        whole = score(self.SEVERE, classes(self.SEVERE, truth, logits))
        parts = [classes(self.SEVERE, truth[a:b], logits[a:b]) for a, b in ((0, 4), (4, 5), (5, 11))]
        assert score(self.SEVERE, *parts) == whole
        assert 0 < whole < 1

    @pytest.mark.parametrize(("task", "width"), [(SEVERE, 2), (STAGE, 3)], ids=["two", "three"])
    def test_one_class_alone_scores_nothing_and_says_so_once(self, task: Task, width: int, caplog) -> None:
        alone = Task(f"{task.name}_alone", "classification", width)
        batch = classes(alone, [1, 1], torch.eye(width)[[1, 1]])
        assert [score(alone, batch) for _ in range(2)] == [0.0, 0.0]
        assert caplog.text.count(f"task {alone.name}: only one class is labelled") == 1

    def test_nothing_known_is_zero(self, caplog) -> None:
        assert score(STAGE, classes(STAGE, [0, 1], torch.eye(3)[:2], [False, False])) == 0.0
        assert score(STAGE) == score(self.SEVERE) == 0.0
        assert score(STAGE, classes(STAGE, [0, 1], torch.full((2, 3), float("nan")))) == 0.0
        assert not caplog.records

    def test_labels_that_are_absent_are_not_read(self) -> None:
        logits = torch.eye(3)
        batch = (
            logits,
            {"stage": torch.tensor([0.0, 1.0, float("nan")]), "labelled_stage": torch.tensor([1, 1, 0]) > 0},
        )
        assert score(STAGE, batch) == 1.0


def test_classes_of_all_ranks_count_together(monkeypatch) -> None:
    """Three ranks with five, no and two images of their own score as one process with seven."""
    severe = Task("severe", "classification", 2, ("no", "yes"))
    logits = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    truth = [0, 1, 1, 0, 1, 0, 1]
    shares = [slice(0, 5), slice(5, 5), slice(5, 7)]
    barrier, given, own = threading.Barrier(3), {}, threading.local()

    def all_reduce_sum(values: Tensor) -> Tensor:
        given[own.rank] = values
        barrier.wait()
        total = sum(given.values())
        barrier.wait()
        return total

    monkeypatch.setattr("mtl_med.training.scores.all_reduce_sum", all_reduce_sum)
    monkeypatch.setattr("mtl_med.training.scores.rank", lambda: own.rank)
    monkeypatch.setattr("mtl_med.training.scores.world_size", lambda: 3)

    def on_rank(rank: int) -> tuple[float, Tensor]:
        own.rank = rank
        metric = TaskScore(severe)
        if logits[shares[rank]].numel():
            predictions, batch = classes(severe, truth[shares[rank]], logits[shares[rank]])
            metric.update(({"severe": predictions}, batch))
        return metric.compute(), metric.tally()

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(on_rank, range(3)))
    monkeypatch.undo()
    assert [value for value, _ in found] == [score(severe, classes(severe, truth, logits))] * 3
    torch.testing.assert_close(found[1][1][:, 0], torch.tensor(truth).double())


def test_pictures_of_a_batch_count_one_by_one() -> None:
    """(B, 1, H, W) masks of several pictures, one of them without a mask, beside their diagnoses."""
    lesion = Task("lesion", "segmentation", 1, ("Lesion",))
    truth = torch.zeros(3, 1, 4, 4)
    truth[:, :, :2] = 1
    logits = torch.where(truth > 0, 1.0, -1.0)
    logits[1, 0, :, 2:] *= -1  # half of the second lesion found, as much beside it
    batch = {"lesion": truth, "labelled_lesion": torch.tensor([[True], [True], [False]])}
    assert score(lesion, (logits, batch)) == pytest.approx((1 + 0.5) / 2)


def test_overall_is_the_mean_over_the_tasks() -> None:
    assert overall_score({"oar": 0.5, "dose": 0.8, "stage": 0.2}) == pytest.approx(0.5)


def test_an_engine_counts_every_batch_once_and_forgets_between_runs() -> None:
    cases = [oar_case(volume([1, 1, -1, -1], [-1, -1, -1, sign]), TestDice.TRUTH, [True, True]) for sign in (1, -1)]
    engine = Engine(lambda _, case: {"predictions": {"oar": case[0]}, "batch": case[1]})
    part = TaskScore(OAR)
    MeanScore({"oar": part}).attach(engine, "score")
    part.attach(engine, "score/oar")
    for _ in range(2):
        assert engine.run(cases).metrics == {"score": 0.75, "score/oar": 0.75}
    assert engine.run(cases[:1]).metrics["score"] == 1.0
