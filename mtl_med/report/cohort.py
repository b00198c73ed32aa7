"""What the cohort page tells of every kind of task: scores, cases worst first, counts, training, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mtl_med.metrics.bootstrap import Interval
from mtl_med.metrics.summary import structure_summaries
from mtl_med.report.case_page import Block, CaseSummary, Cell, Figure, Line, Section, Table, Text
from mtl_med.report.figures.curves import training_curves, training_in_words
from mtl_med.report.kinds import REPORTS
from mtl_med.report.numbers import ABSENT, in_brackets, number_cell, told, unit_in_words
from mtl_med.report.provenance_table import provenance_section
from mtl_med.report.score_samples import Compared, Score, compare, intervals, score_list
from mtl_med.report.sources import Inputs, Predicted

__all__ = ["cohort_sections", "tiles"]

_SHOWN = 15
_DIGITS = {"Gy": 2, "mm": 1, "px": 1, "1": 3}


def cohort_sections(inputs: Inputs, summaries: Sequence[CaseSummary], ranked: str) -> list[Section]:
    """All sections of the cohort page.

    Args:
        inputs: what the report is made from.
        summaries: of the cases, worst first.
        ranked: what they are ranked by, in words.
    """
    sections = [_case_list(summaries, ranked), _scores(inputs)]
    for kind in REPORTS.values():
        sections += kind.cohort(inputs)
    return [*sections, _counts(inputs), *_training(inputs), provenance_section(inputs)]


def tiles(inputs: Inputs, summaries: Sequence[CaseSummary]) -> list[Cell]:
    """The figures at the top: what the first predictions come to, and how much of the study they cover."""
    first = inputs.predictions[0].evaluation
    found = [_score_tile(item, interval) for item, interval in _with_intervals(inputs.predictions[0]) if _is_main(item)]
    found.append(Cell(str(len(first.scored)), detail="cases scored"))
    absent = len(first.without_prediction)
    missed = sum(item.missed for item in structure_summaries(first.rows))
    if missed:
        found.append(Cell(str(missed), mark="bad", detail="contoured outlines for which nothing was predicted"))
    if first.failures:
        found.append(Cell(str(len(first.failures)), mark="bad", detail="could not be scored"))
    if absent and inputs.split:
        found.append(Cell(str(absent), mark="warning", detail="of the split have no prediction"))
    with_page = [item for item in summaries if item.page]
    warned = sum(bool(item.warnings or item.failures) for item in with_page)
    told = f"of {len(with_page)} case pages have a warning"
    return [*found, Cell(str(warned), mark="warning" if warned else "good", detail=told)]


def _is_main(item: Score) -> bool:
    return item.key in ("dose_score", "dvh_score", "dice") or item.key.startswith(("balanced_accuracy/", "auc/"))


def _score_tile(item: Score, interval: Interval) -> Cell:
    digits = _digits(item)
    unit = "" if item.unit == "1" else f" {item.unit}"
    ends = in_brackets(interval.low, interval.high, digits)
    return Cell(f"{told(item.value, digits)}{unit}", detail=f"{item.label} {ends}".strip())


def _digits(item: Score) -> int:
    return 3 if item.key == "mae_whole_grid" else _DIGITS.get(item.unit, 3)


def _with_intervals(item: Predicted) -> list[tuple[Score, Interval]]:
    scores = score_list(item.evaluation.rows)
    found = intervals(scores, item.evaluation.groups)
    return [(score, found[score.key]) for score in scores]


def _case_list(summaries: Sequence[CaseSummary], ranked: str) -> Section:
    columns = list(dict.fromkeys(name for item in summaries for name in item.cells))
    rows: list[Line] = []
    for place, item in enumerate(summaries, start=1):
        notes = [*item.failures, *item.warnings]
        shown = Cell(
            notes[0] if notes else "",
            mark="bad" if item.failures else "warning" if notes else "none",
            value=len(notes),
            detail=f"and {len(notes) - 1} more" if len(notes) > 1 else "",
        )
        absent = Cell(ABSENT, mark="none", number=True)
        rows.append(
            [
                Cell(item.id, link=item.page, value=place, detail=item.split),
                *(item.cells.get(name, absent) for name in columns),
                shown,
            ]
        )
    order = f"Ordered by {ranked}, the worst first" if ranked else "In the order of the study"
    caption = f"{order}; cases that could not be scored stand before them. A name leads to the case's own page."
    table = Table(caption, ["case", *columns, "look at"], rows, sortable=True, shown=_SHOWN)
    return Section("cases", "Cases, worst first", (table,) if rows else (Text("No case was predicted.", "none"),))


def _scores(inputs: Inputs) -> Section:
    """Every score with its interval, folders side by side, and their differences to the first."""
    found = {
        item.name: {score.key: (score, ends) for score, ends in _with_intervals(item)} for item in inputs.predictions
    }
    labels: dict[str, Score] = {key: pair[0] for table in found.values() for key, pair in table.items()}
    rows: list[Line] = []
    for key, score in labels.items():
        digits = _digits(score)
        cells = []
        for table in found.values():
            if key not in table:
                cells.append(Cell("not scored", mark="none"))
                continue
            own, ends = table[key]
            cells.append(number_cell(own.value, digits, detail=in_brackets(ends.low, ends.high, digits)))
        better = "higher is better" if score.higher_is_better else "lower is better"
        rows.append([Cell(f"{score.label}{unit_in_words(score.unit)}", detail=f"{better}; {score.convention}"), *cells])
    if not rows:
        return Section("scores", "Scores", (Text("Nothing was scored.", "warning"),))
    how = next((ends for table in found.values() for _, ends in table.values()), None)
    interval = how.convention.replace(";", ", ") if how else ""
    caption = f"Score over all cases, below it its interval: {interval}."
    blocks: list[Block] = [Table(caption, ["score", *found], rows)]
    if len(inputs.predictions) > 1:
        blocks += _differences(inputs)
    return Section("scores", "Scores", tuple(blocks))


def _differences(inputs: Inputs) -> list[Block]:
    first, *others = inputs.predictions
    groups = {key: value for item in inputs.predictions for key, value in item.evaluation.groups.items()}
    compared = compare(first.evaluation.rows, {item.name: item.evaluation.rows for item in others}, groups)
    keys = {item.score.key: item.score for items in compared.values() for item in items}
    rows: list[Line] = []
    for key, score in keys.items():
        line: Line = [Cell(f"{score.label}{unit_in_words(score.unit)}")]
        for items in compared.values():
            line.append(_difference_cell(next((item for item in items if item.score.key == key), None)))
        rows.append(line)
    alone = [name for name, items in compared.items() if not items]
    blocks: list[Block] = (
        [Text(f"{', '.join(alone)}: no scored case in common with {first.name}.", "warning")] if alone else []
    )
    counts = sorted({item.cases for items in compared.values() for item in items})
    caption = (
        f"Difference to {first.name} over the {' or '.join(map(str, counts))} cases that both have: below it the 95 % "
        "interval of a paired bootstrap over patients, both drawn alike, and p after Holm's correction over the "
        f"predictions compared. Marked: better (✓) or worse (✗) than {first.name} with an interval that leaves out "
        "zero. This is how much the patients matter, for these weights; another training of the same method would "
        "differ too, which only mtl-med compare over several seeds can tell."
    )
    if rows:
        blocks.append(Table(caption, ["score", *(f"{name} \N{MINUS SIGN} {first.name}" for name in compared)], rows))
    return blocks


def _difference_cell(item: Compared | None) -> Cell:
    if item is None:
        return Cell("not scored", mark="none")
    digits = _digits(item.score)
    difference = item.difference
    ends = in_brackets(difference.low, difference.high, digits, signed=True)
    mark = ""
    if ends and (difference.low > 0 or difference.high < 0):
        mark = "good" if (difference.value > 0) == item.score.higher_is_better else "bad"
    p = (
        ""
        if math.isnan(item.p_adjusted)
        else f", p {'< 0.001' if item.p_adjusted < 0.001 else f'{item.p_adjusted:.3f}'}"
    )
    return number_cell(difference.value, digits, signed=True, mark=mark, detail=f"{ends}{p}".strip(", "))


def _counts(inputs: Inputs) -> Section:
    """What the study has and has not of every structure and image-level label."""
    cases = inputs.cases
    names = list(dict.fromkeys(name for case in inputs.manifest for name in case.structures))
    rows: list[Line] = []
    for name in names:
        states = [case.structures[name].status if name in case.structures else "not_contoured" for case in cases]
        kind = next(case.structures[name].kind for case in inputs.manifest if name in case.structures)
        absent = [case.id for case, state in zip(cases, states, strict=True) if state == "not_contoured"]
        rows.append(
            [
                name,
                kind,
                number_cell(states.count("contoured"), 0),
                number_cell(states.count("empty"), 0, mark="warning" if "empty" in states else ""),
                number_cell(len(absent), 0, detail=_listing(absent) if len(absent) < len(cases) else "in every case"),
            ]
        )
    blocks: list[Block] = []
    if rows:
        caption = (
            f"Of the {len(cases)} predicted cases. Not contoured: the study has no outline, so nothing is known and "
            "nothing is scored. Empty: an outline without a voxel."
        )
        blocks.append(Table(caption, ["structure", "kind", "contoured", "empty", "not contoured"], rows, sortable=True))
    for task, classes in inputs.manifest.classes.items():
        labels = [case.labels.get(task) for case in cases]
        counts: list[Line] = [[name, number_cell(labels.count(index), 0)] for index, name in enumerate(classes)]
        counts.append(["without a label", number_cell(labels.count(None), 0)])
        blocks.append(Table(f"Classes of '{task}' in the {len(cases)} predicted cases.", ["class", "cases"], counts))
    for item in inputs.predictions:
        blocks += [Text(f"{item.name}: {text}", "warning") for text in _coverage(item, inputs.split)]
    return Section("counts", "Missing and not contoured", tuple(blocks))


def _coverage(item: Predicted, split: str | None) -> list[str]:
    found = item.evaluation
    told = []
    if found.without_prediction and split:
        told.append(f"no prediction of {_listing(found.without_prediction)} of the split '{split}'.")
    if found.unknown:
        told.append(f"predictions of no case of this study or split, which are not shown: {_listing(found.unknown)}.")
    if found.failures:
        told.append(f"could not be scored: {_listing(tuple(found.failures))}; their pages give the reasons.")
    return told


def _listing(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _training(inputs: Inputs) -> list[Section]:
    blocks: list[Block] = []
    for item in inputs.predictions:
        if item.training is None:
            blocks.append(Text(f"{item.name}: no training.csv lies beside its weights, so its training is not shown."))
            continue
        kept = _kept_epoch(item.training.record)
        line = " The dotted line is the epoch whose weights were kept." if math.isfinite(kept) else ""
        weighting = item.settings.get("weighting")
        how = f" Weights of the losses: {weighting}." if isinstance(weighting, str) else ""
        blocks.append(
            Figure(
                alt=f"Training curves of {item.name}. {training_in_words(item.training)}",
                caption=f"{item.name}: mean loss of every task in each epoch, their weights and scores.{how}{line}",
                data=training_curves(item.training, kept),
                line_art=True,
            )
        )
    return [Section("training", "Training", tuple(blocks))]


def _kept_epoch(record: Mapping[str, object]) -> float:
    best = record.get("best")
    epochs = (
        {part.get("epoch") for part in best.values() if isinstance(part, dict)} if isinstance(best, dict) else set()
    )
    epoch = epochs.pop() if len(epochs) == 1 else None
    return float(epoch) if isinstance(epoch, int) else math.nan
