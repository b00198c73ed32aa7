"""Measures of a case that lie far from those of the other cases of its study: a hint where no rule knows a limit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from mtl_med.prep.quality import Measures

__all__ = ["MIN_CASES", "unusual"]

MIN_CASES = 12  # below this, nothing can be said to be unusual
_FAR = 5.0  # robust standard deviations from the median
_FEW = 0.05  # of the cases: a measure by which more are unusual is one that simply varies
_SMALLEST_SCALE = 0.01  # relative: a few hundredths more or less than all others have is not unusual
_COMPARED = re.compile(r".+\.volume_cc|.+\.D95_percent|dose\.max_gy|spacing\.[xyz]_mm")


def unusual(measures: Mapping[str, Measures]) -> dict[str, dict[str, float]]:
    """What is unusual about each case of a study: volumes, spacing, highest dose and coverage of targets.

    Volumes are compared by their logarithms. Far is five robust standard deviations (1.4826 times the median absolute
    deviation) from the median, in studies of at least twelve cases, and of one case in twenty at most.

    Args:
        measures: case id -> measures.

    Returns:
        case id -> measure -> median of the study, for what is unusual.
    """
    found: dict[str, dict[str, float]] = {case_id: {} for case_id in measures}
    for name in dict.fromkeys(name for own in measures.values() for name in own if _COMPARED.fullmatch(name)):
        values = {case_id: value for case_id, own in measures.items() if (value := own.get(name)) is not None}
        if name.endswith("_cc"):
            values = {case_id: math.log(value) for case_id, value in values.items() if value > 0}
        if len(values) < MIN_CASES:
            continue
        middle = float(np.median(list(values.values())))
        deviation = float(np.median([abs(value - middle) for value in values.values()]))
        scale = max(1.4826 * deviation, _SMALLEST_SCALE * (1 if name.endswith("_cc") else abs(middle)))
        far = [case_id for case_id, value in values.items() if abs(value - middle) > _FAR * scale]
        if len(far) <= max(1, _FEW * len(values)):
            for case_id in far:
                found[case_id][name] = math.exp(middle) if name.endswith("_cc") else middle
    return found
