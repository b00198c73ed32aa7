"""What a preparation would do: every case with what belongs to it, and what stands in the way; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED
from mtl_med.prep.dicom_refusal import refusal
from mtl_med.prep.dicom_source import DicomSource
from mtl_med.prep.engine import find_sources
from mtl_med.prep.names import NameTable
from mtl_med.prep.raw import Source
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.review import unknown_names
from mtl_med.prep.splits import assign_splits

__all__ = ["Check", "check_sources"]


@dataclass(frozen=True)
class Check:
    """What was found.

    Args:
        lines: to be printed.
        cases: number of cases.
        faults: number of those that cannot be converted as they are.
    """

    lines: tuple[str, ...]
    cases: int
    faults: int

    @property
    def exit_code(self) -> int:
        """0 when every case could be converted as far as headers tell, else 4 (some cannot) or 5 (none can)."""
        if not self.faults:
            return EXIT_OK
        return EXIT_ALL_FAILED if self.faults == self.cases else EXIT_SOME_FAILED


def check_sources(recipe: Recipe, source: str | Path, limit: int | None = None) -> Check:
    """Look at the headers of all cases.

    Raises:
        NothingFoundError: `source` holds no such data.
    """
    sources = find_sources(recipe, Path(source).resolve(), limit)
    splits = assign_splits(sources, recipe.fractions, recipe.split_seed)
    table = NameTable.load(recipe.names, recipe.options.table) if recipe.names else None
    found = {item.id: _fault(item, recipe) for item in sources}
    lines = [line for item in sources for line in _told(item, found[item.id], splits[item.id], recipe, table)]
    faults = sum(map(bool, found.values()))
    lines.append(f"{len(sources)} cases, {faults} of which cannot be converted; nothing was written")
    return Check(tuple(lines), len(sources), faults)


def _fault(source: Source, recipe: Recipe) -> str:
    """Why a case cannot be converted as it is; "" where nothing is known against it."""
    return refusal(source, recipe.options) if isinstance(source, DicomSource) else source.fault


def _told(source: Source, fault: str, split: str, recipe: Recipe, table: NameTable | None) -> Iterator[str]:
    yield f"{source.id} ({split})"
    for heading, sentences in source.account.items():
        for sentence in sentences:
            yield f"  {heading}: {sentence}"
    if fault:
        yield f"  cannot be converted: {fault}"
    unknown = unknown_names(source, recipe, table) if table else []
    if unknown and recipe.options.key is None:
        yield f"  names not known: {', '.join(unknown)}"
    elif unknown:
        yield f"  {len(unknown)} names not known"
