"""Readers of raw layouts, by the name that recipes give them."""

from __future__ import annotations

import dataclasses

from mtl_med.prep.raw import Reader
from mtl_med.prep.readers import dicom_rt, nifti, openkbp
from mtl_med.prep.recipe import ReaderOptions

__all__ = ["READERS"]

_ALL = frozenset({item.name for item in dataclasses.fields(ReaderOptions)} - {"key"} | {"deidentify"})

READERS: dict[str, Reader] = {
    "openkbp": Reader(openkbp.scan, openkbp.read),
    "dicom_rt": Reader(dicom_rt.scan, dicom_rt.read, dicom_rt.structures, _ALL),
    "nifti": Reader(
        nifti.scan,
        nifti.read,
        nifti.structures,
        frozenset({"grid", "resample", "allow_partial_dose", "deface", "table", "deidentify"}),
    ),
}
