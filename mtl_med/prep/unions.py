"""Targets of one kind as one structure, so that plans with one, two or five of them can train the same network."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.raw import RawCase
from mtl_med.prep.recipe import StructureFact

__all__ = ["add_unions"]


def add_unions(case: RawCase, kinds: Iterable[str]) -> None:
    """Add the union of all targets of each kind to a case that has no structure of that very name.

    A union has no prescription of its own, and says in `original` what it is made of.

    Args:
        case: changed in place.
        kinds: beginnings of names, such as "CTV" and "PTV".
    """
    if case.grid is None or not isinstance(case.masks, PackedMasks):
        return
    for kind in kinds:
        parts = [
            name
            for name, fact in case.facts.items()
            if fact.kind == "target" and name.startswith(kind) and name in case.masks
        ]
        if not parts or kind in case.facts:
            continue
        union = case.masks[parts[0]]
        for name in parts[1:]:
            np.maximum(union, case.masks[name], out=union)
        case.masks.add(kind, union, case.grid)
        case.facts[kind] = StructureFact(" + ".join(parts), kind, "target")
        case.account.setdefault("converted", []).append(f"{kind} is the union of {', '.join(parts)}")
