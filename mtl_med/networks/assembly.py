"""Parts of a network from names and options: what belongs to which part is read off the parts' signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.decoders import DECODERS, HEADS
from mtl_med.networks.encoders import ENCODERS, Encoder
from mtl_med.networks.option_types import check_types
from mtl_med.tasks import Task, as_tasks

__all__ = ["check_options", "check_per_task", "known_options", "options_for", "parts"]

# Options that are a mapping from task to value, and what the task's decoder calls the value.
PER_TASK = {"priors": "prior", "output_scales": "output_scale"}
GIVEN = {"spatial_dims", "in_channels", "stride", "tasks", "task", "encoder", *PER_TASK.values()}


def options_of(part: Callable[..., Any]) -> set[str]:
    """Names of the options that a part takes."""
    return set(inspect.signature(part).parameters) - GIVEN


def known_options(encoder: str, *others: Callable[..., Any] | None) -> set[str]:
    """Names of the options of a network with this encoder, any decoder and the other parts.

    Raises:
        UsageError: unknown encoder.
    """
    if encoder not in ENCODERS:
        raise UsageError(f"unknown encoder '{encoder}'", fix=nearest(encoder, ENCODERS))
    takers = [ENCODERS[encoder], *DECODERS.values(), *(part for part in others if part is not None)]
    return set(PER_TASK).union(*(options_of(part) for part in takers))


def check_options(options: Iterable[str], known: set[str], encoder: str) -> None:
    """Refuse an option that no part takes.

    Raises:
        UsageError: with the nearest known names.
    """
    for name in options:
        if name not in known:
            raise UsageError(f"unknown option '{name}' of a network with encoder '{encoder}'", fix=nearest(name, known))


def parts(
    spatial_dims: int,
    in_channels: int,
    tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task],
    encoder: str,
    streams: Callable[..., nn.Module],
    exchange: Callable[..., nn.Module],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Keyword arguments for `MultiTaskNet`.

    Args:
        streams: makes one map per task from the encoder's stages.
        exchange: what stands behind the streams.
        options: each goes to every part that takes it.

    Raises:
        UsageError: unknown encoder, spatial_dims or option, an unknown value of one, or a task whose name PyTorch keeps
            for itself.
    """
    listed = as_tasks(tasks)
    names = [task.name for task in listed]
    for name in names:
        if hasattr(nn.ModuleDict(), name):  # modules are found by it as attributes
            raise UsageError(f"no task can be called '{name}'", fix=f"Call it {name}_task, or otherwise")
    if spatial_dims not in (2, 3):
        raise UsageError(f"spatial_dims is {spatial_dims}", fix="Use 2 or 3")
    check_options(options, known_options(encoder, streams, exchange), encoder)
    check_per_task(listed, options)
    trunk = ENCODERS[encoder](spatial_dims, in_channels, **taken(ENCODERS[encoder], options))
    between: Any = streams(trunk, names, **taken(streams, options))
    common = {"norm": trunk.norm, "act": trunk.act}
    across: Any = exchange(spatial_dims, between.channels, names, **taken(exchange, {**options, **common}))

    def heads(table: Mapping[str, Callable[..., nn.Module]], width: int) -> dict[str, nn.Module]:
        return {task.name: make_head(table[task.kind], trunk, width, between.stride, task, options) for task in listed}

    return {
        "in_channels": in_channels,
        "tasks": listed,
        "encoder": trunk,
        "streams": between,
        "exchange": across,
        "decoders": heads(DECODERS, across.out_channels(between.channels)),
        "initial": heads(HEADS, between.channels) if getattr(across, "initial", False) else {},
    }


def make_head(
    kind: Callable[..., nn.Module], encoder: Encoder, width: int, stride: int, task: Task, options: Mapping[str, Any]
) -> nn.Module:
    """A decoder or a head of one task, with the options that belong to it."""
    own = {PER_TASK[o]: options[o][task.name] for o in PER_TASK if task.name in (options.get(o) or {})}
    try:
        check_types(kind, own)
    except UsageError as error:
        raise UsageError(error.what, where=f"task '{task.name}'", fix=error.fix) from error
    return kind(encoder, width, stride, task, **taken(kind, options), **own)


def check_per_task(tasks: Sequence[Task], options: Mapping[str, Any]) -> None:
    """Refuse priors and scales of tasks that are not there or whose kind has none.

    Raises:
        UsageError: with the nearest task, or no mapping from task to value.
    """
    kinds = {task.name: task.kind for task in tasks}
    for option, argument in PER_TASK.items():
        if not isinstance(options.get(option) or {}, Mapping):
            fix = f'Give a value per task, such as {{"{next(iter(kinds))}": ...}}'
            raise UsageError(f"{option} is {options[option]!r}", fix=fix)
        for name in options.get(option) or {}:
            if name not in kinds:
                raise UsageError(f"{option} names an unknown task '{name}'", fix=nearest(name, kinds))
            if argument not in inspect.signature(DECODERS[kinds[name]]).parameters:
                raise UsageError(
                    f"a {kinds[name]} task has none", where=f"{option} of task '{name}'", fix="Leave the task out"
                )


def options_for(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network of this task alone."""
    own = {
        name: {key: value for key, value in options[name].items() if key == task.name}
        for name in PER_TASK
        if options.get(name)
    }
    return {**options, **own}


def taken(part: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that `part` takes.

    Raises:
        UsageError: one is of a kind that it does not take.
    """
    own = {name: options[name] for name in sorted(options_of(part)) if name in options}
    check_types(part, own)
    return own
