"""Which split a case belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mtl_med.prep.raw import Source

__all__ = ["assign_splits"]

MIN_TRAINING_CASES = 4  # below this, one case fewer to learn from weighs more than a choice of epoch


def assign_splits(sources: Iterable[Source], tune_fraction: float) -> dict[str, str]:
    """Split of each case by its id.

    A published training case goes to `tune` when the hash of its id falls into the lowest `tune_fraction` of all
    hashes, else to `fit`: the choice depends on nothing but the id, so that it stays when cases are added. When none
    falls there and at least four cases are there, the one with the smallest hash goes to `tune`.

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
