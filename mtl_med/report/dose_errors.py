"""Where a predicted dose is too high and where too low: pictures through the largest error, bands, gradient, gamma."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.metrics.dose_errors import STEEP_PERCENT_PER_MM, signed_error_rows
from mtl_med.metrics.gamma import Gamma, GammaOptions, gamma_index, gamma_rows
from mtl_med.plane_figures import Wash, draw_planes
from mtl_med.planes import box_around
from mtl_med.prep.body import body_mask
from mtl_med.report.case_page import Block, Cell, Figure, Table, Text
from mtl_med.report.dose_sides import DosePage
from mtl_med.report.figures.dose_bands import band_plot
from mtl_med.report.figures.drawing import plain, png
from mtl_med.report.numbers import number_cell, told

__all__ = ["GAMMA_OPTIONS", "band_blocks", "gamma_blocks", "gamma_of", "picture_blocks"]

GAMMA_OPTIONS = GammaOptions(interp_fraction=5, max_gamma=1.3)
"""3 % of the highest planned dose, 3 mm, above 10 %. Searched up to 1.3, in steps of 0.6 mm: those are well below the
size of voxels, and thirty times as quick as up to 2 in steps of 0.3 mm. A coarser search can only miss the nearest
agreement, so that it never passes more."""

_DPI = 96
_SHOWN_FROM = 0.1  # of the highest dose


def picture_blocks(page: DosePage) -> list[Block]:
    """Three planes through the largest error, and three through the target."""
    blocks: list[Block] = [Text(f"{s.name}: not shown. {s.gap}", "bad") for s in page.sides if s.dose is None]
    if not page.known:
        return blocks
    if page.ct is None:
        blocks.append(Text("The case has no CT on this grid: the pictures have no ground.", "warning"))
    middle, where = _middle(page)
    if page.plan is not None and page.predicted is not None:
        worst = _largest_error(page)
        error = float(page.difference_gy[worst])
        told_mm = _place(page, worst)
        doses = (
            f"{told(float(page.plan.dose_gy[worst]), 1)} Gy planned, {told(float(page.predicted.dose_gy[worst]), 1)}"
        )
        text = f"Largest error {told(error, 1, signed=True)} Gy at {told_mm}: {doses} predicted, {_tissue(page, worst)}"
        blocks.append(_planes(page, worst, text))
    blocks.append(_planes(page, middle, f"Through {where}, {_place(page, middle)}"))
    return blocks


def _largest_error(page: DosePage) -> tuple[int, ...]:
    error = np.abs(page.difference_gy)
    return tuple(int(index) for index in np.unravel_index(int(error.argmax()), error.shape))


def _tissue(page: DosePage, voxel: tuple[int, ...]) -> str:
    """What lies at a voxel: a couch takes dose too, and no DVH shows it."""
    inside = [name for name, mask in page.masks.items() if mask[voxel]]
    words = f"in {', '.join(inside)}" if inside else "in no structure"
    if page.ct is None:
        return words
    box = _box(page, voxel)
    own = tuple(at - side.start for at, side in zip(voxel, box, strict=True))
    outside = "" if body_mask(page.ct[box])[own] else " outside the body (couch, mask or air)"
    return f"{words}{outside}, at {page.ct[voxel]:.0f} HU"


def _place(page: DosePage, voxel: Sequence[int]) -> str:
    x, y, z = page.grid.points_ras(np.array([voxel]))[0]
    return f"({x:.0f}, {y:.0f}, {z:.0f}) mm RAS, voxel {tuple(voxel)}"


def _middle(page: DosePage) -> tuple[tuple[int, ...], str]:
    """The voxel of the target of the highest prescription that is nearest to its centre of gravity; or of high dose."""
    targets = [name for name in page.masks if page.case.structures[name].kind == "target"]
    targets.sort(key=lambda name: -page.case.prescriptions_gy.get(name, 0.0))
    for name in targets:
        voxels = np.argwhere(page.masks[name])
        if len(voxels):
            return _nearest_to_centre(page, voxels), f"the middle of {name}"
    dose = page.known[0].dose
    values = dose.dose_gy if dose else np.zeros(page.grid.shape)
    return _nearest_to_centre(page, np.argwhere(values >= 0.9 * values.max())), "the middle of the high dose"


def _nearest_to_centre(page: DosePage, voxels: NDArray) -> tuple[int, ...]:
    away = ((voxels - voxels.mean(axis=0)) * page.grid.spacing_mm) ** 2
    return tuple(int(index) for index in voxels[int(away.sum(axis=1).argmin())])


def _planes(page: DosePage, centre: tuple[int, ...], text: str) -> Figure:
    outlines = page.outlined
    predicted = page.predicted_structures
    washes = []
    if page.plan is not None:
        washes.append(Wash("planned dose", page.plan.dose_gy, "dose", outlines))
    if page.predicted is not None:
        title = f"predicted dose ({plain(page.sides[1].name, 24)})"
        washes.append(Wash(title, page.predicted.dose_gy, "dose", page.outlined_and_not_predicted, predicted))
    if page.plan is not None and page.predicted is not None:
        washes.append(Wash("predicted - planned", page.difference_gy, "difference", outlines))
    top = max(float(side.dose.dose_gy.max()) for side in page.known if side.dose is not None) or 1.0
    figure = draw_planes(
        page.ct,
        page.grid,
        washes,
        centre,
        _box(page, centre),
        title=f"{plain(page.case.id)}   (research use only)",
        scales={"dose": top, "difference": top},
    )
    dots = " Dots: outlines as predicted." if predicted else ""
    caption = (
        f"{text}. Dose from {100 * _SHOWN_FROM:g} % of the highest on; difference: red too much, blue too little, from "
        "2 % of the highest dose on, colours end at 25 %. Outlines of the study along the edges of the voxels."
        f"{dots} The cross is the point; patient's right on the left."
    )
    alt = f"Axial, coronal and sagittal plane with dose over CT: {', '.join(wash.title for wash in washes)}. {text}."
    return Figure(alt=alt, caption=caption, data=png(figure, _DPI))


def _box(page: DosePage, centre: Sequence[int]) -> tuple[slice, ...]:
    dose = page.known[0].dose
    values = dose.dose_gy if dose else np.zeros(page.grid.shape)
    box = box_around(values >= _SHOWN_FROM * max(float(values.max()), 1e-6))
    return tuple(slice(min(side.start, at), max(side.stop, at + 1)) for side, at in zip(box, centre, strict=True))


def band_blocks(page: DosePage) -> list[Block]:
    """Signed error over the mask, by band of planned dose and where the dose falls steeply.

    Raises:
        CaseError: one of the doses is not there.
    """
    plan, predicted = page.pair()
    reference, what = page.reference_gy
    rows = signed_error_rows(
        page.case.id, plan.dose_gy, predicted.dose_gy, page.counted, page.grid.spacing_mm, reference
    )
    found = {row.metric: row for row in rows}
    endings = [row.metric.removeprefix("signed_error") for row in rows if row.metric.startswith("signed_error")]
    table: list[list[Cell | str]] = []
    bars = []
    for ending in endings:
        signed, over, under, share = (
            found[f"{name}{ending}"].value for name in ("signed_error", "overdose", "underdose", "voxels_share")
        )
        label = {"": "all", "_gradient": "gradient"}.get(ending, ending.strip("_").replace("%up", " % up"))
        label = label.replace("%", " %").replace("  ", " ")
        values = [number_cell(signed, signed=True), number_cell(over), number_cell(under), number_cell(share, 1)]
        table.append([label, *values])
        bars.append((label, over, under, signed))
    steep = f"planned dose changes by {STEEP_PERCENT_PER_MM:g} % of the reference per mm or more"
    region = "the possible-dose mask" if page.case.has("mask_dose") else "all voxels with a known dose"
    caption = (
        f"Predicted ({page.sides[1].name}) minus planned in {region}, by planned dose in % of {reference:g} Gy "
        f"({what}); gradient: {steep}. Overdose and underdose are means over all voxels of the region; their "
        "difference is the signed error."
    )
    worst = max((bar for bar in bars if not math.isnan(bar[3])), key=lambda bar: abs(bar[3]), default=None)
    alt = "Bars of mean over- and underdose by band of planned dose."
    if worst:
        alt += f" Largest signed error {told(worst[3], signed=True)} Gy in: {worst[0]}."
    told_by = (
        f"Mean of what is too high and of what is too low where the planned dose lies within so many % of "
        f"{reference:g} Gy ({what}), and where it falls steeply; the diamond is their sum, the signed error."
    )
    heads = ["planned dose", "signed error, Gy", "overdose, Gy", "underdose, Gy", "voxels, % of all these"]
    figure = Figure(alt=alt, caption=told_by, data=band_plot(bars), line_art=True)
    return [figure, Table(caption, heads, table)]


def gamma_of(page: DosePage) -> Gamma:
    """Gamma of the predicted dose against the plan.

    Raises:
        CaseError: one of the doses is not there.
        UsageError: pymedphys is not installed.
    """
    plan, predicted = page.pair()
    mask = page.counted if page.case.has("mask_dose") else None
    return gamma_index(plan.dose_gy, page.grid, predicted.dose_gy, page.grid, GAMMA_OPTIONS, mask=mask)


def gamma_blocks(page: DosePage, gamma: Gamma) -> list[Block]:
    """Pass rate, map and every parameter."""
    options, values = gamma.options, gamma.values
    if not gamma.evaluated.size:
        raise CaseError("No voxel has a gamma: none lies above the cutoff.")
    worst = np.where(values >= 0, values, -1.0)
    # Of the many voxels with the highest gamma the one whose dose is farthest off.
    worst = np.where(worst >= worst.max(), np.abs(page.difference_gy), -1.0)
    centre = tuple(int(index) for index in np.unravel_index(int(worst.argmax()), worst.shape))
    shown = np.where(values >= 0, values, np.nan)
    figure = draw_planes(
        page.ct,
        page.grid,
        [Wash("gamma", shown, "gamma", {}, {"gamma above 1": values > 1})],
        centre,
        _box(page, centre),
        title=f"{plain(page.case.id)}   gamma   (research use only)",
        scales={"gamma": 1.0},
        rows_are_planes=False,
    )
    rate = f"{gamma.pass_percent:.1f} %"
    text = f"{rate} of {gamma.evaluated.size} voxels pass (gamma of 1 or less)"
    caption = (
        f"Gamma on three planes through the worst voxel, {_place(page, centre)}: blue passes, red fails, dots mark the "
        f"edge of what fails; {options.max_gamma:g} stands for {options.max_gamma:g} or more."
    )
    local = "each voxel's own planned dose" if options.local else f"{options.normalisation_gy:.2f} Gy (global)"
    criteria = (
        f"{page.sides[1].name}: {text}: {options.dose_percent:g} % of {local}, {options.distance_mm:g} mm, where "
        f"{options.cutoff_percent:g} % or more is planned. The plan is the reference."
    )
    values_of: list[list[Cell | str]] = [
        [row.metric.replace("_", " "), number_cell(row.value, 0 if row.unit == "voxels" else 2), row.unit]
        for row in gamma_rows(page.case.id, gamma)
    ]
    parameters: list[list[Cell | str]] = [
        [name, str(value)] for name, value in (asdict(options) | {"pymedphys": gamma.version}).items()
    ]
    told_by = (
        "Every parameter. Finer steps (interp_fraction) can only find lower gammas: the pass rate is rather too low."
    )
    return [
        Text(criteria),
        Figure(alt=f"Gamma map. {text}.", caption=caption, data=png(figure, _DPI)),
        Table(
            f"Gamma of the voxels that were evaluated. {options.max_gamma:g} and more count as {options.max_gamma:g}: "
            "mean and max are rather too low, the pass rate is not touched.",
            ["measure", "value", "unit"],
            values_of,
        ),
        Table(told_by, ["parameter", "value"], parameters),
    ]
