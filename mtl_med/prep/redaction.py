"""Messages without what tells who somebody is: the last line of defence behind files that never say it."""

from __future__ import annotations

import contextlib
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from mtl_med.errors import MtlMedError

__all__ = ["REMOVED", "RedactingFilter", "Redactor", "redacted"]

REMOVED = "[removed]"
SOURCE_FILE = "[source file]"
_DATE = re.compile(r"(?P<y>(?:18|19|20)\d\d)(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_SHORT = 4  # letters; a shorter name is found as a word of its own only
_SHORT_NUMBER = 4  # digits; a shorter number is any number


class Redactor:
    """Takes identifying texts out of sentences.

    A name is found in any letter case, with and without accents, whole and in its parts, and whatever stands between
    its words; a date in the usual ways to write it. Rather too much is removed than too little.

    Args:
        strings: values of DICOM attributes, raw.
        folders: folders whose paths, and all below them, are not told.
    """

    def __init__(self, strings: Iterable[str] = (), folders: Iterable[Path] = ()) -> None:
        self._strings: set[str] = set()
        self._texts: re.Pattern[str] | None = None
        roots = {str(form) for folder in folders for form in (folder.absolute(), folder.resolve())} - {"/"}
        self._roots = sorted(roots, key=len, reverse=True)
        # To the end of the path: a colon before a space, as in "path: what is wrong", unless a folder's name goes on
        # behind it; a quote, unless a letter follows, as in O'Brien, or such a name; or the end of the line.
        on = r"(?:[^\n'\":]|:(?!\s)|['\"](?=\w)|[:'\"](?=[^\n:'\"]*[/\\]))*"
        paths = "|".join(rf"{re.escape(root)}(?:[/\\]{on})?(?![\w-])" for root in self._roots)
        self._paths = re.compile(paths) if paths else None
        self.add(strings)

    def add(self, strings: Iterable[str]) -> None:
        """Take these out as well."""
        new = {text for text in strings if text.strip(" \0^=")} - self._strings
        if not new:
            return
        self._strings |= new
        found = {pattern for text in self._strings for pattern in _patterns(text)}
        ordered = sorted(found, key=lambda pattern: (-len(pattern), pattern))
        self._texts = re.compile("|".join(ordered), re.IGNORECASE) if ordered else None

    def redact(self, text: str) -> str:
        """The text without them."""
        text = self._paths.sub(SOURCE_FILE, text) if self._paths else text
        return self._texts.sub(REMOVED, text) if self._texts else text

    def error(self, error: MtlMedError) -> MtlMedError:
        """The same error with all of its parts redacted."""
        below = any(error.where == root or error.where.startswith((f"{root}/", f"{root}\\")) for root in self._roots)
        where = SOURCE_FILE if below else self.redact(error.where)
        return type(error)(self.redact(error.what), where=where, why=self.redact(error.why), fix=self.redact(error.fix))


class RedactingFilter(logging.Filter):
    """Redacts what passes through a logging handler: message, traceback and all.

    Add it to handlers, not to loggers: a logger's filter does not see what its children log.

    Args:
        redactor: knows what to take out; what is added to it later counts too.
    """

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; every record passes."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        record.msg, record.args = self._redactor.redact(text), ()
        record.exc_info = record.exc_text = record.stack_info = None
        return True


@contextlib.contextmanager
def redacted(redactor: Redactor | None) -> Iterator[None]:
    """Take identifying texts out of all that is logged, warned and raised meanwhile; nothing without a redactor.

    Raises:
        MtlMedError: what was raised, redacted; of an error that is none of ours only its kind is told.
    """
    if redactor is None:
        yield
        return
    rule = RedactingFilter(redactor)
    last = [logging.lastResort] if logging.lastResort else []
    handlers = [*logging.getLogger().handlers, *logging.getLogger("mtl_med").handlers, *last]
    for handler in handlers:
        handler.addFilter(rule)
    logging.captureWarnings(True)  # a warning of another library quotes what it met
    try:
        yield
    except MtlMedError as error:
        raise redactor.error(error) from None
    except Exception as error:
        raise MtlMedError(
            f"unexpected {type(error).__name__}", fix="Run it again without --deidentify to see it"
        ) from None
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            handler.removeFilter(rule)


def _patterns(text: str) -> set[str]:
    """Regular expressions for all ways to write a value."""
    text = text.strip(" \0")
    name = bool(re.search(r"[\^=]", text))  # of a person: family^given^middle^prefix^suffix, groups divided by =
    parts = {text, *re.split(r"[\^=]+", text), *re.split(r"[\^=,\s-]+", text)} if name else {text}
    spellings = {
        unicodedata.normalize(form, way)
        for part in parts
        for way in (part, part.translate(_GERMAN), _bare(part))
        for form in ("NFC", "NFD")
    }
    found = {_pattern(way, 2 if name else 3) for way in spellings}
    for date in _DATE.finditer(text):
        found |= _dates(date["y"], date["m"], date["d"])
    return found - {""}


def _bare(text: str) -> str:
    """Without accents."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))


def _pattern(text: str, least: int) -> str:
    """A value with anything between its words; empty where it has fewer than `least` letters or means any number."""
    if re.fullmatch(r"\d+(\.\d+)+", text):  # a UID, or a number
        return rf"(?<![\d.]){re.escape(text)}(?![\d.]*\d)" if len(text) > 8 else ""
    words = re.findall(r"[^\W\d_]+|\d+", text)
    signs, body = "".join(words), r"[\W_]*".join(words)
    if signs.isdecimal():
        short = signs.lstrip("0")
        bodies = f"{body}|{short}" if len(short) > _SHORT_NUMBER else body
        return rf"(?<!\d)0*(?:{bodies})(?!\d)" if len(signs) >= _SHORT_NUMBER else ""
    if len(signs) < least:
        return ""
    return rf"(?<![^\W_]){body}(?![^\W_])" if len(signs) < _SHORT and signs.isascii() else body


def _dates(year: str, month: str, day: str) -> set[str]:
    y, m, d = rf"(?:{year[:2]})?{year[2:]}", rf"0?{int(month)}", rf"0?{int(day)}"
    name = rf"{_MONTHS[int(month) - 1]}[a-z]*\.?"
    gap, some = r"[-./ ]", r"[-./ ,]+"
    orders = {
        f"{year}{gap}?{month}{gap}?{day}",
        f"{d}{gap}{m}{gap}{y}",
        f"{m}{gap}{d}{gap}{y}",
        f"{year}{gap}{m}{gap}{d}",
        f"{d}{some}{name}{some}{y}",
        f"{name}{some}{d}{some}{y}",
    }
    return {rf"(?<!\d){order}(?!\d)" for order in orders}
