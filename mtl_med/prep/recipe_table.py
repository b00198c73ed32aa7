"""The table of structure names that a recipe and the user's own table make together."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mtl_med.prep.names import NameTable
from mtl_med.prep.recipe import Recipe

__all__ = ["table_of"]


def table_of(recipe: Recipe) -> NameTable:
    """Names of structures; read once in each process, and again when a file has changed.

    Raises:
        UsageError: a table cannot be read or meant.
    """
    return _load(recipe.names, recipe.options.table, recipe.digest)


@lru_cache(maxsize=4)
def _load(names: Path | None, table: Path | None, digest: str) -> NameTable:
    """`digest` is that of the content of both files, which their paths do not tell."""
    return NameTable.load(names, table)
