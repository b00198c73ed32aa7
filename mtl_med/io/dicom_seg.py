"""Masks written as DICOM SEG, by highdicom (optional: the extra `dicom`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from mtl_med import __version__
from mtl_med.errors import CaseError, UsageError
from mtl_med.geometry import Grid, lps_from_ras
from mtl_med.io.colours import colour
from mtl_med.io.dicom_common import (
    MANUFACTURER,
    RESEARCH_COMMENT,
    code_item,
    decimal_string,
    new_uid,
    shared_modules,
    stamp,
    write_dicom,
)
from mtl_med.io.dicom_items import items
from mtl_med.io.dicom_reference import CtReference
from mtl_med.io.rtstruct_writer import unique_labels
from mtl_med.io.slice_masks import mask_on_slices

__all__ = ["require_highdicom", "write_seg"]

# TG-263 name without its side -> SNOMED CT code and meaning. What is not listed is called an anatomical structure.
_TYPES = {
    "Bladder": ("89837001", "Bladder"),
    "Bone_Mandible": ("91609006", "Mandible"),
    "Brain": ("12738006", "Brain"),
    "Brainstem": ("119238007", "Brain Stem"),
    "Esophagus": ("32849002", "Esophagus"),
    "Femur_Head": ("2812003", "Head of Femur"),
    "Heart": ("80891009", "Heart"),
    "Larynx": ("4596009", "Larynx"),
    "Liver": ("10200004", "Liver"),
    "Lung": ("39607008", "Lung"),
    "Parotid": ("45289007", "Parotid gland"),
    "Prostate": ("41216001", "Prostate"),
    "Rectum": ("34402009", "Rectum"),
    "SpinalCord": ("2748008", "Spinal cord"),
}
_SIDES = {"_L": ("7771000", "Left"), "_R": ("24028007", "Right")}
_ANATOMY = ("91723000", "Anatomical Structure")
_TARGETS = {
    "PTV": ("228793007", "Planning target volume"),
    "CTV": ("228792002", "Clinical target volume"),
    "GTV": ("228791009", "Gross tumor volume"),
}
_CONCEPT = ("309825002", "Spatial and Relational Concept")
_SLAB = 8  # slices turned at a time, for which the cache thanks
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def write_seg(
    path: str | Path,
    structures: Mapping[str, NDArray],
    grid: Grid,
    reference: CtReference,
    *,
    seed: str = "",
    when: datetime | None = None,
) -> str:
    """Write masks as a binary segmentation on the slices of a CT; overlaps and empty structures are kept.

    Args:
        path: the file.
        structures: name -> (X, Y, Z) mask, in the order of the segments.
        grid: the masks' grid, RAS mm. It need not be that of the CT (see `mask_on_slices`).
        reference: the CT.
        seed: as for `new_object`.
        when: date and time of making (default: now).

    Returns:
        SOP Instance UID of the segmentation.

    Raises:
        UsageError: highdicom is not installed, or no structures are given.
        CaseError: the CT has no study or frame of reference, or highdicom refuses it.
        GeometryError: a mask has another shape than the grid.
        OutputError: the file cannot be written.

    Source: DICOM PS3.3 A.51 (Segmentation), C.8.20.
    """
    highdicom = require_highdicom()
    if not structures:
        raise UsageError("a segmentation without structures", where=path)
    planes, used = _planes(structures, grid, reference)
    moment = when or datetime.now()
    labels = unique_labels(structures)
    try:
        made = highdicom.seg.Segmentation(
            source_images=_sources(reference, used),
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=[
                _segment(highdicom, number, name, labels[name]) for number, name in enumerate(structures, start=1)
            ],
            series_instance_uid=new_uid(seed, "SEG", reference.header.StudyInstanceUID, "series"),
            series_number=9004,
            sop_instance_uid=new_uid(seed, "SEG", reference.header.StudyInstanceUID, "instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=__version__,
            device_serial_number="0",
            omit_empty_frames=bool(planes.any()),  # of nothing at all it would omit none, and warn
            content_label="PREDICTED",
            content_description=RESEARCH_COMMENT,
            content_creator_name="",
            series_description="Predicted structures",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(f"highdicom cannot make a segmentation on this CT: {error}", where=path) from error
    for prefix in ("InstanceCreation", "Content", "Series"):
        stamp(made, prefix, moment)
    for item in items(made, "ContributingEquipmentSequence"):
        item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S")
    if seed:
        _derive_dimension_uid(made, new_uid(seed, "SEG", reference.header.StudyInstanceUID, "dimensions"))
    write_dicom(path, made)
    return str(made.SOPInstanceUID)


def require_highdicom() -> Any:
    """The module highdicom.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise UsageError("DICOM SEG needs highdicom 0.28 or newer", fix="pip install 'mtl_med[dicom]'") from error
    return highdicom


def _planes(
    structures: Mapping[str, NDArray], grid: Grid, reference: CtReference
) -> tuple[NDArray[np.uint8], list[int]]:
    """(slices, rows, columns, structures) of the slices that hold something, and their numbers in the CT.

    A multi-frame CT is a single image, so that all of its slices are given, in the order of its frames.
    """
    order = list(range(len(reference.slices)))
    if reference.sop_class_uid != CTImageStorage:
        order.sort(key=lambda number: reference.slices[number].frame)
    # Each structure lies in one piece in memory: highdicom takes them out one by one.
    stack = np.zeros((len(structures), len(order), reference.shape[1], reference.shape[0]), dtype=np.uint8)
    used = np.zeros(len(order), dtype=bool)
    for planes, (name, mask) in zip(stack, structures.items(), strict=True):
        on_slices = mask_on_slices(mask, grid, reference, name=name)
        filled = np.asarray(on_slices.any(axis=(0, 1)))[order]
        used |= filled
        for start in range(0, len(order), _SLAB):
            if filled[start : start + _SLAB].any():
                slab = np.ascontiguousarray(on_slices[:, :, order[start : start + _SLAB]])
                planes[start : start + _SLAB] = slab.transpose(2, 1, 0)
    if reference.sop_class_uid == CTImageStorage:
        first, last = np.flatnonzero(used)[[0, -1]] if used.any() else (0, 0)
        stack, order = stack[:, first : last + 1], order[first : last + 1]
    return np.moveaxis(stack, 0, -1), order


def _sources(reference: CtReference, used: list[int]) -> list[Dataset]:
    """Headers of the CT images with what a segmentation takes from them, and nothing that could break its rules."""
    if reference.sop_class_uid == CTImageStorage:
        return [_place(_source(reference, number), reference, number) for number in used]
    image = _source(reference, used[0])
    image.NumberOfFrames = len(used)
    image.SharedFunctionalGroupsSequence = [_nested(reference, used[0], "PlaneOrientation", "PixelMeasures")]
    image.PerFrameFunctionalGroupsSequence = [_nested(reference, number, "PlanePosition") for number in used]
    return [image]


def _source(reference: CtReference, number: int) -> Dataset:
    image = shared_modules(reference.header)
    image.SOPClassUID, image.SOPInstanceUID = reference.sop_class_uid, reference.slices[number].sop_uid
    image.SeriesInstanceUID, image.Modality = reference.series_uid, "CT"
    image.Columns, image.Rows = reference.shape[:2]
    if reference.header.get("LossyImageCompression") == "01":
        for keyword in _LOSSY:
            if keyword in reference.header:
                setattr(image, keyword, reference.header.get(keyword))
    return image


_PLACES = {
    "PlanePosition": ("ImagePositionPatient",),
    "PlaneOrientation": ("ImageOrientationPatient",),
    "PixelMeasures": ("PixelSpacing", "SliceThickness"),
}


def _nested(reference: CtReference, number: int, *names: str) -> Dataset:
    place = _place(Dataset(), reference, number)
    groups = Dataset()
    for name in names:
        item = Dataset()
        for keyword in _PLACES[name]:
            setattr(item, keyword, place.get(keyword))
        setattr(groups, f"{name}Sequence", [item])
    return groups


def _place(image: Dataset, reference: CtReference, number: int) -> Dataset:
    """Set where a slice lies."""
    origin = lps_from_ras(reference.slices[number].origin[None])[0]
    between_columns, between_rows, _ = np.linalg.norm(reference.steps, axis=0)
    directions = lps_from_ras((reference.steps / [between_columns, between_rows, 1.0]).T)
    image.ImagePositionPatient = [decimal_string(mm) for mm in origin]
    image.ImageOrientationPatient = [decimal_string(part) for part in directions[:2].ravel()]
    image.PixelSpacing = [decimal_string(between_rows), decimal_string(between_columns)]
    image.SliceThickness = decimal_string(reference.pitch_mm)
    return image


def _segment(highdicom: Any, number: int, name: str, label: str) -> Any:
    target = _TARGETS.get(name[:3].upper())
    organ = _TYPES.get(name.removesuffix("_L").removesuffix("_R"), _ANATOMY)
    made = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=_code(_CONCEPT if target else _ANATOMY),
        segmented_property_type=_code(target or organ),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MANUFACTURER, version=__version__, family=Code("123110", "DCM", "Artificial Intelligence")
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*colour(name)),
    )
    if name[-2:] in _SIDES and not target:
        code, meaning = _SIDES[name[-2:]]
        kind = made.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(code, "SCT", meaning)]
    return made


def _code(snomed: tuple[str, str]) -> Code:
    return Code(snomed[0], "SCT", snomed[1])


def _derive_dimension_uid(made: Dataset, uid: str) -> None:
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
