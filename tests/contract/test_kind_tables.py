"""Every room that knows what a task's kind means has a row for each kind, and no other."""

from __future__ import annotations

import importlib

import pytest

from mtl_med.tasks import KINDS

TABLES = [
    "mtl_med.networks.decoders.DECODERS",
    "mtl_med.networks.decoders.HEADS",
    "mtl_med.training.losses.LOSSES",
    "mtl_med.training.scores.SCORES",
    "mtl_med.metrics.METRICS",
    "mtl_med.report.kinds.REPORTS",
    "mtl_med.postprocessing.OUTPUTS",
]


def missing_and_unknown(table: object) -> tuple[set[str], set[str]]:
    keys = set(table)  # type: ignore[call-overload]
    return set(KINDS) - keys, keys - set(KINDS)


@pytest.mark.parametrize("name", TABLES)
def test_one_row_per_kind(name: str) -> None:
    module, table = name.rsplit(".", 1)
    assert missing_and_unknown(getattr(importlib.import_module(module), table)) == (set(), set())


def test_a_lacking_row_is_seen() -> None:
    assert missing_and_unknown({"segmentation": 1, "regression": 2}) == ({"classification"}, set())
    assert missing_and_unknown(dict.fromkeys((*KINDS, "detection"))) == (set(), {"detection"})
