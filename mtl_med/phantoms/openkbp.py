"""Phantoms in the raw layout of the public OpenKBP data set, so that whatever reads that reads them too."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import OutputError, UsageError
from mtl_med.geometry import reorient
from mtl_med.phantoms.patient import Phantom, make_phantom

__all__ = ["NOTE_NAME", "write_openkbp_cohort", "write_openkbp_patient"]

log = logging.getLogger(__name__)

NOTE_NAME = "PHANTOM.txt"
_AXES = "PLI"  # of the published arrays: backwards, to the left, downwards
_HU_OFFSET = 1024
_PARTS = {"train-pats": (1, 200), "validation-pats": (201, 240)}  # first and last number, as in the public data set
_NOTE = """PHANTOM DATA. These are not patients.

Every patient in this folder was made up by mtl_med.phantoms from a seed (seed of the cohort: {seed}): drawn anatomy,
photon physics in outline, no clinical information. The files follow the raw layout of OpenKBP
(github.com/ababier/open-kbp); their names pt_phantom<number> begin with pt_ because its readers expect that. Never mix
these folders with real patients, and never report results on them as results on patients.
"""


def write_openkbp_cohort(
    folder: str | Path, *, train: int = 10, validation: int = 3, seed: int = 0, workers: int = 2
) -> list[Path]:
    """Write the folders `train-pats` and `validation-pats` and a note that they hold phantoms.

    Args:
        folder: where the cohort goes; made if it is not there. Phantoms that lie there are replaced.
        train: number of training patients, at most 200.
        validation: number of validation patients, at most 40.
        seed: seed of the cohort; it and a patient's number determine every byte of that patient.
        workers: processes to use.

    Returns:
        The folders of the patients, in order.

    Raises:
        UsageError: a number out of range, or a folder that holds patients that are not phantoms.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    wanted = _numbers({"train-pats": train, "validation-pats": validation})
    if workers < 1:
        raise UsageError(f"workers must be at least 1, found {workers}")
    _claim(folder, seed)
    written = []
    for path in _spread(partial(_write_one, folder, seed), wanted, workers):
        written.append(path)
        log.info("phantom %d of %d: %s", len(written), len(wanted), path)
    return written


def write_openkbp_patient(phantom: Phantom, folder: str | Path) -> Path:
    """Write one phantom as the CSV files of OpenKBP; the folder appears only when it is complete.

    Volumes are sparse: flat index into the PLI array in C order, and value. The CT is stored as HU + 1024. A mask has
    indices only. `voxel_dimensions.csv` holds the spacing along the three axes, mm.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    spare = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        spare.mkdir(parents=True)
        _write_values(spare / "ct.csv", _published(phantom.ct_hu.astype(np.int32) + _HU_OFFSET, phantom))
        _write_values(spare / "dose.csv", _published(phantom.dose_gy, phantom))
        for name, mask in {**phantom.structures, "possible_dose_mask": phantom.possible_dose_mask}.items():
            _write_mask(spare / f"{name}.csv", _published(mask, phantom))
        right, front, up = phantom.grid.spacing_mm
        _write(spare / "voxel_dimensions.csv", "".join(f"{mm:.18e}\n" for mm in (front, right, up)))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(spare, folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(spare, ignore_errors=True)
    return folder


def _numbers(counts: dict[str, int]) -> list[tuple[str, int]]:
    wanted = []
    for part, count in counts.items():
        first, last = _PARTS[part]
        if not 0 <= count <= last - first + 1:
            raise UsageError(f"{part} can hold 0 to {last - first + 1} phantoms, found {count}")
        wanted += [(part, number) for number in range(first, first + count)]
    if not wanted:
        raise UsageError("no phantom is asked for", fix="Ask for at least one")
    return wanted


def _spread(job: Callable[[tuple[str, int]], Path], wanted: Sequence[tuple[str, int]], workers: int) -> Iterator[Path]:
    if min(workers, len(wanted)) == 1:
        yield from map(job, wanted)
        return
    with ProcessPoolExecutor(min(workers, len(wanted))) as pool:
        yield from pool.map(job, wanted)


def _write_one(folder: Path, seed: int, wanted: tuple[str, int]) -> Path:
    part, number = wanted
    return write_openkbp_patient(make_phantom((seed, number)), folder / part / f"pt_phantom{number:03d}")


def _claim(folder: Path, seed: int) -> None:
    """Put the note into the folder, or refuse a folder that holds patients without it."""
    held = [part for part in ("train-pats", "validation-pats", "test-pats") if (folder / part).exists()]
    if held and not (folder / NOTE_NAME).is_file():
        raise UsageError(
            f"already holds {held[0]}, which are not phantoms (no {NOTE_NAME})",
            where=folder,
            fix="Choose an empty folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / NOTE_NAME, _NOTE.format(seed=seed))
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write: {error.strerror or error}", where=folder, fix="Check free space and the folder's permissions"
    )


def _published(volume: NDArray, phantom: Phantom) -> NDArray:
    return reorient(volume, phantom.grid, _AXES)[0].ravel()


def _write_values(path: Path, flat: NDArray) -> None:
    """Index and value of what is not zero, with at most three decimals, as published."""
    indices = np.flatnonzero(flat)
    values = np.round(flat[indices].astype(np.float64), 3)
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    _write(path, ",data\n" + "".join(f"{index},{value}\n" for index, value in pairs))


def _write_mask(path: Path, flat: NDArray) -> None:
    _write(path, ",data\n" + "".join(f"{index},\n" for index in np.flatnonzero(flat).tolist()))


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("ascii"))
