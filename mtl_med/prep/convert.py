"""One case from its source to its folder in the study: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl_med.errors import CaseError, OutputError, UsageError
from mtl_med.files import read_json, sha256_bytes, sha256_file, within
from mtl_med.io.nifti import encode_nifti
from mtl_med.manifest import Case, Structure
from mtl_med.prep.quality import findings, measure
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe

__all__ = ["PREP_VERSION", "STAGING_PREFIX", "convert", "finished", "prepare_case", "read_quality", "source_hash"]

PREP_VERSION = "1"  # raise it when the same source gives other files
STAGING_PREFIX = ".tmp-"
QUALITY_FILE = "quality.json"


def prepare_case(source: Source, recipe: Recipe, cases_dir: Path, split: str, overwrite: bool) -> tuple[Case, bool]:
    """Convert a case unless it is finished already.

    Args:
        source: the case on disk.
        recipe: the facts about its data set.
        cases_dir: folder `cases` of the study.
        split: the split it belongs to.
        overwrite: convert again even when it is finished.

    Returns:
        the case, and whether it was converted now.

    Raises:
        CaseError: the source cannot be used.
        OutputError: the study cannot be written.
    """
    if source.fault:
        raise CaseError(source.fault, where=source.id, fix="Mend the source folder")
    try:
        digest = source_hash(source, recipe)
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}", where=error.filename or source.folder) from error
    done = None if overwrite else finished(cases_dir / source.id, digest)
    if done is None:
        return convert(source, recipe, cases_dir, split, digest), True
    if done.split != split:
        done = replace(done, split=split)
        done.write()
    return done, False


def source_hash(source: Source, recipe: Recipe) -> str:
    """Hash over the recipe, the version of this room, and the names and bytes of the source's files."""
    total = hashlib.sha256(f"{PREP_VERSION}\n{recipe.digest}\n".encode())
    for path in source.files:
        total.update(f"{path.name}\t{sha256_file(path)}\n".encode())
    return total.hexdigest()


def finished(folder: Path, digest: str) -> Case | None:
    """The case in `folder` when it came from a source with this hash and all its files are unchanged."""
    if not (folder / "case.json").is_file() or not (folder / QUALITY_FILE).is_file():
        return None
    try:
        case = Case.read(folder)
        if case.source_hash != digest:
            return None
        whole = all(sha256_file(within(folder, item["path"])) == item["sha256"] for item in case.files.values())
    except (UsageError, OSError):
        return None
    return case if whole else None


def convert(source: Source, recipe: Recipe, cases_dir: Path, split: str, digest: str) -> Case:
    """Read a source and write its folder: under another name first, renamed when everything is on disk."""
    raw = READERS[recipe.reader].read(source, recipe)
    measures = measure(raw)
    notes = (*raw.remarks, *findings(measures, recipe.rules))
    final = cases_dir / source.id
    try:
        staging = Path(tempfile.mkdtemp(dir=cases_dir, prefix=f"{STAGING_PREFIX}{source.id}-"))
        try:
            staging.chmod(0o777 & ~_umask())
            case = _write(raw, measures, staging, split, digest, notes)
            _replace(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        fix = "Free some space" if error.errno == errno.ENOSPC else "Check the folder's permissions or choose another"
        raise OutputError(f"cannot write: {error.strerror or error}", where=final, fix=fix) from error
    return replace(case, folder=final)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(
    raw: RawCase, measures: Mapping[str, Any], folder: Path, split: str, digest: str, notes: tuple[str, ...]
) -> Case:
    arrays = raw.volumes | {f"structures/{name}": mask for name, mask in raw.masks.items()}
    (folder / "structures").mkdir()
    files = {}
    for key, array in arrays.items():
        data = encode_nifti(array, raw.grid, where=folder / key)
        (folder / f"{key}.nii.gz").write_bytes(data)
        files[key] = {"path": f"{key}.nii.gz", "sha256": sha256_bytes(data)}
    quality = {"measures": dict(measures), "oddities": list(notes)}
    (folder / QUALITY_FILE).write_text(json.dumps(quality, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    structures = {name: _structure(name, raw, measures) for name in raw.facts}
    has_organs = any(item.kind == "oar" and item.status != "not_contoured" for item in structures.values())
    case = Case(
        id=raw.id,
        split=split,
        folder=folder,
        grid=raw.grid,
        files=files,
        tasks=(*(["oar"] if has_organs else []), *(["dose"] if "dose" in raw.volumes else [])),
        structures=structures,
        prescriptions_gy={
            name: fact.prescription_gy
            for name, fact in raw.facts.items()
            if fact.prescription_gy and structures[name].status == "contoured"
        },
        spacing_mm=raw.grid.spacing_mm,
        source_hash=digest,
        notes=notes,
    )
    case.write()
    return case


def _structure(name: str, raw: RawCase, measures: Mapping[str, Any]) -> Structure:
    fact = raw.facts[name]
    if name not in raw.masks:
        return Structure(fact.original, fact.kind, "not_contoured")
    status = "contoured" if measures[f"{name}.voxels"] else "empty"
    return Structure(fact.original, fact.kind, status, measures[f"{name}.volume_cc"])


def _replace(staging: Path, final: Path) -> None:
    """Put a finished folder in the place of an older one, which goes aside first."""
    if final.exists():
        aside = final.with_name(f"{STAGING_PREFIX}old-{staging.name.removeprefix(STAGING_PREFIX)}")
        final.rename(aside)
        staging.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        staging.rename(final)


def read_quality(case: Case) -> tuple[dict[str, Any], list[str]]:
    """Measures and oddities of a finished case."""
    fields = read_json(case.folder / QUALITY_FILE)
    return fields["measures"], fields["oddities"]
