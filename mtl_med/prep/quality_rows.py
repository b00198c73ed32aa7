"""What the quality page tells about each case and about the study, as plain rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtl_med.io.colours import colour
from mtl_med.manifest import Case
from mtl_med.prep.quality import Measures

__all__ = [
    "CaseRow",
    "Finding",
    "Kind",
    "StructureRow",
    "Summary",
    "case_row",
    "finding",
    "kinds",
    "short_notes",
    "summaries",
]

_UNITS = {
    **{"cc": "cc", "gy": "Gy", "hu": "HU", "mm": "mm", "percent": "%"},
    **{unit: unit for unit in ("pixels", "voxels", "years")},
}
_TOLD_ELSEWHERE = ("contoured", "voxels", "volume_cc", "x_mm", "y_mm", "z_mm")


@dataclass(frozen=True)
class Finding:
    """A note about a case.

    Args:
        rule: name of the rule that it breaks; empty for a remark of the reader.
        text: what was found.
        reason: what that means.
    """

    rule: str
    text: str
    reason: str = ""


@dataclass(frozen=True)
class StructureRow:
    """A structure of a case.

    Args:
        name: its name in the study.
        original: its name in the source.
        kind: "oar", "target", "external" or "other".
        status: "contoured", "empty" or "not_contoured".
        rgb: its colour, as SVG and CSS write it.
        volume: in cc; empty where there is none.
        usual: median volume of the study; empty where too few cases have it.
        odd: the volume is unusual in this study.
        prescription: with unit; empty where there is none.
        measures: what else was measured, with units.
        covered: those of the measures that are percentages: dose to a target, share of it that the dose grid covers.
    """

    name: str
    original: str
    kind: str
    status: str
    rgb: str
    volume: str
    usual: str
    odd: bool
    prescription: str
    measures: tuple[str, ...]
    covered: tuple[str, ...]


@dataclass(frozen=True)
class CaseRow:
    """A case, as the page shows it.

    Args:
        id: name of the case.
        split: its split.
        findings: what rules and reader note.
        unusual: measures far from those of the study's other cases, as sentences.
        structures: its structures.
        facts: label and value of what everyone wants to know.
        measures: all other numbers that belong to no structure.
        account: heading and sentences about what was found, linked, converted and left out.
    """

    id: str
    split: str
    findings: tuple[Finding, ...]
    unusual: tuple[str, ...]
    structures: tuple[StructureRow, ...]
    facts: tuple[tuple[str, str], ...]
    measures: tuple[str, ...]
    account: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Kind:
    """A rule, what it means, and in how many cases it found something."""

    rule: str
    reason: str
    cases: int


@dataclass(frozen=True)
class Summary:
    """A structure over all cases.

    Args:
        name: its name.
        kind: as in StructureRow.
        rgb: its colour.
        volumes_cc: case id -> volume, of the cases with voxels of it.
    """

    name: str
    kind: str
    rgb: str
    volumes_cc: dict[str, float] = field(default_factory=dict)

    @property
    def middle(self) -> str:
        """Median volume, cc."""
        return number(float(np.median(list(self.volumes_cc.values()))))

    @property
    def ends(self) -> tuple[str, str]:
        """Smallest and largest volume, cc."""
        return number(min(self.volumes_cc.values())), number(max(self.volumes_cc.values()))

    @property
    def places(self) -> dict[str, float]:
        """Case id -> where its volume lies between smallest (0) and largest (1), on a logarithmic scale."""
        logs = {case_id: math.log(volume) for case_id, volume in self.volumes_cc.items()}
        low, high = min(logs.values()), max(logs.values())
        return {case_id: (value - low) / (high - low) if high > low else 0.5 for case_id, value in logs.items()}


def _rgb(name: str) -> str:
    """Colour of a structure, as SVG writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour(name.encode("utf-8", "replace").decode()))


def finding(note: str) -> Finding:
    """A note of the quality table (`rule: what: reason`) in its parts; anything else is a remark."""
    parts = note.split(": ", 2)
    if len(parts) == 3 and re.fullmatch(r"[a-z][a-z0-9_]*", parts[0]):
        return Finding(*parts)
    return Finding("", note)


def short_notes(notes: Iterable[str]) -> list[str]:
    """The names of the rules behind notes, and "remark" where there is no rule; each once."""
    return list(dict.fromkeys(finding(note).rule.replace("_", " ") or "remark" for note in notes))


def case_row(
    case: Case,
    measures: Measures,
    notes: Iterable[str],
    account: Mapping[str, Sequence[str]],
    odd: Mapping[str, float],
    usual_cc: Mapping[str, float],
    classes: Mapping[str, Sequence[str]],
) -> CaseRow:
    """The row of a case.

    Args:
        case: the case.
        measures: its measures.
        notes: its notes.
        account: heading -> sentences.
        odd: its unusual measures -> median of the study.
        usual_cc: structure -> median volume of the study.
        classes: image-level task -> names of its classes.
    """
    noted = tuple(finding(note) for note in notes)
    general = [name for name in measures if name.rpartition(".")[0] not in case.structures]
    told = (told_measure(name, measures[name]) for name in general if not name.startswith("spacing."))
    return CaseRow(
        id=case.id,
        split=case.split,
        findings=noted,
        unusual=tuple(
            f"{told_measure(name, measures[name])}; median of this study {number(middle)}"
            for name, middle in odd.items()
            if not any(note.text.startswith(f"{measure_words(name)} is ") for note in noted)
        ),
        structures=tuple(_structure(case, name, measures, odd, usual_cc.get(name)) for name in case.structures),
        facts=tuple((label, value) for label, value in _facts(case, measures, classes).items() if value),
        measures=tuple(text for text in told if text),
        account=tuple((heading, tuple(sentences)) for heading, sentences in account.items() if sentences),
    )


def _facts(case: Case, measures: Measures, classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    highest_gy = measures.get("dose.max_gy")
    labels = {
        task: case.class_name(task, classes[task]) if task in classes else f"{value:g}"
        for task, value in case.labels.items()
    }
    return {
        "voxels": " x ".join(str(size) for size in case.grid.shape) if case.grid else "",
        "spacing": f"{' x '.join(f'{mm:.3g}' for mm in case.spacing_mm)} mm" if case.spacing_mm else "",
        "highest dose": "" if highest_gy is None else f"{number(highest_gy)} Gy",
        "fractions": "" if case.fractions is None else str(case.fractions),
        **labels,
        "group": case.group,
    }


def _structure(
    case: Case, name: str, measures: Measures, odd: Mapping[str, float], usual_cc: float | None
) -> StructureRow:
    item = case.structures[name]
    own = [(key, value) for key, value in measures.items() if key.rpartition(".")[0] == name]
    others = [(key, told_measure(key, value, whose=False)) for key, value in own]
    others = [(key, text) for key, text in others if text and key.rpartition(".")[2] not in _TOLD_ELSEWHERE]
    return StructureRow(
        name=name,
        original=item.original,
        kind=item.kind,
        status=item.status,
        rgb=_rgb(name),
        volume="" if item.volume_cc is None else number(item.volume_cc),
        usual="" if usual_cc is None else number(usual_cc),
        odd=f"{name}.volume_cc" in odd,
        prescription=f"{case.prescriptions_gy[name]:g} Gy" if name in case.prescriptions_gy else "",
        measures=tuple(text for _, text in others),
        covered=tuple(text for key, text in others if key.endswith("_percent")),
    )


def measure_words(name: str, *, whose: bool = True) -> str:
    """`PTV70.D95_percent` -> "PTV70 D95"."""
    what, _, measured = name.rpartition(".")
    words = measured.split("_")
    return " ".join([*([what] if what and whose else []), *(words[:-1] if words[-1] in _UNITS else words)])


def told_measure(name: str, value: float | int | None, *, whose: bool = True) -> str:
    """`PTV70.D95_percent` of 98.21 -> "PTV70 D95 98.21 %"; empty where there is no value."""
    if value is None:
        return ""
    unit = _UNITS.get(name.rpartition("_")[2], "")
    return f"{measure_words(name, whose=whose)} {number(value)} {unit}".strip()


def number(value: float | int) -> str:
    """Four digits of a number, with thousands set apart."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def kinds(rows: Iterable[CaseRow]) -> list[Kind]:
    """Rules that found something, the most frequent first."""
    counts: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for row in rows:
        counts.update({item.rule for item in row.findings if item.rule})
        reasons |= {item.rule: item.reason for item in row.findings}
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Kind(rule, reasons[rule], count) for rule, count in ordered]


def summaries(cases: Iterable[Case]) -> list[Summary]:
    """All structures that some case has, in the order in which they come first."""
    found: dict[str, Summary] = {}
    for case in cases:
        for name, item in case.structures.items():
            summary = found.setdefault(name, Summary(name, item.kind, _rgb(name)))
            if item.volume_cc:
                summary.volumes_cc[case.id] = item.volume_cc
    return list(found.values())
