"""Volumes as gzip, in the time that their content takes: zeros are not looked through again and again.

Most of a mask, and most of a dose on the grid of a CT, is zero. What a stretch of zeros packs to is known, so that it
is put in once and repeated. The result is one gzip member that every reader takes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mtl_med.parallel import in_threads

__all__ = ["gzip_volume"]

# Whole numbers gain from what stands in earlier rows, where level 4 takes twice as long for files a tenth smaller. In
# masks and in float32 hardly anything repeats but runs of one byte: looking for these alone takes a third of the time,
# and the files are smaller too.
_LEVEL = 1
_RUNS_ONLY = ("uint8", "float32")
_STRETCH = 1 << 16  # bytes that are all zero or not; shorter ones save more time, longer ones more bytes
_PIECE = 1 << 24  # bytes that are packed without a look at the others; always as many, so that files stay the same
_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate; no name, no time, no system
_END = b"\x03\x00"  # a last block of nothing


def gzip_volume(header: bytes, voxels: NDArray) -> bytes:
    """Gzip file of a header and the voxels behind it; equal arguments give equal bytes, with any number of threads.

    Args:
        header: goes before the voxels.
        voxels: any shape, in C order.

    Source: RFC 1951, RFC 1952. A flush ends at a whole byte; a full one also forgets everything before it, so that
    something else may follow there.
    """
    data = voxels.reshape(-1).view(np.uint8)
    strategy = zlib.Z_RLE if voxels.dtype.name in _RUNS_ONLY else zlib.Z_DEFAULT_STRATEGY
    pieces = [data[start : start + _PIECE] for start in range(0, data.size, _PIECE)]
    packed = in_threads(partial(_packed, strategy, _zeros(_STRETCH)), [np.frombuffer(header, np.uint8), *pieces])
    checksum = zlib.crc32(data.data, zlib.crc32(header))
    size = (len(header) + data.size) & 0xFFFFFFFF
    return b"".join([_HEAD, *packed, _END, checksum.to_bytes(4, "little"), size.to_bytes(4, "little")])


def _packed(strategy: int, zeros: bytes, data: NDArray[np.uint8]) -> bytes:
    """Deflated bytes, to which others can be added; `zeros` are a stretch of them, deflated."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=strategy)
    parts = []
    for empty, first, last in _runs(data):
        if empty:
            parts += [packer.flush(zlib.Z_FULL_FLUSH), zeros * (last - first)]
        else:
            parts.append(packer.compress(data[first * _STRETCH : last * _STRETCH].data))
    return b"".join([*parts, packer.flush(zlib.Z_SYNC_FLUSH)])


def _runs(data: NDArray[np.uint8]) -> Iterator[tuple[bool, int, int]]:
    """Runs of stretches that are all zero, or are not: the first, and the one behind the last."""
    whole = data.size // _STRETCH
    empty = (data[: whole * _STRETCH].reshape(whole, _STRETCH).max(axis=1) == 0).tolist()
    first = 0
    for value, run in groupby([*empty, *([False] if data.size % _STRETCH else [])]):
        last = first + len(list(run))
        yield value, first, last
        first = last


def _zeros(count: int) -> bytes:
    """So many zeros, deflated, to which others can be added."""
    packer = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=zlib.Z_RLE)
    return packer.compress(bytes(count)) + packer.flush(zlib.Z_SYNC_FLUSH)
