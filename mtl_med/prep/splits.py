"""Which split a case belongs to, and which cases stand for a whole data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mtl_med.prep.raw import Source

__all__ = ["SPLITS_OF_GROUP", "assign_splits", "first_of_each_group"]

SPLITS_OF_GROUP = {
    "train": ("fit", "tune"),
    "validation": ("validation",),
    "test": ("test",),
    "all": ("fit", "tune", "validation", "test"),
}
MIN_TRAINING_CASES = 4  # below this, one case fewer to learn from weighs more than a choice of epoch
MIN_UNDIVIDED_CASES = 6
_ORDER = ("validation", "test", "tune")


def assign_splits(sources: Iterable[Source], fractions: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """Split of each case, by the hash of whose it is: all cases of a patient go together, and stay when others come.

    A published training case goes to `tune` when its hash falls into the lowest `fractions["tune"]` of all hashes,
    else to `fit`. A case that the data set does not divide goes to `validation`, `test` or `tune` when its hash falls
    into their shares, one behind the other, else to `fit`. Where a split is left empty and there are patients enough
    (four of the training cases for `tune`, six undivided ones for each), the patient of the smallest hash goes there.

    Cases that name a stratum are divided stratum by stratum, and in equal parts of each as near as whole patients
    allow: the splits then hold rare classes alike, but another patient more may move one between them.

    Args:
        sources: the cases, with their published group.
        fractions: split -> expected part of the cases.
        seed: another seed gives another division.

    Returns:
        id -> "fit", "tune", "validation" or "test".
    """
    sources = list(sources)
    splits = {source.id: source.group for source in sources}
    for group, wanted, enough in (("train", ("tune",), MIN_TRAINING_CASES), ("all", _ORDER, MIN_UNDIVIDED_CASES)):
        members = [source for source in sources if source.group == group]
        parts = {name: fractions.get(name, 0.0) for name in wanted}
        strata = {_owner(source): source.stratum for source in members}
        positions = {owner: _position(f"{seed}:{owner}" if seed else owner) for owner in strata}
        chosen = _divide({owner: positions[owner] for owner in strata if not strata[owner]}, parts, enough)
        for name in sorted(set(strata.values()) - {""}):
            chosen |= _divide_equally({owner: positions[owner] for owner in strata if strata[owner] == name}, parts)
        splits |= {source.id: chosen[_owner(source)] for source in members}
    return splits


def _owner(source: Source) -> str:
    return source.patient or source.id


def _divide_equally(positions: Mapping[str, float], fractions: Mapping[str, float]) -> dict[str, str]:
    """By rank: each split gets its part of these owners, to the nearest whole one."""
    ordered = sorted(positions, key=lambda owner: (positions[owner], owner))
    splits = dict.fromkeys(ordered, "fit")
    start, share = 0, 0.0
    for name, part in fractions.items():
        share += part
        end = round(share * len(ordered))
        splits |= dict.fromkeys(ordered[start:end], name)
        start = end
    return splits


def _divide(positions: Mapping[str, float], fractions: Mapping[str, float], enough: int) -> dict[str, str]:
    ordered = sorted(positions, key=lambda owner: (positions[owner], owner))
    splits = dict.fromkeys(ordered, "fit")
    end = 0.0
    for name, part in fractions.items():
        start, end = end, end + part
        splits |= {owner: name for owner in ordered if start <= positions[owner] < end}
    for name, part in fractions.items():
        free = [owner for owner in ordered if splits[owner] == "fit"]
        if part > 0 and len(ordered) >= enough and name not in splits.values() and free:
            splits[free[0]] = name
    return splits


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
