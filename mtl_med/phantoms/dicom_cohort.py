"""A clinic's export of made-up pelvises: one folder per patient, with a note that none of them is real."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mtl_med.errors import OutputError, UsageError
from mtl_med.phantoms.dicom import write_dicom_study
from mtl_med.phantoms.dicom_style import VENDORS, DicomStyle
from mtl_med.phantoms.openkbp import NOTE_NAME
from mtl_med.phantoms.pelvis import make_pelvis

__all__ = ["write_dicom_cohort"]

log = logging.getLogger(__name__)

_NOTE = """PHANTOM DATA. These are not patients.

Every DICOM study in this folder was made up by mtl_med.phantoms from a seed (seed of the cohort: {seed}): drawn
anatomy, photon physics in outline, no clinical information; a vendor's name in a file tells whose manner of writing
was imitated. Never mix these folders with real patients, and never report results on them as results on patients.
"""


def write_dicom_cohort(
    folder: str | Path,
    *,
    patients: int = 6,
    seed: int = 0,
    shape: tuple[int, int, int] = (128, 128, 80),
    options: DicomStyle | None = None,
    workers: int = 1,
) -> list[Path]:
    """Write pelvises as a clinic's export: one folder per patient.

    Args:
        folder: where the cohort goes, with a note that it holds phantoms.
        patients: number of patients.
        seed: seed of the cohort; it and a patient's number determine every byte of that patient.
        shape: voxels of a phantom along R, A, S; fewer are larger.
        options: how they are written; by default in the manner of one vendor after the other.
        workers: processes to use.

    Returns:
        The folders of the patients, in order.

    Raises:
        UsageError: fewer than one patient or worker, or a folder with other data in it.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    if patients < 1 or workers < 1:
        raise UsageError(f"patients and workers must be at least 1, found {patients} and {workers}")
    if folder.exists() and any(folder.iterdir()) and not (folder / NOTE_NAME).is_file():
        raise UsageError(
            f"holds data that are not phantoms (no {NOTE_NAME})", where=folder, fix="Choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NOTE_NAME).write_bytes(_NOTE.format(seed=seed).encode("ascii"))
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder) from error
    written = []
    for path in _spread(partial(_write_one, folder, seed, shape, options), patients, workers):
        written.append(path)
        log.info("phantom %d of %d: %s", len(written), patients, path)
    return written


def _write_one(folder: Path, seed: int, shape: tuple[int, int, int], options: DicomStyle | None, number: int) -> Path:
    vendor = sorted(VENDORS)[number % len(VENDORS)]
    path = folder / f"phantom{number:03d}"
    write_dicom_study(
        make_pelvis((seed, number), shape=shape),
        path,
        options=options or DicomStyle.like(vendor),
        patient_id=f"PHANTOM{number:03d}",
    )
    return path


def _spread(job: partial[Path], count: int, workers: int) -> Iterator[Path]:
    if min(workers, count) == 1:
        yield from map(job, range(count))
        return
    with ProcessPoolExecutor(min(workers, count)) as pool:
        yield from pool.map(job, range(count))
