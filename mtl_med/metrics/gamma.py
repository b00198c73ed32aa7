"""The gamma index between two doses, by pymedphys: every parameter is passed on, and can be printed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError, UsageError
from mtl_med.geometry import Grid, reorient
from mtl_med.metrics.rows import Row

__all__ = ["NOT_EVALUATED", "Gamma", "GammaOptions", "gamma_index", "gamma_rows"]

NOT_EVALUATED = -1.0
"""Value of a gamma map where there is no gamma."""

_LOWEST = -1.0  # as a reference dose it is below every cutoff, so that pymedphys passes over the voxel
_ANGLE = 1e-4


@dataclass(frozen=True)
class GammaOptions:
    """All parameters of the gamma index.

    Args:
        dose_percent: dose difference criterion, percent of the normalisation (of the local dose if `local`).
        distance_mm: distance to agreement, mm.
        cutoff_percent: reference voxels below so many percent of the normalisation are not evaluated.
        local: dose differences relative to the reference dose of each voxel.
        normalisation_gy: what percent are of; None takes the highest reference dose (within the mask).
        max_gamma: gamma is not searched beyond this, and is this where it is higher.
        interp_fraction: into how many steps `distance_mm` is divided in the search.
        skip_once_passed: stop at the first gamma of 1 or less: the same pass rate sooner, but no true gamma values.
        random_subset: evaluate so many reference voxels drawn by `seed`; None all.
        seed: of the subset.
        interpolation: "scipy", or "pymedphys" which is faster and needs numba; "" takes the latter where numba is.
        ram_mb: memory that a step of the search may take, MB.
    """

    dose_percent: float = 3.0
    distance_mm: float = 3.0
    cutoff_percent: float = 10.0
    local: bool = False
    normalisation_gy: float | None = None
    max_gamma: float = 2.0
    interp_fraction: int = 10
    skip_once_passed: bool = False
    random_subset: int | None = None
    seed: int = 0
    interpolation: str = ""
    ram_mb: int = 256

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("dose_percent", "distance_mm", "max_gamma", "ram_mb")}
        positive |= {
            "interp_fraction": self.interp_fraction,
            "random_subset": 1 if self.random_subset is None else self.random_subset,
        }
        positive |= {"normalisation_gy": 1.0 if self.normalisation_gy is None else self.normalisation_gy}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise UsageError(f"gamma: {name} is {value}, expected more than 0")
        if not 0 <= self.cutoff_percent < 100:
            raise UsageError(f"gamma: cutoff_percent is {self.cutoff_percent}, expected 0 or more and below 100")
        if self.interpolation not in ("", "scipy", "pymedphys"):
            raise UsageError(f"gamma: unknown interpolation '{self.interpolation}'", fix="Use scipy or pymedphys")


@dataclass(frozen=True, eq=False)
class Gamma:
    """A gamma map and what it was made with.

    Args:
        values: (X, Y, Z) float32 gamma of each reference voxel; `NOT_EVALUATED` where it was not asked for or where
            no evaluated dose lies within reach.
        options: with normalisation and interpolation as they were used.
        outside: reference voxels above the cutoff without evaluated dose within reach.
        version: of pymedphys.
    """

    values: NDArray[np.float32]
    options: GammaOptions
    outside: int
    version: str

    @property
    def evaluated(self) -> NDArray[np.float32]:
        """Gamma of the voxels that have one."""
        return self.values[self.values >= 0]

    @property
    def pass_percent(self) -> float:
        """Share of the evaluated voxels with a gamma of 1 or less; NaN where there are none."""
        values = self.evaluated
        return 100.0 * float(np.count_nonzero(values <= 1.0)) / values.size if values.size else math.nan

    @property
    def text(self) -> str:
        """All parameters in one line."""
        told = ";".join(f"{name} {value}" for name, value in asdict(self.options).items())
        return f"gamma;pymedphys {self.version};{told}"


def gamma_index(
    reference_gy: NDArray,
    reference: Grid,
    evaluated_gy: NDArray,
    evaluated: Grid,
    options: GammaOptions | None = None,
    *,
    mask: NDArray | None = None,
) -> Gamma:
    """Gamma of an evaluated dose against a reference dose.

    Both doses are cropped to what can matter: the reference to the voxels above the cutoff, the evaluated dose to what
    lies within reach of these.

    Args:
        reference_gy: (X, Y, Z) Gy; gamma is asked at its voxels.
        reference: its grid.
        evaluated_gy: (X, Y, Z) Gy; it is interpolated linearly.
        evaluated: its grid, which may differ, but has to have parallel axes.
        options: the parameters.
        mask: (X, Y, Z) on the reference grid: evaluate these voxels alone.

    Raises:
        UsageError: pymedphys or numba is missing, or the shapes do not fit.
        GeometryError: the grids have no parallel axes.
        CaseError: a dose is not finite, or the reference has no dose at all.

    Source: D. Low et al., Med Phys 25 (1998); search by shells as M. Wendling et al., Med Phys 34 (2007).
    """
    options = _resolved(options or GammaOptions(), reference_gy, mask)
    pymedphys = _pymedphys(options)
    for dose, name, grid in ((reference_gy, "reference", reference), (evaluated_gy, "evaluated", evaluated)):
        if dose.shape != grid.shape:
            raise UsageError(f"{name} dose has shape {dose.shape}, expected {grid.shape} of its grid")
        if not np.isfinite(dose).all():
            raise CaseError(f"{name} dose is not finite everywhere", fix="Write it again; 0 where there is none")
    axes_mm, other_mm, evaluated_gy = _axes(reference, evaluated, np.asarray(evaluated_gy))
    asked = np.asarray(reference_gy) >= options.cutoff_percent / 100 * (options.normalisation_gy or 0)
    if mask is not None:
        asked &= np.asarray(mask, dtype=bool)
    if options.random_subset is not None:
        asked = _subset(asked, options.random_subset, options.seed)
    values = np.full(reference.shape, NOT_EVALUATED, dtype=np.float32)
    wanted, reach = int(asked.sum()), options.max_gamma * options.distance_mm
    # pymedphys would search long for what is not there: nothing tells it that the evaluated dose ends.
    near = [(axis >= o[0] - reach) & (axis <= o[-1] + reach) for axis, o in zip(axes_mm, other_mm, strict=True)]
    asked = asked & near[0][:, None, None] & near[1][:, None] & near[2]
    if not asked.any() or min(evaluated_gy.shape) < 2:
        return Gamma(values, options, wanted, pymedphys.__version__)
    box = tuple(_span(np.any(asked, axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    near_mm = tuple(axis[side] for axis, side in zip(axes_mm, box, strict=True))
    part = tuple(_within(o, side[0] - reach, side[-1] + reach) for o, side in zip(other_mm, near_mm, strict=True))
    found = pymedphys.gamma(
        near_mm,
        np.where(asked[box], np.asarray(reference_gy, dtype=np.float64)[box], _LOWEST),
        tuple(other[side] for other, side in zip(other_mm, part, strict=True)),
        np.asarray(evaluated_gy[part], dtype=np.float64),
        dose_percent_threshold=options.dose_percent,
        distance_mm_threshold=options.distance_mm,
        lower_percent_dose_cutoff=options.cutoff_percent,
        interp_fraction=options.interp_fraction,
        max_gamma=options.max_gamma,
        local_gamma=options.local,
        global_normalisation=options.normalisation_gy,
        skip_once_passed=options.skip_once_passed,
        random_subset=None,  # drawn above, by a seed of its own
        ram_available=options.ram_mb * 2**20,
        interp_algo=options.interpolation,
    )
    has = asked[box] & np.isfinite(found)
    values[box][has] = found[has]
    return Gamma(values, options, wanted - int(has.sum()), pymedphys.__version__)


def gamma_rows(case: str, gamma: Gamma, *, task: str = "dose") -> list[Row]:
    """Pass rate, mean and highest gamma, and numbers of voxels, with every parameter in the convention."""
    values = gamma.evaluated
    found = {
        "gamma_pass_rate": (gamma.pass_percent, "%"),
        "gamma_mean": (float(values.mean(dtype=np.float64)) if values.size else math.nan, "1"),
        "gamma_max": (float(values.max()) if values.size else math.nan, "1"),
        "gamma_voxels": (float(values.size), "voxels"),
        "gamma_voxels_out_of_reach": (float(gamma.outside), "voxels"),
    }
    return [Row(case, task, "", name, value, unit, gamma.text) for name, (value, unit) in found.items()]


def _resolved(options: GammaOptions, reference_gy: NDArray, mask: NDArray | None) -> GammaOptions:
    """Options with the normalisation and interpolation that they leave open."""
    normalisation = options.normalisation_gy
    if normalisation is None:
        doses = np.asarray(reference_gy) if mask is None else np.asarray(reference_gy)[np.asarray(mask, dtype=bool)]
        normalisation = float(doses.max()) if doses.size else 0.0
    if not normalisation > 0:
        raise CaseError("the reference dose is 0 everywhere, so that percent of it mean nothing", fix="Check the doses")
    usual = "pymedphys" if importlib.util.find_spec("numba") else "scipy"
    fields = asdict(options) | {"normalisation_gy": normalisation, "interpolation": options.interpolation or usual}
    return GammaOptions(**fields)


def _pymedphys(options: GammaOptions):  # type: ignore[no-untyped-def]
    needed = ("pymedphys", "numba") if options.interpolation == "pymedphys" else ("pymedphys",)
    for name in needed:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"the gamma index needs {name}, which is not installed", fix="pip install mtl_med[gamma]")
    import pymedphys

    return pymedphys


def _axes(
    reference: Grid, evaluated: Grid, evaluated_gy: NDArray
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]], NDArray]:
    """Coordinates of both grids along the axes of the reference, mm; the evaluated dose in the same axis order."""
    if reference.axis_codes != evaluated.axis_codes:
        evaluated_gy, evaluated = reorient(evaluated_gy, evaluated, reference.axis_codes)
    spacing, other = np.array(reference.spacing_mm), np.array(evaluated.spacing_mm)
    directions = reference.affine[:3, :3] / spacing
    skew = max(
        np.abs(directions.T @ (evaluated.affine[:3, :3] / other) - np.eye(3)).max(),
        np.abs(directions.T @ directions - np.eye(3)).max(),
    )
    if skew > _ANGLE:
        raise GeometryError(
            "the axes of the doses are not parallel",
            fix="Resample one onto the other first (mtl_med.geometry.resample)",
        )
    start = directions.T @ (evaluated.affine[:3, 3] - reference.affine[:3, 3])
    own = [np.arange(size) * mm for size, mm in zip(reference.shape, spacing, strict=True)]
    others = [at + np.arange(size) * mm for at, size, mm in zip(start, evaluated.shape, other, strict=True)]
    return own, others, evaluated_gy


def _subset(asked: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.bool_]:
    places = np.flatnonzero(asked)
    chosen = np.random.default_rng(seed).permutation(places)[:count]
    subset = np.zeros(asked.size, dtype=bool)
    subset[chosen] = True
    return subset.reshape(asked.shape)


def _span(filled: NDArray) -> slice:
    places = np.flatnonzero(filled)
    # pymedphys needs two coordinates along each axis.
    first = min(int(places[0]), max(len(filled) - 2, 0))
    return slice(first, max(int(places[-1]) + 1, first + 2))


def _within(axis_mm: Sequence[float] | NDArray, low: float, high: float) -> slice:
    """Coordinates that are needed to interpolate between `low` and `high`."""
    first = min(max(int(np.searchsorted(axis_mm, low, side="right")) - 1, 0), len(axis_mm) - 2)
    last = int(np.searchsorted(axis_mm, high, side="left")) + 1
    return slice(first, min(max(last, first + 2), len(axis_mm)))
