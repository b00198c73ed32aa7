"""One case of a DICOM folder as it lies on disk: the files that belong together, and what to call it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.files import safe_name
from mtl_med.prep.raw import Source

if TYPE_CHECKING:
    from mtl_med.prep.dicom_headers import RtObject, SeriesKey
    from mtl_med.prep.dicom_scan import CtFiles
    from mtl_med.prep.identity import Pseudonyms

__all__ = ["CONFLICT_FIX", "KINDS", "DicomSource", "Namer"]

KINDS = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")
"""Kinds of DICOM objects that a case is made of; each refers to the ones before it."""

CONFLICT_FIX = "Pass --force if they are known to belong together, else take the file out of the folder"
"""How to go on with a case whose parts may not belong together."""


@dataclass(frozen=True)
class DicomSource(Source):
    """A CT series with what was planned on it.

    Args:
        ct_files: images of the series.
        rtstruct: its structures.
        rtplan: the plan that the doses belong to.
        doses: all RTDOSE files of the CT, of which the reader chooses.
        conflict: why the parts may not belong together; only the user's word overrules it.
        remarks: sentences about what was left out of the case or could not be used.
    """

    ct_files: tuple[Path, ...] = ()
    rtstruct: Path | None = None
    rtplan: Path | None = None
    doses: tuple[Path, ...] = ()
    conflict: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Namer:
    """What cases, series and files are called: plainly, or by pseudonyms in a run that de-identifies.

    A case is named by nothing but its own patient, study and series, so that it keeps its name whatever lies beside it.

    Args:
        root: the folder that was scanned.
        pseudonyms: names for a run that de-identifies; None otherwise.
    """

    root: Path
    pseudonyms: Pseudonyms | None = None

    def case_id(self, key: SeriesKey) -> str:
        """Id of the case of a CT series."""
        if self.pseudonyms is not None:
            return self.pseudonyms.case_id(*key)
        return f"{safe_name(key[0], 40)}_{sha256(chr(31).join(key).encode()).hexdigest()[:8]}"

    def patient(self, patient: str) -> str:
        """By what cases of the same patient are known."""
        return patient if self.pseudonyms is None else self.pseudonyms.patient(patient)

    def series(self, series: CtFiles) -> str:
        """A series in a sentence."""
        return f"{self._told(series.files[0].parent, series.key[2])} ({len(series.files)} images)"

    def object(self, item: RtObject) -> str:
        """An RTSTRUCT, RTPLAN or RTDOSE in a sentence."""
        return self._told(item.path, item.sop_uid)

    def _told(self, path: Path, uid: str) -> str:
        if self.pseudonyms is not None:
            return self.pseudonyms.uid(uid)
        return os.fsencode(path.relative_to(self.root).as_posix()).decode("utf-8", "replace")  # as JSON can hold it
