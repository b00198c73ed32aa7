"""How the pixels of a DICOM data set are stored, checked before anything is allocated for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from mtl_med.errors import CaseError
from mtl_med.io.dicom_attributes import whole_number
from mtl_med.io.dicom_items import term

__all__ = ["PixelFormat", "pixel_format"]

MAX_PIXEL_BYTES = 2 << 30
_AGAIN = "Copy or export the file again"


@dataclass(frozen=True)
class PixelFormat:
    """How pixels are stored.

    Args:
        frames: number of frames, each of rows x columns pixels.
        rows: pixels down a column.
        columns: pixels along a row.
        allocated: bits that a pixel takes up: 8, 16 or 32.
        stored: bits of them that hold its value, the lowest ones.
        signed: two's complement.
    """

    frames: int
    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.rows * self.columns * self.allocated // 8

    @property
    def dtype(self) -> np.dtype:
        """Integer type of a stored pixel."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    def check_length(self, length: int, path: str | Path) -> None:
        """Raise a CaseError unless so many uncompressed bytes hold these pixels and nothing more.

        Padding shorter than one row and one column passes: no other size of image leaves so little.
        """
        expected = self.frames * self.frame_bytes
        if length < expected:
            raise CaseError(
                f"is truncated: holds {length} bytes of pixels, expected {expected}", where=path, fix=_AGAIN
            )
        if length - expected >= max(2, min(self.rows, self.columns) * self.allocated // 8):
            raise CaseError(
                f"holds {length} bytes of pixels, expected {expected} for {self.size()}",
                where=path,
                why="Its size is not what it says",
                fix=_AGAIN,
            )

    def size(self) -> str:
        """Size in words, for errors."""
        return f"{self.frames} x {self.rows} x {self.columns} pixels of {self.allocated} bits"


def pixel_format(ds: Dataset, path: str | Path) -> PixelFormat:
    """How the pixels of a data set are stored.

    Raises:
        CaseError: an attribute is missing or impossible, the image is in colour, or larger than 2 GiB.

    Source: DICOM PS3.3 C.7.6.3, PS3.5 section 8.
    """
    samples = whole_number(ds, "SamplesPerPixel", path, 1, 65535)
    if samples != 1 or term(ds, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise CaseError("is no grey image", where=path, fix="Leave it out")
    found = PixelFormat(
        frames=whole_number(ds, "NumberOfFrames", path, 1, 1 << 31, default=1),
        rows=whole_number(ds, "Rows", path, 1, 65535),
        columns=whole_number(ds, "Columns", path, 1, 65535),
        allocated=whole_number(ds, "BitsAllocated", path, 1, 64),
        stored=whole_number(ds, "BitsStored", path, 1, 64),
        signed=whole_number(ds, "PixelRepresentation", path, 0, 1) == 1,
    )
    high_bit = whole_number(ds, "HighBit", path, 0, 63, default=found.stored - 1)
    if found.allocated not in (8, 16, 32) or found.stored > found.allocated or high_bit != found.stored - 1:
        raise CaseError(
            f"stores {found.stored} bits up to bit {high_bit} in {found.allocated}, which this reader does not know",
            where=path,
            fix=_AGAIN,
        )
    if found.frames * found.frame_bytes > MAX_PIXEL_BYTES:
        raise CaseError(
            f"declares {found.size()}, more than {MAX_PIXEL_BYTES >> 30} GiB", where=path, fix="Check the file"
        )
    return found
