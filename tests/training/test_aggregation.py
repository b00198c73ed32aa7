"""Aggregated gradients: what is shared, plain backward as the anchor, each method's property, two processes, memory.

Run as a script, this file is one of two processes: `test_aggregation.py RANK FOLDER`.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from mtl_med.errors import UsageError
from mtl_med.networks import create_network
from mtl_med.tasks import Task
from mtl_med.training import aggregation, gradients
from mtl_med.training.aggregation import AGGREGATORS, Aggregator, backward, create_aggregator
from mtl_med.training.losses import MultiTaskLoss
from mtl_med.training.runtime import distribute, parameter_groups, unwrap
from mtl_med.training.trainer import MultiTaskTrainer

PIXEL = (Task("oar", "segmentation", 2), Task("dose", "regression"))
MIXED = (*PIXEL, Task("diagnosis", "classification", 3))
CPU = torch.device("cpu")
CASES, STEPS = 2, 3

Labels = dict[str, list[int]]  # per task 0 or 1 for each case; a task that is not in it has all labels


@pytest.fixture(autouse=True, scope="module")
def solvers(require_judge: Callable[[str], str]) -> None:
    """torchjd and its solvers, imported before a test pretends that one of them is missing."""
    for name in ("torchjd", "quadprog", "qpsolvers", "cvxpy", "ecos"):
        require_judge(name)
    importlib.import_module("torchjd.aggregation")


def network(method: str = "ctan", tasks: tuple[Task, ...] = PIXEL, dims: int = 2, **options: Any) -> nn.Module:
    """A tiny network in fp64, with weights that let every task's gradient reach everything."""
    torch.manual_seed(0)
    options = {"channels": (4, 6), "bottleneck": 8, "image_width": 4, "norm": "instance", **options}
    net = create_network(method, tasks, dims, **options).double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".out." in name:
                parameter.normal_(std=0.3)
    return net


def batch_of(dims: int = 2, labels: Labels | None = None, seed: int = 0, side: int = 12) -> dict[str, Tensor]:
    """Two cases; labels that are missing hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    shape = (side,) * dims
    batch = {
        "image": torch.randn(CASES, 1, *shape, generator=generator).double(),
        "oar": torch.randint(0, 2, (CASES, 2, *shape), generator=generator).double(),
        "dose": torch.randn(CASES, 1, *shape, generator=generator).double(),
        "diagnosis": torch.randint(0, 3, (CASES,), generator=generator),
        "mask_dose": torch.ones(CASES, 1, *shape, dtype=torch.uint8),
    }
    for name, channels in (("oar", 2), ("dose", 1), ("diagnosis", 1)):
        known = torch.tensor((labels or {}).get(name, [1] * CASES), dtype=torch.bool)
        batch[f"labelled_{name}"] = known[:, None].expand(CASES, channels).clone()
        if name != "diagnosis":
            batch[name][~known] = torch.nan
    return batch


def gradients_of(net: nn.Module, loss: MultiTaskLoss, batch: dict, name: str | None) -> dict[str, Tensor | None]:
    """The gradient of every parameter: of the combined loss, or of an aggregator."""
    losses = loss.task_losses(net(batch["image"]), batch)
    if name is None:
        loss.combine(losses).backward()
    else:
        absent, own = list(losses.absent.values()), list(loss.parameters())
        backward(loss.weighted(losses), net.parameters(), Aggregator(name), absent=absent, weighting=own)
    named = [*net.named_parameters(), *loss.named_parameters()]
    found = {key: parameter.grad for key, parameter in named}
    for _, parameter in named:
        parameter.grad = None
    return found


def test_the_weightings_own_parameters_are_not_shared() -> None:
    """Uncertainty's scales are one vector, which every task's loss reaches: it gets its plain gradient all the same."""
    net = network("hps")
    loss, batch = MultiTaskLoss(PIXEL, "uncertainty").double(), batch_of()
    plain, mean = (gradients_of(net, loss, batch, name)["weighting.log_scales"] for name in (None, "mean"))
    assert plain is not None
    torch.testing.assert_close(mean, plain, rtol=1e-12, atol=0.0)


def assert_equal(found: dict, expected: dict, rtol: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            size = max(float(gradient.abs().max()), 1e-8)
            assert float((found[name] - gradient).abs().max()) <= rtol * size, name


# ------------------------------------------------------------------------------------------- plain backward, and shares


@pytest.mark.parametrize("absent", [(), ("dose",), ("oar", "dose")], ids=["all labels", "no dose", "no label"])
@pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
@pytest.mark.parametrize("method", ["ctan", "hps", "mtan", "stl"])
def test_the_sum_is_the_plain_backward_pass_with_skips(method: str, dims: int, absent: tuple[str, ...]) -> None:
    net, loss = network(method, PIXEL, dims), MultiTaskLoss(PIXEL, "equal")
    batch = batch_of(dims, {name: [0] * CASES for name in absent}, side=8)
    plain = gradients_of(net, loss, batch, None)
    assert_equal(gradients_of(net, loss, batch, "sum"), plain, rtol=1e-9)
    assert all(gradient is not None for gradient in plain.values())
    assert any(bool(gradient.any()) for gradient in plain.values()) == (len(absent) < 2)


def test_the_sum_is_the_plain_backward_pass_in_fp32() -> None:
    net, loss = network("ctan", MIXED).float(), MultiTaskLoss(MIXED, "equal")
    batch = batch_of()
    batch["image"] = batch["image"].float()
    plain, summed = (gradients_of(net, loss, batch, name) for name in (None, "sum"))
    difference, whole = (
        torch.cat([piece.flatten() for piece in pieces]).norm()
        for pieces in ([summed[name] - plain[name] for name in plain], plain.values())
    )
    assert difference <= 1e-6 * whole


@pytest.mark.parametrize("weighting", ["dwa", "uncertainty"])
def test_the_weighting_weighs_the_losses_before_and_learns_as_ever(weighting: str) -> None:
    net, loss = network("mtan", MIXED), MultiTaskLoss(MIXED, weighting)
    loss.weighting.factors.copy_(torch.tensor([0.5, 2.0, 3.0]))  # dwa's; uncertainty does not read them
    for parameter in loss.parameters():
        parameter.data.copy_(torch.tensor([0.3, -0.2, 0.1]))
    batch = batch_of(labels={"diagnosis": [0, 1]})
    plain = gradients_of(net, loss, batch, None)
    assert_equal(gradients_of(net, loss, batch, "sum"), plain, rtol=1e-6)
    assert ("weighting.log_scales" in plain) == (weighting == "uncertainty")


SHARED = {  # method -> what of it several tasks share
    "hps": lambda name: not name.startswith("decoders."),
    "mtan": lambda name: not (name.startswith("decoders.") or ".mask." in name),
    "ctan": lambda name: not name.startswith("decoders."),
    "stl": lambda name: False,
}


@pytest.mark.parametrize("method", SHARED)
def test_only_what_tasks_share_is_aggregated(method: str) -> None:
    """The mean of two tasks is half of their sum; what belongs to one task keeps its own gradient."""
    net, loss, batch = network(method), MultiTaskLoss(PIXEL, "equal"), batch_of()
    plain = gradients_of(net, loss, batch, None)
    shared = {name for name in plain if SHARED[method](name)}
    assert (len(shared) > 0) == (method != "stl")
    expected = {name: gradient / 2 if name in shared else gradient for name, gradient in plain.items()}
    assert_equal(gradients_of(net, loss, batch, "mean"), expected, rtol=1e-9)


def test_an_absent_task_has_no_say() -> None:
    """The mean of three tasks, one of them without labels, is the mean of two; of one alone it is its gradient."""
    net, loss = network("hps", MIXED), MultiTaskLoss(MIXED, "equal")
    batch = batch_of(labels={"dose": [0, 0]})
    plain, mean = (gradients_of(net, loss, batch, name) for name in (None, "mean"))
    assert_equal(
        {name: mean[name] for name in mean if name.startswith("encoder")},
        {name: plain[name] / 2 for name in plain if name.startswith("encoder")},
        rtol=1e-9,
    )
    alone = batch_of(labels={"dose": [0, 0], "oar": [0, 0]})
    expected = gradients_of(net, loss, alone, None)
    for name in ("mean", "cagrad", "nash_mtl"):
        assert_equal(gradients_of(net, loss, alone, name), expected, rtol=1e-9)


def test_frozen_parameters_stay_without_gradient_and_old_gradients_are_replaced() -> None:
    net, loss, batch = network(), MultiTaskLoss(PIXEL, "equal"), batch_of()
    net.encoder.requires_grad_(False)
    for parameter in net.decoders.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    found = gradients_of(net, loss, batch, "sum")
    assert [name for name, gradient in found.items() if gradient is None] == [
        f"encoder.{name}" for name, _ in net.encoder.named_parameters()
    ]
    assert all(bool(gradient.isfinite().all()) for gradient in found.values() if gradient is not None)


# --------------------------------------------------------------------------------------------------------- the methods


def aggregate(name: str, jacobian: list[list[float]] | Tensor, step: int = 0) -> Tensor:
    """The aggregated gradient of linear losses with these slopes."""
    slopes = torch.as_tensor(jacobian, dtype=torch.float64)
    x = torch.zeros(slopes.shape[1], dtype=torch.float64, requires_grad=True)
    backward({f"task{i}": row @ x for i, row in enumerate(slopes)}, [x], Aggregator(name), step)
    return x.grad


APART = [[3.0, 0.0], [0.0, 1.0]]  # no conflict, unequal lengths
AGAINST = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]  # inner product -22, squared lengths 18 and 38
GOLDEN = {  # by hand from each paper's definition
    "sum": ([3, 1], [2, 2, 2]),
    "mean": ([1.5, 0.5], [1, 1, 1]),
    # Each gradient loses what points against the other: g1 + 22/38 g2 and g2 + 22/18 g1; the mean, and the sum.
    "upgrad": ([1.5, 0.5], [-4 * 20 / 18 + 6 * 15 / 19, 20 / 18 + 15 / 19, 20 / 18 + 15 / 19]),
    "pcgrad": ([3, 1], [-4 * 40 / 18 + 6 * 30 / 19, 40 / 18 + 30 / 19, 40 / 18 + 30 / 19]),
    # The shortest vector between the two.
    "mgda": ([0.3, 0.9], [0, 1, 1]),
    # The principal directions are made as long as the shortest one.
    "aligned_mtl": ([0.5, 0.5], None),
    # Equal projections on both gradients, weights of sum 1.
    "imtl_g": ([0.75, 0.75], None),
    "cagrad": (None, None),
    # Equal gain of both tasks: weight times inner product with the result, here the gradients' summed squared length.
    "nash_mtl": ([10**0.5, 10**0.5], None),
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_golden_numbers(name: str) -> None:
    apart, against = GOLDEN[name]
    rel = 1e-2 if name == "nash_mtl" else 1e-6  # an iterative solver
    if apart is not None:
        assert aggregate(name, APART).tolist() == pytest.approx(apart, rel=rel)
    if against is not None:
        assert aggregate(name, AGAINST).tolist() == pytest.approx(against, rel=rel, abs=1e-9)
    if name == "cagrad":  # c = 0.4 of the mean's length is added along the mean
        assert aggregate(name, [[1.0, 0.0], [0.0, 1.0]]).tolist() == pytest.approx([0.7, 0.7], rel=1e-4)


def conflicting(tasks: int = 3, shortest: float = 0.1) -> Tensor:
    """Gradients of which each pair is in conflict, and of which the last is much shorter than the others."""
    rows = torch.tensor([[1.0, 0.0, 0.1], [-1.0, 1.7, 0.2], [-0.5, -0.9, 0.1]]).double()[:tasks]
    rows[-1] *= shortest
    assert all((rows @ rows.T)[i, j] < 0 for i in range(tasks) for j in range(i))
    return rows


def test_upgrad_conflicts_with_no_task_however_small_its_gradient() -> None:
    rows = conflicting(shortest=1e-3)
    gains = rows @ aggregate("upgrad", rows) / rows.norm(dim=1)
    assert float(gains.min()) >= -1e-5
    assert float((rows @ aggregate("mean", rows)).min()) < 0  # which the mean does not do


def test_mgda_stands_still_where_no_step_helps_all() -> None:
    assert aggregate("mgda", [[1.0, 0.0], [-2.0, 0.0]]).abs().max() < 1e-9
    assert aggregate("mgda", [[1.0, 0.0], [-2.0, 0.1]]).abs().max() > 1e-2


def test_imtl_g_and_nash_mtl_treat_tasks_alike() -> None:
    rows = conflicting(2)
    projections = rows @ aggregate("imtl_g", rows) / rows.norm(dim=1)
    assert projections.tolist() == pytest.approx([float(projections[0])] * 2, rel=1e-6)
    products = rows @ rows.T / rows.square().sum()
    weights = torch.tensor(Aggregator("nash_mtl").weights(rows @ rows.T)).double()
    assert (weights * (products @ weights)).tolist() == pytest.approx([1.0, 1.0], rel=1e-2)


@pytest.mark.parametrize("name", AGGREGATORS)
class TestEveryAggregator:
    def test_the_scale_of_the_losses_does_not_matter(self, name: str) -> None:
        """Also far below torchjd's own thresholds, and times the factor of fp16."""
        products = conflicting() @ conflicting().T
        weights = Aggregator(name).weights(products)
        for factor in (2.0**-40, 2.0**32):
            assert Aggregator(name).weights(products * factor) == pytest.approx(weights, rel=1e-3)

    def test_seed_and_step_decide_and_the_global_generator_is_left_alone(self, name: str) -> None:
        products = conflicting() @ conflicting().T
        before = torch.get_rng_state()
        aggregator = Aggregator(name, seed=7)
        first = [aggregator.weights(products, step) for step in range(4)]
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
        again = Aggregator(name, seed=7)  # as after a resume: no state but seed and step
        assert [again.weights(products, step) for step in (3, 2)] == [first[3], first[2]]

    def test_a_task_without_gradient_has_no_say(self, name: str) -> None:
        products = torch.tensor(AGAINST).double() @ torch.tensor(AGAINST).double().T
        padded = torch.zeros(3, 3, dtype=torch.float64)
        padded[:2, :2] = products
        assert Aggregator(name).weights(padded) == [*Aggregator(name).weights(products), 1.0]

    def test_gradients_that_overflowed_are_left_for_the_scaler_to_find(self, name: str) -> None:
        x = torch.ones(2, dtype=torch.float64, requires_grad=True)
        backward({"a": x.sum(), "b": math.inf * x[0] - x[1]}, [x], Aggregator(name))
        assert not torch.isfinite(x.grad).all()
        assert Aggregator(name).weights(torch.zeros(2, 2, dtype=torch.float64)) == [1.0, 1.0]


def test_pcgrad_meets_the_tasks_in_another_order_at_another_step() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -0.5, 1.0]]).double()
    weights = {tuple(Aggregator("pcgrad").weights(rows @ rows.T, step)) for step in range(20)}
    assert len(weights) > 1


def test_twin_torchjd_alone_resolves_no_conflict_of_small_gradients() -> None:
    """What `weights` prevents by scaling: below a norm of 0.01 torchjd's UPGrad is the mean."""
    jacobian = 1e-3 * torch.tensor(AGAINST)
    upgrad = importlib.import_module("torchjd.aggregation").UPGrad()
    assert torch.allclose(upgrad(jacobian), jacobian.mean(0), rtol=1e-2)
    assert not np.allclose(aggregate("upgrad", jacobian), jacobian.mean(0), rtol=1e-2)


def test_losses_scaled_for_fp16_give_scaled_gradients() -> None:
    net, loss, batch = network(), MultiTaskLoss(PIXEL, "equal"), batch_of()
    found = []
    for factor in (1.0, 2.0**16):
        losses = {name: factor * value for name, value in loss.task_losses(net(batch["image"]), batch).means.items()}
        backward(losses, net.parameters(), Aggregator("upgrad"))
        found.append({name: parameter.grad / factor for name, parameter in net.named_parameters()})
    assert_equal(found[1], found[0], rtol=1e-9)


@pytest.mark.parametrize(("missing", "name"), [("torchjd", "mgda"), ("quadprog", "upgrad"), ("cvxpy", "cagrad")])
def test_what_is_not_installed_is_named_before_the_training(
    missing: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (missing, f"{missing}.aggregation"):
        monkeypatch.setitem(sys.modules, module, None)
    package = {"mgda": r"torchjd,", "upgrad": r"torchjd\[quadprog-projector\],", "cagrad": r"torchjd\[cagrad\],"}[name]
    with pytest.raises(UsageError, match=rf"'{name}' needs {package} .* pip install 'mtl_med\[grad\]'\.$") as caught:
        create_aggregator(name)
    assert "\n" not in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="unknown aggregator 'upgrade'. Did you mean upgrad"):
        create_aggregator("upgrade")
    assert create_aggregator(None) is None


# --------------------------------------------------------------------------------------------------------- the trainer


def train(
    method: str = "ctan",
    tasks: tuple[Task, ...] = PIXEL,
    aggregator: str | None = None,
    conflict_every: int = 0,
    weighting: str = "equal",
    labels: list[Labels] | None = None,
    cases: slice = slice(None),
    **options: Any,
) -> dict[str, Any]:
    """Weights and metrics after three steps of plain gradient descent on some of the two cases of each batch."""
    net = distribute(network(method, tasks).to(options.pop("dtype", torch.float64)), CPU)
    loss = MultiTaskLoss(tasks, weighting)
    batches = [batch_of(labels=(labels or [{}] * STEPS)[step], seed=step) for step in range(STEPS)]
    for batch in batches:
        batch["image"] = batch["image"].to(next(net.parameters()).dtype)
    loader: DataLoader = DataLoader([{k: v[cases] for k, v in batch.items()} for batch in batches], batch_size=None)
    optimizer = torch.optim.SGD(parameter_groups(net, loss), lr=0.05)
    chosen = create_aggregator(aggregator)
    engine = MultiTaskTrainer(
        CPU, 1, loader, net, optimizer, loss, aggregator=chosen, conflict_every=conflict_every, **options
    )
    engine.run()
    state = {name: value.detach().clone() for name, value in unwrap(net).state_dict().items()}
    return {"weights": state, "metrics": dict(engine.state.metrics), "loss": float(engine.state.output["loss"])}


def same(first: dict, second: dict, rtol: float = 0.0) -> bool:
    """Whether two trainings ended with the same weights."""
    return all(
        torch.allclose(value, second["weights"][name], rtol=rtol, atol=1e-3 * rtol)
        for name, value in first["weights"].items()
    )


def test_training_with_the_sum_is_training_without_aggregator() -> None:
    labels: list[Labels] = [{}, {"dose": [0, 0]}, {"oar": [0, 1]}]
    plain, summed = (train(labels=labels, aggregator=name, max_grad_norm=1.0) for name in (None, "sum"))
    assert same(summed, plain, rtol=1e-8)
    assert summed["loss"] == pytest.approx(plain["loss"])
    assert not same(train(labels=labels, aggregator="mgda", max_grad_norm=1.0), plain, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("method", ["ctan", "stl"])
def test_measuring_the_conflict_changes_no_weight(method: str, dtype: torch.dtype) -> None:
    options = {
        "dtype": torch.float32,
        "precision": None if dtype == torch.float32 else dtype,
        "labels": [{}, {"dose": [0, 0]}, {}],
    }
    silent, measured = (train(method, conflict_every=every, **options) for every in (0, 1))
    assert same(silent, measured)
    assert silent["metrics"] == {}
    assert list(measured["metrics"]) == ([] if method == "stl" else ["cosine/oar/dose"])
    assert all(-1 <= value <= 1 for value in measured["metrics"].values())


def test_the_epoch_has_the_mean_over_the_measured_steps_with_both_tasks() -> None:
    labels: list[Labels] = [{}, {"diagnosis": [0, 0]}, {}]
    second, third, all_steps = (
        train("hps", MIXED, conflict_every=every, labels=labels)["metrics"] for every in (2, 3, 1)
    )
    net, loss, batch = network("hps", MIXED), MultiTaskLoss(MIXED, "equal"), batch_of()
    first = gradients.gradient_cosines(loss.task_losses(net(batch["image"]), batch).means, net.parameters())
    assert list(all_steps) == ["cosine/oar/dose", "cosine/oar/diagnosis", "cosine/dose/diagnosis"]
    assert list(second) == ["cosine/oar/dose"]
    steps = [first["oar", "dose"], second["cosine/oar/dose"], third["cosine/oar/dose"]]
    assert len({round(value, 6) for value in steps}) == 3
    assert all_steps["cosine/oar/dose"] == pytest.approx(sum(steps) / 3, rel=1e-6)
    rest = [first["oar", "diagnosis"], third["cosine/oar/diagnosis"]]
    assert all_steps["cosine/oar/diagnosis"] == pytest.approx(sum(rest) / 2, rel=1e-6)
    # An aggregator knows the gradients anyway.
    assert train("hps", MIXED, "sum", conflict_every=1, labels=labels)["metrics"] == pytest.approx(all_steps, rel=1e-6)


# ------------------------------------------------------------------------------------------------------- two processes

UNEVEN: list[Labels] = [{"dose": [1, 0]}, {"dose": [0, 1], "oar": [1, 0]}, {"dose": [0, 0]}]
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {"conflict_every": 1, "labels": UNEVEN},
    "sum": {"aggregator": "sum", "labels": UNEVEN},
    "upgrad": {"aggregator": "upgrad", "conflict_every": 1, "labels": UNEVEN, "weighting": "uncertainty"},
    "pcgrad": {"method": "hps", "tasks": MIXED, "aggregator": "pcgrad"},
    "aligned_mtl": {"method": "mtan", "aggregator": "aligned_mtl", "labels": [{}, {"oar": [1, 0]}, {}]},
    "nash_mtl": {"aggregator": "nash_mtl", "labels": UNEVEN},
}


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=100))
    own = slice(rank, rank + 1)
    result = {name: train(cases=own, **options) for name, options in SCENARIOS.items()}
    gradients.world_size = lambda: 1  # the trap: every rank aggregates its own gradients
    result["raw"] = train(cases=own, **SCENARIOS["upgrad"])
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(forked_python, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    jobs = [forked_python.start(__file__, str(rank), folder, env={"OMP_NUM_THREADS": "1"}) for rank in range(2)]
    done = [job.wait() for job in jobs]
    assert [each.returncode for each in done] == [0, 0], "\n".join(each.stderr for each in done)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_end_bit_equal_and_as_one_with_the_joint_batch(ranks: list[dict], name: str) -> None:
    first, second = (rank[name] for rank in ranks)
    assert same(first, second)
    assert first["metrics"] == second["metrics"]
    joint = train(**SCENARIOS[name])
    assert same(joint, first, rtol=1e-4 if name == "nash_mtl" else 1e-8)
    assert first["metrics"] == pytest.approx(joint["metrics"], rel=1e-6)
    assert ("cosine/oar/dose" in joint["metrics"]) == ("conflict_every" in SCENARIOS[name])


def test_twin_without_the_exchange_the_ranks_drift_apart(ranks: list[dict]) -> None:
    first, second = (rank["raw"] for rank in ranks)
    assert not same(first, second, rtol=1e-3)


# -------------------------------------------------------------------------------------------------------------- memory


def peak_mib(step: Callable[[], None]) -> float:
    """Most MiB allocated at a time during a step, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(live.max()) / 2**20


@pytest.mark.parametrize("method", ["hps", "ctan"])
def test_memory_is_at_most_half_more_than_that_of_a_plain_step(method: str) -> None:
    net = network(method, PIXEL, 3, channels=(8, 16), bottleneck=32).float()
    loss, batch = MultiTaskLoss(PIXEL, "equal"), batch_of(3, side=32)
    batch["image"] = batch["image"].float()

    def step(name: str | None) -> None:
        gradients_of(net, loss, batch, name)

    plain = peak_mib(lambda: step(None))
    assert plain > 10
    assert peak_mib(lambda: step("upgrad")) <= 1.5 * plain


def test_the_table_says_where_each_method_comes_from() -> None:
    assert aggregation.AGGREGATORS.keys() == GOLDEN.keys()
    assert all(kind.paper for kind in AGGREGATORS.values())


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
