"""The list of structure names that nothing is known of, after a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mtl_med.errors import CaseError
from mtl_med.prep.convert import read_quality
from mtl_med.prep.name_review import REVIEW_FILE, write_review
from mtl_med.prep.names import NameTable
from mtl_med.prep.raw import Source
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.recipe_table import table_of

if TYPE_CHECKING:
    from mtl_med.prep.engine import Report

__all__ = ["review_names", "unknown_names"]


def review_names(report: Report, recipe: Recipe, sources: Sequence[Source] = ()) -> None:
    """Write the list of a study, if there is anything to ask, and note it in the report.

    A study that is de-identified does not hold what its structures were called: its list lies beside it, for its owner
    alone, and is made from the sources.

    Args:
        report: of the run.
        recipe: its recipe.
        sources: the sources of the run; without them a study that is de-identified gets no list.
    """
    if recipe.names is None:
        return
    root = report.manifest.root
    path = root / REVIEW_FILE
    table = table_of(recipe)
    unmatched: dict[str, Sequence[str]] = {
        case.id: _with_letters(read_quality(case).unmatched) for case in report.manifest
    }
    if recipe.options.key is not None:
        path = root.parent / f"{root.name}.{REVIEW_FILE}"
        unmatched = {source.id: unknown_names(source, recipe, table) for source in sources}
    if any(unmatched.values()):
        for_owner = recipe.options.key is not None
        report.unmatched, report.review = write_review(path, unmatched, table.suggest, for_owner=for_owner), path


def unknown_names(source: Source, recipe: Recipe, table: NameTable) -> list[str]:
    """Names of a source's structures that the table does not know; none where they cannot be read."""
    try:
        structures = READERS[recipe.reader].structures(source)
    except CaseError:
        return []  # said by the case itself
    return _with_letters(name for name, kind in structures if not table.match(name, kind).matched)


def _with_letters(names: Iterable[str]) -> list[str]:
    """Names without the empty ones, which say nothing that could be decided about: the case's notes tell of those."""
    return [name for name in names if name.strip()]
