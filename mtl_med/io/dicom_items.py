"""Optional DICOM attributes: what is absent, empty or unreadable comes back empty, never as an exception."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

__all__ = ["items", "term", "text", "whole"]

_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_TEXT_VR = ("AE", "CS", "LO", "SH", "UI")
_PLAIN = re.compile(rb"[ -\[\]-~]*[ \0]*")  # one value of ASCII, which means the same in every character set of DICOM


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence."""
    value = _value(ds, keyword)
    return list(value) if isinstance(value, Sequence) else []


def text(ds: Dataset, keyword: str) -> str:
    """A single text or UID."""
    tag = tag_for_keyword(keyword)
    raw = None if tag is None else ds.get_item(tag, keep_deferred=True)
    # pydicom takes twenty times as long, and a scan asks for ten texts of every file.
    if isinstance(raw, RawDataElement) and raw.VR in _TEXT_VR and raw.value and _PLAIN.fullmatch(raw.value):
        return raw.value.decode("ascii").strip(" \0")
    value = _value(ds, keyword)
    return value.strip(" \0") if isinstance(value, str) else ""


MODALITIES = frozenset(
    (
        *("CT", "MR", "PT", "NM", "US", "XA", "RF", "CR", "DX", "MG", "IO", "PX", "ES", "XC", "SM", "GM", "OP", "OPT"),
        *("ECG", "EPS", "HD", "IVUS", "IVOCT", "OCT", "BMD", "TG", "SC", "OT", "DOC", "SR", "KO", "PR", "REG", "SEG"),
        *("FID", "RWV", "STAIN", "PLAN", "M3D", "SMR", "AU", "HC"),
        *("RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RTINTENT", "RTSEGANN", "RTRAD", "CTPROTOCOL"),
    )
)
"""Defined terms of Modality: anything else may be free text, and is not quoted (DICOM PS3.3 C.7.3.1.1.1)."""


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
