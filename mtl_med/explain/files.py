"""The files of an explanation: maps on the image's own voxels, pictures of them, and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.explain.conflict import conflict
from mtl_med.explain.grid import on_source
from mtl_med.explain.model import Effect, Trained, effects, masks
from mtl_med.files import atomic_path, write_text
from mtl_med.geometry import Grid, reorient
from mtl_med.io.nifti import read_grid, read_nifti, write_nifti
from mtl_med.io.picture import read_picture
from mtl_med.manifest import Case, Manifest
from mtl_med.networks.attention_maps import EXCHANGE, STAGE, attends
from mtl_med.networks.knock_out import exchanges
from mtl_med.overlays import picture_overlay, volume_overlay
from mtl_med.planes import aspect_of, cut
from mtl_med.prep.body import body_mask
from mtl_med.report.figures.drawing import png
from mtl_med.report.figures.explanation import Tile, attention_sheet, conflict_figure
from mtl_med.tasks import Task
from mtl_med.training.part_conflict import ALL_SHARED, PartConflict

__all__ = ["write_conflict", "write_maps"]

_GREY_PERCENT = (1.0, 99.5)  # of a volume's values within the patient: black and white
_EFFECT = "effect"


def write_maps(out: Path, trained: Trained, data: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Write every map that the network has of a case, as NIfTI and PNG.

    Args:
        out: the folder.
        trained: the bundle.
        data: the preprocessed case with its `id` and `source`.

    Returns:
        What each map is, and sentences about what there is and is not.
    """
    method = trained.settings.get("method") or "This network"
    found = {}
    told: list[str] = []
    if attends(trained.network):
        found = masks(trained, data)
    else:
        told.append(f"{method} has neither masks nor an exchange that compares positions: no attention to show.")
    if exchanges(trained.network):
        changed, numbers = effects(trained, data)
        found |= {f"{task}/{_EFFECT}": value for task, value in changed.items()}
        _write_table(out / "exchange_effect.csv", Effect, numbers)
        told.append(_effect_in_words(numbers))
    if not found:
        return [], told
    picture = "size" in data and len(data["size"]) == 2
    source = str(data["source"])
    found = {
        f"{task.name}/{part}": found[f"{task.name}/{part}"]
        for task in trained.tasks
        for part in dict.fromkeys(name.partition("/")[2] for name in found)
        if f"{task.name}/{part}" in found
    }
    picture = "size" in data and len(data["size"]) == 2
    source = str(data["source"])
    maps, seen, grid = on_source(trained, data, found, None if picture else read_grid(source))
    image = read_picture(source) if picture else read_nifti(source, np.float32)[0]
    # Around the patient is air, where nothing is predicted but networks hold extreme values: it sets no colours.
    inside = seen if picture else _patient(image, seen)
    tasks = {task.name: task for task in trained.tasks}
    records = []
    for name, values in maps.items():
        task, _, part = name.partition("/")
        if part == _EFFECT:
            maps[name] = values = values * inside
        record = _record(tasks[task], part, values[inside])
        write_nifti(out / f"{record['name']}.nii.gz", values, grid)
        path, title = out / f"{record['name']}.png", f"{data['id']}: {record['title']}"
        label = record["unit"] or "attention"
        if picture:
            picture_overlay(image, values[:, :, 0].T, path, title, label)
        else:
            volume_overlay(image, grid, np.where(inside, values, np.nan), path, title, label)
        records.append(record)
    shown = {
        name: np.where(seen, np.clip(values, record["low"], record["high"]), np.nan)
        for (name, values), record in zip(maps.items(), records, strict=True)
    }
    _write_sheet(out / "attention.png", str(data["id"]), image, shown, inside, grid, records)
    return records, told


def _patient(ct: NDArray, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the network saw the body; all that it saw where no body is found."""
    inside = seen & (body_mask(ct) > 0)
    return inside if bool(inside.any()) else seen


def _record(task: Task, part: str, values: NDArray) -> dict[str, Any]:
    """What a map is, for `run.json` and those who read it."""
    titles = {EXCHANGE: "exchange", _EFFECT: "effect of the exchange"}
    units = {"segmentation": "probability", "regression": task.unit}
    return {
        "name": f"{_EFFECT}_{task.name}" if part == _EFFECT else f"attention_{task.name}_{part}",
        "task": task.name,
        "part": part,
        "title": f"{task.name}, {titles.get(part, part.replace(STAGE, f'{STAGE} '))}",
        "unit": units.get(task.kind, "") if part == _EFFECT else "",
        "low": round(float(values.min()), 6),
        "high": round(float(values.max()), 6),
        "mean": round(float(values.mean()), 6),
    }


def _write_sheet(
    path: Path,
    case: str,
    image: NDArray,
    maps: Mapping[str, NDArray],
    inside: NDArray[np.bool_],
    grid: Grid,
    records: Sequence[Mapping[str, Any]],
) -> None:
    """All maps side by side; of a volume the axial plane in which they vary most within the patient."""
    if grid.shape[2] == 1 and image.ndim == 3 and image.shape[:2] == (grid.shape[1], grid.shape[0]):
        background, aspect = image / 255, 1.0
        planes = {name: value[:, :, 0].T for name, value in maps.items()}
    else:
        turned = {name: reorient(value, grid)[0] for name, value in maps.items()}
        volume, ras = reorient(image, grid)
        patient = reorient(inside, grid)[0]
        centre = [0, 0, _plane(turned, patient)]
        # Most of a CT is air: taken over all of it, every tissue would be white.
        dark, bright = np.percentile(volume[patient], _GREY_PERCENT)
        background = np.clip((cut(volume, "axial", centre) - dark) / max(bright - dark, 1e-6), 0, 1)
        planes = {name: cut(value, "axial", centre) for name, value in turned.items()}
        rows, columns = np.nonzero(np.isfinite(next(iter(planes.values()))))
        window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        background, planes = background[window], {name: plane[window] for name, plane in planes.items()}
        aspect = aspect_of(ras, "axial")
    tiles: dict[str, list[Tile]] = {}
    for plane, record in zip(planes.values(), records, strict=True):
        title = record["title"].partition(", ")[2]
        tiles.setdefault(record["task"], []).append(Tile(title, plane, record["low"], record["high"], record["unit"]))
    figure = attention_sheet(background, tiles, case, aspect=aspect)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure, dpi=90))


def _plane(maps: Mapping[str, NDArray], inside: NDArray[np.bool_]) -> int:
    """Index of the axial plane in which the maps, each in its own measure, vary most."""
    counts = np.maximum(1, inside.sum(axis=(0, 1)))
    total = np.zeros(inside.shape[2])
    for value in maps.values():
        mean = np.where(inside, value, 0).sum(axis=(0, 1)) / counts
        spread = float(value[inside].std()) or 1.0
        total += np.where(inside, (value - mean) ** 2, 0).sum(axis=(0, 1)) / spread**2
    return int(np.argmax(total))


def _effect_in_words(numbers: Sequence[Effect]) -> str:
    """The outputs that change most, of each task one."""
    parts = []
    for task in dict.fromkeys(row.task for row in numbers):
        own = [row for row in numbers if row.task == task]
        most = max(own, key=lambda row: abs(row.trained - row.alone))
        parts.append(f"{task} ({most.output}, {most.measure}) {_short(most.trained)}, without {_short(most.alone)}")
    return f"With what the exchange tells of the other tasks' places: {'; '.join(parts)}."


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_conflict(out: Path, trained: Trained, manifest: Manifest | None, case: Case | None) -> list[str]:
    """Write the cosine between the tasks' gradients in each part of the network, as table and picture.

    Returns:
        One sentence about it, or about why there is none.
    """
    if manifest is None or case is None:
        return ["No gradients: they need labels, which only a case of a --study has."]
    if len(trained.tasks) < 2:
        return [f"No gradient conflict: '{trained.tasks[0].name}' is the only task."]
    try:
        rows = conflict(trained, manifest, case)
    except UsageError as error:
        return [f"No gradients: {error}"]
    _write_table(out / "gradient_conflict.csv", PartConflict, rows)
    parts: dict[str, dict[str, float]] = {}
    for row in rows:
        parts.setdefault(row.part, {})[f"{row.first} and {row.second}"] = row.cosine
    with atomic_path(out / "gradient_conflict.png") as temporary:
        temporary.write_bytes(png(conflict_figure(parts)))
    if not any(row.parameters for row in rows):
        return ["No gradient conflict: the tasks share no parameter."]
    total = ", ".join(f"{row.first} and {row.second} {row.cosine:+.3f}" for row in rows if row.part == ALL_SHARED)
    worst = min((row for row in rows if row.cosine == row.cosine), key=lambda row: row.cosine, default=None)
    lowest = f"; lowest in {worst.part} ({worst.cosine:+.3f})" if worst else ""
    return [f"Cosine between the tasks' gradients on all that is shared: {total}{lowest}."]


def _write_table(path: Path, kind: type, rows: Iterable[Any]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    for row in rows:
        writer.writerow([f"{cell:.9g}" if isinstance(cell, float) else cell for cell in astuple(row)])
    write_text(path, stream.getvalue())
