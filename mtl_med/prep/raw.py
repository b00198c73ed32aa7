"""What readers hand to the engine: sources found on disk, and cases read into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid
from mtl_med.prep.recipe import Recipe, StructureFact

__all__ = ["GROUPS", "RawCase", "Reader", "Source"]

GROUPS = ("train", "validation", "test", "all")  # "all": not divided as published, see splits.py


@dataclass(frozen=True)
class Source:
    """One case as it lies on disk, not yet read.

    Args:
        id: name of the case, safe as a file name.
        group: "train", "validation" or "test", as published, or "all" where the data were never divided.
        folder: where its files lie.
        files: its files, in an order that depends on the data alone.
        fault: why it cannot be used, where that shows before reading.
        patient: whose case it is, so that all cases of a patient go to one split; the id where it is empty.
        stratum: what the splits should hold in equal parts, such as a diagnosis; empty where cases are not divided so.
        account: sentences about what was found, linked and left out, by heading.
        root: the folder that was scanned, of which a run that de-identifies tells nothing.
        identity: texts that tell who the patient is, which such a run takes out of every message.
        others: what other cases add to this one, such as whose twin it is: with them it is converted anew.
    """

    id: str
    group: str
    folder: Path
    files: tuple[Path, ...]
    fault: str = ""
    patient: str = ""
    stratum: str = ""
    account: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    root: Path = Path()
    identity: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(eq=False)
class RawCase:
    """One case in memory, already on its final grid.

    Args:
        id: name of the case.
        grid: grid of all its volumes and masks; None for a photograph, which has no mm.
        volumes: "ct" (HU, int16 or float32) and, where there is a dose, "dose" (Gy, float32) and "mask_dose" (uint8),
            each (X, Y, Z).
        masks: standard name -> (X, Y, Z) uint8; only contoured structures. Each is asked for one at a time.
        facts: standard name -> fact, for every structure of the recipe or of the case.
        measures: numbers about the source that the stored volumes no longer show, for the quality table.
        remarks: sentences about the source.
        fractions: number of treatment fractions, if known.
        account: sentences about what was converted and what was left out, by heading.
        unmatched: names of structures for which no standard name is known -> the name they got.
        pictures: file key -> (H, W, 3) or (H, W) uint8 of a photograph, such as "image" and "structures/Lesion".
        labels: image-level task -> index of the class in the recipe's list; a task without label is not in it.
        group: the lesion or patient that several cases share; empty where the case stands alone.
        dose_grid: the dose's own grid, between whose outermost voxel centres it is known; None for everywhere.
        kept_percent: name -> share of a structure that the grid holds, %, where it cuts it.
    """

    id: str
    grid: Grid | None
    volumes: dict[str, NDArray]
    masks: Mapping[str, NDArray]
    facts: dict[str, StructureFact]
    measures: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    fractions: int | None = None
    account: dict[str, list[str]] = field(default_factory=dict)
    unmatched: dict[str, str] = field(default_factory=dict)
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    group: str = ""
    dose_grid: Grid | None = None
    kept_percent: Mapping[str, float] = field(default_factory=dict)


def _no_names(source: Source) -> list[tuple[str, str]]:
    return []


@dataclass(frozen=True)
class Reader:
    """A raw layout: how to find its cases and how to read one.

    Args:
        scan: folder and recipe -> sources; raises NothingFoundError when the folder is no such data set.
        read: source and recipe -> case; raises CaseError.
        structures: name and RT ROI Interpreted Type of the structures of a source, as they are called there; none where
            the recipe lists them.
        options: names of the `ReaderOptions` that it heeds, and "deidentify".
    """

    scan: Callable[[Path, Recipe], Sequence[Source]]
    read: Callable[[Source, Recipe], RawCase]
    structures: Callable[[Source], list[tuple[str, str]]] = _no_names
    options: frozenset[str] = frozenset()
