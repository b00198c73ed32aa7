"""The classes of one image: the image with its outlines, how probable each class was called, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError, MtlMedError
from mtl_med.io.classification_table import CLASSIFICATION_FILE, read_classification
from mtl_med.io.nifti import read_nifti
from mtl_med.io.picture import read_picture, read_picture_mask
from mtl_med.io.results import predicted_names, read_structures
from mtl_med.prep.body import body_mask
from mtl_med.report.case_page import Block, CaseInputs, CasePrediction, Cell, Figure, Part, Section, Table, Text
from mtl_med.report.figures.classes import outlined_picture, probability_bars, three_planes
from mtl_med.report.numbers import number_cell

__all__ = ["part"]

_ATTENTION = "attention_"  # and the task: the picture that inference leaves where it is asked for attention


@dataclass(frozen=True)
class _Called:
    """What one prediction says of one task.

    Args:
        decided: name of the class.
        probabilities: class -> probability, in the study's order.
    """

    decided: str
    probabilities: Mapping[str, float]


def part(inputs: CaseInputs) -> Part:
    """The image and the classes; nothing of a case without either."""
    blocks = {task: _task_blocks(inputs, task, names) for task, names in inputs.classes.items()}
    told = {task: found for task, found in blocks.items() if found}
    if not (told or inputs.case.has("image")):
        return Part()
    sections = [Section("image", "Image", tuple(_image_blocks(inputs)))]
    sections += [
        Section(f"classes-{number}", f"Classes: {task}", tuple(found))
        for number, (task, found) in enumerate(told.items(), start=1)
    ]
    return Part(tuple(sections), warnings=_wrong(inputs))


def _task_blocks(inputs: CaseInputs, task: str, names: Sequence[str]) -> list[Block]:
    found = {item.name: called for item in inputs.predictions if (called := _called(item, inputs.case.id, task, names))}
    if not found:
        return []
    true = inputs.case.class_name(task, names)
    probabilities = {name: [item.probabilities[key] for key in names] for name, item in found.items()}
    decided = {name: item.decided for name, item in found.items()}
    sentences = [_sentence(name if len(found) > 1 else "", item, true) for name, item in found.items()]
    figure = Figure(
        alt=f"Probabilities of the classes of {task}. {' '.join(sentences)}",
        caption="How probable each class was called; the decision and the true class are named beside the bars.",
        data=probability_bars(names, probabilities, decided, true),
        line_art=True,
        width=720,
    )
    rows: list[list[Cell | str]] = [
        [f"{key} (true)" if key == true else key, *(number_cell(item.probabilities[key], 4) for item in found.values())]
        for key in names
    ]
    table = Table("The probabilities as numbers", ["class", *found], rows, folded=True)
    first = next(iter(found.values()))
    mark = "" if not true or first.decided == true else "bad"
    blocks: list[Block] = [Text(" ".join(sentences), mark), figure, table]
    for item in inputs.predictions:
        path = item.folder / f"{_ATTENTION}{task}.png"
        if path.is_file():
            blocks.append(_overlay(path, task, item.name))
    return blocks


def _called(item: CasePrediction, case: str, task: str, names: Sequence[str]) -> _Called | None:
    """From the scores; of an image without a label, which has none, from the table of predictions."""
    own = [row for row in item.rows if row.task == task]
    known = {row.structure: row.value for row in own if row.metric == "probability"}
    decided = next((row.structure for row in own if row.metric == "probability_of_decision"), "")
    if decided and set(known) == set(names):
        return _Called(decided, known)
    table = item.folder.parent / CLASSIFICATION_FILE
    if not table.is_file():
        return None
    classes, cases = read_classification(table, {}).get(task, ((), {}))
    if case not in cases or set(classes) != set(names):
        return None
    decided, values = cases[case]
    return _Called(decided, dict(zip(classes, map(float, values), strict=True)))


def _sentence(who: str, item: _Called, true: str) -> str:
    most = max(item.probabilities, key=lambda name: item.probabilities[name])
    chance = f"{item.probabilities[item.decided]:.3f}"
    text = f"{f'{who}: decided' if who else 'Decided'} {item.decided}, called {chance} probable; "
    text += "the image has no label." if not true else "right." if item.decided == true else (
        f"wrong, it is {true}, called {item.probabilities[true]:.3f} probable."
    )  # fmt: skip
    if most != item.decided:
        why = (
            f"the operating point decides {item.decided} below one half"
            if len(item.probabilities) == 2
            else "the operating point favours rare classes"
        )
        text += f" More probable was {most} ({item.probabilities[most]:.3f}): {why}."
    return text


def _wrong(inputs: CaseInputs) -> tuple[str, ...]:
    """A warning for each wrong decision of the predictions in question."""
    rows = inputs.predictions[0].rows if inputs.predictions else ()
    decided = {row.task: row for row in rows if row.metric == "probability_of_decision"}
    return tuple(
        f"{row.task}: decided {decided[row.task].structure}, called {decided[row.task].value:.2f} probable, "
        f"but it is {row.structure}."
        for row in rows
        if row.metric == "correct" and row.value == 0 and row.task in decided
    )


def _image_blocks(inputs: CaseInputs) -> list[Block]:
    case = inputs.case
    if not case.has("image"):
        if not case.has("ct"):
            return [Text("The study holds no image of this case.", "none")]
        volume, grid = read_nifti(case.path("ct"), np.float32)
        data = three_planes(volume, grid, body_mask(volume))
        alt = f"Axial, coronal and sagittal plane through the middle of the body of {case.id}."
        return [
            Figure(alt=alt, caption="Planes through the middle of the body. Patient's right is on the left.", data=data)
        ]
    picture = read_picture(case.path("image"))
    blocks: list[Block] = []
    true: dict[str, NDArray] = {}
    for name, item in case.structures.items():
        if item.status == "contoured":
            try:
                true[name] = _fitting(read_picture_mask(case.path(f"structures/{name}")), picture, name)
            except MtlMedError as error:
                blocks.append(Text(f"The true outline of {name} is not shown: {error}", "warning"))
    predicted: dict[str, dict[str, NDArray]] = {}
    for prediction in inputs.predictions:
        try:
            masks = read_structures(prediction.folder).masks if predicted_names(prediction.folder) else {}
            # Axis 0 of the volume of one slice runs to the right, axis 1 down.
            predicted[prediction.name] = {
                name: _fitting(mask[:, :, 0].T, picture, name)
                for name, mask in masks.items()
                if name in case.structures
            }
        except MtlMedError as error:
            blocks.append(Text(f"The outlines of {prediction.name} are not shown: {error}", "warning"))
    shown = {name: masks for name, masks in predicted.items() if masks}
    size = f"{picture.shape[1]} x {picture.shape[0]} pixels"
    found = _listed(true, "true"), _listed(next(iter(shown.values()), {}), "predicted")
    alt = f"Photograph {case.id}, {size}, with {' and '.join(found)}."
    caption = f"{size}. True outlines are solid, predicted ones dashed in black and white."
    return [Figure(alt=alt, caption=caption, data=outlined_picture(picture, true, shown), width=720), *blocks]


def _fitting(mask: NDArray, picture: NDArray, name: str) -> NDArray:
    if mask.shape != picture.shape[:2]:
        found, expected = (f"{shape[1]} x {shape[0]}" for shape in (mask.shape, picture.shape))
        raise GeometryError(
            f"the mask of {name} has {found} pixels, the image {expected}", fix="Predict this case again"
        )
    return mask


def _listed(masks: Mapping[str, NDArray], kind: str) -> str:
    shares = [f"{name} {100 * float(np.mean(mask)):.1f} % of it" for name, mask in masks.items()]
    return f"{kind} outlines ({', '.join(shares)})" if shares else f"no {kind} outline"


def _overlay(path: Path, task: str, who: str) -> Block:
    try:
        return Figure(
            alt=f"What task {task} of {who} attends to, as heat over the image.",
            caption=f"Attention of task {task} ({who}): its mask in the last stage, mean over the channels. It is not "
            "proof of what the decision hangs on.",
            data=path.read_bytes(),
            width=760,
        )
    except (MtlMedError, OSError) as error:
        return Text(f"Left out, the attention of {task}: {error}", "warning")
