"""A sample depends on (seed, epoch, index) alone, and ranks share out one common order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, Randomizable, Transform
from torch.utils.data import Sampler

from mtl_med.loading import (
    EpochSampler,
    SampleKey,
    SeededCacheDataset,
    study_items,
    training_loader,
    training_transforms,
    validation_loader,
)
from mtl_med.loading.dataset import sample_seed
from mtl_med.tasks import as_tasks

TASKS = as_tasks(
    {"oar": {"kind": "segmentation", "class_names": ["Parotid_R", "Parotid_L"]}, "dose": {"kind": "regression"}}
)
PATCH = (24, 16, 16)


@pytest.fixture(scope="module")
def dataset(tiny_study: Path) -> SeededCacheDataset:
    items = study_items(tiny_study, "fit", TASKS, "ct+ptv")
    return SeededCacheDataset(items, training_transforms(TASKS, "ct+ptv", PATCH), seed=3)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


class Keys(Sampler):
    """A fixed list of samples."""

    def __init__(self, keys: Iterable[SampleKey]) -> None:
        self.keys = list(keys)

    def __iter__(self) -> Iterator[SampleKey]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def batches(dataset: CacheDataset, workers: int, epochs: Iterable[int] = (1, 2)) -> list[dict]:
    loader = training_loader(dataset, 2, workers=workers)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found += list(loader)
    return found


def test_a_sample_is_the_same_each_time_and_in_any_order(dataset: SeededCacheDataset) -> None:
    keys = [SampleKey(epoch, index) for epoch in (1, 2) for index in range(4)]
    first = {key: dataset[key] for key in keys}
    assert all(isinstance(value, torch.Tensor | str) for value in first[keys[0]].values())
    torch.manual_seed(99)
    assert all(same(first[key], dataset[key]) for key in reversed(keys))


def test_epoch_index_and_seed_each_change_the_sample(dataset: SeededCacheDataset, tiny_study: Path) -> None:
    other = SeededCacheDataset(dataset.data, training_transforms(TASKS, "ct+ptv", PATCH), seed=4)
    reference = dataset[SampleKey(1, 0)]
    assert not same(reference, dataset[SampleKey(2, 0)])
    assert not same(reference, dataset[SampleKey(1, 1)])
    assert not same(reference, other[SampleKey(1, 0)])
    # Two cases in one epoch do not share their random numbers either.
    seeds = [sample_seed(*numbers) for numbers in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 12, 0), (0, 1, 20), (0, 1, -1))]
    assert len(set(seeds)) == 6


def test_workers_do_not_change_the_batches(dataset: SeededCacheDataset) -> None:
    alone = batches(dataset, 0)
    assert len(alone) == 4
    assert alone[0]["image"].shape == (2, 2, *PATCH)
    torch.manual_seed(5)
    helped = batches(dataset, 2)
    assert len(helped) == 4
    assert all(same(one, two) for one, two in zip(alone, helped, strict=True))


def test_the_loader_leaves_the_global_random_state_alone(dataset: SeededCacheDataset) -> None:
    """A resumed run makes its loaders once more than an uninterrupted one, and must not notice."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    batches(dataset, 0)
    batches(dataset, 2)
    list(validation_loader(dataset))
    assert torch.equal(before, torch.get_rng_state())


class GlobalNoise(Randomizable, Transform):
    """The mistake that the seeded data set exists to prevent."""

    def __call__(self, data: dict) -> dict:
        return {**data, "image": data["image"] + torch.rand(1)}


def test_twin_global_randomness_would_be_seen(dataset: SeededCacheDataset) -> None:
    chain = Compose([*training_transforms(TASKS, "ct+ptv", PATCH).transforms, GlobalNoise()])
    careless = SeededCacheDataset(dataset.data, chain, seed=3)
    assert not same(careless[SampleKey(1, 0)], careless[SampleKey(1, 0)])


def test_the_cache_is_not_changed_by_augmentation(dataset: SeededCacheDataset) -> None:
    copies = [
        {key: value.clone() for key, value in item.items() if isinstance(value, torch.Tensor)}
        for item in dataset._cache
    ]
    for epoch in range(1, 6):
        for index in range(4):
            dataset[SampleKey(epoch, index)]
    for item, copy in zip(dataset._cache, copies, strict=True):
        assert all(torch.equal(item[key], value) for key, value in copy.items())


def order(length: int, epoch: int = 1, **options: int) -> list[SampleKey]:
    sampler = EpochSampler(length, seed=7, **options)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler)
    return keys


class TestEpochSampler:
    def test_a_permutation_per_epoch(self) -> None:
        first, second = order(20, 1), order(20, 2)
        assert sorted(key.index for key in first) == list(range(20))
        assert [key.index for key in first] != [key.index for key in second]
        assert order(20, 1) == first

    @pytest.mark.parametrize("size", [1, 2, 3])
    @pytest.mark.parametrize("length", [12, 13])
    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_step_k_over_the_ranks_is_step_k_of_one_process(self, length: int, size: int, batch_size: int) -> None:
        ranks = [order(length, rank=rank, world_size=size, batch_size=batch_size) for rank in range(size)]
        alone = order(length, batch_size=batch_size * size)
        assert {len(keys) for keys in ranks} == {len(alone) // size}
        for step in range(len(alone) // (batch_size * size)):
            joint = [key for keys in ranks for key in keys[step * batch_size : (step + 1) * batch_size]]
            assert sorted(joint) == sorted(alone[step * batch_size * size : (step + 1) * batch_size * size])
        assert {key.index for keys in ranks for key in keys} == set(range(length))

    def test_the_last_step_is_filled_up_with_other_samples(self) -> None:
        keys = order(5, batch_size=4)
        assert len(keys) == 8
        assert sorted(key.index for key in keys[:5]) == [0, 1, 2, 3, 4]
        assert [key.index for key in keys[5:]] == [key.index for key in keys[:3]]
        assert len(set(keys)) == 8, "drawn again, not copied"

    def test_repeats_are_drawn_with_other_random_numbers(self) -> None:
        keys = order(4, repeats=3)
        assert len(keys) == len(set(keys)) == 12
        assert [sorted(key.index for key in keys[start : start + 4]) for start in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
        assert not set(keys) & set(order(4, epoch=2, repeats=3))

    def test_twin_ranks_that_shuffle_for_themselves(self) -> None:
        """What the partition test would see: ranks with seeds of their own."""
        own = [[key.index for key in EpochSampler(12, seed=rank, rank=rank, world_size=2)] for rank in range(2)]
        assert {index for keys in own for index in keys} != set(range(12))


def test_validation_takes_every_case_once(dataset: SeededCacheDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    import mtl_med.loading.dataset as module

    assert [batch["id"] for batch in validation_loader(dataset)] == [["p0"], ["p1"], ["p2"], ["p3"]]
    monkeypatch.setattr(module, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        shares.append([batch["id"][0] for batch in validation_loader(dataset)])
    assert shares == [["p0", "p3"], ["p1"], ["p2"]]
