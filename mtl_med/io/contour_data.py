"""One item of an RTSTRUCT's Contour Sequence: its corners, or the reason why it encloses nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from mtl_med.geometry import lps_from_ras

__all__ = ["closed_contour", "stated_points"]

FARTHEST_MM = 1e5  # of a patient from the origin of his frame of reference
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
_NOT_CLOSED = {"POINT": "point", "OPEN_PLANAR": "open contour", "OPEN_NONPLANAR": "open contour"}
_PADDING = b" \0"


def closed_contour(item: Dataset) -> NDArray[np.float64] | str:
    """Corners of a closed contour.

    Args:
        item: an item of the Contour Sequence.

    Returns:
        (N, 3) RAS mm with N >= 3, or the reason why the item cannot be used.

    Source: DICOM PS3.3 C.8.8.6.
    """
    kind = _raw(item, "ContourGeometricType").strip(_PADDING).decode("ascii", "replace").upper()
    if kind not in _CLOSED:
        return _NOT_CLOSED.get(kind, "unknown geometric type")
    if _raw(item, "ContourOffsetVector").strip(b" \0\\+-.0"):
        return "contour with an offset"  # a retired attribute, whose use differed between vendors
    data = _raw(item, "ContourData").strip(_PADDING)
    if not data:
        return "fewer than 3 points"
    values = _decimals(data)
    if values is None:
        return "unreadable coordinates"
    if len(values) % 3:
        return "coordinates not a multiple of 3"
    if len(values) < 9:
        return "fewer than 3 points"
    if not np.abs(values).max() < FARTHEST_MM:  # also when one is NaN
        return "impossible coordinates"
    return lps_from_ras(values.reshape(-1, 3))


def stated_points(item: Dataset) -> int | None:
    """Number of Contour Points, None where it is missing or no number."""
    text = _raw(item, "NumberOfContourPoints").strip(_PADDING)
    return int(text) if text.isdigit() and len(text) < 13 else None


def _decimals(data: bytes) -> NDArray[np.float64] | None:
    """Numbers of a DS value in one call; pydicom would make an object for each, at many times the cost."""
    try:
        values = np.fromstring(data, dtype=np.float64, sep=" \\ ")  # spaces here mean any white space, or none
    except (ValueError, DeprecationWarning):  # numpy before 2.3 only warned
        return None
    return values if len(values) == data.count(b"\\") + 1 else None


def _raw(item: Dataset, keyword: str) -> bytes:
    """Bytes of a text value, b"" if it is absent."""
    tag = tag_for_keyword(keyword)
    element = None if tag is None else item.get_item(tag)
    if element is None or element.value is None:
        return b""
    if isinstance(element.value, bytes):
        return element.value
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return "\\".join(str(value) for value in values).encode("ascii", "replace")
