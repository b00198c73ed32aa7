"""What a network is asked to predict.

A task's kind is only a name here. What a kind means for decoders, losses, metrics and figures is a table in each of
those rooms, keyed by `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtl_med.errors import UsageError, nearest

__all__ = ["KINDS", "PERCENT", "PIXEL_KINDS", "Task", "as_tasks"]

KINDS = ("segmentation", "regression", "classification")
PIXEL_KINDS = ("segmentation", "regression")
PERCENT = "percent"  # "%" alone begins a macro in MONAI's configs


@dataclass(frozen=True)
class Task:
    """One output of a network.

    Args:
        name: key of the task in every dictionary: predictions, labels, losses, metrics.
        kind: one of `KINDS`. `segmentation` is one sigmoid per structure (structures may overlap), `regression` a map
            of values in `unit`, `classification` a softmax over classes per image.
        channels: number of output channels (structures, maps or classes).
        class_names: names of the channels; empty for a single unnamed map.
        unit: unit of a regression, such as "Gy", or `PERCENT` for a dose in percent of the highest prescription.
        required: a case without this label is refused instead of trained partially.
    """

    name: str
    kind: str
    channels: int = 1
    class_names: tuple[str, ...] = ()
    unit: str = ""
    required: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind '{self.kind}' of task '{self.name}'", fix=nearest(self.kind, KINDS))
        if not self.name.isidentifier():
            raise UsageError(f"task name '{self.name}' is not an identifier", fix="Use letters, digits and _")
        if self.class_names and len(self.class_names) != self.channels:
            raise UsageError(
                f"task '{self.name}' has {self.channels} channels but {len(self.class_names)} class names",
                fix="Give one name per channel",
            )

    @property
    def is_pixel_level(self) -> bool:
        """Whether the output is a map of the image's size rather than one vector per image."""
        return self.kind in PIXEL_KINDS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form, accepted by `as_tasks`."""
        return asdict(self) | {"class_names": list(self.class_names)}


def as_tasks(tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task]) -> tuple[Task, ...]:
    """Tasks from their plain form `{name: {"kind": ..., "class_names": [...]}}`; tasks pass through.

    Raises:
        UsageError: no task, two of one name, an unknown field or kind.
    """
    if isinstance(tasks, Mapping):
        tasks = [_from_dict(name, fields) for name, fields in tasks.items()]
    if not isinstance(tasks, Sequence) or not all(isinstance(task, Task) for task in tasks):
        raise UsageError(f"tasks are {tasks!r}", fix='Give an object such as {"dose": {"kind": "regression"}}')
    names = [task.name for task in tasks]
    if not names:
        raise UsageError("no task is given", fix="Name at least one task")
    if len(set(names)) != len(names):
        raise UsageError(f"two tasks share a name: {', '.join(names)}", fix="Give each task its own name")
    return tuple(tasks)


def _from_dict(name: str, fields: Mapping[str, Any]) -> Task:
    if not isinstance(fields, Mapping):
        raise UsageError(f"task '{name}' is {fields!r}", fix='Give an object such as {"kind": "regression"}')
    known = set(Task.__dataclass_fields__)
    for field in fields:
        if field not in known:
            raise UsageError(f"task '{name}' has an unknown field '{field}'", fix=nearest(field, known))
    class_names = tuple(fields.get("class_names", ()))
    channels = fields.get("channels", len(class_names) or 1)
    if not isinstance(channels, int):
        raise UsageError(f"task '{name}' has {channels!r} channels", fix="Give a whole number")
    rest = {key: fields[key] for key in ("unit", "required") if key in fields}
    return Task(name=name, kind=str(fields.get("kind", "")), channels=channels, class_names=class_names, **rest)
