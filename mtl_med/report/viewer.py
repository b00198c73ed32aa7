"""The viewer of a case: NiiVue in the page, with everything it shows, offline.

A page that was opened from disk may neither fetch its neighbours nor load modules. The volumes therefore lie in the
page as data, and NiiVue is a classic script (see `mtl_med.report.niivue`). Nothing starts before a button is pressed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, MtlMedError, UsageError
from mtl_med.geometry import Grid, require_same_grid
from mtl_med.html import visible
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import has_dose, predicted_names, read_dose, read_structures
from mtl_med.manifest import Case
from mtl_med.report.case_page import CaseInputs, Markup, Script, Section, Text
from mtl_med.report.niivue import find_library
from mtl_med.report.page import render
from mtl_med.report.picture_viewer import picture_section
from mtl_med.report.viewer_volumes import Contents, Excerpt, Outlined, encode, excerpt

__all__ = ["viewer_section"]

TEMPLATES = Path(__file__).resolve().parent / "templates"
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def viewer_section(inputs: CaseInputs) -> Section | None:
    """The viewer of a case; None where it has no image, or no viewer was asked for.

    Args:
        inputs: of the case; its first prediction is shown.

    Raises:
        MtlMedError: the case's image cannot be read.
    """
    case = inputs.case
    if not inputs.options.viewer:
        return None
    if case.grid is None or not case.has("ct"):
        return picture_section(inputs)
    try:
        library = find_library()
    except UsageError as error:
        return Section("viewer", "Viewer", (Text(f"There is no viewer here, only the pictures: {error}", "warning"),))
    prediction = inputs.predictions[0] if inputs.predictions else None
    gaps: list[str] = []
    contents = _contents(case, prediction.folder if prediction else None, gaps)
    part = excerpt(contents)
    fields = encode(contents, part)
    for item in fields["structures"]:
        item["name"] = visible(item["name"])
    html = render(
        "viewer.html.j2",
        case=case.id,
        prediction=prediction.name if prediction else "",
        fields=fields,
        described=_described(part, contents.grid, fields),
        gaps=gaps + _unknown(fields),
        niivue=library.version,
        style=(TEMPLATES / "viewer.css").read_text(encoding="utf-8"),
    )
    scripts = (
        Script("niivue.js", library.script, place="report"),
        Script("viewer.js", (TEMPLATES / "viewer.js").read_text(encoding="utf-8"), place="report"),
        Script("volumes", _json(fields), kind="application/json"),
    )
    return Section("viewer", "Viewer", (Markup(html),), scripts)


def _json(fields: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in, whatever names it holds."""
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).translate(_ESCAPED)


def _contents(case: Case, folder: Path | None, gaps: list[str]) -> Contents:
    """What there is to show; into `gaps` goes a sentence about each part that cannot be shown."""
    ct, grid = read_nifti(case.path("ct"))
    doses: dict[str, NDArray] = {}
    true: dict[str, NDArray] = {}
    predicted: dict[str, NDArray] = {}
    if case.has("dose"):
        with _gap(gaps, "The planned dose"):
            doses["planned"] = _volume(case.path("dose"), grid)
    if folder and has_dose(folder):
        with _gap(gaps, "The predicted dose"):
            doses["predicted"] = _predicted_dose(case, folder, grid)
    for name, item in case.structures.items():
        if item.status != "not_contoured":
            with _gap(gaps, f"Structure {name}"):
                true[name] = _volume(case.path(f"structures/{name}"), grid) > 0
    if folder:
        with _gap(gaps, "The predicted structures"):
            predicted = _predicted_masks(folder, grid)
    kinds = {name: item.kind for name, item in case.structures.items()}
    names = [name for name in dict.fromkeys([*kinds, *predicted]) if name in true or name in predicted]
    structures = (Outlined(name, kinds.get(name, "other"), true.get(name), predicted.get(name)) for name in names)
    return Contents(grid, ct, doses, tuple(structures))


@contextmanager
def _gap(gaps: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except MtlMedError as error:
        gaps.append(f"{what} is not shown: {error}")


def _volume(path: Path, grid: Grid) -> NDArray:
    values, found = read_nifti(path)
    require_same_grid(found, grid, where=str(path))
    return values


def _predicted_dose(case: Case, folder: Path, grid: Grid) -> NDArray[np.float32]:
    found = read_dose(folder, case.prescription_gy)
    if found is None:
        raise CaseError("there is no predicted dose", where=folder)
    require_same_grid(found[1], grid, where=str(folder))
    return found[0]


def _predicted_masks(folder: Path, grid: Grid) -> dict[str, NDArray]:
    if not predicted_names(folder):
        return {}
    found = read_structures(folder)
    if found.grid is not None:
        require_same_grid(found.grid, grid, where=str(folder))
    return found.masks


def _described(part: Excerpt, grid: Grid, fields: dict[str, Any]) -> str:
    """What part of the case is shown, and to which step its values are those of the files."""
    size, whole = (" x ".join(map(str, shape)) for shape in (part.grid.shape, grid.shape))
    told = f"{size} voxels around doses and structures, of {whole}."
    if part.step != (1, 1, 1):
        told += f" Every {' x '.join(map(str, part.step))} voxel is kept (right, front, head), nothing is averaged."
    step = next((item["step"] for item in fields["doses"].values()), None)
    if step is not None:
        told += f" CT in whole HU; doses in steps of {step:g} Gy; the difference is predicted minus planned, of these."
    return told


def _unknown(fields: dict[str, Any]) -> list[str]:
    volumes = {"CT": fields["ct"]} | {f"{name} dose": item for name, item in fields["doses"].items()}
    return [
        f"In {item['gaps']} voxels the {name} is no number that can be shown; they read 'no value'."
        for name, item in volumes.items()
        if item["gaps"]
    ]
