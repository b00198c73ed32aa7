from __future__ import annotations

import itertools
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor

from mtl_med.errors import UsageError
from mtl_med.tasks import KINDS, Task
from mtl_med.training import combo
from mtl_med.training.losses import (
    LOSSES,
    ClassificationLoss,
    ComboLoss,
    LossTerm,
    MaskedMAELoss,
    MultiTaskLoss,
    create_loss,
)
from mtl_med.training.weighting import DWA, Equal

LN2, LN3 = math.log(2), math.log(3)
TASKS = (
    Task("oar", "segmentation", 2),
    Task("dose", "regression", 1, unit="Gy"),
    Task("diagnosis", "classification", 3),
)


def yes(cases: int, channels: int) -> Tensor:
    return torch.ones(cases, channels, dtype=torch.bool)


def organs(shape: tuple[int, ...] = (2, 3, 4, 5, 6), dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits and a truth of overlapping structures."""
    return 2 * torch.randn(shape, dtype=dtype), (torch.rand(shape) < 0.3).to(torch.uint8)


def by_definition(loss: ComboLoss, x: Tensor, y: Tensor) -> Tensor:
    """The combo loss `(B, C)` by ordinary operations."""
    p, y = torch.sigmoid(x), y.to(x.dtype)
    space = tuple(range(2, x.ndim))
    dice = 1 - (2 * (p * y).sum(space) + loss.smooth) / (p.sum(space) + y.sum(space) + loss.smooth)
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    if loss.ce == "mean":
        return loss.dice_weight * dice + loss.ce_weight * ce.mean(space)
    halves = (ce * y).sum(space) / y.sum(space) + (ce * (1 - y)).sum(space) / (1 - y).sum(space)
    return loss.dice_weight * dice + loss.ce_weight * halves / 2


# ---------------------------------------------------------------------------------------------------- combo, numbers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dice_weight": 1, "ce_weight": 0}, 1 - 2.5 / 3.75),  # p = 1/2, 1/2, 3/4; y = 0, 0, 1; smooth 1
        ({"dice_weight": 1, "ce_weight": 0, "smooth": 0.25}, 1 - 1.75 / 3.0),
        ({"dice_weight": 0, "ce_weight": 1}, (2 * LN2 + math.log(4 / 3)) / 3),
        ({"dice_weight": 0, "ce_weight": 1, "ce": "balanced"}, (LN2 + math.log(4 / 3)) / 2),
        ({}, 0.3 * (1 - 2.5 / 3.75) + 0.7 * (2 * LN2 + math.log(4 / 3)) / 3),
    ],
    ids=["dice", "dice-smooth", "ce-mean", "ce-balanced", "published"],
)
def test_combo_on_three_voxels(options: dict, expected: float) -> None:
    x, y = torch.tensor([[[0.0, 0.0, LN3]]], dtype=torch.float64), torch.tensor([[[0, 0, 1]]])
    total, count = ComboLoss(**options)(x, y, yes(1, 1))
    assert total.item() == pytest.approx(expected, rel=1e-14)
    assert count.item() == 1


@pytest.mark.parametrize("ce", ["mean", "balanced"])
@pytest.mark.parametrize(
    ("truth", "logit", "expected"),
    [
        (0, -50.0, 0.0),
        (1, 50.0, 0.0),
        (0, 50.0, 0.7 * 50 + 0.3 * (1 - 1 / 9)),
        (1, -50.0, 0.7 * 50 + 0.3 * (1 - 1 / 9)),
    ],
    ids=["empty-right", "full-right", "empty-wrong", "full-wrong"],
)
def test_combo_is_defined_for_empty_and_full_structures(ce: str, truth: int, logit: float, expected: float) -> None:
    x = torch.full((1, 1, 2, 2, 2), float(logit), dtype=torch.float64, requires_grad=True)
    total = ComboLoss(ce=ce)(x, torch.full((1, 1, 2, 2, 2), truth), yes(1, 1)).total
    total.backward()
    assert total.item() == pytest.approx(expected, abs=1e-12)
    assert x.grad.isfinite().all()


def test_combo_agrees_with_monai() -> None:
    x, y = organs()
    dice = DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1)(x, y.double())
    total, count = ComboLoss(1, 0)(x, y, yes(2, 3))
    torch.testing.assert_close(total / count, dice)

    joint = DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1, batch=True)(x, y.double())
    total, count = ComboLoss(1, 0, batch_dice=True)(x, y, yes(2, 3))
    torch.testing.assert_close(total / count, joint)
    assert not torch.isclose(dice, joint)  # the two definitions are told apart here

    x, y = x[:, :1], y[:, :1]  # MONAI's cross-entropy is the sigmoid one for a single channel only
    both = DiceCELoss(sigmoid=True, lambda_dice=0.3, lambda_ce=0.7, smooth_nr=1, smooth_dr=1)(x, y.double())
    total, count = ComboLoss()(x, y, yes(2, 1))
    torch.testing.assert_close(total / count, both)


def test_balanced_cross_entropy_pulls_a_rare_structure_as_hard_as_its_background() -> None:
    x = torch.zeros(1, 1, 1000, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(1, 1, 1000)
    y[..., :2] = 1
    grads = {}
    for ce in ("mean", "balanced"):
        (grads[ce],) = torch.autograd.grad(ComboLoss(0, 1, ce=ce)(x, y, yes(1, 1)).total, x)
    inside = {ce: grad[..., :2].sum().item() for ce, grad in grads.items()}
    outside = {ce: grad[..., 2:].sum().item() for ce, grad in grads.items()}
    assert (inside["balanced"], outside["balanced"]) == pytest.approx((-0.25, 0.25))
    assert (inside["mean"], outside["mean"]) == pytest.approx((-0.001, 0.499))


# -------------------------------------------------------------------------------------------------- combo, gradients


@pytest.mark.parametrize("batch_dice", [False, True], ids=["per-case", "per-batch"])
@pytest.mark.parametrize("ce", ["mean", "balanced"])
@pytest.mark.parametrize("fractions", [False, True], ids=["binary", "fractions"])
def test_combo_gradcheck(monkeypatch, ce: str, batch_dice: bool, fractions: bool) -> None:
    monkeypatch.setattr(combo, "_PIECE", 21)  # three structures: pieces of 7 voxels, the last one shorter
    x, y = organs((2, 3, 4, 5))
    y = torch.rand(y.shape, dtype=torch.float64) if fractions else y
    labelled = torch.tensor([[True, False, True], [True, True, False]])
    loss = ComboLoss(ce=ce, batch_dice=batch_dice)
    assert torch.autograd.gradcheck(lambda z: loss(z, y, labelled).total, x.requires_grad_())


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last_3d),
    "transposed": lambda t: t.transpose(2, 4).contiguous().transpose(2, 4),
    "one-of-stacked": lambda t: torch.cat([t, t], dim=1)[:, t.shape[1] :],
}


@pytest.mark.parametrize("ce", ["mean", "balanced"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [10, 2**15], ids=["pieces", "whole"])
def test_combo_equals_its_definition_in_every_layout(monkeypatch, layout: str, piece: int, ce: str) -> None:
    monkeypatch.setattr(combo, "_PIECE", piece)
    x, y = organs()
    expected_x = x.clone().requires_grad_()
    expected = by_definition(ComboLoss(ce=ce), expected_x, y).sum()
    expected.backward()
    x = LAYOUTS[layout](x).requires_grad_()
    total = ComboLoss(ce=ce)(x, y, yes(2, 3)).total
    (grad,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(grad, expected_x.grad, rtol=1e-9, atol=1e-12)


def test_combo_scales_its_gradient_and_can_be_differentiated_again() -> None:
    x, y = organs()
    total = ComboLoss()(x.requires_grad_(), y, yes(2, 3)).total
    (once,) = torch.autograd.grad(total, x, retain_graph=True)
    (again,) = torch.autograd.grad(3 * total, x)
    torch.testing.assert_close(again, 3 * once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_combo_computes_half_precision_logits_in_fp32(dtype: torch.dtype) -> None:
    x, y = organs((1, 2, 40, 40, 40), torch.float32)
    half = x.to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = ComboLoss()(half, y, yes(1, 2)).total
    expected = ComboLoss()(full, y, yes(1, 2)).total
    total.backward()
    expected.backward()
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(half.grad, full.grad.to(dtype))
    twin = by_definition(ComboLoss(), half.detach(), y).sum()  # what computing in half precision would give
    assert twin.item() != pytest.approx(expected.item(), rel=1e-6)


def test_combo_ignores_the_order_of_structures_cases_and_voxels() -> None:
    x, y = organs((3, 4, 50))
    total = ComboLoss()(x, y, yes(3, 4)).total
    for dim in range(3):
        order = torch.randperm(x.shape[dim])
        torch.testing.assert_close(
            ComboLoss()(x.index_select(dim, order), y.index_select(dim, order), yes(3, 4))[0], total
        )
    assert not torch.isclose(ComboLoss()(x.flip(1), y, yes(3, 4)).total, total)  # swapped labels are noticed


# ---------------------------------------------------------------------------------------------- labels that are missing


@pytest.mark.parametrize("options", [{}, {"ce": "balanced"}, {"batch_dice": True}], ids=["mean", "balanced", "batch"])
def test_combo_leaves_unlabelled_pairs_out(options: dict) -> None:
    x, y = organs()
    y = y.double()
    y[0, 1] = torch.nan
    labelled = yes(2, 3)
    labelled[0, 1] = False
    x.requires_grad_()
    total, count = ComboLoss(**options)(x, y, labelled)
    (grad,) = torch.autograd.grad(total, x)
    kept = [x[:, [0, 2]], x[1:, 1:2]], [y[:, [0, 2]], y[1:, 1:2]]
    expected = sum(ComboLoss(**options)(a, b, yes(*a.shape[:2])).total for a, b in zip(*kept, strict=True))
    (expected_grad,) = torch.autograd.grad(expected, x)
    assert count.item() == 5
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(grad, expected_grad)
    assert (grad[0, 1] == 0).all()


def test_masking_by_multiplication_would_fail() -> None:
    """The must-fail twin of the tests with NaN labels: zero times NaN is NaN, in the value and in the gradient."""
    x, y = organs()
    y = y.double()
    y[0, 1] = torch.nan
    labelled = yes(2, 3)
    labelled[0, 1] = False
    loss = (by_definition(ComboLoss(), x.requires_grad_(), y) * labelled).sum()
    (grad,) = torch.autograd.grad(loss, x)
    assert loss.isnan()
    assert grad[0, 1].isnan().all()


def test_a_nan_in_a_labelled_label_is_not_hidden() -> None:
    x, y = organs()
    y = y.double()
    y[0, 0, 0, 0, 0] = torch.nan
    assert ComboLoss()(x, y, yes(2, 3)).total.isnan()
    assert MaskedMAELoss("grid")(x, y, yes(2, 3)).total.isnan()


KIND_CASES = {
    "segmentation": (lambda: torch.randn(2, 3, 4, 4), torch.full((2, 3, 4, 4), torch.nan), (2, 3)),
    "regression": (lambda: torch.randn(2, 1, 4, 4), torch.full((2, 1, 4, 4), torch.nan), (2, 1)),
    "classification": (lambda: torch.randn(2, 3), torch.tensor([-1, 255]), (2, 1)),
}


def test_every_kind_has_a_loss() -> None:
    assert set(LOSSES) == set(KINDS) == set(KIND_CASES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_without_labels_is_zero_and_stays_in_the_graph(kind: str) -> None:
    make, label, shape = KIND_CASES[kind]
    prediction = make().requires_grad_()
    term = LOSSES[kind]()(prediction, label, ~yes(*shape), torch.ones(2, 1, 4, 4))
    term.total.backward()
    assert (term.total.item(), term.count.item()) == (0, 0)
    assert term.count.is_floating_point()
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("kind", ["segmentation", "regression"])
def test_shapes_that_do_not_fit_are_refused(kind: str) -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(UsageError, match=r"label \(2, 1, 4, 4\)"):
        LOSSES[kind]("grid" if kind == "regression" else 0.3)(x, x[:, :1], yes(2, 3))
    with pytest.raises(UsageError, match=r"labelled \(2, 1\)"):
        LOSSES[kind]("grid" if kind == "regression" else 0.3)(x, x, yes(2, 1))


# ------------------------------------------------------------------------------------------------------------- dose


def test_mae_is_the_mean_over_the_mask_per_case_then_the_sum_over_cases() -> None:
    dose = torch.tensor([[[10.0, 20.0, 30.0, torch.nan]], [[1.0, 2.0, 3.0, 4.0]]], dtype=torch.float64)
    mask = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 1]]])
    prediction = torch.tensor([[[13.0, 19.0, 99.0, 99.0]], [[9.0, 9.0, 9.0, 6.0]]], dtype=torch.float64)
    total, count = MaskedMAELoss()(prediction.requires_grad_(), dose, yes(2, 1), mask)
    (grad,) = torch.autograd.grad(total, prediction)
    assert (total.item(), count.item()) == (2 + 2, 2)
    assert grad.tolist() == [[[0.5, -0.5, 0, 0]], [[0, 0, 0, 1]]]


def test_mae_weighs_cases_and_not_voxels_alike() -> None:
    prediction = torch.tensor([[[4.0, 4.0, 4.0]], [[1.0, 0.0, 0.0]]])
    mask = torch.tensor([[[1.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]])
    total, count = MaskedMAELoss()(prediction, torch.zeros(2, 1, 3), yes(2, 1), mask)
    assert (total / count).item() == 2.5
    assert (prediction.abs() * mask).sum().item() / mask.sum().item() == 3.25  # the mean over voxels


def test_mae_over_the_grid_needs_no_mask() -> None:
    prediction, dose = torch.randn(2, 1, 3, 4, 5), torch.randn(2, 1, 3, 4, 5)
    total, count = MaskedMAELoss("grid")(prediction, dose, yes(2, 1), None)
    torch.testing.assert_close(total / count, F.l1_loss(prediction, dose))
    with pytest.raises(UsageError, match="needs a mask"):
        MaskedMAELoss()(prediction, dose, yes(2, 1))


def test_mae_of_an_empty_mask_is_zero_and_in_the_graph() -> None:
    prediction = torch.randn(2, 1, 4, requires_grad=True)
    mask = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    total, count = MaskedMAELoss()(prediction, torch.zeros(2, 1, 4), yes(2, 1), mask)
    total.backward()
    assert count.item() == 2
    torch.testing.assert_close(total, prediction[1].abs().mean())
    assert (prediction.grad[0] == 0).all()
    assert (prediction.grad[1] != 0).all()


def test_mae_scales() -> None:
    dose = torch.tensor([[[70.0, 35.0]]])
    in_gy = MaskedMAELoss("grid")(torch.tensor([[[63.0, 35.0]]]), dose, yes(1, 1)).total
    assert in_gy.item() == pytest.approx(3.5)
    by_prescription = MaskedMAELoss("grid", scale=70)(torch.tensor([[[63.0, 35.0]]]), dose, yes(1, 1)).total
    assert by_prescription.item() == pytest.approx(0.05)
    in_units = MaskedMAELoss("grid", scale=70, output_scale=70)(torch.tensor([[[0.9, 0.5]]]), dose, yes(1, 1)).total
    assert in_units.item() == pytest.approx(0.05)


def test_mae_gradcheck() -> None:
    prediction = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    labelled = torch.tensor([[True, True], [False, True], [False, False]])
    mask = torch.rand(3, 1, 4, 5) < 0.5
    label = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: MaskedMAELoss()(z, label, labelled, mask).total, prediction)


# --------------------------------------------------------------------------------------------------- classification


@pytest.mark.parametrize("column", [False, True], ids=["(B,)", "(B,1)"])
def test_classification_is_the_cross_entropy_of_the_labelled_images(column: bool) -> None:
    logits, label = torch.randn(4, 3), torch.tensor([2, -1, 0, 1])
    labelled = torch.tensor([[True], [False], [True], [True]])
    total, count = ClassificationLoss()(logits, label[:, None] if column else label, labelled)
    known = torch.tensor([0, 2, 3])
    torch.testing.assert_close(total / count, F.cross_entropy(logits[known], label[known]))
    assert count.item() == 3


def test_class_weights_count_even_in_a_batch_of_one() -> None:
    logits, label = torch.zeros(1, 2), torch.tensor([1])
    total, count = ClassificationLoss([1.0, 3.0])(logits, label, yes(1, 1))
    assert (total / count).item() == pytest.approx(3 * LN2)
    assert F.cross_entropy(logits, label, weight=torch.tensor([1.0, 3.0])).item() == pytest.approx(LN2)


# ------------------------------------------------------------------------------------------------------ several tasks


def joint_batch(cases: int = 2, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Predictions that need gradients, and a fully labelled batch, for TASKS."""
    predictions = {
        "oar": torch.randn(cases, 2, 3, 4, dtype=dtype),
        "dose": torch.randn(cases, 1, 3, 4, dtype=dtype),
        "diagnosis": torch.randn(cases, 3, dtype=dtype),
    }
    batch = {
        "oar": torch.randint(0, 2, (cases, 2, 3, 4)).to(dtype),
        "dose": 70 * torch.rand(cases, 1, 3, 4, dtype=dtype),
        "diagnosis": torch.randint(0, 3, (cases,)),
        "mask_dose": torch.ones(cases, 1, 3, 4),
        "labelled_oar": yes(cases, 2),
        "labelled_dose": yes(cases, 1),
        "labelled_diagnosis": yes(cases, 1),
    }
    return {name: value.requires_grad_() for name, value in predictions.items()}, batch


@pytest.mark.parametrize("known", list(itertools.product([0, 1, 2, 3], repeat=3)), ids=str)
def test_every_combination_of_missing_labels(known: tuple[int, int, int]) -> None:
    """Bit i of `known[t]`: case i has a label of task t. Labels that are missing hold NaN or garbage."""
    predictions, batch = joint_batch()
    expected = torch.zeros((), dtype=torch.float64)
    for task, bits in zip(TASKS, known, strict=True):
        cases = [case for case in (0, 1) if bits >> case & 1]
        for case in {0, 1} - set(cases):
            batch[f"labelled_{task.name}"][case] = False
            batch[task.name][case] = -1 if task.name == "diagnosis" else torch.nan
        if cases:
            prediction, label = predictions[task.name][cases], batch[task.name][cases]
            space = yes(*prediction.shape[:2]) if task.is_pixel_level else yes(len(cases), 1)
            total, count = create_loss(task)(prediction, label, space, batch["mask_dose"][cases])
            expected = expected + total / count
    loss, stats = MultiTaskLoss(TASKS, "equal")(predictions, batch)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert [stats[task.name].count.item() for task in TASKS] == [
        bits.bit_count() * scale for bits, scale in zip(known, (2, 1, 1), strict=True)
    ]
    for task, bits in zip(TASKS, known, strict=True):
        grad = predictions[task.name].grad
        assert grad is not None
        assert [bool((grad[case] != 0).any()) for case in (0, 1)] == [bool(bits & 1), bool(bits & 2)]


def test_a_batch_without_any_label_is_zero_finite_and_logged(caplog) -> None:
    predictions, batch = joint_batch()
    batch = {key: torch.zeros_like(value) if key.startswith("labelled") else value for key, value in batch.items()}
    with caplog.at_level(logging.WARNING):
        loss, _ = MultiTaskLoss(TASKS, "uncertainty")(predictions, batch)
    loss.backward()
    assert loss.item() == 0
    assert all((value.grad == 0).all() for value in predictions.values())
    assert "no task has a label in this batch" in caplog.text


def test_a_task_without_keys_in_the_batch_has_no_label() -> None:
    predictions, batch = joint_batch()
    del batch["dose"], batch["labelled_dose"]
    loss, stats = MultiTaskLoss(TASKS, "equal")(predictions, batch)
    loss.backward()
    assert stats["dose"] == LossTerm(torch.tensor(0.0), torch.tensor(0.0))
    assert torch.equal(predictions["dose"].grad, torch.zeros_like(predictions["dose"]))


@pytest.mark.parametrize(("lacking", "found"), [("dose", "labelled_dose"), ("labelled_dose", "dose")])
def test_a_batch_that_does_not_say_what_is_labelled_is_refused(lacking: str, found: str) -> None:
    predictions, batch = joint_batch()
    del batch[lacking]
    with pytest.raises(UsageError, match=f"'{found}' but not '{lacking}'"):
        MultiTaskLoss(TASKS)(predictions, batch)


def test_the_denominator_is_the_number_of_labelled_samples() -> None:
    predictions, batch = joint_batch(4)
    batch["labelled_dose"][1:] = False
    means = {name: term.mean for name, term in MultiTaskLoss(TASKS)(predictions, batch)[1].items()}
    alone = F.l1_loss(predictions["dose"][:1], batch["dose"][:1])
    torch.testing.assert_close(means["dose"], alone.detach())
    assert means["dose"].item() != pytest.approx(alone.item() / 4)  # what zero-filling would give


def test_statistics_are_detached_and_weights_apply_to_the_total_only() -> None:
    predictions, batch = joint_batch()
    weighting = DWA(TASKS)
    weighting.factors.copy_(torch.tensor([0.5, 2.0, 0.25]))  # by name: diagnosis, dose, oar
    loss, stats = MultiTaskLoss(TASKS, weighting)(predictions, batch)
    means = {name: term.mean.item() for name, term in stats.items()}
    assert not any(part.requires_grad for term in stats.values() for part in term)
    assert loss.item() == pytest.approx(0.5 * means["diagnosis"] + 2 * means["dose"] + 0.25 * means["oar"])
    assert loss.item() != pytest.approx(0.25 * means["diagnosis"] + 2 * means["dose"] + 0.5 * means["oar"])  # swapped


def test_the_statistics_are_what_a_weighting_records() -> None:
    predictions, batch = joint_batch()
    loss = MultiTaskLoss(TASKS, "dwa")
    _, stats = loss(predictions, batch)
    assert loss.weighting.sums.count_nonzero() == 0  # recording is the trainer's, once per step
    loss.weighting.record(stats)
    assert loss.weighting.sums[1].tolist() == [2, 2, 4]  # labelled samples of diagnosis, dose, oar
    totals = [stats[name].total for name in ("diagnosis", "dose", "oar")]
    torch.testing.assert_close(loss.weighting.sums[0], torch.stack(totals))


def test_auxiliary_outputs_add_their_loss() -> None:
    predictions, batch = joint_batch()
    first, second = (torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = MultiTaskLoss(TASKS, Equal(TASKS))
    dose = [loss(predictions | {"dose": value}, batch)[1]["dose"].total for value in (first, second)]
    total, stats = loss(predictions | {"dose": first, "dose/initial": second}, batch)
    total.backward()
    torch.testing.assert_close(stats["dose"].total, dose[0] + dose[1])
    assert stats["dose"].count.item() == 2
    assert first.grad.any() and second.grad.any()


def test_coarser_outputs_count_half_and_a_quarter() -> None:
    predictions, batch = joint_batch()
    values = [torch.randn(2, 1, 3, 4, dtype=torch.float64) for _ in range(3)]
    loss = MultiTaskLoss(TASKS, Equal(TASKS))
    alone = [loss(predictions | {"dose": value}, batch)[1]["dose"].total for value in values]
    given = dict(zip(("dose", "dose/deep1", "dose/deep2"), values, strict=True))
    _, stats = loss(predictions | given, batch)
    torch.testing.assert_close(stats["dose"].total, alone[0] + alone[1] / 2 + alone[2] / 4)


def test_metatensors_give_the_same_plain_loss() -> None:
    predictions, batch = joint_batch()
    expected, _ = MultiTaskLoss(TASKS)(predictions, batch)
    wrapped = [{key: MetaTensor(value) for key, value in part.items()} for part in (predictions, batch)]
    loss, stats = MultiTaskLoss(TASKS)(*wrapped)
    assert type(loss) is Tensor and type(stats["dose"].total) is Tensor
    assert torch.equal(loss, expected)


def test_options_reach_the_losses() -> None:
    own = MaskedMAELoss("grid")
    loss = MultiTaskLoss(TASKS, "equal", {"oar": {"ce": "balanced"}, "dose": own})
    assert loss.losses[0].ce == "balanced"
    assert loss.losses[1] is own
    assert isinstance(loss.losses[2], ClassificationLoss)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"doses": {}}, "unknown task 'doses'. Did you mean dose"),
        ({"oar": {"dice_wight": 1}}, "no option 'dice_wight'. Did you mean dice_weight"),
        ({"oar": {"ce": "balance"}}, "unknown cross-entropy 'balance'. Did you mean balanced"),
        ({"oar": {"smooth": 0}}, "do not make a loss"),
        ({"dose": {"region": "maks"}}, "unknown region 'maks'. Did you mean mask"),
        ({"dose": {"scale": 0}}, "not positive"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_misspelt_options_are_refused_with_the_nearest_name(losses: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MultiTaskLoss(TASKS, "equal", losses)


def test_a_missing_prediction_is_refused() -> None:
    predictions, batch = joint_batch()
    with pytest.raises(UsageError, match="predicts no task 'dose'"):
        MultiTaskLoss(TASKS)({"oar": predictions["oar"], "doses": predictions["dose"]}, batch)
