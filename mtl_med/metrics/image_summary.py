"""Image-level scores for reading in a terminal: figures with intervals, a line per class, the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mtl_med.metrics.image_rows import DECIDED_AS
from mtl_med.metrics.rows import Row

__all__ = ["image_lines"]

_LABELS = {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "f1": "F1", "f1_macro": "mean F1", "ece": "ECE"}
_COUNTS = ("cases", "cases_without_label")
_CLASS_COLUMNS = ("sensitivity", "specificity", "f1", "auc")
_ENDS = ("_low", "_high")

Table = Mapping[str, Row]


def image_lines(rows: Iterable[Row]) -> list[str]:
    """Lines about every task that `metrics.image_rows.score_rows` told of, and any other score without a case.

    Args:
        rows: those without a case count.
    """
    tasks: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        if not row.case:
            tasks.setdefault(row.task, {}).setdefault(row.structure, {})[row.metric] = row
    lines: list[str] = []
    for task, tables in tasks.items():
        classes = {name: table for name, table in tables.items() if name and "sensitivity" in table}
        lines += ["", *_task_lines(task, tables[""])] if "" in tables else []
        lines += [*_class_lines(classes), *_matrix_lines(classes)] if classes else []
    return lines


def _task_lines(task: str, table: Table) -> list[str]:
    cases = table["cases"].value if "cases" in table else math.nan
    absent = table["cases_without_label"].value if "cases_without_label" in table else 0
    head = "images" if math.isnan(cases) else f"images with the label '{task}': {cases:.0f}"
    lines = [f"{head}; {absent:.0f} without it left out" if absent else head]
    how: dict[str, list[str]] = {}
    for metric, row in table.items():
        if metric in _COUNTS or metric.endswith(_ENDS):
            continue
        interval = _interval(table, metric)
        label, told = _LABELS.get(metric, metric), row.convention.replace(";", ", ").replace("_", " ")
        lines.append(f"  {task}  {label:<17}  {_number(row.value)}  {interval:<14}  {told}".rstrip())
        if interval:
            how.setdefault(table[f"{metric}_low"].convention, []).append(label)
    for told, labels in how.items():
        of = "" if len(how) == 1 else f" of {', '.join(labels)}"
        lines.append(f"  intervals{of}: {told.replace(';', ', ')}")
    return lines


def _class_lines(classes: Mapping[str, Table]) -> list[str]:
    width = max(5, *(len(name) for name in classes))
    lines = [
        "",
        f"  {'class':<{width}}  images" + "".join(f"  {_LABELS.get(m, m):<20}" for m in _CLASS_COLUMNS).rstrip(),
    ]
    for name, table in classes.items():
        cells = [f"{_number(table[metric].value)} {_interval(table, metric)}".rstrip() for metric in _CLASS_COLUMNS]
        line = f"  {name:<{width}}  {table['cases'].value:6.0f}" + "".join(f"  {cell:<20}" for cell in cells)
        lines.append(line.rstrip())
    return lines


def _matrix_lines(classes: Mapping[str, Table]) -> list[str]:
    names = list(classes)
    head = "true, decided:"
    width = max(len(head), *(len(name) for name in names))
    lines = ["", f"  {head:<{width}}" + "".join(f"  {name:>{max(5, len(name))}}" for name in names)]
    for name, table in classes.items():
        cells = (f"  {table[f'{DECIDED_AS}{other}'].value:{max(5, len(other))}.0f}" for other in names)
        lines.append(f"  {name:<{width}}" + "".join(cells))
    return lines


def _interval(table: Table, metric: str) -> str:
    ends: Sequence[float] = [table[f"{metric}{end}"].value for end in _ENDS if f"{metric}{end}" in table]
    if len(ends) < 2 or any(math.isnan(end) for end in ends):
        return ""
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _number(value: float) -> str:
    return f"{'-':>5}" if math.isnan(value) else f"{value:5.3f}"
