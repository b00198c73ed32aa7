"""Which split a case belongs to, and which cases stand for a whole data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from mtl_med.prep.raw import Source

__all__ = ["SPLITS_OF_GROUP", "assign_splits", "first_of_each_group"]

SPLITS_OF_GROUP = {"train": ("fit", "tune"), "validation": ("validation",), "test": ("test",)}
MIN_TRAINING_CASES = 4  # below this, one case fewer to learn from weighs more than a choice of epoch


def assign_splits(sources: Iterable[Source], tune_fraction: float) -> dict[str, str]:
    """Split of each case by its id.

    A published training case goes to `tune` when the hash of its id falls into the lowest `tune_fraction` of all
    hashes, else to `fit`: this depends on nothing but the id, so that it stays when cases are added. When none falls
    there and at least four training cases are present, the one with the smallest hash goes to `tune`.

    Args:
        sources: the cases, with their published group.
        tune_fraction: expected part of the training cases in `tune`.

    Returns:
        id -> "fit", "tune", "validation" or "test".
    """
    splits = {source.id: source.group for source in sources}
    training = sorted((case_id for case_id, group in splits.items() if group == "train"), key=_position)
    tune = [case_id for case_id in training if _position(case_id) < tune_fraction]
    if not tune and len(training) >= MIN_TRAINING_CASES:
        tune = training[:1]
    return splits | dict.fromkeys(training, "fit") | dict.fromkeys(tune, "tune")


def _position(case_id: str) -> float:
    """Where the hash of an id falls, in [0, 1)."""
    return int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:6], "big") / (1 << 48)


def first_of_each_group(sources: Sequence[Source], limit: int | None) -> list[Source]:
    """The first cases of every group, as many of each as its share of all, `limit` in total; None keeps all."""
    sizes = Counter(source.group for source in sources)
    seen: Counter[str] = Counter()
    placed = []
    for source in sources:
        placed.append(((seen[source.group] + 0.5) / sizes[source.group], source))
        seen[source.group] += 1
    chosen = {id(source) for _, source in sorted(placed, key=lambda item: item[0])[:limit]}
    return [source for source in sources if id(source) in chosen]
