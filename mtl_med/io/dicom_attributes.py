"""Attributes that a reader cannot do without: checked values, or a CaseError that names the attribute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import lps_from_ras

__all__ = ["number", "numbers", "position_ras", "require", "row_column_normal", "spacing_mm", "whole_number"]

_AGAIN = "Export it again from where it was made"
_BINARY = {"FD": "f8", "FL": "f4", "SL": "i4", "SS": "i2", "SV": "i8", "UL": "u4", "US": "u2", "UV": "u8"}
_NUMERALS = b"0123456789+-.eE \\\0"
_MOST_NUMBERS = 1_000_000

REPAIRABLE = 1e-3
"""Cosines off from orthonormal by up to this much are repaired; it moves the corner of a 500 mm slice by 0.35 mm."""
FARTHEST_MM = 1e5
_SPACING_MM = (0.01, 100.0)


def require(ds: Dataset, keyword: str, path: str | Path) -> Any:
    """Value of an attribute as pydicom decodes it: text, number, MultiValue or Sequence.

    Args:
        ds: the data set.
        keyword: the attribute, such as "StructureSetROISequence".
        path: the file, for errors.

    Raises:
        CaseError: it is missing, empty or cannot be decoded.
    """
    try:
        value = ds[keyword].value
    except KeyError as error:
        raise CaseError(f"has no {keyword}", where=path, fix=_AGAIN) from error
    except Exception as error:  # damaged values raise nearly anything
        raise CaseError(f"its {keyword} cannot be decoded", where=path, fix=_AGAIN) from error
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        raise CaseError(f"its {keyword} is empty", where=path, fix=_AGAIN)
    return value


def numbers(ds: Dataset, keyword: str, path: str | Path, count: int | None = None) -> NDArray[np.float64]:
    """Numbers of an attribute, all finite.

    Args:
        ds: the data set.
        keyword: the attribute, such as "ImagePositionPatient".
        path: the file, for errors.
        count: how many there have to be; None takes one or more.

    Returns:
        (count,) numbers.

    Raises:
        CaseError: the attribute is missing or empty, holds another number of values, or one that is no finite number.
    """
    values = _decode(ds, keyword, path)
    if values.size == 0:
        raise CaseError(f"has no {keyword}", where=path, fix=_AGAIN)
    if count is not None and values.size != count:
        raise CaseError(f"{keyword} holds {values.size} values, expected {count}", where=path, fix=_AGAIN)
    if not np.isfinite(values).all():
        raise CaseError(f"{keyword} holds a number that is not finite", where=path, fix=_AGAIN)
    return values


def number(ds: Dataset, keyword: str, path: str | Path) -> float:
    """A single finite number; raises as `numbers` does."""
    return float(numbers(ds, keyword, path, 1)[0])


def whole_number(ds: Dataset, keyword: str, path: str | Path, low: int, high: int, default: int | None = None) -> int:
    """A whole number between `low` and `high`; `default` where the attribute is missing, unless that is None.

    Raises:
        CaseError: as `numbers`, or it is not whole or out of bounds.
    """
    if default is not None and _decode(ds, keyword, path).size == 0:
        return default
    value = number(ds, keyword, path)
    if not value.is_integer() or not low <= value <= high:
        raise CaseError(f"{keyword} is {value:g}, expected {low} to {high}", where=path, fix=_AGAIN)
    return int(value)


def _decode(ds: Dataset, keyword: str, path: str | Path) -> NDArray[np.float64]:
    """Numbers of an attribute, none where it is missing. DS and IS are parsed here: pydicom takes 1_0 and nan too."""
    tag = tag_for_keyword(keyword)
    element = None if tag is None else ds.get_item(tag)
    if element is None or element.value is None:
        return np.empty(0)
    try:
        if isinstance(element, RawDataElement):
            return _from_bytes(element)
        values = np.array(element.value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise CaseError(f"its {keyword} is not made of numbers", where=path, fix=_AGAIN) from error
    return values


def _from_bytes(element: RawDataElement) -> NDArray[np.float64]:
    data = element.value or b""
    if element.VR in _BINARY:
        order = "<" if element.is_little_endian else ">"
        return np.frombuffer(data, dtype=order + _BINARY[element.VR]).astype(np.float64)
    data = data.strip(b" \0")
    if not data:
        return np.empty(0)
    if data.translate(None, _NUMERALS) or data.count(b"\\") >= _MOST_NUMBERS:
        raise ValueError
    return np.array([float(part.strip(b" \0")) for part in data.split(b"\\")])


def position_ras(ds: Dataset, path: str | Path) -> NDArray[np.float64]:
    """Centre of the first pixel, (3,) RAS mm, from ImagePositionPatient.

    Raises:
        CaseError: it is missing or not made of three finite numbers.
        GeometryError: it lies 100 m away.
    """
    position = numbers(ds, "ImagePositionPatient", path, 3)
    if np.abs(position).max() > FARTHEST_MM:
        raise GeometryError(f"ImagePositionPatient is {np.abs(position).max():g} mm away", where=path, fix=_AGAIN)
    return lps_from_ras(position[None])[0]


def spacing_mm(ds: Dataset, path: str | Path) -> tuple[float, float]:
    """Distance between rows and distance between columns, mm, from PixelSpacing.

    Raises:
        CaseError: it is missing or not made of two finite numbers.
        GeometryError: one is not positive, or beyond what an image of a patient can have.
    """
    rows, columns = numbers(ds, "PixelSpacing", path, 2)
    low, high = _SPACING_MM
    if not low <= min(rows, columns) <= max(rows, columns) <= high:
        raise GeometryError(
            f"PixelSpacing is {rows:g}, {columns:g} mm, expected {low:g} to {high:g} mm", where=path, fix=_AGAIN
        )
    return float(rows), float(columns)


def row_column_normal(ds: Dataset, path: str | Path) -> NDArray[np.float64]:
    """Directions of an image plane from ImageOrientationPatient, made orthonormal where rounding left them nearly so.

    Args:
        ds: the data set, or the Plane Orientation item of a frame.
        path: the file, for errors.

    Returns:
        (3, 3) unit vectors in RAS, one per row: along which the column index grows, along which the row index grows,
        and row x column.

    Raises:
        CaseError: the attribute is missing or not made of six finite numbers.
        GeometryError: the two directions are not orthonormal within 1e-3.
    """
    row, column = numbers(ds, "ImageOrientationPatient", path, 6).reshape(2, 3)
    error = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if not error <= REPAIRABLE:
        raise GeometryError(
            f"ImageOrientationPatient is off from two orthogonal unit vectors by {error:.2g}, expected at most"
            f" {REPAIRABLE:g}",
            where=path,
            fix=_AGAIN,
        )
    # The nearest rotation shares the error out evenly between row and column.
    left, _, right = np.linalg.svd(np.stack([row, column]), full_matrices=False)
    row, column = left @ right
    return lps_from_ras(np.stack([row, column, np.cross(row, column)]))
