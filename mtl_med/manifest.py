"""The study folder: what preparation writes and everything after it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_med.errors import CaseError, GeometryError, UsageError
from mtl_med.files import json_fault, read_json, sha256_bytes, within, write_json
from mtl_med.geometry import Grid

__all__ = [
    "CASE_SCHEMA",
    "MANIFEST_SCHEMA",
    "Case",
    "Manifest",
    "Structure",
    "torn_sentence",
]

CASE_SCHEMA = "mtl_med/case/1"
MANIFEST_SCHEMA = "mtl_med/manifest/1"
SPLITS = ("fit", "tune", "validation", "test")
MAKE_MANIFEST_AGAIN = "Remove it and prepare the study again from all its sources: finished cases are only looked at"
_CONVERT_AGAIN = "Prepare the study again: this case is then converted anew"

_NUMBER = (int, float)
_STRUCTURE = {
    "original": str,
    "kind": str,
    "status": str,
    "volume_cc?": (*_NUMBER, type(None)),
    "kept_percent?": _NUMBER,
}
_CASE = {  # what `Case.to_dict` writes, but for the grid
    "id": str,
    "split": str,
    "files": {...: {"path": str, "sha256": str}},
    "tasks": [str],
    "structures": {...: _STRUCTURE},
    "prescriptions_gy": {...: _NUMBER},
    "fractions": (int, type(None)),
    "spacing_mm": [_NUMBER],
    "source_hash": str,
    "notes": [str],
    "labels?": {...: _NUMBER},
    "group?": str,
}
_MANIFEST = {"dataset": str, "cases": [{"folder": str}], "classes?": {...: [str]}}


@dataclass(frozen=True)
class Structure:
    """A structure of a case.

    Args:
        original: the name it had in the source.
        kind: "oar", "target", "external", or "other" where no table says what it is.
        status: "contoured", "not_contoured" (no file, label unknown) or "empty" (contoured, all zero).
        volume_cc: volume in cubic centimetres, of what is kept; None when not contoured.
        kept_percent: share of what was drawn that the case's grid holds, %; less than 100 where a case on the grid of
            its dose cuts it.
    """

    original: str
    kind: str
    status: str
    volume_cc: float | None = None
    kept_percent: float = 100.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form; a structure that is not cut does not speak of it."""
        fields = dict(vars(self))
        if self.kept_percent == 100:
            del fields["kept_percent"]
        return fields


@dataclass(frozen=True)
class Case:
    """One patient or image of a study.

    Args:
        id: unique within the study, safe as a file name.
        split: "fit", "tune", "validation" or "test".
        folder: absolute folder of the case; not part of the JSON.
        grid: the grid that all its volumes share; None for 2D images.
        files: key -> {"path": relative to the folder, "sha256": hex}. Keys: `ct`, `dose`, `mask_dose`,
            `structures/<name>`, or `image`, `mask`.
        tasks: names of the tasks the case has labels for.
        structures: standard name -> Structure.
        prescriptions_gy: target name -> prescribed dose, Gy.
        fractions: number of fractions, if known.
        spacing_mm: voxel spacing along the array axes, mm.
        source_hash: hash over the source files, by which a finished case is recognised.
        notes: sentences about oddities.
        labels: image-level labels, task name -> index of the class in the study's `Manifest.classes`.
        group: what belongs together, such as the lesion or the patient of several images; empty where the case stands
            alone.
        dose_grid: the planned dose's own grid, between whose outermost voxel centres it is known, 0 included; None
            where it is known everywhere, as where a data set says that it is 0 outside of `mask_dose`.
    """

    id: str
    split: str
    folder: Path
    grid: Grid | None = None
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    structures: dict[str, Structure] = field(default_factory=dict)
    prescriptions_gy: dict[str, float] = field(default_factory=dict)
    fractions: int | None = None
    spacing_mm: tuple[float, ...] = ()
    source_hash: str = ""
    notes: tuple[str, ...] = ()
    labels: dict[str, float] = field(default_factory=dict)
    group: str = ""
    dose_grid: Grid | None = None

    def has(self, key: str) -> bool:
        """Whether the case has the file `key`."""
        return key in self.files

    def path(self, key: str) -> Path:
        """Absolute path of the file `key`, such as "ct" or "structures/SpinalCord".

        Raises:
            UsageError: the case has no such file.
        """
        if key not in self.files:
            raise UsageError(f"has no '{key}'", where=self.id, fix="Check the study's quality.csv for this case")
        return within(self.folder, self.files[key]["path"])

    @property
    def prescription_gy(self) -> float | None:
        """Highest prescription of its targets, Gy; None where none is known."""
        return max(self.prescriptions_gy.values(), default=None)

    def names(self, kind: str, *, contoured_only: bool = True) -> list[str]:
        """Names of the structures of one kind ("oar", "target", "external")."""
        wanted = ("contoured", "empty") if contoured_only else ("contoured", "empty", "not_contoured")
        return [name for name, item in self.structures.items() if item.kind == kind and item.status in wanted]

    def class_index(self, task: str, count: int) -> int | None:
        """Index of the case's class among the study's; None where it has no label.

        Args:
            task: an image-level task.
            count: number of its classes.

        Raises:
            CaseError: the label is none of 0 to count - 1.
        """
        if task not in self.labels:
            return None
        stored = self.labels[task]
        if not (float(stored).is_integer() and 0 <= stored < count):
            raise CaseError(
                f"has the label {stored:g} for task '{task}', expected a whole number from 0 to {count - 1}",
                where=self.id,
                fix="Prepare the study again",
            )
        return int(stored)

    def class_name(self, task: str, names: Sequence[str]) -> str:
        """Name of the case's class, to be shown; "" where it has no label, or one that is no class."""
        try:
            index = self.class_index(task, len(names))
        except CaseError:
            return ""
        return "" if index is None else names[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form of `case.json`."""
        return {
            "schema": CASE_SCHEMA,
            "id": self.id,
            "split": self.split,
            "grid": self.grid.to_dict() if self.grid else None,
            "spacing_mm": list(self.spacing_mm),
            "files": self.files,
            "tasks": list(self.tasks),
            "structures": {name: item.to_dict() for name, item in self.structures.items()},
            "prescriptions_gy": self.prescriptions_gy,
            "fractions": self.fractions,
            "labels": self.labels,
            "group": self.group,
            **({"dose_grid": self.dose_grid.to_dict()} if self.dose_grid else {}),
            "source_hash": self.source_hash,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any], folder: str | Path) -> Case:
        """Case from `case.json`; `folder` is where that file lies.

        Raises:
            UsageError: another schema, or a field that is missing or not as `to_dict` writes it.
        """
        path = Path(folder) / "case.json"
        if not isinstance(fields, dict) or fields.get("schema") != CASE_SCHEMA:
            found = fields.get("schema") if isinstance(fields, dict) else type(fields).__name__
            raise UsageError(
                f"schema is {found!r}, expected {CASE_SCHEMA!r}",
                where=path,
                fix="Prepare the study again with this version of mtl_med",
            )
        if "dose_unknown_outside" in fields:
            what = "was written by an earlier version, which did not say where the dose is known"
            raise UsageError(what, where=path, fix=_CONVERT_AGAIN)
        fault = json_fault(fields, _CASE)
        if not fault and fields["split"] not in SPLITS:
            fault = f"'split' is {fields['split']!r}, expected {', '.join(SPLITS)}"
        if fault:
            raise UsageError(f"is damaged: {fault}", where=path, fix=_CONVERT_AGAIN)
        try:
            return cls(
                id=fields["id"],
                split=fields["split"],
                folder=Path(folder),
                grid=Grid.from_dict(fields["grid"]) if fields.get("grid") else None,
                files=fields["files"],
                tasks=tuple(fields["tasks"]),
                structures={name: Structure(**item) for name, item in fields["structures"].items()},
                prescriptions_gy=fields["prescriptions_gy"],
                fractions=fields["fractions"],
                spacing_mm=tuple(fields["spacing_mm"]),
                source_hash=fields["source_hash"],
                notes=tuple(fields["notes"]),
                labels=fields.get("labels", {}),
                group=fields.get("group", ""),
                dose_grid=Grid.from_dict(fields["dose_grid"]) if fields.get("dose_grid") else None,
            )
        except (KeyError, TypeError, ValueError, GeometryError) as error:
            raise UsageError(f"is damaged: grid or structures: {error}", where=path, fix=_CONVERT_AGAIN) from error

    def write(self) -> None:
        """Write `case.json` into the case's folder; its presence means that the case is finished."""
        write_json(self.folder / "case.json", self.to_dict())

    @classmethod
    def read(cls, folder: str | Path) -> Case:
        """Read the case that lies in `folder`."""
        return cls.from_dict(read_json(Path(folder) / "case.json", _CONVERT_AGAIN), folder)


def torn_sentence(torn: Mapping[str, Sequence[str]]) -> str:
    """What `Manifest.torn_groups` found, for a person."""
    group, splits = next(iter(torn.items()))
    more = f", and {len(torn) - 1} more" if len(torn) > 1 else ""
    return (
        f"cases of one lesion or patient lie in several splits ({group} in {' and '.join(splits)}{more}), so that "
        "scores are better than they should be. Prepare the study again"
    )


@dataclass(frozen=True)
class Manifest:
    """All cases of a study.

    Args:
        dataset: name of the data set, such as "openkbp".
        root: the study folder.
        cases: sorted by id.
        classes: image-level task -> names of its classes, in the order of the indices in `Case.labels`.
    """

    dataset: str
    root: Path
    cases: tuple[Case, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def split(self, *names: str) -> tuple[Case, ...]:
        """Cases of the given splits.

        Raises:
            UsageError: a split that no case has.
        """
        present = {case.split for case in self.cases}
        for name in names:
            if name not in present:
                raise UsageError(
                    f"no case is in split '{name}'", where=self.root, fix=f"Splits here: {', '.join(sorted(present))}"
                )
        return tuple(case for case in self.cases if case.split in names)

    def torn_groups(self) -> dict[str, tuple[str, ...]]:
        """Lesions or patients whose cases lie in more than one split, with these splits; preparation leaves none."""
        found: dict[str, set[str]] = {}
        for case in self.cases:
            if case.group:
                found.setdefault(case.group, set()).add(case.split)
        return {group: tuple(sorted(splits)) for group, splits in found.items() if len(splits) > 1}

    @property
    def fingerprint(self) -> str:
        """Hash over ids, splits, groups, files, prescriptions, labels and classes: equal data, equal fingerprint."""
        rows = [
            [
                *(case.id, case.split),
                *(f"{key}={item['sha256']}" for key, item in sorted(case.files.items())),
                *(f"{name}={float(value)!r}" for name, value in sorted(case.prescriptions_gy.items())),
                *(f"{name}={float(value)!r}" for name, value in sorted(case.labels.items())),
                *([f"group={case.group}"] if case.group else []),
            ]
            for case in self.cases
        ]
        rows += [[task, *names] for task, names in sorted(self.classes.items())]
        return sha256_bytes("\n".join("\t".join(row) for row in rows).encode())

    def write(self) -> None:
        """Write `manifest.json` into the study folder."""
        listing = [
            {
                "id": case.id,
                "split": case.split,
                "folder": case.folder.relative_to(self.root).as_posix(),
                "tasks": list(case.tasks),
            }
            for case in self.cases
        ]
        fields = {
            "schema": MANIFEST_SCHEMA,
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "classes": {task: list(names) for task, names in self.classes.items()},
            "cases": listing,
        }
        write_json(self.root / "manifest.json", fields)

    @classmethod
    def build(
        cls,
        dataset: str,
        root: str | Path,
        cases: Iterable[Case],
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> Manifest:
        """Manifest of cases in the order of their ids."""
        named = {task: tuple(names) for task, names in (classes or {}).items()}
        return cls(dataset, Path(root), tuple(sorted(cases, key=lambda case: case.id)), named)

    @classmethod
    def read(cls, root: str | Path) -> Manifest:
        """Read the study folder `root`.

        Raises:
            UsageError: no study lies there, another schema, damage, or a case that lies outside the folder.
        """
        root = Path(root)
        path = root / "manifest.json"
        if not path.is_file():
            raise UsageError(
                "is no study folder (manifest.json is missing)",
                where=root,
                fix="Make one with: python -m mtl_med.prep openkbp --source <provided-data> --out <study>",
            )
        fields = read_json(path, MAKE_MANIFEST_AGAIN)
        if not isinstance(fields, dict) or fields.get("schema") != MANIFEST_SCHEMA:
            raise UsageError("is no manifest of this version", where=path, fix="Prepare the study again")
        fault = json_fault(fields, _MANIFEST)
        twice = [] if fault else Counter(item["folder"] for item in fields["cases"]).most_common(1)
        if twice and twice[0][1] > 1:
            fault = f"it lists {twice[0][0]} {twice[0][1]} times"
        if fault:
            raise UsageError(f"is damaged: {fault}", where=path, fix=MAKE_MANIFEST_AGAIN)
        cases = [Case.read(within(root, item["folder"])) for item in fields["cases"]]
        return cls.build(fields["dataset"], root.resolve(), cases, fields.get("classes"))
