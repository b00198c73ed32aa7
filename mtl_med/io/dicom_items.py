"""Optional DICOM attributes: what is absent, empty or unreadable comes back empty, never as an exception."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

__all__ = ["items", "term", "text", "whole"]

_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence."""
    value = _value(ds, keyword)
    return list(value) if isinstance(value, Sequence) else []


def text(ds: Dataset, keyword: str) -> str:
    """A single text or UID."""
    value = _value(ds, keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


def term(ds: Dataset, keyword: str) -> str:
    """A code string in capitals; "" where the value cannot be one, so that no free text gets into a message."""
    value = text(ds, keyword).upper()
    return value if _CODE.fullmatch(value) else ""


def whole(ds: Dataset, keyword: str) -> int | None:
    """A whole number, or None."""
    value = next(_scalars(_value(ds, keyword)), None)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def _scalars(value: Any) -> Iterator[Any]:
    """The value itself, unless there are several."""
    if not isinstance(value, (MultiValue, list, tuple)):
        yield value


def _value(ds: Dataset, keyword: str) -> Any:
    # pydicom turns raw bytes into a value only now; damaged ones raise nearly anything, and what it warns of and logs
    # quotes them, whoever they name.
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            return ds.get(keyword)
    except Exception:
        return None
