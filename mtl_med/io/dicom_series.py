"""A CT series read to HU on one grid: positions from ImagePositionPatient, every slice checked, nothing guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid
from mtl_med.io.dicom import read_dataset, stored_pixels
from mtl_med.io.dicom_frames import CtFrame, ct_frames
from mtl_med.io.dicom_pixels import within_bits
from mtl_med.io.dicom_slices import SAME_PLACE_MM, lay_out, straighten

__all__ = ["CtSeries", "read_ct_series"]

MAX_VOLUME_BYTES = 4 << 30
_SAME_COSINES, _SAME_SPACING_MM = 1e-4, 1e-4
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, eq=False)
class CtSeries:
    """A CT volume.

    Args:
        hu: (X, Y, Z) HU: int16 where all values are whole and fit, else float32. Axis 0 runs along the rows, axis 1
            down the columns, axis 2 along row x column.
        grid: its grid, RAS mm.
        frame_of_reference: Frame of Reference UID, "" if there is none.
        series_uid: Series Instance UID.
        sop_uids: SOP Instance UIDs of its images, in the order of axis 2.
        notes: sentences about what was dropped, resampled or odd.
        even: the slices were as far apart as they are here; else they were interpolated.
    """

    hu: NDArray[np.int16] | NDArray[np.float32]
    grid: Grid
    frame_of_reference: str
    series_uid: str
    sop_uids: tuple[str, ...]
    notes: tuple[str, ...]
    even: bool = True


def read_ct_series(files: Sequence[str | Path], *, resample: bool = False, where: str = "") -> CtSeries:
    """Read the files of one CT series, in any order.

    Args:
        files: one file per slice, or enhanced multi-frame files.
        resample: whether missing or unevenly spaced slices are interpolated linearly instead of refused.
        where: the series, for errors about all of it; by default the folder of the first file.

    Returns:
        HU on an orthogonal grid. Slices of a tilted gantry are shifted onto one within their planes, with a note.

    Raises:
        CaseError: a file cannot be read, is no CT or a localizer, holds less than it declares, or lacks an attribute;
            or there is more than one series.
        GeometryError: sizes, orientations, spacings or frames of reference differ, two different slices lie in one
            place, or slices are missing, uneven or shifted.

    Source: DICOM PS3.3 C.7.6.2 (Image Plane), C.8.2.1 (CT Image).
    """
    if not files:
        raise CaseError("holds no CT images", where=where, fix="Check the folder")
    where = where or str(Path(files[0]).parent)
    frames = [frame for path in files for frame in ct_frames(path)]
    _require_one_series(frames, where)
    frames, notes = _sorted(frames, where)
    first = frames[0]
    layout = lay_out(
        np.stack([frame.position for frame in frames]),
        first.axes,
        first.spacing,
        (first.stored.rows, first.stored.columns),
        thickness=first.thickness,
        resample=resample,
        where=where,
    )
    columns, rows, planes = layout.grid.shape
    if 4 * columns * rows * max(planes, len(frames)) > MAX_VOLUME_BYTES:
        raise CaseError(
            f"{columns} x {rows} x {planes} voxels are more than {MAX_VOLUME_BYTES >> 30} GiB",
            where=where,
            fix="Check the series",
        )
    hu = straighten(_volume(frames), layout)
    return CtSeries(
        hu=hu.transpose(2, 1, 0),
        grid=layout.grid,
        frame_of_reference=first.frame_of_reference,
        series_uid=first.series_uid,
        sop_uids=tuple(dict.fromkeys(frame.sop_uid for frame in frames)),
        notes=(*notes, *layout.notes, *_oddities(frames)),
        even=layout.below is None,
    )


def _require_one_series(frames: Sequence[CtFrame], where: str) -> None:
    """Raise unless all frames could be slices of one volume; the first that differs is named."""
    first = frames[0]
    for frame in frames:
        if frame.series_uid != first.series_uid:
            raise CaseError(
                f"holds {len({other.series_uid for other in frames})} series, expected one",
                where=where,
                fix="Give the files of one series",
            )
        if frame.frame_of_reference != first.frame_of_reference:
            raise GeometryError("its frame of reference is not that of the other slices", where=frame.path)
        if (frame.stored.rows, frame.stored.columns) != (first.stored.rows, first.stored.columns):
            raise GeometryError(
                f"has {frame.stored.rows} x {frame.stored.columns} pixels, others have"
                f" {first.stored.rows} x {first.stored.columns}",
                where=frame.path,
                fix="Give slices of one size",
            )
        if np.abs(frame.axes - first.axes).max() > _SAME_COSINES:
            raise GeometryError("its orientation is not that of the other slices", where=frame.path)
        if np.abs(np.subtract(frame.spacing, first.spacing)).max() > _SAME_SPACING_MM:
            raise GeometryError(
                f"its pixels are {frame.spacing[0]:g} x {frame.spacing[1]:g} mm, others"
                f" {first.spacing[0]:g} x {first.spacing[1]:g} mm",
                where=frame.path,
            )
        if frame.stored.signed != first.stored.signed:
            raise CaseError(
                "stores its pixels with another sign than the other slices (PixelRepresentation)", where=frame.path
            )


def _sorted(frames: Sequence[CtFrame], where: str) -> tuple[list[CtFrame], list[str]]:
    """Frames in ascending order along the normal, exact duplicates dropped with a note."""
    along = np.array([frame.position @ frames[0].axes[2] for frame in frames])
    ordered = [frames[index] for index in np.argsort(along, kind="stable")]
    kept, dropped = ordered[:1], 0
    for frame in ordered[1:]:
        moved = frame.position - kept[-1].position
        if abs(moved @ frame.axes[2]) > SAME_PLACE_MM:
            kept.append(frame)
        elif np.abs(moved).max() <= SAME_PLACE_MM and _same_values(frame, kept[-1]):
            dropped += 1
        else:
            raise GeometryError(
                f"two different slices lie in one place, {along.max() - frame.position @ frame.axes[2]:.3g} mm from the"
                " last slice",
                where=where,
                why="They may be two phases or reconstructions",
                fix="Leave out one of them",
            )
    plural = "s were" if dropped > 1 else " was"
    return kept, [f"{dropped} repeated slice{plural} dropped (same position, same values)"] if dropped else []


def _same_values(first: CtFrame, second: CtFrame) -> bool:
    if (first.slope, first.intercept) != (second.slope, second.intercept):
        return False
    return np.array_equal(_stored(first, {}), _stored(second, {}))


def _volume(frames: Sequence[CtFrame]) -> NDArray:
    """HU of the frames, (slices, rows, columns)."""
    shape = (len(frames), frames[0].stored.rows, frames[0].stored.columns)
    decoded: dict[Path, NDArray] = {}
    if all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in frames):
        hu = np.empty(shape, dtype=np.int16)
        if all(_whole_hu(frame, out, decoded) for frame, out in zip(frames, hu, strict=True)):
            return hu
        del hu
    wide = np.empty(shape, dtype=np.float32)
    for frame, image in zip(frames, wide, strict=True):
        image[...] = _stored(frame, decoded) * np.float64(frame.slope) + frame.intercept
    return wide


def _whole_hu(frame: CtFrame, out: NDArray[np.int16], decoded: dict[Path, NDArray]) -> bool:
    """Put the HU of a frame into `out`; False where they do not fit."""
    slope, intercept = int(frame.slope), int(frame.intercept)
    stored = _stored(frame, decoded)
    if stored.dtype == np.int16 and (slope, intercept) == (1, 0):
        out[...] = stored
        return True
    wide = stored.astype(np.int32 if stored.itemsize < 4 else np.int64)
    np.multiply(wide, slope, out=wide)
    np.add(wide, intercept, out=wide)
    if wide.min() < _INT16.min or wide.max() > _INT16.max:
        return False
    out[...] = wide
    return True


def _stored(frame: CtFrame, decoded: dict[Path, NDArray]) -> NDArray[np.integer]:
    """Stored pixels of a frame, (rows, columns): straight from the file, or decoded, of which the last file is kept."""
    if frame.place is not None:
        shape = (frame.stored.rows, frame.stored.columns)
        offset = frame.place.offset + frame.index * frame.stored.frame_bytes
        try:
            pixels = np.fromfile(
                frame.path, dtype=frame.stored.dtype.newbyteorder("<"), count=shape[0] * shape[1], offset=offset
            )
        except OSError as error:
            raise CaseError(f"cannot be read: {error.strerror or error}", where=frame.path) from error
        if pixels.size != shape[0] * shape[1]:
            raise CaseError("became shorter while it was read", where=frame.path, fix="Copy the file again")
        return within_bits(pixels.reshape(shape), frame.stored, frame.path)
    if frame.path not in decoded:
        decoded.clear()
        decoded[frame.path] = stored_pixels(read_dataset(frame.path), frame.path)
    pixels = decoded[frame.path]
    if pixels.shape != (frame.stored.frames, frame.stored.rows, frame.stored.columns):
        raise CaseError("changed while it was read", where=frame.path)
    return pixels[frame.index]


def _oddities(frames: Sequence[CtFrame]) -> list[str]:
    """Sentences about what slices of one series seldom differ in, and what was lost before they came here."""
    notes = []
    if not frames[0].frame_of_reference:
        notes.append("the CT has no frame of reference")
    if len(frames) == 1:
        notes.append("the CT is a single slice")
    for name, values in (
        ("RescaleSlope", Counter(frame.slope for frame in frames)),
        ("RescaleIntercept", Counter(frame.intercept for frame in frames)),
        ("BitsStored", Counter(frame.stored.stored for frame in frames)),
    ):
        if len(values) > 1:
            told = ", ".join(f"{value:g} ({count} slices)" for value, count in values.most_common(3))
            notes.append(f"{name} differs between slices: {told}{', ...' if len(values) > 3 else ''}")
    if any(frame.lossy for frame in frames):
        notes.append("CT values were changed by lossy compression before")
    if any(frame.burned_in for frame in frames):
        notes.append("the CT says that its pixels tell who the patient is (BurnedInAnnotation): nothing is removed")
    return notes
