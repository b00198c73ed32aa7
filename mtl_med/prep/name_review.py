"""The list of structure names that nothing is known of: a person fills in the last column and passes it back.

It is a CSV file that spreadsheets open and save in any way they like: with `,`, `;` or tab, with or without a mark of
its encoding. A name that a spreadsheet would take for a formula has an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mtl_med.errors import UsageError
from mtl_med.files import safe_name, write_text

__all__ = ["REVIEW_FILE", "read_review", "write_review"]

REVIEW_FILE = "names_review.csv"
_COLUMNS = ("original", "times", "cases", "suggestion", "name")
_SHOWN_CASES = 3
_SUGGESTED = 500  # names, the most frequent ones: to look for near names takes its time
_FORMULA = ("=", "+", "-", "@", "'")


def write_review(
    path: Path,
    unmatched: Mapping[str, Iterable[str]],
    suggest: Callable[[str], Iterable[str]],
    *,
    for_owner: bool = False,
) -> int:
    """Write the names that nothing is known of, the most frequent first; what a person filled in earlier stays.

    Decisions that were passed back are no longer unknown. Their rows stay too, at the end: the list may be the only
    place where they stand, and the next run needs them again.

    The originals are what clinicians typed, and may tell who a patient is: see `mtl_med.prep.identity`.

    Args:
        path: the CSV to write.
        unmatched: id of each case -> names of its structures that are not known.
        suggest: name -> names of the table that could be meant (`NameTable.suggest`).
        for_owner: nobody else may ever read it.

    Returns:
        the number of names.

    Raises:
        UsageError: a list lies there that cannot be read.
        OutputError: the file cannot be written.
    """
    times: Counter[str] = Counter()
    cases: dict[str, list[str]] = {}
    for case_id, names in sorted(unmatched.items()):
        for name in names:
            times[name] += 1
            cases.setdefault(name, []).append(case_id)
    filled = read_review(path) if path.is_file() else {}
    decided = [name for name in filled if name not in times]
    told = _told(path) if decided else {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for number, name in enumerate(sorted(times, key=lambda item: (-times[item], item))):
        shown = list(dict.fromkeys(cases[name]))
        ids = " ".join(shown[:_SHOWN_CASES]) + (" ..." if len(shown) > _SHOWN_CASES else "")
        near = " or ".join(suggest(name)) if number < _SUGGESTED else ""
        row = (name, times[name], ids, near, filled.get(name, ""))
        writer.writerow([_guarded(str(cell)) for cell in row])
    writer.writerows([_guarded(cell) for cell in (*told[name], filled[name])] for name in decided)
    write_text(
        path, "\ufeff" + text.getvalue(), for_owner=for_owner
    )  # without the mark, spreadsheets would break every umlaut
    return len(times)


def read_review(path: Path) -> dict[str, str]:
    """Original -> name, of the rows whose column `name` is filled.

    Raises:
        UsageError: no such list, a name that cannot be one, or two names for one original.
    """
    rows = _rows(path)
    if not rows or not {"original", "name"} <= set(rows[0]):
        raise UsageError(f"has no columns {', '.join(_COLUMNS)}", where=path, fix="Fill in the list as prep wrote it")
    original, name = rows[0].index("original"), rows[0].index("name")
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) <= max(original, name) or not row[name].strip():
            continue
        key, value = row[original].removeprefix("'"), row[name].strip().removeprefix("'")
        where = f"{path}, row {number}"
        if not key.strip():
            why = "Structures without one can be anything"
            raise UsageError(f"'{value}' is for no original name", where=where, why=why, fix="Empty the row")
        if safe_name(value) != value:
            raise UsageError(f"'{value}' cannot be a name", where=where, fix="Use letters, digits, _ and -")
        if found.setdefault(key, value) != value:
            raise UsageError(f"'{key}' has two names: {found[key]} and {value}", where=where, fix="Keep one of them")
    return found


def _told(path: Path) -> dict[str, list[str]]:
    """Original -> what a list says of it in all columns but the last."""
    head, *rows = _rows(path)
    cells = [dict(zip(head, (cell.removeprefix("'") for cell in row), strict=False)) for row in rows]
    return {row["original"]: [row.get(name, "") for name in _COLUMNS[:-1]] for row in cells if "original" in row}


def _rows(path: Path) -> list[list[str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise UsageError(f"is no CSV file: {error}", where=path, fix="Fill in the list as prep wrote it") from error


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
