"""What an RTSTRUCT says about its structures beside their contours: numbers, names, types, and what is odd in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from pydicom import Dataset
from pydicom.multival import MultiValue

from mtl_med.io.dicom_items import term, whole

__all__ = ["interpreted_types", "odd_descriptions", "roi_name", "roi_number"]

_TYPES = (  # DICOM PS3.3 C.8.8.8.1
    *("EXTERNAL", "PTV", "CTV", "GTV", "TREATED_VOLUME", "IRRAD_VOLUME", "OAR", "BOLUS", "AVOIDANCE", "ORGAN"),
    *("MARKER", "REGISTRATION", "ISOCENTER", "CONTRAST_AGENT", "CAVITY", "BRACHY_CHANNEL", "BRACHY_ACCESSORY"),
    *("BRACHY_SRC_APP", "BRACHY_CHNL_SHLD", "SUPPORT", "FIXATION", "DOSE_REGION", "CONTROL", "DOSE_MEASUREMENT"),
    *("DEVICE", ""),
)


def roi_number(item: Dataset, keyword: str) -> int | None:
    """ROI Number or Referenced ROI Number, None where it is missing or unreadable."""
    return whole(item, keyword)


def roi_name(item: Dataset) -> str:
    """ROI Name as written. The backslash, which separates values, is allowed in no name but found in some."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what cannot be decoded: odd_descriptions tells of it
            value = item.get("ROIName")
    except Exception:  # an unreadable name: the structure stays, without one
        return ""
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(part) for part in parts if part is not None).strip(" \0")


def interpreted_types(observations: Iterable[Dataset]) -> dict[int | None, str | None]:
    """RT ROI Interpreted Type by ROI number.

    Args:
        observations: items of the RT ROI Observations Sequence.

    Returns:
        "" where the type is left empty, as it may be; None where it cannot be read or two observations contradict each
        other.
    """
    types: dict[int | None, str | None] = {}
    for item in observations:
        number, kind = roi_number(item, "ReferencedROINumber"), term(item, "RTROIInterpretedType")
        written = item.get_item("RTROIInterpretedType")
        readable = bool(kind) or (written is not None and not written.value)
        types[number] = kind if readable and types.get(number, kind) == kind else None
    return types


def odd_descriptions(structures: Sequence[tuple[int | None, str]], types: Mapping[int | None, str | None]) -> list[str]:
    """Sentences about names and types that may not be what somebody meant.

    Args:
        structures: number and name of each.
        types: as `interpreted_types` gives them.
    """
    notes = []
    untold = [name for number, name in structures if types.get(number) is None]
    if untold and len(untold) == len(structures):
        notes.append("no structure has a readable type (RTROIInterpretedType)")
        untold = []
    for number, name in structures:
        kind = types.get(number)
        if not name:
            notes.append(f"the structure of ROI number {number} has no name")
        if "\ufffd" in name:
            notes.append(f"the name of structure '{name}' cannot be decoded in full")
        if kind is None and untold:
            notes.append(f"structure '{name}' has no readable type (RTROIInterpretedType)")
        elif kind is not None and kind not in _TYPES:
            # What stands there may be free text, and must not be quoted.
            notes.append(f"structure '{name}' has a type that DICOM does not know (RTROIInterpretedType)")
    return notes
