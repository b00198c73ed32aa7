"""Splits follow from ids alone, and a limited run still holds every group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mtl_med.prep.raw import Source
from mtl_med.prep.splits import assign_splits, first_of_each_group


def sources(group: str, numbers) -> list[Source]:
    return [Source(f"pt_{number}", group, Path(group), ()) for number in numbers]


def test_published_groups_become_splits() -> None:
    splits = assign_splits([*sources("train", [8]), *sources("validation", [201]), *sources("test", [241])], 0.118)
    assert splits == {"pt_8": "fit", "pt_201": "validation", "pt_241": "test"}


def test_a_tenth_of_the_training_cases_tunes() -> None:
    counts = Counter(assign_splits(sources("train", range(1, 201)), 0.118).values())
    assert counts["fit"] + counts["tune"] == 200
    assert 15 <= counts["tune"] <= 32


def test_adding_cases_moves_none() -> None:
    few = assign_splits(sources("train", range(1, 101)), 0.118)
    many = assign_splits(sources("train", range(1, 201)), 0.118)
    assert "tune" in few.values()
    assert {case_id: many[case_id] for case_id in few} == few


@pytest.mark.parametrize(("count", "tune"), [(1, 0), (3, 0), (4, 1), (6, 1)])
def test_a_small_cohort_has_a_tune_case(count: int, tune: int) -> None:
    """No hash of pt_1 to pt_6 falls below the limit."""
    splits = assign_splits(sources("train", range(1, count + 1)), 0.118)
    assert Counter(splits.values())["tune"] == tune


@pytest.mark.parametrize(("limit", "train", "validation"), [(1, 1, 0), (6, 5, 1), (12, 10, 2), (99, 50, 10)])
def test_a_limit_takes_the_first_of_each_group(limit: int, train: int, validation: int) -> None:
    chosen = first_of_each_group([*sources("train", range(50)), *sources("validation", range(200, 210))], limit)
    expected = [*(f"pt_{number}" for number in range(train)), *(f"pt_{200 + number}" for number in range(validation))]
    assert [source.id for source in chosen] == expected


def test_no_limit_takes_all() -> None:
    everything = sources("train", range(5))
    assert first_of_each_group(everything, None) == everything
