"""CTAL: the published form by its definition, the linear form beside it, and what follows from both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import initialise
from mtl_med.networks.exchange.affinity import affinity_strength, full_affinity, gather, linear_affinity, unit
from mtl_med.networks.exchange.ctal import CTAL

NAMES = ("a", "b", "c")
SIZES = {2: (5, 4), 3: (3, 4, 2)}
NORM = ("instance", {"affine": True})
both_dims = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
both_filters = pytest.mark.parametrize("filters", ["shared", "per_query"])
both_forms = pytest.mark.parametrize("full_below", [0, 10**6], ids=["linear", "full"])
any_tasks = pytest.mark.parametrize("count", [1, 2, 3], ids=["one task", "two tasks", "three tasks"])


def block(dims: int = 3, count: int = 2, filters: str = "shared", tasks: tuple[str, ...] = (), **options: Any) -> CTAL:
    """A small CTAL in fp64 whose filters and bias are of ordinary size."""
    grid = {"query_grid": SIZES[dims]} if filters == "per_query" else {}
    options = {"affinity_channels": 5, "gamma": 0.4, "norm": NORM, "filters": filters, **grid, **options}
    ctal = CTAL(dims, 6, tasks or NAMES[:count], **options).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(ctal.named_parameters()):
            if "filter" in name or name == "bias":
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return ctal


def features(dims: int = 3, count: int = 2, batch: int = 2, channels: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, channels, *SIZES[dims])
    return {task: torch.randn(shape, generator=generator, dtype=torch.float64) for task in NAMES[:count]}


def parts(dims: int, tasks: int, queries: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f of length 1, v, filters and bias, random."""
    shape = (batch, tasks, 4, *SIZES[dims])
    f, v = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    w = torch.randn(tasks, 3**dims, queries, dtype=torch.float64)
    return F.normalize(f, dim=2), v, w, torch.randn(queries, dtype=torch.float64)


def queries_of(filters: str, dims: int) -> int:
    return 1 if filters == "shared" else int(np.prod(SIZES[dims]))


def published(f: Tensor, v: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """M of each sample by the paper's own steps, one query after the other side by side, then v M^T / N."""
    tasks, size = f.shape[1], f.shape[3:]
    n = int(np.prod(size))
    convolution = F.conv2d if len(size) == 2 else F.conv3d
    kernel = w.expand(-1, -1, n).permute(2, 0, 1).reshape(n, tasks, *(3,) * len(size))
    results = []
    for sample, values in zip(f.flatten(3), v.flatten(3), strict=True):
        affinities = [own.T @ own for own in sample]  # A_t, (N, N)
        interleaved = torch.stack([affinities[t][i] for i in range(n) for t in range(tasks)])  # (N T, N)
        maps = interleaved.reshape(1, n * tasks, *size)
        m = convolution(maps, kernel, b.expand(n), padding=1, groups=n).reshape(n, n)
        results.append(torch.stack([own @ m.T for own in values]) / n)
    return torch.stack(results).reshape(v.shape)


@both_dims
@both_filters
@any_tasks
def test_both_forms_by_definition(dims: int, filters: str, count: int) -> None:
    given = parts(dims, count, queries_of(filters, dims))
    expected = published(*given)
    for result in (full_affinity(*given), linear_affinity(*given)):
        assert result.shape == expected.shape
        assert (result - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_a_case_by_hand() -> None:
    """Two positions, one channel: f = (1, -1); middle tap 2, right tap 3, bias 1; M = [[0, -1], [2, 3]]."""
    f, v = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 1, 2), torch.tensor([5.0, 7.0]).reshape(1, 1, 1, 1, 2)
    w = torch.zeros(1, 9, 1)
    w[0, 4], w[0, 5] = 2.0, 3.0
    for form in (full_affinity, linear_affinity):
        y = form(f, v, w, torch.ones(1)).flatten().tolist()
        assert y == [(0 * 5 - 1 * 7) / 2, (2 * 5 + 3 * 7) / 2]  # M^T instead of M would give 7 and 8


def test_taps_and_queries_of_their_own_by_hand() -> None:
    """The first query has the left tap alone, the second one the right: A = [[1, -1], [-1, 1]]."""
    f, v = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 1, 2), torch.tensor([5.0, 7.0]).reshape(1, 1, 1, 1, 2)
    w = torch.zeros(1, 9, 2)
    w[0, 3, 0], w[0, 5, 1] = 1.0, 1.0  # M = [[0, 1], [1, 0]] + b
    for form in (full_affinity, linear_affinity):
        y = form(f, v, w, torch.tensor([0.0, 10.0])).flatten().tolist()
        assert y == [7 / 2, (5 + 10 * 12) / 2]


@both_dims
@both_filters
def test_both_forms_have_one_gradient(dims: int, filters: str) -> None:
    given = [x.requires_grad_() for x in parts(dims, 2, queries_of(filters, dims))]
    direction = torch.randn(given[1].shape, dtype=torch.float64)
    by_full = torch.autograd.grad(full_affinity(*given), given, direction)
    for recompute in (False, True):
        by_linear = torch.autograd.grad(linear_affinity(*given, recompute), given, direction)
        torch.testing.assert_close(by_linear, by_full, rtol=1e-9, atol=1e-11)


def written_out(ctal: CTAL, given: dict[str, Tensor], w: Tensor, b: Tensor, gamma: float) -> dict[str, Tensor]:
    """The block once more, from its weights and the published form."""
    state = ctal.state_dict()
    convolution = F.conv2d if given["a"].dim() == 4 else F.conv3d
    x, v = [], []
    for task in given:
        refined = ctal.branches[task].refine(given[task])
        own = (state[f"branches.{task}.{part}"] for part in ("project.weight", "project.bias"))
        x.append(convolution(refined, *own))
        own = (state[f"branches.{task}.{part}"] for part in ("value.weight", "value.bias"))
        v.append(convolution(x[-1], *own, padding=1))
    y = published(F.normalize(torch.stack(x, 1), dim=2), torch.stack(v, 1), w, b)
    return {task: gamma * y[:, t] + (1 - gamma) * x[t] for t, task in enumerate(given)}


@both_dims
@both_filters
@both_forms
@any_tasks
def test_block_follows_the_specification(dims: int, filters: str, full_below: int, count: int) -> None:
    ctal, given = block(dims, count, filters, full_below=full_below), features(dims, count)
    w = torch.cat([ctal.branches[task].filter for task in given]).flatten(2)
    results, expected = ctal(given), written_out(ctal, given, w, ctal.bias.flatten(), 0.4)
    assert set(results) == {*given, *(f"{task}/initial" for task in given)}
    for task in given:
        assert (results[task] - expected[task]).abs().max() <= 1e-10 * expected[task].abs().max()
        torch.testing.assert_close(results[f"{task}/initial"], ctal.branches[task].refine(given[task]))
    assert not torch.allclose(results["a"], written_out(ctal, given, w.flip(1), ctal.bias.flatten(), 0.4)["a"])


def test_begins_with_the_mean_of_the_affinities() -> None:
    ctal, given = CTAL(2, 6, NAMES, norm=NORM).double().apply(initialise), features(2, 3)
    w, b = ctal.fusion([5, 4])
    assert not b.any()
    f, v = (F.normalize(torch.randn(1, 3, 4, 5, 4, dtype=torch.float64), dim=2) for _ in range(2))
    mean = torch.einsum("btci,btcj->bij", f.flatten(3), f.flatten(3)) / 3
    expected = torch.einsum("bij,bscj->bsci", mean, v.flatten(3)) / 20
    torch.testing.assert_close(linear_affinity(f, v, w, b).flatten(3), expected)
    assert ctal.out_channels(6) == ctal(given)["a"].shape[1] == 128
    assert CTAL.initial


@both_dims
def test_the_same_filters_for_every_query_are_shared_filters(dims: int) -> None:
    shared, each = block(dims, full_below=0), block(dims, filters="per_query", full_below=0)
    state = shared.state_dict()
    grid = dict.fromkeys(("bias", "branches.a.filter", "branches.b.filter"))
    each.load_state_dict({k: x.expand_as(each.state_dict()[k]) if k in grid else x for k, x in state.items()})
    given = features(dims)
    larger = {task: torch.cat([x, x.flip(2)], 2) for task, x in given.items()}  # here the filters are resampled
    for some in (given, larger):
        torch.testing.assert_close(each(some), shared(some), rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        each.branches["b"].filter[0, 0, 0] += 1.0  # the must-fail twin: other taps in the first row
    assert not torch.allclose(each(given)["a"], shared(given)["a"])


def test_filters_are_resampled_linearly() -> None:
    ctal = block(2, filters="per_query", query_grid=(2, 1))
    with torch.no_grad():
        ctal.branches["a"].filter[0, 4] = torch.tensor([[0.0], [4.0]])
        ctal.bias.copy_(torch.tensor([[[[1.0], [3.0]]]]))
    w, b = ctal.fusion([4, 2])
    assert w[0, 4].tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
    assert b.tolist() == [1, 1, 1.5, 1.5, 2.5, 2.5, 3, 3]


@both_filters
@both_forms
def test_one_task_has_its_own_affinity(filters: str, full_below: int) -> None:
    ctal, given = block(2, 1, filters, full_below=full_below), features(2, 1)
    assert set(ctal(given)) == {"a", "a/initial"}
    assert not torch.allclose(ctal(given)["a"], 0.6 * ctal.branches["a"].project(ctal(given)["a/initial"]))


@both_filters
def test_the_order_of_the_tasks_does_not_matter(filters: str) -> None:
    given = features(3, 3)
    one, other = block(3, filters=filters, tasks=("a", "b", "c")), block(3, filters=filters, tasks=("c", "a", "b"))
    other.load_state_dict(one.state_dict())
    results, reordered = one(given), other(given)
    for name, result in results.items():
        torch.testing.assert_close(reordered[name], result, rtol=1e-12, atol=1e-12)


@both_filters
@both_forms
def test_samples_do_not_see_each_other_and_nothing_is_random(filters: str, full_below: int) -> None:
    ctal, given = block(3, filters=filters, full_below=full_below), features()
    both = ctal(given)
    alone = ctal({task: x[1:] for task, x in given.items()})
    for name, result in ctal(given).items():
        assert torch.equal(result, both[name])
        torch.testing.assert_close(alone[name], result[1:], rtol=1e-11, atol=1e-12)


def reached(ctal: CTAL, part: str) -> bool:
    """Whether a loss on task a teaches `part`."""
    ctal.zero_grad(set_to_none=True)
    ctal(features())["a"].square().sum().backward()
    found = [p.grad for name, p in ctal.named_parameters() if name.startswith(part)]
    assert found
    return all(gradient is not None and bool(gradient.any()) for gradient in found)


@both_filters
@both_forms
def test_gradients_reach_the_other_task_through_the_affinity_alone(filters: str, full_below: int) -> None:
    options = {"filters": filters, "full_below": full_below}
    ctal = block(**options)
    for part in ("branches.a.", "branches.b.refine", "branches.b.project", "branches.b.filter", "bias"):
        assert reached(ctal, part), part
    assert not reached(ctal, "branches.b.value")
    assert not reached(block(**options, gamma=0.0), "branches.b.project")  # the must-fail twin: nothing is gathered


def test_gamma_as_a_parameter() -> None:
    fixed, learned = block(), block(learn_gamma=True)
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"gamma"}
    learned.load_state_dict({**fixed.state_dict(), "gamma": torch.tensor(0.4, dtype=torch.float64)})
    torch.testing.assert_close(learned(features()), fixed(features()))
    assert reached(learned, "gamma")


@both_dims
@both_filters
def test_channels_last_memory_is_kept_and_changes_nothing(dims: int, filters: str) -> None:
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    ctal, given = block(dims, filters=filters, full_below=0), features(dims)
    expected = ctal(given)
    results = ctal.to(memory_format=layout)({t: x.contiguous(memory_format=layout) for t, x in given.items()})
    torch.testing.assert_close(results, expected, rtol=1e-9, atol=1e-11)
    for branch in ctal.branches.values():  # torch's convolutions do not keep every order
        branch.refine, branch.project = nn.Identity(), nn.Identity()
    given = features(dims, channels=5)
    assert ctal({task: x.contiguous(memory_format=layout) for task, x in given.items()})["a"].stride(1) == 1
    assert all(x.is_contiguous() for x in ctal(given).values())


@both_dims
@both_filters
def test_attention_is_the_length_of_the_rows_of_m(dims: int, filters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_med.networks.exchange.affinity.ROWS", 7)
    f, _, w, b = parts(dims, 2, queries_of(filters, dims))
    n = int(np.prod(SIZES[dims]))
    unit_vectors = torch.eye(n, dtype=torch.float64).reshape(1, 1, n, *SIZES[dims]).expand(2, *(-1,) * (dims + 2))
    rows = published(f, unit_vectors, w, b)
    expected = rows.flatten(3)[:, 0].norm(dim=1)  # the gathered unit vectors are M^T / N
    torch.testing.assert_close(affinity_strength(f, w, b).flatten(1), expected)
    ctal, given = block(dims, filters=filters), features(dims)
    maps = ctal.attention(given)
    assert {task: tuple(x.shape) for task, x in maps.items()} == dict.fromkeys(given, (2, 1, *SIZES[dims]))
    x = torch.stack([ctal.branches[t].project(ctal.branches[t].refine(given[t])) for t in given], 1)
    torch.testing.assert_close(maps["b"], affinity_strength(unit(x, 2), *ctal.fusion(list(SIZES[dims]))))


def test_no_features_no_harm() -> None:
    """Where x vanishes it has no direction: value and gradient stay finite."""
    x, v = torch.zeros(1, 2, 4, 3, 3, requires_grad=True), torch.rand(1, 2, 4, 3, 3)
    for full in (False, True):
        y = gather(x, v, torch.ones(2, 9, 1), torch.zeros(1), full, False)
        assert not y.any()
        assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("full", [False, True], ids=["linear", "full"])
def test_full_precision_under_autocast(dtype: torch.dtype, full: bool) -> None:
    x, v = (200 * torch.rand(1, 2, 64, 8, 8, 8) for _ in range(2))
    w, b = torch.ones(2, 27, 1), torch.ones(1)
    assert x.square().sum(2).min() > torch.finfo(torch.float16).max  # its length is outside fp16
    expected = gather(x.double(), v.double(), w.double(), b.double(), True, False).float()
    with torch.autocast("cpu", dtype):
        assert (v[0, 0, :, 0, 0] @ v[0, 0, :, 0, 0].mT).dtype == dtype  # autocast is on
        result = gather(x, v, w, b, full, False)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=0.0)
        halves = gather(x.to(dtype), v.to(dtype), w, b, full, False)
    assert halves.dtype == dtype
    torch.testing.assert_close(halves.float(), expected, rtol=2e-2, atol=0.0)


@both_dims
def test_block_under_autocast_is_near_fp32(dims: int) -> None:
    ctal = block(dims).float()
    given = {task: x.float().requires_grad_() for task, x in features(dims).items()}
    expected = ctal(given)
    with torch.autocast("cpu", torch.bfloat16):
        results = ctal(given)
    for name, result in results.items():
        assert torch.corrcoef(torch.stack([result.float().flatten(), expected[name].flatten()]))[0, 1] > 0.999
    sum(result.float().sum() for result in results.values()).backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.any() for x in given.values())


class Pair(nn.Module):
    """Two tensors in, three out: what the exporters take."""

    def __init__(self, exchange: nn.Module) -> None:
        super().__init__()
        self.exchange = exchange

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        results = self.exchange({"a": a, "b": b})
        return results["a"], results["b"], results["a/initial"]


@both_dims
@both_filters
@both_forms
def test_torchscript_equals_eager(dims: int, filters: str, full_below: int, tmp_path: Path) -> None:
    ctal = block(dims, filters=filters, full_below=full_below, learn_gamma=dims == 2)
    torch.jit.script(ctal).save(str(tmp_path / "ctal.ts"))
    loaded, given = torch.jit.load(str(tmp_path / "ctal.ts")), features(dims)
    for some in (given, {task: x[:, :, 1:] for task, x in given.items()}):  # another size than the first one
        torch.testing.assert_close(loaded(some), ctal(some), rtol=1e-9, atol=1e-11)


def test_torchscript_under_autocast() -> None:
    ctal, given = block().float().eval(), {task: x.float() for task, x in features().items()}
    scripted = torch.jit.script(ctal)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        results = scripted(given)
    for name, result in ctal(given).items():
        assert torch.corrcoef(torch.stack([result.flatten(), results[name].float().flatten()]))[0, 1] > 0.999


@pytest.mark.parametrize(
    ("dims", "filters", "full_below", "dynamo"),
    [
        (3, "shared", 0, True),
        (2, "shared", 0, False),
        (3, "shared", 10**6, False),
        (2, "per_query", 0, False),
        (3, "per_query", 10**6, False),
    ],
)
def test_onnx_equals_eager(dims: int, filters: str, full_below: int, dynamo: bool, tmp_path: Path) -> None:
    import onnxruntime

    ctal = block(dims, filters=filters, full_below=full_below).float().eval()
    given = [x[:1, :, 1:].float() for x in features(dims).values()]  # smaller than the grid of the filters
    path = str(tmp_path / "ctal.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        torch.onnx.export(Pair(ctal), tuple(given), path, input_names=["a", "b"], dynamo=dynamo, verbose=False)
    inputs = {name: x.numpy() for name, x in zip("ab", given, strict=True)}
    outputs = onnxruntime.InferenceSession(path).run(None, inputs)
    for output, expected in zip(outputs, Pair(ctal)(*given), strict=True):
        np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-3, atol=2e-5)


def peak_mib(function: Callable[[], Any]) -> float:
    """Most MiB that torch has allocated at a time, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(live.max()) / 2**20


# Most resident memory in forward and backward, above what was there before: what the libraries below torch allocate
# counts as well.
AT_32_CUBED = """
import resource, torch
from mtl_med.networks.exchange.affinity import gather
x, v = (torch.randn(1, 2, 128, 32, 32, 32, requires_grad=True) for _ in range(2))
w, b = torch.randn(2, 27, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024
gradients = torch.autograd.grad(gather(x, v, w, b, False, True).square().mean(), (x, v, w, b))
assert all(bool(gradient.any()) for gradient in gradients)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_at_32_cubed_tokens(run_python: Callable[..., Any]) -> None:
    done = run_python("-c", AT_32_CUBED, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    result_and_gradients = 3 * 2 * 128 * 32**3 * 4 / 2**20
    assert result_and_gradients < float(done.stdout) < 1.2 * 1024


def test_memory_grows_with_the_tokens_and_not_with_their_square() -> None:
    def step(side: int, form: Callable[..., Tensor]) -> Callable[[], Any]:
        f, v = (torch.randn(1, 2, 4, side, side, side, requires_grad=True) for _ in range(2))
        w, b = torch.randn(2, 27, 1), torch.zeros(1)
        return lambda: torch.autograd.grad(form(f, v, w, b).sum(), (f, v))

    linear = [peak_mib(step(side, linear_affinity)) for side in (8, 10)]
    assert linear[1] < 2.2 * linear[0]  # 10^3 / 8^3 = 1.95
    assert peak_mib(step(8, full_affinity)) > 5 * linear[0]  # the must-fail twin


def test_recomputing_taps_saves_memory() -> None:
    given = [x.float().requires_grad_() for x in parts(3, 2, 24)]

    def step(recompute: bool) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(linear_affinity(*given, recompute).sum(), given)

    assert peak_mib(step(True)) < 0.5 * peak_mib(step(False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": "sharde"}, "unknown filters 'sharde'.*Did you mean shared"),
        ({"filters": "per_query"}, "query_grid is missing.*needs 3 sizes.*filters='shared'"),
        ({"filters": "per_query", "query_grid": (4, 4)}, "query_grid is .4, 4..*needs 3 sizes"),
        ({"filters": "per_query", "query_grid": (4, 4, 0)}, "needs 3 sizes of at least 1"),
        ({"query_grid": (4, 4, 4)}, "shared by all positions.*filters='per_query'"),
        ({"gamma": 1.5}, "gamma is 1.5.*0, 1"),
        ({"affinity_channels": 0}, "affinity_channels is 0.*at least 1"),
        ({"full_below": -1}, "full_below is -1.*0 for never"),
        ({"norm": "bacth"}, "unknown norm.*batch"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CTAL(3, 6, ("a", "b"), **options)
