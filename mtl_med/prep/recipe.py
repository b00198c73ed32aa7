"""Recipes: the facts about a data set, kept as JSON in `data_prep/<dataset>/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError, nearest
from mtl_med.files import read_json, sha256_bytes, shipped

__all__ = ["Recipe", "Rule", "StructureFact", "load_recipe", "recipe_names"]

RECIPE_SCHEMA = "mtl_med/recipe/1"


@dataclass(frozen=True)
class StructureFact:
    """A structure of a data set.

    Args:
        original: its name in the source.
        name: its standard name (AAPM TG-263), or the source's where there is none.
        kind: "oar", "target" or "external".
        prescription_gy: prescribed dose of a target, Gy.
        above: name of a structure that lies below it in every body.
    """

    original: str
    name: str
    kind: str
    prescription_gy: float | None = None
    above: str = ""


@dataclass(frozen=True)
class Rule:
    """A limit of a measure beyond which a case is odd.

    Args:
        rule: name of the oddity.
        measure: name of the measure; `*` stands for any structure.
        reason: what the oddity means.
        unit: unit of measure and limit; empty for counts.
        above: odd when the measure is above this.
        below: odd when the measure is below this.
    """

    rule: str
    measure: str
    reason: str
    unit: str = ""
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Recipe:
    """The facts about a data set.

    Args:
        dataset: its name.
        reader: name of the raw layout.
        structures: all structures, in channel order.
        rules: rules of the quality table.
        tune_fraction: part of the training cases that chooses epochs and operating points.
        digest: hash of the recipe's files.
    """

    dataset: str
    reader: str
    structures: tuple[StructureFact, ...]
    rules: tuple[Rule, ...]
    tune_fraction: float
    digest: str


def recipe_names() -> list[str]:
    """Names of the data sets that there are recipes for."""
    return sorted(path.parent.name for path in shipped("recipes").glob("*/recipe.json"))


def load_recipe(dataset: str) -> Recipe:
    """The recipe of a data set.

    Raises:
        UsageError: there is none, or it is not valid.
    """
    if dataset not in recipe_names():
        raise UsageError(f"there is no recipe for '{dataset}'", fix=nearest(dataset, recipe_names()))
    return _read(shipped("recipes") / dataset / "recipe.json")


def _read(path: Path) -> Recipe:
    fields: dict[str, Any] = read_json(path)
    if fields.get("schema") != RECIPE_SCHEMA:
        raise UsageError(f"schema is {fields.get('schema')!r}, expected {RECIPE_SCHEMA!r}", where=path)
    try:
        table = path.parent / fields["structures"]
        return Recipe(
            dataset=fields["dataset"],
            reader=fields["reader"],
            structures=tuple(StructureFact(**item) for item in read_json(table)),
            rules=tuple(Rule(**item) for item in fields["quality"]),
            tune_fraction=float(fields["tune_fraction"]),
            digest=sha256_bytes(path.read_bytes() + table.read_bytes()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"lacks or misnames a field: {error}", where=path) from error
