"""Recipes: the facts about a data set, kept as JSON in `data_prep/<dataset>/`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError, nearest
from mtl_med.files import read_json, sha256_bytes, sha256_file, shipped
from mtl_med.prep.name_review import read_review

__all__ = ["ReaderOptions", "Recipe", "Rule", "StructureFact", "load_recipe", "recipe_names"]

RECIPE_SCHEMA = "mtl_med/recipe/1"
_OWN = ("schema", "dataset", "reader", "structures", "names", "quality", "splits")


@dataclass(frozen=True)
class StructureFact:
    """A structure of a data set.

    Args:
        original: its name in the source.
        name: its standard name (AAPM TG-263), or the source's where there is none.
        kind: "oar", "target", "external", or "other" for a structure whose meaning is not known.
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
class ReaderOptions:
    """What the user decides about raw data whose form is not fixed.

    Args:
        grid: "ct" for the grid of the images, "dose" for that of the dose, or a spacing in mm.
        resample: interpolate uneven slices, and take masks of another grid by the nearest voxel, not refuse them.
        force: go on where structures or dose name another frame of reference.
        allow_partial_dose: go on where the dose grid does not cover a target.
        interpolate_gaps: fill missing contours between others.
        deface: fill the air in front of a face.
        doses: kinds of dose to take beside plan and beam doses, such as "SESSION".
        table: structure names that go before the recipe's own: a JSON table or a filled-in review list.
        key: file of the secret by which cases are named; None where they keep their names.
    """

    grid: str | float = "ct"
    resample: bool = False
    force: bool = False
    allow_partial_dose: bool = False
    interpolate_gaps: bool = False
    deface: bool = False
    doses: tuple[str, ...] = ()
    table: Path | None = None
    key: Path | None = None

    @property
    def digest(self) -> str:
        """Hash of all that changes what a case becomes; of files their content, not where they lie.

        Of a review list, which every run writes again, only the decisions count.
        """
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        fields |= {name: sha256_file(path) for name in ("table", "key") if (path := fields[name]) is not None}
        if self.table is not None and self.table.suffix.lower() == ".csv":
            fields["table"] = sorted(read_review(self.table).items())
        return sha256_bytes(json.dumps(fields, sort_keys=True).encode())


@dataclass(frozen=True)
class Recipe:
    """The facts about a data set.

    Args:
        dataset: its name.
        reader: name of the raw layout.
        structures: all structures, in channel order; none where each case has its own.
        rules: rules of the quality table.
        fractions: part of the cases per split, for those that the data set does not divide itself: "tune" of the
            training cases as published, "tune", "validation" and "test" of undivided ones. The rest is "fit".
        digest: hash of the recipe's files and the options.
        names: table of structure names, where each case has its own structures.
        options: what the user decides.
        facts: other fields of the recipe, for its reader.
    """

    dataset: str
    reader: str
    structures: tuple[StructureFact, ...]
    rules: tuple[Rule, ...]
    fractions: Mapping[str, float]
    digest: str
    names: Path | None = None
    options: ReaderOptions = ReaderOptions()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Image-level task -> names of its classes, in the order of the indices that its reader gives."""
        tasks: Mapping[str, Mapping[str, Any]] = self.facts.get("tasks", {})
        return {
            name: tuple(fields["class_names"])
            for name, fields in tasks.items()
            if fields.get("kind") == "classification"
        }

    @property
    def split_seed(self) -> int:
        """Which of the possible divisions into splits is taken."""
        return int(self.facts.get("split_seed", 0))

    def with_options(self, options: ReaderOptions) -> Recipe:
        """The same with the user's decisions, and a digest of both."""
        both = sha256_bytes(f"{self.digest}\n{options.digest}\n".encode())
        return replace(self, options=options, digest=both)


def recipe_names() -> list[str]:
    """Names of the data sets that there are recipes for."""
    return sorted(path.parent.name for path in shipped("recipes").glob("*/recipe.json"))


def load_recipe(dataset: str) -> Recipe:
    """The recipe of a data set, by its shipped name or as the path of a recipe of the user's own.

    Raises:
        UsageError: there is none, or it is not valid.
    """
    if dataset in recipe_names():
        return _read(shipped("recipes") / dataset / "recipe.json")
    if Path(dataset).is_file():
        return _read(Path(dataset))
    raise UsageError(f"there is no recipe for '{dataset}'", fix=nearest(dataset, recipe_names()))


def _read(path: Path) -> Recipe:
    fields: dict[str, Any] = read_json(path)
    if fields.get("schema") != RECIPE_SCHEMA:
        raise UsageError(f"schema is {fields.get('schema')!r}, expected {RECIPE_SCHEMA!r}", where=path)
    try:
        tables = [path.parent / fields[name] for name in ("structures", "names") if name in fields]
        facts = read_json(path.parent / fields["structures"]) if "structures" in fields else []
        return Recipe(
            dataset=fields["dataset"],
            reader=fields["reader"],
            structures=tuple(StructureFact(**item) for item in facts),
            rules=tuple(Rule(**item) for item in fields["quality"]),
            fractions={name: float(part) for name, part in fields["splits"].items()},
            digest=sha256_bytes(b"".join(item.read_bytes() for item in (path, *tables))),
            names=path.parent / fields["names"] if "names" in fields else None,
            facts={name: value for name, value in fields.items() if name not in _OWN},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise UsageError(f"lacks or misnames a field: {error}", where=path) from error
