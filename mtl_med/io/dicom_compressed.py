"""Compressed pixel data: frames told apart, checked against the declared size, and handed to pydicom's codecs."""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from mtl_med.errors import CaseError
from mtl_med.io.dicom_pixel_format import PixelFormat

__all__ = ["decompressed"]

MOST_COMPRESSION = 1000  # a blank J2K slice reaches more, but is smaller than the allowance below
_ALLOWANCE_BYTES = 4 << 20
_ITEM = b"\xfe\xff\x00\xe0"
_PACKAGES: dict[str, str] = {  # on PyPI: what decodes a transfer syntax, for pydicom
    **dict.fromkeys(uid.JPEGTransferSyntaxes, "pylibjpeg pylibjpeg-libjpeg"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys(
        (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
        "pylibjpeg pylibjpeg-openjpeg",
    ),
    uid.RLELossless: "pylibjpeg pylibjpeg-rle",
}
_RLE_COMPRESSION = 64  # two bytes stand for 128 at most
_AGAIN = "Copy or export the file again"


def decompressed(value: bytes, declared: PixelFormat, syntax: str, path: str | Path) -> NDArray[np.integer]:
    """Pixels of compressed PixelData.

    Args:
        value: its fragments, without the delimiter behind them.
        declared: how the data set says that they are stored.
        syntax: its transfer syntax UID.
        path: the file, for errors.

    Returns:
        (frames, rows, columns) integers.

    Raises:
        CaseError: the compression is unknown or no installed package decodes it; or frames are missing, damaged or of
            another size than declared.
    """
    if syntax not in _PACKAGES:
        raise CaseError(
            "is compressed in a way that is unknown here (its transfer syntax)",
            where=path,
            fix="Export it uncompressed",
        )
    decoder = get_decoder(syntax)
    name, packages = uid.UID(syntax).name, f"pip install {_PACKAGES[syntax]}"
    if not decoder.is_available:
        raise CaseError(f"is compressed ({name}), which no installed package can decode", where=path, fix=packages)
    factor = _RLE_COMPRESSION if syntax == uid.RLELossless else MOST_COMPRESSION
    if declared.frames * declared.frame_bytes > factor * len(value) + _ALLOWANCE_BYTES:
        raise CaseError(f"declares {declared.size()} in {len(value)} compressed bytes", where=path, fix=_AGAIN)
    options: dict[str, Any] = {
        "validate": False,
        "raw": True,
        "number_of_frames": 1,
        "rows": declared.rows,
        "columns": declared.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": declared.allocated,
        "bits_stored": declared.stored,
        "pixel_representation": int(declared.signed),
    }
    pixels: NDArray[np.integer] | None = None
    for index, frame in enumerate(_frames(value, declared.frames, path)):
        if syntax != uid.RLELossless and _codestream_size(frame) != (declared.rows, declared.columns):
            raise CaseError(
                f"frame {index + 1} is no image of {declared.rows} x {declared.columns} pixels", where=path, fix=_AGAIN
            )
        try:
            with _strictly():
                decoded, _ = decoder.as_array(encapsulate([frame], has_bot=False), index=0, **options)
        except Exception as error:  # codecs raise nearly anything
            raise CaseError(
                f"frame {index + 1} cannot be decoded ({name})",
                where=path,
                fix=_AGAIN if syntax == uid.RLELossless else f"{_AGAIN}, or {packages}",
            ) from error
        if pixels is None:
            pixels = np.empty((declared.frames, declared.rows, declared.columns), dtype=declared.dtype)
        pixels[index] = decoded
    if pixels is None:
        raise CaseError("has no PixelData", where=path, fix=_AGAIN)
    return pixels


def _frames(value: bytes, count: int, path: str | Path) -> list[bytes]:
    """Compressed bytes of each frame (PS3.5 A.4)."""
    table, *fragments = _fragments(value, path)
    if len(fragments) == count:
        return fragments
    if count == 1 and fragments:
        return [b"".join(fragments)]
    starts = [0, *itertools.accumulate(8 + len(fragment) for fragment in fragments)]
    offsets = np.frombuffer(table[: len(table) // 4 * 4], dtype="<u4").tolist()
    if len(offsets) == count and offsets[0] == 0 and offsets == sorted(set(offsets)) and set(offsets) <= set(starts):
        bounds = [*map(starts.index, offsets), len(fragments)]
        return [b"".join(fragments[low:high]) for low, high in itertools.pairwise(bounds)]
    raise CaseError(
        f"holds {len(fragments)} compressed fragments, from which {count} frames cannot be told", where=path, fix=_AGAIN
    )


def _fragments(value: bytes, path: str | Path) -> list[bytes]:
    """Values of the items: the table of offsets, and the fragments."""
    found, at = [], 0
    while at < len(value):
        stop = at + 8 + int.from_bytes(value[at + 4 : at + 8], "little")
        if not value.startswith(_ITEM, at) or stop > len(value):
            raise CaseError("its compressed pixels are not made of fragments", where=path, fix=_AGAIN)
        found.append(value[at + 8 : stop])
        at = stop
    return found or [b""]


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 image by its own header; None if it is none."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096) if not frame.startswith(b"\xff\xd8") else -1
    if start >= 0 and len(frame) >= start + 24:
        right, bottom, left, top = np.frombuffer(frame, dtype=">u4", count=4, offset=start + 8).tolist()
        return bottom - top, right - left
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


@contextlib.contextmanager
def _strictly() -> Iterator[None]:
    """Make pydicom's warnings errors, and keep the traces of its codecs out of the log."""
    log = logging.getLogger("pydicom.pixels.decoders.base")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UserWarning)
            yield
    finally:
        log.setLevel(level)
