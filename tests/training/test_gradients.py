"""Cosines between the tasks' gradients: golden numbers, what counts as shared, and what measuring leaves alone."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtl_med.errors import UsageError
from mtl_med.training.gradients import (
    GradientConflict,
    cosines,
    gradient_cosines,
    gramian,
    shared_parameters,
    task_gradients,
)
from mtl_med.training.losses import ComboLoss


def test_cosine_of_linear_losses_is_that_of_their_slopes() -> None:
    x, y = (torch.zeros(2, requires_grad=True) for _ in range(2))
    losses = {
        "a": 3 * x[0] + 4 * y[1],  # gradient (3, 0 | 0, 4)
        "b": 4 * x[0] + 3 * y[1],  # (4, 0 | 0, 3)
        "c": -6 * x[0] - 8 * y[1],  # -2 a
        "d": x[1],  # (0, 1 | 0, 0); does not reach y
    }
    cosines = gradient_cosines(losses, [x, y])
    assert cosines == pytest.approx(
        {
            ("a", "b"): 24 / 25,
            ("a", "c"): -1,
            ("a", "d"): 0,
            ("b", "c"): -24 / 25,
            ("b", "d"): 0,
            ("c", "d"): 0,
        }
    )


def test_only_the_shared_parameters_count() -> None:
    x, head = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    frozen = torch.ones(3)
    losses = {"a": x[0] + (x * head).sum(), "b": x[0] - 5 * head.sum()}
    assert gradient_cosines(losses, [x, frozen]) == pytest.approx({("a", "b"): 2 / math.sqrt(5)})
    assert gradient_cosines(losses, [x, head])[("a", "b")] < 0  # with the head in it, they would seem in conflict


def test_a_positive_factor_changes_nothing_and_a_negative_one_the_sign() -> None:
    x = torch.randn(5, requires_grad=True)
    a, b = x.square().sum(), x.exp().sum()
    (cosine,) = gradient_cosines({"a": a, "b": b}, [x]).values()
    assert gradient_cosines({"a": 1e-6 * a, "b": 1e6 * b}, [x])[("a", "b")] == pytest.approx(cosine)
    assert gradient_cosines({"a": a, "b": -b}, [x])[("a", "b")] == pytest.approx(-cosine)
    assert abs(cosine) < 0.99


def test_a_zero_gradient_has_no_direction() -> None:
    x, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    assert math.isnan(gradient_cosines({"a": x.sum(), "b": 0 * x.sum()}, [x])[("a", "b")])
    assert math.isnan(gradient_cosines({"a": x.sum(), "b": other.sum()}, [x])[("a", "b")])


def test_one_task_has_no_pair() -> None:
    x = torch.ones(2, requires_grad=True)
    assert gradient_cosines({"a": x.sum()}, [x]) == {}


def test_parameters_that_need_no_gradient_are_refused() -> None:
    with pytest.raises(UsageError, match="no shared parameter"):
        gradient_cosines({"a": torch.ones(1, requires_grad=True).sum()}, [torch.ones(1)])


def test_the_training_step_goes_on_as_if_nothing_had_been_asked() -> None:
    net = nn.Conv1d(1, 2, 3, padding=1)
    image, organs = torch.randn(2, 1, 8), torch.randint(0, 2, (2, 2, 8))

    def losses() -> dict[str, torch.Tensor]:
        out = net(image)
        return {"oar": ComboLoss()(out, organs, torch.ones(2, 2, dtype=torch.bool)).total, "dose": out.abs().mean()}

    sum(losses().values()).backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad(set_to_none=True)
    asked = losses()
    cosines = gradient_cosines(asked, net.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    sum(asked.values()).backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), expected, strict=True))
    assert -1 <= cosines[("oar", "dose")] <= 1


def test_parameters_of_one_task_alone_are_passed_over() -> None:
    x, first, second = (torch.ones(2, requires_grad=True) for _ in range(3))
    losses = {"a": x[0] + (x * first).sum(), "b": x[0] - 5 * second.sum()}
    everything = gradient_cosines(losses, [first, x, second])
    assert everything == gradient_cosines(losses, [x]) == pytest.approx({("a", "b"): 2 / math.sqrt(5)})


def test_a_gradient_of_zero_shares_nothing() -> None:
    """Two tasks through one layer as one batch: in the graph the losses reach both inputs, with zeros."""
    first, second, layer = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), nn.Linear(2, 2)
    a, b = layer(torch.stack([first, second])).square().sum(1)
    parameters = [first, second, *layer.parameters()]
    rows = list(task_gradients({"a": a, "b": b}, parameters).values())
    assert all(piece is not None for row in rows for piece in row)
    assert shared_parameters(rows) == [False, False, True, True]
    assert shared_parameters([[torch.tensor([torch.nan])], [torch.ones(1)]]) == [True]
    assert shared_parameters([]) == []


def test_products_of_shared_parameters_are_summed_in_fp64() -> None:
    a, b, alone = torch.full((1000,), 1e-4), torch.full((10, 100), 1.0).T, torch.ones(3)
    rows = [[a, a, b.T, alone], [2 * a, None, b.T.contiguous(), None], [None, a, None, None]]
    assert shared_parameters(rows) == [True, True, True, False]
    products = gramian(rows, shared_parameters(rows))
    small = 1000 * float(a[0].double()) ** 2
    expected = [[2 * small + 1000, 2 * small + 1000, small], [2 * small + 1000, 4 * small + 1000, 0], [small, 0, small]]
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, torch.tensor(expected).double(), rtol=1e-7, atol=0.0)
    assert cosines(["a", "b", "c"], products)["b", "c"] == 0
    assert gramian([[alone, None], [None, alone]], [False, False]).tolist() == [[0, 0], [0, 0]]


def test_the_products_do_not_depend_on_the_memory_layout() -> None:
    piece, other = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    last = other.contiguous(memory_format=torch.channels_last)
    assert torch.equal(gramian([[piece], [other]], [True]), gramian([[piece], [last]], [True]))


def test_the_graph_is_freed_only_when_told() -> None:
    x = torch.ones(2, requires_grad=True)
    losses = {"a": x.square().sum(), "b": x.exp().sum()}
    task_gradients(losses, [x])
    task_gradients(losses, [x], keep_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        task_gradients({"b": losses["b"]}, [x])


class TestConflict:
    def engine(self, step: int = 1) -> SimpleNamespace:
        return SimpleNamespace(state=SimpleNamespace(iteration=step, epoch=4, metrics={"loss/a": 1.0}))

    def test_the_epoch_has_the_mean_without_what_is_not_a_number(self, caplog: pytest.LogCaptureFixture) -> None:
        conflict, engine = GradientConflict(1), self.engine()
        conflict.reset(engine)
        for value in (0.5, math.nan, -0.25):
            conflict.add({("a", "b"): value, ("a", "c"): math.nan})
        with caplog.at_level(logging.INFO):
            conflict.finish(engine)
        assert engine.state.metrics == {"loss/a": 1.0, "cosine/a/b": 0.125}
        assert caplog.messages == ["epoch 4  cosine of the tasks' gradients: a/b +0.125"]
        conflict.reset(engine)
        engine.state.metrics = {}
        conflict.finish(engine)
        assert engine.state.metrics == {}

    @pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (5, [])])
    def test_every_k_steps(self, every: int, steps: list[int]) -> None:
        assert [step for step in range(1, 5) if GradientConflict(every).is_due(self.engine(step))] == steps

    def test_a_negative_number_of_steps_is_refused(self) -> None:
        with pytest.raises(UsageError, match="conflict_every is -1"):
            GradientConflict(-1)
