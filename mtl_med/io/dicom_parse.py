"""A strict and bounded parser of DICOM data sets: any bytes end in a Dataset, `MalformedError` or `IncompleteError`.

pydicom reads what it can and warns of the rest, and some made-up bytes keep it busy for hours. Here every length has to
add up, every value has to be there in full, time and memory grow with the number of bytes only, and what comes out is a
`pydicom.Dataset` whose values are still undecoded.

Source: DICOM PS3.5 sections 6.2.2, 7 and Annex A.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, NoReturn

from pydicom import config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

__all__ = [
    "UNDEFINED_LENGTH",
    "IncompleteError",
    "MalformedError",
    "Parser",
    "QuietDataset",
    "QuietMeta",
    "looks_explicit",
]

UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET, _PIXEL_DATA = 0x00080005, 0x7FE00010
_DEFAULT_CODEC = "iso8859"

_TEXT_VR = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UI")
_SHORT_VR = {vr.encode(): vr for vr in (*_TEXT_VR, "AT", "DS", "FD", "FL", "IS", "SL", "SS", "UL", "US")}
_LONG_VR = {vr.encode(): vr for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")}
_EMPTY_TEXT = {*_TEXT_VR, "UC", "UR", "UT"}

_MOST_ELEMENTS = 3_000_000  # about 1 GB of Python objects; a very large RTSTRUCT comes to 500,000
_ITEM_WEIGHT = 4  # an item takes up as much as four of its elements
_MOST_DEPTH = 32


class MalformedError(Exception):
    """Bytes that are no data set; the message says why, without any of its values."""


class IncompleteError(Exception):
    """The data set goes on beyond the last byte."""


class _Quiet(Dataset):
    """Without pydicom's warnings of values that break the standard, because they repeat those values."""

    def __getitem__(self, key: Any) -> Any:
        mode = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.IGNORE
        try:
            return super().__getitem__(key)
        finally:
            config.settings.reading_validation_mode = mode


class QuietDataset(_Quiet):
    """pydicom's Dataset that decodes without a word."""


class QuietMeta(_Quiet, FileMetaDataset):
    """pydicom's FileMetaDataset that decodes without a word."""


def looks_explicit(buffer: bytes, at: int) -> bool:
    """Whether the element at this place names its type (VR), as in explicit transfer syntaxes."""
    vr = buffer[at + 4 : at + 6]
    return vr in _SHORT_VR or vr in _LONG_VR


class Parser:
    """One parse of one buffer.

    Args:
        buffer: the first bytes of the file, or all.
        size: number of bytes of the whole file.
        little_endian: byte order of the data set.
    """

    def __init__(self, buffer: bytes, size: int, *, little_endian: bool = True) -> None:
        self.buffer, self.size, self.little_endian = buffer, size, little_endian
        order = "<" if little_endian else ">"
        self._tag_and_length = Struct(f"{order}HHL").unpack_from
        self._short_length = Struct(f"{order}H").unpack_from
        self._long_length = Struct(f"{order}L").unpack_from
        self._count = 0

    def dataset(self, at: int, *, implicit: bool, stop_before: int | None = None) -> tuple[Dataset, int]:
        """The top-level data set that starts at `at`.

        Args:
            at: offset of its first element.
            implicit: whether elements do not name their VR.
            stop_before: parsing stops at the first tag that is not below this one; None reads to the end.

        Returns:
            the data set, and the offset of the element that it stopped at, or of the end.

        Raises:
            MalformedError: the bytes are no data set.
            IncompleteError: it goes on beyond the buffer.
        """
        return self._dataset(at, self.size, implicit, [_DEFAULT_CODEC], 0, stop_before=stop_before)

    def value_place(self, at: int, tag: int, *, implicit: bool) -> tuple[int, int] | None:
        """Offset and length of the value of the top-level element at `at`; None if it is another or has no length."""
        if at + 8 > self.size:
            return None
        self._need(at + 8, self.size)
        group, element, length = self._tag_and_length(self.buffer, at)
        if group << 16 | element != tag:
            return None
        _, length, start = (None, length, at + 8) if implicit else self._explicit_head(at, self.size, length)
        return None if length == UNDEFINED_LENGTH else (start, length)

    def _dataset(
        self,
        at: int,
        end: int,
        implicit: bool,
        codecs: list[str],
        depth: int,
        *,
        delimited: bool = False,
        stop_before: int | None = None,
    ) -> tuple[Dataset, int]:
        """A data set that ends at `end`, or at its delimiter."""
        found: dict = {}
        buffer, ahead = self.buffer, len(self.buffer)
        while True:  # a hundred times per file: what can be told in place is not called for
            if at >= end and not delimited:
                break
            if depth == 0 and not (at < ahead and buffer[at]) and self._only_zeros_left(at):
                at = end
                break
            if at + 8 > end or at + 8 > ahead:
                self._run_out(at + 8, end)
            group, element, length = self._tag_and_length(buffer, at)
            tag = group << 16 | element
            if tag == _ITEM_END and delimited:
                at += 8
                break
            if group == 0xFFFE:
                raise MalformedError(f"a delimiter of items lies where none belongs, at byte {at}")
            if stop_before is not None and tag >= stop_before:
                break
            if tag in found and not group & 1:
                raise MalformedError(f"holds {_name(tag)} twice")
            self._add(1)
            vr, length, start = (None, length, at + 8) if implicit else self._explicit_head(at, end, length)
            item, at = self._element(tag, vr, length, start, end, implicit, codecs, depth)
            found[item.tag] = item
            if tag == _CHARACTER_SET and item.value:
                codecs = _codecs(item.value)
        dataset = QuietDataset(found, parent_encoding=codecs)
        dataset.set_original_encoding(implicit, self.little_endian, codecs)
        return dataset, at

    def _explicit_head(self, at: int, end: int, implicit_length: int) -> tuple[str | None, int, int]:
        """VR (None where it is left out), length and offset of the value of the element at `at`."""
        code = self.buffer[at + 4 : at + 6]
        if code in _SHORT_VR:
            return _SHORT_VR[code], self._short_length(self.buffer, at + 6)[0], at + 8
        if code in _LONG_VR:
            self._need(at + 12, end)
            return _LONG_VR[code], self._long_length(self.buffer, at + 8)[0], at + 12
        if code.isalpha() and code.isupper():
            raise MalformedError(f"holds an attribute of unknown type (VR) at byte {at}")
        return None, implicit_length, at + 8  # some writers leave out the VR here and there

    def _element(
        self,
        tag: int,
        vr: str | None,
        length: int,
        at: int,
        end: int,
        implicit: bool,
        codecs: list[str],
        depth: int,
    ) -> tuple[DataElement | RawDataElement, int]:
        """One element whose value starts at `at`, and the offset behind it."""
        written, vr = vr, _dictionary_vr(tag) if vr in (None, "UN") else vr
        defined = length != UNDEFINED_LENGTH
        stop = at + length if defined else end
        if stop > end:
            self._run_out(stop, end)
        fragments = not defined and (written in ("OB", "OW") or tag == _PIXEL_DATA)
        if vr == "SQ" or (not defined and written in (None, "UN") and not fragments):
            items, stop = self._items(at, stop, implicit, codecs, depth, delimited=not defined)
            return DataElement(BaseTag(tag), "SQ", Sequence(items), at, not defined, already_converted=True), stop
        value: bytes | None
        if defined:
            if stop > len(self.buffer):
                self._run_out(stop, end)
            value = self.buffer[at:stop] if length else (b"" if vr in _EMPTY_TEXT else None)
        elif fragments:
            stop = self._behind_fragments(at, end)
            value = self.buffer[at : stop - 8]
        else:
            raise MalformedError(f"{_name(tag)} has no length")
        raw = RawDataElement(BaseTag(tag), written or vr, length, value, at, written is None, self.little_endian)
        return raw, stop

    def _items(
        self, at: int, end: int, implicit: bool, codecs: list[str], depth: int, *, delimited: bool
    ) -> tuple[list[Dataset], int]:
        """Data sets of a sequence that ends at `end`, or at its delimiter."""
        if depth >= _MOST_DEPTH:
            raise MalformedError(f"nests sequences more than {_MOST_DEPTH} deep")
        items: list[Dataset] = []
        while at < end or delimited:
            self._need(at + 8, end)
            group, element, length = self._tag_and_length(self.buffer, at)
            tag = group << 16 | element
            at += 8
            if tag == _SEQUENCE_END and delimited:
                break
            if tag != _ITEM:
                raise MalformedError(f"a sequence holds something that is no item, at byte {at - 8}")
            self._add(_ITEM_WEIGHT)
            open_ended = length == UNDEFINED_LENGTH
            stop = end if open_ended else at + length
            if stop > end:
                self._run_out(stop, end)
            if stop > at:
                self._need(at + 8, stop)
            # Some writers put implicit items into explicit files, and in UN it may be either: the first element tells.
            here = implicit or not looks_explicit(self.buffer, at)
            item, at = self._dataset(at, stop, here, codecs, depth + 1, delimited=open_ended)
            items.append(item)
        return items, at

    def _behind_fragments(self, at: int, end: int) -> int:
        """Offset behind the delimiter that ends the fragments of compressed data which start at `at`."""
        while True:
            self._need(at + 8, end)
            group, element, length = self._tag_and_length(self.buffer, at)
            tag = group << 16 | element
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM or length == UNDEFINED_LENGTH:
                raise MalformedError(f"compressed data hold something that is no fragment, at byte {at - 8}")
            at += length

    def _only_zeros_left(self, at: int) -> bool:
        """Whether the file ends here but for zeros, of an even number as all in DICOM: some writers pad files."""
        if self.buffer[at : at + 8].strip(b"\0"):
            return False
        if len(self.buffer) < self.size:
            raise IncompleteError
        return (self.size - at) % 2 == 0 and not self.buffer[at:].strip(b"\0")

    def _add(self, weight: int) -> None:
        self._count += weight
        if self._count > _MOST_ELEMENTS:
            raise MalformedError(f"holds more than {_MOST_ELEMENTS} attributes")

    def _need(self, stop: int, end: int) -> None:
        """Raise unless bytes up to `stop` are within the container that ends at `end`, and within the buffer."""
        if stop > end or stop > len(self.buffer):
            self._run_out(stop, end)

    def _run_out(self, stop: int, end: int) -> NoReturn:
        if stop > end and end < self.size:
            raise MalformedError("lengths do not add up: an attribute runs beyond the sequence that holds it")
        raise IncompleteError


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str | None:
    """VR by the DICOM dictionary; None where it depends on other attributes or the tag is private."""
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return None if (tag >> 16) & 1 else "UN"
    return vr if len(vr) == 2 else None


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _codecs(value: bytes) -> list[str]:
    """Python codecs of a SpecificCharacterSet; unknown terms count as the default repertoire."""
    terms = value.decode("ascii", errors="replace").split("\\")
    return [python_encoding.get(term.strip(" \0"), _DEFAULT_CODEC) for term in terms]
