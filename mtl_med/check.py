"""`mtl-med check`: what is wrong with a bundle, one line each, where MONAI would answer with pages or not at all."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from mtl_med.comparison.fields import read_strict_json
from mtl_med.comparison.settings import SEPARATOR, bundle_folder, merged
from mtl_med.errors import EXIT_OK, EXIT_SOME_FAILED, MtlMedError, UsageError, nearest
from mtl_med.tasks import as_tasks

__all__ = ["add_arguments", "check_configs", "check_files", "check_keys", "check_tasks", "run"]

_FILES = (
    *("LICENSE", "configs/metadata.json", "configs/train.json", "configs/evaluate.json", "configs/inference.json"),
    *("configs/multi_gpu_train.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt"),
)
_BASES = ("train.json", "inference.json")
_STEPS = ("imports", "initialize", "run", "finalize")
_REFERENCE = re.compile(r"[@%](\w+(?:(?:::|#)\w+)*)")
_ALIKE = 0.8  # of a misspelt id to the one that is meant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med check`."""
    parser.add_argument("bundle", help="name of a shipped bundle, or its folder")
    about = "study folder: are the bundle's structures, classes and splits in it"
    parser.add_argument("--study", type=Path, help=about)


def run(args: argparse.Namespace) -> int:
    """`mtl-med check`: 0 nothing is wrong, 4 something is."""
    root = bundle_folder(args.bundle)
    faults, hints = check_files(root)
    configs, broken = _read(root)
    form: list[str] = []
    if not broken:
        from mtl_med.check_network import check_form

        broken = [*check_configs(configs), *check_tasks(configs)]
        form = check_form(configs.get("metadata.json", {}))
        broken += [] if form else check_keys(configs)
    faults += [*broken, *form]
    told: list[str] = []
    if not broken and {"metadata.json", *_BASES} <= configs.keys():
        from mtl_med.check_network import check_arguments, check_outputs

        faults += check_arguments(configs)
        told, wrong = ([], []) if form else check_outputs(root, configs["metadata.json"])
        faults += wrong
    if args.study is not None and "train.json" in configs and not check_tasks(configs):
        from mtl_med.check_network import check_study

        faults += check_study(args.study, configs["train.json"])
    lines = [*(f"fault: {line}" for line in faults), *(f"hint: {line}" for line in hints), *told]
    end = f"{root.name}: {len(faults)} fault{'s' if len(faults) != 1 else ''}" if faults else f"{root.name}: all good"
    sys.stdout.write("\n".join([*lines, end]) + "\n")
    return EXIT_SOME_FAILED if faults else EXIT_OK


def check_files(root: Path) -> tuple[list[str], list[str]]:
    """Files that MONAI's clients expect and do not find, and how to make what may be missing."""
    faults = [
        UsageError(f"{name} is missing", fix=f"Write it; another bundle's {Path(name).name} shows what belongs there")
        for name in _FILES
        if not (root / name).is_file()
    ]
    if (root / "scripts").exists():
        faults.append(
            UsageError(
                "scripts/ is on the path only inside `run`, so that export and verify fail",
                fix="Put the code into a package, and name it by its full path",
            )
        )
    hints = []
    if not (root / "models" / "model.pt").is_file():
        command = f"python -m monai.bundle run --config_file {root}/configs/train.json --bundle_root {root}"
        hints.append(f"there is no models/model.pt; make it by training: {command} --dataset_dir <study>")
    return [str(fault) for fault in faults], hints


def _read(root: Path) -> tuple[dict[str, Any], list[str]]:
    """Every JSON config by its name, and the ones that are none."""
    configs: dict[str, Any] = {}
    faults = []
    for path in sorted((root / "configs").glob("*.json")):
        try:
            content = read_strict_json(path)
            if not isinstance(content, dict):
                raise UsageError("is no object of ids", where=path, fix='Begin it with "{"')
            configs[path.name] = content
        except MtlMedError as error:
            faults.append(str(error))
    return configs, faults


def check_configs(configs: Mapping[str, dict[str, Any]]) -> list[str]:
    """Ids that are used and not there, that are there and not used, and steps that lack.

    Args:
        configs: content by file name. What is no base and no metadata is an overlay over train.json.
    """
    faults: dict[str, None] = {}
    base = configs.get("train.json", {})
    of_base = {fault.what for fault in _config_faults(base, None, "train.json")} if base else set()
    for name, config in configs.items():
        if name == "metadata.json":
            continue
        overlay = name not in _BASES
        whole: Mapping[str, Any] = config
        if overlay:
            try:
                whole = merged([base, config])
            except UsageError as error:
                faults[str(UsageError(error.what, where=name, fix=error.fix))] = None
                continue
        found = _config_faults(whole, base if overlay else None, name)
        faults |= dict.fromkeys(str(fault) for fault in found if not overlay or fault.what not in of_base)
    return list(faults)


def _config_faults(config: Mapping[str, Any], base: Mapping[str, Any] | None, name: str) -> Iterator[UsageError]:
    """Faults of one config, an overlay already laid over its base."""
    yield from _missing_ids(config, name)
    yield from _unused_ids(config, base, name)
    if "run" not in config:
        yield UsageError("there is no id 'run'", where=name, fix="Name the steps of the program by it")
    for step in _STEPS:
        if not isinstance(config.get(step, []), list):
            yield UsageError(f"'{step}' is no list", where=name, fix="Put it into brackets")


def _texts(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config with its id."""
    if isinstance(node, str):
        yield where, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _texts(value, f"{where}#{key}" if where else str(key))


def _references(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(id of the text, id that it refers to). MONAI resolves expressions and texts that are a reference as a whole."""
    for where, text in _texts(config):
        if text.startswith("$") or _REFERENCE.fullmatch(text):
            yield from ((where, match) for match in _REFERENCE.findall(text))


def _missing_ids(config: Mapping[str, Any], name: str) -> Iterator[UsageError]:
    for where, wanted in _references(config):
        node: Any = config
        for part in SEPARATOR.split(wanted):
            known: Collection[str] = node if isinstance(node, dict) else ()
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                fix = nearest(part, [key for key in known if not key.startswith("_")], 2) if known else "Check the id"
                yield UsageError(f"'{where}' refers to '@{wanted}', which is not there", where=name, fix=fix)
                break


def _unused_ids(config: Mapping[str, Any], base: Mapping[str, Any] | None, name: str) -> Iterator[UsageError]:
    """Ids that an overlay brings and nothing uses, and those that look like a misspelt step.

    MONAI reads both in silence, and goes on as if they were not there.
    """
    used = {SEPARATOR.split(wanted)[0] for _, wanted in _references(config)} | set(_STEPS)
    for key in config:
        if key in used or key.startswith("_"):
            continue
        steps = difflib.get_close_matches(key, _STEPS, n=1, cutoff=_ALIKE)
        if steps or (base is not None and key not in base):
            fix = f"Did you mean {steps[0]}?" if steps else nearest(key, base or config, 2)
            yield UsageError(f"nothing uses the id '{key}'", where=name, fix=fix)


def check_tasks(configs: Mapping[str, dict[str, Any]]) -> list[str]:
    """What cannot be meant by the tasks of train.json; what only MONAI can resolve is left to it."""
    tasks = configs.get("train.json", {}).get("tasks", "@")
    if any(text.startswith(("$", "@", "%")) for _, text in _texts(tasks)):
        return []
    where = "train.json: tasks"
    try:
        as_tasks(tasks)
    except UsageError as error:
        return [str(UsageError(error.what, where=where, why=error.why, fix=error.fix))]
    return []


def check_keys(configs: Mapping[str, dict[str, Any]]) -> list[str]:
    """Data keys of which one begins with another and an underscore, at which some of MONAI's transforms crash."""
    keys = {"image": "the input"}
    form = configs.get("metadata.json", {}).get("network_data_format", {})
    for part in ("inputs", "outputs", "post_processed_outputs"):
        keys |= dict.fromkeys(form.get(part, {}), f"metadata.json: {part}")
    for name, fields in _tasks(configs):
        keys |= {name: "a task", f"labelled_{name}": f"labels of {name}"}
        if isinstance(fields, dict) and fields.get("kind") == "regression":
            keys |= {f"mask_{name}": f"mask of {name}", f"factor_{name}": f"factor of {name}"}
    return [
        str(
            UsageError(
                f"the data key '{long}' ({keys[long]}) begins with the key '{short}' ({keys[short]}) and an underscore",
                fix="Rename one of them",
            )
        )
        for short, long in permutations(keys, 2)
        if long.startswith(f"{short}_") and not short.startswith("labelled_")  # whose tasks are told of already
    ]


def _tasks(configs: Mapping[str, dict[str, Any]]) -> Sequence[tuple[str, Any]]:
    tables = [configs.get("train.json", {}).get("tasks"), configs.get("inference.json", {}).get("default_tasks")]
    return [item for table in tables if isinstance(table, dict) for item in table.items()]
