"""Standard names of structures: AAPM TG-263's, by an explicit table of synonyms; nothing is guessed.

Source: C. Mayo et al., "Standardizing Nomenclatures in Radiation Oncology", AAPM report 263 (2018). We differ where the
report is about more than names: planning organ at risk volumes and lymph node levels are of kind "other", and a femur
is its head and neck, which is what plans of the pelvis contour under that name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from mtl_med.errors import UsageError
from mtl_med.files import safe_name, sha256_bytes, shipped
from mtl_med.prep.name_forms import FRENCH_SIDES, SIDES, margin_of, normal_form, parse_target, split_side
from mtl_med.prep.name_review import read_review
from mtl_med.prep.name_rows import NAME_LIMIT, Match, Row, read_rows

__all__ = ["Match", "NameTable", "assign"]

log = logging.getLogger(__name__)

_LIKE_FROM = 3  # letters; shorter names are like many
_TARGET_TYPES = ("GTV", "CTV", "ITV", "PTV")


class NameTable:
    """A table of structure names; made with `NameTable.load`.

    Args:
        rows: of all tables; a later row goes before an earlier one with the same words.

    Raises:
        UsageError: a synonym has signs that no name can have.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self.names: dict[str, Match] = {}
        """Standard name -> what it is."""
        self._exact: dict[str, Row] = {}  # decisions about one spelling
        self._spelled: dict[str, Row] = {}  # the same whatever the letter case
        self._whole: dict[str, Row] = {}  # normal form -> row, for names without a side
        self._sided: dict[str, Row] = {}  # normal form of what is left of a name without its side -> row
        self._french: dict[str, Row] = {}
        for row in self.rows:
            self._add(row)

    @classmethod
    def load(cls, *paths: Path | None) -> NameTable:
        """The shipped table, and tables of the user's own that go before it.

        Args:
            paths: JSON tables as in `data_prep/dicom_rt` (rows with `synonyms`) or `data_prep/openkbp` (rows with
                `original`), or review lists (CSV) whose column `name` a person has filled in; None is left out.

        Raises:
            UsageError: a table cannot be read, or a row of it cannot be meant.
        """
        rows = [*_shipped()]
        for path in paths:
            if path is None or path.resolve() == _shipped_path():
                continue
            rows += _reviewed(path, cls(rows)) if path.suffix.lower() == ".csv" else read_rows(path)
        return cls(rows)

    @property
    def digest(self) -> str:
        """Hash of all rows."""
        return sha256_bytes(json.dumps([dataclasses.astuple(row) for row in self.rows]).encode())

    def match(self, original: str, interpreted_type: str = "") -> Match:
        """What a structure is, by its name and, where that is not known, its RT ROI Interpreted Type.

        Args:
            original: its name.
            interpreted_type: such as "PTV", "ORGAN" or "EXTERNAL".
        """
        kind = interpreted_type.strip().upper()
        found = self._decided(original) or self._known(original)
        if kind == "EXTERNAL" and (found is None or found.kind != "external"):  # a plan has a single one
            found = self._decided(original) or Match("External", "external")
        if found is None:
            found = Match(self._own(original), "target" if kind in _TARGET_TYPES else "other", matched=False)
        return replace(found, original=original)

    def match_all(
        self,
        structures: Sequence[tuple[str, str]],
        contoured: Sequence[bool] | None = None,
        hide: Callable[[str], str] | None = None,
    ) -> list[Match]:
        """What all structures of a case are, with names that are unique whatever they are called.

        Of several structures with one standard name, the first that has contours keeps it, one that is spelled so
        before others. The others get a number behind the name and a remark; they keep their kind as targets only.

        Args:
            structures: name and RT ROI Interpreted Type of each.
            contoured: whether each has contours; default: all have.
            hide: gives a name to a structure whose own must not be told; it is then its `original` too.
        """
        matches = [self.match(*item) for item in structures]
        if hide is not None:
            matches = [self._hidden(match, hide) for match in matches]
        has = [True] * len(matches) if contoured is None else list(contoured)
        rank = [(not match.matched, not has[i], match.original != match.name) for i, match in enumerate(matches)]
        names = assign([match.name for match in matches], sorted(range(len(matches)), key=rank.__getitem__))
        present = set(names.values())
        return [_placed(match, names[i], present) for i, match in enumerate(matches)]

    def suggest(self, original: str, count: int = 3) -> list[str]:
        """Names of the table that a person may have meant, most like it first."""
        loose = normal_form(re.sub(r"[^\w .-]", " ", original).strip("_ "))
        if len(re.findall("[a-z]", loose)) < _LIKE_FROM:
            return []
        if found := self._by_form(loose):
            return [found.name]
        near = [self._whole[form].name for form in _near(loose, self._whole, count)]
        pairs = {form: row for form, row in self._sided.items() if row.sides == "only"}
        near += [f"{pairs[form].name}_{side}" for form in _near(loose, pairs, count) for side in SIDES]
        for rest, side in split_side(loose, SIDES):
            near = [f"{self._sided[form].name}_{side}" for form in _near(rest, self._sided, count)] + near
        return list(dict.fromkeys(near))[:count]

    def _decided(self, original: str) -> Match | None:
        """What a row about this spelling says, or else one about another letter case of a name that is not standard."""
        row = self._exact.get(_spelling(original)) or self._spelled.get(_spelling(original).casefold())
        if row is None or (_spelling(row.original) != _spelling(original) and self._is_standard(original)):
            return None
        return row.match()

    def _is_standard(self, original: str) -> bool:
        known = self._known(original)
        return known is not None and known.name == _spelling(original)

    def _known(self, original: str) -> Match | None:
        return self._by_form(normal_form(original)) or self.by_rule(original)

    def _by_form(self, form: str) -> Match | None:
        if not form or form in self._whole:
            return self._whole[form].match() if form else None
        found = {self._sided[rest].match(side) for rest, side in split_side(form, SIDES) if rest in self._sided}
        found |= {
            self._french[rest].match(side) for rest, side in split_side(form, FRENCH_SIDES) if rest in self._french
        }
        return found.pop() if len(found) == 1 else None

    def by_rule(self, original: str) -> Match | None:
        """What a name says that has a form of its own: a target with its dose, or the margin around an organ."""
        target = parse_target(original)
        if target is not None:
            return Match(target.name, "target", target.prescription_gy)
        margin = margin_of(original)
        organ = self._by_form(margin.organ) if margin else None
        return Match(margin.name(organ.name), "other") if margin and organ and organ.kind == "oar" else None

    def _own(self, original: str) -> str:
        """A safe name of a structure's own; never one that says that it is something the table knows."""
        marked = safe_name(original.replace("~", "_part "), NAME_LIMIT)
        name = safe_name(re.sub("_+", "_", marked).lstrip("+-._"), NAME_LIMIT)
        return f"{name[: NAME_LIMIT - 6]}_other" if self._known(name) else name

    def _hidden(self, match: Match, hide: Callable[[str], str]) -> Match:
        if self._known(match.original):
            return match  # words of the table, a side and numbers: nobody's name
        name = match.name if match.matched else hide(match.original)
        return replace(match, name=name, original=name)

    def _add(self, row: Row) -> None:
        self.names |= {f"{row.name}_{side}": row.match(side) for side in SIDES} if row.sides else {}
        self.names |= {row.name: row.match()} if row.sides != "only" else {}
        if row.original:
            self._exact[_spelling(row.original)] = row
            self._spelled[_spelling(row.original).casefold()] = row
        if row.original and not row.synonyms:
            return
        reverse = "_".join(reversed(row.name.split("_")))  # TG-263's reverse order names: Mandible_Bone
        forms = {word: normal_form(word) for word in (row.name, reverse, *row.synonyms, *row.french)}
        for word, form in forms.items():
            if not form:
                raise UsageError(f"synonym '{word}' of {row.name} has signs that a name cannot have")
        if row.sides:
            self._sided |= dict.fromkeys(forms.values(), row)
        if row.sides != "only":
            self._whole |= dict.fromkeys(forms.values(), row)
        self._french |= {forms[word]: row for word in row.french}


def _placed(match: Match, name: str, present: set[str]) -> Match:
    """A match under the name that it got among others."""
    above = match.above if match.above in present else ""
    if name == match.name or not match.matched:
        return replace(match, name=name, above=above)
    if match.kind == "target":
        return replace(match, name=name, above=above, instead_of=match.name)
    return replace(match, name=name, kind="other", above="", instead_of=match.name)


def assign(names: Sequence[str], order: Iterable[int] | None = None) -> dict[int, str]:
    """Position -> name that no other has, not even in other letter case; made of the safe form of each name.

    Args:
        names: any texts, equal ones too.
        order: positions in the order in which they choose; default: as given.
    """
    taken: set[str] = set()
    chosen: dict[int, str] = {}
    for position in range(len(names)) if order is None else order:
        base = name = safe_name(names[position], NAME_LIMIT)
        number = 2
        while name.lower() in taken:
            ending = f"_{number}"
            name, number = base[: NAME_LIMIT - len(ending)] + ending, number + 1
        taken.add(name.lower())
        chosen[position] = name
    return dict(sorted(chosen.items()))


def _spelling(original: str) -> str:
    return " ".join(original.split())


def _near(form: str, forms: Iterable[str], count: int) -> list[str]:
    return difflib.get_close_matches(form, forms, n=count, cutoff=0.75)


def _reviewed(path: Path, known: NameTable) -> list[Row]:
    """Rows of a review list: a name of the table or of a target says the kind, any other is an organ's."""
    rows = []
    for original, name in read_review(path).items():
        found = known.names.get(name) or known.by_rule(name)
        if found is None:
            near = known.suggest(name)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            log.warning("%s: '%s' is not in the table of names and is taken as an organ's own%s", path, name, hint)
            found = Match(name, "oar")
        rows.append(Row(found.name, found.kind, "", found.above, found.prescription_gy, original))
    return rows


@cache
def _shipped_path() -> Path:
    return (shipped("recipes") / "dicom_rt" / "structures.json").resolve()


@cache
def _shipped() -> tuple[Row, ...]:
    return tuple(read_rows(_shipped_path()))
