"""Stored pixel values of a DICOM data set: sizes are checked against the bytes before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from mtl_med.errors import CaseError
from mtl_med.io.dicom_compressed import decompressed
from mtl_med.io.dicom_items import text
from mtl_med.io.dicom_pixel_format import PixelFormat, pixel_format

__all__ = ["stored_pixels", "within_bits"]

_PIXEL_DATA = 0x7FE00010
_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
_AGAIN = "Copy or export the file again"


def stored_pixels(ds: Dataset, path: str | Path) -> NDArray[np.integer]:
    """Pixel values as stored, before any rescaling.

    Args:
        ds: the data set with its pixels, from `read_dataset`.
        path: the file, for errors.

    Returns:
        (frames, rows, columns) integers; read-only where they need no change.

    Raises:
        CaseError: an attribute is missing or impossible, pixels are missing, more or fewer than declared or damaged, or
            no installed package can decode them.
    """
    declared = pixel_format(ds, path)
    element: Any = ds.get_item(_PIXEL_DATA)
    if element is None or not isinstance(element.value, bytes) or not element.value:
        raise CaseError("has no PixelData", where=path, fix="Export the image with its pixels")
    meta = getattr(ds, "file_meta", None)
    syntax = text(meta, "TransferSyntaxUID") if meta is not None else ""
    if syntax in _NATIVE or not syntax:
        little = syntax != uid.ExplicitVRBigEndian
        return within_bits(_native(element.value, declared, little, element.VR, path), declared, path)
    return within_bits(decompressed(element.value, declared, syntax, path), declared, path)


def _native(value: bytes, declared: PixelFormat, little: bool, vr: str | None, path: str | Path) -> NDArray[np.integer]:
    declared.check_length(len(value), path)
    dtype = declared.dtype.newbyteorder("<" if little else ">")
    count = declared.frames * declared.rows * declared.columns
    shape = (declared.frames, declared.rows, declared.columns)
    if not little and declared.allocated == 8 and vr == "OW":
        value = np.frombuffer(value[: len(value) // 2 * 2], dtype="<u2").byteswap().tobytes() + value[-1:]
    pixels = np.frombuffer(value, dtype=dtype, count=count).reshape(shape)
    if not little and declared.allocated == 32 and vr != "OL":
        pixels = _smoother(pixels, np.frombuffer(value, dtype=">u2", count=2 * count), declared)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def _smoother(pixels: NDArray[np.integer], words: NDArray[np.uint16], declared: PixelFormat) -> NDArray[np.integer]:
    """The smoother of the two images that big-endian OW of 32 bits can mean.

    PS3.5 swaps the bytes of each 16-bit word and leaves the lower word first; some writers swap all four bytes. The
    wrong reading turns the course of the low word into the high one: no image is smooth in both.
    """
    by_words = words.astype("<u2").view(declared.dtype.newbyteorder("<")).reshape(pixels.shape)

    def roughness(image: NDArray[np.integer]) -> float:
        return float(np.abs(np.diff(image.astype(np.float64), axis=-1)).sum())

    return min(pixels, by_words, key=roughness)


def within_bits(pixels: NDArray[np.integer], declared: PixelFormat, path: str | Path) -> NDArray[np.integer]:
    """Pixels whose unused high bits repeat the sign.

    Raises:
        CaseError: the unused bits hold something else: overlays of old, or BitsStored is wrong.
    """
    unused = declared.allocated - declared.stored
    if not unused:
        return pixels
    extended = (pixels << unused) >> unused
    if np.array_equal(extended, pixels):
        return pixels
    unsigned = pixels.view(pixels.dtype.str.replace("i", "u"))
    if declared.signed and not (unsigned >> declared.stored).any():
        return extended
    raise CaseError(
        f"holds pixels that need more than the {declared.stored} bits it says (BitsStored)", where=path, fix=_AGAIN
    )
