"""The comparison file: plain JSON that fixes methods, seeds, budget and metrics before the first run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_med.comparison.fields import read_strict_json, refuse_unknown, table_text, take, typed
from mtl_med.errors import UsageError, nearest
from mtl_med.files import safe_name
from mtl_med.metrics import METRICS

__all__ = ["SCHEMA", "Group", "MethodRow", "Protocol", "ScoreColumn", "parse_protocol", "read_protocol"]

SCHEMA = "mtl_med/comparison/1"
_KEYS = {"schema", "name", "title", "bundle", "configs", "seeds", "overrides", "rows", "groups", "metrics"}
_KNOWN = {metric.name: metric for metrics in METRICS.values() for metric in metrics}
_BLIND_TO_MISSES = {"hd95"}
_DEFAULT_BASELINE = "stl"


@dataclass(frozen=True)
class ScoreColumn:
    """A score by which methods are compared.

    Args:
        name: heading in the tables.
        task: task of the score's rows, such as "oar" or "dose".
        metric: a metric of `mtl_med.metrics.METRICS`.
        higher_is_better: l of Eq. 3 of the CTAN paper.
        unit: "1", "Gy" or "mm".
        structures: the structures that count; None for all.
    """

    name: str
    task: str
    metric: str
    higher_is_better: bool
    unit: str
    structures: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MethodRow:
    """One row: what is trained, once per seed.

    Args:
        name: heading in the tables.
        overrides: bundle ids -> values, which go before the common ones.
        seeds: one run each.
    """

    name: str
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """One table.

    Args:
        title: its heading.
        baseline: the row that the others are compared with.
        rows: names of its rows.
        metrics: names of its scores.
        not_worse_by: scores -> how much worse than the baseline's, in their own unit, a row's may be and still count as
            not worse; a sentence tells whether the interval over seeds keeps to that.
    """

    title: str
    baseline: str
    rows: tuple[str, ...]
    metrics: tuple[str, ...]
    not_worse_by: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """A comparison.

    Args:
        name: safe as a file name.
        title: one line.
        bundle: folder name of a shipped bundle, or a path.
        configs: overlay files under the bundle's `configs/`.
        overrides: bundle ids -> values, common to all rows.
        rows: in the order of the tables.
        groups: the tables.
        metrics: all scores.
        source: the JSON it was read from.
        where: name of the file, for messages.
    """

    name: str
    title: str
    bundle: str
    configs: tuple[str, ...]
    overrides: Mapping[str, Any]
    rows: tuple[MethodRow, ...]
    groups: tuple[Group, ...]
    metrics: tuple[ScoreColumn, ...]
    source: Mapping[str, Any]
    where: str

    def row(self, name: str) -> MethodRow:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def metric(self, name: str) -> ScoreColumn:
        """The score of a name."""
        return next(metric for metric in self.metrics if metric.name == name)

    def order(self) -> list[tuple[MethodRow, int]]:
        """Every run, seeds outermost, so that a comparison that is stopped early is balanced."""
        common = [seed for seed in self.source["seeds"] if any(seed in row.seeds for row in self.rows)]
        others = sorted({seed for row in self.rows for seed in row.seeds} - set(common))
        return [(row, seed) for seed in [*common, *others] for row in self.rows if seed in row.seeds]


def read_protocol(path: str | Path) -> Protocol:
    """Read and check a comparison file; what only the bundle can tell is checked by `checks.open_bundle`.

    Raises:
        UsageError: one sentence about the first fault: unreadable, no JSON (with the line), an unknown or repeated key,
            a wrong type, seeds or rows twice, a metric that cannot be, a baseline that is no row.
    """
    return parse_protocol(read_strict_json(path), Path(path).name)


def parse_protocol(fields: Any, where: str) -> Protocol:
    """Check the content of a comparison file.

    Args:
        fields: the JSON.
        where: name of the file, for messages.

    Raises:
        UsageError: as `read_protocol`.
    """
    typed(fields, dict, where)
    refuse_unknown(fields, _KEYS, where)
    schema = take(fields, "schema", str, where)
    if schema != SCHEMA:
        raise UsageError(f"schema is '{schema}', expected '{SCHEMA}'", where=where)
    name = take(fields, "name", str, where)
    if safe_name(name) != name:
        raise UsageError(f"'{name}' is no safe name", where=f"{where}: name", fix=f"Write '{safe_name(name)}'")
    seeds = _seeds(take(fields, "seeds", list, where), f"{where}: seeds")
    metrics = _metrics(take(fields, "metrics", list, where), f"{where}: metrics")
    rows = _rows(take(fields, "rows", dict, where), seeds, f"{where}: rows")
    title = table_text(take(fields, "title", str, where), f"{where}: title")
    configs = [typed(item, str, f"{where}: configs") for item in take(fields, "configs", list, where, [])]
    return Protocol(
        name=name,
        title=title,
        bundle=take(fields, "bundle", str, where),
        configs=tuple(configs),
        overrides=take(fields, "overrides", dict, where, {}),
        rows=rows,
        groups=_groups(take(fields, "groups", list, where, []), title, rows, metrics, f"{where}: groups"),
        metrics=metrics,
        source=fields,
        where=where,
    )


def _rows(fields: Mapping[str, Any], seeds: tuple[int, ...], where: str) -> tuple[MethodRow, ...]:
    if not fields:
        raise UsageError("there is no row", where=where, fix="Name at least one")
    rows = []
    for name, item in fields.items():
        here = f"{where}.{name}"
        table_text(name, here)
        refuse_unknown(typed(item, dict, here), {"overrides", "seeds"}, here)
        own = take(item, "seeds", list, here, None)
        overrides = take(item, "overrides", dict, here, {})
        rows.append(MethodRow(name, overrides, seeds if own is None else _seeds(own, f"{here}.seeds")))
    folders: dict[str, str] = {}
    for row in rows:
        other = folders.setdefault(safe_name(row.name).lower(), row.name)
        if other != row.name:
            raise UsageError(
                f"rows '{other}' and '{row.name}' would share a folder", where=where, fix="Rename one of them"
            )
    return tuple(rows)


def _seeds(values: list, where: str) -> tuple[int, ...]:
    for value in values:
        if typed(value, int, where) < 0:
            raise UsageError(f"seed {value} is negative", where=where, fix="Give whole numbers from 0")
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice or not values:
        what = f"seed {twice[0]} stands there twice" if twice else "there is no seed"
        raise UsageError(what, where=where, fix="Give each seed once")
    return tuple(values)


def _metrics(values: list, where: str) -> tuple[ScoreColumn, ...]:
    found: dict[str, ScoreColumn] = {}
    for number, item in enumerate(values):
        column = _metric(item, f"{where}[{number}]")
        if column.name in found:
            raise UsageError(f"two metrics are called '{column.name}'", where=where, fix="Rename one of them")
        found[column.name] = column
    if not found:
        raise UsageError("there is no metric", where=where, fix="Name at least one")
    return tuple(found.values())


def _metric(item: Any, where: str) -> ScoreColumn:
    refuse_unknown(typed(item, dict, where), set(ScoreColumn.__dataclass_fields__), where)
    name = table_text(take(item, "name", str, where), where)
    metric = take(item, "metric", str, where)
    if metric not in _KNOWN:
        raise UsageError(f"unknown metric '{metric}'", where=where, fix=nearest(metric, _KNOWN))
    if metric in _BLIND_TO_MISSES:
        raise UsageError(
            f"{metric} has no value where a structure was missed, so that a method is better off missing it",
            where=where,
            fix="Compare by surface_dice_2mm",
        )
    known = _KNOWN[metric]
    higher = take(item, "higher_is_better", bool, where, known.higher_is_better)
    unit = take(item, "unit", str, where, known.unit)
    if higher != known.higher_is_better:
        better = "higher" if known.higher_is_better else "lower"
        raise UsageError(f"{metric} is better when it is {better}", where=f"{where}.higher_is_better")
    if unit != known.unit:
        raise UsageError(f"{metric} has the unit '{known.unit}', not '{unit}'", where=f"{where}.unit")
    structures = take(item, "structures", list, where, None)
    if structures is not None:
        structures = tuple(typed(structure, str, f"{where}.structures") for structure in structures)
        if not structures or len(set(structures)) < len(structures):
            raise UsageError("names none, or one twice", where=f"{where}.structures", fix="Write null for all of them")
    return ScoreColumn(name, take(item, "task", str, where), metric, higher, unit, structures)


def _groups(
    values: list, title: str, rows: tuple[MethodRow, ...], metrics: tuple[ScoreColumn, ...], where: str
) -> tuple[Group, ...]:
    row_names, metric_names = tuple(row.name for row in rows), tuple(metric.name for metric in metrics)
    if not values:
        baseline = _DEFAULT_BASELINE if _DEFAULT_BASELINE in row_names else row_names[0]
        return (Group(title, baseline, row_names, metric_names),)
    groups = []
    for number, item in enumerate(values):
        here = f"{where}[{number}]"
        refuse_unknown(typed(item, dict, here), {"title", "baseline", "rows", "metrics", "not_worse_by"}, here)
        chosen = _names(take(item, "rows", list, here), row_names, f"{here}.rows", "row")
        baseline = take(item, "baseline", str, here)
        if baseline not in chosen:
            raise UsageError(
                f"the baseline '{baseline}' is none of its rows", where=here, fix=nearest(baseline, chosen)
            )
        scores = _names(take(item, "metrics", list, here, list(metric_names)), metric_names, here, "metric")
        margins = _margins(take(item, "not_worse_by", dict, here, {}), scores, f"{here}.not_worse_by")
        groups.append(Group(table_text(take(item, "title", str, here), here), baseline, chosen, scores, margins))
    return tuple(groups)


def _margins(fields: Mapping[str, Any], scores: tuple[str, ...], where: str) -> dict[str, float]:
    for name, value in fields.items():
        if name not in scores:
            raise UsageError(f"there is no metric '{name}' in this group", where=where, fix=nearest(name, scores))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise UsageError(f"is {value!r}", where=f"{where}.{name}", fix="Give a number from 0, in the score's unit")
    return {name: float(value) for name, value in fields.items()}


def _names(values: list, known: tuple[str, ...], where: str, what: str) -> tuple[str, ...]:
    for value in values:
        if typed(value, str, where) not in known:
            raise UsageError(f"there is no {what} '{value}'", where=where, fix=nearest(value, known))
    if not values or len(set(values)) < len(values):
        raise UsageError(f"names no {what}, or one twice", where=where, fix=f"Name each {what} once")
    return tuple(values)
