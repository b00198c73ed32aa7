"""Masks written as RTSTRUCT: contours along the edges of voxels, on the slices of a CT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from mtl_med.contours import edge_polygons
from mtl_med.errors import UsageError
from mtl_med.geometry import Grid, lps_from_ras
from mtl_med.io.colours import colour
from mtl_med.io.dicom_common import (
    RESEARCH_COMMENT,
    decimal_string,
    new_object,
    plain_text,
    sop_item,
    stamp,
    write_dicom,
)
from mtl_med.io.dicom_reference import CtReference
from mtl_med.io.slice_masks import mask_on_slices

__all__ = ["interpreted_type", "unique_labels", "write_rtstruct"]

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
_CONTOUR_DATA = Tag("ContourData")
_TARGETS = ("PTV", "CTV", "GTV")
_OUTLINES = ("external", "body")


def write_rtstruct(
    path: str | Path,
    structures: Mapping[str, NDArray],
    grid: Grid,
    reference: CtReference,
    *,
    holes: str = "keyhole",
    label: str = "Predicted",
    seed: str = "",
    when: datetime | None = None,
) -> str:
    """Write masks as a structure set that refers to the slices of a CT.

    The contours run along the edges of voxels (see `mtl_med.contours`), so that a reader that takes the voxels whose
    centres lie inside gets the masks back. A hole is a part of the contour around it, reached by a cut without width:
    readers that count crossings (even-odd, XOR) and readers that unite the contours of a slice both leave it open. The
    polygon of an island within a hole stands by itself.

    Args:
        path: the file.
        structures: name -> (X, Y, Z) mask, in the order in which they are to be listed; an empty mask is listed
            without contours.
        grid: the masks' grid, RAS mm. It need not be that of the CT (see `mask_on_slices`).
        reference: the CT.
        holes: "keyhole", or "separate" for contours of their own, which only even-odd and XOR readers understand.
        label: Structure Set Label, at most 16 characters.
        seed: as for `new_object`.
        when: date and time of making (default: now).

    Returns:
        SOP Instance UID of the structure set.

    Raises:
        UsageError: no structures, or an unknown kind of holes.
        CaseError: the CT has no study or frame of reference.
        GeometryError: a mask has another shape than the grid.
        OutputError: the file cannot be written.

    Source: DICOM PS3.3 A.19 (RT Structure Set), C.8.8.5, C.8.8.6, C.8.8.8.
    """
    if not structures:
        raise UsageError("a structure set without structures", where=path)
    moment = when or datetime.now()
    made = new_object(
        reference.header,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        description="Predicted structures",
        series_number=9001,
        seed=seed,
        when=moment,
    )
    made.StructureSetLabel = plain_text(label, 16)
    made.StructureSetName = plain_text(label)
    made.StructureSetDescription = RESEARCH_COMMENT
    stamp(made, "StructureSet", moment)
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(reference)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, (name, shown) in enumerate(unique_labels(structures).items(), start=1):
        on_slices = mask_on_slices(structures[name], grid, reference, name=shown)
        made.StructureSetROISequence.append(_roi(number, shown, reference))
        made.ROIContourSequence.append(_contours(number, colour(name), on_slices, reference, holes))
        made.RTROIObservationsSequence.append(_observation(number, interpreted_type(name)))
    write_dicom(path, made, transfer_syntax=ImplicitVRLittleEndian)
    return str(made.SOPInstanceUID)


def interpreted_type(name: str) -> str:
    """RT ROI Interpreted Type of a structure with a TG-263 name; empty for targets that DICOM has no word for."""
    if name.upper().startswith(_TARGETS):
        return name[:3].upper()
    if name.upper().startswith("ITV"):
        return ""
    return "EXTERNAL" if name.lower() in _OUTLINES else "ORGAN"


def unique_labels(names: Mapping[str, object]) -> dict[str, str]:
    """Name -> text of at most 64 characters without backslashes, different for each name and never empty."""
    labels: dict[str, str] = {}
    for name in names:
        text, count = plain_text(name) or "unnamed", 1
        while text in labels.values():
            count += 1
            ending = f"_{count}"
            text = (plain_text(name) or "unnamed")[: 64 - len(ending)] + ending
        labels[name] = text
    return labels


def _frame_of_reference(reference: CtReference) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = reference.series_uid
    series.ContourImageSequence = [_image(reference, number) for number in range(len(reference.slices))]
    study = sop_item(_DETACHED_STUDY, str(reference.header.StudyInstanceUID))
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = reference.header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(reference: CtReference, number: int) -> Dataset:
    item = sop_item(reference.sop_class_uid, reference.slices[number].sop_uid)
    if reference.slices[number].frame:
        item.ReferencedFrameNumber = reference.slices[number].frame
    return item


def _roi(number: int, name: str, reference: CtReference) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = reference.header.FrameOfReferenceUID
    item.ROIName = name
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    return item


def _contours(
    number: int, colour_of_it: tuple[int, int, int], mask: NDArray[np.bool_], reference: CtReference, holes: str
) -> Dataset:
    roi = Dataset()
    roi.ROIDisplayColor = list(colour_of_it)
    roi.ReferencedROINumber = number
    items: list[Dataset] = []
    for slice_number, points in _points_lps(mask, reference, holes):
        item = Dataset()
        item.ContourImageSequence = [_image(reference, slice_number)]
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(points)
        item.ContourNumber = len(items) + 1
        # As bytes, which pydicom writes as they are: a number object per coordinate would take most of the time. The
        # implicit transfer syntax of structure sets does not tell the type, so that no other one is claimed.
        item.add(DataElement(_CONTOUR_DATA, "OB", _decimal_strings(points)))
        items.append(item)
    if items:
        roi.ContourSequence = items
    return roi


def _points_lps(
    mask: NDArray[np.bool_], reference: CtReference, holes: str
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for number, polygon in edge_polygons(mask, holes=holes):
        in_plane = (polygon - 0.5) @ reference.steps[:, :2].T
        yield number, lps_from_ras(in_plane + reference.slices[number].origin)


def _decimal_strings(points: NDArray[np.float64]) -> bytes:
    """Coordinates to a millionth of a micrometre, as one DS value of even length."""
    values = (np.round(points, 9) + 0.0).ravel().tolist()
    texts = [repr(value) for value in values]
    if max(map(len, texts)) > 16:
        texts = [decimal_string(value) for value in values]
    data = "\\".join(texts).encode("ascii")
    return data + b" " * (len(data) % 2)


def _observation(number: int, kind: str) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIInterpretedType = kind
    item.ROIInterpreter = ""
    return item
