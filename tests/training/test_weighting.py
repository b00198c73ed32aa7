from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, Normal

from mtl_med.errors import UsageError
from mtl_med.tasks import KINDS, Task
from mtl_med.training.losses import LossTerm
from mtl_med.training.weighting import (
    DWA,
    LIKELIHOOD_OF_KIND,
    LIKELIHOODS,
    WEIGHTINGS,
    Equal,
    Fixed,
    Uncertainty,
    Weighting,
    create_weighting,
)

TASKS = (Task("oar", "segmentation", 7), Task("dose", "regression", unit="Gy"))
OPTIONS = {"equal": {}, "fixed": {"weights": {"oar": 1.0, "dose": 0.1}}, "dwa": {}, "uncertainty": {}}


def term(total: float, count: float = 1.0) -> LossTerm:
    return LossTerm(torch.tensor(total), torch.tensor(count))


def epoch(weighting: Weighting, **losses: float) -> None:
    """One epoch of a single batch with these mean losses."""
    weighting.record({name: term(value) for name, value in losses.items()})
    weighting.end_epoch()


def scalars(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


# ------------------------------------------------------------------------------------------------- equal and fixed


def test_equal_is_the_sum() -> None:
    losses = scalars(oar=2.0, dose=3.0)
    total = Equal(TASKS)(losses)
    total.backward()
    assert total.item() == 5
    assert [losses[name].grad.item() for name in ("oar", "dose")] == [1, 1]


def test_fixed_weighs_by_name_whatever_the_order() -> None:
    for order in (TASKS, TASKS[::-1]):
        weighting = Fixed(order, weights={"dose": 0.1, "oar": 2.0})
        losses = scalars(dose=3.0, oar=5.0)
        total = weighting(losses)
        total.backward()
        assert total.item() == pytest.approx(10.3)
        assert (losses["oar"].grad.item(), losses["dose"].grad.item()) == pytest.approx((2, 0.1))
        assert weighting.weights() == {task.name: {"dose": 0.1, "oar": 2.0}[task.name] for task in order}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"oar": 1}, "task 'dose' has no weight"),
        ({"oar": 1, "dose": 1, "doses": 1}, "no task 'doses'. Did you mean dose"),
        ({"oar": 1, "dose": -1}, "weight of task 'dose' is -1"),
        ({"oar": 1, "dose": math.nan}, "weight of task 'dose' is nan"),
        ({"oar": 0, "dose": 0}, "all task weights are zero"),
    ],
    ids=["missing", "unknown", "negative", "nan", "all-zero"],
)
def test_fixed_weights_that_cannot_be_meant(weights: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fixed(TASKS, weights=weights)


# ------------------------------------------------------------------------------------------------------------- DWA


def test_dwa_anchor() -> None:
    dwa = DWA(TASKS)
    assert dwa.weights() == {"oar": 1, "dose": 1}
    epoch(dwa, oar=1.0, dose=1.0)
    assert dwa.weights() == {"oar": 1, "dose": 1}  # epoch 1
    epoch(dwa, oar=0.5, dose=0.9)
    weights = dwa.weights()
    assert (weights["oar"], weights["dose"]) == pytest.approx((0.9003320, 1.0996680), abs=5e-8)
    assert dwa(scalars(oar=1.0, dose=0.0)).item() == pytest.approx(0.9003320, abs=1e-6)


def test_dwa_anchor_must_fail_for_the_epochs_swapped_and_another_temperature() -> None:
    swapped, hot = DWA(TASKS), DWA(TASKS, temperature=4.0)
    epoch(swapped, oar=0.5, dose=0.9)
    epoch(swapped, oar=1.0, dose=1.0)
    epoch(hot, oar=1.0, dose=1.0)
    epoch(hot, oar=0.5, dose=0.9)
    assert swapped.weights()["oar"] > 1.1
    assert hot.weights()["oar"] == pytest.approx(2 / (1 + math.exp(0.4 / 4)))


def test_dwa_uses_the_last_two_epochs_only() -> None:
    short, long = DWA(TASKS), DWA(TASKS)
    epoch(long, oar=77.0, dose=0.01)
    for weighting in (short, long):
        epoch(weighting, oar=1.0, dose=2.0)
        epoch(weighting, oar=0.4, dose=1.9)
    assert short.weights() == long.weights()
    assert sum(long.weights().values()) == pytest.approx(2)


def test_dwa_takes_the_mean_over_samples_and_not_over_batches() -> None:
    dwa = DWA(TASKS)
    dwa.record({"oar": term(6.0, 6), "dose": term(1.0)})
    dwa.record({"oar": term(8.0, 1), "dose": term(1.0)})
    dwa.end_epoch()
    assert dwa.means[1].tolist() == [1.0, 2.0]  # dose, oar; the mean over batches would be 4.5


def test_a_task_absent_from_a_batch_adds_neither_sum_nor_count() -> None:
    dwa = DWA(TASKS)
    dwa.record({"oar": term(2.0), "dose": term(3.0)})
    dwa.record({"oar": term(4.0), "dose": term(0.0, 0)})
    dwa.record({"oar": term(6.0)})
    dwa.end_epoch()
    assert dwa.means[1].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_does_not_poison_the_weights(bad: float) -> None:
    dwa, clean = DWA(TASKS), DWA(TASKS)
    for oar, dose in ((1.0, 1.0), (0.5, 0.9)):
        for weighting in (dwa, clean):
            weighting.record({"oar": term(oar), "dose": term(dose)})
        dwa.record({"oar": term(bad), "dose": term(dose)})
        dwa.end_epoch()
        clean.end_epoch()
    assert dwa.weights() == clean.weights()


def test_a_task_absent_for_an_epoch_keeps_its_mean(caplog) -> None:
    dwa = DWA(TASKS)
    epoch(dwa, oar=1.0)
    assert "task 'dose' had no finite labelled loss" in caplog.text
    epoch(dwa, oar=0.5, dose=3.0)  # dose has no earlier mean: its ratio counts as 1
    assert dwa.weights()["dose"] == pytest.approx(2 / (1 + math.exp((0.5 - 1) / 2)))
    epoch(dwa, oar=0.5)
    assert dwa.means[1].tolist() == [3.0, 0.5]
    assert dwa.weights() == pytest.approx({"oar": 1, "dose": 1})


@pytest.mark.parametrize("losses", [(0.0, 0.0), (0.0, 1.0), (1e-300, 1e300)], ids=["zero", "from-zero", "overflow"])
def test_dwa_stays_finite(losses: tuple[float, float]) -> None:
    dwa = DWA(TASKS)
    for value in losses:
        dwa.record({name: LossTerm(torch.tensor(value).double(), torch.tensor(1.0)) for name in ("oar",)})
        dwa.record({"dose": term(1.0)})
        dwa.end_epoch()
    assert sum(dwa.weights().values()) == pytest.approx(2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_dwa_needs_a_positive_temperature(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature"):
        DWA(TASKS, temperature=temperature)


# ----------------------------------------------------------------------------------------------------- uncertainty


def test_every_kind_has_a_likelihood() -> None:
    assert set(LIKELIHOOD_OF_KIND) == set(KINDS)
    assert set(LIKELIHOOD_OF_KIND.values()) <= set(LIKELIHOODS)


@pytest.mark.parametrize(
    ("likelihood", "s", "expected"),
    [
        ("gaussian", 0.0, 1.5),
        ("laplace", 0.0, 3.0),
        ("softmax", 0.0, 3.0),
        ("gaussian", math.log(2), 0.75 + math.log(2) / 2),
        ("laplace", math.log(2), 1.5 + math.log(2)),
        ("softmax", math.log(2), 1.5 + math.log(2) / 2),
    ],
)
def test_uncertainty_of_one_task(likelihood: str, s: float, expected: float) -> None:
    weighting = Uncertainty(TASKS[1:], likelihoods={"dose": likelihood})
    torch.nn.init.constant_(weighting.log_scales, s)
    assert weighting(scalars(dose=3.0)).item() == pytest.approx(expected)


def test_uncertainty_is_the_likelihood_of_the_errors() -> None:
    errors, s = torch.randn(1000).double(), 0.7
    for likelihood, loss, density, constant in (
        ("laplace", errors.abs().mean(), Laplace(0.0, math.exp(s)), math.log(2)),
        ("gaussian", errors.square().mean(), Normal(0.0, math.exp(s / 2)), math.log(2 * math.pi) / 2),
    ):
        weighting = Uncertainty(TASKS[1:], likelihoods={"dose": likelihood}).double()
        torch.nn.init.constant_(weighting.log_scales, s)
        expected = -density.log_prob(errors).mean() - constant
        torch.testing.assert_close(weighting({"dose": loss}), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("likelihood", "best"), [("gaussian", math.log(3)), ("laplace", math.log(3)), ("softmax", math.log(6))]
)
def test_uncertainty_settles_where_its_gradient_vanishes(likelihood: str, best: float) -> None:
    weighting = Uncertainty(TASKS[1:], likelihoods={"dose": likelihood})
    torch.nn.init.constant_(weighting.log_scales, best)
    weighting(scalars(dose=3.0)).backward()
    assert weighting.log_scales.grad.item() == pytest.approx(0, abs=1e-6)
    weighting.log_scales.grad = None
    torch.nn.init.constant_(weighting.log_scales, best - 1)
    weighting(scalars(dose=3.0)).backward()
    assert weighting.log_scales.grad.item() < -0.1  # too small a scale is pushed up


def test_uncertainty_weighs_the_losses_by_what_it_logs() -> None:
    weighting = Uncertainty(TASKS, likelihoods={"dose": "gaussian"})
    weighting.log_scales.data = torch.tensor([0.3, -0.2])  # dose, oar
    losses = scalars(oar=2.0, dose=5.0)
    weighting(losses).backward()
    weights = weighting.weights()
    assert list(weights) == ["oar", "dose"]
    assert {name: loss.grad.item() for name, loss in losses.items()} == pytest.approx(weights)
    assert weights == pytest.approx({"oar": math.exp(0.2), "dose": 0.5 * math.exp(-0.3)})


def test_uncertainty_leaves_an_absent_task_alone() -> None:
    weighting = Uncertainty(TASKS)
    total = weighting(scalars(oar=2.0))
    total.backward()
    assert total.item() == 2
    assert weighting.log_scales.grad.tolist() == [0, -1.5]  # dose, oar: -L + 1/2


def test_uncertainty_is_learned() -> None:
    weighting = Uncertainty(TASKS)
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        weighting(scalars(oar=0.25, dose=4.0)).backward()
        optimizer.step()
    assert weighting.weights() == pytest.approx({"oar": 2.0, "dose": 0.25}, rel=1e-3)


@pytest.mark.parametrize(
    ("likelihoods", "message"),
    [({"dose": "laplacian"}, "Did you mean laplace"), ({"doses": "laplace"}, "Did you mean dose")],
    ids=["likelihood", "task"],
)
def test_unknown_likelihoods_are_refused(likelihoods: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Uncertainty(TASKS, likelihoods=likelihoods)


# ----------------------------------------------------------------------------------------------- all of the weightings


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_resumed_weighting_goes_on_exactly(name: str) -> None:
    """Saved in the middle of an epoch, loaded into a new one: the same weights afterwards, to the last bit."""
    torch.manual_seed(1)
    one = create_weighting(name, TASKS, **OPTIONS[name])
    parameters = list(one.parameters())
    for values in torch.rand(3, 2).tolist():
        epoch(one, oar=values[0], dose=values[1])
        for parameter in parameters:
            parameter.data.add_(torch.randn_like(parameter))
    one.record({"oar": term(0.3, 2), "dose": term(0.1)})
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two = create_weighting(name, TASKS[::-1], **OPTIONS[name])  # another order of the tasks, the same weights
    two.load_state_dict(torch.load(file, weights_only=True))
    for weighting in (one, two):
        epoch(weighting, oar=0.2, dose=0.7)
    assert dict(sorted(one.weights().items())) == dict(sorted(two.weights().items()))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    if name in ("dwa", "uncertainty"):
        fresh = create_weighting(name, TASKS, **OPTIONS[name])
        epoch(fresh, oar=0.2, dose=0.7)
        assert fresh.weights() != one.weights()  # without its state it would not go on exactly


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weightings_refuse_what_they_do_not_know(name: str) -> None:
    weighting = create_weighting(name, TASKS, **OPTIONS[name])
    with pytest.raises(UsageError, match="no task 'doses'. Did you mean dose"):
        weighting(scalars(doses=1.0))
    with pytest.raises(UsageError, match="no loss to combine"):
        weighting({})
    with pytest.raises(UsageError, match="has no option 'temprature'"):
        create_weighting(name, TASKS, **OPTIONS[name], temprature=1)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weightings_keep_the_dtype_and_copy_whole(name: str) -> None:
    weighting = create_weighting(name, TASKS, **OPTIONS[name])
    epoch(weighting, oar=1.0, dose=2.0)
    total = weighting(scalars(oar=1.0, dose=2.0))
    assert (total.dtype, total.shape) == (torch.float32, ())
    assert copy.deepcopy(weighting).weights() == weighting.weights()


def test_create_weighting_hints() -> None:
    with pytest.raises(UsageError, match="unknown weighting 'dva'. Did you mean dwa"):
        create_weighting("dva", TASKS)
    with pytest.raises(UsageError, match="'fixed' needs the option 'weights'"):
        create_weighting("fixed", TASKS)
    with pytest.raises(UsageError, match="no option 'temprature'. Did you mean temperature"):
        create_weighting("dwa", TASKS, temprature=1)
    assert create_weighting("dwa", {"a": {"kind": "regression"}}, temperature=3.0).temperature == 3
