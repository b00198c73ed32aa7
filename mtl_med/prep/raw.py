"""What readers hand to the engine: sources found on disk, and cases read into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from mtl_med.geometry import Grid
from mtl_med.prep.recipe import Recipe, StructureFact

__all__ = ["GROUPS", "RawCase", "Reader", "Source"]

GROUPS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """One case as it lies on disk, not yet read.

    Args:
        id: name of the case, safe as a file name.
        group: "train", "validation" or "test", as published.
        folder: where its files lie.
        files: its files, sorted by name.
        fault: why it cannot be used, where that shows before reading.
    """

    id: str
    group: str
    folder: Path
    files: tuple[Path, ...]
    fault: str = ""


@dataclass(eq=False)
class RawCase:
    """One case in memory, already on its final grid.

    Args:
        id: name of the case.
        grid: grid of all its volumes.
        volumes: "ct" (HU, int16), "dose" (Gy, float32), "mask_dose" (uint8), each (X, Y, Z).
        masks: standard name -> (X, Y, Z) uint8; only contoured structures.
        facts: standard name -> fact, for every structure of the recipe.
        measures: numbers about the source that the stored volumes no longer show, for the quality table.
        remarks: sentences about the source.
    """

    id: str
    grid: Grid
    volumes: dict[str, NDArray]
    masks: dict[str, NDArray]
    facts: dict[str, StructureFact]
    measures: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """A raw layout: how to find its cases and how to read one.

    Args:
        scan: folder -> sources; raises NothingFoundError when the folder is no such data set.
        read: source and recipe -> case; raises CaseError.
    """

    scan: Callable[[Path], Sequence[Source]]
    read: Callable[[Source, Recipe], RawCase]
