"""The RTSTRUCT of a made-up study: contours with corners on the exact surface, and the faults of real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtl_med.geometry import lps_from_ras
from mtl_med.phantoms.dicom_ct import slice_ranks, slice_uid
from mtl_med.phantoms.dicom_files import Study, item, reference
from mtl_med.phantoms.outlines import outlines, polygon_moments
from mtl_med.phantoms.scan_geometry import Scan
from mtl_med.phantoms.solids import Array, Ellipsoid, Solid

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["StructureTruth", "roi_names", "write_rtstruct"]

FAULTY = "Bladder"  # the structure whose contours get the faults
_FIRST_NUMBER = 3  # real files seldom begin with 1
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 128, 0))
COARSER = 2.0  # corners of External lie this much further apart
_BALL_MM = 11.0  # radius of the balls that stand for additional ROIs


@dataclass(frozen=True, eq=False)
class StructureTruth:
    """What a reader must find.

    Args:
        number: ROI Number.
        name: ROI Name.
        centroid_ras: centre of gravity of the stack of contours, RAS mm; NaN without contours.
        volume_cc: area of the contours times the thickness of their slices.
        contours: corners (N, 3) as written, RAS mm.
    """

    number: int
    name: str
    centroid_ras: Array
    volume_cc: float
    contours: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class _Contour:
    """One contour: its slice, its polygon in that plane, its type and the text of its coordinates."""

    slice: int
    polygon: Array
    kind: str
    text: bytes


def roi_names(study: Study, structures: Sequence[str], prescriptions_gy: Mapping[str, float]) -> dict[str, str]:
    """ROI name per structure, with those that the style adds as `extra/0`, `extra/1`, ..."""
    style = study.style
    names = {
        name: style.names.get(name, name).format(gy=prescriptions_gy.get(name, 0))
        for name in structures
        if style.structures is None or name in style.structures
    }
    extra = list(style.extra_rois)
    if style.identity is not None:
        extra.append(f"Boost {style.identity.family_name}")
    return names | {f"extra/{number}": name for number, name in enumerate(extra)}


def write_rtstruct(
    study: Study, scan: Scan, solids: Mapping[str, Solid], names: Mapping[str, str]
) -> dict[str, StructureTruth]:
    """Write the structure set.

    Args:
        study: what the file belongs to.
        scan: whose planes hold the contours.
        solids: what is contoured, by structure.
        names: ROI name per structure, from `roi_names`.

    Returns:
        The truth per structure.
    """
    ds = study.dataset("rtstruct", "rtstruct", "RTSTRUCT", "structures")
    ds.StructureSetLabel, ds.StructureSetName = "PHANTOM", "PHANTOM"
    ds.StructureSetDate, ds.StructureSetTime = ds.StudyDate, ds.StudyTime
    ds.InstanceNumber, ds.ApprovalStatus = "1", "UNAPPROVED"
    if study.style.frame_at_top:
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame_of("rtstruct"), ""
    ds.ReferencedFrameOfReferenceSequence = [_referenced_frame(study, scan)]
    rois, contoured, observed, truth = [], [], [], {}
    for index, (structure, name) in enumerate(names.items()):
        number = _FIRST_NUMBER + index
        solid = solids.get(structure) or _ball(scan, index)
        contours = _contours(study, scan, structure, solid)
        truth[structure] = _truth(scan, number, name, contours)
        rois.append(_roi(study, number, name))
        contoured.append(_contour_item(study, scan, number, contours))
        observed.append(_observation(study, structure, number))
    faults, last = study.style.contour_faults, _FIRST_NUMBER + len(names)
    if "no_contour_sequence" in faults:
        rois.append(_roi(study, last, "Not contoured"))
        contoured.append(item(ReferencedROINumber=str(last), ROIDisplayColor=["1", "2", "3"]))
        observed.append(_observation(study, "", last))
        truth["empty"] = StructureTruth(last, "Not contoured", np.full(3, np.nan), 0.0, ())
    if "dangling" in faults:
        ball = _contours(study, scan, "dangling", _ball(scan, 0))
        contoured.append(_contour_item(study, scan, last + 90, ball))
        observed.append(_observation(study, "", last + 90))
    ds.StructureSetROISequence, ds.ROIContourSequence = rois, contoured
    ds.RTROIObservationsSequence = observed
    study.save(ds, "rtstruct", "RS")
    return truth


def _ball(scan: Scan, index: int) -> Ellipsoid:
    """A ball in the middle slice; each index has its own place."""
    columns, rows = scan.size
    middle = scan.pixel_ras(len(scan.origins) // 2, np.array([(columns - 1) / 2]), np.array([(rows - 1) / 2]))[0]
    ring, place = divmod(index, 12)
    angle = 2 * np.pi * place / 12
    away = (60 + 25 * ring) * (np.cos(angle) * scan.along + np.sin(angle) * scan.across)
    x, y, z = (float(value) for value in middle + away)
    return Ellipsoid((x, y, z), (_BALL_MM, _BALL_MM, _BALL_MM))


def _contours(study: Study, scan: Scan, structure: str, solid: Solid) -> list[_Contour]:
    """Sound contours, and the faulty ones that the style asks for."""
    style = study.style
    step_mm = style.step_mm * (COARSER if structure == "External" else 1)
    found = []
    for number in range(len(scan.origins)):
        polygons = outlines(solid, scan.plane(number), step_mm)
        if style.holes == "keyhole":
            polygons = _joined(polygons)
        kind = "CLOSEDPLANAR_XOR" if style.holes == "xor" and len(polygons) > 1 else "CLOSED_PLANAR"
        found += [_contour(study, scan, number, polygon, kind) for polygon in polygons]
    if structure != FAULTY or not found:
        return found
    return _with_faults(study, scan, found)


def _with_faults(study: Study, scan: Scan, found: list[_Contour]) -> list[_Contour]:
    middle = found[len(found) // 2]
    faults = study.style.contour_faults
    if "missing_middle" in faults:
        used = sorted({one.slice for one in found})
        gone = used[len(used) // 2 - 1 : len(used) // 2 + 1]
        found = [one for one in found if one.slice not in gone]
    if "between_slices" in faults:
        found = [_contour(study, scan, one.slice, one.polygon, one.kind, off=0.3) for one in found]
    broken = {
        "point": (middle.polygon[:1], "POINT"),
        "open_planar": (middle.polygon[: len(middle.polygon) // 2], "OPEN_PLANAR"),
        "open_nonplanar": (middle.polygon[: len(middle.polygon) // 2], "OPEN_NONPLANAR"),
        "two_points": (middle.polygon[:2], "CLOSED_PLANAR"),
    }
    for fault, (polygon, kind) in broken.items():
        if fault in faults:
            found.append(_contour(study, scan, middle.slice, polygon, f"!{kind}"))
    if "ragged" in faults:
        text = middle.text.rsplit(b"\\", 1)[0]
        found.append(_Contour(middle.slice, middle.polygon, "!CLOSED_PLANAR", text))
    if "repeated" in faults:
        found.append(_Contour(middle.slice, middle.polygon, "!CLOSED_PLANAR", middle.text))
    if "outside" in faults:
        far = middle.polygon - [5000.0, 0.0]
        found.append(_contour(study, scan, middle.slice, far, "!CLOSED_PLANAR"))
        found.append(_contour(study, scan, middle.slice, middle.polygon, "!CLOSED_PLANAR", off=500.0))
    return found


def _contour(study: Study, scan: Scan, number: int, polygon: Array, kind: str, off: float = 0.0) -> _Contour:
    """A contour in a slice, or `off` slice distances away from it; a kind that begins with "!" is no part of truth."""
    plane = scan.plane(number)
    points = plane.ras(polygon) + off * scan.thickness_mm[number] * scan.normal
    if study.style.repeat_first_point:
        points = np.concatenate([points, points[:1]])
    decimals = study.style.decimals
    numbers = np.round(lps_from_ras(points), decimals).ravel() + 0.0
    text = ((f"%.{decimals}f\\" * len(numbers)) % tuple(numbers.tolist())).rstrip("\\").encode()
    return _Contour(number, polygon, kind, text)


def _contour_item(study: Study, scan: Scan, number: int, contours: Sequence[_Contour]) -> Dataset:
    """Item of ROI Contour Sequence."""
    colour = [str(value) for value in _COLOURS[number % len(_COLOURS)]]
    ds = item(ReferencedROINumber=str(number), ROIDisplayColor=colour)
    ds.ContourSequence = [
        _contour_dataset(study, scan, contour, index) for index, contour in enumerate(contours, start=1)
    ]
    return ds


def _contour_dataset(study: Study, scan: Scan, contour: _Contour, index: int) -> Dataset:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    ds = item(
        ContourGeometricType=contour.kind.lstrip("!"),
        NumberOfContourPoints=str((contour.text.count(b"\\") + 1) // 3),
        ContourNumber=str(index),
    )
    if study.style.link == "full":
        ds.ContourImageSequence = [_image_reference(study, scan, contour.slice)]
    # The text goes in as it is: turning it into numbers and back would take most of the time.
    text, tag = contour.text + b" " * (len(contour.text) % 2), Tag("ContourData")
    implicit, little = study.style.transfer_syntax == "implicit", study.style.transfer_syntax != "big-endian"
    if len(text) > 0xFFFE and not implicit:
        text = text[:0]  # cannot be written with an explicit VR; no outline here comes near it
    ds[tag] = RawDataElement(tag, "DS", len(text), text, 0, implicit, little)
    ds.set_original_encoding(implicit, little, "iso8859")
    return ds


def _image_reference(study: Study, scan: Scan, number: int) -> Dataset:
    if study.style.enhanced:
        frame = slice_ranks(study, len(scan.origins))[number] + 1
        return reference("enhanced ct", slice_uid(study, number), ReferencedFrameNumber=str(frame))
    return reference("ct", slice_uid(study, number))


def _referenced_frame(study: Study, scan: Scan) -> Dataset:
    """What the structure set says about the images it was drawn on."""
    ds = item(FrameOfReferenceUID=study.frame_of("rtstruct"))
    if study.style.link == "frame":
        return ds
    series = item(SeriesInstanceUID=study.uid("series", "ct"))
    if study.style.link == "full":
        count = 1 if study.style.enhanced else len(scan.origins)
        series.ContourImageSequence = [_image_reference(study, scan, number) for number in range(count)]
    ds.RTReferencedStudySequence = [
        reference("1.2.840.10008.3.1.2.3.1", study.uid("study"), RTReferencedSeriesSequence=[series])
    ]
    return ds


def _roi(study: Study, number: int, name: str) -> Dataset:
    return item(
        ROINumber=str(number),
        ReferencedFrameOfReferenceUID=study.frame_of("rtstruct"),
        ROIName=name,
        ROIGenerationAlgorithm="MANUAL",
    )


def _observation(study: Study, structure: str, number: int) -> Dataset:
    kind = {"External": "EXTERNAL", "CTV": "CTV"}.get(structure, "PTV" if structure.startswith("PTV") else "ORGAN")
    return item(
        ObservationNumber=str(number),
        ReferencedROINumber=str(number),
        RTROIInterpretedType=kind if study.style.roi_types else "",
        ROIInterpreter="",
    )


def _joined(polygons: Sequence[Array]) -> list[Array]:
    """Join every hole to the outline around it by a channel without width."""
    areas = [polygon_moments(polygon)[0] for polygon in polygons]
    outer_sign = np.sign(areas[int(np.argmax(np.abs(areas)))]) if areas else 1
    outers = [p for p, area in zip(polygons, areas, strict=True) if np.sign(area) == outer_sign]
    for hole in (p for p, area in zip(polygons, areas, strict=True) if np.sign(area) != outer_sign):
        gaps = [np.linalg.norm(outer[:, None] - hole[None], axis=2) for outer in outers]
        chosen = int(np.argmin([gap.min() for gap in gaps]))
        i, j = np.unravel_index(int(gaps[chosen].argmin()), gaps[chosen].shape)
        outer, turned = outers[chosen], np.roll(hole, -j, axis=0)
        outers[chosen] = np.concatenate([outer[: i + 1], turned, turned[:1], outer[i:]])
    return outers


def _truth(scan: Scan, number: int, name: str, contours: Sequence[_Contour]) -> StructureTruth:
    """Exact moments of the sound contours as they are written."""
    thickness = scan.thickness_mm
    volume, moment, written = 0.0, np.zeros(3), []
    for contour in contours:
        if contour.kind.startswith("!"):
            continue
        points = lps_from_ras(np.array(contour.text.split(b"\\"), dtype=float).reshape(-1, 3))
        plane = scan.plane(contour.slice)
        away = points - plane.origin
        area, centre = polygon_moments(np.stack([away @ plane.along, away @ plane.across], axis=1))
        amount = area * thickness[contour.slice]
        volume += amount
        moment += amount * (plane.ras(centre[None])[0] + (away @ plane.normal).mean() * plane.normal)
        written.append(points)
    centroid = moment / volume if volume else np.full(3, np.nan)
    return StructureTruth(number, name, centroid, float(abs(volume)) / 1000, tuple(written))
