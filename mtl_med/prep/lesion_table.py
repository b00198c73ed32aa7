"""The table of HAM10000: whose lesion each photograph shows, its diagnosis, and where it contradicts itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from mtl_med.errors import UsageError

__all__ = ["LesionTable", "Row"]

_COLUMNS = {"lesion_id": "lesion_id", "dx": "diagnosis", "dx_type": "confirmed_by"}  # column -> field of a Row
_NEEDED = ("lesion_id", "image_id", "dx")
_UNKNOWN = ("", "unknown", "nan", "na")
_OLDEST_YEARS = 120


@dataclass(frozen=True)
class Row:
    """What the table says of a photograph; empty where it says nothing.

    Args:
        lesion_id: the lesion, which other photographs may show too.
        diagnosis: column `dx`.
        confirmed_by: column `dx_type`: "histo", "follow_up", "consensus" or "confocal".
        age: in years, as it is written.
        sex: "male", "female" or "unknown".
        localization: part of the body.
        dataset: where the photograph came from, in later versions of the table.
    """

    lesion_id: str = ""
    diagnosis: str = ""
    confirmed_by: str = ""
    age: str = ""
    sex: str = ""
    localization: str = ""
    dataset: str = ""

    @property
    def age_years(self) -> float | None:
        """The age; None where there is no number, or one that is no age of a person."""
        try:
            years = float(self.age)
        except ValueError:
            return None
        return years if 0 <= years <= _OLDEST_YEARS else None

    @property
    def measures(self) -> dict[str, float]:
        """What the quality table shows: 1 where something is known, else 0."""
        years = self.age_years
        found: dict[str, float] = {} if years is None else {"patient.age_years": years}
        known = {
            "patient.age": years is not None,
            "patient.sex": self.sex.lower() not in _UNKNOWN,
            "lesion.localization": self.localization.lower() not in _UNKNOWN,
        }
        return found | {f"{name}_known": int(is_known) for name, is_known in known.items()}

    @property
    def told(self) -> tuple[str, ...]:
        """One sentence for each field that says something."""
        named = {item.name.replace("_", " "): getattr(self, item.name) for item in fields(self)}
        return tuple(f"{name}: {text}" for name, text in named.items() if text)


@dataclass
class LesionTable:
    """All rows, and what is wrong with them.

    Args:
        rows: image -> its row.
        diagnoses: lesion -> its diagnosis.
        faults: image -> why it cannot be used.
        remarks: image -> sentences.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    diagnoses: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> LesionTable:
        """The table of a folder, with commas or tabs between the columns; equal copies of it count once.

        Raises:
            UsageError: it cannot be read, lacks a column, or two tables differ.
        """
        texts = {path: _text(path) for path in paths}
        if len(set(texts.values())) > 1:
            names = " and ".join(str(path) for path in paths)
            raise UsageError(f"two tables differ: {names}", fix="Keep the one that is meant")
        path, text = next(iter(texts.items()))
        table = cls()
        for image, row in _rows(text, path):
            table._add(image, row)
        table._compare_lesions()
        return table

    def _add(self, image: str, row: Row) -> None:
        if image in self.rows and self.rows[image] != row:
            self.faults[image] = "has two rows in the table that differ: keep the right one"
        elif image in self.rows:
            self.remarks.setdefault(image, []).append("its row stands in the table twice")
        else:
            self.rows[image] = row
            if row.age_years is None and row.age.lower() not in _UNKNOWN:
                told = f"age '{row.age}' is no number from 0 to {_OLDEST_YEARS}, and counts as unknown"
                self.remarks.setdefault(image, []).append(told)
        if not row.lesion_id:
            self.faults[image] = "has no lesion_id in the table, so that no split can be told"

    def _compare_lesions(self) -> None:
        """Refuse all photographs of a lesion with two diagnoses, as nothing tells which is right."""
        found: dict[str, set[str]] = {}
        for row in self.rows.values():
            found.setdefault(row.lesion_id, set()).add(row.diagnosis)
        self.diagnoses = {lesion: min(names) for lesion, names in found.items()}
        for image, row in self.rows.items():
            if len(found[row.lesion_id]) > 1 and image not in self.faults:
                told = " and ".join(sorted(found[row.lesion_id]))
                self.faults[image] = f"lesion {row.lesion_id} has two diagnoses, {told}: keep the right one"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"cannot be read: {reason}", where=path, fix="Copy the table again") from error


def _rows(text: str, path: Path) -> list[tuple[str, Row]]:
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",")
    try:
        lacking = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if lacking:
            told = ", ".join(reader.fieldnames or ()) or "none"
            raise UsageError(f"lacks the columns {', '.join(lacking)}; found {told}", where=path)
        named = [((item["image_id"] or "").strip(), _row(item)) for item in reader]
    except csv.Error as error:
        raise UsageError(f"is no table: {error}", where=path, fix="Copy the table again") from error
    return [(image or f"row_{number}", row) for number, (image, row) in enumerate(named, 1)]


def _row(item: dict[str, str | None]) -> Row:
    named = {_COLUMNS.get(name, name): (text or "").strip() for name, text in item.items() if isinstance(name, str)}
    named["diagnosis"] = named["diagnosis"].lower()
    known = {one.name for one in fields(Row)}
    return Row(**{name: text for name, text in named.items() if name in known})
