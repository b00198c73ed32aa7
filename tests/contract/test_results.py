"""docs/results.md shows what its committed CSV files say, and nothing else stands in its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtl_med.comparison.protocol import read_protocol
from mtl_med.comparison.results import read_results
from mtl_med.comparison.tables import refresh
from mtl_med.files import read_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS, FOLDER = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
NAMES = sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []


def test_every_comparison_is_shown() -> None:
    shown = re.findall(r"<!-- comparison: (\S+) -->", RESULTS.read_text(encoding="utf-8"))
    assert sorted(shown) == NAMES and NAMES


def test_tables_are_those_of_the_files() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    assert refresh(text, FOLDER) == text


@pytest.mark.parametrize("name", NAMES)
def test_the_protocol_is_the_shipped_one(name: str) -> None:
    """What was decided before the first run is what was run: nothing was left out or added afterwards."""
    (shipped,) = (ROOT / "bundles").glob(f"*/comparisons/{name}.json")
    assert read_json(FOLDER / name / "protocol.json") == read_json(shipped)
    assert read_protocol(shipped).name == name


@pytest.mark.parametrize("name", NAMES)
def test_every_run_says_what_it_was_made_of(name: str) -> None:
    for run in read_results(FOLDER / name).runs.values():
        assert all(run[key] for key in ("commit", "settings_hash", "fingerprint", "weights_sha256", "threads", "steps"))
