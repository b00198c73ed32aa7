"""Whether the value of an option can be meant at all, by what the part that takes it says in its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from mtl_med.errors import UsageError

__all__ = ["check_types", "in_unit"]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _each(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Sequence) and not isinstance(value, str) and all(map(test, value))


# Annotation of a parameter -> whether a value is of that kind, and the kind in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda value: _is_whole(value) and value >= 0, "a whole number"),
    "float": (_is_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "a word"),
    "Sequence[int]": (_each(lambda item: _is_whole(item) and item > 0), "a list of whole numbers of 1 or more"),
    "Sequence[float]": (_each(_is_number), "a list of numbers"),
}


def check_types(part: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options of a kind that the part does not take; which values of the kind are right it says itself.

    Args:
        part: a class or function with annotations.
        options: by the names of its parameters.

    Raises:
        UsageError: names the option, what was found and what is expected.
    """
    parameters = inspect.signature(part).parameters
    for name, value in options.items():
        kind, _, none = str(parameters[name].annotation).partition(" | ")
        test, words = _KINDS.get(kind, (None, ""))
        if test is None or test(value) or (none and value is None):
            continue
        default = parameters[name].default
        example = "" if default in (None, inspect.Parameter.empty) else f", such as {_written(default)}"
        raise UsageError(f"{name} is {value!r}", fix=f"Give {words}{example}{' or none' if none else ''}")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def in_unit(value: float, name: str) -> float:
    """A probability of less than 1.

    Raises:
        UsageError: it is none.
    """
    if not 0 <= value < 1:
        raise UsageError(f"{name} is {value}", fix="Give a probability of 0 or more and less than 1")
    return value
