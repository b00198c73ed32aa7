"""JSON that a person wrote: each fault is one sentence that says where it is and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError, nearest

__all__ = ["read_strict_json", "refuse_unknown", "table_text", "take", "typed"]

_KINDS = {str: "text", list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}
_REQUIRED = object()
_SHOWN = 40  # characters of a wrong value


def read_strict_json(path: str | Path) -> Any:
    """JSON without repeated keys, of which Python would silently keep the last, and without NaN.

    Raises:
        UsageError: the file cannot be read or is no such JSON; names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8 text", where=path, fix="Save it as UTF-8") from error
    try:
        return json.loads(text, object_pairs_hook=_once(path.name), parse_constant=_no_constant(path.name))
    except RecursionError as error:
        raise UsageError("is nested too deeply", where=path, fix="Mend it") from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}", where=path, fix="Mend it"
        ) from error


def take(fields: Mapping[str, Any], key: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    """A value of the right type; null and absent are the default where there is one.

    Raises:
        UsageError: it is missing or of another type.
    """
    if key not in fields and default is _REQUIRED:
        raise UsageError(f"'{key}' is missing", where=where, fix="Add it")
    value = fields.get(key)
    return default if value is None and default is not _REQUIRED else typed(value, kind, f"{where}: {key}")


def typed(value: Any, kind: type, where: str) -> Any:
    """`value` itself when it is of the kind.

    Raises:
        UsageError: it is of another.
    """
    # true and false are whole numbers to Python, and not to the one who wrote them.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = json.dumps(value, ensure_ascii=False)
        found = found if len(found) <= _SHOWN else f"{found[: _SHOWN - 4]} ..."
        raise UsageError(f"is {found}, expected {_KINDS[kind]}", where=where)
    return value


def refuse_unknown(fields: Iterable[str], known: set[str], where: str) -> None:
    """Refuse a key that means nothing.

    Raises:
        UsageError: names the key and the nearest known ones.
    """
    for key in fields:
        if key not in known:
            raise UsageError(f"unknown key '{key}'", where=where, fix=nearest(key, known))


def table_text(text: str, where: str) -> str:
    """`text` itself when it fits into one cell of a Markdown table.

    Raises:
        UsageError: it does not.
    """
    if not text.strip() or not text.isprintable() or "|" in text or "<!--" in text:
        raise UsageError(f"{text!r} cannot stand in a table", where=where, fix="Write one line without |")
    return text


def _once(where: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UsageError(f"the key '{key}' stands twice in one object", where=where, fix="Rename one of them")
        return dict(pairs)

    return build


def _no_constant(where: str) -> Callable[[str], Any]:
    def refuse(name: str) -> Any:
        raise UsageError(f"holds the value {name}, which is no JSON", where=where, fix="Give a number or null")

    return refuse
