"""Hidden labels: the stated part, the same each time, whole groups; and the loss is that of what is left."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mtl_med.errors import NothingFoundError, UsageError
from mtl_med.loading import (
    SeededCacheDataset,
    hide_labels,
    only_labelled,
    picture_training_transforms,
    study_items,
    training_loader,
)
from mtl_med.tasks import as_tasks
from mtl_med.training import MultiTaskLoss

TASKS = as_tasks(
    {
        "lesion": {"kind": "segmentation", "class_names": ["Lesion"]},
        "diagnosis": {"kind": "classification", "class_names": ["nv", "mel", "df"]},
        "site": {"kind": "classification", "class_names": ["back", "face"]},
    }
)


def made_up(count: int, per_group: int = 1) -> list[dict]:
    return [
        {"id": f"c{i}", "group": f"g{i // per_group}", "site": ["1"], "labelled_site": [True], "lesion": ["a", "b"],
         "labelled_lesion": [True, i % 2 == 0]}
        for i in range(count)
    ]  # fmt: skip


def known(items: list[dict], task: str = "site") -> set[str]:
    return {item["id"] for item in items if any(item[f"labelled_{task}"])}


@pytest.mark.parametrize(("fraction", "left"), [(0.0, 200), (0.25, 150), (0.5, 100), (1.0, 0)])
def test_the_stated_part_is_hidden(fraction: float, left: int) -> None:
    items = made_up(200)
    found = hide_labels(items, {"site": fraction}, seed=3)
    assert len(known(found)) == left
    assert all(item["site"] == ([""] if item["id"] not in known(found) else ["1"]) for item in found)
    assert known(items) == {item["id"] for item in items}, "the items given are left alone"
    assert [{**item, "site": 0, "labelled_site": 0} for item in found] == [
        {**item, "site": 0, "labelled_site": 0} for item in items
    ]


def test_the_choice_depends_on_seed_task_and_group_alone() -> None:
    items = made_up(200)
    chosen = known(hide_labels(items, {"site": 0.5}, seed=1))
    assert chosen == known(hide_labels(items[::-1], {"lesion": 0.5, "site": 0.5}, seed=1))
    assert chosen != known(hide_labels(items, {"site": 0.5}, seed=2))
    assert chosen != known(hide_labels(items, {"lesion": 0.5}, seed=1), "lesion")
    assert chosen < known(hide_labels(items, {"site": 0.25}, seed=1)), "more hidden labels hide these too"


def test_a_group_loses_its_labels_together() -> None:
    found = hide_labels(made_up(200, per_group=4), {"site": 0.5}, seed=1)
    groups: dict[str, set[bool]] = {}
    for item in found:
        groups.setdefault(item["group"], set()).add(item["labelled_site"][0])
    assert all(len(states) == 1 for states in groups.values())
    assert len(known(found)) == 100


def test_nothing_is_hidden_unless_asked_for() -> None:
    assert hide_labels(made_up(5), None) == made_up(5) == hide_labels(made_up(5), {})


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"sit": 0.5}, "hidden labels of the unknown task 'sit'. Did you mean site"),
        ({"site": 50}, "50.0 of the labels of task 'site' cannot be hidden. Give 0 to 1"),
        ({"site": "half"}, "hidden_labels of task 'site' is 'half', expected a number. Give 0 to 1"),
        ("half", "hidden_labels is 'half'. Give a part for each task"),
        (0.5, "hidden_labels is 0.5. Give a part for each task"),
    ],
)
def test_what_cannot_be_hidden(fractions: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hide_labels(made_up(3), fractions)


def test_only_labelled() -> None:
    items = hide_labels(made_up(20), {"site": 0.5})
    assert {item["id"] for item in only_labelled(items, "site")} == known(items)
    assert only_labelled(items, None) == only_labelled(items, []) == items
    assert only_labelled(items, ["site", "lesion"]) == only_labelled(items, "site")
    with pytest.raises(UsageError, match="labelled_only is 5. Give names of tasks"):
        only_labelled(items, 5)
    with pytest.raises(NothingFoundError, match="no case has labels of site"):
        only_labelled(hide_labels(items, {"site": 1.0}), "site")


def test_the_loss_of_a_half_labelled_batch_is_the_one_by_hand(picture_study: Path) -> None:
    """From the study's files to the loss: three tasks, of which each case lacks some."""
    items = hide_labels(study_items(picture_study, "fit", TASKS, "rgb"), {"site": 0.5}, seed=1)
    assert len(known(items)) < 7
    data = SeededCacheDataset(items, picture_training_transforms(TASKS, (12, 16)), num_workers=1)
    batch = next(iter(training_loader(data, 9)))
    by_id = {item["id"]: item for item in items}
    logits = {
        "lesion": torch.randn(9, 1, 12, 16, dtype=torch.float64),
        "diagnosis": torch.randn(9, 3, dtype=torch.float64),
        "site": torch.randn(9, 2, dtype=torch.float64),
    }
    weights = [0.5, 1.5, 3.0]
    loss = MultiTaskLoss(TASKS, "equal", {"diagnosis": {"class_weights": weights}})
    total, stats = loss(logits, batch)

    parts: dict[str, list[float]] = {task.name: [] for task in TASKS}
    for row, case in enumerate(batch["id"]):
        for name in ("diagnosis", "site"):
            label = by_id[case][name][0]
            if label:
                p = logits[name][row].softmax(0)[int(label)].item()
                parts[name].append(-math.log(p) * (weights[int(label)] if name == "diagnosis" else 1.0))
        if by_id[case]["labelled_lesion"][0]:
            y, x = batch["lesion"][row, 0].double(), logits["lesion"][row, 0]
            p = x.sigmoid()
            dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
            ce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
            parts["lesion"].append(float(0.3 * dice + 0.7 * ce))
    assert {name: len(values) for name, values in parts.items()} == {
        "lesion": 8,
        "diagnosis": 8,
        "site": len(known(items)),
    }
    for name, values in parts.items():
        assert stats[name].count == len(values)
        assert stats[name].total.item() == pytest.approx(sum(values), rel=1e-9)
    assert total.item() == pytest.approx(sum(sum(values) / len(values) for values in parts.values()), rel=1e-9)


def test_hidden_labels_have_no_gradient(picture_study: Path) -> None:
    """What is hidden changes nothing: neither its own output's gradient nor the others' denominators."""
    items = hide_labels(study_items(picture_study, "fit", TASKS, "rgb"), {"site": 0.5}, seed=1)
    data = SeededCacheDataset(items, picture_training_transforms(TASKS, (12, 16)), num_workers=1)
    batch = next(iter(training_loader(data, 9)))
    logits = {name: torch.zeros(9, n, requires_grad=True) for name, n in (("diagnosis", 3), ("site", 2))}
    logits["lesion"] = torch.zeros(9, 1, 12, 16, requires_grad=True)
    MultiTaskLoss(TASKS, "equal")(logits, batch)[0].backward()
    for name, values in logits.items():
        seen = values.grad.flatten(1).abs().sum(1) > 0
        assert seen.tolist() == batch[f"labelled_{name}"].flatten().tolist()
