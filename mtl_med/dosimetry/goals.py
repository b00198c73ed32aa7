"""Clinical goals: editable presets in JSON, and the one function that decides whether a dose meets them."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError, nearest
from mtl_med.files import read_json
from mtl_med.metrics.dvh import DvhMetric, StructureDoses
from mtl_med.metrics.rows import Row

__all__ = ["Goal", "GoalResult", "Preset", "decide", "evaluate_goals", "goal_rows", "load_preset", "preset_names"]

SCHEMA = "mtl_med/goals/1"
COMPARISONS = ("<", "<=", ">", ">=")
USUAL_ALPHA_BETA_GY = {"target": 10.0, "": 3.0}
"""By kind of structure, where no preset says more: tumours and early effects, and late effects of all others.
Source: Joiner and van der Kogel, Basic Clinical Radiobiology."""

_FOLDER = Path(__file__).resolve().parent / "goal_presets"
_TOLERANCE = 1e-6  # relative: doses are float32, so that a limit of 59.9 Gy is met by 59.9 as the file holds it
_FIELDS = {"structure", "metric", "comparison", "limit", "source"}


@dataclass(frozen=True)
class Goal:
    """One wish about a structure's dose.

    Args:
        structure: its name, or a pattern such as `PTV*`.
        metric: what is read off its DVH, and in which unit.
        comparison: one of `COMPARISONS`.
        limit: what the metric is compared with, in its unit.
        source: where the limit comes from.
        highest_only: it is about the targets of the highest prescription alone.
    """

    structure: str
    metric: DvhMetric
    comparison: str
    limit: float
    source: str
    highest_only: bool = False

    @property
    def text(self) -> str:
        """`V50Gy < 50 %`."""
        return f"{self.metric.label} {self.comparison} {self.limit:g} {self.metric.unit}"


@dataclass(frozen=True)
class Preset:
    """A list of goals.

    Args:
        name: such as "prostate".
        title: for whom it is meant.
        fractionation: doses per fraction that its limits hold for, in words.
        goals: in the order of the file.
        alpha_beta_gy: name or pattern of a structure -> alpha/beta, Gy; the first that fits counts.
        gy_per_fraction: lowest and highest dose per fraction that its limits hold for, Gy; None where it does not say.
    """

    name: str
    title: str = ""
    fractionation: str = ""
    goals: tuple[Goal, ...] = ()
    alpha_beta_gy: Mapping[str, float] = field(default_factory=dict)
    gy_per_fraction: tuple[float, float] | None = None

    def about_fractions(self, prescription_gy: float | None, fractions: int | None) -> tuple[str, bool]:
        """What to know about its limits before a case is judged by them.

        Args:
            prescription_gy: the highest of the case, Gy, if known.
            fractions: their number, if known.

        Returns:
            a sentence, "" where the preset says nothing, and whether the case is treated otherwise.
        """
        if not self.fractionation:
            return "", False
        held = f"The limits hold for {self.fractionation}."
        if not prescription_gy or not fractions:
            return f"{held} The dose per fraction of this case is not known.", False
        each = prescription_gy / fractions
        low, high = self.gy_per_fraction or (0.0, math.inf)
        if low - _TOLERANCE <= each <= high + _TOLERANCE:
            return f"{held} This case: {each:.2f} Gy per fraction.", False
        return f"This case has {each:.2f} Gy per fraction: met or not met says little here. {held}", True

    def alpha_beta(self, structure: str, kind: str) -> float:
        """alpha/beta of a structure, Gy: as listed, else 10 Gy for targets and 3 Gy for all others."""
        listed = (gy for pattern, gy in self.alpha_beta_gy.items() if fnmatch.fnmatchcase(structure, pattern))
        return next(listed, USUAL_ALPHA_BETA_GY.get(kind, USUAL_ALPHA_BETA_GY[""]))


@dataclass(frozen=True)
class GoalResult:
    """What became of a goal.

    Args:
        goal: the goal.
        structure: the structure that it was asked of.
        value: the metric's value, in its unit; NaN where there is none.
        met: whether the goal is met; None where that cannot be told.
        reason: why it cannot be told.
    """

    goal: Goal
    structure: str
    value: float
    met: bool | None
    reason: str = ""


def decide(value: float, comparison: str, limit: float) -> bool:
    """Whether `value comparison limit` holds; values within a millionth of the limit count as equal to it.

    Args:
        value: what was found, not NaN.
        comparison: one of `COMPARISONS`.
        limit: in the same unit.

    Raises:
        UsageError: an unknown comparison, or a value that is NaN.
    """
    if comparison not in COMPARISONS:
        raise UsageError(f"unknown comparison '{comparison}'", fix=f"Use {' '.join(COMPARISONS)}")
    if math.isnan(value):
        raise UsageError("a value that is not known cannot be compared")
    if math.isclose(value, limit, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        return comparison in ("<=", ">=")
    return (value < limit) == comparison.startswith("<")


def evaluate_goals(
    goals: Sequence[Goal],
    structures: Mapping[str, StructureDoses],
    *,
    convention: str = "cumulative",
    gaps: Mapping[str, str] | None = None,
) -> list[GoalResult]:
    """What becomes of each goal, in their order; a goal with a pattern is asked of every structure that it fits.

    Args:
        goals: of a preset.
        structures: name -> its doses.
        convention: of D_x, as in `mtl_med.metrics.dose`.
        gaps: name -> why a structure has no doses, such as "not contoured".

    Returns:
        A goal of a structure that is not there, is empty or has no prescription is neither met nor missed.
    """
    gaps = gaps or {}
    results: list[GoalResult] = []
    prescribed = [doses.prescription_gy or 0.0 for doses in structures.values()]
    for goal in goals:
        fitting = [name for name in (*structures, *gaps) if fnmatch.fnmatchcase(name, goal.structure)]
        if goal.highest_only:
            highest = max(prescribed, default=0.0)
            fitting = [n for n in fitting if n not in structures or (structures[n].prescription_gy or 0.0) == highest]
        for name in dict.fromkeys(fitting):
            results.append(_result(goal, name, structures.get(name), gaps.get(name, ""), convention))
        if not fitting:
            results.append(GoalResult(goal, goal.structure, math.nan, None, "there is no such structure"))
    return results


def _result(goal: Goal, name: str, doses: StructureDoses | None, gap: str, convention: str) -> GoalResult:
    reason = gap if doses is None else doses.gap(goal.metric)
    if doses is None or reason:
        return GoalResult(goal, name, math.nan, None, reason)
    value = doses.value(goal.metric, convention)
    met = decide(value, goal.comparison, goal.limit)
    if doses.known_percent < 100 and not (_only_grows(goal.metric) and goal.comparison.startswith("<") and not met):
        reason = f"{doses.known_percent:.1f} % of its voxels have a known dose: it says nothing about the others"
        return GoalResult(goal, name, value, None, reason)
    return GoalResult(goal, name, value, met)


def _only_grows(metric: DvhMetric) -> bool:
    """Whether a metric cannot become lower when voxels are added, so that what is missed stays missed."""
    return metric.kind == "max" or "cc" in (metric.of, metric.unit)


def goal_rows(case: str, results: Sequence[GoalResult], convention: str = "cumulative") -> list[Row]:
    """Results as rows of the task "goal": 1 where a goal is met, 0 where it is not, NaN where that cannot be told.

    The metric is the goal itself; what was found, or why nothing was, stands in the convention.
    """
    rows = []
    for item in results:
        found = item.reason if math.isnan(item.value) else f"found {item.value:.4g} {item.goal.metric.unit}"
        told = found if item.met is not None or math.isnan(item.value) else f"{found}; {item.reason}"
        value = math.nan if item.met is None else float(item.met)
        rows.append(Row(case, "goal", item.structure, item.goal.text, value, "1", f"{told};{convention}"))
    return rows


def preset_names() -> list[str]:
    """Names of the presets that come with the library."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_preset(name: str | Path) -> Preset:
    """A preset by its name, or from a JSON file of the user's own.

    Args:
        name: one of `preset_names`, or a path that ends in `.json`.

    Raises:
        UsageError: there is none, or a goal of it cannot be meant; the sentence names it.
    """
    path = Path(name)
    if path.suffix.lower() != ".json":
        if str(name) not in preset_names():
            raise UsageError(f"there is no preset of goals called '{name}'", fix=nearest(str(name), preset_names()))
        path = _FOLDER / f"{name}.json"
    fields = read_json(path)
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise UsageError(f"is no list of goals (its schema is not {SCHEMA})", where=path, fix="Copy a shipped preset")
    goals, alpha_beta = fields.get("goals", []), fields.get("alpha_beta_gy", [])
    if not isinstance(goals, list) or not isinstance(alpha_beta, list):
        raise UsageError("'goals' and 'alpha_beta_gy' have to be lists", where=path, fix="Copy a shipped preset")
    return Preset(
        name=str(fields.get("name", path.stem)),
        title=str(fields.get("title", "")),
        fractionation=str(fields.get("fractionation", "")),
        goals=tuple(_goal(item, number, path) for number, item in enumerate(goals, start=1)),
        alpha_beta_gy=dict(_alpha_beta(item, number, path) for number, item in enumerate(alpha_beta, start=1)),
        gy_per_fraction=_range(fields.get("gy_per_fraction"), path),
    )


def _goal(item: Any, number: int, path: Path) -> Goal:
    where = f"{path}, goal {number}"
    if not isinstance(item, dict):
        raise UsageError("is no JSON object", where=where)
    missing, unknown = sorted(_FIELDS - set(item)), sorted(set(item) - _FIELDS - {"which"})
    if missing:
        raise UsageError(f"lacks {', '.join(missing)}", where=where)
    if unknown:
        fix = nearest(unknown[0], _FIELDS | {"which"})
        raise UsageError(f"has the unknown field '{unknown[0]}'", where=where, fix=fix)
    if item["comparison"] not in COMPARISONS:
        raise UsageError(f"unknown comparison {item['comparison']!r}", where=where, fix=f"Use {' '.join(COMPARISONS)}")
    if item.get("which", "all") not in ("all", "highest"):
        raise UsageError(f"'which' is {item['which']!r}", where=where, fix="Use all or highest")
    limit = _number(item["limit"], "limit", where)
    if not str(item["source"]).strip():
        raise UsageError("has no source", where=where, fix="Say where the limit comes from")
    try:
        metric = DvhMetric.parse(str(item["metric"]))
    except UsageError as error:
        raise UsageError(error.what, where=where, fix=error.fix) from error
    highest = item.get("which") == "highest"
    return Goal(str(item["structure"]), metric, item["comparison"], limit, str(item["source"]), highest)


def _alpha_beta(item: Any, number: int, path: Path) -> tuple[str, float]:
    where = f"{path}, alpha_beta_gy {number}"
    if not isinstance(item, dict) or not {"structure", "gy"} <= set(item):
        raise UsageError("needs 'structure' and 'gy'", where=where)
    return str(item["structure"]), _number(item["gy"], "gy", where, positive=True)


def _range(value: Any, path: Path) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        fix = "Write [lowest, highest], such as [1.8, 2.2]"
        raise UsageError(f"'gy_per_fraction' is {value!r}", where=path, fix=fix)
    low, high = (_number(item, "gy_per_fraction", str(path), positive=True) for item in value)
    if low > high:
        raise UsageError(f"'gy_per_fraction' runs from {low:g} down to {high:g}", where=path, fix="Lowest first")
    return low, high


def _number(value: Any, name: str, where: str, *, positive: bool = False) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (positive and value == 0):
        raise UsageError(f"'{name}' is {value!r}, expected a number above 0", where=where)
    return float(value)
