"""One case from its source to its folder in the study: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mtl_med.errors import CaseError, OutputError, UsageError
from mtl_med.files import read_json, sha256_bytes, sha256_file, within
from mtl_med.io.nifti import encode_nifti
from mtl_med.io.picture import encode_png
from mtl_med.manifest import Case, Structure
from mtl_med.prep.overlay import OVERLAY_FILE, write_overlay
from mtl_med.prep.quality import Measures, findings, measure
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.redaction import Redactor, redacted
from mtl_med.prep.study import STAGING_PREFIX
from mtl_med.prep.unions import add_unions

__all__ = ["PREP_VERSION", "Job", "Quality", "convert", "finished", "prepare_case", "read_quality", "source_hash"]

PREP_VERSION = "5"  # raise it when the same source gives other files
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
    hidden = recipe.options.key is not None
    with redacted(Redactor(source.identity, [source.root]) if hidden else None):
        return _prepare(recipe, cases_dir, overwrite, job)


def _prepare(recipe: Recipe, cases_dir: Path, overwrite: bool, job: Job) -> tuple[Case, bool]:
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
    """Hash over the recipe, the version of this room, the names and bytes of the source's files, and its others.

    Raises:
        CaseError: a file cannot be read.
    """
    total = hashlib.sha256(f"{PREP_VERSION}\n{recipe.digest}\n".encode())
    for path in source.files:
        try:
            status = path.stat()
            digest = _digest(path, status.st_size, status.st_mtime_ns)
            total.update(os.fsencode(path.name) + f"\t{digest}\n".encode())
        except OSError as error:
            raise CaseError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the file") from error
    for text in source.others:
        total.update(f"{text}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """Hash of a file, read once where it belongs to case after case, as a table of all cases does."""
    return sha256_file(path)


def finished(folder: Path, digest: str) -> Case | None:
    """The case in `folder` when it came from a source with this hash and all its files are unchanged."""
    try:
        case = Case.read(folder)
        if (case.id, case.source_hash) != (folder.name, digest) or not (folder / QUALITY_FILE).is_file():
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
    add_unions(raw, recipe.facts.get("unions", ()))
    measures = measure(raw)
    notes = (*raw.remarks, *findings(measures, recipe.rules))
    final = cases_dir / raw.id
    try:
        staging = Path(tempfile.mkdtemp(dir=cases_dir, prefix=f"{STAGING_PREFIX}{raw.id}-"))
        try:
            (staging / "case").mkdir()  # unlike mkdtemp's own folder, with the permissions that the user's umask says
            case = _write(raw, measures, staging / "case", job, digest, notes, recipe)
            _put(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        fix = "Free some space" if error.errno == errno.ENOSPC else "Check the folder's permissions or choose another"
        raise OutputError(f"cannot write: {error.strerror or error}", where=final, fix=fix) from error
    return replace(case, folder=final)


def _put(staging: Path, final: Path) -> None:
    """Give the finished folder its name; an older one goes aside first, and with the staging folder."""
    if final.exists() and not (final / "case.json").is_file():
        raise UsageError("is in the way, and no case of a study", where=final, fix="Move it, or choose another --out")
    if final.exists():
        final.rename(staging / "old")
    (staging / "case").rename(final)


def _write(
    raw: RawCase, measures: Measures, folder: Path, job: Job, digest: str, notes: tuple[str, ...], recipe: Recipe
) -> Case:
    def array(key: str) -> NDArray:
        return raw.volumes[key] if key in raw.volumes else raw.masks[key.removeprefix("structures/")]

    def store(key: str) -> dict[str, str]:
        if raw.grid is None:
            path, data = _picture_path(key, raw), encode_png(raw.pictures[key])
        else:
            path, data = f"{key}.nii.gz", encode_nifti(array(key), raw.grid, where=folder / key)
        (folder / path).write_bytes(data)
        return {"path": path, "sha256": sha256_bytes(data)}

    if raw.grid is not None:
        (folder / "structures").mkdir()
    keys = [*raw.volumes, *(f"structures/{name}" for name in raw.masks), *raw.pictures]
    files = {key: store(key) for key in keys}
    account = {key: list(items) for key, items in (*job.source.account.items(), *raw.account.items())}
    quality = {"measures": dict(measures), "oddities": list(notes), "account": account, "unmatched": raw.unmatched}
    _write_json(folder / QUALITY_FILE, quality)
    structures = {name: _structure(name, raw, measures) for name in raw.facts}
    has_organs = any(item.kind == "oar" and item.status != "not_contoured" for item in structures.values())
    case = Case(
        id=raw.id,
        split=job.split,
        folder=folder,
        grid=raw.grid,
        files=files,
        tasks=(
            *(["oar"] if has_organs else []),
            *(["dose"] if "dose" in raw.volumes else []),
            *_outlined_tasks(recipe, structures),
            *raw.labels,
        ),
        structures=structures,
        prescriptions_gy={
            name: fact.prescription_gy
            for name, fact in raw.facts.items()
            if fact.prescription_gy and structures[name].status == "contoured"
        },
        fractions=raw.fractions,
        spacing_mm=raw.grid.spacing_mm if raw.grid else (),
        source_hash=digest,
        notes=notes,
        labels=dict(raw.labels),
        group=raw.group,
        dose_grid=raw.dose_grid,
    )
    if raw.grid is not None:
        write_overlay(case, folder / OVERLAY_FILE, array)
    _write_json(folder / "case.json", case.to_dict())
    return case


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    """As `write_json`, but not whole by itself: the folder is, and to wait for the disk takes longer than a picture."""
    text = json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def _picture_path(key: str, raw: RawCase) -> str:
    """`image.png`; `mask.png` where there is one mask, else `mask_<structure>.png`."""
    name = key.removeprefix("structures/")
    if name == key:
        return f"{key}.png"
    return "mask.png" if sum(item.startswith("structures/") for item in raw.pictures) == 1 else f"mask_{name}.png"


def _outlined_tasks(recipe: Recipe, structures: Mapping[str, Structure]) -> list[str]:
    """Segmentation tasks whose structures the recipe names, of which the case has one."""
    tasks: Mapping[str, Mapping[str, Sequence[str]]] = recipe.facts.get("tasks", {})
    outlined = {name for name, item in structures.items() if item.status != "not_contoured"}
    return [
        name
        for name, fields in tasks.items()
        if fields.get("kind") == "segmentation" and outlined.intersection(fields.get("class_names", ()))
    ]


def _structure(name: str, raw: RawCase, measures: Measures) -> Structure:
    fact = raw.facts[name]
    if name not in raw.masks and f"structures/{name}" not in raw.pictures:
        return Structure(fact.original, fact.kind, "not_contoured")
    status = "contoured" if measures[f"{name}.{'voxels' if raw.grid else 'pixels'}"] else "empty"
    kept = raw.kept_percent.get(name, 100.0)
    return Structure(fact.original, fact.kind, status, measures.get(f"{name}.volume_cc"), kept)


@dataclass(frozen=True)
class Quality:
    """What preparation found out about a case.

    Args:
        measures: numbers, see `mtl_med.prep.quality.measure`.
        notes: sentences about what is odd.
        account: sentences about what was found, linked, converted and left out, by heading.
        unmatched: names of structures for which no standard name is known -> the name they got.
    """

    measures: Measures
    notes: tuple[str, ...]
    account: Mapping[str, Sequence[str]]
    unmatched: Mapping[str, str]


def read_quality(case: Case) -> Quality:
    """What preparation found out about a finished case."""
    fields = read_json(case.folder / QUALITY_FILE)
    return Quality(fields["measures"], tuple(fields["oddities"]), fields["account"], fields["unmatched"])
