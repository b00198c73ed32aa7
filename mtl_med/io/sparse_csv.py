"""Sparse volumes of the OpenKBP data: CSV files `,data` with a flat voxel index and a value, or an index alone.

Source: A. Babier et al., OpenKBP, Medical Physics 48 (2021); github.com/ababier/open-kbp.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.io.ascii_numbers import NotPlainError, parse_rows

__all__ = ["SparseVolume", "read_sparse_csv", "read_voxel_dimensions"]

HEADER = b",data\n"
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = float(np.finfo(np.float32).max)
_COPY_AGAIN = "Copy the file again from the published data"


@dataclass(frozen=True, eq=False)
class SparseVolume:
    """The voxels that a file lists.

    Args:
        indices: (N,) flat indices in C order, each once.
        values: (N,) float32, or empty for a mask.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]

    def dense(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray:
        """Volume of `shape` with the values, or 1 where it is a mask, and 0 elsewhere."""
        volume = np.zeros(shape, dtype=dtype)
        volume.reshape(-1)[self.indices] = self.values if len(self.values) else 1
        return volume


def read_sparse_csv(path: str | Path, *, voxels: int, valued: bool) -> SparseVolume:
    """Read one file.

    Args:
        path: the CSV file.
        voxels: number of voxels of the grid; every index must lie below it.
        valued: whether the rows carry values (CT, dose) or only indices (masks).

    Raises:
        CaseError: the file is missing, unreadable, empty or truncated, has another header, or a row is no index with
            a finite value, lies outside the grid or repeats another.
    """
    path = Path(path)
    try:
        try:
            indices, values = _plain(path, valued)
        except NotPlainError:
            indices, values = _careful(path, valued)
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the file") from error
    _check_indices(indices, voxels, path)
    return SparseVolume(indices.astype(np.int32, copy=False), values)


def _plain(path: Path, valued: bool) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    with path.open("rb", buffering=0) as stream:
        if stream.read(len(HEADER)) != HEADER:
            raise NotPlainError
        return parse_rows(stream, valued=valued)


def _check_indices(indices: NDArray, voxels: int, path: Path) -> None:
    if not len(indices):
        return
    if (outside := int(indices.max())) >= voxels:
        raise CaseError(f"voxel index {outside} lies outside the grid of {voxels} voxels", where=path, fix=_COPY_AGAIN)
    if (np.diff(indices) > 0).all():
        return
    unique, counts = np.unique(indices, return_counts=True)
    if len(unique) < len(indices):
        raise CaseError(f"voxel index {unique[counts > 1][0]} is listed twice", where=path, fix=_COPY_AGAIN)


def _careful(path: Path, valued: bool) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    """Read row by row: quotes, CRLF, blank lines, signs and exponents are understood, all else is named."""
    data = path.read_bytes()
    if not data:
        raise CaseError("is empty", where=path, fix=_COPY_AGAIN)
    if not data.endswith((b"\n", b"\r")):
        raise CaseError("ends in the middle of a line: the file is truncated", where=path, fix=_COPY_AGAIN)
    indices, values = [], []
    for line, index, value in _rows(data, path):
        if not _WHOLE_NUMBER.fullmatch(index):
            raise _bad_row(path, line, index, "a whole number as voxel index")
        indices.append(int(index))
        if valued:
            values.append(_value(path, line, value))
        elif value not in ("", "1", "1.0"):
            raise _bad_row(path, line, value, "an empty second column, as in a mask")
    return np.array(indices, dtype=np.int64), np.array(values, dtype=np.float32)


def _rows(data: bytes, path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number and two columns of each row that is not blank."""
    try:
        reader = csv.reader(StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader)
        if header != ["", "data"]:
            raise CaseError(f"header is {','.join(header)[:40]!r}, expected ',data'", where=path, fix=_COPY_AGAIN)
        for row in reader:
            if row and row != [""]:
                if len(row) != 2:
                    raise _bad_row(path, reader.line_num, ",".join(row), "two columns")
                yield reader.line_num, row[0].strip(), row[1].strip()
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"is no text table: {error}", where=path, fix=_COPY_AGAIN) from error


def _value(path: Path, line: int, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not abs(value) <= _LARGEST:
        raise _bad_row(path, line, text, "a finite number")
    return value


def _bad_row(path: Path, line: int, found: str, expected: str) -> CaseError:
    return CaseError(f"line {line}: found {found[:40]!r}, expected {expected}", where=path, fix=_COPY_AGAIN)


def read_voxel_dimensions(path: str | Path) -> tuple[float, float, float]:
    """Voxel spacing along the three axes of the raw arrays, mm: three lines with one positive number each.

    Raises:
        CaseError: the file is missing or holds anything else.
    """
    path = Path(path)
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror or error}", where=path, fix=_COPY_AGAIN) from error
    except UnicodeDecodeError as error:
        raise CaseError("is no text file", where=path, fix=_COPY_AGAIN) from error
    numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
    if len(words) != 3 or len(numbers) != 3 or not all(0 < number < 100 for number in numbers):
        shown = " ".join(words)[:60] or "nothing"
        raise CaseError(f"found {shown!r}, expected three voxel sizes in mm above 0", where=path, fix=_COPY_AGAIN)
    return numbers[0], numbers[1], numbers[2]
