"""Two gloo processes against one process with the joint batch. Run as a script, this file is one of the processes."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtl_med.tasks import Task
from mtl_med.training.losses import LossTerm, MultiTaskLoss
from mtl_med.training.weighting import create_weighting

TASKS = (Task("oar", "segmentation", 2), Task("dose", "regression"), Task("diagnosis", "classification", 3))
# Which of the 4 cases has which label: cases 0 and 1 are rank 0's. For oar per structure.
LABELS = {
    "uneven": {
        "oar": [[1, 1], [1, 0], [0, 0], [0, 1]],
        "dose": [[1], [0], [0], [0]],
        "diagnosis": [[0], [1], [1], [1]],
    },
    "rank-1-has-none": {"oar": [[1, 1], [1, 1], [0, 0], [0, 0]], "dose": [[1], [1], [0], [0]], "diagnosis": [[0]] * 4},
    "rank-1-lacks-keys": {
        "oar": [[1, 1], [1, 1], [0, 0], [0, 0]],
        "dose": [[1], [1], [0], [0]],
        "diagnosis": [[0]] * 4,
    },
    "none-at-all": {"oar": [[0, 0]] * 4, "dose": [[0]] * 4, "diagnosis": [[0]] * 4},
}
WEIGHTINGS = {"equal": {}, "dwa": {}, "uncertainty": {"likelihoods": {"dose": "gaussian"}}}
DICE = {"case-dice": False, "batch-dice": True}
SCENARIOS = {
    f"{labels}/{weighting}/{dice}": (labels, weighting, dice)
    for labels in LABELS
    for weighting in WEIGHTINGS
    for dice in DICE
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(1, 4, 3, padding=1)
        self.oar, self.dose, self.diagnosis = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 1), nn.Linear(4, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        shared = self.trunk(image).tanh()
        return {
            "oar": self.oar(shared),
            "dose": self.dose(shared),
            "diagnosis": self.diagnosis(shared.mean((2, 3))),
        }


def batch_of(labels: str, cases: slice) -> dict[str, Tensor]:
    """Some of the four cases; labels that are missing hold NaN."""
    generator = torch.Generator().manual_seed(3)
    batch = {
        "image": torch.randn(4, 1, 5, 6, generator=generator).double(),
        "oar": torch.randint(0, 2, (4, 2, 5, 6), generator=generator).double(),
        "dose": torch.randn(4, 1, 5, 6, generator=generator).double(),
        "diagnosis": torch.randint(0, 3, (4,), generator=generator),
        "mask_dose": torch.randint(0, 2, (4, 1, 5, 6), generator=generator),
    }
    for name, rows in LABELS[labels].items():
        known = batch[f"labelled_{name}"] = torch.tensor(rows, dtype=torch.bool)
        if name != "diagnosis":
            batch[name][~known] = torch.nan
    found = {key: value[cases] for key, value in batch.items()}
    if labels == "rank-1-lacks-keys":
        for name in [name for name in LABELS[labels] if not found[f"labelled_{name}"].any()]:
            del found[name], found[f"labelled_{name}"]
    return found


def gradients(scenario: str, cases: slice, parallel: bool, local_means: bool = False) -> dict[str, Tensor]:
    """Gradients of network and weighting after one backward pass, and the loss."""
    labels, weighting, dice = SCENARIOS[scenario]
    torch.manual_seed(0)
    net = Net().double()
    loss = MultiTaskLoss(
        TASKS, create_weighting(weighting, TASKS, **WEIGHTINGS[weighting]), {"oar": {"batch_dice": DICE[dice]}}
    ).double()
    loss.train(not local_means)
    batch = batch_of(labels, cases)
    model = DistributedDataParallel(net) if parallel else net
    total, _ = loss(model(batch["image"]), batch)
    total.backward()
    found = {name: value.grad for name, value in [*net.named_parameters(), *loss.named_parameters()]}
    found = {name: torch.zeros(()) if grad is None else grad for name, grad in found.items()}
    return found | {"loss": total.detach()}


def dwa_weights(batches: slice) -> list[dict[str, float]]:
    """Weights after each of three epochs of four batches, of which this process sees some."""
    dwa = create_weighting("dwa", TASKS)
    generator = torch.Generator().manual_seed(5)
    weights = []
    for _ in range(3):
        totals = torch.rand(4, 3, generator=generator)
        counts = torch.randint(0, 3, (4, 3), generator=generator).float()
        for row, number in list(zip(totals, counts, strict=True))[batches]:
            dwa.record({t.name: LossTerm(a * b, b) for t, a, b in zip(TASKS, row, number, strict=True)})
        dwa.end_epoch()
        weights.append(dwa.weights())
    return weights


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=240))
    own = slice(2 * rank, 2 * rank + 2)
    result = {name: gradients(name, own, parallel=True) for name in SCENARIOS}
    result["local means"] = gradients("uneven/equal/case-dice", own, parallel=True, local_means=True)
    result["dwa"] = dwa_weights(own)
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_ranks_have_the_gradients_of_the_joint_batch(ranks: list[dict[str, Any]], scenario: str) -> None:
    joint = gradients(scenario, slice(None), parallel=False)
    losses = [rank[scenario].pop("loss") for rank in ranks]
    torch.testing.assert_close(sum(losses) / 2, joint.pop("loss"), rtol=1e-10, atol=1e-12)
    for rank in ranks:
        assert list(rank[scenario]) == list(joint)
        for name, grad in joint.items():
            torch.testing.assert_close(rank[scenario][name], grad, rtol=1e-9, atol=1e-12)
    assert any(grad.any() for grad in joint.values()) != scenario.startswith("none-at-all")


def test_means_per_rank_would_fail(ranks: list[dict[str, Any]]) -> None:
    """The must-fail twin: without the global count, ranks with fewer labels pull as hard as the others."""
    joint = gradients("uneven/equal/case-dice", slice(None), parallel=False)
    local = ranks[0]["local means"]
    for name in ("trunk.weight", "oar.weight", "dose.weight", "diagnosis.weight"):
        assert not torch.allclose(local[name], joint[name], rtol=0.01)


def test_two_ranks_have_the_dwa_weights_of_the_joint_batches(ranks: list[dict[str, Any]]) -> None:
    joint, alone = dwa_weights(slice(None)), dwa_weights(slice(0, 2))
    for rank in ranks:
        assert [list(weights.values()) for weights in rank["dwa"]] == [
            pytest.approx(list(weights.values()), rel=1e-12) for weights in joint
        ]
    assert alone[-1] != pytest.approx(joint[-1], rel=1e-3)  # what a rank would find without the exchange


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
