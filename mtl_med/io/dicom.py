"""DICOM files read safely: whatever the bytes, they end in a data set that adds up or in one sentence.

Every reader of DICOM in this library starts here. Values in what comes back are undecoded: take those that you cannot
do without by `require`, `number` and `numbers`, optional ones by `mtl_med.io.dicom_items`.
"""

from __future__ import annotations

import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset

from mtl_med.errors import CaseError
from mtl_med.io.dicom_attributes import number, numbers, position_ras, require, row_column_normal, spacing_mm
from mtl_med.io.dicom_items import text
from mtl_med.io.dicom_parse import IncompleteError, MalformedError, Parser, QuietMeta, looks_explicit
from mtl_med.io.dicom_pixels import stored_pixels

__all__ = [
    "PixelPlace",
    "number",
    "numbers",
    "position_ras",
    "read_dataset",
    "read_header",
    "read_header_and_place",
    "require",
    "row_column_normal",
    "spacing_mm",
    "stored_pixels",
]

MAX_FILE_BYTES = 2 << 30
MAX_INFLATED_BYTES = 256 << 20  # of a deflated file; some kilobytes could grow to gigabytes
_FIRST_READ, _GROWTH = 16 << 10, 8
_PREAMBLE = 128
_AGAIN = "Copy or export the file again"
_FIRST_PIXEL_TAG, _PIXEL_DATA = 0x7FE00008, 0x7FE00010
_META_END = 0x00030000
_SOP_CLASS, _MODALITY = 0x00080016, 0x00080060


@dataclass(frozen=True)
class PixelPlace:
    """Where uncompressed pixels lie in a file.

    Args:
        offset: of the first byte.
        length: number of bytes that the file declares.
        there: number of bytes from the offset to the end of the file.
    """

    offset: int
    length: int
    there: int


def read_header(path: str | Path, *, stop_before: str = "PixelData") -> Dataset:
    """Data set of a file up to its pixels; large files are read no further than needed.

    Args:
        path: the file, with or without preamble.
        stop_before: keyword of the attribute to stop at, or at the first one behind it: "ROIContourSequence" spares a
            scan the contours.

    Returns:
        data set with `file_meta`; no value is decoded yet.

    Raises:
        CaseError: the file is missing, unreadable, empty, no DICOM, damaged or truncated.
    """
    return read_header_and_place(path, stop_before=stop_before)[0]


def read_dataset(path: str | Path) -> Dataset:
    """Data set of a whole file.

    Args:
        path: the file, with or without preamble.

    Returns:
        data set with `file_meta`; no value is decoded yet.

    Raises:
        CaseError: as `read_header`; also when anything behind the header is missing, or the file is larger than 2 GiB.
    """
    return _read(Path(path), None)[0]


def read_header_and_place(path: str | Path, *, stop_before: str = "PixelData") -> tuple[Dataset, PixelPlace | None]:
    """As `read_header`; also where the pixels lie, None where there are none or they are compressed."""
    tag = tag_for_keyword(stop_before)
    if tag is None:
        raise ValueError(f"'{stop_before}' is no DICOM keyword")
    return _read(Path(path), min(tag, _FIRST_PIXEL_TAG))


def _read(path: Path, stop_before: int | None) -> tuple[Dataset, PixelPlace | None]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CaseError("is no regular file", where=path)  # opening a pipe would wait for a writer
        if status.st_size == 0:
            raise CaseError("is empty", where=path, fix=_AGAIN)
        with path.open("rb", buffering=0) as file:
            return _grow(file.fileno(), status.st_size, stop_before, path)
    except FileNotFoundError as error:
        raise CaseError("there is no such file", where=path, fix="Check the path") from error
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}", where=path) from error


def _grow(descriptor: int, size: int, stop_before: int | None, path: Path) -> tuple[Dataset, PixelPlace | None]:
    """Parse the first bytes, and more of them until they suffice."""
    wanted = size if stop_before is None else min(size, _FIRST_READ)
    while True:
        if wanted > MAX_FILE_BYTES:
            raise CaseError(f"is larger than {MAX_FILE_BYTES >> 30} GiB", where=path, fix="Export it in parts")
        buffer = _pread(descriptor, wanted)
        if len(buffer) < wanted:
            size = len(buffer)  # it shrank meanwhile
        try:
            return _parse(buffer, size, stop_before, path)
        except MalformedError as error:
            raise CaseError(f"is damaged: {error}", where=path, fix=_AGAIN) from error
        except IncompleteError as error:
            if len(buffer) == size:
                raise CaseError(f"is truncated: it ends after {size} bytes", where=path, fix=_AGAIN) from error
        wanted = min(size, wanted * _GROWTH)


def _pread(descriptor: int, wanted: int) -> bytes:
    """The first bytes of a file; one call for all but the largest."""
    buffer = os.pread(descriptor, wanted, 0)
    while len(buffer) < wanted and (more := os.pread(descriptor, wanted - len(buffer), len(buffer))):
        buffer += more
    return buffer


def _parse(buffer: bytes, size: int, stop_before: int | None, path: Path) -> tuple[Dataset, PixelPlace | None]:
    at = _start(buffer, size, path)
    meta, at = _meta(buffer, size, at)
    if at >= size:
        raise CaseError("holds nothing but the beginning of a DICOM file", where=path, fix=_AGAIN)
    told = text(meta, "TransferSyntaxUID")
    syntax = told or _guessed_syntax(buffer, at)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        if len(buffer) < size:
            raise IncompleteError
        buffer, at = _inflate(buffer[at:], path), 0
        size = len(buffer)
    if len(buffer) < at + 8:
        raise IncompleteError
    implicit = not looks_explicit(buffer, at)  # what is written counts more than what was declared
    parser = Parser(buffer, size, little_endian=syntax != uid.ExplicitVRBigEndian)
    dataset, stop = parser.dataset(at, implicit=implicit, stop_before=stop_before)
    if not len(meta) and not (_SOP_CLASS in dataset or _MODALITY in dataset):
        raise CaseError("is no DICOM file", where=path)
    if not told:
        meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.file_meta = meta
    if stop_before != _FIRST_PIXEL_TAG or syntax not in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        return dataset, None
    place = parser.value_place(stop, _PIXEL_DATA, implicit=implicit)
    return dataset, PixelPlace(*place, size - place[0]) if place else None


def _start(buffer: bytes, size: int, path: Path) -> int:
    """Offset of the first attribute: behind the preamble, or 0 where there is none but attributes follow at once."""
    for at in (_PREAMBLE, 0):
        if buffer[at : at + 4] == b"DICM":
            return at + 4
    group = int.from_bytes(buffer[:2], "little")
    length = int.from_bytes(buffer[4:8], "little")
    if (group in (0x0002, 0x0008, 0x0800) and looks_explicit(buffer, 0)) or (
        group in (0x0002, 0x0008) and length < size
    ):
        return 0
    raise CaseError("is no DICOM file", where=path)


def _meta(buffer: bytes, size: int, at: int) -> tuple[FileMetaDataset, int]:
    """File Meta Information (PS3.10 section 7.1), always little endian; empty where there is none."""
    if len(buffer) < at + 8 and len(buffer) < size:
        raise IncompleteError
    if int.from_bytes(buffer[at : at + 2], "little") != 2:
        return QuietMeta(), at
    implicit = not looks_explicit(buffer, at)
    found, at = Parser(buffer, size).dataset(at, implicit=implicit, stop_before=_META_END)
    if any(tag >> 16 != 2 for tag in found.keys()):  # noqa: SIM118 (a data set iterates over elements, not tags)
        raise MalformedError("its file meta information holds something else")
    return QuietMeta(found), at


def _guessed_syntax(buffer: bytes, at: int) -> str:
    """Transfer syntax by the first attribute, for files that do not tell: its group is 8."""
    if not looks_explicit(buffer, at):
        return str(uid.ImplicitVRLittleEndian)
    big = int.from_bytes(buffer[at : at + 2], "big") < int.from_bytes(buffer[at : at + 2], "little")
    return str(uid.ExplicitVRBigEndian if big else uid.ExplicitVRLittleEndian)


def _inflate(data: bytes, path: Path) -> bytes:
    """Uncompressed data set of a deflated file (PS3.5 A.5)."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise CaseError("is damaged: it cannot be inflated", where=path, fix=_AGAIN) from error
    if stream.eof:
        return inflated
    if len(inflated) >= MAX_INFLATED_BYTES:
        raise CaseError(
            f"inflates to more than {MAX_INFLATED_BYTES >> 20} MiB", where=path, fix="Export it uncompressed"
        )
    raise CaseError("is truncated: its compressed data set has no end", where=path, fix=_AGAIN)
