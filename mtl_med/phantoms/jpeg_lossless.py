"""JPEG lossless, first-order prediction (process 14, selection value 1), which DICOM archives still hold a lot of.

Source: ITU-T T.81 annex H. The Huffman codes are all five bits long, so that none has to be fitted.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["encode_jpeg_lossless"]

_CODE_BITS = 5  # 2^5 codes, of which the one made of ones is not allowed, are enough for 17 categories
_CATEGORIES = 17


def encode_jpeg_lossless(pixels: NDArray, bits: int) -> bytes:
    """One JPEG stream of one image.

    Args:
        pixels: (rows, columns) of uint8 or uint16; signed images give their bits as unsigned.
        bits: precision, 2 to 16.
    """
    values = pixels.astype(np.int64)
    guess = np.empty_like(values)
    guess[0, 0] = 1 << (bits - 1)
    guess[0, 1:] = values[0, :-1]
    guess[1:, 0] = values[:-1, 0]
    guess[1:, 1:] = values[1:, :-1]
    # Differences count modulo 2^16; -32768 stands for the one value that has 16 bits and none that follow.
    difference = (values - guess + 32768) % 65536 - 32768
    size = np.ceil(np.log2(np.abs(difference) + 1)).astype(np.int64).ravel()
    low = np.where(difference < 0, difference - 1, difference).ravel() & ((1 << size) - 1)
    trailing = np.where(size == 16, 0, size)

    word = (size << trailing) | np.where(size == 16, 0, low)
    length = _CODE_BITS + trailing
    column = np.arange(_CODE_BITS + 16)
    used = column < length[:, None]
    shift = np.maximum(length[:, None] - 1 - column, 0)
    stream = ((word[:, None] >> shift) & 1)[used].astype(np.uint8)
    stream = np.concatenate([stream, np.ones(-len(stream) % 8, dtype=np.uint8)])
    scan = np.packbits(stream).tobytes().replace(b"\xff", b"\xff\x00")

    rows, columns = pixels.shape
    counts = [_CATEGORIES if number == _CODE_BITS else 0 for number in range(1, 17)]
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB3B", bits, rows, columns, 1, 1, 0x11, 0)),
            _segment(0xC4, bytes([0, *counts, *range(_CATEGORIES)])),
            _segment(0xDA, bytes([1, 1, 0, 1, 0, 0])),
            scan,
            b"\xff\xd9",
        ]
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
