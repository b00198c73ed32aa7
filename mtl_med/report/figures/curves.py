"""The course of a training: losses, weights and scores of each task, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtl_med.report.figures.drawing import LINES, PALETTE, new_figure, plain, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mtl_med.report.training_file import Training

__all__ = ["training_curves", "training_in_words"]

_COLUMNS = 3


@styled()
def training_curves(training: Training, best_epoch: float = math.nan) -> bytes:
    """Draw a panel each for the loss of every task, the tasks' weights, the scores, and the learning rate.

    Args:
        training: what to draw.
        best_epoch: the epoch of the weights that were kept, marked with a line; NaN where it is not known.

    Returns:
        SVG.
    """
    panels = _panels(training)
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(10.0, 2.5 * rows)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    epochs = training.curves["epoch"]
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for place, (name, values) in enumerate(lines.items()):
            _line(axis, epochs, values, place, name)
        axis.set_title(plain(title, 60), loc="left")
        axis.grid()
        if math.isfinite(best_epoch):
            axis.axvline(best_epoch, color="#667080", linewidth=0.9, linestyle=(0, (1, 2)))
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize=8, handlelength=2.6)
        axis.set_xlabel("epoch")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    return svg(figure)


def _panels(training: Training) -> dict[str, Mapping[str, Sequence[float]]]:
    panels: dict[str, Mapping[str, Sequence[float]]] = {
        f"loss of {task}": {task: values} for task, values in training.of("loss").items()
    }
    if training.of("weight"):
        panels["weight of the task's loss"] = training.of("weight")
    scores = dict(training.of("score"))
    if "score" in training.curves and len(scores) != 1:
        scores = {"mean": training.curves["score"], **scores}
    if scores:
        panels["score on the tune cases (1 is best)"] = scores
    if "learning_rate" in training.curves:
        panels["learning rate"] = {"learning rate": training.curves["learning_rate"]}
    return panels


def _line(axis: Axes, epochs: Sequence[float], values: Sequence[float], place: int, name: str) -> None:
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    if known:
        across, up = zip(*known, strict=True)
        marker = "o" if len(known) <= _FEW else ""
        style, colour = LINES[place % len(LINES)], PALETTE[place % len(PALETTE)]
        axis.plot(across, up, linestyle=style, color=colour, marker=marker, markersize=3, label=plain(name))


_FEW = 40  # points that are marked one by one


def training_in_words(training: Training) -> str:
    """First and last loss, last weight and highest score of every task."""
    told = []
    for task, values in training.of("loss").items():
        known = [value for value in values if math.isfinite(value)]
        if known:
            told.append(f"loss of {task} from {known[0]:.3g} to {known[-1]:.3g}")
    for task, values in training.of("weight").items():
        known = [value for value in values if math.isfinite(value)]
        if known:
            told.append(f"weight of {task} between {min(known):.3g} and {max(known):.3g}")
    for task, values in training.of("score").items():
        known = [value for value in values if math.isfinite(value)]
        if known:
            told.append(f"highest score of {task} {max(known):.3f}")
    return f"{len(training.curves['epoch'])} epochs: {'; '.join(told)}."
