"""Rows of a table of structure names: what each may say, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError
from mtl_med.files import read_json, safe_name

__all__ = ["KINDS", "NAME_LIMIT", "Match", "Row", "read_rows"]

KINDS = ("oar", "target", "external", "other")
NAME_LIMIT = 64
MAX_PRESCRIPTION_GY = 200.0
_FIELDS = {"name", "original", "kind", "sides", "synonyms", "french", "above", "prescription_gy"}
_SIDES = ("", "only", "also")


@dataclass(frozen=True)
class Match:
    """What a structure is.

    Args:
        name: its standard name, or a safe name made of its own where it is not known; unique within a case only after
            `NameTable.match_all`.
        kind: "oar", "target", "external" or "other".
        prescription_gy: prescribed dose of a target, Gy, where its name or the table tells.
        matched: whether the name is known.
        original: its own name, as far as it may be told.
        above: a structure that lies below it in every body.
        instead_of: the standard name that another structure of the case got before it.
    """

    name: str
    kind: str
    prescription_gy: float | None = None
    matched: bool = True
    original: str = ""
    above: str = ""
    instead_of: str = ""

    @property
    def remark(self) -> str:
        """A sentence about a standard name that two structures of a case could have; "" where there is none."""
        if not self.instead_of:
            return ""
        told = f"'{self.original}' is called {self.name}, as another structure is {self.instead_of}"
        return told if self.kind == "target" else f"{told}, and is of kind other"


@dataclass(frozen=True)
class Row:
    """A structure, or a pair of them.

    Args:
        name: its standard name, without the side.
        kind: "oar", "target", "external" or "other".
        sides: "only" where the name always has a side (`_L`, `_R`), "also" where it may have one, else "".
        above: a structure that lies below it in every body.
        prescription_gy: prescribed dose of a target, Gy.
        original: the one spelling that the row is about; "" where synonyms say.
        synonyms: other words for it, without the side.
        french: those of them that a single G or D gives a side.
    """

    name: str
    kind: str = "oar"
    sides: str = ""
    above: str = ""
    prescription_gy: float | None = None
    original: str = ""
    synonyms: tuple[str, ...] = ()
    french: tuple[str, ...] = ()

    def match(self, side: str = "") -> Match:
        """The structure of this row, or the one of the pair on `side`, "L" or "R"."""
        name = f"{self.name}_{side}" if side else self.name
        return Match(name, self.kind, self.prescription_gy, above=self.above)


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON table.

    Raises:
        UsageError: the file is no table, or a row cannot be meant.
    """
    items = read_json(path)
    if not isinstance(items, list):
        raise UsageError("is no table of structures", where=path, fix="See data_prep/dicom_rt/README.md")
    return [_row(item, f"{path}, row {number}") for number, item in enumerate(items, 1)]


def _row(item: Any, where: str) -> Row:
    if not isinstance(item, Mapping) or not set(item) <= _FIELDS or not isinstance(item.get("name"), str):
        raise UsageError("is no structure", where=where, fix=f"Give it a name, and of {', '.join(sorted(_FIELDS))}")
    words = {key: item.get(key, []) for key in ("synonyms", "french")}
    dose = item.get("prescription_gy")
    what = ""
    if safe_name(item["name"], NAME_LIMIT) != item["name"]:
        what = f"'{item['name']}' has characters that a name cannot have"
    elif item.get("kind", "oar") not in KINDS:
        what = f"kind is '{item['kind']}', expected {' or '.join(KINDS)}"
    elif item.get("sides", "") not in _SIDES:
        what = f"sides is '{item['sides']}', expected 'only' or 'also'"
    elif not all(isinstance(value, list) and all(isinstance(word, str) for word in value) for value in words.values()):
        what = f"synonyms of {item['name']} are no list of words"
    elif not all(isinstance(item.get(key, ""), str) for key in ("original", "above")):
        what = f"original or above of {item['name']} is no name"
    elif dose is not None and not (isinstance(dose, (int, float)) and 0 < dose <= MAX_PRESCRIPTION_GY):
        what = f"prescription of {item['name']} is no dose in Gy"
    if what:
        raise UsageError(what, where=where, fix="Mend the row")
    return Row(**{**item, "synonyms": tuple(words["synonyms"]), "french": tuple(words["french"])})
