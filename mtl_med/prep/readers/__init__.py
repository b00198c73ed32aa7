"""Readers of raw layouts, by the name that recipes give them."""

from __future__ import annotations

from mtl_med.prep.raw import Reader
from mtl_med.prep.readers import openkbp

__all__ = ["READERS"]

READERS: dict[str, Reader] = {"openkbp": Reader(scan=openkbp.scan, read=openkbp.read)}
