"""Tasks from their plain form and back, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from mtl_med.errors import UsageError
from mtl_med.tasks import KINDS, PIXEL_KINDS, Task, as_tasks


def test_plain_form_and_back() -> None:
    plain = {
        "oar": {"kind": "segmentation", "class_names": ["SpinalCord", "Parotid_L"]},
        "dose": {"kind": "regression", "unit": "Gy", "required": True},
        "diagnosis": {"kind": "classification", "channels": 7},
    }
    tasks = as_tasks(plain)
    assert tasks == (
        Task("oar", "segmentation", 2, ("SpinalCord", "Parotid_L")),
        Task("dose", "regression", 1, (), "Gy", True),
        Task("diagnosis", "classification", 7),
    )
    assert as_tasks({task.name: {k: v for k, v in task.to_dict().items() if k != "name"} for task in tasks}) == tasks
    assert as_tasks(tasks) == tasks


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_level_is_the_kinds_business(kind: str) -> None:
    assert Task("t", kind).is_pixel_level == (kind in PIXEL_KINDS) == (kind != "classification")


def test_tasks_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Task("t", "regression").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "no task is given"),
        ({"oar": {"kind": "segmentaton"}}, r"unknown kind 'segmentaton' of task 'oar'.*mean segmentation\?"),
        ({"oar": {}}, "unknown kind ''"),
        ({"oar": {"kind": "segmentation", "classnames": []}}, r"unknown field 'classnames'.*class_names"),
        ({"oar-1": {"kind": "regression"}}, "not an identifier"),
        ({"oar": {"kind": "segmentation", "channels": 3, "class_names": ["a"]}}, "3 channels but 1 class names"),
        (["oar"], r"tasks are \['oar'\].*Give an object"),
        ({"oar": None}, "task 'oar' is None"),
        ({"oar": {"kind": "segmentation", "channels": "two"}}, "'two' channels.*whole number"),
    ],
    ids=["none", "kind", "no-kind", "field", "name", "channels", "list", "nothing", "word"],
)
def test_refused(plain: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_tasks(plain)


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="share a name: dose, dose"):
        as_tasks([Task("dose", "regression"), Task("dose", "regression")])
