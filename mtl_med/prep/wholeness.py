"""Whether the folder of a finished case still holds all that belongs to it."""

from __future__ import annotations

from mtl_med.errors import UsageError
from mtl_med.files import json_fault, read_json
from mtl_med.manifest import Case
from mtl_med.prep.convert import QUALITY_FILE

__all__ = ["missing"]

_QUALITY = {
    "measures": {...: (int, float, type(None))},
    "oddities": [str],
    "account": {...: [str]},
    "unmatched": {...: str},
}


def missing(case: Case) -> str:
    """What of a case's files is missing, or damaged so that a study cannot be made of it; "" where all is there.

    Volumes are not read: that they are unchanged is checked for the cases of a run's own source.
    """
    try:
        gone = [key for key in case.files if not case.path(key).is_file()]
        fault = json_fault(read_json(case.folder / QUALITY_FILE), _QUALITY)
    except UsageError as error:
        return str(error)
    if gone:
        return f"{', '.join(gone)} {'are' if len(gone) > 1 else 'is'} missing"
    return f"{QUALITY_FILE} is damaged: {fault}" if fault else ""
