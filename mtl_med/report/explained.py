"""What `mtl-med explain` left beside a case's prediction: attention maps, the exchange's effect, gradient conflict."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_med.errors import CaseError, MtlMedError, UsageError
from mtl_med.files import json_fault, read_json
from mtl_med.report.case_page import Block, CaseInputs, CasePrediction, Cell, Figure, Section, Table, Text
from mtl_med.report.figures.drawing import svg
from mtl_med.report.figures.explanation import conflict_figure
from mtl_med.report.numbers import number_cell, told

__all__ = ["FOLDER", "explained_section"]

FOLDER = "explain"
"""Folder of explanations within that of a case's prediction."""

_MAP = {"name": str, "task": str, "title": str, "unit": str, "low": (int, float), "high": (int, float)}
_RECORD = {
    "stage": str,
    "case": str,
    "weights": {"sha256": str},
    "settings": {"method?": (str, type(None))},
    "maps": [_MAP],
    "told": [str],
}
_JPEG_QUALITY = 85
_MASKS = (
    "Maps of one image, each in colours from its lowest to its highest value; lines go around the highest tenth of "
    "what is seen. A stage is the mask that the task makes there, mean over its channels, the finest first. The "
    "exchange is how strongly each position is re-read through the other tasks. The effect is how much the prediction "
    "changes where the exchange tells nothing of the other tasks' places."
)
_CROSSED = " With this method a task's mask is laid over the features of the other task, not over its own."


def explained_section(inputs: CaseInputs) -> Section | None:
    """What was explained of the first prediction of a case; None where nothing was.

    Raises:
        MtlMedError: its record is damaged or of another case.
    """
    prediction = inputs.predictions[0] if inputs.predictions else None
    if prediction is None or not (prediction.folder / FOLDER / "run.json").is_file():
        return None
    folder = prediction.folder / FOLDER
    record = _record(folder / "run.json", inputs.case.id)
    blocks: list[Block] = _notes(record, prediction)
    for make in (_sheet, _conflict, _effect):
        try:
            blocks += make(folder, record)
        except MtlMedError as error:
            blocks.append(Text(f"Left out: {error}", "warning"))
    return Section("explain", "Where the network looks", tuple(blocks))


def _record(path: Path, case: str) -> dict[str, Any]:
    found = read_json(path, "Run mtl-med explain again")
    fault = json_fault(found, _RECORD)
    if fault or found["stage"] != "explain":
        raise UsageError(f"is no record of explanations: {fault or 'of another stage'}", where=path)
    if found["case"] != case:
        raise UsageError(f"explains case '{found['case']}'", where=path, fix="Run mtl-med explain for this case")
    return found


def _notes(record: Mapping[str, Any], prediction: CasePrediction) -> list[Block]:
    texts: list[Block] = [Text(" ".join(record["told"]))]
    path = prediction.folder.parent / "run.json"
    made = read_json(path) if path.is_file() else {}
    known = "" if json_fault(made, {"weights": {"sha256": str}}) else made["weights"]["sha256"]
    if known and known != record["weights"]["sha256"]:
        texts.append(Text("These maps are of other weights than the prediction.", "warning"))
    return texts


def _sheet(folder: Path, record: Mapping[str, Any]) -> list[Block]:
    path = folder / "attention.png"
    if not (record["maps"] and path.is_file()):
        return []
    ranges = [
        f"{item['title']} {item['low']:.3g} to {item['high']:.3g} {item['unit']}".strip() for item in record["maps"]
    ]
    crossed = str(record["settings"].get("method") or "").startswith(("ctan", "ctae"))
    rows: list[list[Cell | str]] = [
        [
            item["title"],
            number_cell(item["low"], 3),
            number_cell(item["high"], 3),
            item["unit"],
            f"{item['name']}.nii.gz",
        ]
        for item in record["maps"]
    ]
    caption = "The same maps on the image's own voxels, as NIfTI beside the prediction: 3D Slicer opens them."
    return [
        Figure(
            alt=f"What each task attends to, stage by stage. {'; '.join(ranges)}.",
            caption=_MASKS + (_CROSSED if crossed else ""),
            data=_jpeg(path),
        ),
        Table(caption, ["map", "lowest", "highest", "unit", "file"], rows, folded=True),
    ]


def _jpeg(path: Path) -> bytes:
    """A picture made small enough for a page."""
    from PIL import Image

    stream = io.BytesIO()
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.convert("RGB").save(stream, format="JPEG", quality=_JPEG_QUALITY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CaseError("is no picture that can be read", where=path, fix="Run mtl-med explain again") from error
    return stream.getvalue()


def _conflict(folder: Path, record: Mapping[str, Any]) -> list[Block]:
    rows = _table(folder / "gradient_conflict.csv", ("cosine", "first_norm", "second_norm", "parameters"))
    if not any(row["parameters"] for row in rows):
        return []
    parts: dict[str, dict[str, float]] = {}
    for row in rows:
        parts.setdefault(row["part"], {})[f"{row['first']} and {row['second']}"] = row["cosine"]
    words = [
        f"{part}, {pair}: {told(value, signed=True)}" for part, own in parts.items() for pair, value in own.items()
    ]
    cells: list[list[Cell | str]] = [
        [
            row["part"],
            f"{row['first']} and {row['second']}",
            number_cell(row["cosine"], 3, signed=True, mark="warning" if row["cosine"] < 0 else ""),
            number_cell(row["first_norm"], 4),
            number_cell(row["second_norm"], 4),
            number_cell(row["parameters"], 0),
        ]
        for row in rows
    ]
    columns = ["part", "tasks", "cosine", "first gradient's length", "second's", "shared parameters"]
    figure = Figure(
        alt=f"Cosine between the tasks' gradients in each part of the network. {'; '.join(words)}.",
        caption="Cosine between the tasks' gradients on this one image, in each part that both reach. 1: both want the "
        "same; 0: they do not meddle with each other; below 0 they are in conflict. One image says little of a "
        "training.",
        data=_drawn(parts),
        line_art=True,
        width=760,
    )
    return [figure, Table("The gradients in numbers", columns, cells, folded=True)]


def _drawn(parts: Mapping[str, Mapping[str, float]]) -> bytes:
    return svg(conflict_figure(parts))


def _effect(folder: Path, record: Mapping[str, Any]) -> list[Block]:
    rows = _table(folder / "exchange_effect.csv", ("trained", "alone"))
    if not rows:
        return []
    cells: list[list[Cell | str]] = [
        [
            f"{row['task']}: {row['output']}",
            row["measure"],
            number_cell(row["trained"], 4),
            number_cell(row["alone"], 4),
            number_cell(row["alone"] - row["trained"], 4, signed=True),
        ]
        for row in rows
    ]
    caption = "What the prediction becomes where the exchange tells a task nothing of the other tasks' places."
    return [Table(caption, ["output", "measure", "as trained", "without", "difference"], cells, folded=True)]


def _table(path: Path, numbers: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a CSV with some columns as numbers; none where there is no file."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [{**row, **{name: float(row[name] or math.nan) for name in numbers}} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CaseError(f"cannot be read as a table: {error}", where=path, fix="Run mtl-med explain again") from error
