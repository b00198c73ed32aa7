"""DVH metrics by name, such as `D95%`, `D2cc`, `V20Gy[cc]` or `mean`, from the doses of a structure's voxels.

There are no bins: every voxel counts with its own dose, so that a value is exact for the voxels, and as far from the
true structure as the voxels are. `mtl_med.metrics.dose` defines D_x and V_x; here they are named and put into units.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.dose import dose_at_hottest_cc, dose_at_volume, volume_at_dose

__all__ = ["DvhMetric", "StructureDoses", "dvh_curve"]

_FORM = re.compile(
    r"(?:D_?(?P<volume>\d+(?:\.\d+)?)(?P<of>%|cc)?|V_?(?P<dose>\d+(?:\.\d+)?)(?P<at>Gy|%)|D?(?P<plain>mean|min|max)"
    r"|(?P<size>volume))(?:\[(?P<unit>Gy|%|cc)\])?",
    re.IGNORECASE,
)
_SPELLING = {"gy": "Gy", "cc": "cc", "%": "%"}


@dataclass(frozen=True)
class DvhMetric:
    """A value that is read off a DVH.

    Args:
        kind: "D", "V", "mean", "min", "max" or "volume".
        amount: x of D_x or V_x.
        of: what x is: "%" or "cc" of the volume for D, "Gy" or "%" of the prescription for V.
        unit: of the value: "Gy" or "%" of the prescription for doses, "%" or "cc" for volumes.
    """

    kind: str
    amount: float = math.nan
    of: str = ""
    unit: str = "Gy"

    @property
    def name(self) -> str:
        """As in the rows: `D_95`, `D_0.1cc`, `V_20Gy`, `V_95%`, `mean`."""
        if self.kind not in ("D", "V"):
            return self.kind
        return f"{self.kind}_{self.amount:g}{'' if (self.kind, self.of) == ('D', '%') else self.of}"

    @property
    def label(self) -> str:
        """As people write it, and `parse` reads it: `D95%`, `D0.1cc`, `V20Gy`, `V95%`, `mean`."""
        return f"{self.kind}{self.amount:g}{self.of}" if self.kind in ("D", "V") else self.kind

    @property
    def needs_prescription(self) -> bool:
        """Whether it has no meaning without a prescription."""
        return (self.kind == "V" and self.of == "%") or (self.kind not in ("V", "volume") and self.unit == "%")

    @classmethod
    def parse(cls, text: str) -> DvhMetric:
        """Metric from its name.

        Args:
            text: `D95%` or `D_95` (of the volume), `D2cc`, `V20Gy`, `V95%` (of the prescription), `mean`, `min`, `max`
                or `volume`; behind it the unit of the value, `[Gy]`, `[%]` or `[cc]`, where it is not the usual one: Gy
                for doses, % for V, cc for the volume.

        Raises:
            UsageError: it is none.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            fix = "Write D95%, D2cc, V20Gy, V95%, mean, min, max or volume, with [Gy], [%] or [cc] behind it for a unit"
            raise UsageError(f"'{text}' is no DVH metric", fix=fix)
        part = found.groupdict()
        unit = _SPELLING.get((part["unit"] or "").lower(), "")
        if part["size"]:
            metric = cls("volume", unit=unit or "cc")
        elif part["plain"]:
            metric = cls(part["plain"].lower(), unit=unit or "Gy")
        elif part["volume"]:
            metric = cls("D", float(part["volume"]), _SPELLING[(part["of"] or "%").lower()], unit or "Gy")
        else:
            metric = cls("V", float(part["dose"]), _SPELLING[part["at"].lower()], unit or "%")
        _check(metric, text)
        return metric


def _check(metric: DvhMetric, text: str) -> None:
    allowed = {"V": ("%", "cc"), "volume": ("cc",)}.get(metric.kind, ("Gy", "%"))
    if metric.unit not in allowed:
        raise UsageError(f"'{text}' cannot be in {metric.unit}", fix=f"Use [{'] or ['.join(allowed)}]")
    if metric.kind == "D" and not (0 < metric.amount <= 100 or (metric.of == "cc" and metric.amount > 0)):
        raise UsageError(f"'{text}' asks for {metric.amount:g} {metric.of} of a volume", fix="Ask for more than 0 cc")


@dataclass(frozen=True, eq=False)
class StructureDoses:
    """The doses in a structure, which is its exact DVH.

    Args:
        doses_gy: (N,) dose of each of its voxels whose dose is known, Gy, in any order.
        voxel_mm3: volume of a voxel, mm^3.
        voxels: number of its voxels; more than N where the dose grid does not cover all of it. None: N.
        prescription_gy: dose prescribed to it, or else the highest of the plan, Gy.
    """

    doses_gy: NDArray
    voxel_mm3: float
    voxels: int | None = None
    prescription_gy: float | None = None

    @cached_property
    def ascending_gy(self) -> NDArray[np.float64]:
        """The doses in ascending order."""
        return np.sort(np.asarray(self.doses_gy, dtype=np.float64).ravel())

    @property
    def volume_cc(self) -> float:
        """Volume of all its voxels, cc."""
        return (len(self.ascending_gy) if self.voxels is None else self.voxels) * self.voxel_mm3 / 1000.0

    @property
    def known_percent(self) -> float:
        """Share of its voxels whose dose is known; NaN where it has none."""
        voxels = len(self.ascending_gy) if self.voxels is None else self.voxels
        return 100.0 * len(self.ascending_gy) / voxels if voxels else math.nan

    def value(self, metric: DvhMetric, convention: str = "cumulative") -> float:
        """A metric's value in its unit, over the voxels whose dose is known; the volume is that of all.

        Args:
            metric: what to read off.
            convention: of D_x, one of `mtl_med.metrics.dose.CONVENTIONS`.

        Returns:
            NaN where there are no voxels, or no prescription for what needs one (`gap` tells).
        """
        if metric.kind == "volume":
            return self.volume_cc
        if self.gap(metric):
            return math.nan
        doses, prescribed = self.ascending_gy, self.prescription_gy or math.nan
        if metric.kind == "V":
            percent = volume_at_dose(doses, metric.amount * (prescribed / 100.0 if metric.of == "%" else 1.0))
            return percent if metric.unit == "%" else percent * len(doses) * self.voxel_mm3 / 1e5
        if metric.kind == "D" and metric.of == "cc":
            dose = dose_at_hottest_cc(doses, self.voxel_mm3, convention, metric.amount)
        elif metric.kind == "D":
            dose = dose_at_volume(doses, metric.amount, convention)
        else:
            dose = float(getattr(doses, metric.kind)())
        return 100.0 * dose / prescribed if metric.unit == "%" else dose

    def gap(self, metric: DvhMetric) -> str:
        """Why a metric has no value; "" where it has one."""
        if not len(self.ascending_gy):
            return "its dose is not known" if self.voxels else "it is empty"
        if metric.needs_prescription and not self.prescription_gy:
            return "no prescription is known"
        return ""

    def is_smaller_than(self, metric: DvhMetric) -> bool:
        """Whether a D_x in cc asks for more than there is, so that it is the lowest dose."""
        return (
            metric.kind == "D" and metric.of == "cc" and metric.amount * 1000 > len(self.ascending_gy) * self.voxel_mm3
        )


def dvh_curve(doses: StructureDoses, step_gy: float = 0.1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cumulative DVH for drawing: at each dose the share of the volume that receives at least that much.

    The doses are where the exact curve is asked, not bins: nothing is counted to their middles.

    Args:
        doses: of a structure.
        step_gy: distance between the doses, Gy.

    Returns:
        doses (M,) from 0 to the first above the highest, Gy, and shares (M,), percent.
    """
    ascending = doses.ascending_gy
    if not len(ascending):
        return np.zeros(0), np.zeros(0)
    steps = math.ceil(max(ascending[-1], 0.0) / step_gy + 1e-9) + 1
    asked = np.arange(steps) * step_gy
    below = np.searchsorted(ascending, asked, side="left")
    return asked, 100.0 * (len(ascending) - below) / len(ascending)
