"""What only the bundle can tell of a comparison: whether its overrides, budget and scores can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl_med.bundle import refuse_wrong_overrides
from mtl_med.comparison.fields import typed
from mtl_med.comparison.protocol import MethodRow, Protocol
from mtl_med.comparison.settings import SEPARATOR, Bundle, find_bundle, hash_of, settings_of, shortened
from mtl_med.errors import UsageError, nearest
from mtl_med.metrics import METRICS
from mtl_med.tasks import as_tasks

__all__ = ["open_bundle"]

# Ids that a comparison sets itself for each run.
_OWN = {"bundle_root", "dataset_dir", "output_dir", "seed", "resume", "weights", "split", "predictions_dir"}
_OWN |= {"metrics_file"}
# Whether photographs are trained on -> the score that its data have in another unit of length only.
_OTHER_LENGTH = {True: "surface_dice_2mm", False: "surface_dice_2px"}


def open_bundle(protocol: Protocol) -> Bundle:
    """Find the bundle and check the comparison against it.

    Raises:
        UsageError: no such bundle or config; an override of nothing, of what a comparison sets itself, or by an
            expression; a budget that cannot be reproduced; a score that a row does not have; two rows that are one.
    """
    bundle = find_bundle(protocol)
    for overrides, where in _all_overrides(protocol):
        _check_overrides(overrides, bundle, where)
    seen: dict[str, str] = {}
    for row in protocol.rows:
        where = f"{protocol.where}: rows.{row.name}"
        settings = settings_of(protocol, row, 0, bundle)
        _check_budget(settings["train"], where)
        _check_scores(protocol, row, settings["train"], where)
        twin = seen.setdefault(hash_of(settings), row.name)
        if twin != row.name:
            raise UsageError(f"would be the same runs as '{twin}'", where=where, fix="Give it other overrides")
    return bundle


def _all_overrides(protocol: Protocol) -> Iterator[tuple[Mapping[str, Any], str]]:
    yield protocol.overrides, f"{protocol.where}: overrides"
    for row in protocol.rows:
        yield row.overrides, f"{protocol.where}: rows.{row.name}"


def _check_overrides(overrides: Mapping[str, Any], bundle: Bundle, where: str) -> None:
    config = bundle.configs[0]
    for key, value in overrides.items():
        top = SEPARATOR.split(key)[0]
        if top == "minutes":
            raise UsageError(
                "a budget in minutes cannot be reproduced", where=where, fix="Give the length of the runs as epochs"
            )
        if top in _OWN:
            raise UsageError(f"'{top}' is set by the comparison itself", where=where, fix="Leave it out")
        if top not in config:
            known = [name for name in config if not name.startswith("_")]
            raise UsageError(f"the config has no '{top}' to override", where=where, fix=nearest(top, known, 4))
        _refuse_expressions(key, value, f"{where}: {key}")
    listing = [str(file) for file in bundle.training]
    words = [f"--{key}={'$None' if value is None else repr(value)}" for key, value in overrides.items()]
    try:
        refuse_wrong_overrides(["bundle/__main__.py", "run", "--config_file", repr(listing), *words])
    except UsageError as error:
        raise UsageError(error.what, where=where, fix=error.fix) from error


def _refuse_expressions(key: str, value: Any, where: str) -> None:
    """Overrides are values: what MONAI would evaluate, look up or import belongs into a config of the bundle."""
    if any(part.startswith("_") and part.endswith("_") for part in SEPARATOR.split(key)):
        raise UsageError(f"'{key}' is no value", where=where, fix="Put it into a config of the bundle")
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise UsageError(f"'{value}' is an expression", where=where, fix="Put it into a config of the bundle")
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_expressions(name, item, where)
    if isinstance(value, list):
        for item in value:
            _refuse_expressions("", item, where)


def _check_budget(config: Mapping[str, Any], where: str) -> None:
    if config.get("minutes") is not None:
        raise UsageError("a budget in minutes cannot be reproduced", where=where, fix="Use configs without minutes")
    epochs = config.get("epochs")
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise UsageError(
            f"epochs is {shortened(epochs)}", where=where, fix="Give the length of the runs in whole epochs"
        )


def _check_scores(protocol: Protocol, row: MethodRow, config: Mapping[str, Any], where: str) -> None:
    """Every score of the tables that a row stands in must be one of its tasks'."""
    listed = typed(config.get("tasks"), dict, f"{where}: tasks")
    for name, item in listed.items():
        typed(item, dict, f"{where}: tasks.{name}")
    try:
        tasks = {task.name: task for task in as_tasks(listed)}
    except UsageError as error:
        raise UsageError(error.what, where=f"{where}: tasks", fix=error.fix) from error
    for name in {name: None for group in protocol.groups if row.name in group.rows for name in group.metrics}:
        score = protocol.metric(name)
        here = f"{where}: metric '{name}'"
        if score.task not in tasks:
            raise UsageError(f"this row has no task '{score.task}'", where=here, fix=nearest(score.task, tasks))
        task = tasks[score.task]
        possible = {metric.name for metric in METRICS[task.kind]} - {_OTHER_LENGTH[config.get("inputs") == "rgb"]}
        if score.metric not in possible:
            raise UsageError(
                f"a {task.kind} has no {score.metric}", where=here, fix=f"It has {', '.join(sorted(possible))}"
            )
        for structure in score.structures or ():
            if structure not in task.class_names:
                fix = nearest(structure, task.class_names) if task.class_names else "Write null for structures"
                raise UsageError(f"task '{task.name}' has no structure '{structure}'", where=here, fix=fix)
