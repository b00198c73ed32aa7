"""Splits follow from ids alone, and a limited run still holds every group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mtl_med.prep.raw import Source
from mtl_med.prep.splits import assign_splits, first_of_each_group

TUNE = {"tune": 0.118}
PARTS = {"tune": 0.1, "validation": 0.2, "test": 0.1}


def sources(group: str, numbers) -> list[Source]:
    return [Source(f"pt_{number}", group, Path(group), ()) for number in numbers]


def test_published_groups_become_splits() -> None:
    splits = assign_splits([*sources("train", [8]), *sources("validation", [201]), *sources("test", [241])], TUNE)
    assert splits == {"pt_8": "fit", "pt_201": "validation", "pt_241": "test"}


def test_a_tenth_of_the_training_cases_tunes() -> None:
    counts = Counter(assign_splits(sources("train", range(1, 201)), TUNE).values())
    assert counts["fit"] + counts["tune"] == 200
    assert 15 <= counts["tune"] <= 32


def test_adding_cases_moves_none() -> None:
    few = assign_splits(sources("train", range(1, 101)), TUNE)
    many = assign_splits(sources("train", range(1, 201)), TUNE)
    assert "tune" in few.values()
    assert {case_id: many[case_id] for case_id in few} == few


@pytest.mark.parametrize(("count", "tune"), [(1, 0), (3, 0), (4, 1), (6, 1)])
def test_a_small_cohort_has_a_tune_case(count: int, tune: int) -> None:
    """No hash of pt_1 to pt_6 falls below the limit."""
    splits = assign_splits(sources("train", range(1, count + 1)), TUNE)
    assert Counter(splits.values())["tune"] == tune


class TestUndivided:
    def test_every_split_gets_its_share(self) -> None:
        counts = Counter(assign_splits(sources("all", range(1000)), PARTS).values())
        assert sum(counts.values()) == 1000
        for name, part in PARTS.items():
            assert counts[name] == pytest.approx(1000 * part, abs=40)

    def test_adding_cases_moves_none(self) -> None:
        few, many = (assign_splits(sources("all", range(count)), PARTS) for count in (100, 200))
        assert {case_id: many[case_id] for case_id in few} == few

    @pytest.mark.parametrize(("count", "splits"), [(1, 1), (5, 1), (6, 4), (8, 4)])
    def test_few_patients_are_divided_from_six_on(self, count: int, splits: int) -> None:
        found = assign_splits(sources("all", range(count)), dict.fromkeys(PARTS, 1e-9))
        assert len(set(found.values())) == splits

    def test_the_cases_of_a_patient_stay_together(self) -> None:
        cases = [Source(f"{n}_{k}", "all", Path(), (), patient=str(n)) for n in range(50) for k in range(3)]
        splits = assign_splits(cases, PARTS)
        assert len(set(splits.values())) == 4
        assert all(len({splits[f"{n}_{k}"] for k in range(3)}) == 1 for n in range(50))

    def test_a_split_that_is_not_asked_for_stays_empty(self) -> None:
        assert set(assign_splits(sources("all", range(50)), {"validation": 0.2}).values()) == {"fit", "validation"}


@pytest.mark.parametrize(("limit", "train", "validation"), [(1, 1, 0), (6, 5, 1), (12, 10, 2), (99, 50, 10)])
def test_a_limit_takes_the_first_of_each_group(limit: int, train: int, validation: int) -> None:
    chosen = first_of_each_group([*sources("train", range(50)), *sources("validation", range(200, 210))], limit)
    expected = [*(f"pt_{number}" for number in range(train)), *(f"pt_{200 + number}" for number in range(validation))]
    assert [source.id for source in chosen] == expected


def test_no_limit_takes_all() -> None:
    everything = sources("train", range(5))
    assert first_of_each_group(everything, None) == everything


class TestStrata:
    """Lesions of two diagnoses, of which one is rare, some of them with two images."""

    @staticmethod
    def lesions() -> list[Source]:
        return [
            Source(
                f"i{n}_{image}",
                "all",
                Path(),
                (),
                patient=f"lesion_{n}",
                stratum="rare" if n % 20 == 0 else "common",
            )
            for n in range(400)
            for image in range(1 + n % 2)
        ]

    @pytest.mark.parametrize("seed", [0, 1])
    def test_every_stratum_is_divided_exactly_and_no_lesion_is_in_two_splits(self, seed: int) -> None:
        sources = self.lesions()
        splits = assign_splits(sources, {"tune": 0.1, "validation": 0.2}, seed)
        owners = {(source.patient, source.stratum, splits[source.id]) for source in sources}
        assert len(owners) == 400
        counts = Counter((stratum, split) for _, stratum, split in owners)
        assert counts == {
            ("rare", "fit"): 14,
            ("rare", "tune"): 2,
            ("rare", "validation"): 4,
            ("common", "fit"): 266,
            ("common", "tune"): 38,
            ("common", "validation"): 76,
        }

    def test_another_seed_gives_another_division(self) -> None:
        first, second = (assign_splits(self.lesions(), {"validation": 0.2}, seed) for seed in (0, 1))
        assert first != second

    def test_a_stratum_of_one_stays_in_fit(self) -> None:
        alone = [Source("i", "all", Path(), (), stratum="x")]
        assert assign_splits(alone, {"tune": 0.1, "validation": 0.2}) == {"i": "fit"}
