from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtl_med.errors import UsageError
from mtl_med.training.gradients import gradient_cosines
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
