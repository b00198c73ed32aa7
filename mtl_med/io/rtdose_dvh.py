"""Dose-volume histograms that a planning system stored in an RTDOSE: an independent word on structures and dose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from mtl_med.errors import CaseError
from mtl_med.io.dicom import number, numbers, read_header
from mtl_med.io.dicom_items import items, term, whole

__all__ = ["Dvh", "read_dvhs"]

MOST_BINS = 1_000_000
_TINY = 1e-6  # share of the volume below which a bin counts as empty


@dataclass(frozen=True, eq=False)
class Dvh:
    """A cumulative dose-volume histogram.

    Args:
        roi_number: ROI Number of its structure.
        dose_gy: (N,) ascending, Gy.
        share: (N,) share of the volume that receives at least that dose, in [0, 1].
        volume_cc: the whole volume; None where the file gives shares only.
        mean_gy: mean dose by the histogram.
        max_gy: upper edge of the highest bin that is not empty.
    """

    roi_number: int
    dose_gy: NDArray[np.float64]
    share: NDArray[np.float64]
    volume_cc: float | None
    mean_gy: float
    max_gy: float

    def dose_at_volume(self, percent: float) -> float:
        """D_x: the dose that `percent` of the volume receive at least, linear within a bin, Gy.

        Args:
            percent: x, of the structure's volume, more than 0 and up to 100.
        """
        reached = int(np.flatnonzero(self.share >= percent / 100.0 - 1e-12)[-1])
        if reached + 1 == len(self.share):
            return float(self.dose_gy[reached])
        part = (self.share[reached] - percent / 100.0) / (self.share[reached] - self.share[reached + 1])
        step = self.dose_gy[reached + 1] - self.dose_gy[reached]
        return float(self.dose_gy[reached] + min(max(part, 0.0), 1.0) * step)


def read_dvhs(path: str | Path) -> tuple[dict[int, Dvh], tuple[str, ...]]:
    """Histograms of an RTDOSE by ROI Number, and sentences on those that cannot be used.

    Mean and maximum are calculated from the histogram itself: the attributes of that name are percentages in real
    files, whatever the dose units say.

    Raises:
        CaseError: the file cannot be read.

    Source: DICOM PS3.3 C.8.8.4 (RT DVH): DVH Data is a list of bin width and volume, one after the other.
    """
    found: dict[int, Dvh] = {}
    notes: list[str] = []
    for item in items(read_header(path), "DVHSequence"):
        try:
            dvh = _dvh(item, Path(path))
        except CaseError as error:
            notes.append(f"a stored histogram was left out: {error.what}")
            continue
        if dvh.roi_number in found:
            notes.append("a second stored histogram of one structure was left out")
            continue
        found[dvh.roi_number] = dvh
    return found, tuple(notes)


def _dvh(item: Dataset, path: Path) -> Dvh:
    rois = items(item, "DVHReferencedROISequence")
    roi_number = whole(rois[0], "ReferencedROINumber") if len(rois) == 1 else None
    if roi_number is None or term(rois[0], "DVHROIContributionType") == "EXCLUDED":
        raise CaseError("it is of none or several structures", where=path)
    kind, dose_units, volume_units = (term(item, key) for key in ("DVHType", "DoseUnits", "DVHVolumeUnits"))
    if kind not in ("CUMULATIVE", "DIFFERENTIAL") or dose_units != "GY" or volume_units not in ("CM3", "PERCENT"):
        raise CaseError("its type or units are not supported", where=path)
    bins = whole(item, "DVHNumberOfBins") or 0
    if not 0 < bins <= MOST_BINS:
        raise CaseError("its number of bins is not possible", where=path)
    scaling = number(item, "DVHDoseScaling", path)
    widths, volumes = np.asarray(numbers(item, "DVHData", path, 2 * bins)).reshape(bins, 2).T
    if not (scaling > 0 and (widths >= 0).all() and (volumes >= 0).all()):
        raise CaseError("it has negative bins", where=path)
    edges = np.concatenate([[0.0], np.cumsum(widths) * scaling])
    return _from_bins(roi_number, edges, _in_bins(volumes, kind), volume_units)


def _in_bins(volumes: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Volume in each bin; a cumulative histogram gives what is in a bin and above."""
    inside = volumes if kind == "DIFFERENTIAL" else volumes - np.append(volumes[1:], 0.0)
    if (inside < -1e-3 * max(volumes.max(), 1e-9)).any():
        raise CaseError("it is not cumulative, though it says so")
    return np.maximum(inside, 0.0)


def _from_bins(roi_number: int, edges: NDArray[np.float64], inside: NDArray[np.float64], volume_units: str) -> Dvh:
    whole_volume = float(inside.sum())
    if not whole_volume > 0:
        raise CaseError("it holds no volume")
    above = np.append(np.cumsum(inside[::-1])[::-1], 0.0)
    filled = np.flatnonzero(inside > _TINY * whole_volume)
    return Dvh(
        roi_number=roi_number,
        dose_gy=edges,
        share=above / whole_volume,
        volume_cc=whole_volume if volume_units == "CM3" else None,
        mean_gy=float(inside @ ((edges[:-1] + edges[1:]) / 2) / whole_volume),
        max_gy=float(edges[filled[-1] + 1]),
    )
