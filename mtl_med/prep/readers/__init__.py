"""Readers of raw layouts, by the name that recipes give them."""

from __future__ import annotations

import dataclasses
from functools import partial
from importlib import import_module
from typing import Any

from mtl_med.prep.raw import Reader
from mtl_med.prep.recipe import ReaderOptions

__all__ = ["READERS"]

_ALL = frozenset({item.name for item in dataclasses.fields(ReaderOptions)} - {"key"} | {"deidentify"})


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(import_module(f"mtl_med.prep.readers.{module}"), function)(*arguments)


def _reader(module: str, *, structures: bool = False, options: frozenset[str] = frozenset()) -> Reader:
    """A reader whose module, and what that needs, is imported when it is first used: no other data set waits for it."""
    own = {"structures": partial(_call, module, "structures")} if structures else {}
    return Reader(partial(_call, module, "scan"), partial(_call, module, "read"), options=options, **own)


READERS: dict[str, Reader] = {
    "openkbp": _reader("openkbp"),
    "dicom_rt": _reader("dicom_rt", structures=True, options=_ALL),
    "ham10000": _reader("ham10000"),
    "nifti": _reader(
        "nifti",
        structures=True,
        options=frozenset({"grid", "resample", "allow_partial_dose", "deface", "table", "deidentify"}),
    ),
    "stoic": _reader("stoic"),
}
