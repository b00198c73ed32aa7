"""KEM and sKEM: the three steps by their equations, the frame, and what follows from both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import initialise
from mtl_med.networks.exchange.kem import KEM, SKEM, equiangular_frame
from mtl_med.networks.exchange.workspace import top_k_softmax

NAMES = ("a", "b", "c")
SIZES = {2: (5, 4), 3: (3, 4, 2)}
NORM = ("instance", {"affine": True})
both_dims = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
both_kinds = pytest.mark.parametrize("kind", [KEM, SKEM])


def block(kind: type[KEM] = KEM, dims: int = 3, tasks: tuple[str, ...] = NAMES[:2], **options: Any) -> KEM:
    """A small block in fp64 with 6 channels, initialised as in a network, norms away from 1 and 0."""
    torch.manual_seed(0)
    kem = kind(dims, 6, tasks, **{"slots": 4, "norm": NORM, **options}).double()
    kem.apply(initialise)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(kem.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise if "mlp" in name or parameter.ndim == 1 else 0)
    return kem


def features(dims: int = 3, count: int = 2, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 6, *SIZES[dims])
    return {task: torch.randn(shape, generator=generator, dtype=torch.float64) for task in NAMES[:count]}


def softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def only_largest(s: np.ndarray, k: int) -> np.ndarray:
    """All but the k largest entries of each row are -inf."""
    kept = np.full_like(s, -np.inf)
    for row, order in enumerate(np.argsort(s, axis=1)[:, ::-1]):
        kept[row, order[:k]] = s[row, order[:k]]
    return kept


def written_out(kem: KEM, given: dict[str, Tensor], k: int, heads: int) -> dict[str, np.ndarray]:
    """The equations, sample by sample and head by head, with every token projected."""
    w = {name: x.detach().numpy() for name, x in kem.state_dict().items()}
    embedded = {task: kem.embed[task](x).detach().flatten(2).transpose(1, 2).numpy() for task, x in given.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    results: dict[str, list[np.ndarray]] = {task: [] for task in given}
    for sample in range(len(embedded["a"])):
        each = {task: x[sample] for task, x in embedded.items()}
        seen = dict(each)
        if "frame" in w:
            for task, x in each.items():
                projected = x @ w["frame"]
                seen[task] = projected / np.linalg.norm(projected, axis=1, keepdims=True).clip(min=1e-3)
        x = np.concatenate(list(seen.values()))
        d = w["memory"].shape[1] // heads
        parts = [slice(h * d, (h + 1) * d) for h in range(heads)]
        read = []
        for part in parts:
            s = (w["memory"] @ w["retrieve_query"])[:, part] @ (x @ w["retrieve_key"])[:, part].T / np.sqrt(d)
            read.append(softmax(only_largest(s, k)) @ (x @ w["retrieve_value"])[:, part])
        r = norm(w["memory"] + np.concatenate(read, 1), "memory_norm")
        for task, own in each.items():
            told = []
            for part in parts:
                q = (seen[task] @ w["broadcast_query"])[:, part]
                s = q @ (r @ w["broadcast_key"])[:, part].T / np.sqrt(d)
                told.append(softmax(s) @ (r @ w["broadcast_value"])[:, part])
            y = own + np.concatenate(told, 1)
            hidden = np.maximum(norm(y, "norm") @ w["mlp.0.weight"].T + w["mlp.0.bias"], 0)
            results[task].append(y + hidden @ w["mlp.2.weight"].T + w["mlp.2.bias"])
    return {task: np.stack(each).transpose(0, 2, 1).reshape(given[task].shape) for task, each in results.items()}


@both_dims
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES], ids=["one task", "two tasks", "three tasks"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (KEM, {"top_k": 5}),
        (KEM, {"top_k": 7, "heads": 3, "mlp_ratio": 0.5}),
        (KEM, {"top_k": 10**6, "slots": 1}),
        (SKEM, {"top_k": 5}),
        (SKEM, {"top_k": 5, "vertices": 3, "heads": 2}),
    ],
    ids=["KEM", "KEM of three heads", "KEM of all tokens and one slot", "sKEM", "sKEM of three vertices"],
)
def test_block_follows_the_equations(kind: type[KEM], options: dict, dims: int, names: tuple[str, ...]) -> None:
    kem, given = block(kind, dims, names, **options), features(dims, len(names))
    k = min(options["top_k"], len(names) * int(np.prod(SIZES[dims])))
    results = kem(given)
    for task, expected in written_out(kem, given, k, options.get("heads", 1)).items():
        np.testing.assert_allclose(results[task].detach().numpy(), expected, rtol=1e-9, atol=1e-11)
    if k < 10:  # one token more is another result
        other = written_out(kem, given, k + 1, options.get("heads", 1))["a"]
        assert not np.allclose(results["a"].detach().numpy(), other, rtol=1e-6)


def test_softmax_of_the_largest_by_hand() -> None:
    s = torch.tensor([[0.0, float(np.log(3.0)), -1.0, float(np.log(2.0))], [5.0, 5.0, 1.0, 5.0]])
    kept = top_k_softmax(s, 2)
    torch.testing.assert_close(kept[0], torch.tensor([0.0, 0.6, 0.0, 0.4]))
    assert sorted(kept[1].tolist()) == [0, 0, 0.5, 0.5]  # two of three equal ones
    assert kept[1, 2] == 0
    assert torch.equal(top_k_softmax(s, 4), s.softmax(1))


def test_the_others_get_no_gradient() -> None:
    s = torch.tensor([[0.3, -0.2, 1.0, 0.5]], requires_grad=True)
    (top_k_softmax(s, 2) * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert s.grad is not None
    assert (s.grad != 0).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    ("top_k", "count", "expected"), [(None, 5, 5), (None, 100, 8), (None, 320, 20), (7, 320, 7), (7, 3, 3)]
)
def test_how_many_tokens_a_slot_reads(top_k: int | None, count: int, expected: int) -> None:
    assert block(top_k=top_k).keep(count) == expected


@pytest.mark.parametrize(("dim", "vertices"), [(2, 2), (5, 2), (6, 6), (40, 17)])
def test_frame(dim: int, vertices: int) -> None:
    frame = equiangular_frame(dim, vertices)
    assert frame.shape == (dim, vertices)
    cosines = torch.full((vertices, vertices), -1 / (vertices - 1), dtype=torch.float64)
    torch.testing.assert_close(frame.T @ frame, cosines.fill_diagonal_(1.0), rtol=0, atol=1e-10)
    values = torch.linalg.svdvals(frame)
    expected = torch.full((vertices,), (vertices / (vertices - 1)) ** 0.5, dtype=torch.float64)
    expected[-1] = 0.0  # rank V - 1, and the same length in every other direction
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10)
    assert torch.equal(frame, equiangular_frame(dim, vertices))
    assert not torch.allclose(frame, equiangular_frame(dim, vertices, seed=1))


def test_frame_of_two_by_hand() -> None:
    """Two unit vectors opposite each other, whatever the orientation."""
    frame = equiangular_frame(2, 2)
    torch.testing.assert_close(frame[:, 0], -frame[:, 1])
    assert float(frame[:, 0].norm()) == pytest.approx(1, abs=1e-12)


def test_frame_is_saved_and_not_learned() -> None:
    one, other = block(SKEM), block(SKEM)
    assert "frame" in one.state_dict()
    assert "frame" not in dict(one.named_parameters())
    torch.testing.assert_close(one.frame, equiangular_frame(6, 6), rtol=0, atol=1e-6)
    other.frame.zero_()
    assert not torch.allclose(other(features())["a"], one(features())["a"])
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(features())["a"], one(features())["a"])


def test_the_memory_of_skem_sees_directions_alone() -> None:
    """Twice as long tokens are the same to it; to KEM they are not. With two vertices one sign is left."""
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    stable, plain = block(SKEM), block(KEM)
    torch.testing.assert_close(stable.through_memory(2 * x), stable.through_memory(x))
    assert not torch.allclose(plain.through_memory(2 * x)[1], plain.through_memory(x)[1])
    assert stable.seen(x).shape == (2, 9, 6)
    two = block(SKEM, vertices=2).seen(x)
    torch.testing.assert_close(two.abs(), torch.full((2, 9, 2), 0.5**0.5, dtype=torch.float64))


@both_kinds
def test_the_order_of_the_tasks_does_not_matter(kind: type[KEM]) -> None:
    given = features(3, 3)
    one, other = block(kind, tasks=("a", "b", "c")), block(kind, tasks=("c", "a", "b"))
    other.load_state_dict(one.state_dict())
    results, reordered = one(given), other({task: given[task] for task in ("b", "c", "a")})
    for task in NAMES:
        torch.testing.assert_close(reordered[task], results[task], rtol=1e-12, atol=1e-12)


@both_kinds
def test_swapping_two_tasks_swaps_the_results(kind: type[KEM]) -> None:
    kem, given = block(kind), features()
    results = kem(given)
    kem.embed["a"], kem.embed["b"] = kem.embed["b"], kem.embed["a"]
    swapped = kem({"a": given["b"], "b": given["a"]})
    torch.testing.assert_close((swapped["a"], swapped["b"]), (results["b"], results["a"]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(results["a"], results["b"])


@both_kinds
def test_tasks_that_share_one_map_still_differ(kind: type[KEM]) -> None:
    """Behind hard sharing every task brings the same map: each looks at it in its own way before they meet."""
    kem, shared = block(kind), features()["a"]
    results = kem({"a": shared, "b": shared})
    assert not torch.allclose(results["a"], results["b"])
    kem.embed["b"].load_state_dict(kem.embed["a"].state_dict())  # the must-fail twin
    results = kem({"a": shared, "b": shared})
    torch.testing.assert_close(results["a"], results["b"])


@both_kinds
def test_permuted_positions_permute_the_result(kind: type[KEM]) -> None:
    kem, given = block(kind), features()
    results = kem(given)
    turned = kem({task: x.flip(2).transpose(3, 4) for task, x in given.items()})
    torch.testing.assert_close(turned["a"], results["a"].flip(2).transpose(3, 4), rtol=1e-11, atol=1e-12)


@both_kinds
def test_samples_do_not_see_each_other_and_nothing_is_carried_over(kind: type[KEM]) -> None:
    kem, given = block(kind), features()
    both, state = kem(given), {name: x.clone() for name, x in kem.state_dict().items()}
    alone, again = kem({task: x[1:] for task, x in given.items()}), kem(given)
    assert all(torch.equal(x, state[name]) for name, x in kem.state_dict().items())
    for task in given:
        assert torch.equal(again[task], both[task])
        torch.testing.assert_close(alone[task], both[task][1:], rtol=1e-11, atol=1e-12)


def reached(kem: KEM, part: str, task: str = "a") -> bool:
    """Whether a loss on `task` teaches `part`."""
    kem.zero_grad(set_to_none=True)
    kem(features())[task].square().sum().backward()
    found = [p.grad for name, p in kem.named_parameters() if name.startswith(part)]
    assert found
    return all(gradient is not None and bool(gradient.any()) for gradient in found)


@both_kinds
def test_a_loss_reaches_everything_and_the_other_task_through_the_memory_alone(kind: type[KEM]) -> None:
    kem = block(kind)
    assert reached(kem, "")
    with torch.no_grad():
        kem.broadcast_value.zero_()  # the must-fail twin: nothing is told
    assert not reached(kem, "embed.b")
    assert reached(kem, "embed.a")


@both_kinds
def test_scores_begin_wide_apart(kind: type[KEM]) -> None:
    """As initialised in a network: a slot that read all tokens alike would learn nothing about them."""
    kem = kind(3, 64, ("a", "b"), top_k=10**6, norm=NORM).apply(initialise)
    given = {task: torch.randn(1, 64, 4, 4, 4) for task in ("a", "b")}
    largest = kem.attention(given)["a"].detach().amax(1)
    assert 1.3 / 16 < float(largest.mean()) < 0.9


@both_dims
@both_kinds
def test_attention_is_the_weights_of_the_broadcast(kind: type[KEM], dims: int) -> None:
    kem, given = block(kind, dims, heads=2), features(dims)
    maps = kem.attention(given)
    assert {task: tuple(x.shape) for task, x in maps.items()} == dict.fromkeys(given, (2, 4, *SIZES[dims]))
    for x in maps.values():
        assert x.min() > 0
        torch.testing.assert_close(x.sum(1), torch.ones_like(x[:, 0]))
    one_head = block(kind, dims)
    with torch.no_grad():
        one_head.mlp[2].weight.zero_(), one_head.mlp[2].bias.zero_()
        one_head.memory_norm.weight.zero_()  # every R' is the bias, so that whatever is read is R' Wv'
    told = one_head.memory_norm.bias @ one_head.broadcast_value
    added = one_head(given)["b"] - one_head.embed["b"](given["b"])
    torch.testing.assert_close(added, told.reshape(1, -1, *(1,) * dims).expand_as(added))


@both_dims
@both_kinds
def test_channels_last_memory_is_kept_and_changes_nothing(kind: type[KEM], dims: int) -> None:
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    kem, given = block(kind, dims), features(dims)
    channels_last = {task: x.contiguous(memory_format=layout) for task, x in given.items()}
    expected = kem(given)
    torch.testing.assert_close(kem.to(memory_format=layout)(channels_last), expected, rtol=1e-9, atol=1e-11)
    for task in given:
        kem.embed[task] = nn.Identity()  # torch's convolutions do not keep every order
    assert all(x.is_contiguous(memory_format=layout) for x in kem(channels_last).values())
    assert all(x.is_contiguous() for x in kem(given).values())


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_memory_is_in_full_precision_under_autocast(kind: type[KEM], dtype: torch.dtype) -> None:
    kem, x = block(kind).float(), torch.randn(2, 40, 6)
    expected = kem.through_memory(x)
    with torch.autocast("cpu", dtype):
        assert (x @ x.mT).dtype == dtype  # autocast is on
        torch.testing.assert_close(kem.exchange(x), expected)
        assert kem.exchange(x.to(dtype))[1].dtype == torch.float32


@both_dims
@both_kinds
def test_block_under_autocast_is_near_fp32(kind: type[KEM], dims: int) -> None:
    kem = block(kind, dims).float()
    given = {task: x.float().requires_grad_() for task, x in features(dims).items()}
    expected = kem(given)
    with torch.autocast("cpu", torch.bfloat16):
        results = kem(given)
    for task, result in results.items():
        assert torch.corrcoef(torch.stack([result.float().flatten(), expected[task].flatten()]))[0, 1] > 0.99
    sum(result.float().square().sum() for result in results.values()).backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.any() for x in given.values())


class Pair(nn.Module):
    """Two tensors in, two out: what the exporters take."""

    def __init__(self, exchange: nn.Module) -> None:
        super().__init__()
        self.exchange = exchange

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        results = self.exchange({"a": a, "b": b})
        return results["a"], results["b"]


@both_dims
@both_kinds
def test_torchscript_equals_eager(kind: type[KEM], dims: int, tmp_path: Path) -> None:
    kem = block(kind, dims, heads=2, act="leakyrelu")
    torch.jit.script(kem).save(str(tmp_path / "kem.ts"))
    loaded, given = torch.jit.load(str(tmp_path / "kem.ts")), features(dims)
    for some in (given, {task: x[:, :, 1:] for task, x in given.items()}):  # another size than the first one
        torch.testing.assert_close(loaded(some), kem(some), rtol=1e-9, atol=1e-11)


@both_kinds
def test_torchscript_under_autocast(kind: type[KEM]) -> None:
    kem, given = block(kind).float().eval(), {task: x.float() for task, x in features().items()}
    scripted = torch.jit.script(kem)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        results = scripted(given)
    for task, result in kem(given).items():
        assert torch.corrcoef(torch.stack([result.flatten(), results[task].float().flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("kind", "dims", "dynamo"),
    [(SKEM, 3, True), (KEM, 2, False), (SKEM, 3, False)],
)
def test_onnx_equals_eager(kind: type[KEM], dims: int, dynamo: bool, tmp_path: Path) -> None:
    import onnxruntime

    kem = block(kind, dims).float().eval()
    given = [x[:1].float() for x in features(dims).values()]
    path = str(tmp_path / "kem.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        torch.onnx.export(Pair(kem), tuple(given), path, input_names=["a", "b"], dynamo=dynamo, verbose=False)
    inputs = {name: x.numpy() for name, x in zip("ab", given, strict=True)}
    outputs = onnxruntime.InferenceSession(path).run(None, inputs)
    for output, expected in zip(outputs, Pair(kem)(*given), strict=True):
        np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-3, atol=2e-5)


def peak_mib(function: Callable[[], Any]) -> float:
    """Most MiB that torch has allocated at a time, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(live.max()) / 2**20


@both_kinds
def test_memory_grows_with_the_tokens_and_not_with_their_square(kind: type[KEM]) -> None:
    kem = kind(3, 16, ("a", "b"), norm=NORM)

    def step(side: int) -> Callable[[], Any]:
        given = {task: torch.randn(1, 16, side, side, side, requires_grad=True) for task in ("a", "b")}
        return lambda: torch.autograd.grad(sum(x.sum() for x in kem(given).values()), list(given.values()))

    few, many = peak_mib(step(10)), peak_mib(step(16))
    assert many < 1.1 * few * (16 / 10) ** 3
    assert many < (2 * 16**3) ** 2 * 4 / 2**20 / 8  # one matrix of all tokens by all tokens is 256 MiB


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (KEM, {"slots": 0}, "slots is 0.*at least 1"),
        (KEM, {"top_k": 0}, "top_k is 0.*leave top_k out"),
        (KEM, {"heads": 4}, "heads is 4, which does not divide 6 channels.*1, 2, 3, 6"),
        (KEM, {"mlp_ratio": 0.0}, "mlp_ratio is 0.0.*positive"),
        (KEM, {"act": "rellu"}, "unknown act.*relu"),
        (SKEM, {"vertices": 1}, "vertices is 1.*between 2 and 6.*Leave vertices out"),
        (SKEM, {"vertices": 7}, "vertices is 7.*between 2 and 6"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_refused(kind: type[KEM], options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(3, 6, ("a", "b"), **options)


def test_width() -> None:
    assert block().out_channels(6) == 6
    assert {task: x.shape for task, x in block()(features()).items()} == {t: x.shape for t, x in features().items()}
