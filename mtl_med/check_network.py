"""What only running a bundle's parts can tell: arguments that nothing takes, outputs that are not as declared."""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mtl_med.errors import MtlMedError, UsageError, find_error, nearest
from mtl_med.loading import check_inputs
from mtl_med.manifest import Manifest, torn_sentence
from mtl_med.networks.stacked import stack_order
from mtl_med.tasks import Task, as_tasks

__all__ = ["check_arguments", "check_form", "check_outputs", "check_study"]

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}
_TOLERANCE = 1e-6


def check_arguments(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Components that are not there, and arguments that they do not take."""
    faults: dict[str, None] = {}
    for name, config in configs.items():
        for where, node in _components(config):
            target = node["_target_"]
            if not isinstance(target, str) or target.startswith(("$", "@")):
                continue
            found = _located(target)
            if found is None:
                faults[str(UsageError(f"'{where}' names {target}, which is not there", where=name))] = None
                continue
            known = _parameters(found)
            for key in node:
                if known is not None and not key.startswith("_") and key not in known:
                    what = f"'{where}' gives {target} an argument '{key}' that it does not take"
                    faults[str(UsageError(what, where=name, fix=nearest(key, known, 2)))] = None
    return list(faults)


def _components(node: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, dict) and "_target_" in node:
        yield where, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _components(value, f"{where}#{key}" if where else str(key))


def _located(target: str) -> Any:
    """The object of a full path, None where there is none."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _parameters(target: Any) -> set[str] | None:
    """Names that it takes; None where it takes any, or does not say."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def check_form(metadata: Mapping[str, Any]) -> list[str]:
    """What of network_data_format is of another form than the network can be held against.

    Args:
        metadata: content of metadata.json.
    """
    return [str(UsageError(what, where="metadata.json")) for what in _form_faults(metadata)]


def _form_faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    form = metadata.get("network_data_format", {})
    if not isinstance(form, dict):
        yield "network_data_format is no object"
        return
    for part in ("inputs", "outputs", "post_processed_outputs"):
        formats = form.get(part, {})
        if not isinstance(formats, dict):
            yield f"'{part}' is no object"
            continue
        for name, fields in formats.items():
            where = f"'{part}#{name}'"
            if isinstance(fields, dict):
                yield from (f"{where} {fault}" for fault in _field_faults(fields, part == "inputs"))
            else:
                yield f"{where} is no object"


def _field_faults(fields: Mapping[str, Any], is_input: bool) -> Iterator[str]:
    """Ends of the sentences about one input or output."""
    if is_input:
        yield from (f"has no {key}" for key in ("num_channels", "spatial_shape", "channel_def") if key not in fields)
        if str(fields.get("dtype", "float32")) not in _DTYPES:
            yield f"has the unknown dtype {fields['dtype']}. {nearest(str(fields['dtype']), _DTYPES)}"
    if not isinstance(fields.get("num_channels", 1), int):
        yield f"has the num_channels {fields['num_channels']}, expected a whole number"
    if not isinstance(fields.get("channel_def", {}), dict):
        yield "has a channel_def that is no object"
    sides = fields.get("spatial_shape", [])
    if not isinstance(sides, list):
        yield f"has the spatial_shape {sides}, expected a list"
    elif is_input and not all(isinstance(side, int) and side > 0 for side in sides):
        yield f"has the spatial_shape {sides}, expected whole numbers of at least 1"
    ends = fields.get("value_range") or []
    if not isinstance(ends, list) or len(ends) not in (0, 2) or not all(isinstance(end, int | float) for end in ends):
        yield f"has the value_range {ends}, expected two numbers or none"


def check_outputs(root: Path, metadata: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """One pass of the network of inference.json over the declared input, every output held against metadata.json.

    What becomes of the outputs is held against the tasks, which tell its channels.

    Args:
        root: the bundle.
        metadata: content of its metadata.json.

    Returns:
        What was found of each output, and the faults.
    """
    form = metadata.get("network_data_format", {})
    declared, inputs = form.get("outputs", {}), form.get("inputs", {})
    if not inputs or not declared:
        fault = UsageError("network_data_format declares no inputs or no outputs", where="metadata.json")
        return [], [str(fault)]
    name, fields = next(iter(inputs.items()))
    faults = [] if name == "image" else [f"metadata.json: the first input is '{name}'. Name it 'image'."]
    processed = form.get("post_processed_outputs", {})
    faults += _channel_names(inputs) + _channel_names(declared) + _channel_names(processed, "post-processed ")
    if faults:
        return [], faults
    try:
        network, channels, tasks = _network(root)
        if channels is not None and channels != fields["num_channels"]:
            what = f"input '{name}' has {channels} channels, metadata.json declares {fields['num_channels']}"
            return [], [str(UsageError(what, where="inference.json: network_def"))]
        seconds, outputs = _forward(network, fields)
    except Exception as error:
        ours = find_error(error)
        text = str(ours) if ours else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [], [f"the network cannot be built and run on the declared input: {text}"]
    if isinstance(outputs, torch.Tensor):
        outputs = {next(iter(declared)): outputs} if len(declared) == 1 else {"(one tensor)": outputs}
    told = [f"output {key}: {tuple(value.shape)}, {_dtype(value)}" for key, value in outputs.items()]
    faults = [f"metadata.json: the network has no output '{key}'." for key in declared if key not in outputs]
    for key, value in outputs.items():
        if key not in declared:
            fix = f"Declare it under network_data_format.outputs. {nearest(key, declared)}"
            faults.append(str(UsageError(f"output '{key}' is not declared", where="metadata.json", fix=fix)))
        else:
            faults += _compared(key, value, declared[key])
    faults += _classes(outputs, declared, tasks)
    faults += _processed(processed, tasks) if processed and tasks else ()
    return [*told, f"one pass took {seconds:.1f} s"], faults


def _channel_names(formats: Mapping[str, Mapping[str, Any]], which: str = "") -> list[str]:
    counts = {
        name: (fields.get("num_channels"), len(fields.get("channel_def", {}))) for name, fields in formats.items()
    }
    return [
        f"metadata.json: {which}'{name}' has {channels} channels, and names for {names} of them."
        for name, (channels, names) in counts.items()
        if channels != names
    ]


def _classes(
    outputs: Mapping[str, torch.Tensor], declared: Mapping[str, Mapping[str, Any]], tasks: Sequence[Task]
) -> Iterator[str]:
    """Channels of the network's outputs whose names are not those of the tasks' classes, in their order."""
    by_name = {task.name: task for task in tasks}
    for key in outputs:
        if key in by_name:
            yield from _misnamed(f"output '{key}'", declared.get(key, {}), by_name[key].class_names)
    if len(outputs) == 1 and not by_name.keys() & outputs.keys():  # one tensor with the channels of all tasks
        ((key, value),) = outputs.items()
        kinds = {task.is_pixel_level for task in tasks}
        if len(kinds) == 1 and sum(task.channels for task in tasks) == value.shape[1]:
            order = [by_name[name] for name in stack_order(tasks)]
            names = [name for task in order for name in task.class_names or [""] * task.channels]
            yield from _misnamed(f"output '{key}'", declared.get(key, {}), names)


def _processed(processed: Mapping[str, Mapping[str, Any]], tasks: Sequence[Task]) -> Iterator[str]:
    """Sentences about what post-processing is declared to leave."""
    by_name = {task.name: task for task in tasks}
    for key, fields in processed.items():
        where = f"post-processed output '{key}'"
        if key not in by_name:
            yield f"metadata.json: {where} belongs to no task. {nearest(key, by_name)}"
            continue
        task, ends = by_name[key], fields.get("value_range")
        if task.kind == "segmentation" and fields.get("num_channels") == 1 and ends == [0, task.channels]:
            continue  # a label map
        if fields.get("num_channels") != task.channels:
            yield f"{where} has {task.channels} channels, metadata.json declares {fields.get('num_channels')}."
        else:
            yield from _misnamed(where, fields, task.class_names)
        if ends and task.kind != "regression" and not 0 <= min(ends) <= max(ends) <= 1:
            yield f"{where} lies in 0 to 1, metadata.json declares {ends[0]} to {ends[1]}."
    for name in by_name:
        if name not in processed:
            yield f"metadata.json: task '{name}' is not declared under post_processed_outputs."


def _misnamed(where: str, fields: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Channels whose declared name does not hold the name of the class that they are of."""
    for index, name in enumerate(names):
        told = fields.get("channel_def", {}).get(str(index), "")
        if name and f" {_words(name)} " not in f" {_words(str(told))} ":
            yield f"{where}: channel {index} is '{name}', metadata.json calls it '{told}'."


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _network(root: Path) -> tuple[torch.nn.Module, int | None, Sequence[Task]]:
    """The network of inference.json, with weights where the bundle has some, its input channels, and its tasks."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser["bundle_root"] = str(root)
    parser["device"] = "cpu"
    channels = parser.get_parsed_content("network_def#in_channels") if "in_channels" in parser["network_def"] else None
    has_weights = (root / "models" / "model.pt").is_file()
    network = parser.get_parsed_content("network" if has_weights else "network_def")
    return network, channels, _our_tasks(parser)


def _our_tasks(parser: Any) -> Sequence[Task]:
    """Tasks of the config, where it has some of our form."""
    try:
        return as_tasks(parser.get_parsed_content("tasks")) if "tasks" in parser else ()
    except Exception:  # somebody else's
        return ()


def _forward(network: torch.nn.Module, fields: Mapping[str, Any]) -> tuple[float, Any]:
    low, high = fields.get("value_range") or (0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    shape = (1, fields["num_channels"], *fields["spatial_shape"])
    image = torch.rand(shape, generator=generator, dtype=torch.float32) * (high - low) + low
    started = time.perf_counter()
    with torch.no_grad():
        outputs = network.eval()(image.to(_DTYPES[fields.get("dtype", "float32")]))
    return time.perf_counter() - started, outputs


def _compared(key: str, value: torch.Tensor, fields: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about one output."""
    where = f"output '{key}'"
    if value.shape[1] != fields["num_channels"]:
        yield f"{where} has {value.shape[1]} channels, metadata.json declares {fields['num_channels']}."
    space, expected = tuple(value.shape[2:]), tuple(fields.get("spatial_shape", ()))
    if len(space) != len(expected) or any(isinstance(b, int) and a != b for a, b in zip(space, expected, strict=True)):
        yield f"{where} has the spatial shape {list(space)}, metadata.json declares {list(expected)}."
    if _dtype(value) != fields.get("dtype", "float32"):
        yield f"{where} is {_dtype(value)}, metadata.json declares {fields.get('dtype')}."
    if not bool(torch.isfinite(value).all()):
        yield f"{where} is not finite everywhere."
    elif fields.get("value_range"):
        low, high = fields["value_range"]
        least, most = float(value.min()), float(value.max())
        if least < low - _TOLERANCE or most > high + _TOLERANCE:
            yield f"{where} lies in {least:.4g} to {most:.4g}, metadata.json declares {low} to {high}."


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def check_study(study: str | Path, train: Mapping[str, Any]) -> list[str]:
    """Whether a study holds what the bundle trains on: splits, input, structures and classes."""
    try:
        if not isinstance(train.get("tasks"), dict):
            raise UsageError("'tasks' is no object, so that the study cannot be compared", where="train.json")
        manifest = Manifest.read(study)
        tasks = as_tasks(train["tasks"])
        check_inputs(str(train.get("inputs", "ct")), tasks)
    except MtlMedError as error:
        return [str(error)]
    present = {case.split for case in manifest}
    faults = [
        f"{study}: no case is in split '{name}'." for name in ("fit", "tune", "validation") if name not in present
    ]
    torn = manifest.torn_groups()
    faults += [f"{study}: {torn_sentence(torn)}."] if torn else []
    for task in tasks:
        faults += [f"{study}: {sentence}" for sentence in _task_faults(task, manifest)]
    return faults


def _task_faults(task: Task, manifest: Manifest) -> Iterator[str]:
    if task.kind == "classification":
        names = manifest.classes.get(task.name)
        if names is None:
            known = nearest(task.name, manifest.classes) if manifest.classes else "It has no image-level labels."
            yield f"has no labels of task '{task.name}'. {known}"
        elif set(names) != set(task.class_names):
            yield (
                f"the classes of task '{task.name}' are {', '.join(names)}, "
                f"those of the bundle {', '.join(task.class_names)}."
            )
        return
    keys = [f"structures/{name}" for name in task.class_names] if task.kind == "segmentation" else [task.name]
    for key in keys:
        if not any(case.has(key) for case in manifest):
            yield f"no case has {key}, which task '{task.name}' is trained on."
