"""A row that cannot be trained is refused before the first run, whatever value of it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_med import cli
from mtl_med.comparison.trial import TRIED, _fault
from mtl_med.files import read_json, shipped, write_json

CONFIGS = shipped("bundles") / "openkbp_dose_oar_segmentation" / "configs"
QUICK = {"network_options": {"channels": [4, 8], "bottleneck": 8, "output_scales": {"dose": 70.0}}}
ROWS = {"stl": {"overrides": {"method": "stl"}}, "ctan": {"overrides": {"method": "ctan"}}}


@pytest.fixture
def try_row(tiny_study: Path) -> Callable[..., tuple[str, str] | None]:
    """What is wrong with a row of such overrides, tried in this process."""

    def fault(**overrides: Any) -> tuple[str, str] | None:
        own = {"bundle_root": str(CONFIGS.parent), "dataset_dir": str(tiny_study), **QUICK, **overrides}
        return _fault([str(CONFIGS / "train.json")], own)

    return fault


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method": "ctna"}, "unknown method 'ctna'. Did you mean ctan"),
        ({"encoder": "resnet81"}, "unknown encoder 'resnet81'. Did you mean resnet18"),
        ({"weighting": "dwaa"}, "unknown weighting 'dwaa'. Did you mean dwa"),
        ({"weighting_options": {"temprature": 2}}, "temprature"),
        ({"aggregator": "upgradd"}, "unknown aggregator 'upgradd'. Did you mean upgrad"),
        ({"inputs": "ct+pvt"}, "ct+pvt"),
        ({"precision": "bf17"}, "unknown precision 'bf17'. Did you mean bf16"),
        ({"learning_rate_shape": "one_cylce"}, "one_cylce'. Did you mean one_cycle"),
        ({"network_options": {"chanels": [4]}}, "unknown option 'chanels'"),
        ({"network_options": {"channels": 4}}, "channels is 4. Give a list of whole numbers"),
        ({"network_options": {"channels": [4], "norm": "group"}}, "norm 'group'"),
        ({"loss_options": {"oars": {}}}, "'oars'"),
        ({"pretrained": "weights.pth"}, "weights.pth"),
        ({"tasks": {"dose": {"kind": "regresion"}}}, "unknown kind 'regresion'"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_value_gets_one_sentence(try_row, overrides: dict[str, Any], message: str) -> None:
    fault = try_row(**overrides)
    assert fault is not None
    what, fix = fault
    assert message in f"{what}. {fix}"
    assert "cannot be built" not in what


def test_a_right_row_has_no_fault(try_row) -> None:
    assert try_row(method="stl", inputs="ct+ptv", weighting="uncertainty") is None


def test_what_is_tried_is_there() -> None:
    """Of a part that a bundle does not have, nothing would be found."""
    from monai.bundle import ConfigParser

    for path in shipped("bundles").glob("*/configs/train.json"):
        parser = ConfigParser(read_json(path))
        assert [name for name in TRIED if name not in parser] == [], path


def test_the_command_names_the_row_and_runs_nothing(tmp_path: Path, tiny_study: Path, capsys) -> None:
    rows = {**ROWS, "ctan, wide": {"overrides": {"method": "ctan", "encoder": "resnet81"}}}
    metrics = [{"name": "Dice", "task": "oar", "metric": "dice"}]
    fields = {"schema": "mtl_med/comparison/1", "name": "small", "title": "Small", "rows": rows, "metrics": metrics}
    fields |= {"bundle": "openkbp_dose_oar_segmentation", "seeds": [0], "overrides": {"epochs": 1, **QUICK}}
    write_json(tmp_path / "small.json", fields)
    words = [str(tmp_path / "small.json"), "--study", str(tiny_study), "--out", str(tmp_path / "out")]
    assert cli.main(["compare", *words]) == 2
    sentence = "small.json: rows.ctan, wide: unknown encoder 'resnet81'. Did you mean resnet18 or resnet50?"
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert not (tmp_path / "out").exists()
