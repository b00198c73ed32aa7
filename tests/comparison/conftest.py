"""A bundle, a study and a comparison file that are small enough to compare within a second."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mtl_med import cli
from mtl_med.comparison import command
from mtl_med.manifest import Case, Manifest

HERE = Path(__file__).parent
TRAIN = {
    "bundle_root": ".",
    "dataset_dir": "study",
    "output_dir": "models",
    "method": "ctan",
    "inputs": "ct",
    "epochs": 3,
    "minutes": None,
    "resume": False,
    "seed": 0,
    "limit": None,
    "weighting": "dwa",
    "network_options": {"stem_stride": 2},
    "tasks": {
        "oar": {"kind": "segmentation", "class_names": ["A", "B"]},
        "dose": {"kind": "regression", "unit": "Gy"},
    },
    "train": {"dataset": {"_target_": "x.Dataset", "rate": 1}, "handlers": [{"_target_": "x.Handler"}]},
}
EVALUATE = {"weights": "$@output_dir + '/model.pt'", "tasks": "$trained(@weights, 'tasks')", "limit": None}
PROTOCOL = {
    "schema": "mtl_med/comparison/1",
    "name": "small",
    "title": "A small comparison",
    "bundle": "",
    "seeds": [0, 1],
    "overrides": {"epochs": 3},
    "rows": {"stl": {"overrides": {"method": "stl"}}, "ctan": {"overrides": {"method": "ctan"}}},
    "metrics": [
        {"name": "Dice", "task": "oar", "metric": "dice", "structures": None, "higher_is_better": True, "unit": "1"},
        {"name": "dose score", "task": "dose", "metric": "dose_score", "higher_is_better": False, "unit": "Gy"},
    ],
}

Write = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that only the fake trainer can train."""
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    for name, content in (("train", TRAIN), ("evaluate", EVALUATE), ("adam", {"weighting": "equal"})):
        (configs / f"{name}.json").write_text(json.dumps(content))
    return configs.parent


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study without volumes: one case to train on, one to tune on, three to be scored on."""
    folder = tmp_path / "study"
    splits = {"f0": "fit", "t0": "tune", "v0": "validation", "v1": "validation", "v2": "validation"}
    cases = [Case(name, split, folder / "cases" / name) for name, split in splits.items()]
    for case in cases:
        case.write()
    Manifest.build("made-up", folder, cases).write()
    return folder


@pytest.fixture
def fields(bundle: Path) -> dict[str, Any]:
    """The comparison file's content, to be changed."""
    return copy.deepcopy(PROTOCOL) | {"bundle": str(bundle)}


@pytest.fixture
def write(tmp_path: Path, fields: dict[str, Any]) -> Write:
    """Write the comparison file, `changes` made to its top level."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "small.json"
        path.write_text(json.dumps(fields | changes))
        return path

    return write


@pytest.fixture(scope="session")
def drive() -> ModuleType:
    """tests/comparison/drive.py as a module."""
    spec = importlib.util.spec_from_file_location("compare_drive", HERE / "drive.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, drive: ModuleType) -> Callable[..., int]:
    """`compare(protocol, "--out", folder, ...)` gives the exit code of `mtl-med compare` with the fake trainer."""
    monkeypatch.setattr(command, "monai_command", drive.fake_command)
    monkeypatch.setattr(command, "try_rows", drive.no_trial)

    def compare(*words: object) -> int:
        return cli.main(["compare", *(str(word) for word in words)])

    return compare
