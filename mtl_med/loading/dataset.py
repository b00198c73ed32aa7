"""Cached cases whose randomness depends on (seed, epoch, index) alone, so that resume and workers change nothing."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose
from torch.utils.data import Sampler, Subset

from mtl_med.errors import UsageError
from mtl_med.processes import rank, world_size

__all__ = ["EpochSampler", "SampleKey", "SeededCacheDataset", "sample_seed", "training_loader", "validation_loader"]


class SampleKey(NamedTuple):
    """Which sample to draw, and in which epoch."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a sample


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 32-bit seed that depends on all three numbers and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


class SeededCacheDataset(CacheDataset):
    """MONAI's CacheDataset, drawn by `SampleKey`: the random transforms are seeded per sample.

    Args:
        data: items for the transform.
        transform: a Compose; what comes before its first random transform is computed once and kept in memory.
        seed: seed of the run.
        num_workers: threads that fill the cache.
    """

    def __init__(
        self, data: Sequence[dict[str, Any]], transform: Compose, seed: int = 0, num_workers: int = 2, **options: Any
    ) -> None:
        self.seed = int(seed)
        super().__init__(
            data, transform, num_workers=num_workers, copy_cache=False, progress=sys.stderr.isatty(), **options
        )

    def __getitem__(self, key: SampleKey | int) -> Any:  # type: ignore[override]
        if isinstance(key, SampleKey):
            self.transform.set_random_state(seed=sample_seed(self.seed, key.epoch, key.index))
            return self._transform(key.index)
        return super().__getitem__(key)


class EpochSampler(Sampler[SampleKey]):
    """A seeded permutation of all samples in each epoch, dealt out to the ranks of a data-parallel run.

    Step k of world size w takes the samples k*w .. k*w + w-1 of the permutation, one a rank, so that w processes with
    batch b see what one process with batch b*w sees. The last step is filled up from the permutation's start.

    With weights each epoch draws as many samples, sample i in proportion to `weights[i]`, as evenly as whole numbers
    can: a sample that is due 2.3 times comes twice or three times, and one that is due 0.3 times in about every third
    epoch.

    Args:
        length: number of samples.
        seed: seed of the run.
        rank: this process.
        world_size: number of processes.
        batch_size: batch of one process.
        repeats: passes over the data in one epoch.
        weights: how often each sample is drawn, relative to the others; None for once in a pass.

    Raises:
        UsageError: weights that are not one number per sample, or negative, or all zero.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        repeats: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.length, self.seed, self.rank, self.world_size = int(length), int(seed), int(rank), int(world_size)
        self.batch_size, self.repeats = int(batch_size), int(repeats)
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        if self.weights is not None and not (
            self.weights.shape == (self.length,) and bool((self.weights >= 0).all()) and float(self.weights.sum()) > 0
        ):
            raise UsageError(
                f"the sampling weights are no {self.length} numbers of 0 and more", fix="Give one for each sample"
            )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        step = self.world_size * self.batch_size
        return -(-self.length * self.repeats // step) * self.batch_size

    def __iter__(self) -> Iterator[SampleKey]:
        generator = torch.Generator().manual_seed(sample_seed(self.seed, self.epoch, -1))
        order = torch.cat([self._draw(generator) for _ in range(self.repeats)])
        total = len(self) * self.world_size
        order = order.repeat(-(-total // len(order)))[:total]
        if self.weights is not None:  # the same case may come often in a pass: each place has a number of its own
            for position in range(self.rank, total, self.world_size):
                yield SampleKey(self.epoch * total + position, int(order[position]))
            return
        # Sample number i of the epoch is drawn with seed (epoch, i), so that repeats of one case differ.
        for position in range(self.rank, total, self.world_size):
            yield SampleKey(self.epoch * max(1, self.repeats) + position // self.length, int(order[position]))

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        """The samples of one pass."""
        order = torch.randperm(self.length, generator=generator)
        if self.weights is None:
            return order
        # Systematic sampling: the samples' weights side by side, and a comb of `length` teeth laid over them.
        edges = self.weights[order].cumsum(0)
        teeth = (torch.arange(self.length) + torch.rand((), generator=generator, dtype=torch.float64)) / self.length
        drawn = order[torch.searchsorted(edges, teeth * edges[-1], right=True).clamp(max=self.length - 1)]
        return drawn[torch.randperm(self.length, generator=generator)]


def training_loader(
    dataset: SeededCacheDataset,
    batch_size: int,
    *,
    workers: int = 0,
    repeats: int = 1,
    weights: Sequence[float] | None = None,
) -> DataLoader:
    """Batches of one process in the order that `EpochSampler` gives.

    Args:
        dataset: the cached cases.
        batch_size: samples in a batch of one process.
        workers: loader processes; the result does not depend on their number.
        repeats: passes over the data in one epoch.
        weights: how often each case is drawn (see `mtl_med.loading.sampling_weights`); None for once in a pass.
    """
    sampler = EpochSampler(len(dataset), dataset.seed, rank(), world_size(), batch_size, repeats, weights)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else every new iterator would draw from the global generator
    )


def validation_loader(dataset: CacheDataset) -> DataLoader:
    """One whole case at a time; in a data-parallel run each rank scores its share."""
    own = range(rank(), len(dataset), world_size())
    return DataLoader(Subset(dataset, own), batch_size=1, shuffle=False, num_workers=0, generator=torch.Generator())
