"""Rows `index,value` turned into numbers, eight characters at a time.

A 64-bit word holds eight characters. After `word ^ "00000000"` each byte is its digit, and three multiplications join
the eight digits. Everything works on whole arrays of words, block by block so that the temporaries stay in the cache.
Every character is checked on the way: text of any other form raises `NotPlainError`, and the caller reads it slowly.
"""

from __future__ import annotations

import os
from io import RawIOBase

import numpy as np
from numpy.typing import NDArray

__all__ = ["NotPlainError", "parse_rows"]

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]

BLOCK = 1 << 18  # bytes; the words of about 20,000 rows, which a second-level cache holds
MAX_CHARACTERS = 7  # of one number: a word holds them and the separator behind them
_COMMA, _NEWLINE, _DOT = b",\n."
_SHORTEST_ROW = len(b"1,\n")
_FRONT = 8  # bytes before the first row in a block, so that a whole word ends at any separator


class NotPlainError(Exception):
    """The text is not of the plain form that the fast path reads."""


def _word(characters: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(characters, "little"))


def _repeat(byte: int) -> np.uint64:
    return _word(bytes([byte]) * 8)


_KEEP_LAST = np.array([((1 << 8 * n) - 1) << 8 * (8 - n) for n in range(9)], dtype=np.uint64)
_DIGITS_BEFORE = {separator: _word(b"0" * 7 + bytes([separator])) for separator in (_COMMA, _NEWLINE)}
# Added to a word, it sets the top bit of a byte where a digit is above 9 or the separator is a wrong one.
_CARRY = _word(b"\x76" * 7 + b"\x7f")
_ONES, _TOP_BITS, _DOTS = _repeat(0x01), _repeat(0x80), _repeat(_DOT ^ ord("0"))
_BYTE_NUMBER = np.uint64(sum(k << (56 - 8 * k) for k in range(8)))  # (1 << 8 k) * this >> 56 is k
_SCALE = np.float32(10.0) ** np.arange(8, dtype=np.float32)  # by number of decimals
_DOT_AT = np.array([0xFF << 8 * (6 - n) if n < 7 else 0 for n in range(8)], dtype=np.uint64)  # before n decimals
_BEFORE = np.array([(1 << 8 * (6 - n)) - 1 if n < 7 else 0 for n in range(8)], dtype=np.uint64)


def parse_rows(stream: RawIOBase, *, valued: bool) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Read rows `123,45.6` (valued) or `123,` from where `stream` stands to its end.

    Args:
        stream: unbuffered binary file.
        valued: whether each row has a value.

    Returns:
        indices (N,), and values (N,) or none of them when `valued` is false.

    Raises:
        NotPlainError: a row of another form: a sign, an exponent, quotes, spaces, more than seven characters in a
            number, a value without a decimal point, no newline at the end; or indices that go to and fro between
            numbers of digits.
    """
    most_rows = os.fstat(stream.fileno()).st_size // _SHORTEST_ROW
    indices, values = np.empty(most_rows, np.int32), np.empty(most_rows if valued else 0, np.float32)
    count = 0
    block = np.zeros(_FRONT + BLOCK + 8, dtype=np.uint8)
    block[_FRONT - 1] = _NEWLINE
    filled, short_blocks = 0, 0
    while (got := stream.readinto(block[_FRONT + filled : _FRONT + BLOCK].data)) or filled:
        filled += got or 0
        width, length = _first_width(block), _whole_rows(block, filled)
        if not length:
            raise NotPlainError
        block[_FRONT + filled : _FRONT + filled + 8] = 0
        rows = block[: _FRONT + (length + 7) // 8 * 8]
        ends, commas = _rows_of_width(rows, width, valued)
        stop = count + len(commas)
        if stop > most_rows:  # the file has grown
            raise NotPlainError
        indices[count:stop] = _integers(rows, commas, width)
        if valued:
            values[count:stop] = _decimals(rows, commas, ends[1:])
        count = stop
        used = int(ends[-1]) + 1 - _FRONT
        short_blocks += used < length
        if short_blocks > MAX_CHARACTERS:
            raise NotPlainError
        block[_FRONT : _FRONT + filled - used] = block[_FRONT + used : _FRONT + filled]
        filled -= used
    return indices[:count], values[:count]


def _first_width(block: Bytes) -> int:
    """Number of characters before the first comma."""
    width = block[_FRONT : _FRONT + MAX_CHARACTERS + 1].tobytes().find(_COMMA)
    if width < 1:
        raise NotPlainError
    return width


def _whole_rows(block: Bytes, filled: int) -> int:
    """Number of bytes up to and including the last newline."""
    tail = block[max(_FRONT, _FRONT + filled - 4 * MAX_CHARACTERS) : _FRONT + filled].tobytes()
    at = tail.rfind(_NEWLINE)
    return filled - len(tail) + at + 1 if at >= 0 else 0


def _rows_of_width(block: Bytes, width: int, valued: bool) -> tuple[Positions, Positions]:
    """The leading rows whose index has `width` digits: positions of newlines (N + 1,) and of commas (N,)."""
    if valued:
        ends = _newlines(block, shortest_row=width + 2)
    else:
        ends = np.arange(_FRONT - 1, len(block), width + 2)
        ends = ends[: _leading(block[ends] == _NEWLINE)]
    if len(ends) < 2:
        raise NotPlainError
    commas = ends[:-1] + (width + 1)
    if block.take(commas[-1], mode="clip") != _COMMA:  # else `_integers` refuses a row that differs among its like
        commas = commas[: _leading(block.take(commas, mode="clip") == _COMMA)]
    if not len(commas):
        raise NotPlainError
    return ends[: len(commas) + 1], commas


def _leading(good: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return len(good) if good.all() else int(good.argmin())


def _newlines(block: Bytes, shortest_row: int) -> Positions:
    """Positions of all newlines; for rows of eight bytes or more by words, of which none holds two."""
    found = block == _NEWLINE
    if shortest_row < 8:
        return np.flatnonzero(found)
    words = found.view("<u8")
    holding = np.flatnonzero(words != 0)
    places = _byte_number(words[holding])  # wrong where a word holds two, which no longer end rows of digits then
    holding <<= 3
    holding += places
    return holding


def _byte_number(flags: Words) -> Positions:
    """Which byte of each word is 1, all others being 0."""
    return ((flags * _BYTE_NUMBER) >> np.uint64(56)).view(np.int64)


def _words_ending_at(block: Bytes, positions: Positions) -> Words:
    """The eight bytes up to and including each position, from two aligned words (unaligned reads cost twice that)."""
    words = block.view("<u8")
    at = positions >> 3
    high = words.take(at, mode="clip")
    at -= 1
    low = words.take(at, mode="clip")
    shift = positions & 7
    shift ^= 7
    shift <<= 3  # bits of the upper word that lie above the position
    high <<= shift.view(np.uint64)
    shift ^= 63
    low >>= np.uint64(1)
    low >>= shift.view(np.uint64)  # 64 - shift in two steps, as a shift by 64 is not defined
    high |= low
    return high


def _integers(block: Bytes, ends: Positions, width: int) -> Positions:
    """Whole numbers of `width` digits before a comma."""
    words = _words_ending_at(block, ends)
    words ^= _DIGITS_BEFORE[_COMMA]
    words &= _KEEP_LAST[width + 1]
    return _join(words)


def _decimals(block: Bytes, commas: Positions, ends: Positions) -> NDArray[np.float32]:
    """Numbers with one decimal point, between a comma and a newline.

    Seven digits and a power of ten are exact in float32, so that their quotient is the float32 nearest to the number.
    """
    lengths = ends - commas  # the newline counted
    if lengths.min() < 3 or lengths.max() > MAX_CHARACTERS + 1:
        raise NotPlainError
    words = _words_ending_at(block, ends)
    words ^= _DIGITS_BEFORE[_NEWLINE]
    words &= _KEEP_LAST[lengths]
    decimals = len(block[commas[0] : ends[0]].tobytes().partition(b".")[2])
    if 0 < decimals < MAX_CHARACTERS and ((words & _DOT_AT[decimals]) == _DOTS & _DOT_AT[decimals]).all():
        before, behind, scale = _BEFORE[decimals], _KEEP_LAST[decimals + 1], _SCALE[decimals]
    else:
        dots = _dots(words)
        before, behind = dots - np.uint64(1), np.negative(dots << np.uint64(8))
        scale = _SCALE.take(6 - _byte_number(dots), mode="clip")
    whole = words & before
    whole <<= np.uint64(8)  # over the dot
    words &= behind
    words |= whole
    numbers = _join(words).astype(np.float32)
    numbers /= scale
    return numbers


def _dots(words: Words) -> Words:
    """1 in the byte that holds the decimal point; refuses words without one.

    Of two, or of a character that looks like one above a dot, the upper one stays in the word for `_join` to refuse.
    """
    flags = words ^ _DOTS
    zero_bytes = flags - _ONES
    zero_bytes &= ~flags
    zero_bytes &= _TOP_BITS
    if zero_bytes.min() == 0:
        raise NotPlainError
    zero_bytes >>= np.uint64(7)
    return zero_bytes


def _join(words: Words) -> Positions:
    """The number that seven digits make, first digit in byte 0; byte 7 must be 0 (in place)."""
    carried = words + _CARRY
    carried |= words
    if int(np.bitwise_or.reduce(carried)) & int(_TOP_BITS):
        raise NotPlainError
    words <<= np.uint64(8)
    words *= np.uint64(10 * (1 << 8) + 1)  # pairs of digits
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(100 * (1 << 16) + 1)  # pairs of pairs
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(10000 * (1 << 32) + 1)
    words >>= np.uint64(32)
    return words.view(np.int64)
