"""One case from its source to its folder in the study: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtl_med.errors import CaseError, OutputError, UsageError
from mtl_med.files import read_json, sha256_bytes, sha256_file, within
from mtl_med.io.nifti import encode_nifti
from mtl_med.manifest import Case, Structure
from mtl_med.prep.quality import Measures, findings, measure
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.study import STAGING_PREFIX

__all__ = ["PREP_VERSION", "Job", "convert", "finished", "prepare_case", "read_quality", "source_hash"]

PREP_VERSION = "1"  # raise it when the same source gives other files
QUALITY_FILE = "quality.json"


@dataclass(frozen=True)
class Job:
    """One case to prepare.

    Args:
        source: the case on disk.
        split: the split it belongs to.
    """

    source: Source
    split: str


def prepare_case(recipe: Recipe, cases_dir: Path, overwrite: bool, job: Job) -> tuple[Case, bool]:
    """Convert a case unless it is finished already.

    Args:
        recipe: the facts about its data set.
        cases_dir: folder `cases` of the study.
        overwrite: convert again even when it is finished.
        job: the case.

    Returns:
        the case, and whether it was converted now.

    Raises:
        CaseError: the source cannot be used.
        OutputError: the study cannot be written.
    """
    source = job.source
    if source.fault:
        raise CaseError(source.fault, where=source.id)
    digest = source_hash(source, recipe)
    done = None if overwrite else finished(cases_dir / source.id, digest)
    if done is None:
        return convert(job, recipe, cases_dir, digest), True
    if done.split != job.split:
        done = replace(done, split=job.split)
        done.write()
    return done, False


def source_hash(source: Source, recipe: Recipe) -> str:
    """Hash over the recipe, the version of this room, and the names and bytes of the source's files.

    Raises:
        CaseError: a file cannot be read.
    """
    total = hashlib.sha256(f"{PREP_VERSION}\n{recipe.digest}\n".encode())
    for path in source.files:
        try:
            total.update(f"{path.name}\t{sha256_file(path)}\n".encode())
        except OSError as error:
            raise CaseError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the file") from error
    return total.hexdigest()


def finished(folder: Path, digest: str) -> Case | None:
    """The case in `folder` when it came from a source with this hash and all its files are unchanged."""
    try:
        case = Case.read(folder)
        if case.source_hash != digest or not (folder / QUALITY_FILE).is_file():
            return None
        whole = all(sha256_file(within(folder, item["path"])) == item["sha256"] for item in case.files.values())
    except (UsageError, OSError):
        return None
    return case if whole else None


def convert(job: Job, recipe: Recipe, cases_dir: Path, digest: str) -> Case:
    """Read a source and write its folder: under another name first, renamed when all of it is written.

    Raises:
        CaseError: the source cannot be used.
        OutputError: the study cannot be written.
    """
    raw = READERS[recipe.reader].read(job.source, recipe)
    measures = measure(raw)
    notes = (*raw.remarks, *findings(measures, recipe.rules))
    final = cases_dir / raw.id
    try:
        staging = Path(tempfile.mkdtemp(dir=cases_dir, prefix=f"{STAGING_PREFIX}{raw.id}-"))
        try:
            (staging / "case").mkdir()  # unlike mkdtemp's own folder, with the permissions that the user's umask says
            case = _write(raw, measures, staging / "case", job.split, digest, notes)
            _put(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        fix = "Free some space" if error.errno == errno.ENOSPC else "Check the folder's permissions or choose another"
        raise OutputError(f"cannot write: {error.strerror or error}", where=final, fix=fix) from error
    return replace(case, folder=final)


def _put(staging: Path, final: Path) -> None:
    """Give the finished folder its name; an older one goes aside first, and with the staging folder."""
    if final.exists():
        final.rename(staging / "old")
    (staging / "case").rename(final)


def _write(raw: RawCase, measures: Measures, folder: Path, split: str, digest: str, notes: tuple[str, ...]) -> Case:
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


def _structure(name: str, raw: RawCase, measures: Measures) -> Structure:
    fact = raw.facts[name]
    if name not in raw.masks:
        return Structure(fact.original, fact.kind, "not_contoured")
    status = "contoured" if measures[f"{name}.voxels"] else "empty"
    return Structure(fact.original, fact.kind, status, measures[f"{name}.volume_cc"])


def read_quality(case: Case) -> tuple[dict[str, Any], list[str]]:
    """Measures and oddities of a finished case."""
    fields = read_json(case.folder / QUALITY_FILE)
    return fields["measures"], fields["oddities"]
