"""One case of NIfTI files as it lies on disk, found by the names of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtl_med.errors import NothingFoundError
from mtl_med.files import safe_name, sha256_bytes
from mtl_med.prep.file_patterns import FilePatterns, Found
from mtl_med.prep.folders import listing, walk
from mtl_med.prep.identity import Pseudonyms
from mtl_med.prep.raw import Source
from mtl_med.prep.recipe import Recipe

__all__ = ["NiftiSource", "scan"]


@dataclass(frozen=True)
class NiftiSource(Source):
    """A case of NIfTI files.

    Args:
        parts: file -> what it is.
    """

    parts: Mapping[Path, Found] = field(default_factory=dict)

    def path(self, role: str) -> Path | None:
        """The file of a role that only one can have."""
        return next((path for path, found in self.parts.items() if found.role == role), None)


def scan(folder: Path, recipe: Recipe) -> list[NiftiSource]:
    """Cases below a folder, by the names of its files.

    Raises:
        NothingFoundError: no file is a CT by the recipe's patterns.
        UsageError: the recipe has no patterns, or ones that cannot be meant.
    """
    if not folder.is_dir():
        raise NothingFoundError("there is no such folder", where=folder, fix="Check --source")
    patterns = FilePatterns(recipe.facts.get("files", {}))
    cases: dict[str, dict[Path, Found]] = {}
    other: Counter[str] = Counter()
    for path in walk(folder):
        found = patterns.what(path.relative_to(folder).as_posix())
        if found is None:
            other[path.suffix.lower() if len(path.suffix) < 6 else "file"] += 1
        else:
            cases.setdefault(found.case, {})[path] = found
    if not any(found.role == "ct" for parts in cases.values() for found in parts.values()):
        raise NothingFoundError(
            "no file is a CT by the recipe's patterns",
            where=folder,
            why=f"Other files: {listing(other)}" if other else "",
            fix="Copy the recipe, set its 'files' to how these files are called, and give its path as the data set",
        )
    return sorted((_source(name, parts, folder, recipe) for name, parts in cases.items()), key=lambda item: item.id)


def _source(name: str, parts: dict[Path, Found], root: Path, recipe: Recipe) -> NiftiSource:
    key = recipe.options.key
    pseudonyms = Pseudonyms.read(key) if key else None
    roles = Counter(found.role for found in parts.values() if found.role != "structure")
    structures = Counter(found.structure for found in parts.values() if found.role == "structure")
    twice = [role for role, count in roles.items() if count > 1]
    twice += [f"structure {'' if pseudonyms else structure}".strip() for structure, n in structures.items() if n > 1]
    fault = ""
    if "ct" not in roles:
        fault = "has no CT by the recipe's patterns"
    elif twice:
        fault = f"has two files for {', '.join(sorted(set(twice)))}: keep the ones that are meant"
    counted = [*(role for role in roles), *([f"{len(structures)} structures"] if structures else [])]
    case_id = pseudonyms.case_id(name) if pseudonyms else _case_id(name)
    return NiftiSource(
        id=case_id,
        group="all",
        folder=next(iter(parts)).parent,
        files=tuple(parts),
        fault=fault,
        patient=case_id,
        account={"found": tuple(counted)},
        root=root,
        identity=(name,),
        parts=parts,
    )


def _case_id(name: str) -> str:
    """A name that is safe as it is, else its safe form with a mark that tells it from others with the same."""
    safe = safe_name(name)
    return safe if safe == name else f"{safe[:48]}_{sha256_bytes(name.encode(errors='surrogateescape'))[:8]}"
