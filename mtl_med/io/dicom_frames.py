"""CT frames: where each lies, how its pixels are stored and what turns them into HU; from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mtl_med.errors import CaseError
from mtl_med.io.dicom import (
    PixelPlace,
    number,
    numbers,
    position_ras,
    read_dataset,
    read_header_and_place,
    row_column_normal,
    spacing_mm,
)
from mtl_med.io.dicom_items import MODALITIES, items, term, text
from mtl_med.io.dicom_pixel_format import PixelFormat, pixel_format

__all__ = ["CtFrame", "ct_frames"]

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_CT_CLASSES = (_CT_IMAGE, f"{_CT_IMAGE}.1", f"{_CT_IMAGE}.2")  # the latter two are enhanced and legacy enhanced
_AGAIN = "Export the series again"
_MOST_SLOPE, _MOST_INTERCEPT = 1e4, 1e6


@dataclass(frozen=True, eq=False)
class CtFrame:
    """One CT slice.

    Args:
        path: its file.
        index: number of the frame within the file.
        position: (3,) RAS mm of the centre of its first pixel.
        axes: (3, 3) directions along a row, down a column and along the normal, one per row, RAS.
        spacing: distance between rows and between columns, mm.
        thickness: slice thickness in mm, None where it is not told.
        stored: how its pixels are stored.
        place: where they lie in the file; None where they have to be decoded.
        slope: HU per stored unit.
        intercept: HU of stored 0.
        sop_uid: SOP Instance UID of its file.
        series_uid: Series Instance UID.
        frame_of_reference: Frame of Reference UID.
        lossy: its values were changed by compression.
        burned_in: the file says that its pixels tell who the patient is: text in the image, or a recognisable face.
    """

    path: Path
    index: int
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None
    stored: PixelFormat
    place: PixelPlace | None
    slope: float
    intercept: float
    sop_uid: str
    series_uid: str
    frame_of_reference: str
    lossy: bool
    burned_in: bool


def ct_frames(path: str | Path) -> list[CtFrame]:
    """Frames of a CT file: one, or those of an enhanced multi-frame image.

    Args:
        path: the file.

    Raises:
        CaseError: it cannot be read, is no CT or a localizer, holds less pixels than it declares, or an attribute is
            missing or impossible.
        GeometryError: position, orientation or spacing are impossible.

    Source: DICOM PS3.3 A.3, A.38, C.7.6.16 (functional groups), C.8.2.1, C.8.15.3.
    """
    path = Path(path)
    ds, place = read_header_and_place(path)
    _require_ct(ds, path)
    stored = pixel_format(ds, path)
    if place is not None:
        if place.length > place.there:
            raise CaseError(
                f"is truncated: {place.there} of {place.length} bytes of pixels are there",
                where=path,
                fix="Copy or export the file again",
            )
        stored.check_length(place.length, path)
        if place.there > place.length:
            read_dataset(path)  # what follows has to be attributes too, or else bytes were put in among the pixels
    if "PerFrameFunctionalGroupsSequence" in ds:
        return _multi_frame(ds, place, stored, path)
    if stored.frames != 1 or text(ds, "SOPClassUID") not in ("", _CT_IMAGE):
        raise CaseError(f"holds {stored.frames} frames without saying where they lie", where=path, fix=_AGAIN)
    return [_frame(ds, place, stored, path, 0, ds, ds, ds, ds)]


def _require_ct(ds: Dataset, path: Path) -> None:
    modality, sop_class = term(ds, "Modality"), text(ds, "SOPClassUID")
    if modality != "CT":
        named = modality if modality in MODALITIES else "unknown"
        raise CaseError(f"is no CT image (modality {named})", where=path, fix="Leave it out")
    if sop_class and sop_class not in _CT_CLASSES:
        raise CaseError("is an object of CT, but no image", where=path, fix="Leave it out")
    _refuse_localizer(ds, "ImageType", path)


def _refuse_localizer(ds: Dataset, keyword: str, path: Path) -> None:
    try:
        kinds = [str(value).strip().upper() for value in ds.get(keyword) or ()]
    except Exception:  # damaged values raise nearly anything, and an image type is optional
        kinds = []
    if "LOCALIZER" in kinds:
        raise CaseError("is a localizer, which shows the patient in projection", where=path, fix="Leave it out")


def _multi_frame(ds: Dataset, place: PixelPlace | None, stored: PixelFormat, path: Path) -> list[CtFrame]:
    groups = items(ds, "PerFrameFunctionalGroupsSequence")
    if len(groups) != stored.frames:
        raise CaseError(f"tells of {len(groups)} frames, but holds {stored.frames}", where=path, fix=_AGAIN)
    shared = (items(ds, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = []
    for index, group in enumerate(groups):
        for kind in items(group, "CTImageFrameTypeSequence") or items(shared, "CTImageFrameTypeSequence"):
            _refuse_localizer(kind, "FrameType", path)
        position, orientation, measures, values = (
            _macro(group, shared, keyword, path)
            for keyword in (
                "PlanePositionSequence",
                "PlaneOrientationSequence",
                "PixelMeasuresSequence",
                "PixelValueTransformationSequence",
            )
        )
        frames.append(_frame(ds, place, stored, path, index, position, orientation, measures, values))
    return frames


def _macro(group: Dataset, shared: Dataset, keyword: str, path: Path) -> Dataset:
    """The functional group of a frame, or the one that all frames share."""
    found = items(group, keyword) or items(shared, keyword)
    if len(found) != 1:
        raise CaseError(f"a frame has {len(found)} items of {keyword}, expected 1", where=path, fix=_AGAIN)
    return found[0]


def _frame(
    ds: Dataset,
    place: PixelPlace | None,
    stored: PixelFormat,
    path: Path,
    index: int,
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    values: Dataset,
) -> CtFrame:
    slope, intercept = _rescale(values, path)
    return CtFrame(
        path=path,
        index=index,
        position=position_ras(position, path),
        axes=row_column_normal(orientation, path),
        spacing=spacing_mm(measures, path),
        thickness=_thickness(measures, path),
        stored=stored,
        place=place,
        slope=slope,
        intercept=intercept,
        sop_uid=text(ds, "SOPInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        frame_of_reference=text(ds, "FrameOfReferenceUID"),
        lossy=text(ds, "LossyImageCompression") == "01",
        burned_in=any(term(ds, key) == "YES" for key in ("BurnedInAnnotation", "RecognizableVisualFeatures")),
    )


def _rescale(values: Dataset, path: Path) -> tuple[float, float]:
    """Slope and intercept to HU."""
    slope, intercept = number(values, "RescaleSlope", path), number(values, "RescaleIntercept", path)
    if not 0 < slope <= _MOST_SLOPE or abs(intercept) > _MOST_INTERCEPT:
        raise CaseError(
            f"RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}, expected a slope above 0 as of HU",
            where=path,
            fix=_AGAIN,
        )
    if text(values, "RescaleType").upper() not in ("", "HU", "US"):  # US: unspecified
        raise CaseError("its values are not in HU (RescaleType)", where=path, fix="Take the series in HU")
    return slope, intercept


def _thickness(measures: Dataset, path: Path) -> float | None:
    try:
        thickness = float(numbers(measures, "SliceThickness", path, 1)[0])
    except CaseError:
        return None
    return thickness if 0 < thickness <= 100 else None
