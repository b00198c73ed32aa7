"""The CT images that written objects refer to."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from mtl_med.errors import CaseError, GeometryError, NothingFoundError
from mtl_med.geometry import Grid
from mtl_med.io.dicom import read_header
from mtl_med.io.dicom_frames import ct_frames
from mtl_med.io.dicom_items import text
from mtl_med.io.dicom_slices import SAME_PLACE_MM, TOLERANCE_MM

__all__ = ["CtReference", "CtSlice", "affine_of", "find_ct_series"]

log = logging.getLogger(__name__)

_CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

# What every written object takes from one image, and says of all.
_SHARED = {"PatientID": "patient", "StudyInstanceUID": "study", "FrameOfReferenceUID": "frame of reference"}


@dataclass(frozen=True, eq=False)
class CtSlice:
    """One slice of a CT.

    Args:
        path: its file.
        sop_uid: SOP Instance UID of the image that holds it.
        frame: number of the frame, from 1, in a multi-frame image; 0 in an image of one slice.
        origin: (3,) RAS mm of the centre of its first pixel.
    """

    path: Path
    sop_uid: str
    frame: int
    origin: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CtReference:
    """A CT series: where its slices lie, and what refers to them needs to know.

    Args:
        header: of one image, for patient, study and frame of reference.
        shape: columns, rows and slices: the axes (X, Y, Z) of arrays that lie on the slices.
        steps: (3, 3) RAS mm, as columns: from a pixel to the next in its row, to the next in its column, and the unit
            normal.
        slices: in ascending order along the normal.
    """

    header: Dataset
    shape: tuple[int, int, int]
    steps: NDArray[np.float64]
    slices: tuple[CtSlice, ...]

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return str(self.header.SeriesInstanceUID)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID of the images."""
        return str(self.header.SOPClassUID)

    @property
    def grid(self) -> Grid | None:
        """Grid of all slices; None where they are not equally spaced, or shifted within their planes."""
        origins = np.stack([item.origin for item in self.slices])
        step = self.steps[:, 2] * self.pitch_mm
        even = origins[0] + np.arange(len(origins))[:, None] * step
        if np.abs(even - origins).max() > TOLERANCE_MM:
            return None
        return Grid(self.shape, affine_of(np.column_stack([self.steps[:, :2], step]), origins[0]))

    @property
    def pitch_mm(self) -> float:
        """Mean distance between neighbouring slices along the normal; the thickness of a single one."""
        if len(self.slices) > 1:
            way = self.slices[-1].origin - self.slices[0].origin
            return float(way @ self.steps[:, 2]) / (len(self.slices) - 1)
        thickness_mm = float(self.header.get("SliceThickness") or 0)
        return thickness_mm if thickness_mm > 0 else 1.0

    def slice_grid(self, number: int, thickness_mm: float = 1.0) -> Grid:
        """Grid of one slice, as an array (X, Y, 1)."""
        steps = self.steps * np.array([1.0, 1.0, thickness_mm])
        return Grid((*self.shape[:2], 1), affine_of(steps, self.slices[number].origin))


def affine_of(steps: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) matrix of steps (3, 3), as columns, and the origin (3,)."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, origin
    return affine


def find_ct_series(folder: str | Path) -> dict[str, CtReference]:
    """CT series in a folder and the folders below it, by Series Instance UID; pixel values are not read.

    Other objects, localizers and files that are no DICOM are passed over, the latter with a warning; so is a series
    that cannot be used beside one that can.

    Raises:
        NothingFoundError: there is no such folder, or it holds no CT.
        CaseError: an image of a CT lacks its position, orientation, size or identifiers, or belongs to another patient,
            study or frame of reference than the others.
        GeometryError: images of a series differ in size or orientation, or two lie at one place.
    """
    if not Path(folder).exists():
        raise NothingFoundError("there is no such folder", where=folder, fix="Give the folder of the CT")
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    unreadable: list[CaseError] = []
    for path in _files(Path(folder)):
        try:
            header = read_header(path)
        except CaseError as error:
            unreadable.append(error)
            continue
        if _is_ct(header):
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    if unreadable:
        log.warning(
            "%d files are no readable DICOM and were passed over; the first: %s", len(unreadable), unreadable[0]
        )
    if not found:
        raise NothingFoundError("holds no CT images", where=folder, fix="Give the folder of the CT that was predicted")
    usable: dict[str, CtReference] = {}
    unusable: list[CaseError] = []
    for series, images in sorted(found.items()):
        try:
            usable[series] = _reference(images)
        except CaseError as error:
            unusable.append(error)
    if not usable:
        raise unusable[0]
    for reason in unusable:
        log.warning("a CT series cannot be used and was passed over: %s", reason)
    return usable


def _files(folder: Path) -> Iterable[Path]:
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_ct(header: Dataset) -> bool:
    return text(header, "SOPClassUID") in _CT_CLASSES and "LOCALIZER" not in (header.get("ImageType") or ())


def _reference(images: list[tuple[Path, Dataset]]) -> CtReference:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        for path, header in images:
            if not text(header, keyword):
                raise CaseError(f"has no {keyword}", where=path, fix="Export the CT again")
    for keyword, what in _SHARED.items():
        for path, header in images:
            if text(header, keyword) != text(images[0][1], keyword):
                raise CaseError(
                    f"belongs to another {what} than other images of its CT series ({keyword})",
                    where=path,
                    why=f"It was compared with {images[0][0].name}",
                    fix="Export the CT again, or leave out what does not belong to it",
                )
    planes = [plane for path, header in images for plane in _planes(path, header)]
    _, steps, size = planes[0]
    for item, other_steps, other_size in planes:
        if other_size != size or np.abs(other_steps - steps).max() > SAME_PLACE_MM:
            raise GeometryError("differs from other images of its CT in size, spacing or direction", where=item.path)
    unique = {(item.sop_uid, item.frame): item for item, _, _ in planes}
    slices = sorted(unique.values(), key=lambda item: float(item.origin @ steps[:, 2]))
    for below, above in pairwise(slices):
        if (above.origin - below.origin) @ steps[:, 2] < SAME_PLACE_MM:
            raise GeometryError("lies where another image of its CT lies", where=above.path, fix="Remove one of them")
    reference = CtReference(images[0][1], (*size, len(slices)), steps, tuple(slices))
    if reference.grid is None:
        log.warning(
            "%s: slices are missing, unevenly spaced or tilted; only those there are used", slices[0].path.parent
        )
    return reference


def _planes(path: Path, header: Dataset) -> list[tuple[CtSlice, NDArray[np.float64], tuple[int, int]]]:
    """Slice, steps and (columns, rows) of each slice in a file."""
    is_single = text(header, "SOPClassUID") == CTImageStorage
    planes = []
    for frame in ct_frames(path):
        between_rows, between_columns = frame.spacing
        # Along a row one goes from column to column.
        steps = frame.axes.T * np.array([between_columns, between_rows, 1.0])
        item = CtSlice(path, frame.sop_uid, 0 if is_single else frame.index + 1, frame.position)
        planes.append((item, steps, (frame.stored.columns, frame.stored.rows)))
    return planes
