"""What a run of a comparison is trained with: the bundle's configs with the overrides put in, and their hash."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mtl_med.comparison.protocol import MethodRow, Protocol
from mtl_med.errors import UsageError, nearest
from mtl_med.files import read_json, sha256_bytes, shipped

__all__ = [
    "SEPARATOR",
    "Bundle",
    "bundle_folder",
    "differences",
    "find_bundle",
    "hash_of",
    "merged",
    "overrides_of",
    "settings_of",
    "shortened",
]

SEPARATOR = re.compile(r"::|#")
"""Between the parts of an id of a config."""

# Where a run lies says nothing about what it is.
_PATHS = ("bundle_root", "dataset_dir", "output_dir", "resume")


@dataclass(frozen=True)
class Bundle:
    """The bundle that a comparison trains.

    Args:
        root: its folder.
        training: its configs for training.
        evaluation: its configs for evaluation.
    """

    root: Path
    training: tuple[Path, ...]
    evaluation: tuple[Path, ...]

    @cached_property
    def configs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Content of the training and of the evaluation configs, later files over earlier ones."""
        return _read(self.training), _read(self.evaluation)

    def require_unchanged(self) -> None:
        """Refuse to go on when the files no longer hold what was read, by which runs are known.

        Raises:
            UsageError: they do not.
        """
        if (_read(self.training), _read(self.evaluation)) != self.configs:
            raise UsageError(
                "has changed since the comparison began", where=self.root / "configs", fix="Start it again"
            )


def find_bundle(protocol: Protocol) -> Bundle:
    """The bundle and the configs that a comparison names.

    Raises:
        UsageError: no such bundle or config.
    """
    where = f"{protocol.where}: bundle"
    root = bundle_folder(protocol.bundle, where)
    configs = root / "configs"
    present = {path.name for path in configs.glob("*.json")}
    for name in ("train.json", *protocol.configs, "evaluate.json"):
        if name not in present:
            raise UsageError(f"the bundle has no config '{name}'", where=where, fix=nearest(name, present))
    training = tuple(configs / name for name in ("train.json", *protocol.configs))
    return Bundle(root, training, (*training, configs / "evaluate.json"))


def bundle_folder(name: str, where: str = "") -> Path:
    """The folder of a bundle.

    Args:
        name: of a shipped bundle, or a path.
        where: for the message.

    Raises:
        UsageError: no such bundle; names the nearest shipped ones.
    """
    bundles = shipped("bundles")
    root = next((path for path in (bundles / name, Path(name)) if (path / "configs").is_dir()), None)
    if root is None:
        names = [path.parent.parent.name for path in bundles.glob("*/configs/train.json")]
        raise UsageError(f"there is no bundle '{name}'", where=where, fix=nearest(name, names))
    return root.resolve()


def overrides_of(protocol: Protocol, row: MethodRow) -> dict[str, Any]:
    """Common overrides and the row's own, which win."""
    return {**protocol.overrides, **row.overrides}


def settings_of(protocol: Protocol, row: MethodRow, seed: int, bundle: Bundle) -> dict[str, Any]:
    """Everything that a run is trained and evaluated with, but for its paths."""
    found = {}
    for name, config in zip(("train", "evaluate"), bundle.configs, strict=True):
        settings = copy.deepcopy(config)
        try:
            for key, value in {**overrides_of(protocol, row), "seed": seed}.items():
                _put(settings, SEPARATOR.split(key), value)
        except UsageError as error:
            raise UsageError(error.what, where=f"{protocol.where}: rows.{row.name}", fix=error.fix) from error
        found[name] = {key: value for key, value in settings.items() if key not in _PATHS}
    return found


def hash_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings; the order of keys does not matter."""
    return sha256_bytes(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode())


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """`id was ..., now ...` for each top-level id that differs."""
    lines: dict[str, str] = {}
    for part in ("train", "evaluate"):
        old, new = found.get(part, {}), wanted.get(part, {})
        for key in {**new, **old}:
            if old.get(key) != new.get(key):
                lines.setdefault(key, f"{key} was {shortened(old.get(key))}, now {shortened(new.get(key))}")
    return list(lines.values())


def shortened(value: Any) -> str:
    """A value as JSON, cut off where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _read(files: Sequence[Path]) -> dict[str, Any]:
    return merged([read_json(file) for file in files])


def merged(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Configs one over the other, as MONAI merges them.

    Raises:
        UsageError: an id of a later one goes into something that the earlier ones do not have.
    """
    config: dict[str, Any] = {}
    for part in configs:
        for key, value in part.items():
            parts = SEPARATOR.split(key.removeprefix("+"))
            old = _get(config, parts) if key.startswith("+") else None
            if isinstance(old, dict):
                value = old | value
            elif isinstance(old, list):
                value = old + value
            _put(config, parts, value)
    return config


def _get(node: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        node = node[int(part)] if isinstance(node, list) else node.get(part)
    return node


def _put(node: Any, parts: Sequence[str], value: Any) -> None:
    """Set a value below an id such as `train#dataset#seed` or `train#handlers#0`."""
    try:
        parent = _get(node, parts[:-1])
        parent[int(parts[-1]) if isinstance(parent, list) else parts[-1]] = copy.deepcopy(value)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        # Evaluation takes whole ids such as `tasks` from the weights, where a part of one cannot be replaced.
        fix = f"Check the id, or override '{parts[0]}' as a whole"
        raise UsageError(f"the config has no '{'#'.join(parts)}' to override", fix=fix) from error
