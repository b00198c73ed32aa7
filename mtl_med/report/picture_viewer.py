"""The viewer of a photograph: outlines and attention maps over it that are turned on and off; needs no package."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError, MtlMedError
from mtl_med.html import data_address
from mtl_med.io.colours import colour
from mtl_med.io.nifti import read_nifti
from mtl_med.io.picture import read_picture, read_picture_mask
from mtl_med.io.results import predicted_names, read_structures
from mtl_med.manifest import Case
from mtl_med.report.case_page import CaseInputs, Markup, Script, Section
from mtl_med.report.explained import FOLDER
from mtl_med.report.page import TEMPLATES, render

__all__ = ["Layer", "picture_section"]

_LONGEST = 640  # pixels
_MOST_MAPS = 12
_DASH = 5  # pixels
_HEAT = "turbo"


@dataclass(frozen=True)
class Layer:
    """A picture to lay over the photograph.

    Args:
        name: as listed.
        address: data address of a PNG with transparency.
        shown: at first.
    """

    name: str
    address: str
    shown: bool


def picture_section(inputs: CaseInputs) -> Section | None:
    """Photograph, outlines (true solid, predicted dashed) and attention maps of the first prediction; None without.

    Raises:
        CaseError: the photograph cannot be read.
    """
    case = inputs.case
    if not case.has("image"):
        return None
    picture = read_picture(case.path("image"))
    step = max(1, -(-max(picture.shape[:2]) // _LONGEST))
    small = picture[::step, ::step]
    gaps: list[str] = []
    layers = _true(case, picture.shape[:2], step, gaps)
    prediction = inputs.predictions[0] if inputs.predictions else None
    if prediction:
        layers += _predicted(prediction.folder, picture.shape[:2], step, gaps)
        layers += _maps(prediction.folder / FOLDER, small.shape[:2], gaps)
    if not layers and not gaps:
        return None
    html = render(
        "picture_viewer.html.j2",
        case=case.id,
        prediction=prediction.name if prediction else "",
        picture=data_address("image/jpeg", _jpeg(small)),
        size=small.shape[:2],
        layers=layers,
        gaps=gaps,
        style=(TEMPLATES / "viewer.css").read_text(encoding="utf-8"),
    )
    script = Script("pictures.js", (TEMPLATES / "pictures.js").read_text(encoding="utf-8"), place="report")
    return Section("viewer", "Viewer", (Markup(html),), (script,))


def _true(case: Case, shape: tuple[int, int], step: int, gaps: list[str]) -> list[Layer]:
    layers = []
    for name, item in case.structures.items():
        if item.status == "contoured":
            try:
                mask = read_picture_mask(case.path(f"structures/{name}"))
                layers.append(Layer(f"{name}, true outline", _outline(mask, name, shape, step, dashed=False), True))
            except MtlMedError as error:
                gaps.append(f"Structure {name} is not shown: {error}")
    return layers


def _predicted(folder: Path, shape: tuple[int, int], step: int, gaps: list[str]) -> list[Layer]:
    try:
        masks = read_structures(folder).masks if predicted_names(folder) else {}
        return [
            Layer(f"{name}, predicted outline", _outline(mask[:, :, 0].T, name, shape, step, dashed=True), True)
            for name, mask in masks.items()
        ]
    except MtlMedError as error:
        gaps.append(f"The predicted structures are not shown: {error}")
        return []


def _maps(folder: Path, shape: tuple[int, int], gaps: list[str]) -> list[Layer]:
    layers = []
    for path in sorted(folder.glob("attention_*.nii.gz"))[:_MOST_MAPS]:
        try:
            values, _ = read_nifti(path, np.float32)
            name = path.name.removesuffix(".nii.gz").replace("_", " ")
            layers.append(Layer(name, _heat(values[:, :, 0].T, shape), False))
        except MtlMedError as error:
            gaps.append(f"{path.name} is not shown: {error}")
    return layers


def _outline(mask: NDArray, name: str, shape: tuple[int, int], step: int, *, dashed: bool) -> str:
    """The rim of a mask, two pixels wide, as a transparent PNG."""
    from scipy.ndimage import binary_dilation, binary_erosion

    if mask.shape != shape:
        raise GeometryError(f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the image {shape[1]} x {shape[0]}")
    small = np.asarray(mask, dtype=bool)[::step, ::step]
    rim = binary_dilation(small) & ~binary_erosion(small)
    if dashed:
        rows, columns = np.indices(rim.shape)
        rim &= (rows // _DASH + columns // _DASH) % 2 == 0
    pixels = np.zeros((*rim.shape, 4), dtype=np.uint8)
    pixels[rim] = (*colour(name), 255)
    return _png(pixels)


def _heat(values: NDArray, shape: tuple[int, int]) -> str:
    """A map in colours from its lowest to its highest value."""
    from matplotlib import colormaps

    known = np.isfinite(values)
    if not known.any():
        raise GeometryError("the map has no finite value")
    low, high = float(values[known].min()), float(values[known].max())
    share = np.where(known, (values - low) / (high - low if high > low else 1.0), 0.0)
    rows = np.arange(shape[0]) * values.shape[0] // shape[0]
    columns = np.arange(shape[1]) * values.shape[1] // shape[1]
    pixels = colormaps[_HEAT](share, bytes=True)
    pixels[~known] = 0
    return _png(pixels[np.ix_(rows, columns)])


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return data_address("image/png", stream.getvalue())


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=88)
    return stream.getvalue()
