"""What the report shows of each kind of task, once per study, per case and on the cohort page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mtl_med.report import (
    classification_case,
    classification_cohort,
    dose_case,
    dose_cohort,
    segmentation_case,
    segmentation_cohort,
)
from mtl_med.report.case_page import CaseInputs, Part, Section
from mtl_med.report.sources import Inputs

__all__ = ["REPORTS", "KindReport"]


@dataclass(frozen=True)
class KindReport:
    """A task kind in the report.

    Args:
        prepare: called once, before the cases, in the parent; what it returns is sent to every case, so it should be
            small. None where the kind needs nothing.
        case: sections of one case; called in a worker process. A `MtlMedError` becomes a marked gap on the page.
        cohort: sections of the cohort page.
    """

    prepare: Callable[[Inputs], Any] | None
    case: Callable[[CaseInputs], Part]
    cohort: Callable[[Inputs], list[Section]]


REPORTS: Mapping[str, KindReport] = {
    "regression": KindReport(dose_case.prepare, dose_case.part, dose_cohort.sections),
    "segmentation": KindReport(None, segmentation_case.part, segmentation_cohort.sections),
    "classification": KindReport(None, classification_case.part, classification_cohort.sections),
}
"""Task kind -> its part of the report, in the order of the pages: what decides about a treatment comes first."""
