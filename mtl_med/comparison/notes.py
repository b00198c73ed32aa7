"""What a reader of a comparison's tables must know: how they are meant, what may be claimed, what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mtl_med.comparison.analysis import Line
from mtl_med.comparison.protocol import Group, ScoreColumn
from mtl_med.comparison.results import Results
from mtl_med.comparison.scores import ACCURACY, AREA, BALANCED, of_patients, select
from mtl_med.comparison.statistics import DRAWS, Difference, Estimate
from mtl_med.metrics.bootstrap import LEVEL, drawn_together

__all__ = ["conventions", "drawn_units", "findings", "span"]

_UNTOLD = "not told apart from"
_MEANT = {
    ACCURACY: "accuracy is over images",
    BALANCED: "balanced accuracy is the mean over the true classes of the share that was right",
    AREA: "AUC is that of one class against the rest, as mean over the classes (of two classes that of the second)",
}


def conventions(results: Results) -> Iterable[str]:
    """How the tables of a comparison are meant, once for all of its groups."""
    drawn, runs = drawn_units(results), results.runs.values()
    yield (
        "First table of each section: a run's score is the mean over structures of their means over patients; shown "
        "are means over seeds with 95 % t-intervals. Δ is the difference relative to the section's baseline between "
        "runs of the same seed (Eq. 3 of the CTAN paper; positive is better), and mean Δ the mean over tasks of a "
        "task's mean over its scores; rank is by mean Δ over the seeds that all rows of the section have."
    )
    yield (
        "Second table: a patient's score is the mean over its structures and over the seeds that both methods have, "
        "so that its differences are not quite those of the first. Intervals and p are from a paired bootstrap over "
        f"{drawn} ({DRAWS} draws), p two-sided and Holm-corrected over the methods of the section; that of mean Δ "
        "stands in the first table too. They say nothing about other seeds."
    )
    yield (
        "A method is called better or worse than the baseline only where both intervals, over seeds and over "
        f"{drawn}, leave zero to one side, and the corrected p is below {1 - LEVEL:.2g}; else the two are not told "
        "apart."
    )
    told = [text for metric, text in _MEANT.items() if metric in {column.metric for column in results.protocol.metrics}]
    if told:
        yield f"Of decided classes: {'; '.join(told)}."
    if runs:
        threads, together = (", ".join(sorted({run[name] for run in runs})) for name in ("threads", "processes"))
        yield (
            "Seconds per step are medians of a run's steps and of a row's runs, and peak memory is the most that "
            "training and its validation take beyond what is in use before the first step, the weights and the cases "
            f"kept in memory; the largest of a row's runs (threads a run: {threads}; runs at a time: {together})."
        )


def findings(results: Results, group: Group, columns: Sequence[ScoreColumn], lines: Sequence[Line]) -> Iterable[str]:
    """Sentences below the tables of a group."""
    compared = [line for line in lines if line.patients]
    runs = [results.runs[line.row, seed] for line in lines for seed in line.seeds]
    if not runs:
        yield "No run is finished."
        return
    scored = {
        column.name: {
            case
            for line in lines
            for seed in line.seeds
            for case in of_patients(select(column, results.scores[line.row, seed]))
        }
        for column in columns
    }
    cases = {case for listed in scored.values() for case in listed}
    budget = f"{span([run['epochs'] for run in runs])} epochs, {span([run['steps'] for run in runs])} steps a run"
    yield f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {_population(cases, results)}; {budget}."
    if any(column.metric in _MEANT for column in columns) and any(len(some) != len(cases) for some in scored.values()):
        labelled = ", ".join(f"{name} {len(some)}" for name, some in scored.items())
        yield f"Of {len(cases)} cases those count that have a label: {labelled}."
    if compared:
        yield from _verdicts(group, columns, compared)
        yield from _margins(group, columns, compared)
    yield from _mixture(runs)
    yield from _gaps(results, group, lines)


def _mixture(runs: Sequence[Mapping[str, str]]) -> Iterable[str]:
    """`auto` is another arithmetic on another machine."""
    found = Counter(run["precision"] or "not noted" for run in runs)
    if len(found) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(found.items()))
        yield f"The runs differ in precision: {listed}."


def _population(cases: set[str], results: Results) -> str:
    if not results.groups:
        return f"{len(cases)} patients"
    count = len(set(drawn_together(sorted(cases), results.groups)))
    return f"{len(cases)} images or patients in {count} groups (such as lesions), which are drawn as a whole"


def _verdicts(group: Group, columns: Sequence[ScoreColumn], compared: Sequence[Line]) -> Iterable[str]:
    """What may be claimed: only where the intervals over seeds and over patients both leave zero to one side."""
    for i, name in enumerate([*(column.name for column in columns), "mean Δ"]):
        higher = columns[i].higher_is_better if i < len(columns) else True
        found: dict[str, list[str]] = {"better than": [], "worse than": [], _UNTOLD: []}
        for line in compared:
            over_seeds = line.deltas[i] if i < len(columns) else line.mean_delta
            verdict = _verdict(over_seeds, line.patients[i], line.p_adjusted[i], higher)
            found[verdict].append(f"'{line.row}'")
        told = "; ".join(f"{', '.join(rows)} {verdict} '{group.baseline}'" for verdict, rows in found.items() if rows)
        yield f"{name}: {told}."


def _verdict(over_seeds: Estimate, over_patients: Difference, p: float, higher_is_better: bool) -> str:
    """In a relative difference over seeds positive is better; over patients it is in the metric's own unit.

    `p` is that over patients after Holm's correction over the methods of the table.
    """
    if not p < 1 - LEVEL:
        return _UNTOLD
    sign = 1 if higher_is_better else -1
    low, high = sorted((sign * over_patients.low, sign * over_patients.high))
    if over_seeds.low > 0 and low > 0:
        return "better than"
    return "worse than" if over_seeds.high < 0 and high < 0 else _UNTOLD


def _margins(group: Group, columns: Sequence[ScoreColumn], compared: Sequence[Line]) -> Iterable[str]:
    """Whether a row is not worse than the baseline by more than was fixed beforehand, over seeds."""
    for i, column in enumerate(columns):
        if column.name not in group.not_worse_by:
            continue
        margin = group.not_worse_by[column.name]
        unit = "" if column.unit == "1" else f" {column.unit}"
        bound, limit = ("lower", f"-{margin:g}") if column.higher_is_better else ("upper", f"+{margin:g}")
        for line in (line for line in compared if line.differences[i].count > 1):
            found = line.differences[i]
            kept = found.low > -margin if column.higher_is_better else found.high < margin
            told = "is" if kept else "is not"
            side = "above" if column.higher_is_better else "below"
            yield (
                f"{column.name}: '{line.row}' minus '{group.baseline}' is {found.mean:+.4f} "
                f"[{found.low:+.4f}, {found.high:+.4f}]{unit} over {found.count} paired seeds: the {bound} end of the "
                f"95 % interval {told} {side} {limit}{unit}."
            )


def _gaps(results: Results, group: Group, lines: Sequence[Line]) -> Iterable[str]:
    """What a reader must know who takes the table for complete."""
    asked = {line.row: len(results.protocol.row(line.row).seeds) for line in lines}
    missing = [
        f"{line.row} ({len(line.seeds)} of {asked[line.row]})" for line in lines if len(line.seeds) < asked[line.row]
    ]
    if missing:
        yield f"Not finished: {'; '.join(missing)}."
    alone = [line.row for line in lines if len(line.seeds) == 1]
    if alone:
        yield f"One run only, hence no interval over seeds: {'; '.join(alone)}."
    fewer = [line.row for line in lines if line.row != group.baseline and 0 < len(line.paired_seeds) < len(line.seeds)]
    if fewer:
        yield f"Compared on those seeds only that {group.baseline} has too: {'; '.join(fewer)}."


def drawn_units(results: Results) -> str:
    """What the bootstrap draws."""
    return "groups" if results.groups else "patients"


def span(values: Iterable[object], dash: str = " to ") -> str:
    """The one value, or the smallest and the largest."""
    numbers = sorted({int(str(value)) for value in values if str(value)})
    if not numbers:
        return "?"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}{dash}{numbers[-1]}"
