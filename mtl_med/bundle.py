"""What bundle configs call: checked overrides, settings that travel with weights, and the record of a run."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from mtl_med.errors import ModelError, OutputError, UsageError, install_excepthook, nearest
from mtl_med.files import read_json, write_json

__all__ = [
    "boolean",
    "numbers",
    "output_folder",
    "plain_values",
    "prepare",
    "refuse_wrong_overrides",
    "settings_path",
    "trained",
    "write_settings",
]

# Arguments of `python -m monai.bundle run` itself, which are no ids of a config.
_RUN_ARGUMENTS = {
    "args_file",
    "config_file",
    "final_id",
    "init_id",
    "logging_file",
    "meta_file",
    "properties_path",
    "run_id",
    "tracking",
    "workflow_type",
}
_SEPARATOR = re.compile(r"::|#")
# Options that are numbers, and the least that each may be: whole ones where the least is written as one.
_LEAST: dict[str, float] = {
    "batch_size": 1,
    "cache_rate": 0.0,
    "conflict_every": 0,
    "epochs": 1,
    "interval": 1,
    "learning_rate": 0.0,
    "limit": 1,
    "max_grad_norm": 0.0,
    "minutes": 0.0,
    "overlap": 0.0,
    "patience": 0,
    "prescription_gy": 0.0,
    "repeats": 1,
    "seed": 0,
    "weight_decay": 0.0,
    "workers": 0,
}
_OR_NONE = ("epochs", "limit", "max_grad_norm", "minutes", "prescription_gy")
_REQUIRED = object()
_log = logging.getLogger(__name__)


def prepare() -> None:
    """First step of every config: one sentence instead of a traceback for our errors, and no unknown override."""
    install_excepthook()
    refuse_wrong_overrides(sys.argv)


def refuse_wrong_overrides(arguments: Sequence[str]) -> None:
    """Refuse `--name value` that no config file defines, which MONAI would silently ignore, and numbers that are none.

    Args:
        arguments: the command line of `python -m monai.bundle run`; any other program's is left alone.

    Raises:
        UsageError: names the override and the nearest ids of the config, or the number that is expected.
    """
    if len(arguments) < 2 or arguments[1] != "run" or not Path(arguments[0]).as_posix().endswith("bundle/__main__.py"):
        return
    flags = _flags(arguments[2:])
    given: dict[str, Any] = {**(read_json(flags["args_file"]) if "args_file" in flags else {}), **flags}
    config: dict[str, Any] = {}
    for file in _config_files(given.get("config_file", "")):
        config |= read_json(file)
    for name, value in given.items():
        if config and _SEPARATOR.split(name)[0] not in _RUN_ARGUMENTS | {"_meta_"}:
            _refuse_unknown(name, config)
            _refuse_no_number(name, value)
            if name in flags:
                _refuse_lost_none(name, value, config)


def _refuse_unknown(name: str, config: Mapping[str, Any]) -> None:
    """Follow an id into the config; a component may be given new arguments, a group of components no new member."""
    node: Any = config
    parts = _SEPARATOR.split(name)
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or (depth and not _is_group(node)):
            return
        if part not in node:
            known = [key for key in node if not key.startswith("_")]
            whole = "#".join(parts[: depth + 1])
            raise UsageError(f"the config has no '{whole}' to override", where=f"--{name}", fix=nearest(part, known, 4))
        node = node[part]


def _refuse_no_number(name: str, value: Any) -> None:
    """Refuse what is no number, or too small a one, where the option is one; what MONAI evaluates is left to it."""
    value = None if str(value).strip() == "$None" else value
    if name not in _LEAST or str(value).strip()[:1] in ("$", "@", "%"):
        return
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value.strip())
    least, kinds = _LEAST[name], int if isinstance(_LEAST[name], int) else (int, float)
    if value is None and name in _OR_NONE:
        return
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
        number = "a whole number" if kinds is int else "a number"
        none = ", or None" if name in _OR_NONE else ""
        fix = f"Write --{name} '$None'" if none and str(value).lower() in ("null", "none") else ""
        raise UsageError(f"is {value!r}, expected {number} of {least:g} or more{none}", where=f"--{name}", fix=fix)


def _refuse_lost_none(name: str, value: str, config: Mapping[str, Any]) -> None:
    """Refuse None where it would change something: MONAI takes it for an option that was not given."""
    if value.strip() != "None":
        return
    node: Any = config
    for part in _SEPARATOR.split(name):
        node = node.get(part) if isinstance(node, Mapping) else None
    if node is not None:
        what = f"None on the command line is no value, and leaves {node!r}"
        raise UsageError(what, where=f"--{name}", fix=f"Write --{name} '$None'")


def _is_group(node: Mapping[str, Any]) -> bool:
    return "_target_" not in node and any(isinstance(item, dict) and "_target_" in item for item in node.values())


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """`--name value` and `--name=value`; names with underscores, as the command line reads them."""
    flags: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            flags[name] = value
        elif name:
            flags[name], name = argument, ""
    return flags


def _config_files(text: str | Sequence[str]) -> list[str]:
    if not isinstance(text, str):  # from an args_file
        return [str(item) for item in text]
    if not text.strip().startswith(("[", "(")):
        return [text] if text else []
    try:
        return [str(item) for item in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [item.strip(" '\"") for item in text.strip("[]() ").split(",")]


def boolean(value: Any, name: str = "value") -> bool:
    """True or false, also as text from the command line.

    Raises:
        UsageError: anything else.
    """
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "none": False}
    word = str(value).strip().lower()
    if word not in words:
        raise UsageError(f"'{value}' is neither true nor false", where=f"--{name}", fix=f"Write --{name} true or false")
    return words[word]


def numbers(values: Sequence[float], name: str, count: int, fix: str) -> tuple[float, ...]:
    """Finite numbers, as they come from a config or the command line.

    Args:
        values: some numbers.
        name: of the option that they were given by.
        count: how many are expected.
        fix: what the user can do.

    Raises:
        UsageError: another count, or what is no finite number.
    """
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    found = [float(v) for v in listed if isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v)]
    if not len(found) == len(listed) == count:
        shown = values[0] if count == 1 else values
        raise UsageError(f"{name} is {shown!r}, expected {'a number' if count == 1 else f'{count} numbers'}", fix=fix)
    return tuple(found)


def plain_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which the words of the command line have become values: `true`, `no`, `null` and the like; groups too.

    `--network_options#residual false` arrives as text, which is true wherever it is asked for.
    """
    values: dict[str, Any] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    values |= {"null": None, "none": None}

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items()}
        return values.get(value.strip().lower(), value) if isinstance(value, str) else value

    return {name: plain(value) for name, value in options.items()}


def output_folder(folder: str | Path, *below: str) -> str:
    """Make a folder for what a run writes.

    Raises:
        OutputError: it cannot be made or written.
    """
    path = Path(folder, *below)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", where=path, fix="Choose another --output_dir") from error
    if not os.access(path, os.W_OK):
        raise OutputError("cannot be written", where=path, fix="Choose another --output_dir")
    return str(path)


def settings_path(weights: str | Path) -> Path:
    """The file beside weights that says how they were trained: `model.json` for `model.pt`."""
    return Path(weights).with_suffix(".json")


def write_settings(weights: str | Path, settings: Mapping[str, Any]) -> None:
    """Keep beside the weights what inference must know: method, inputs, patch, spacing, network options."""
    write_json(settings_path(weights), json.loads(json.dumps(dict(settings))))


def trained(weights: str | Path, name: str, default: Any = _REQUIRED) -> Any:
    """A setting that the weights were trained with; `default` where there are no weights yet.

    Args:
        weights: path of the weights.
        name: name of the setting.
        default: used when there is no settings file, or it does not know `name`; without it the setting must be there.

    Raises:
        ModelError: there is no such setting and no default.
    """
    path = settings_path(weights)
    known = read_json(path) if path.is_file() else {}
    if name in known:
        return known[name]
    if Path(weights).is_file():
        _log.warning("%s does not tell '%s' of these weights; taken as in the config", path, name)
    if default is _REQUIRED:
        raise ModelError(
            f"there is no '{name}' to know the weights by",
            where=path,
            fix="Train first, or keep model.json beside model.pt",
        )
    return default
