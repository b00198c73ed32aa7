"""Pictures of image-level scores: ROC curves with their intervals, confusion matrix, calibration.

Each tells its content without colour: one curve to an axis, numbers in the cells. What it shows is written into the
PNG's `Description` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.files import atomic_path, safe_name
from mtl_med.metrics.bootstrap import LEVEL, bootstrap, drawn_together, group_draws
from mtl_med.metrics.calibration import called
from mtl_med.metrics.classification import confusion_matrix, roc_curve, sensitivity_at
from mtl_med.metrics.image_rows import Images, images_of
from mtl_med.metrics.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawn", "draw_figures", "write_figures"]

_LINE, _MARK = "#0072B2", "#D55E00"  # of Okabe and Ito's palette: apart in grey and for every kind of colour vision
_RATES = np.linspace(0, 1, 101)
_BINS = 10
_COLUMNS = 4
_DARK = 0.55  # share of a row above which its cell needs light letters

Scores = Mapping[tuple[str, str], float]
"""(class or "", metric) -> score over all images."""


Shown = Callable[[str], str]
"""Gives a name as a figure should show it."""


@dataclass(frozen=True)
class Drawn:
    """A picture of the scores of one task.

    Args:
        task: its name.
        name: "roc", "confusion" or "calibration".
        figure: as matplotlib has it.
        description: what it shows, in words and numbers.
    """

    task: str
    name: str
    figure: Figure
    description: str


def _without_formulas(name: str) -> str:
    return name.replace("$", r"\$")


def draw_figures(rows: Sequence[Row], groups: Mapping[str, str], shown: Shown = _without_formulas) -> Iterator[Drawn]:
    """Draw three pictures for each image-level task.

    Args:
        rows: of the cases, and those over all of them, as `metrics.image_rows` writes them.
        groups: case -> lesion or patient, which the intervals draw as a whole.
        shown: makes names fit for a figure.
    """
    for task, images in images_of(rows).items():
        told = {(row.structure, row.metric): row.value for row in rows if row.task == task and not row.case}
        drawn = drawn_together(images.cases, groups)
        for name, draw in (("roc", _roc), ("confusion", _confusion), ("calibration", _calibration)):
            yield Drawn(task, name, *draw(images, told, drawn, shown))


def write_figures(rows: Sequence[Row], groups: Mapping[str, str], folder: str | Path) -> list[Path]:
    """Write the pictures of `draw_figures`.

    Args:
        rows, groups: as of `draw_figures`.
        folder: gets `<task>_roc.png`, `<task>_confusion.png` and `<task>_calibration.png`.

    Returns:
        The files; none where no image-level task was scored.

    Raises:
        OutputError: a file cannot be written.
    """
    written = []
    for item in draw_figures(rows, groups):
        path = Path(folder) / f"{safe_name(item.task)}_{item.name}.png"
        _save(item.figure, item.description, path)
        written.append(path)
    return written


def _save(figure: Figure, description: str, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Description": description, "Software": None})


def _new(rows: int, columns: int, width: float, height: float) -> tuple[Figure, NDArray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _roc(images: Images, scores: Scores, drawn: Sequence[str], shown: Shown = _without_formulas) -> tuple[Figure, str]:
    """One axis per class, against the rest; of two classes only the second."""
    names = images.class_names
    curves = [1] if len(names) == 2 else list(range(len(names)))
    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure, axes = _new(rows, columns, *((4.8, 4.9) if len(curves) == 1 else (2.9 * columns, 3.1 * rows + 0.5)))
    told = []
    for axis, index in zip(axes.flat, curves, strict=False):
        heading = f"AUC {_with_interval(scores, names[index], 'auc')}"
        told.append(f"{names[index]}: {heading}")
        count = int((images.truth == index).sum())
        axis.set_title(f"{shown(names[index])} ({count} of {len(images.cases)})\n{heading}", fontsize=9)
        _roc_axis(axis, images, index, drawn, scores)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    figure.supxlabel("1 - specificity", fontsize=10)
    figure.supylabel("sensitivity", fontsize=10)
    figure.suptitle(f"{shown(images.task)}: ROC with 95 % band, and the operating point", fontsize=11)
    return figure, f"ROC curves of task {images.task} with 95 % intervals. {'; '.join(told)}."


def _roc_axis(axis: Axes, images: Images, index: int, drawn: Sequence[str], scores: Scores) -> None:
    positive, score = images.truth == index, images.probabilities[:, index]
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    if 0 < positive.sum() < positive.size:
        parts = [sensitivity_at(_RATES, positive, score, weights) for weights in group_draws(drawn)]
        heights = np.concatenate(parts, axis=1)
        heights = heights[:, np.isfinite(heights).all(axis=0)]
        if heights.size and len(set(drawn)) > 1:
            low, high = np.quantile(heights, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
            axis.fill_between(_RATES, low, high, color=_LINE, alpha=0.22, linewidth=0)
        across, up, _ = roc_curve(positive, score)
        axis.plot(across, up, color=_LINE, linewidth=1.6)
        name = images.class_names[index]
        point = 1 - scores[name, "specificity"], scores[name, "sensitivity"]
        axis.plot(*point, marker="o", markersize=7, color=_MARK, markeredgecolor="white", clip_on=False)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.tick_params(labelsize=8)


def _confusion(
    images: Images, scores: Scores, drawn: Sequence[str], shown: Shown = _without_formulas
) -> tuple[Figure, str]:
    names = images.class_names
    matrix = confusion_matrix(images.truth, images.decided, len(names))
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    size = 1.8 + 0.72 * len(names)
    figure, axes = _new(1, 1, size + 0.6, size)
    axis = axes[0, 0]
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        share = shares[row, column]
        text = f"{matrix[row, column]:.0f}\n{100 * share:.0f} %" if matrix[row, column] else "0"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > _DARK else "0.15")
    ticks = range(len(names))
    turned = {"rotation": 40, "ha": "right"} if max(map(len, names)) > 5 else {}
    axis.set_xticks(ticks, [shown(name) for name in names], **turned)
    axis.set_yticks(ticks, [f"{shown(name)} ({total:.0f})" for name, total in zip(names, totals[:, 0], strict=True)])
    axis.set_xlabel("decided")
    axis.set_ylabel("true (images)")
    axis.set_title(f"{shown(images.task)}: confusion matrix\ncount, and share of the true class", fontsize=10)
    right = "; ".join(f"{name} {100 * shares[i, i]:.0f} %" for i, name in enumerate(names) if totals[i, 0])
    return figure, f"Confusion matrix of task {images.task}. Right of each true class: {right}."


def _calibration(
    images: Images, scores: Scores, drawn: Sequence[str], shown: Shown = _without_formulas
) -> tuple[Figure, str]:
    """How often it was so against how probable it was called, and how many images were called so."""
    binary = len(images.class_names) == 2
    most = "probability of the most probable class"
    of = f"probability of '{images.class_names[1]}'" if binary else most
    chance, so, index = called(images.truth, images.probabilities, _BINS)
    figure, axes = _new(2, 1, 4.8, 5.6)
    top, bottom = axes[:, 0]
    top.get_gridspec().set_height_ratios([4, 1])
    _calibration_axis(top, chance, so, index, drawn)
    counts, edges = np.histogram(chance, bins=_BINS, range=(0, 1))
    bottom.bar(edges[:-1], counts, width=0.9 / _BINS, align="edge", color="0.55")
    bottom.set(xlim=(0, 1), xlabel=f"probability of '{shown(images.class_names[1])}'" if binary else most)
    bottom.set_ylabel("images")
    top.set_ylabel("share for which it was so" if binary else "share that was right")
    error = f"ECE {_with_interval(scores, '', 'ece')}"
    top.set_title(f"{shown(images.task)}: calibration, {error}", fontsize=10)
    return figure, f"Calibration of task {images.task}: {of} against how often it was so; {error}."


def _calibration_axis(axis: Axes, chance: NDArray, so: NDArray, index: NDArray, drawn: Sequence[str]) -> None:
    used = np.unique(index)
    one_hot = np.equal.outer(used, index).astype(np.float64)
    mean, share = (one_hot @ values / one_hot.sum(axis=1) for values in (chance, so))
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")

    def shares(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):
            values = ((one_hot * so) @ weights) / (one_hot @ weights)
        return {str(place): values[place] for place in range(len(used))}

    intervals = bootstrap(shares, drawn)
    ends = np.array([[intervals[str(place)].low, intervals[str(place)].high] for place in range(len(used))])
    reach = np.maximum(0, [share - ends[:, 0], ends[:, 1] - share]) if len(set(drawn)) > 1 else None
    axis.errorbar(mean, share, reach, color=_LINE, marker="o", markersize=5, linewidth=1.4, capsize=2.5)
    axis.set(xlim=(0, 1), ylim=(-0.02, 1.02), xticklabels=[])


def _with_interval(scores: Scores, structure: str, metric: str) -> str:
    value, low, high = (scores.get((structure, f"{metric}{end}"), math.nan) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
