"""Entering a study folder: one run at a time, nothing left of a killed one, and what earlier runs made."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mtl_med.errors import OutputError, UsageError
from mtl_med.files import json_fault, read_json, within
from mtl_med.manifest import MAKE_MANIFEST_AGAIN, Case
from mtl_med.prep.raw import Source
from mtl_med.prep.splits import SPLITS_OF_GROUP

__all__ = ["STAGING_PREFIX", "hold", "is_staged_file", "keep_apart", "kept_cases", "open_study", "staged_case"]

log = logging.getLogger(__name__)

STAGING_PREFIX = ".tmp-"
LOCK_NAME = ".prep.lock"
# What is cleared has to look like what preparation makes in every respect: other programs call their files so as well.
_RANDOM = "[a-z0-9_]{8}"  # of `tempfile`
_STAGED_CASE = re.compile(rf"{re.escape(STAGING_PREFIX)}(.+)-{_RANDOM}")
_STAGED = {"case", "old"}
_STAGED_FILE = re.compile(
    rf"{re.escape(STAGING_PREFIX)}{_RANDOM}"
    r"(?:(?:manifest|case|run|run-\d+of\d+)\.json|(?:quality|names_review)\.csv|quality\.html)"
)


@contextlib.contextmanager
def open_study(out: Path, source: Path | None, dataset: str) -> Iterator[list[Case]]:
    """Make or enter the study folder `out`, keep other runs out, clear what a killed run left.

    Gives the cases that the study's manifest lists.

    Raises:
        UsageError: `out` lies in the raw data, holds another data set, or another run writes there.
        OutputError: `out` cannot be written.
    """
    keep_apart(out, source)
    try:
        (out / "cases").mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK_NAME).open("ab")
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=out, fix="Choose another --out") from error
    with lock:
        hold(lock, out)
        _clear(out)
        yield _earlier_cases(out, dataset)
        _clear(out)  # a worker that was killed on the way leaves its half case, which another has made


def keep_apart(out: Path, source: Path | None) -> None:
    """Refuse a study whose cases would lie among the raw data, or the other way round, also through links.

    Raises:
        UsageError: they would.
    """
    if source is None:
        return
    study, cases, raw = out.resolve(), (out / "cases").resolve(), source.resolve()
    if study.is_relative_to(raw) or cases.is_relative_to(raw) or raw.is_relative_to(cases):
        raise UsageError("the study would lie inside the raw data", where=out, fix="Choose another --out")


def hold(lock: BinaryIO, out: Path, *, shared: bool = False) -> None:
    """Hold the file, alone or with others, until it is closed or the process ends, however it ends.

    Raises:
        UsageError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks here: two runs at once are then the user's to avoid
        return
    try:
        fcntl.lockf(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return  # a file system without locks
        raise UsageError("another run is writing this study", where=out, fix="Wait for it to end") from error


def staged_case(path: Path) -> str:
    """Id of the case that a staging folder of preparation is of; "" for anything else, which is the user's own."""
    match = _STAGED_CASE.fullmatch(path.name)
    if not match or path.is_symlink() or not path.is_dir() or not {item.name for item in path.iterdir()} <= _STAGED:
        return ""
    return match[1]


def is_staged_file(path: Path) -> bool:
    """Whether a file is one that was being written when a run of preparation was killed."""
    return bool(_STAGED_FILE.fullmatch(path.name)) and path.is_file()


def _clear(out: Path) -> None:
    files = [*out.glob(f"{STAGING_PREFIX}*"), *(out / "cases").glob(f"*/{STAGING_PREFIX}*")]
    try:
        for path in (out / "cases").glob(f"{STAGING_PREFIX}*"):
            if staged_case(path):
                shutil.rmtree(path)
        for path in files:
            if is_staged_file(path):
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot clear: {error.strerror or error}", where=out, fix="Choose another --out") from error


def _earlier_cases(out: Path, dataset: str) -> list[Case]:
    if not (out / "manifest.json").is_file():
        return []
    fields = read_json(out / "manifest.json", MAKE_MANIFEST_AGAIN)
    found = fields.get("dataset") if isinstance(fields, dict) else None
    if isinstance(found, str) and found != dataset:
        raise UsageError(f"holds a study of {found!r}, not of '{dataset}'", where=out, fix="Choose another --out")
    if fault := json_fault(fields, {"dataset": str, "cases": [{"folder": str}]}):
        raise UsageError(f"is damaged: {fault}", where=out / "manifest.json", fix=MAKE_MANIFEST_AGAIN)
    cases = []
    for item in fields["cases"]:
        try:
            case = Case.read(within(out, item["folder"]))
            if case.id != case.folder.name:
                raise UsageError(f"is damaged: 'id' is {case.id!r}", where=case.folder / "case.json")
            cases.append(case)
        except UsageError as error:
            log.warning("a case of the earlier study is not used: %s", error)
    return cases


def kept_cases(earlier: Iterable[Case], sources: Iterable[Source]) -> list[Case]:
    """Earlier cases of groups that the source does not hold; those of its own groups that are gone are counted."""
    sources = list(sources)
    ids = {source.id for source in sources}
    own_splits = {split for source in sources for split in SPLITS_OF_GROUP[source.group]}
    others = [case for case in earlier if case.id not in ids]
    gone = [case.id for case in others if case.split in own_splits]
    if gone:
        log.warning(
            "left out of the manifest, as they are not in the source or beyond --limit: %d cases (%s, ...); "
            "their folders stay",
            len(gone),
            gone[0],
        )
    return [case for case in others if case.split not in own_splits]
