"""CTAB: Eq. 2 by its definition, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mtl_med.errors import UsageError
from mtl_med.networks.exchange import CTAB
from mtl_med.networks.exchange.ctab import cross_attend

MORE_TOKENS, MORE_CHANNELS = (2, 5, 4, 3, 2), (2, 30, 3, 2, 2)  # N = 24 >= C = 5, and N = 12 < C = 30
both_groupings = pytest.mark.parametrize("shape", [MORE_TOKENS, MORE_CHANNELS], ids=["N >= C", "N < C"])
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["channels first", "channels last"])
both_scales = pytest.mark.parametrize("scale", ["mean", "none"])


def pair(shape: tuple[int, ...], channels_last: bool = False) -> tuple[Tensor, Tensor]:
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    e, q = (torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout) for _ in range(2))
    return e, q


def by_definition(e: Tensor, q: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    """E (E'^T E) and (E E'^T) E with explicit sums over tokens and channels."""
    e, q = e.flatten(2), q.flatten(2)
    factor = 1.0 / (e.shape[2] * e.shape[1] ** 0.5) if scale == "mean" else 1.0
    through_channels = torch.einsum("bkn,bkd->bdn", e, torch.einsum("bkm,bdm->bkd", q, e))
    through_tokens = torch.einsum("bnm,bdm->bdn", torch.einsum("bkn,bkm->bnm", e, q), e)
    return through_channels * factor, through_tokens * factor


@both_groupings
@both_layouts
@both_scales
def test_both_groupings_by_definition(shape: tuple, channels_last: bool, scale: str) -> None:
    e, q = pair(shape, channels_last)
    result = cross_attend(e, q, scale)
    assert result.shape == e.shape
    for expected in by_definition(e, q, scale):
        assert (result.flatten(2) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_a_case_by_hand() -> None:
    e = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]])  # C = 2 channels of N = 3 tokens
    q = torch.tensor([[[1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]])
    # E'^T E = [[1, 3], [4, 1]]; E = [[1, 0], [2, 1], [0, 3]] times it = [[1, 3], [6, 7], [12, 3]]
    assert cross_attend(e, q, "none").tolist() == [[[1.0, 6.0, 12.0], [3.0, 7.0, 3.0]]]
    torch.testing.assert_close(cross_attend(e, q), torch.tensor([[[1.0, 6, 12], [3, 7, 3]]]) / (3 * 2**0.5))


@both_groupings
@both_layouts
def test_the_result_keeps_the_memory_layout(shape: tuple, channels_last: bool) -> None:
    e, q = pair(shape, channels_last)
    result = cross_attend(e, q)
    assert result.stride() == e.stride()


@both_groupings
@both_scales
def test_permuted_tokens_permute_the_result(shape: tuple, scale: str) -> None:
    e, q = (x.flatten(2) for x in pair(shape))
    order = torch.randperm(e.shape[2])
    torch.testing.assert_close(cross_attend(e[..., order], q[..., order], scale), cross_attend(e, q, scale)[..., order])


@both_groupings
def test_duplicated_tokens_change_nothing_with_mean(shape: tuple) -> None:
    e, q = (x.flatten(2) for x in pair(shape))
    twice = cross_attend(torch.cat([e, e], 2), torch.cat([q, q], 2))
    torch.testing.assert_close(twice, cross_attend(e, q).repeat(1, 1, 2))
    literal = cross_attend(torch.cat([e, e], 2), torch.cat([q, q], 2), "none")
    torch.testing.assert_close(literal, 2 * cross_attend(e, q, "none").repeat(1, 1, 2))


@both_groupings
@both_scales
def test_scaling_the_query_scales_the_result(shape: tuple, scale: str) -> None:
    e, q = pair(shape)
    torch.testing.assert_close(cross_attend(e, -3.5 * q, scale), -3.5 * cross_attend(e, q, scale))


@both_groupings
def test_gradients(shape: tuple) -> None:
    e, q = (x[:, :, :2, :1].requires_grad_() for x in pair(shape))
    assert torch.autograd.gradcheck(cross_attend, (e, q))


def block(tasks: tuple[str, ...] = ("a", "b"), **options: object) -> CTAB:
    return CTAB(3, 8, tasks, bottleneck_channels=6, **options)


def features(tasks: tuple[str, ...] = ("a", "b"), seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {task: torch.randn(2, 8, 4, 3, 2, generator=generator) for task in tasks}


def test_swapping_two_tasks_swaps_the_results() -> None:
    ctab, given = block(), features()
    results = ctab(given)
    ctab.embed["a"], ctab.embed["b"] = ctab.embed["b"], ctab.embed["a"]
    swapped = ctab({"a": given["b"], "b": given["a"]})
    assert torch.equal(swapped["a"], results["b"])
    assert torch.equal(swapped["b"], results["a"])
    assert not torch.allclose(results["a"], results["b"])


def test_width() -> None:
    assert CTAB(2, 32, ["a"]).out_channels(32) == 8  # C/4
    assert block().out_channels(8) == 6
    assert {task: result.shape[1] for task, result in block()(features()).items()} == {"a": 6, "b": 6}


def test_several_tasks_meet_the_mean_of_the_others_exactly() -> None:
    tasks = ("a", "b", "c")
    ctab, given = block(tasks), features(tasks)
    e = {task: ctab.embed[task](given[task]) for task in tasks}
    mean_of_products = (cross_attend(e["a"], e["b"]) + cross_attend(e["a"], e["c"])) / 2
    torch.testing.assert_close(ctab(given)["a"], mean_of_products)
    by_max = block(tasks, reduce="max")
    by_max.load_state_dict(ctab.state_dict())
    torch.testing.assert_close(by_max(given)["a"], cross_attend(e["a"], torch.maximum(e["b"], e["c"])))


def test_one_task_is_its_own_partner() -> None:
    ctab, given = block(("a",)), features(("a",))
    e = ctab.embed["a"](given["a"])
    assert torch.equal(ctab(given)["a"], cross_attend(e, e))


def test_residual_adds_the_embedding() -> None:
    ctab, given = block(), features()
    with_residual = block(residual=True)
    with_residual.load_state_dict(ctab.state_dict())
    torch.testing.assert_close(with_residual(given)["a"], ctab(given)["a"] + ctab.embed["a"](given["a"]))


def test_without_residual_a_silent_task_stays_silent() -> None:
    """The form is cubic: at E = 0 value and gradient vanish, which is what the option is for."""
    e = torch.zeros(1, 4, 3, 3, requires_grad=True)
    result = cross_attend(e, e)
    assert not result.any()
    assert not torch.autograd.grad(result.sum(), e)[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("scale", ["mean", "none"])
def test_finite_where_half_precision_would_overflow(dtype: torch.dtype, scale: str) -> None:
    e, q = (10 * torch.rand(1, 64, 16, 16, 16) for _ in range(2))
    largest = float(by_definition(e.double(), q.double(), "none")[0].max())
    assert largest > 1e7 > torch.finfo(torch.float16).max  # the literal product is far outside fp16
    with torch.autocast("cpu", dtype):
        assert (e.flatten(2) @ q.flatten(2).mT).dtype == dtype  # autocast is on
        result = cross_attend(e, q, scale)
        assert result.dtype == torch.float32
        expected = by_definition(e.double(), q.double(), scale)[0].reshape(e.shape).float()
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=0.0)
        halves = cross_attend(e.to(dtype), q.to(dtype), "mean")
    assert halves.dtype == dtype
    assert torch.isfinite(halves).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_block_is_finite_under_autocast(dtype: torch.dtype) -> None:
    ctab = CTAB(3, 16, ["a", "b"], norm="batch")
    given = {task: (1000 * torch.rand(1, 16, 16, 16, 16)).requires_grad_() for task in ("a", "b")}
    with torch.autocast("cpu", dtype):
        results = ctab(given)
    sum(result.float().sum() for result in results.values()).backward()
    assert all(torch.isfinite(result).all() and result.any() for result in results.values())
    assert all(torch.isfinite(given[task].grad).all() for task in given)


def peak_mib(form: Callable[[Tensor, Tensor], list[Tensor]], side: int) -> float:
    """Most MiB allocated at a time, above the inputs, in forward and backward of two tasks with 256 channels."""
    tasks = [torch.randn(1, 256, side, side, side, requires_grad=True) for _ in range(2)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        torch.autograd.grad([result.mean() for result in form(*tasks)], tasks)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(live.max()) / 2**20


def test_memory_at_32_cubed_tokens() -> None:
    result_and_gradient = 4 * 256 * 32**3 * 4 / 2**20
    product = peak_mib(lambda a, b: [cross_attend(a, b), cross_attend(b, a)], 32)
    assert result_and_gradient < product < 400
    ctab = CTAB(3, 256, ["a", "b"], bottleneck_channels=256)
    assert product < peak_mib(lambda a, b: list(ctab({"a": a, "b": b}).values()), 32) < 400


def test_memory_of_the_other_grouping_would_be_seen() -> None:
    def through_tokens(a: Tensor, b: Tensor) -> list[Tensor]:
        a, b = a.flatten(2), b.flatten(2)
        return [a @ (b.mT @ a), b @ (a.mT @ b)]

    automatic = peak_mib(lambda a, b: [cross_attend(a, b), cross_attend(b, a)], 16)
    assert peak_mib(through_tokens, 16) > 4 * automatic


@pytest.mark.parametrize("options", [{"scale": "meen"}, {"reduce": "sum"}], ids=str)
def test_unknown_values_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match="unknown (scale|reduce).*(mean|max)"):
        block(**options)
