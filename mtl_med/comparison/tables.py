"""Markdown tables in the form of Table 2 of the CTAN paper, made from the two small CSV files and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from mtl_med.comparison.analysis import Line, analyse
from mtl_med.comparison.notes import conventions, drawn_units, findings, span
from mtl_med.comparison.protocol import Group, ScoreColumn
from mtl_med.comparison.results import Results, read_results
from mtl_med.comparison.scores import of_run, select
from mtl_med.comparison.statistics import NOTHING, Estimate
from mtl_med.errors import UsageError, nearest
from mtl_med.files import within

__all__ = ["refresh", "render"]

_BLOCK = re.compile(r"<!-- comparison: (?P<name>\S+) -->\n.*?<!-- end -->", re.DOTALL)
_OPENING = re.compile(r"<!-- comparison: ")
_HASH = 10  # characters of a hash
_NONE = "-"


def render(folder: str | Path) -> str:
    """All tables of a comparison: how they are meant, a section per group, and a line per run with what it was made of.

    Args:
        folder: holds `protocol.json`, `scores.csv` and `runs.csv`, as `mtl-med compare` writes them.

    Raises:
        UsageError: one of them is missing or damaged.
    """
    results = read_results(folder)
    sections = [_section(results, group) for group in results.protocol.groups]
    return "\n\n".join([_bullets(conventions(results)), *sections, _runs(results)]) + "\n"


def refresh(text: str, folder: str | Path) -> str:
    """Make the tables of a Markdown file anew.

    Args:
        text: of the file; what stands between `<!-- comparison: NAME -->` and `<!-- end -->` is replaced.
        folder: holds one folder NAME per comparison.

    Raises:
        UsageError: a block without an end, or of a comparison that is not there.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if not (within(folder, name) / "protocol.json").is_file():
            known = [path.parent.name for path in Path(folder).glob("*/protocol.json")]
            raise UsageError(f"there is no comparison '{name}'", where=folder, fix=nearest(name, known))
        return f"<!-- comparison: {name} -->\n{render(within(folder, name))}<!-- end -->"

    if len(_OPENING.findall(text)) != len(_BLOCK.findall(text)):
        raise UsageError("a comparison's block has no <!-- end -->", fix="Close each block on a line of its own")
    return _BLOCK.sub(block, text)


def _section(results: Results, group: Group) -> str:
    columns = [results.protocol.metric(name) for name in group.metrics]
    lines = analyse(results, group)
    parts = [f"### {group.title}", _main_table(results, group, columns, lines)]
    if any(line.patients for line in lines):
        parts.append(_patient_table(group, columns, lines, drawn_units(results)))
    parts.append(_bullets(findings(results, group, columns, lines)))
    return "\n\n".join(parts)


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _main_table(results: Results, group: Group, columns: Sequence[ScoreColumn], lines: Sequence[Line]) -> str:
    head = ["method"]
    for column in columns:
        head += [_heading(column), "Δ %"]
    head += ["mean Δ %", "rank", f"p over {drawn_units(results)}", "parameters, M", "s/step", "peak MiB", "runs"]
    body = []
    for line in lines:
        cells = [line.row]
        for i, column in enumerate(columns):
            delta = line.deltas[i] if line.deltas else NOTHING
            cells += [_interval(line.scores[i], _digits(column)), _interval(delta, 2, sign="+")]
        cells += [_interval(line.mean_delta, 2, sign="+"), str(line.rank or _NONE), _p(line.p_adjusted[-1:])]
        cells += _costs(results, line)
        body.append([*cells, f"{len(line.seeds)}/{len(results.protocol.row(line.row).seeds)}"])
    return _markdown(head, body)


def _heading(column: ScoreColumn) -> str:
    unit = "" if column.unit == "1" else f", {column.unit}"
    return f"{column.name}{unit} {'↑' if column.higher_is_better else '↓'}"


def _digits(column: ScoreColumn) -> int:
    return 3 if column.unit == "1" else 2


def _costs(results: Results, line: Line) -> list[str]:
    runs = [results.runs[line.row, seed] for seed in line.seeds]

    def known(name: str) -> list[float]:
        return [float(run[name]) for run in runs if run[name]]

    parameters, seconds, memory = (known(name) for name in ("parameters", "seconds_per_step", "peak_memory_mib"))
    return [
        _number([value / 1e6 for value in parameters], ".2f"),
        _number([median(seconds)] if seconds else [], ".3f"),
        _number([max(memory)] if memory else [], ".0f"),
    ]


def _patient_table(group: Group, columns: Sequence[ScoreColumn], lines: Sequence[Line], drawn: str) -> str:
    head = [f"minus {group.baseline}, over {drawn}"]
    for column in columns:
        head += [_heading(column), "p"]
    head += ["mean Δ %", "p", drawn]
    body = []
    for line in lines:
        if line.patients:
            cells = [line.row]
            for i, difference in enumerate(line.patients):
                digits = _digits(columns[i]) + 1 if i < len(columns) else 2
                estimate = Estimate(difference.value, difference.low, difference.high, difference.patients)
                cells += [_interval(estimate, digits, sign="+"), _p(line.p_adjusted[i : i + 1])]
            counts = [difference.patients for difference in line.patients]
            body.append([*cells, span(counts, "-")])
    return _markdown(head, body)


def _runs(results: Results) -> str:
    """One line per run: its scores, and the hashes by which it can be made again."""
    columns = results.protocol.metrics
    head = ["run", "seed", *(_heading(column) for column in columns), "steps", "best epoch", "threads", "precision"]
    head += ["config", "data", "weights", "commit"]
    body = []
    keys = [(row.name, seed) for row in results.protocol.rows for seed in row.seeds]
    for row, seed in (key for key in keys if key in results.runs):
        run, scores = results.runs[row, seed], results.scores[row, seed]
        values = [of_run(column, select(column, scores)) for column in columns]
        cells = [row, str(seed), *(_number([v], f".{_digits(c) + 1}f") for v, c in zip(values, columns, strict=True))]
        cells += [run[name] or _NONE for name in ("steps", "best_epoch", "threads", "precision")]
        cells += [run[name][:_HASH] or _NONE for name in ("settings_hash", "fingerprint", "weights_sha256")]
        body.append([*cells, _commit(run["commit"])])
    title = f"### Runs of {results.protocol.name}"
    return f"{title}\n\n{_markdown(head, body)}" if body else f"{title}\n\nNone is finished."


def _commit(text: str) -> str:
    """Commits shortened, versions as they are."""
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", text) or _NONE


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(estimate: Estimate, digits: int, sign: str = "") -> str:
    if math.isnan(estimate.mean):
        return _NONE
    mean, low, high = (f"{value + 0.0:{sign}.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} [{_NONE}]" if math.isnan(estimate.low) else f"{mean} [{low}, {high}]"


def _number(values: Sequence[float], form: str) -> str:
    """The first of the values; a dash where there is none."""
    # Plus zero: no difference must not read as -0.00.
    return _NONE if not values or math.isnan(values[0]) else f"{values[0] + 0.0:{form}}"


def _p(values: Sequence[float]) -> str:
    if not values or math.isnan(values[0]):
        return _NONE
    return "<0.001" if values[0] < 0.001 else f"{values[0]:.3f}"
