"""RTSTRUCT files read to closed contours in RAS, with an account of everything that could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTStructureSetStorage

from mtl_med.errors import CaseError
from mtl_med.io.contour_data import closed_contour, stated_points
from mtl_med.io.dicom import read_dataset
from mtl_med.io.dicom_items import MODALITIES, term, text
from mtl_med.io.roi_descriptions import interpreted_types, odd_descriptions, roi_name, roi_number

__all__ = ["Roi", "StructureSet", "read_rtstruct"]

Points = NDArray[np.float64]

_NO_NUMBER = -1  # of a structure without a readable one


@dataclass(frozen=True, eq=False)
class Roi:
    """One structure of a structure set.

    Args:
        number: its ROI Number; -1 where the file has none that can be read.
        name: its name as written, which may be empty, unsafe as a file name, or the name of another structure too.
        interpreted_type: RT ROI Interpreted Type, such as "PTV", "ORGAN", "EXTERNAL", or "".
        contours: (N, 3) corners of each closed contour, RAS mm, N >= 3, in the order of the file. None at all means
            that nothing usable is drawn: the structure is listed, but empty.
        skipped: why contours were left out -> how many.
        frame_of_reference: UID of the frame that its coordinates refer to, "" if it names none.
    """

    number: int
    name: str
    interpreted_type: str
    contours: tuple[Points, ...]
    skipped: dict[str, int]
    frame_of_reference: str = ""


@dataclass(frozen=True, eq=False)
class StructureSet:
    """What an RTSTRUCT holds.

    Args:
        rois: all structures, also the empty ones, in the order of the file.
        frame_of_reference: UID of the frame of the drawn structures (of most of them, should they differ).
        series_uids: Series Instance UIDs of the images it was drawn on.
        sop_uids: SOP Instance UIDs of these images.
        label: Structure Set Label.
        sop_uid: its SOP Instance UID.
        notes: sentences about oddities; they may name structures.
    """

    rois: tuple[Roi, ...]
    frame_of_reference: str
    series_uids: tuple[str, ...]
    sop_uids: frozenset[str]
    label: str
    sop_uid: str
    notes: tuple[str, ...]


def read_rtstruct(path: str | Path) -> StructureSet:
    """Read all structures of an RTSTRUCT.

    Points, open contours, contours of fewer than three points or with unreadable coordinates are skipped and counted;
    their structure stays. A structure without contours, or with contours that cannot be told from another's, is listed
    as empty. CLOSEDPLANAR_XOR is read as closed: holes come from the even-odd rule of the rasteriser anyway.

    Raises:
        CaseError: no RTSTRUCT, damaged, or without any structure.

    Source: DICOM PS3.3 C.8.8.5 (structure set), C.8.8.6 (ROI contour), C.8.8.8 (RT ROI observations).
    """
    path = Path(path)
    ds = read_dataset(path)
    modality = term(ds, "Modality")
    if (text(ds, "SOPClassUID") or modality) not in (RTStructureSetStorage, "RTSTRUCT"):
        named = modality if modality in MODALITIES else "unknown"
        raise CaseError(f"is no RTSTRUCT (its Modality is {named})", where=path, fix="Give an RTSTRUCT")
    return _structure_set(ds, path)


def _structure_set(ds: Dataset, path: Path) -> StructureSet:
    listed = _items(ds, "StructureSetROISequence", path)
    drawn = _items(ds, "ROIContourSequence", path)
    if not listed and not drawn:
        raise CaseError("has no structures (StructureSetROISequence)", where=path, fix="Export the structures again")
    notes: list[str] = []
    rois = _rois(listed, drawn, interpreted_types(_items(ds, "RTROIObservationsSequence", path)), notes, path)
    frames = Counter(roi.frame_of_reference for roi in rois if roi.contours and roi.frame_of_reference)
    referenced = _items(ds, "ReferencedFrameOfReferenceSequence", path)
    frames = frames or Counter(uid for item in referenced if (uid := text(item, "FrameOfReferenceUID")))
    if len(frames) > 1:
        notes.append(f"structures lie in {len(frames)} frames of reference")
    if not drawn:
        notes.append("no structure is drawn (ROIContourSequence is missing or empty)")
    series, images = _images(referenced, path)
    return StructureSet(
        rois=rois,
        frame_of_reference=frames.most_common(1)[0][0] if frames else text(ds, "FrameOfReferenceUID"),
        series_uids=series,
        sop_uids=images or _contour_images(drawn, path),
        label=text(ds, "StructureSetLabel"),
        sop_uid=text(ds, "SOPInstanceUID"),
        notes=tuple(notes),
    )


def _rois(
    listed: list[Dataset], drawn: list[Dataset], types: dict[int | None, str | None], notes: list[str], path: Path
) -> tuple[Roi, ...]:
    """Structures with their contours; what cannot be matched without a guess stays empty, counted and noted."""
    numbers = [roi_number(item, "ROINumber") for item in listed]
    times_listed = Counter(numbers)
    by_number: dict[int | None, list[Dataset]] = {}
    for item in drawn:
        items = by_number.setdefault(roi_number(item, "ReferencedROINumber"), [])
        items += [item] if _count([item], path) else []
    rois = []
    for item, number in zip(listed, numbers, strict=True):
        name, frame = roi_name(item), text(item, "ReferencedFrameOfReferenceUID")
        contours: tuple[Points, ...] = ()
        skipped = Counter[str]()
        of_roi = by_number.get(number, [])
        if of_roi and number is not None and times_listed[number] == len(of_roi) == 1:
            contours, skipped, remarks = _contours(of_roi[0], path)
            notes += [f"structure '{name}': {remark}" for remark in remarks]
        elif of_roi:
            skipped["ROI number not unique"] = _count(of_roi, path)
            notes.append(
                f"structure '{name}' is left empty: ROI number {number} is listed {times_listed[number]} times and "
                f"drawn {len(of_roi)} times"
            )
        if drawn and not contours and not skipped:
            notes.append(f"structure '{name}' is not drawn")
        rois.append(
            Roi(_NO_NUMBER if number is None else number, name, types.get(number) or "", contours, dict(skipped), frame)
        )
    notes += odd_descriptions([(number, roi.name) for number, roi in zip(numbers, rois, strict=True)], types)
    for number in [number for number in by_number if number not in times_listed]:
        unlisted = {"ROI number not listed": _count(by_number[number], path)}
        rois.append(Roi(_NO_NUMBER if number is None else number, "", types.get(number) or "", (), unlisted))
        notes.append(f"contours of ROI number {number}, which is not listed, are left out")
    return tuple(rois)


def _contours(roi: Dataset, path: Path) -> tuple[tuple[Points, ...], Counter[str], list[str]]:
    """Closed contours of one item of the ROI Contour Sequence, why others were skipped, and remarks."""
    contours, skipped, miscounted = [], Counter[str](), 0
    for item in _items(roi, "ContourSequence", path):
        points = closed_contour(item)
        if isinstance(points, str):
            skipped[points] += 1
            continue
        contours.append(points)
        miscounted += stated_points(item) not in (len(points), None)
    remarks = [f"{miscounted} contours hold another number of points than they state"] if miscounted else []
    if skipped:
        remarks.append(f"contours skipped: {', '.join(f'{count} x {reason}' for reason, count in skipped.items())}")
    return tuple(contours), skipped, remarks


def _items(ds: Dataset, keyword: str, path: Path) -> list[Dataset]:
    """Items of a sequence, none where it is absent; anything else under its name means lost structures."""
    try:
        value = ds[keyword].value if keyword in ds else Sequence()
    except Exception:  # damaged values raise nearly anything
        value = None
    if not isinstance(value, Sequence):
        # Without the cause: its text may quote the file.
        raise CaseError(f"its {keyword} is no sequence", where=path, fix="Copy or export the file again") from None
    return list(value)


def _images(referenced: list[Dataset], path: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    """Series and image UIDs that the structure set says it was drawn on."""
    series = [
        item
        for frame in referenced
        for study in _items(frame, "RTReferencedStudySequence", path)
        for item in _items(study, "RTReferencedSeriesSequence", path)
    ]
    uids = dict.fromkeys(uid for item in series if (uid := text(item, "SeriesInstanceUID")))
    images = (image for item in series for image in _items(item, "ContourImageSequence", path))
    return tuple(uids), frozenset(_sop_uids(images))


def _contour_images(drawn: list[Dataset], path: Path) -> frozenset[str]:
    """Image UIDs that the single contours refer to."""
    contours = (contour for roi in drawn for contour in _items(roi, "ContourSequence", path))
    return frozenset(
        _sop_uids(image for contour in contours for image in _items(contour, "ContourImageSequence", path))
    )


def _sop_uids(images: Iterator[Dataset]) -> Iterator[str]:
    return (uid for image in images if (uid := text(image, "ReferencedSOPInstanceUID")))


def _count(rois: list[Dataset], path: Path) -> int:
    return sum(len(_items(roi, "ContourSequence", path)) for roi in rois)
